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

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from invtoolbox import datasets
from invtoolbox.catalogue.documents import CheckedScene, FilePath, Table
from invtoolbox.datasets import read_depth, write_png
from invtoolbox.errors import InputError
from invtoolbox.jobs.command import SceneCommand
from invtoolbox.jobs.kind import Compared, Inputs, Kind, SceneTables, arrays_of
from invtoolbox.jobs.video_depths.align import AlignedDepths, align_depths


class SimulatedMaps(Table):
    """Random scales, shifts and noise of the maps of a simulation."""

    noise: float = Field(0.05, ge=0, description="standard deviation relative to the depth")
    seed: int = Field(1, description="seed of the draws")


class VideoTable(Table):
    """Frames of a video with their cameras, and their depth maps."""

    path: FilePath = Field(
        description="pictures with cameras, in any format of it.datasets.open_views"
    )
    names: list[str] | None = Field(None, description="names of the pictures; all by default")
    shrink: int = Field(1, ge=1, description="factor by which pictures are reduced")
    maps: FilePath | None = Field(
        None,
        description="folder with one depth map per picture, .npy, .npz or a grey picture of 16 "
        "bits, of the same name, of the size of the pictures before or after shrink",
    )
    simulate: SimulatedMaps | None = None

    @model_validator(mode="after")
    def _one_source(self) -> VideoTable:
        if (self.maps is None) == (self.simulate is None):
            raise ValueError("give either maps, a folder, or [video.simulate]")
        return self


class AlignmentTable(Table):
    """Settings of `it.align_depths`."""

    noise: float | None = Field(
        None,
        gt=0,
        description="standard deviation of the noise relative to the depth; estimated by default",
    )
    consistency: float = Field(
        1.0, ge=0, description="factor on the weight by which views correct the noise of each other"
    )
    max_iterations: int = Field(60, ge=1, description="number of iterations for the depths")


class VideoScene(SceneTables):
    """Scene file of the depths of a video."""

    video: VideoTable
    alignment: AlignmentTable = Field(default_factory=AlignmentTable)


@dataclass(frozen=True)
class _Truth:
    """Depths of a simulation, ``(C, rows, columns)``, 0 where unknown, and the spoiled ones."""

    depth: Tensor
    noisy: Tensor
    scale: Tensor
    shift: Tensor


def _read(file: CheckedScene[VideoScene]) -> Inputs:
    """Return maps, cameras, and the truth of a simulation."""
    table = file.scene.video
    views = datasets.open_views(file.locate(table.path), names=table.names, shrink=table.shrink)
    if table.simulate is None:
        maps, truth = _read_maps(file, views), None
    else:
        maps, truth = _simulate(views, table.simulate)
    cameras = views.cameras.to(torch.float64)
    return {
        "maps": maps,
        "cameras": cameras.world_to_camera,
        "pinholes": cameras,
        "truth": truth,
    }


def _align(file: CheckedScene[VideoScene], inputs: Inputs, progress: bool) -> AlignedDepths:
    settings = file.scene.alignment.model_dump()
    return align_depths(inputs["maps"], inputs["pinholes"], progress=progress, **settings)


def _read_maps(file: CheckedScene[VideoScene], views: Any) -> Tensor:
    """Return the map of every picture, ``(C, rows, columns)``, at the size of the cameras."""
    folder = file.locate(str(file.scene.video.maps))
    maps = []
    for stem in (Path(name).stem for name in views.cameras.names):
        paths = [folder / f"{stem}{suffix}" for suffix in (".npy", ".npz", ".png", ".tif", ".tiff")]
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            raise InputError(
                f"{folder} holds no {stem}.npy, .npz, .png or .tif, the depth map of a picture"
            )
        maps.append(_shrink(read_depth(path).float(), views.cameras.size, path))
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


def _measure(depths: AlignedDepths, inputs: Inputs) -> dict[str, float]:
    """Return the relative noise of the maps, and the errors of a simulation.

    "scale error" and "shift error" are the largest errors, of a shift relative to the mean depth;
    "rms error" is of the depths, "rms noise" of the maps with their true scales and shifts, both in
    the unit of the cameras.
    """
    truth: _Truth | None = inputs["truth"]
    metrics = {"noise": float(depths.noise[0])}
    if truth is None:
        return metrics
    inside = truth.depth > 0
    shift_error = (depths.shift[0] - truth.shift) / truth.scale / truth.depth[inside].mean()

    def rms(depth: Tensor) -> float:
        return float((depth - truth.depth)[inside].square().mean().sqrt())

    return metrics | {
        "scale error": float((depths.scale[0] / truth.scale - 1).abs().max()),
        "shift error": float(shift_error.abs().max()),
        "rms error": rms(depths.depths[0]),
        "rms noise": rms(truth.noisy),
    }


def _compare(
    file: CheckedScene[VideoScene], depths: AlignedDepths, inputs: Inputs
) -> Compared | None:
    """Return how the depths of a simulation compare with its maps, the simple answer."""
    measures = _measure(depths, inputs)
    if "rms error" not in measures:
        return None
    words = (
        f"RMS error {measures['rms error']:.3g}, and {measures['rms noise']:.3g} of the maps with "
        "their true scales and shifts."
    )
    return Compared({}, "", words=words, is_good=measures["rms error"] <= measures["rms noise"])


def _arrays(depths: AlignedDepths, inputs: Inputs) -> dict[str, Any]:
    maps, scale, shift = depths.depths[0], depths.scale[0], depths.shift[0]
    return {"depths": maps, "scale": scale, "shift": shift, "names": inputs["pinholes"].names}


def _write_picture(path: Path, depths: AlignedDepths, inputs: Inputs) -> None:
    """Write the depths side by side, near ones bright."""
    maps = depths.depths[0]
    picture = torch.cat(list(-torch.where(maps > 0, maps, maps.amax())), 1)
    write_png(path, picture, overwrite=True)


COMMAND = SceneCommand(
    description="Find scale and shift of the depth map of every picture from the cameras, and depths "
    "that agree between pictures.",
    positional={"PICTURES": "video.path", "MAPS": "video.maps"},
    options={
        "--names": "video.names",
        "--shrink": "video.shrink",
        "--noise": "alignment.noise",
        "--consistency": "alignment.consistency",
        "--iterations": "alignment.max_iterations",
    },
    examples=(
        "depths transforms.json maps --output depths.npz depths.png",
        "depths capture maps --shrink 4 --noise 0.05 --output results/depths",
    ),
    outputs=("{stem}_depths.npz",),
)

KIND = Kind(
    VideoScene,
    "the depths of a video",
    _read,
    _align,
    _measure,
    {"npz": ("depths.npz", arrays_of(_arrays)), "png": ("depths.png", _write_picture)},
    usual=("npz", "png"),
    solution=lambda depths: depths.alignments[0],
    compare=_compare,
    command=COMMAND,
)
