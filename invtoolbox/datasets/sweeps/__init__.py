"""Readers of lidar sweeps, point clouds, poses and flow."""
