"""Surfaces from normal maps."""
