"""Priors: what is known about the image before it is measured."""

from invtoolbox.priors.base import ExplicitPrior, ImplicitPrior, Prior, PriorSum

__all__ = ["ExplicitPrior", "ImplicitPrior", "Prior", "PriorSum"]
