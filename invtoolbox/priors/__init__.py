"""Priors: what is known about the image before it is measured."""

from invtoolbox.priors.base import ExplicitPrior, ImplicitPrior, Prior, PriorSum
from invtoolbox.priors.implicit.coordinate_network import CoordinateNetwork

__all__ = ["CoordinateNetwork", "ExplicitPrior", "ImplicitPrior", "Prior", "PriorSum"]
