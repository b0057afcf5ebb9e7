"""Reader of OpenSfM's ``reconstruction.json``, with observations from ``tracks.csv``."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import decoding, require_file
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.datasets.views.sparse_model import SparseCamera, SparseModel
from invtoolbox.datasets.views.transforms import read_json
from invtoolbox.datasets.views.view_loading import Loading
from invtoolbox.errors import InputError
from invtoolbox.geometry.lens import Lens
from invtoolbox.geometry.rigid import rigid, rotation

#: Number of columns of ``tracks.csv`` of version 1 and 2 that are read: picture, track, feature, x
#: and y.
_LEAST_COLUMNS = 5


def open_opensfm(
    path: str | os.PathLike[str],
    loading: Loading = Loading(),
    *,
    pictures: str | os.PathLike[str] | None = None,
) -> PosedPictures:
    """Open the pictures of an OpenSfM data set, with poses, points and the masks of ``masks``.

    Args:
        path: path of the data set, or of its file ``reconstruction.json``.
        loading: how the pictures are loaded.
        pictures: folder of the pictures; by default ``images`` in the folder of the file.
    """
    file = Path(path).expanduser()
    file = file / "reconstruction.json" if file.is_dir() else file
    model = read_opensfm(file)
    folder = file.parent / "images" if pictures is None else Path(pictures).expanduser()
    return model.views(
        file, folder, loading, masks=lambda name: file.parent / "masks" / f"{name}.png"
    )


def read_opensfm(
    path: str | os.PathLike[str], tracks: str | os.PathLike[str] | None = None, index: int = 0
) -> SparseModel:
    """Read a reconstruction of OpenSfM, in metres: x east, y north, z up from its reference.

    Coordinates of OpenSfM start at the middle of the picture, in units of its longer side; they are
    converted to pixels. The lenses of the models perspective, brown, simple_radial, radial, fisheye
    and fisheye_opencv are known.

    Args:
        path: path of ``reconstruction.json``, or of the data set.
        tracks: file of observations; by default ``tracks.csv`` in the same folder, if it exists
            (``tracks_NAME.csv`` for ``reconstruction_NAME.json``). Observations of points that were
            not reconstructed are left out.
        index: index of the reconstruction, for a file that holds several.

    Raises:
        InputError: for a file of another kind, or with damaged contents.

    Source: https://opensfm.org/docs/dataset.html
    """
    file = Path(path).expanduser()
    file = require_file(file / "reconstruction.json" if file.is_dir() else file)
    several = read_json(file)
    fits = (
        isinstance(several, list)
        and several
        and all(isinstance(table, dict) and {"cameras", "shots"} <= set(table) for table in several)
    )
    if not fits:
        raise InputError(
            f"{file} is not a reconstruction of OpenSfM, which is a list of objects with "
            "'cameras', 'shots' and 'points'"
        )
    if not 0 <= index < len(several):
        raise InputError(
            f"{file} holds {len(several)} reconstructions, counted from 0, but no index {index}"
        )
    table = several[index]
    try:
        cameras = {
            str(name): _camera(file, name, values) for name, values in table["cameras"].items()
        }
        names = tuple(str(name) for name in table["shots"])
        shots = list(table["shots"].values())
        turns, moves = (
            _triples(file, name, [shot[name] for shot in shots])
            for name in ("rotation", "translation")
        )
        order = {name: row for row, name in enumerate(cameras)}
        camera_of = torch.tensor([order[str(shot["camera"])] for shot in shots], dtype=torch.int64)
        point_table = table.get("points", {})
        points = _triples(
            file, "coordinates", [point["coordinates"] for point in point_table.values()]
        )
        colors = _triples(
            file, "color", [point.get("color", (128, 128, 128)) for point in point_table.values()]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: a camera, shot or point of the reconstruction lacks a field ({error!r:.100})"
        ) from error
    if not names:
        raise InputError(f"{file}: the reconstruction holds no shots; reconstruct again")
    sizes = [list(cameras.values())[row].size for row in camera_of.tolist()]
    source = _find_tracks(file) if tracks is None else require_file(tracks)
    rows = [] if source is None else _read_observations(source, names, sizes, list(point_table))
    observations = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
    if not bool(observations.isfinite().all()):
        raise InputError(f"{source}: an observation is NaN or infinite; remove it from the file")
    return SparseModel(
        tuple(cameras.values()),
        names,
        world_to_camera=rigid(rotation(turns), moves),
        camera_of=camera_of,
        points=points,
        colors=colors.round().clamp(0, 255).byte(),
        pixels=observations[:, :2].contiguous(),
        picture_of=observations[:, 2].long(),
        point_of=observations[:, 3].long(),
    )


def _camera(file: Path, name: str, values: Mapping[str, Any]) -> SparseCamera:
    kind = str(values.get("projection_type", "perspective"))

    def number(*words: str, otherwise: float | None = None) -> float:
        value = next((values[word] for word in words if word in values), otherwise)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InputError(
                f"{file}: the camera {name!r} has no {words[0]!r} that is a finite number"
            )
        return float(value)

    width, height = (round(number(word)) for word in ("width", "height"))
    fx = number("focal_x", "focal")
    fy = number("focal_y", otherwise=fx * number("aspect_ratio", otherwise=1.0))
    side = max(width, height)
    if not (0 < width < 2**24 and 0 < height < 2**24 and fx > 0 and fy > 0):
        raise InputError(
            f"{file}: the camera {name!r} has {width} x {height} pixels and the focal length "
            f"{fx:g}; they must be above 0"
        )
    K = torch.tensor(
        [
            [fx * side, 0.0, number("c_x", otherwise=0.0) * side + width / 2],
            [0.0, fy * side, number("c_y", otherwise=0.0) * side + height / 2],
            [0.0, 0.0, 1.0],
        ],
        dtype=torch.float64,
    )
    radial = tuple(number(f"k{k}", otherwise=0.0) for k in range(1, 5))
    lens = {
        "perspective": Lens(radial=radial[:2]),
        "simple_radial": Lens(radial=radial[:1]),
        "radial": Lens(radial=radial[:2]),
        "brown": Lens(
            radial=radial[:3], tangential=(number("p1", otherwise=0.0), number("p2", otherwise=0.0))
        ),
        "fisheye": Lens("fisheye", radial[:2]),
        "fisheye_opencv": Lens("fisheye", radial),
    }.get(kind)
    return SparseCamera(K, (height, width), lens, kind)


def _triples(file: Path, name: str, rows: list[Any]) -> Tensor:
    try:
        values = np.array(rows, dtype=np.float64).reshape(len(rows), 3)
    except (ValueError, TypeError):
        raise InputError(f"{file}: a {name!r} is not three numbers; correct the file") from None
    if not np.isfinite(values).all():
        row = int(np.argmax((~np.isfinite(values)).any(1)))
        raise InputError(
            f"{file}: the {name!r} number {row + 1} holds NaN or infinite numbers; remove it from "
            "the file"
        )
    return torch.from_numpy(values)


def _find_tracks(file: Path) -> Path | None:
    place = file.with_name(file.name.replace("reconstruction", "tracks")).with_suffix(".csv")
    return place if place.is_file() and place.name != file.name else None


def _read_observations(
    file: Path, names: Sequence[str], sizes: Sequence[tuple[int, int]], points: Sequence[str]
) -> list[tuple[float, float, int, int]]:
    """Read the column, row, picture and point of each observation of a reconstructed point."""
    row_of, point_of = ({word: k for k, word in enumerate(words)} for words in (names, points))
    observations: list[tuple[float, float, int, int]] = []
    with decoding(file, "OpenSfM track"), file.open(encoding="utf-8", newline="") as stream:
        for number, line in enumerate(
            csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE), 1
        ):
            if number == 1 and len(line) == 1:  # the version
                continue
            if len(line) < _LEAST_COLUMNS:
                raise InputError(
                    f"{file}: line {number} holds {len(line)} columns; picture, track, feature, x, "
                    "y are needed"
                )
            picture, point = row_of.get(line[0]), point_of.get(line[1])
            if picture is None or point is None:
                continue
            height, width = sizes[picture]
            side = max(height, width)
            x, y = float(line[3]) * side + width / 2, float(line[4]) * side + height / 2
            observations.append((x, y, picture, point))
    return observations
