"""Transforms applied to images, labels, points and meshes."""
