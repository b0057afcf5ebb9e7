"""Explicit priors of voxels, depths and rendered views."""
