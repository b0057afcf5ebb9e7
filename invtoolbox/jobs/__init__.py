"""Runs of scene files of every kind, and studies over many items."""
