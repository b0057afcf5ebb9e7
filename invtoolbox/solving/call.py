"""The arguments of a call of `invtoolbox.solve`, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox.catalogue.presets import solver_named
from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.errors import InputError
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.loop.run import ACCELERATED_CHECKS, Callback
from invtoolbox.priors.base import Prior
from invtoolbox.solvers.base import Solver
from invtoolbox.solvers.binding import Regularization

#: Seconds after which a sampler ends that is given by its name and without any limit.
SAMPLER_SECONDS = 150.0


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of `solve` except the problem."""

    prior: Prior | str | Sequence[Prior | str] | None
    solver: Solver | str | None
    regularization: Regularization
    initial: Tensor | dict[str, Tensor] | None
    max_iterations: int | None
    tolerance: float | None
    time_limit: float | None
    seed: int
    device: torch.device | str | None
    dtype: torch.dtype | None
    differentiate: str | None
    callbacks: Sequence[Callback]
    checkpoint: Checkpoint | None
    progress: bool
    check: bool
    check_every: int = ACCELERATED_CHECKS
    capture: bool = False
    repair: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", precision_named(self.dtype))
        check_range("solve", "[0, inf]", max_iterations=self.max_iterations)
        check_range("solve", "[0, inf]", tolerance=self.tolerance)
        check_range("solve", "(0, inf]", time_limit=self.time_limit)
        check_choice("solve", (False, True), capture=self.capture)
        if not isinstance(self.check_every, Integral):
            raise InputError(f"check_every is a whole number of steps, got {self.check_every!r}")
        check_range("solve", "[1, inf)", check_every=self.check_every)
        check_choice("solve", (None, "implicit"), differentiate=self.differentiate)

    @property
    def seconds(self) -> float | None:
        """Seconds after which the run ends; None if nothing limits them."""
        return SAMPLER_SECONDS if self.is_sampler_alone else self.time_limit

    @cached_property
    def is_sampler_alone(self) -> bool:
        """Whether the solver is a sampler by its name, and nothing limits its number of draws."""
        limits = (self.time_limit, self.max_iterations, self.tolerance, self.checkpoint)
        is_unlimited = all(bound is None for bound in limits)
        return is_unlimited and isinstance(self.solver, str) and solver_named(self.solver).samples


def precision_named(dtype: Any) -> torch.dtype | None:
    """Return a precision in which operators compute, also of its name or NumPy's type."""
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    name = getattr(dtype, "__name__", name)  # numpy.float64 is a class
    if name not in ("float32", "float64", "complex64", "complex128"):
        raise InputError(
            f"dtype must be torch.float32 or torch.float64, got {dtype}; solvers compute in no other "
            "precision"
        )
    precision: torch.dtype = getattr(torch, name)
    return precision


def as_checkpoint(checkpoint: Any) -> Any:
    """Return a `Checkpoint`, also of the name of its file."""
    return Checkpoint(checkpoint) if isinstance(checkpoint, (str, Path)) else checkpoint
