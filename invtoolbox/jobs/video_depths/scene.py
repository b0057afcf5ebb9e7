"""Scene files of a short video: depth maps up to scale and shift, and the cameras.

The tables::

    title
    [video]           path: pictures with cameras, in any format of `it.datasets.open_views`; names
                      of the pictures, all by default; shrink; maps: folder with one .npy or .npz
                      map per picture, of the same name, of the size of the pictures before or after
                      shrink
    [video.simulate]  or spoil the measured depths of RGB-D frames: noise, relative; seed
    [alignment]       noise, consistency, max_iterations: see `it.align_depths`
    [output]          folder, formats

Scales of a simulation are factors of 0.5 to 2, and shifts up to half the mean depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from invtoolbox import datasets
from invtoolbox.catalogue.documents import CheckedScene, Table
from invtoolbox.datasets.output import write_png, writing
from invtoolbox.datasets.volumes.normal_maps import read_depth
from invtoolbox.errors import InputError
from invtoolbox.jobs.job import Request, SceneJob, read_json, write_json
from invtoolbox.jobs.video_depths.align import AlignedDepths, align_depths


class SimulatedMaps(Table):
    """Random scales, shifts and noise of the maps of a simulation."""

    noise: float = Field(0.05, ge=0)
    seed: int = 1


class VideoTable(Table):
    """Frames of a video with their cameras, and their depth maps."""

    path: str
    names: list[str] | None = None
    shrink: int = Field(1, ge=1)
    maps: str | None = None
    simulate: SimulatedMaps | None = None

    @model_validator(mode="after")
    def _one_source(self) -> VideoTable:
        if (self.maps is None) == (self.simulate is None):
            raise ValueError("give either maps, a folder, or [video.simulate]")
        return self


class AlignmentTable(Table):
    """Settings of `it.align_depths`."""

    noise: float | None = Field(None, gt=0)
    consistency: float = Field(1.0, ge=0)
    max_iterations: int = Field(60, ge=1)


class VideoOutput(Table):
    """Folder and formats: npz holds depths, scales and shifts, png the depths side by side."""

    folder: str | None = None
    formats: list[Literal["npz", "png"]] = Field(["npz", "png"])


class VideoScene(Table):
    """Scene file of the depths of a video."""

    title: str | None = None
    video: VideoTable
    alignment: AlignmentTable = Field(default_factory=AlignmentTable)
    output: VideoOutput = Field(default_factory=VideoOutput)


class VideoSceneFile(CheckedScene[VideoScene]):
    """Checked scene of the depths of a video."""


@dataclass(frozen=True)
class VideoOutcome:
    """Depths of the frames of a video, and the files.

    Attributes:
        depths: the result; None if an earlier run was finished.
        folder: folder of the results.
        metrics: "noise", the relative noise of the maps; and, of a simulation, "scale error" and
            "shift error", the largest error of a scale and of a shift relative to the mean depth,
            "rms error" of the depths in the unit of the cameras, and "rms noise" of the maps with
            their true scales and shifts.
        files: files that were written; empty if an earlier run was finished.
    """

    depths: AlignedDepths | None
    folder: Path
    metrics: dict[str, float]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Truth:
    """Depths of a simulation, ``(C, rows, columns)``, 0 where unknown, and the spoiled ones."""

    depth: Tensor
    noisy: Tensor
    scale: Tensor
    shift: Tensor


def read_video_scene(
    scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> VideoSceneFile:
    """Read and check a scene file of the depths of a video.

    The errors are those of `invtoolbox.jobs.images.tables.read_scene`.

    >>> read_video_scene("depths-livingroom").scene.video.simulate.noise
    0.05
    """
    return VideoSceneFile.read(VideoScene, scene, overrides)


def prepare(scene: str | Path, request: Request) -> VideoJob:
    """Read and check a scene of the depths of a video, and return its job."""
    return VideoJob.prepare(read_video_scene(scene, request.overrides), request)


@dataclass(frozen=True)
class VideoJob(SceneJob[VideoScene]):
    """Run of one scene of the depths of a video."""

    files: ClassVar = ("scene.json", "metrics.json", "depths.npz", "depths.png")
    free: ClassVar = ("title", "output")
    file: VideoSceneFile

    def run(self, progress: bool = True) -> VideoOutcome:
        """Align the maps and write the results, or read those of a finished run."""
        folder, scene = self.folder, self.file.scene
        measures = folder / "metrics.json"
        table = scene.video
        views = datasets.open_views(
            self.file.locate(table.path), names=table.names, shrink=table.shrink
        )
        if table.simulate is None:
            maps, truth = _read_maps(self.file, views), None
        else:
            maps, truth = _simulate(views, table.simulate)
        cameras = views.cameras.to(torch.float64)
        content = self.check_content(maps=maps, cameras=cameras.world_to_camera)
        if self.resume and measures.exists():
            return VideoOutcome(None, folder, read_json(measures), ())
        found = align_depths(maps, cameras, progress=progress, **scene.alignment.model_dump())
        metrics = _measure(found, truth)
        self.start(content)
        write_json(measures, metrics)
        written = [measures]
        for kind in dict.fromkeys(scene.output.formats):
            path = folder / f"depths.{kind}"
            if kind == "npz":
                with writing(path, overwrite=True) as stream:
                    np.savez_compressed(
                        stream,
                        depths=found.depths[0].numpy(),
                        scale=found.scale[0].numpy(),
                        shift=found.shift[0].numpy(),
                        names=np.array(views.cameras.names),
                    )
            else:
                write_png(path, _picture(found.depths[0]), overwrite=True)
            written.append(path)
        return VideoOutcome(found, folder, metrics, tuple(written))


def _read_maps(file: VideoSceneFile, views: Any) -> Tensor:
    """Return the map of every picture, ``(C, rows, columns)``, at the size of the cameras."""
    folder = file.locate(str(file.scene.video.maps))
    maps = []
    for stem in (Path(name).stem for name in views.cameras.names):
        found = [
            folder / f"{stem}{end}"
            for end in (".npy", ".npz")
            if (folder / f"{stem}{end}").exists()
        ]
        if not found:
            raise InputError(
                f"{folder} holds no {stem}.npy or {stem}.npz, the depth map of a picture"
            )
        maps.append(_shrink(read_depth(found[0]).float(), views.cameras.size, found[0]))
    return torch.stack(maps)


def _shrink(depth: Tensor, size: tuple[int, int], path: Path) -> Tensor:
    """Return the means of blocks of the known values of a map, so that it has a size."""
    side = max(1, depth.shape[0] // size[0])
    cut = depth[: side * size[0], : side * size[1]]
    if tuple(n // side for n in depth.shape) != size:
        raise InputError(
            f"{path}: a map of {tuple(depth.shape)} pixels for pictures of {size}; give it the "
            "size of the pictures, before or after shrink"
        )
    blocks = cut.unflatten(1, (size[1], side)).unflatten(0, (size[0], side))
    blocks = blocks.transpose(1, 2).flatten(2)
    return torch.where(blocks == 0, torch.nan, blocks).nanmean(2)


def _simulate(views: Any, settings: SimulatedMaps) -> tuple[Tensor, _Truth]:
    """Return maps with random scales and shifts, and noise, of the depths of RGB-D frames."""
    if views.depth is None:
        raise InputError("[video.simulate] spoils the depths of RGB-D frames, and these have none")
    depth = views.depth[:, 0].double()
    draws = torch.Generator().manual_seed(settings.seed)

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(len(depth), dtype=depth.dtype).uniform_(low, high, generator=draws)

    scale = draw(-0.7, 0.7).exp()
    shift = draw(-0.5, 0.5) * depth[depth > 0].mean()
    noise = torch.randn(depth.shape, generator=draws, dtype=depth.dtype)
    noisy = depth * (1 + settings.noise * noise)
    maps = scale[:, None, None] * noisy + shift[:, None, None]
    return torch.where(depth > 0, maps, torch.nan).float(), _Truth(depth, noisy, scale, shift)


def _measure(found: AlignedDepths, truth: _Truth | None) -> dict[str, float]:
    metrics = {"noise": float(found.noise[0])}
    if truth is None:
        return metrics
    known = truth.depth > 0
    off = (found.shift[0] - truth.shift) / truth.scale / truth.depth[known].mean()

    def error(depth: Tensor) -> float:
        return float((depth - truth.depth)[known].square().mean().sqrt())

    return metrics | {
        "scale error": float((found.scale[0] / truth.scale - 1).abs().max()),
        "shift error": float(off.abs().max()),
        "rms error": error(found.depths[0]),
        "rms noise": error(truth.noisy),
    }


def _picture(depths: Tensor) -> Tensor:
    """Return the depths side by side, near ones bright."""
    largest = depths.amax()
    return torch.cat(list(-torch.where(depths > 0, depths, largest)), 1)
