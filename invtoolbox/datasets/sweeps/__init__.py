"""Readers and writers of lidar sweeps, point clouds, poses and flow."""
