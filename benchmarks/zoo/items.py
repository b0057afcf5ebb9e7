"""An item of the zoo: a truth, a simple answer, a call, and the loss of one against the other."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import MeasurementWarning

#: Errors below this share of the range of the truth (60 dB) count as this share.
LEAST = 1e-3
#: Loss that stands for an answer that is not finite.
WORST = 200.0
#: A status that says that the answer is not to be trusted.
MARKING = ("diverged", "invalid", "stopped")
#: Priors by name of any image, of pictures, and of scans of a plane.
IMAGES = ("tv", "wavelet", "tgv", "tikhonov", "graph-laplacian")
PICTURES = (
    *IMAGES,
    "denoiser-natural",
    "lpn-natural",
    "lpn-natural-0.1",
    "diffusion-natural",
    "auto",
)
PLANES = (*IMAGES, "denoiser-natural", "lpn-natural", "lpn-ct", "diffusion-ct", "auto")
#: The prior of jobs that take none by name, and of calls that name none.
DEFAULT = "default"


@dataclass(frozen=True)
class Answer:
    """Answer of the package to an item.

    Attributes:
        x: answer of the shape of the truth.
        status: status of the solution, in one word.
        notes: all remarks on the run.
        marks: findings, and a status, that name a reason to doubt the answer.
    """

    x: Tensor
    status: str = ""
    notes: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Item:
    """One problem.

    Attributes:
        about: the problem in words.
        truth: the truth, pictures ``(1, channel, *space)`` or vectors ``(N, d)``.
        simple: the simple answer, of the shape of the truth.
        compute: answer of the package with a prior, by its name.
        finest: error below which no answer is better than another.
        region: true at the values, or at the vectors, that count; all if None.
        is_vector: whether the error is the mean length of a vector; otherwise it is the RMSE.
        without_level: denoising above 35 dB without a noise level, which counts only if the level
            is given; the answer has to ask for it.
        y, A, noise_std: measurements, operator and true noise level of items that have them.
        warned: findings about the geometry, which the user reads before the solve.
        fault: what is wrong with the measurements or the operator, which a mark may name, in words.
    """

    about: str
    truth: Tensor
    simple: Tensor
    compute: Callable[[str], Answer]
    finest: float
    region: Tensor | None = None
    is_vector: bool = False
    without_level: bool = False
    y: Any = None
    A: Any = None
    noise_std: float | None = None
    warned: tuple[str, ...] = ()
    fault: str = ""

    def error(self, x: Tensor) -> float:
        """Return the error of an answer over the region, infinite if it is not finite."""
        gap = (x - self.truth).abs().double()
        if self.is_vector:
            gap = gap.square().sum(-1).sqrt()
        if self.region is not None:
            gap = gap[self.region.expand(gap.shape)]
        if not bool(gap.isfinite().all()):
            return math.inf
        return float(gap.mean() if self.is_vector else gap.square().mean().sqrt())

    def loss(self, x: Tensor) -> float:
        """Return the loss of an answer against the simple answer, in dB."""
        error, simple = (max(self.error(each), self.finest) for each in (x, self.simple))
        return min(WORST, 20 * math.log10(error / simple)) if math.isfinite(error) else WORST


@dataclass(frozen=True)
class Job:
    """A kind of items.

    Attributes:
        make: item of an index.
        count: number of items.
        priors: names of priors that the items are solved with.
        simple: the simple answer, in words.
        is_slow: whether the job is left out unless it is named.
        is_new: whether its items are drawn for a commit alone, so that nothing is chosen on them.
    """

    make: Callable[[int], Item]
    count: int
    priors: tuple[str, ...]
    simple: str
    is_slow: bool = False
    is_new: bool = False


def draws(job: str, index: int) -> np.random.Generator:
    """Return the random numbers of an item, a function of its job and index alone."""
    return np.random.default_rng([zlib.crc32(job.encode()), index])


def log_uniform(draw: np.random.Generator, low: float, high: float) -> float:
    return float(math.exp(draw.uniform(math.log(low), math.log(high))))


def noise_level(draw: np.random.Generator, low: float = 5e-4, high: float = 0.1) -> float:
    """Draw a noise level, relative to the range of the measurements; zero in one item of ten."""
    return 0.0 if draw.uniform() < 0.1 else log_uniform(draw, low, high)


def stated_level(draw: np.random.Generator, std: float) -> float | None:
    """Draw the noise level that the user states: none, the true one, or one that is off by up to 2."""
    choice, factor = draw.uniform(), log_uniform(draw, 0.5, 2.0)
    if std == 0.0 or choice < 0.6:
        return None
    return std if choice < 0.85 else std * factor


def tensor(array: np.ndarray) -> Tensor:
    """Return an array as a tensor in single precision, complex if it is complex."""
    kind = torch.complex64 if np.iscomplexobj(array) else torch.float32
    return torch.from_numpy(np.ascontiguousarray(array)).to(kind)


def sixty_decibels(truth: Tensor) -> float:
    """Return the error that is 60 dB below the range of the truth."""
    values = truth.abs() if truth.is_complex() else truth
    return LEAST * float(values.amax() - values.amin())


def listen(call: Callable[[], Any]) -> tuple[Any, tuple[str, ...]]:
    """Return the value of a call, and its warnings about measurements."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = call()
    sentences = [str(w.message) for w in caught if issubclass(w.category, MeasurementWarning)]
    return value, tuple(dict.fromkeys(sentences))


def answer_of(call: Callable[[], Any]) -> Answer:
    """Return the answer of a call that returns a `Solution` of one item."""
    solution, sentences = listen(call)
    status = solution.status[0]
    marks = (*sentences, status) if status in MARKING else sentences
    return Answer(solution.x, status, tuple(solution.notes), marks)
