"""Seismic surveys: full-waveform inversion."""
