"""Reconstruct the slices of an MRI file: coil maps, weight and image of each, placed in the patient."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invtoolbox.datasets import KSpace, KSpaceData, Measurement
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid
from invtoolbox.processing.coils import compress_coils
from invtoolbox.solution import Solution

#: Number of coils above which they are compressed, because time and memory of coil maps grow with
#: its square.
_MOST_COILS = 12
#: Number of notes that are passed on.
_MOST_NOTES = 20


@dataclass(frozen=True, eq=False)
class Slice:
    """Image of one item.

    Attributes:
        x: the part of the image that is shown, complex, ``(row, column)``, or
            ``(slice, row, column)`` of a 3D trajectory.
        zero_filled: the simple answer, of the same shape.
        coil_maps: sensitivities ``(coil, *image_shape)``; None for one coil.
        solution: solution of the reconstruction.
        sampled: share of the samples of the grid that were measured; for a trajectory the number of
            samples over the number of voxels.
        reference: image in the file, or None.
        facts: facts about the measurement, as far as the file states them.
        notes: notes on the measurement.
    """

    x: Tensor
    zero_filled: Tensor
    coil_maps: Tensor | None
    solution: Solution
    sampled: float
    reference: Tensor | None
    facts: Mapping[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Images:
    """Volumes of an MRI file, and the middle slice in detail.

    Attributes:
        x: complex images ``(volume, slice, row, column)``.
        grid: positions of the voxels in the patient, in mm: x to the left, y to the back, z to the
            head.
        middle: the middle slice of the first volume.
        weights: weight of the prior of every item.
        reference: images in the file, ``(volume, slice, row, column)``, or None.
        facts: facts about every volume, such as its echo time ``TE_ms``.
        notes: notes for a reader of the result.
    """

    x: Tensor
    grid: Grid
    middle: Slice
    weights: tuple[float, ...]
    reference: Tensor | None
    facts: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]

    @property
    def solution(self) -> Solution:
        """Solution of the middle slice."""
        return self.middle.solution


def compress_to(item: Measurement, coils: int | None, share: float | None) -> Measurement:
    """Return an item of virtual coils; by default all coils, or 12 of more than 12.

    Args:
        item: item of a `KSpaceData`.
        coils: number of virtual coils.
        share: share of the energy that they hold, in place of their number.
    """
    count = item.y.shape[1]
    if share is not None:
        return compress_coils(item, share=share)
    if coils is not None and coils > count:
        raise InputError(f"kspace.coils {coils}: the file has {count} coils; give at most as many")
    if min(coils or _MOST_COILS, count) < count:
        return compress_coils(item, coils or _MOST_COILS)
    return item


def reconstruct_slice(
    item: Measurement,
    compress: Callable[[Measurement], Measurement],
    solve: Callable[[Measurement, Any], Solution],
) -> Slice:
    """Estimate the coil maps of one item, and reconstruct it.

    Args:
        item: item of a `KSpaceData`.
        compress: function of the item that returns it with virtual coils.
        solve: function of the item and its operator that returns the solution.
    """
    item = compress(item)
    sampling = item.geometry
    assert isinstance(sampling, KSpace)
    A: Any = sampling.operator()
    solution = solve(item, A)
    if sampling.mask is not None:
        sampled = float(sampling.mask.double().mean())
    else:
        sampled = item.y[0, 0].numel() / math.prod(sampling.image_shape)
    return Slice(
        x=sampling.crop(solution.x)[0, 0].cpu(),
        zero_filled=sampling.crop(A.pseudo_inverse(item.y))[0, 0],
        coil_maps=None if A.coil_maps is None else A.coil_maps[0],
        solution=solution,
        sampled=sampled,
        reference=None if item.reference is None else item.reference[0, 0],
        facts=item.meta,
        notes=tuple(item.meta.get("notes", ())),
    )


def reconstruct_volumes(
    data: KSpaceData,
    volumes: Sequence[Sequence[int]],
    compress: Callable[[Measurement], Measurement],
    solve: Callable[[Measurement, Any], Solution],
) -> Images:
    """Reconstruct volumes slice by slice.

    Args:
        data: data set of slices.
        volumes: numbers of the items of every volume; as many in each.
        compress: function of an item that returns it with virtual coils.
        solve: function of an item and its operator that returns the solution.

    Raises:
        InputError: volumes or slices of different shapes.
    """
    check_volumes(data, volumes)
    stacks, references, weights, facts = [], [], [], []
    notes: list[str] = []
    sentences: dict[str, list[str]] = {}
    middle: Slice | None = None
    grid = Grid()
    for number, items in enumerate(volumes):
        images, truths = [], []
        for place, item in enumerate(items):
            result = reconstruct_slice(data[item], compress, solve)
            if number == 0 and place == len(items) // 2:
                middle = result
            images.append(result.x)
            truths.append(result.reference)
            weights.append(float(result.solution.regularization[0]))
            notes += result.notes
            for decision in result.solution.decisions:
                if decision.is_note:
                    sentences.setdefault(decision.step, []).append(decision.text(1))
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            raise InputError(
                f"{data.path}: its slices have the shapes {', '.join(map(str, sorted(shapes)))}; choose "
                "slices of one shape with --slices"
            )
        stacked, placed = data.stack(torch.stack(images), items)
        grid = placed if number == 0 else grid
        stacks.append(stacked)
        facts.append(result.facts)
        if all(truth is not None and truth.shape == images[0].shape for truth in truths):
            references.append(torch.stack([truth for truth in truths if truth is not None]))
    assert middle is not None
    # Slices differ in numbers, such as a noise level: the first one stands for all.
    unique = list(dict.fromkeys(notes))
    for first, *others in sentences.values():
        differ = sum(other != first for other in others)
        unique.append(first + (f" (and {differ} slices with other numbers)" if differ else ""))
    if len(unique) > _MOST_NOTES:
        unique = [*unique[:_MOST_NOTES], f"{len(unique) - _MOST_NOTES} further notes of slices"]
    return Images(
        x=torch.stack(stacks),
        grid=grid,
        middle=middle,
        weights=tuple(weights),
        reference=torch.stack(references) if len(references) == len(stacks) else None,
        facts=tuple(facts),
        notes=tuple(unique),
    )


def check_volumes(data: KSpaceData, volumes: Sequence[Sequence[int]]) -> None:
    """Refuse volumes of different numbers of slices, and slices that form no volume.

    Args:
        data: data set of slices.
        volumes: numbers of the items of every volume.
    """
    counts = sorted({len(items) for items in volumes})
    if len(counts) > 1:
        raise InputError(
            f"{data.path}: its volumes have {counts[0]} to {counts[-1]} slices, and are no series; "
            "choose one with --volume"
        )
    for items in volumes:
        data.stack(torch.zeros(len(items), 1, 1), items)
