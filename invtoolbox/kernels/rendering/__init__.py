"""Rasterization of Gaussians, rendering of voxels, and ray casting."""
