"""Readers of tomographic scans and of their geometry."""
