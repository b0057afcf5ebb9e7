"""Reconstructions as models of deepinv: `as_reconstructor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.errors import naming_arguments
from invtoolbox.solvers.base import Solver
from invtoolbox.unrolling.network import SolverNetwork


@naming_arguments
def as_reconstructor(
    prior: Any,
    solver: Solver | str | None = None,
    regularization: Any = "auto",
    *,
    data_term: DataTerm | None = None,
    domain_shape: Sequence[int] | None = None,
    max_iterations: int | None = None,
    tolerance: float | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    differentiate: str | None = None,
    automatic: str | None = None,
) -> Any:
    """Convert a prior and a solver to a ``deepinv.models.Reconstructor``, ``model(y, physics)``.

    The result is the ``x`` of `solve` for the operator ``as_operator(physics)`` and the data term
    of ``physics.noise_model``: least squares with its ``sigma`` for Gaussian noise, the likelihood
    of counts for Poisson noise. Every item of a batch has its own noise level, weight and stopping
    test. ``model.solve(y, physics)`` returns the whole `Solution`. Nothing is learned, and train
    and evaluation mode are the same. deepinv's trainer, ``deepinv.test`` and loops over models take
    it like one of theirs; it is also an initial guess of their solvers, ``init=model``.

    Args:
        prior: a prior, a name, a list as in `solve`, None, or anything that `as_prior` takes (a
            prior or denoiser of deepinv, a function); ``"auto"`` compares candidates, as in
            `reconstruct`. A network of `unroll` or `equilibrium` becomes a model that trains: its
            operator is replaced by the operator of the physics in every call, and the other
            arguments keep their defaults.
        solver: solver or its name, as in `solve`.
        regularization: weight of the prior, as in `solve`.
        data_term: misfit of the measurements, in place of that of ``physics.noise_model``.
        domain_shape: shape ``(channel, *space)`` of the images, for a physics that does not define
            it and is not linear; by default that of ``physics.A_adjoint(y)``.
        max_iterations: largest number of iterations of every call.
        tolerance: bound on the certificate that the solver states.
        time_limit: seconds after which a call ends.
        seed: seed of random draws; every call has the same draws.
        differentiate: ``"implicit"`` lets gradients of a loss reach the measurements, as in
            `solve`.
        automatic: steps that are decided automatically, as in `reconstruct`. By default ``"none"``: the
            prior that was named is measured, and for ``"auto"`` ``"+prior-choice"``.

    Returns:
        The model.

    Raises:
        InputError: if the prior is none of these; in a call, if solver and problem do not fit, or
            the noise has no likelihood here.

    >>> import deepinv, torch, invtoolbox as it
    >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
    >>> model = it.as_reconstructor("tv", regularization=10.0)
    >>> model(torch.ones(2, 1, 8, 8), physics).mean().round(decimals=3)
    tensor(1.)
    """
    from invtoolbox.jobs.images.deepinv_reconstructor import (
        NetworkReconstructor,
        SolverReconstructor,
    )

    if isinstance(prior, SolverNetwork):
        return NetworkReconstructor(prior, domain_shape)
    return SolverReconstructor(
        prior,
        solver,
        regularization,
        data_term=data_term,
        domain_shape=domain_shape,
        max_iterations=max_iterations,
        tolerance=tolerance,
        time_limit=time_limit,
        seed=seed,
        differentiate=differentiate,
        automatic=automatic,
    )
