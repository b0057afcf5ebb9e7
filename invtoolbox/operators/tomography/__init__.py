"""Operators of computed tomography, and their analytic inverses."""
