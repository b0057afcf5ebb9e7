"""A plug-in of pytest that puts models of `as_reconstructor` in the place of those of deepinv's own tests.

`tests/test_deepinv_models.py` runs deepinv's tests with it, ``pytest -p ours_in_deepinvs_tests``.
"""

from __future__ import annotations

from typing import Any

import deepinv
import pytest
import torch

import invtoolbox as it


def trained() -> Any:
    """Return a solver with parameters to learn; the operator is replaced by that of the physics."""
    problem = it.Problem(torch.zeros(1, 1, 8, 8), it.operators.Identity((1, 8, 8)))
    prior = it.priors.Tikhonov()
    network = it.unroll("gradient-descent", problem, 2, prior, regularization=0.01)
    return it.as_reconstructor(network)


def fixed() -> Any:
    """Return a solver without parameters to learn."""
    return it.as_reconstructor("tikhonov", "cg", 0.1, max_iterations=30)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Any:
    models = {"model": fixed, "dummy_model": trained}
    if fixturedef.argname not in models or "deepinv" not in str(request.node.path):
        return None
    model = models[fixturedef.argname]()
    assert isinstance(model, deepinv.models.Reconstructor)
    fixturedef.cached_result = (model, fixturedef.cache_key(request), None)
    return model
