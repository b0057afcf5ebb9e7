"""Foundations of every part: pytrees, settings, checks, interrupts, environment."""
