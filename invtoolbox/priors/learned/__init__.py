"""Explicit priors whose parameters are learned."""
