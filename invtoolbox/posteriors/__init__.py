"""Probability distributions over images, and conformal intervals."""
