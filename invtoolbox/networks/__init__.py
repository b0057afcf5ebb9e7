"""Torch modules that priors, solvers and training share."""
