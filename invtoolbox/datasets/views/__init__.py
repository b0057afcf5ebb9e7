"""Readers of photographs with known cameras."""
