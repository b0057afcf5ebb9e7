"""Arcs of measured scans of acrylic discs with holes (Helsinki Tomography Challenge 2022)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from invtoolbox import metrics
from invtoolbox.datasets import Geometry, find_file, open_measurements
from invtoolbox.errors import InputError
from invtoolbox.jobs.benchmark.case import Case, Row, System, image_case
from invtoolbox.plotting.pixels import plane

#: Views per degree of a full scan.
_PER_DEGREE = 2


class ArcRow(Row):
    """Arcs of one length, cut out of full scans."""

    discs: list[str] = Field(
        min_length=1, description="names in htc2022_NAME_full.mat, or paths of such files"
    )
    degrees: int = Field(ge=1, le=360, description="length of the arc")
    starts: list[int] = Field(min_length=1, description="first angles of the arcs, in degrees")

    def located(self, locate: Callable[[str], str]) -> Self:
        """Return the row with absolute paths of the discs that are files."""
        discs = [locate(disc) if disc.endswith(".mat") else disc for disc in self.discs]
        return self.model_copy(update={"discs": discs})


def _place(disc: str) -> Path:
    return Path(disc) if disc.endswith(".mat") else find_file("htc2022", f"htc2022_{disc}_full.mat")


def open_case(row: ArcRow, number: int) -> Case:
    """Return an arc of a disc; the truth is the segmentation of the full scan."""
    disc, start = (row.discs[number // len(row.starts)], row.starts[number % len(row.starts)])
    full = open_measurements(_place(disc), reader="htc2022")[0]
    if full.segmentation is None or not isinstance(full.geometry, Geometry):
        raise InputError(
            f"{_place(disc)}: the segmentation of the full scan is missing; put its file "
            "*_recon_fbp_seg.mat next to it"
        )
    views = len(full.geometry.angles)
    if views < 360 * _PER_DEGREE:
        raise InputError(f"{_place(disc)}: {views} views are no full scan; give a *_full.mat")
    chosen = [
        (_PER_DEGREE * start + k) % (360 * _PER_DEGREE)
        for k in range(_PER_DEGREE * row.degrees + 1)
    ]
    angles = tuple(full.geometry.angles[view] for view in chosen)
    A = dataclasses.replace(full.geometry, angles=angles).operator()
    y = full.y[:, :, chosen]
    truth = (full.segmentation > 0).float()

    def score(x: Tensor) -> dict[str, float]:
        segments = metrics.otsu_segmentation(x)
        return {"Matthews": float(metrics.matthews_correlation(segments, truth > 0))}

    case = image_case(
        f"disc {Path(disc).stem} from {start} degrees",
        truth,
        y,
        A,
        None,
        simple=lambda: A.pseudo_inverse(y),
        peak=torch.ones(1),
        score=score,
    )
    # The picture shows the measured segmentation.
    return dataclasses.replace(
        case, picture=lambda x: plane(metrics.otsu_segmentation(x)[0].float())
    )


SYSTEM = System(
    row=ArcRow,
    signature="(y, physics) -> x",
    simple="FBP",
    metric="Matthews",
    better="higher",
    count=lambda row: len([_place(disc) for disc in row.discs]) * len(row.starts),
    files=lambda row: [_place(disc) for disc in row.discs],
    open=open_case,
    takes_automatic=True,
    pictured="segmentation",
)
