"""Alignment of the depths of a video."""
