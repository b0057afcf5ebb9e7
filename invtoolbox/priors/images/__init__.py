"""Explicit priors of images and volumes."""
