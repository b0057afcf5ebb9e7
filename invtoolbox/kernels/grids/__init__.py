"""Kernels on regular grids of pixels."""
