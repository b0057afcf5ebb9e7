"""Readers and writers of images and of volumes."""
