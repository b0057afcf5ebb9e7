"""The metre of a scene: by a length, printed markers, or positions in headers of pictures."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.environment import optional_package
from invtoolbox.core.guards import check_range
from invtoolbox.datasets.views.photograph_files import read_position
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.datasets.views.structure_from_motion import fit_positions
from invtoolbox.errors import InputError, check_name
from invtoolbox.geometry.cameras import Cameras, Similarity, nearest_point

#: Largest distance of a point from where a picture shows it, relative to the width of the picture.
_LARGEST_ERROR = 0.02
#: Largest ratio of the sides of a marker that is one square.
_UNEVEN = 1.1


def by_length(first: str, second: str, length: float, views: PosedPictures) -> tuple[float, str]:
    """Return the factor to metres by the distance of two points, and a note of it.

    Args:
        first: one end: ``x,y,z`` in the world of the cameras, or the places of the point in two or
            more pictures, ``NAME:COLUMN,ROW+NAME:COLUMN,ROW``, in pixels of their files.
        second: the other end.
        length: distance of both ends, m.
        views: the pictures in their full size, with the lenses of their cameras.

    Raises:
        InputError: if a point cannot be read or its places do not belong together, or if the length
            or the distance is 0.
    """
    check_range("length", "(0, inf)", length=length)
    ends = [_point_of(word, views.cameras) for word in (first, second)]
    distance = float((ends[0] - ends[1]).norm())
    if not distance > 0:
        raise InputError(f"length: {first} and {second} are one point; give two")
    return length / distance, f"a length of {length:g} m"


def by_markers(side: float, dictionary: str, views: PosedPictures) -> tuple[float, str]:
    """Return the factor to metres by printed ArUco markers, and a note of it.

    The corners of every marker that two or more pictures show are triangulated. The factor is the
    side over the median of the lengths of all sides.

    Args:
        side: length of the sides of the black squares, m.
        dictionary: OpenCV's name of the dictionary without ``DICT_``, for example ``4x4_50``.
        views: the pictures in their full size, with the lenses of their cameras.

    Raises:
        InputError: if the dictionary is unknown, or if no marker is seen in two pictures.
        MissingDependency: if OpenCV is not installed.
    """
    check_range("markers", "(0, inf)", markers=side)
    detector = _detector(dictionary)
    sightings: dict[int, list[tuple[int, Tensor]]] = defaultdict(list)
    for k, view in enumerate(views.each()):
        levels = (view.pictures[0].mean(0) * 255).byte().contiguous().numpy()
        corners, numbers, _ = detector.detectMarkers(levels)
        for place, number in zip(corners, [] if numbers is None else numbers.ravel().tolist()):
            # OpenCV counts from the centre of the first pixel.
            sightings[number].append((k, torch.from_numpy(place[0]).double() + 0.5))
    sides, pictures = [], set()
    for places in sightings.values():
        if len(places) < 2:
            continue
        corners = [_meet([(k, quad[c]) for k, quad in places], views.cameras)[0] for c in range(4)]
        square = torch.stack([(a - b).norm() for a, b in zip(corners, corners[1:] + corners[:1])])
        if float(square.max() / square.min()) < _UNEVEN:  # no two markers of one number
            sides.append(square)
            pictures |= {k for k, _ in places}
    if not sides:
        raise InputError(
            f"no marker of the dictionary {dictionary} is seen in two of the {len(views)} pictures; "
            "name the dictionary that was printed (dictionary), or give a length in place of markers"
        )
    lengths = torch.cat(sides)
    spread = 100 * float(lengths.std() / lengths.mean())
    note = f"{len(sides)} markers in {len(pictures)} pictures, whose sides differ by {spread:.2g} %"
    return side / float(lengths.median()), note


def by_positions(views: PosedPictures) -> tuple[Similarity, str]:
    """Return the similarity to metres east, north and up by positions in headers, and a note.

    Args:
        views: pictures with the paths of their files.

    Raises:
        InputError: if there are less than three positions, if they are too near to one another, or
            too far from where the cameras are.
    """
    places = {k: place for k, file in enumerate(views.files) if (place := read_position(file))}
    if len(places) < 3:
        raise InputError(
            f"{len(places)} of {len(views)} pictures have a position in their header (EXIF GPS), and "
            "three are needed; give a length or markers in place of gps"
        )
    fit, note, is_exact = fit_positions(views.cameras.centres[list(places)], list(places.values()))
    if not is_exact:
        raise InputError(f"gps: {note}; give a length or markers in place of gps")
    return Similarity(fit.scale.float(), fit.rotation.float(), fit.shift.float()), note


def move(views: PosedPictures, similarity: Similarity, note: str) -> PosedPictures:
    """Return views in another world, their cameras and points; depths and the box are left out.

    Args:
        views: the views.
        similarity: similarity from their world to the other.
        note: what made the similarity, for the notes.
    """
    source = views.source
    return replace(
        views,
        cameras=similarity.cameras(views.cameras),
        points=None if views.points is None else similarity.points(views.points),
        depth=None,
        near_far=None,
        box=None,
        notes=(*views.notes, note),
        source=None if source is None else lambda rows: replace(source(rows), depth=None),
    )


def _point_of(word: str, cameras: Cameras) -> Tensor:
    """Return the point of an end of a length."""
    if ":" not in word:
        return _numbers(word, 3, word)
    sightings = []
    names = {
        spelling: k
        for k, n in enumerate(cameras.names)
        for spelling in (Path(n).stem, Path(n).name, n)
    }
    for sighting in word.split("+"):
        name, _, place = sighting.rpartition(":")
        check_name("picture of a length", name, names)
        sightings.append((names[name], _numbers(place, 2, word)))
    if len(sightings) < 2:
        raise InputError(
            f"length: {word} is seen in one picture; add its place in another one, joined by +"
        )
    point, error = _meet(sightings, cameras)
    if not error < _LARGEST_ERROR * cameras.size[1]:
        raise InputError(
            f"length: the places of {word} belong to no point, they are {error:.0f} pixels off; give "
            "one point in pictures from different places"
        )
    return point


def _numbers(place: str, count: int, word: str) -> Tensor:
    """Return numbers with commas between them."""
    try:
        return torch.tensor([float(number) for number in place.split(",")]).double().view(count)
    except (ValueError, RuntimeError):
        raise InputError(
            f"length: {word} cannot be read; write x,y,z, or NAME:COLUMN,ROW+NAME:COLUMN,ROW"
        ) from None


def _meet(sightings: Sequence[tuple[int, Tensor]], cameras: Cameras) -> tuple[Tensor, float]:
    """Return the point of places ``(column, row)`` in pictures, and how far off it is in pixels."""
    chosen = cameras[[k for k, _ in sightings]].to(torch.float64)
    pixels = torch.stack([place for _, place in sightings])[:, None]
    origins, directions = chosen.rays(pixels)
    point = nearest_point(origins[:, 0], directions[:, 0])
    if point is None:
        return torch.full((3,), torch.nan), math.inf
    return point, float((chosen.project(point[None])[0] - pixels).norm(dim=-1).max())


def _detector(dictionary: str) -> Any:
    """Return OpenCV's detector of the markers of a dictionary."""
    aruco = optional_package("cv2", "markers need OpenCV; install it with", "captures").aruco
    names = {name[5:].lower(): name for name in dir(aruco) if name.startswith("DICT_")}
    check_name("dictionary of markers", dictionary.lower(), names)
    settings = aruco.DetectorParameters()
    settings.cornerRefinementMethod = aruco.CORNER_REFINE_SUBPIX
    kind = aruco.getPredefinedDictionary(getattr(aruco, names[dictionary.lower()]))
    return aruco.ArucoDetector(kind, settings)
