"""Checks of operators, priors, data terms and solvers against their contracts."""

from invtoolbox.testing.common import Finding, Report
from invtoolbox.testing.data_terms import check_data_term
from invtoolbox.testing.operators import check_operator
from invtoolbox.testing.posteriors import PosteriorCheck, check_posterior
from invtoolbox.testing.priors import check_prior
from invtoolbox.testing.solvers import check_solver

__all__ = [
    "Finding",
    "PosteriorCheck",
    "Report",
    "check_data_term",
    "check_operator",
    "check_posterior",
    "check_prior",
    "check_solver",
]
