"""Foundations that every part of the package stands on: pytrees, settings, checks, interrupts, environment."""
