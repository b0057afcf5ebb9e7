"""Explicit priors of flow and deformation."""
