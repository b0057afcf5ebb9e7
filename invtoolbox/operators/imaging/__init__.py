"""Operators of photography, microscopy and compressed sensing."""
