"""Cameras of photographs by structure from motion, with pycolmap."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from invtoolbox.core.checks import missing_path
from invtoolbox.core.environment import optional_package
from invtoolbox.datasets.output import write_bytes
from invtoolbox.datasets.views.colmap import open_colmap
from invtoolbox.datasets.views.photograph_files import (
    as_jpeg,
    east_north_up,
    extract_frames,
    find_photographs,
    is_video,
    read_position,
)
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.datasets.views.view_loading import Loading
from invtoolbox.datasets.volumes.pictures import SUFFIXES, read_size
from invtoolbox.datasets.volumes.volume import join_first
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Similarity

#: Longer side to which pictures are reduced for the search of features, pixels.
FEATURE_SIDE = 1600
#: Number of frames that are taken from a video.
FRAMES = 100
_RECORD = "cameras.json"
#: Largest distance of positions in headers from the cameras, relative to the spread of the positions.
_LARGEST_ERROR = 0.3
#: Number of rounds of the robust fit, and the usual error of a position, metres.
_ROUNDS, _GPS_ERROR = 30, 3.0


def find_cameras(
    path: str | Path, results: str | Path, *, seed: int = 0, model: str | None = None
) -> Path:
    """Find the cameras of photographs, and points of the scene; return the file that records them.

    Features of all pairs of photographs (of neighbouring frames of a video) are matched, and
    pycolmap's incremental mapper places the photographs one after the other. Photographs of one
    size, taken by one camera with one focal length, share their intrinsics. The results are a
    project of COLMAP in the folder `results`, which `open_found_cameras` and `open_colmap` open. The
    unit of the world is arbitrary; positions in the headers (EXIF GPS) make it metres, east, north
    and up, if they are exact enough. If the folder holds the cameras of the same photographs
    already, nothing is computed.

    Args:
        path: folder of photographs, or a video.
        results: folder of the results; the folder of the photographs is not written.
        seed: seed of the random draws.
        model: COLMAP's model of the lens; by default ``"SIMPLE_RADIAL"`` for less than ten
            photographs and ``"OPENCV"`` for more.

    Raises:
        MissingDependency: if pycolmap is not installed.
        InputError: if there are less than two photographs, or if they do not match.
    """
    place, folder = Path(path).expanduser(), Path(results).expanduser()
    if not place.exists():
        raise InputError(missing_path(place))
    record = folder / _RECORD
    place = _lone_video(place)
    key = _fingerprint(place, seed, model)
    if record.is_file() and _read(record).get("key") == key:
        return record
    colmap = optional_package(
        "pycolmap",
        "photographs without cameras are placed by pycolmap, which is not installed;",
        "captures",
        ", or give a folder with the cameras of COLMAP or nerfstudio",
    )
    pictures = (
        extract_frames(place, folder / "frames", FRAMES)
        if place.is_file()
        else as_jpeg(find_photographs(place), folder / "frames")
    )
    model = model or ("SIMPLE_RADIAL" if len(pictures) < 10 else "OPENCV")
    work = folder / "structure-from-motion"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        best = _place(colmap, pictures, work, seed, model, in_sequence=place.is_file())
        placed = set() if best is None else {i.name for i in best.images.values() if i.has_pose}
        missing = [p.name for p in pictures if p.name not in placed]
        if best is None or len(placed) < 2:
            raise InputError(
                f"{place}: the photographs do not match: {len(placed)} of {len(pictures)} could be "
                f"placed, not {join_first(missing, 5)}; take photographs of one scene, each of which "
                "overlaps with the next by more than half"
            )
        notes = _to_metres(colmap, best, pictures)
        (folder / "sparse" / "0").mkdir(parents=True, exist_ok=True)
        best.write_binary(str(folder / "sparse" / "0"))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    content = {
        "key": key,
        "pictures": str(pictures[0].parent.absolute()),
        "missing": missing,
        "notes": notes,
    }
    return write_bytes(record, json.dumps(content, indent=1).encode(), overwrite=True)


def open_found_cameras(record: str | Path, loading: Loading = Loading()) -> PosedPictures:
    """Open the photographs whose cameras `find_cameras` found; others are listed in ``skipped``.

    Args:
        record: the file that `find_cameras` returned.
        loading: how the pictures are loaded.
    """
    content = _read(Path(record))
    loaded = open_colmap(Path(record).parent, loading, pictures=content["pictures"])
    skipped, notes = (*loaded.skipped, *content["missing"]), content.get("notes", ())
    return replace(loaded, skipped=skipped, notes=(*loaded.notes, *notes))


def _lone_video(place: Path) -> Path:
    """Return the only video of a folder without pictures, otherwise the path itself."""
    files = [p for p in place.iterdir() if p.is_file()] if place.is_dir() else []
    videos = [p for p in files if is_video(p)]
    pictures = any(p.suffix.lower() in SUFFIXES for p in files)
    return videos[0] if len(videos) == 1 and not pictures else place


def _place(
    colmap: Any, pictures: Sequence[Path], work: Path, seed: int, model: str, in_sequence: bool
) -> Any:
    """Return pycolmap's largest reconstruction of the pictures, or None."""
    root, database, threads = pictures[0].parent, work / "features.db", torch.get_num_threads()
    before, colmap.logging.minloglevel = colmap.logging.minloglevel, int(colmap.logging.FATAL)
    try:
        colmap.set_random_seed(seed)
        reader = colmap.ImageReaderOptions(camera_model=model)
        extraction = colmap.FeatureExtractionOptions(
            num_threads=threads, max_image_size=FEATURE_SIDE
        )
        for group in _by_camera(pictures):
            names = [p.name for p in group]
            colmap.extract_features(
                database, root, names, colmap.CameraMode.SINGLE, reader, extraction
            )
        matching = colmap.FeatureMatchingOptions(num_threads=threads)
        match = colmap.match_sequential if in_sequence else colmap.match_exhaustive
        match(database, matching)
        mapping = colmap.IncrementalPipelineOptions(num_threads=threads, random_seed=seed)
        mapping.mapper.num_threads, mapping.mapper.random_seed = threads, seed
        models = colmap.incremental_mapping(database, root, work / "models", mapping)
    except RuntimeError as error:
        raise InputError(
            f"{root}: pycolmap failed: {' '.join(str(error).split())[:200]}"
        ) from error
    finally:
        colmap.logging.minloglevel = before
    return max(models.values(), key=lambda model: model.num_reg_images(), default=None)


def _to_metres(colmap: Any, model: Any, pictures: Sequence[Path]) -> list[str]:
    """Move a model to the positions in the headers of its pictures, and return a note of it."""
    places = {picture.name: read_position(picture) for picture in pictures}
    images = [i for i in model.images.values() if i.has_pose and places[i.name] is not None]
    if len(images) < 4:
        return []
    centres = torch.from_numpy(np.stack([image.projection_center() for image in images]))
    fit, note, is_exact = fit_positions(
        centres, [place for i in images if (place := places[i.name]) is not None]
    )
    if is_exact:
        matrix = torch.cat([fit.scale * fit.rotation, fit.shift[:, None]], 1)
        model.transform(colmap.Sim3d(matrix.numpy()))
    return [note]


def fit_positions(
    centres: torch.Tensor, places: Sequence[tuple[float, float, float]]
) -> tuple[Similarity, str, bool]:
    """Find the similarity from positions of cameras to positions in headers, in metres.

    Umeyama's closed form is repeated with the weights of Geman and McClure, so that a few positions
    that are far off do not count. Positions along a line determine the scale alone.

    Args:
        centres: positions of the cameras, ``(N, 3)``, three or more.
        places: latitudes and longitudes in degrees, and altitudes in metres.

    Returns:
        The similarity, a sentence about it, and whether the positions are exact enough for it.
    """
    metres, centres = east_north_up(places), centres.double()
    weights = torch.ones(len(metres), dtype=torch.float64)
    for _ in range(_ROUNDS):
        fit = Similarity.between(centres, metres, weights)
        off = (fit.points(centres) - metres).norm(dim=1)
        weights = (1 + (off / (2 * off.median()).clamp(min=2 * _GPS_ERROR)).square()) ** -2
    # The fit has 7 unknowns, so its residuals are smaller than the errors of the positions.
    numbers = 3 * len(metres)
    variance = (weights * off.square()).sum() / weights.sum() * numbers / (numbers - 7)
    error = float(variance.sqrt())
    spreads = torch.linalg.svdvals(fit.scale * (centres - centres.mean(0))) / len(metres) ** 0.5
    source = f"the positions (EXIF GPS) of {len(metres)} photographs, {error:.2g} m off the cameras"
    if error >= _LARGEST_ERROR * float(spreads[0]):
        return fit, f"the unit of the world is unknown: {source}, are too coarse", False
    axes = ", its axes are east, north and up"
    if error > _LARGEST_ERROR * float(spreads[1]):
        axes = ""
        fit = Similarity(fit.scale, torch.eye(3).to(fit.shift), torch.zeros_like(fit.shift))
    return fit, f"the unit of the world is the metre{axes}, by {source}", True


def _by_camera(pictures: Sequence[Path]) -> list[list[Path]]:
    """Group pictures by size, and by camera and focal length in their headers."""
    from PIL import Image

    groups: dict[Any, list[Path]] = defaultdict(list)
    for path in pictures:
        size = read_size(path)
        with Image.open(path) as picture:
            head = picture.getexif()
            details = head.get_ifd(0x8769)
        # Maker, model and focal length.
        groups[(size, *map(str, (head.get(271), head.get(272), details.get(37386))))].append(path)
    return list(groups.values())


def _fingerprint(place: Path, seed: int, model: str | None) -> str:
    """Return a digest of the names, sizes and times of the photographs, and of the settings."""
    files = [place] if place.is_file() else find_photographs(place)
    facts = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(repr((facts, seed, model)).encode()).hexdigest()


def _read(record: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"{record} cannot be read ({error}); delete it to start anew") from error
