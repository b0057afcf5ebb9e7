"""Kernels on point sets: nearest neighbours, distance fields, rotations, sparse products."""
