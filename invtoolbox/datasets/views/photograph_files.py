"""Pixels of pictures, masks and depths, and photographs without cameras: a folder or a video."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.core.checks import decoding, open_arrays, sniff
from invtoolbox.core.environment import optional_package
from invtoolbox.datasets.output import write_bytes
from invtoolbox.datasets.volumes.pictures import SUFFIXES, read_pixels, read_size, scale_to_unit
from invtoolbox.errors import InputError

VIDEOS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".3gp")
#: Formats that cameras write and that are not read here, with a program that converts them.
_CONVERTERS = {
    ".avif": "heif-convert IN OUT.jpg (libheif)",
    **dict.fromkeys(
        (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
        "darktable-cli IN OUT.jpg, or dcraw -c IN",
    ),
    **dict.fromkeys((".jxl", ".gif"), "magick IN OUT.png (ImageMagick)"),
    **dict.fromkeys(
        (".svg", ".pdf", ".eps", ".psd", ".exr", ".jp2"), "magick IN OUT.png (ImageMagick)"
    ),
}
#: Names of the folder of the pictures within a capture, in the order of preference.
_FOLDERS = ("images", "input", "rgb", "photos", "image")


def refuse_foreign_picture(path: Path) -> None:
    """Raise an `InputError` that names the converter of a picture or a video that is not read here.

    Args:
        path: path of the file.
    """
    suffix = path.suffix.lower()
    way = f"ffmpeg -i {path.name} frames/%06d.png" if suffix in VIDEOS else _CONVERTERS.get(suffix)
    if way is not None:
        what = "a video" if suffix in VIDEOS else f"a picture of the kind {suffix}"
        raise InputError(
            f"{path}: this is {what}, which is not read here; convert it first, for example with "
            f"{way.replace('IN', path.name)}"
        )


def picture_folders(capture: Path, names: Sequence[str] = _FOLDERS) -> list[Path]:
    """Return the folders of pictures of a capture, and then of their smaller copies.

    A smaller copy of ``images`` is ``images_4``, the larger copies first.

    Args:
        capture: folder of the capture.
        names: names of the folders.
    """
    copies = {
        int(word): folder
        for folder in capture.glob("*_[0-9]*")
        for name, _, word in (folder.name.rpartition("_"),)
        if name in names and word.isdecimal()
    }
    smaller = [copies[factor] for factor in sorted(copies)]
    return [f for f in (*(capture / name for name in names), *smaller) if f.is_dir()]


def find_pictures(pictures: Sequence[Path], capture: Path) -> dict[Path, Path]:
    """Find pictures in a neighbouring folder, if none of them is at its place.

    The neighbours are the smaller copies of the named folder, the folders of pictures next to it
    and in the capture, and the capture itself. A file may have another suffix. The first folder
    with the most of the pictures is taken.

    Args:
        pictures: paths at which the pictures should be.
        capture: folder of the file of cameras.

    Returns:
        The paths of the pictures by the paths at which they should be.
    """
    stems = {picture.stem.lower(): picture for picture in pictures}
    if len(stems) < len(pictures) or any(picture.is_file() for picture in pictures):
        return {}
    folder = pictures[0].parent
    places = [folder]
    if folder != capture:  # what lies next to the capture is of others
        places += picture_folders(folder.parent, [folder.name])
        places += [*picture_folders(folder.parent), folder.parent]
    places += [*picture_folders(capture), capture]
    best: dict[Path, Path] = {}
    for place in dict.fromkeys(p for p in places if p.is_dir()):
        files = sorted(f for f in place.iterdir() if f.suffix.lower() in SUFFIXES)
        hits = {stems[f.stem.lower()]: f for f in files if f.stem.lower() in stems}
        best = hits if len(hits) > len(best) else best
    return best


def is_video(path: Path) -> bool:
    """Return whether the suffix of a file is of a video."""
    return path.suffix.lower() in VIDEOS


def holds_photographs(folder: Path) -> bool:
    """Return whether a folder, or a folder ``images`` in it, holds pictures or videos."""
    places = (folder, *(folder / name for name in _FOLDERS))
    return any(
        f.suffix.lower() in (*SUFFIXES, *VIDEOS) for p in places if p.is_dir() for f in p.iterdir()
    )


def find_photographs(folder: Path) -> list[Path]:
    """Return the pictures of a folder, or of the folder ``images`` in it, in the order of names.

    Args:
        folder: the folder.

    Raises:
        InputError: if there is no picture, or a single one; the sentence names the converter if the
            pictures have a format that is not read here.
    """
    folders = (folder, *(folder / name for name in _FOLDERS))
    photographs: list[Path] = []
    unread: Counter[str] = Counter()
    for candidate in folders:
        entries = candidate.iterdir() if candidate.is_dir() else ()
        files = sorted(p for p in entries if p.is_file())
        unread.update(p.suffix.lower() for p in files if p.suffix.lower() in _CONVERTERS)
        photographs = [p for p in files if p.suffix.lower() in SUFFIXES]
        if photographs:
            break
    if unread and len(photographs) < 2:
        suffix, count = unread.most_common(1)[0]
        raise InputError(
            f"{folder}: {count} pictures are {suffix[1:].upper()} files, which are not read here; "
            f"convert them to JPEG or PNG first, for example with {_CONVERTERS[suffix]}"
        )
    if not photographs:
        raise InputError(
            f"{folder} holds no photographs ({', '.join(SUFFIXES)}), no video and no file of "
            "cameras; check the path"
        )
    if len(photographs) == 1:
        raise InputError(
            f"{folder} holds one photograph, {photographs[0].name}, and a scene needs at least two from "
            "different places; take about 20 to 100 around the object"
        )
    return photographs


def as_jpeg(pictures: Sequence[Path], folder: Path) -> list[Path]:
    """Write copies of pictures that pycolmap reads, with their headers; return the copies.

    Pictures that pycolmap reads are returned themselves.
    """
    from PIL import Image

    if all(p.suffix.lower() not in (".webp", ".heic", ".heif") for p in pictures):
        return list(pictures)
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for picture in pictures:
        read_size(picture)  # a picture that cannot be decoded is named
        buffer = BytesIO()
        with Image.open(picture) as opened:
            opened.convert("RGB").save(buffer, "JPEG", quality=95, exif=opened.getexif())
        copy = folder / f"{picture.name}.jpg"
        copies.append(write_bytes(copy, buffer.getvalue(), overwrite=True))
    return copies


def read_position(picture: Path) -> tuple[float, float, float] | None:
    """Read latitude and longitude in degrees, and altitude in metres, from a header (EXIF GPS)."""
    from PIL import Image

    read_size(picture)
    try:
        with Image.open(picture) as opened:
            gps = opened.getexif().get_ifd(0x8825)
        angles = [
            float(d) + float(m) / 60 + float(s) / 3600
            for d, m, s in (gps[number] for number in (2, 4))
        ]
        signs = [-1.0 if str(gps[number])[:1] in "SW" else 1.0 for number in (1, 3)]
        height = float(gps.get(6, 0.0)) * (-1 if gps.get(5) in (1, b"\1") else 1)
    except (KeyError, ValueError, TypeError, ZeroDivisionError, SyntaxError, OSError):
        return None
    place = signs[0] * angles[0], signs[1] * angles[1], height
    return place if all(map(math.isfinite, place)) else None


def east_north_up(places: Sequence[tuple[float, float, float]]) -> Tensor:
    """Convert latitudes, longitudes and altitudes to metres from their mean, float64 ``(N, 3)``.

    >>> east_north_up([(50.0, 8.0, 100.0), (50.001, 8.0, 102.0)])
    tensor([[  0.0000, -55.6145,  -1.0000],
            [  0.0000,  55.6145,   1.0000]], dtype=torch.float64)
    """
    table = torch.tensor(places, dtype=torch.float64)
    offsets = table - table.mean(0)
    # Radii of curvature of the ellipsoid of WGS 84, along the meridian and across.
    latitude = float(table[:, 0].mean().deg2rad())
    square = 1 - 0.00669438 * math.sin(latitude) ** 2
    across = 6378137.0 / math.sqrt(square)
    along = across * (1 - 0.00669438) / square
    east = across * math.cos(latitude) * offsets[:, 1].deg2rad()
    return torch.stack([east, along * offsets[:, 0].deg2rad(), offsets[:, 2]], 1)


def extract_frames(video: Path, folder: Path, count: int = 100) -> list[Path]:
    """Write the sharpest frame of each of ``count`` equal parts of a video as a PNG file.

    Args:
        video: the video.
        folder: folder of the frames; frames of an earlier call with the same video are kept.
        count: number of frames.

    Raises:
        MissingDependency: if PyAV is not installed.
        InputError: if the file cannot be decoded.
    """
    from PIL import Image

    best: dict[int, tuple[float, Any]] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for section, frame in _decode(video, count):
        grey = frame.reformat(width=320, height=240, format="gray").to_ndarray().astype(np.float32)
        sharpness = float(np.square(np.diff(grey, axis=0)).mean() + np.square(np.diff(grey)).mean())
        if section not in best or sharpness > best[section][0]:
            # Decoders reuse their frames, so the pixels are copied.
            best[section] = (sharpness, frame.to_ndarray(format="rgb24"))
        if section - 1 in best and not isinstance(best[section - 1][1], Path):
            pixels = best[section - 1][1]
            best[section - 1] = (0.0, _write_frame(folder, section - 1, pixels, Image))
    written = [
        pixels if isinstance(pixels, Path) else _write_frame(folder, section, pixels, Image)
        for section, (_, pixels) in sorted(best.items())
    ]
    if len(written) < 2:
        raise InputError(
            f"{video} holds {len(written)} frames that can be decoded, and a scene needs at least "
            "two; convert the video, for example to MP4 with H.264"
        )
    return written


def _write_frame(folder: Path, section: int, pixels: np.ndarray, image: Any) -> Path:
    buffer = BytesIO()
    image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return write_bytes(folder / f"frame_{section:04d}.png", buffer.getvalue(), overwrite=True)


def _decode(video: Path, count: int) -> Any:
    """Yield the frames of a video, each with the number of its section."""
    av = optional_package(
        "av",
        f"{video} is a video, whose frames are decoded by PyAV, which is not installed;",
        "captures",
        f", or extract frames with ffmpeg -i {video.name} -r 2 frames/%04d.png",
    )
    try:
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if stream.duration is not None and stream.time_base is not None:
                seconds = float(stream.duration * stream.time_base)
            else:
                seconds = (container.duration or 0) / 1e6
            first: float | None = None
            for frame in container.decode(stream):
                time = float(frame.time or 0.0)
                first = time if first is None else first
                share = (time - first) / seconds if seconds > 0 else 0.0
                yield min(count - 1, int(share * count)), frame
    except (av.error.FFmpegError, IndexError, OSError) as error:
        raise InputError(
            f"{video} cannot be decoded as a video ({' '.join(str(error).split())[:80]}); convert it, "
            "for example to MP4 with H.264"
        ) from error


def read_rgba(file: Path) -> Tensor:
    """Read a picture between 0 and 1 as stored, ``(4, height, width)``.

    Alpha is 1 if the file has no alpha.
    """
    array = read_pixels(file, 0)
    scaled = scale_to_unit(file, array, np.float32)
    values = torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[-1] not in (1, 2, 3, 4):
        raise InputError(
            f"{file}: an array of shape {tuple(array.shape)} is neither a grey nor a color "
            "picture; export it again"
        )
    if array.dtype.kind == "f" and not bool(values.isfinite().all()):
        raise InputError(
            f"{file}: the picture holds NaN or infinite values; repair it, or remove it from the "
            "set"
        )
    rgba = torch.ones(4, *values.shape[:2])
    channels = values.shape[-1]
    rgba[:3] = values[..., : 3 if channels > 2 else 1].permute(2, 0, 1)
    if channels in (2, 4):
        rgba[3] = values[..., -1]
    return rgba


def read_blocks(file: Path, block: int) -> Tensor:
    """Read a picture whose pixels are means over blocks, premultiplied by the alpha.

    JPEG files are averaged before they are converted, in a tenth of the time and the memory.
    """
    if block > 1 and sniff(file) == "jpeg":
        from PIL import Image

        with decoding(file, "JPEG"), Image.open(file) as picture:
            width, height = (side // block * block for side in picture.size)
            small = picture.convert("RGB").reduce(block, (0, 0, width, height))
        color = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
        return torch.cat([color, torch.ones_like(color[:1])])
    rgba = read_rgba(file)
    rgba[:3] *= rgba[3:]  # straightened and averaged premultiplied: no color of alpha 0 bleeds
    return functional.avg_pool2d(rgba, block) if block > 1 else rgba


def read_one_channel(file: Path, size: tuple[int, int]) -> Tensor:
    """Read the stored numbers of a mask or of depths from a picture or a `.npy`.

    The result is ``(1, height, width)``; NaN becomes 0.
    """
    if file.suffix.lower() == ".npy":
        with decoding(file, "NumPy"):
            array = open_arrays(file)
    else:
        array = read_pixels(file, 0)
    array = array[..., 0] if array.ndim == 3 else array
    if array.shape != size:
        raise InputError(
            f"{file} has the shape {array.shape}, but its picture has {size[0]} x {size[1]} "
            "pixels; export it again"
        )
    values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]
    return values.nan_to_num(0.0, posinf=0.0, neginf=0.0)


def resize(
    size: tuple[int, int], rgba: Tensor, mask: Tensor | None, depth: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce pictures ``(C, channel, height, width)`` to a size by averages over areas.

    A pixel is valid if everything that it covers is valid. Depths are not averaged across
    occlusions.

    Args:
        size: new height and width.
        rgba: colors, premultiplied by the alpha, and the alpha.
        mask: mask of valid pixels, or None.
        depth: depths, or None.
    """
    if mask is not None:
        mask = (functional.interpolate(1 - mask, size=size, mode="area") == 0).to(rgba)
    if depth is not None:
        depth = functional.interpolate(depth, size=size, mode="nearest-exact")
    return functional.interpolate(rgba, size=size, mode="area"), mask, depth


def middle_depth(depth: Tensor, shrink: int) -> Tensor:
    """Return the lower median of the known depths of each block.

    A mean would lie between the foreground and the background.
    """
    height, width = (side // shrink for side in depth.shape[1:])
    blocks = (
        depth[:, : height * shrink, : width * shrink]
        .unfold(1, shrink, shrink)
        .unfold(2, shrink, shrink)
        .flatten(3)
    )
    distances = torch.where(blocks > 0, blocks, torch.nan)
    return distances.nanmedian(dim=3).values.nan_to_num(0.0)
