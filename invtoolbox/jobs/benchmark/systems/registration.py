"""Registration of two pictures with a known displacement: rings, and frames of a heart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from invtoolbox.catalogue.presets import prior_named
from invtoolbox.core.checks import decoding
from invtoolbox.datasets.shelf import find_file
from invtoolbox.errors import InputError
from invtoolbox.jobs.benchmark.case import Case, Row, Solved, System, check_answer, picture
from invtoolbox.jobs.registration.register import register
from invtoolbox.metrics import folding
from invtoolbox.simulation.beating_ring import simulate_ring

_FOLDER, _NOISE = "SimMotion/train", 0.03


class PairRow(Row):
    """Pairs of pictures of 96 x 96 pixels."""

    kind: Literal["ring", "heart"] = Field(
        description="ring: simulated rings that contract and twist; heart: frames of a simulated "
        "motion of the myocardium"
    )
    seeds: list[int] = Field(min_length=1, description="seeds of texture and noise")
    frames: list[int] = Field(default_factory=list, description="numbers of the frames of a heart")


def _heart_files() -> list[Path]:
    return [
        find_file("heart-motion", f"{_FOLDER}/001_slice_05_{name}.npy") for name in ("ED", "disp")
    ]


def count(row: PairRow) -> int:
    """Return the number of pairs."""
    if row.kind == "ring":
        return len(row.seeds)
    _heart_files()
    if not row.frames:
        raise InputError(f"the row {row.name!r} needs the key frames, numbers of frames")
    return len(row.seeds) * len(row.frames)


def open_case(row: PairRow, number: int) -> Case:
    """Return two pictures, ``fixed(p) = moving(p + u(p))``, and the displacement u."""
    if row.kind == "ring":
        pair = simulate_ring(row.seeds[number], _NOISE)
        label = f"ring {row.seeds[number]}"
        return _case(label, pair.moving, pair.fixed, pair.displacement, pair.inside)
    seed, frame = (
        row.seeds[number // len(row.frames)],
        row.frames[number % len(row.frames)],
    )
    rest, motion = _heart_files()
    with decoding(rest, "NumPy"), decoding(motion, "NumPy"):
        myocardium = np.load(rest).astype(bool)
        u = np.load(motion)[frame].astype(np.float64)
    pictures = move_back(heart_picture(myocardium, seed), u, _NOISE, seed)
    moving, fixed = (image[None, None] for image in pictures)
    displacement = torch.from_numpy(u)[None].float()
    return _case(
        f"frame {frame}, seed {seed}", moving, fixed, displacement, torch.from_numpy(myocardium)
    )


def heart_picture(myocardium: np.ndarray, seed: int) -> np.ndarray:
    """Return a picture with blood 1, myocardium 0.2, all else 0.45, and a texture.

    Args:
        myocardium: mask, ``(rows, columns)``.
        seed: seed of the texture.
    """
    from scipy import ndimage

    blood = ndimage.binary_fill_holes(myocardium) & ~myocardium
    image = np.where(blood, 1.0, np.where(myocardium, 0.2, 0.45))
    grain = np.random.default_rng(seed).standard_normal(myocardium.shape)
    texture = ndimage.gaussian_filter(grain, 1.5)
    return ndimage.gaussian_filter(image, 0.6) + 0.1 * texture / texture.std()


def move_back(
    fixed: np.ndarray, u: np.ndarray, noise_std: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the moving and the fixed image of a displacement, with noise, both ``(*space)``.

    Args:
        fixed: image or volume, ``(*space)``.
        u: displacement ``(dimensions, *space)`` in pixels, ``fixed(p) = moving(p + u(p))``.
        noise_std: standard deviation of the noise of both images.
        seed: seed of the noise.
    """
    from scipy import ndimage

    grid = np.stack(np.meshgrid(*map(np.arange, fixed.shape), indexing="ij")).astype(float)
    inverse = np.zeros_like(u)
    # Fixed point of v(p) = -u(p + v(p)), the inverse of the motion.
    for _ in range(60):
        inverse = -np.stack(
            [ndimage.map_coordinates(c, grid + inverse, order=1, mode="nearest") for c in u]
        )
    moving = ndimage.map_coordinates(fixed, grid + inverse, order=3, mode="nearest")
    draws = np.random.default_rng(1000 + seed)
    first, second = (
        torch.from_numpy(
            (image + noise_std * draws.standard_normal(fixed.shape)).astype(np.float32)
        )
        for image in (moving, fixed)
    )
    return first, second


def _case(label: str, moving: Tensor, fixed: Tensor, u: Tensor, inside: Tensor) -> Case:
    def solve(prior: Any, solver: Any, automatic: str) -> Solved:
        result = register(
            moving, fixed, prior_named(prior) if isinstance(prior, str) else prior, solver=solver
        )
        return result.displacement, result.notes

    def scores(answer: Any) -> dict[str, float]:
        field = check_answer(answer, u.shape, "the displacement in pixels")
        distance = (field - u).norm(dim=1)[0][inside]
        return {
            "error [pixels]": float(distance.mean()),
            "largest error [pixels]": float(distance.max()),
            "folded share": float(folding(field.float())),
        }

    def warp(answer: Any) -> np.ndarray | None:
        from invtoolbox.operators import Warp

        return picture(Warp(torch.as_tensor(answer).float())(moving))

    return Case(
        label=label,
        arguments=lambda: (moving, fixed),
        solve=solve,
        simple=lambda: torch.zeros_like(u),
        scores=scores,
        picture=warp,
        truth=picture(fixed),
    )


def files(row: PairRow) -> Sequence[Path]:
    """Return the files of the heart."""
    return _heart_files() if row.kind == "heart" else []


SYSTEM = System(
    row=PairRow,
    signature="(moving, fixed) -> displacement in pixels",
    simple="no motion",
    metric="error [pixels]",
    better="lower",
    count=count,
    files=files,
    open=open_case,
    pictured="moving picture, warped",
)
