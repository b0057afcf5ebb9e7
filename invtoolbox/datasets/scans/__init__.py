"""Readers of tomographic scans and their geometry."""
