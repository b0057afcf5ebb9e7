"""Write a picture in the form of another: format, bit depth, alpha, orientation and metadata."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import Bounded, decoding
from invtoolbox.datasets.output import as_array, write_bytes
from invtoolbox.datasets.volumes.pictures import Original, orient, scale_to_unit
from invtoolbox.errors import InputError

#: Formats that are written, by suffix.
KINDS = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".bmp": "bmp",
    ".webp": "webp",
}
#: Formats of 8 bits, and formats without an alpha channel.
_EIGHT_BITS, _OPAQUE = ("jpeg", "bmp", "webp"), ("jpeg", "bmp")
#: Chunks of a PNG that stay true when its pixels change.
_CHUNKS = b"cHRM gAMA iCCP sRGB cICP mDCV cLLI pHYs eXIf tEXt zTXt iTXt tIME".split()
#: Tags of a TIFF page that stay true: document, maker, model, orientation, page, software, date,
#: artist, host, XMP, copyright, IPTC, Photoshop; and, if the size stays, those of GeoTIFF and GDAL.
_TAGS = (269, 271, 272, 274, 285, 297, 305, 306, 315, 316, 700, 33432, 33723, 34377)
_PLACES = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)
_INCH = 0.0254


def write_picture(
    path: str | os.PathLike[str],
    x: Tensor | np.ndarray,
    like: Original,
    fill: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a picture in the bit depth of another, with its alpha channel and its metadata.

    In the format of the other picture, the pixels lie in the file as there, and the orientation tag
    stays; in another format the picture is upright, without the tag. Whole numbers are rounded, and
    values outside of 0 to 1 are clipped; floating-point values stay. JPEG has the quality 95. An
    enlarged picture has an enlarged alpha channel, and a resolution that keeps its size in print.

    Args:
        path: the file; its suffix is one of `KINDS`.
        x: values from 0 to 1, or as stored, ``(channel, rows, columns)``, upright.
        like: the other picture, the item ``"original"`` of ``Measurement.meta``.
        fill: make wholly transparent pixels opaque.
        overwrite: replace an existing file.

    Raises:
        InputError: the format cannot hold the picture; see `check_form`.
    """
    path = Path(path).expanduser()
    kind = check_form(path, like)
    colors, alpha = like.read()
    dtype = colors.dtype if colors.dtype != bool else np.dtype(np.uint8)
    if kind != "tiff":
        dtype = np.dtype(np.uint8 if kind in _EIGHT_BITS or dtype.itemsize == 1 else np.uint16)
    pixels = _store(np.moveaxis(as_array(path, x), 0, -1), dtype)
    size = orient(colors, like.orientation).shape[:2]
    factor = pixels.shape[0] // size[0] if pixels.shape[0] % size[0] == 0 else 1
    if alpha is not None:
        if alpha.dtype != dtype:
            alpha = _store(scale_to_unit(like.path, alpha), dtype)
        if fill:
            alpha = np.where(alpha == 0, alpha.max(), alpha)
        pixels = np.dstack([pixels, _resize(orient(alpha, like.orientation), pixels.shape, factor)])
    is_same = kind == like.kind
    if is_same:
        pixels = orient(pixels, {6: 8, 8: 6}.get(like.orientation, like.orientation))
    pixels = np.ascontiguousarray(pixels)
    if kind == "tiff":
        content = _encode_tiff(pixels, like, factor, alpha is not None)
    elif kind == "png":
        content = _encode_png(pixels, list(_chunks(like, factor)))
    else:
        content = _encode(pixels, kind, like, factor)
    return write_bytes(path, content, overwrite)


def check_form(path: Path, like: Original) -> str:
    """Return the format of a file for a picture like another, or refuse it.

    Args:
        path: the file.
        like: the other picture.

    Raises:
        InputError: the format is not written, or cannot hold the transparency or the numbers of the
            picture.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise InputError(
            f"{path}: pictures are not written as {path.suffix or 'files without suffix'}; use one "
            f"of {', '.join(KINDS)}"
        )
    if kind != "tiff":
        colors, alpha = like.read()
        if kind in _OPAQUE and alpha is not None:
            raise InputError(
                f"{path}: {like.path} has an alpha channel, which {kind.upper()} cannot hold; give a "
                "name with .png, .tif or .webp"
            )
        if colors.dtype.kind == "f":
            raise InputError(
                f"{path}: {like.path} has floating-point values, which {kind.upper()} cannot hold; "
                "give a name with .tif"
            )
    return kind


def _store(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return values in the type of a file; 1 is the largest whole number."""
    if dtype.kind == "f":
        return values.astype(dtype)
    white = np.iinfo(dtype).max
    codes = np.clip(values.astype(np.float64), 0, 1) * white
    return np.rint(codes, out=codes).astype(dtype)


def _resize(alpha: np.ndarray, shape: tuple[int, ...], factor: int) -> np.ndarray:
    """Return an alpha channel of another size: enlarged, or continued beyond its edges."""
    rows, columns = (n - old for n, old in zip(shape[:2], alpha.shape))
    if factor > 1:
        values = torch.as_tensor(scale_to_unit(Path("alpha"), alpha))[None, ..., 0][None]
        large = torch.nn.functional.interpolate(values, shape[:2], mode="bicubic")
        return _store(large[0, 0, ..., None].numpy(), alpha.dtype)
    ends = [(n // 2, n - n // 2) for n in (rows, columns)]
    return np.pad(alpha, [*ends, (0, 0)], mode="edge") if rows or columns else alpha


def _facts(like: Original, factor: int, is_same: bool) -> dict[str, Any]:
    """Return profile, EXIF, XMP, resolution and comment of a file, as Pillow takes them."""
    from PIL import Image

    with decoding(like.path, "picture"), Bounded(like.path) as file, Image.open(file) as picture:
        facts = {name: picture.info.get(name) for name in ("icc_profile", "exif", "xmp", "comment")}
        resolution = picture.info.get("dpi")
        # The values were converted to sRGB.
        if picture.mode in ("CMYK", "LAB"):
            del facts["icc_profile"]
        if not is_same:
            exif = picture.getexif()
            for code in list(exif):
                # The tags of a TIFF file also describe where its pixels lie.
                if code == 274 or (like.kind == "tiff" and code not in (270, *_TAGS)):
                    del exif[code]
            facts = {
                "icc_profile": facts.get("icc_profile"),
                "exif": exif.tobytes() if exif else None,
            }
    if resolution and float(resolution[0]) > 1:
        facts["dpi"] = tuple(float(n) * factor for n in resolution)
    return {name: value for name, value in facts.items() if value}


def _encode(pixels: np.ndarray, kind: str, like: Original, factor: int) -> bytes:
    """Return the file of a JPEG, BMP or WebP picture."""
    from PIL import Image

    facts = _facts(like, factor, kind == like.kind)
    if kind == "jpeg":
        facts |= {"quality": 95, "subsampling": 0, "optimize": True}
    elif kind == "webp":
        is_lossy = like.kind == "webp" and b"VP8L" not in like.path.read_bytes()
        facts |= {"quality": 95} if is_lossy else {"lossless": True, "exact": True}
    else:
        facts = {key: value for key, value in facts.items() if key == "dpi"}
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(
        stream, format=kind.upper(), **facts
    )
    return stream.getvalue()


def _chunks(like: Original, factor: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield names and contents of the chunks of metadata for a PNG."""
    if like.kind == "png":
        content, place = like.path.read_bytes(), 8
        while place + 8 <= len(content):
            length, name = struct.unpack(">I4s", content[place : place + 8])
            data = content[place + 8 : place + 8 + length]
            if name == b"pHYs" and len(data) == 9:
                x, y, unit = struct.unpack(">IIB", data)
                data = struct.pack(">IIB", x * factor, y * factor, unit)
            if name in _CHUNKS:
                yield name, data
            place += length + 12
        return
    facts = _facts(like, factor, is_same=False)
    if profile := facts.get("icc_profile"):
        yield b"iCCP", b"ICC profile\0\0" + zlib.compress(profile)
    if resolution := facts.get("dpi"):
        yield b"pHYs", struct.pack(">IIB", *(round(n / _INCH) for n in resolution), 1)
    if exif := facts.get("exif"):
        yield b"eXIf", exif.removeprefix(b"Exif\0\0")


def _encode_png(pixels: np.ndarray, chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return the file of a PNG picture of 8 or 16 bits, grey or color, with or without alpha.

    Pillow writes no color of 16 bits.
    """
    rows, columns, channels = pixels.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBB3x", columns, rows, 8 * pixels.itemsize, color)
    stored = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(rows, -1).view(np.uint8)
    packer, step = zlib.compressobj(), channels * pixels.itemsize
    before = np.zeros_like(stored[:1])
    data = b""
    for start in range(0, rows, 64):
        block = stored[start : start + 64]
        above = np.concatenate([before, block[:-1]])
        before = block[-1:]
        # Every row has the filter 4 of PNG: the difference to the neighbour that Paeth predicts.
        left, corner = (np.pad(a, ((0, 0), (step, 0)))[:, :-step] for a in (block, above))
        a, b, c = (array.astype(np.int16) for array in (left, above, corner))
        pa, pb, pc = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
        near = np.where((pa <= pb) & (pa <= pc), left, np.where(pb <= pc, above, corner))
        data += packer.compress(np.pad(block - near, ((0, 0), (1, 0)), constant_values=4).tobytes())
    data += packer.flush()
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


def _encode_tiff(pixels: np.ndarray, like: Original, factor: int, has_alpha: bool) -> bytes:
    """Return the file of a TIFF picture; compressed without loss if the other one is compressed."""
    import tifffile

    channels = pixels.shape[-1] - has_alpha
    options: dict[str, Any] = {"photometric": "rgb" if channels == 3 else "minisblack"}
    if has_alpha:
        options["extrasamples"] = ["unassalpha"]
    if like.kind == "tiff":
        with decoding(like.path, "TIFF"), tifffile.TiffFile(like.path) as file:
            page: Any = file.pages[like.page]
            tags = page.tags
            if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and pixels.dtype.kind == "u":
                pixels = np.iinfo(pixels.dtype).max - pixels
                options["photometric"] = "miniswhite"
            if has_alpha and page.extrasamples:
                options["extrasamples"] = list(page.extrasamples)
            is_resized = pixels.shape[:2] != (page.imagelength, page.imagewidth)
            codes = (*_TAGS, *(() if is_resized else _PLACES))
            options["extratags"] = [
                (tag.code, int(tag.dtype), tag.count, tag.value, True)
                for tag in tags
                if tag.code in codes
            ]
            # These descriptions contain the size of the picture.
            has_size = file.is_shaped or file.is_ome or file.is_imagej
            if page.description and not (has_size and is_resized):
                options["description"] = page.description
            if page.photometric.name not in ("SEPARATED", "CIELAB"):
                options["iccprofile"] = page.iccprofile
            if page.compression != 1:
                options["compression"] = "zlib"
            pair = [tags[code].value for code in (282, 283) if code in tags]
            if len(pair) == 2:
                options["resolution"] = [(n * factor, d) for n, d in pair]
                options["resolutionunit"] = int(tags[296].value) if 296 in tags else 2
    else:
        facts = _facts(like, factor, is_same=False)
        options |= {"iccprofile": facts.get("icc_profile"), "compression": "zlib"}
        if resolution := facts.get("dpi"):
            options |= {"resolution": resolution, "resolutionunit": 2}
    stream = io.BytesIO()
    shaped = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    tifffile.imwrite(stream, shaped, metadata=None, software=False, **options)
    return stream.getvalue()
