"""Scans of objects that are wider than the detector."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.core.interrupts import OutOfTime
from invtoolbox.jobs.images.decisions import longer_views
from invtoolbox.jobs.images.decisions.longer_views import LongerViews
from tests.jobs.images.decisions.helpers import answer_of

pytestmark = pytest.mark.filterwarnings("ignore:the field of view", "ignore:the outermost cells")
LINE = (torch.arange(48) - 23.5) / 24
Y, X = LINE[:, None], LINE[None, :]
INSIDE = torch.hypot(X, Y) < 0.6


def scan(image: Tensor) -> tuple[it.operators.FanBeam, Tensor]:
    """Views of an image by a detector that is 30 % too small."""
    angles = torch.arange(90) * (2 * math.pi / 90)
    A = it.operators.FanBeam((48, 48), angles, 76, 192.0, 288.0, 1.0, 1.5)
    y = A.simulate(image, it.operators.noise.RelativeGaussian(0.01), seed=0)
    return A.widen(-22), y[..., 22:-22].contiguous()


def body() -> Tensor:
    """An ellipse with two inclusions."""
    image = ((X / 0.92) ** 2 + (Y / 0.85) ** 2 <= 1).float()
    for cx, cy, r, value in ((0.2, 0.1, 0.15, 0.5), (-0.2, -0.3, 0.1, -0.4)):
        image += value * (torch.hypot(X - cx, Y - cy) <= r)
    return 0.02 * image[None, None]


def ring() -> Tensor:
    """A ring of bone outside of the field of view, which no guess from inside finds."""
    radius = torch.hypot(X, Y)
    return 0.02 * ((radius <= 0.92).float() + 4 * ((radius > 0.75) & (radius <= 0.92)))[None, None]


def error(x: Tensor, truth: Tensor) -> float:
    return float((x - truth)[..., INSIDE].square().mean().sqrt())


def test_the_level_of_an_object_wider_than_the_detector_is_found() -> None:
    truth = body()
    A, y = scan(truth)
    settings: dict[str, Any] = {"max_iterations": 300, "progress": False}
    solution = it.reconstruct(y, A, prior="tv", **settings)
    weight = solution.regularization
    alone = it.solve(
        it.Problem(y, A), it.priors.TotalVariation(), regularization=weight, **settings
    )
    assert any("continued by a guess" in note for note in solution.notes)
    assert error(solution.x, truth) < 0.5 * error(alone.x, truth)
    written = it.reconstruct(y, A, prior="tv", regularization=weight, **settings)
    assert torch.equal(written.x, alone.x)


@pytest.mark.slow
def test_a_guess_that_no_image_explains_is_not_believed() -> None:
    A, y = scan(ring())
    solution = it.reconstruct(y, A, prior="tv", progress=False)
    assert any("the level of the image is not known" in note for note in solution.notes)
    alone = it.solve(
        it.Problem(y, A),
        it.priors.TotalVariation(),
        regularization=solution.regularization,
        progress=False,
    )
    assert error(solution.x, ring()) <= 1.01 * error(alone.x, ring())


def test_items_are_continued_alone_as_in_company() -> None:
    A, y = scan(body())
    small = A.simulate(0.02 * (torch.hypot(X, Y) < 0.4)[None, None], 0.01, seed=1)
    settings: dict[str, Any] = {"prior": "tikhonov", "max_iterations": 40, "progress": False}
    both = it.reconstruct(torch.cat([y, small]), A, **settings)
    assert any("object of item 0 is wider" in note for note in both.notes)
    assert not any("object of item 1 is wider" in note for note in both.notes)
    for k, views in enumerate((y, small)):
        single = it.reconstruct(views, A, **settings)
        assert torch.equal(single.x, both.x[k : k + 1])


def test_a_time_limit_keeps_the_solution_of_the_measured_views(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    A, y = scan(body())
    prior = it.priors.Tikhonov("gradient")
    solution = it.solve(it.Problem(y, A), prior, progress=False)

    def late() -> None:
        raise OutOfTime

    monkeypatch.setattr(longer_views, "require_time", late)
    kept = answer_of(LongerViews(), it.Problem(y, A), solution, prior)
    assert torch.equal(kept.x, solution.x) and "no time" in kept.notes[-1]
    assert kept.decisions[-1].outcome == "late"
