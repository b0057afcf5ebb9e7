"""Compute kernels: one Warp source each, which runs on the CPU and on CUDA."""
