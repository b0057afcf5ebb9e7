"""Readers and writers of images and volumes."""
