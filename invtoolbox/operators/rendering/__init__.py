"""Renderers of voxels and Gaussians as forward operators."""
