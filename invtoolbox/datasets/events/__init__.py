"""Readers of recordings of event cameras."""
