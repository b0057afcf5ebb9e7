"""Projectors and backprojectors of images and volumes."""
