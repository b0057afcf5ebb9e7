"""Operators of magnetic resonance imaging, and Fourier transforms."""
