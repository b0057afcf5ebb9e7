"""Kernels on point sets: nearest neighbours, rotations, sparse products."""
