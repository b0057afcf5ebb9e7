"""A system of tables: rows, items as cases (of images too), and the measures of an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from invtoolbox import metrics
from invtoolbox.catalogue.documents import Table
from invtoolbox.catalogue.presets import prior_named
from invtoolbox.errors import InputError
from invtoolbox.jobs.images.reconstruct import reconstruct
from invtoolbox.operators.base import Operator
from invtoolbox.plotting.pixels import plane
from invtoolbox.priors.adapters import to_deepinv
from invtoolbox.solvers.base import Solver

#: An answer, and notes about it.
Solved: TypeAlias = tuple[Any, Sequence[str]]


class Row(Table):
    """Row of a table: one problem, with several items.

    Attributes:
        name: name of the row.
        reported_on: identifiers of its items, such as ``"set12:1..12"``.
    """

    name: str = Field(description="name of the row")
    reported_on: list[str] = Field(min_length=1, description="identifiers of the items")

    def located(self, locate: Callable[[str], str]) -> Self:
        """Return the row with absolute paths; the key ``path``, unless a subclass has others.

        Args:
            locate: function of a path in the file of the table that returns the absolute one.
        """
        path = getattr(self, "path", None)
        return self if path is None else self.model_copy(update={"path": locate(path)})


@dataclass(frozen=True)
class Case:
    """One item of a row, with its truth.

    Attributes:
        label: name of the item for a reader.
        arguments: function that returns the arguments of a user's function.
        solve: function of a prior or a name, of a solver or None, and of the word for automatic steps
            (see `reconstruct`), that returns the answer of the toolbox by one public call, and its notes.
        simple: function that returns the simple answer.
        scores: function of an answer that returns its measures by name. It raises an `InputError`
            if the answer has another shape.
        picture: function of an answer that returns a picture ``(rows, columns)`` or ``(rows,
            columns, 3)``, or None.
        truth: picture of the truth, or None.
    """

    label: str
    arguments: Callable[[], tuple[Any, ...]]
    solve: Callable[[Any, Solver | None, str], Solved]
    simple: Callable[[], Any]
    scores: Callable[[Any], Mapping[str, float]]
    picture: Callable[[Any], np.ndarray | None] = lambda answer: None
    truth: np.ndarray | None = None


@dataclass(frozen=True)
class System:
    """Kind of problem of a table.

    Attributes:
        row: model of its rows.
        signature: what a user's function takes and returns, for example ``"(y, physics) -> x"``.
        simple: name of the simple answer.
        metric: measure that ranks methods, with its unit.
        better: whether a higher or a lower value of it is better.
        count: function of a row that returns its number of items, or raises an `InputError` with
            what is missing.
        files: function of a row that returns the files and folders that it reads.
        open: function of a row and the number of an item that returns the `Case`.
        check: function of a method's name that raises an `InputError` if there is none of this
            name.
        takes_prior: whether a prior or a solver of a user can join.
        takes_automatic: whether steps may be decided automatically, as those of images may.
        pictured: caption of the pictures.
    """

    row: type[Row]
    signature: str
    simple: str
    metric: str
    better: Literal["higher", "lower"]
    count: Callable[[Any], int]
    files: Callable[[Any], Sequence[Path]]
    open: Callable[[Any, int], Case]
    check: Callable[[str], object] = field(default=lambda name: check_prior_name(name))
    takes_prior: bool = True
    takes_automatic: bool = False
    pictured: str = ""

    def is_better(self, score: float, than: float) -> bool:
        """Return whether a value of the metric is better than another one."""
        return score > than if self.better == "higher" else score < than


def check_prior_name(name: str) -> None:
    """Raise an `InputError` if there is no prior of a name.

    Args:
        name: ``"auto"``, or a name of ``invtoolbox list priors``.
    """
    if name != "auto":
        prior_named(name)


def check_answer(answer: Any, shape: Sequence[int], what: str) -> Tensor:
    """Return an answer as a tensor.

    Args:
        answer: a tensor or an array.
        shape: shape that it must have.
        what: noun phrase of the answer.

    Raises:
        InputError: if it is neither, has another shape, or values that are not finite.

    >>> check_answer(np.zeros((2, 3)), (2, 3), "an image").shape
    torch.Size([2, 3])
    """
    if isinstance(answer, np.ndarray):
        answer = torch.from_numpy(answer)
    if not isinstance(answer, Tensor):
        raise InputError(f"{what} must be a tensor or an array, got {type(answer).__name__}")
    if tuple(answer.shape) != tuple(shape):
        raise InputError(
            f"{what} must have the shape {tuple(shape)}, got {tuple(answer.shape)}; return it with "
            "all axes"
        )
    if not bool(torch.isfinite(answer).all()):
        raise InputError(f"{what} has values that are not finite")
    return answer.detach().cpu()


#: Fewest rows and columns of an image that SSIM takes.
_SSIM = 11


def image_case(
    label: str,
    truth: Tensor,
    y: Tensor,
    A: Operator,
    noise_std: float | None,
    *,
    simple: Callable[[], Tensor],
    peak: Tensor,
    score: Callable[[Tensor], Mapping[str, float]] | None = None,
) -> Case:
    """Return the case of one image.

    A method of the toolbox is ``it.reconstruct(y, A, prior=..., noise_std=..., automatic=...)``, and
    ``"auto"`` chooses the prior even if nothing else is decided automatically. A user's function
    gets the measurements and a physics of deepinv, whose noise model is Gaussian with the stated
    level.

    Args:
        label: name of the item.
        truth: true image, ``(1, channel, *space)``.
        y: its measurements.
        A: operator of the measurements.
        noise_std: noise level that methods know; None if they do not.
        simple: function that returns the simple answer.
        peak: peak of the PSNR.
        score: function of the image that returns its measures; PSNR and SSIM by default.
    """

    def solve(prior: Any, solver: Solver | None, automatic: str) -> Solved:
        solution = reconstruct(
            y,
            A,
            prior=prior,
            noise_std=noise_std,
            solver=solver,
            progress=False,
            automatic="+prior-choice" if (prior, automatic) == ("auto", "none") else automatic,
        )
        return solution.x, solution.notes

    def arguments() -> tuple[Any, ...]:
        from deepinv.physics import GaussianNoise

        physics = to_deepinv(A)
        if noise_std is not None:
            physics.noise_model = GaussianNoise(noise_std)
        return y, physics

    def scores(answer: Any) -> Mapping[str, float]:
        x = check_answer(answer, truth.shape, "the image")
        return image_scores(x, truth, peak) if score is None else score(x)

    return Case(
        label=label,
        arguments=arguments,
        solve=solve,
        simple=simple,
        scores=scores,
        picture=picture,
        truth=picture(truth),
    )


def picture(image: Tensor | np.ndarray) -> np.ndarray | None:
    """Return an image ``(1, channel, *space)`` as a picture, complex values by their magnitude."""
    return plane(image[0])


def image_scores(x: Tensor, truth: Tensor, peak: Tensor) -> dict[str, float]:
    """Return PSNR in dB and SSIM; of complex images, the PSNR of the complex error alone.

    Args:
        x: image, ``(1, channel, *space)``.
        truth: true image of the same shape.
        peak: peak of both measures, ``(1,)``.
    """
    if x.is_complex() or truth.is_complex():
        error = (x - truth).abs().double().square().mean().sqrt().clamp_min(1e-30)
        return {"PSNR [dB]": float(20 * (peak.double() / error).log10())}
    scores = {"PSNR [dB]": float(metrics.psnr(x, truth, data_range=peak))}
    if x.ndim == 4 and min(x.shape[-2:]) >= _SSIM:
        scores["SSIM"] = float(metrics.ssim(x, truth, data_range=peak))
    return scores
