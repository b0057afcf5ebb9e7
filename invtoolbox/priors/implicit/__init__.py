"""Implicit priors: x is decoded from parameters that a solver finds."""
