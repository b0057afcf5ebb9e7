"""Reader of pictures: PNG, JPEG, BMP, TIFF, WebP and HEIC as tensors with values from 0 to 1."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import Bounded, decoding, require_file, require_plausible, sniff
from invtoolbox.core.environment import optional_package
from invtoolbox.datasets.measurement import Measurement, as_tensor, check_index
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.volumes.tiff import check_length, read_page, require_pages
from invtoolbox.errors import InputError

# Number of the orientation tag, in EXIF and in TIFF.
_ORIENTATION = 274
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".heic", ".heif")


@dataclass(frozen=True)
class Original:
    """File that a picture was read from; `write_picture` gives another picture its form.

    Attributes:
        path: the file.
        page: number of the page of a TIFF file.
        orientation: orientation tag that was applied, 1 to 8.
    """

    path: Path
    page: int = 0
    orientation: int = 1

    @property
    def kind(self) -> str:
        """Format of the file: png, jpeg, bmp, tiff, webp or heif."""
        return _format_of(self.path)

    def read(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the colors and the alpha channel, ``(rows, columns, channels)``, as stored.

        A color that a PNG declares transparent becomes an alpha channel.
        """
        array = read_pixels(self.path, self.page)
        array = array[..., None] if array.ndim == 2 else array
        if array.shape[-1] in (2, 4):
            return array[..., :-1], array[..., -1:]
        if self.kind == "png" and array.dtype == np.uint8:
            from PIL import Image

            with Bounded(self.path) as file, Image.open(file) as picture:
                if picture.has_transparency_data:
                    return array, np.asarray(picture.convert("RGBA"))[..., 3:]
        return array, None

    def known(self, alpha: bool = True) -> np.ndarray:
        """Return which pixels hold numbers and are not wholly transparent, upright.

        Args:
            alpha: whether transparent pixels are unknown.
        """
        colors, transparency = self.read()
        is_known = ~np.isnan(colors).any(-1, keepdims=True)
        if alpha and transparency is not None:
            is_known &= transparency > 0
        return np.ascontiguousarray(orient(is_known, self.orientation)[..., 0])


class Pictures:
    """Data set of pictures: one file, or all pictures of a folder in the order of their names.

    Each page of a TIFF file is an item. An item's `y` is ``(1, channel, rows, columns)`` with one
    channel (grey) or three (red, green, blue). Whole numbers are divided by the largest number of
    their type (255, 65535; color pictures keep 16 bits too). Floating-point values are not changed,
    because the file defines their unit. An alpha channel is dropped. A picture is rotated as its
    orientation tag (EXIF, TIFF) requires, like in every viewer.

    With a geometry, a grey picture (for example a TIFF of measured line integrals) is a sinogram:
    rows are angles and columns are detector elements, in the order of the file.

    Args:
        path: path of a file or a folder.
        geometry: geometry of the scan, for pictures that are sinograms.
        as_stored: keep the pixels in the order of the file, without applying the orientation tag.
        with_gaps: read NaN as 0, in place of an error; `Original.known` tells them apart.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        geometry: ScanGeometry | None = None,
        as_stored: bool = False,
        with_gaps: bool = False,
    ) -> None:
        self.geometry = geometry
        self.as_stored, self.with_gaps = as_stored or geometry is not None, with_gaps
        folder = Path(path).expanduser()
        files = [require_file(folder)] if not folder.is_dir() else picture_files(folder)
        self.pages = [(file, page) for file in files for page in range(count_pages(file))]

    def __len__(self) -> int:
        return len(self.pages)

    def __getitem__(self, index: int) -> Measurement:
        path, page = self.pages[check_index(index, len(self))]
        array = read_pixels(path, page)
        stored = array.dtype
        if array.ndim == 2:
            array = array[..., None]
        if array.ndim != 3 or array.shape[-1] not in (1, 2, 3, 4):
            raise InputError(
                f"{path}: an array of shape {array.shape} is neither a grey nor a color "
                "picture; save it as .npy if it is a volume"
            )
        array = array[..., : 1 if array.shape[-1] <= 2 else 3]
        turn = 1 if self.as_stored else read_orientation(path, page)
        array = orient(np.where(np.isnan(array), 0, array) if self.with_gaps else array, turn)
        y = as_tensor(np.moveaxis(scale_to_unit(path, array), -1, 0))[None]
        units = "as stored" if np.issubdtype(stored, np.floating) else "1 (0 black to 1 white)"
        return Measurement(
            y=y,
            geometry=self.geometry,
            meta={
                "source": str(path),
                "page": page,
                "units": units,
                "stored": str(stored),
                "original": Original(path, page, turn),
            },
        )


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures of a folder that are not hidden, in the order of their names."""
    files = (f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
    # Other systems leave hidden files such as "._photo.jpg", which are no pictures.
    pictures = sorted(f for f in files if not f.name.startswith("."))
    if not pictures:
        raise InputError(f"{folder}: no pictures ({', '.join(SUFFIXES)}) in this folder")
    return pictures


def read_pixels(path: Path, page: int) -> np.ndarray:
    """Read the stored array of one page, ``(rows, columns)`` or ``(rows, columns, channels)``."""
    kind = _format_of(path)
    if kind == "tiff":
        return _read_tiff(path, page)
    from PIL import Image

    with decoding(path, kind.upper()):
        # A file that is too small for its picture is refused before memory is allocated.
        with Bounded(path) as file, Image.open(file) as picture:
            bands = len(picture.getbands())
            require_plausible(path, (picture.height, picture.width, bands), np.uint8)
            if picture.mode == "CMYK":
                return _as_rgb(picture)
            if kind in ("webp", "heif"):
                return np.asarray(picture)
        if kind == "png" and _is_deep_color(path):
            return _read_deep_color(path)
        from skimage.io import imread

        with Bounded(path) as file:
            return np.asarray(imread(file))


def _format_of(path: Path) -> str:
    kind = sniff(require_file(path))
    if kind not in ("png", "jpeg", "bmp", "tiff", "webp", "heif"):
        raise InputError(
            f"{path}: the first bytes are not those of a PNG, JPEG, BMP, TIFF, WebP or HEIC file; "
            "export it again"
        )
    if kind == "heif":
        need = f"{path} is a HEIC file, decoded by pi-heif, which is not installed;"
        optional_package("pi_heif", need, "captures").register_heif_opener()
    return kind


def read_size(path: Path) -> tuple[int, int]:
    """Read rows and columns of the stored array from the header of a file.

    Args:
        path: the picture.
    """
    kind = _format_of(path)
    if kind == "tiff":
        import tifffile

        with decoding(path, "TIFF"), tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages[0]
            return int(page.imagelength), int(page.imagewidth)
    from PIL import Image

    with decoding(path, kind.upper()), Bounded(path) as file, Image.open(file) as picture:
        return picture.height, picture.width


def scale_to_unit(path: Path, array: np.ndarray, dtype: Any = np.float64) -> Any:
    """Divide whole numbers by the largest number of their type; keep floating-point values.

    Args:
        path: path of the picture, for error messages.
        array: the stored numbers.
        dtype: precision of the result for whole numbers.
    """
    if array.dtype == bool or np.issubdtype(array.dtype, np.floating):
        return array
    if array.dtype.kind == "u":
        values = array.astype(dtype)
        values /= np.iinfo(array.dtype).max
        return values
    raise InputError(
        f"{path}: stored as {array.dtype}, for which 0 to 1 is not defined; save it as unsigned "
        "whole numbers or floating point"
    )


def count_pages(path: Path) -> int:
    """Return the number of pages of a TIFF file; other pictures have one."""
    if path.suffix.lower() not in (".tif", ".tiff") or sniff(require_file(path)) != "tiff":
        return 1
    import tifffile

    with decoding(path, "TIFF"), tifffile.TiffFile(path) as file:
        return require_pages(path, file)


def _read_tiff(path: Path, page: int) -> np.ndarray:
    import tifffile

    with decoding(path, "TIFF"), tifffile.TiffFile(path) as file:
        stored = file.pages[page]
        require_plausible(path, stored.shape, stored.dtype)
        is_converted = _is_converted(path, stored.keyframe)
        check_length(path, page, stored)
        if is_converted:
            from PIL import Image

            with Bounded(path) as stream, Image.open(stream) as picture:
                picture.seek(page)
                return _as_rgb(picture)
        array = read_page(path, page, stored)
        if stored.axes.startswith("S"):
            array = np.moveaxis(array, 0, -1)
        if (
            getattr(stored, "photometric", None) == tifffile.PHOTOMETRIC.MINISWHITE
            and array.dtype.kind == "u"
        ):
            array = np.iinfo(array.dtype).max - array
        return array


def _is_converted(path: Path, page: Any) -> bool:
    """Return whether the colors of a page of a TIFF file must be converted to red, green and blue.

    Raises:
        InputError: a color space, or a form of it, that `_as_rgb` does not convert.
    """
    name = getattr(page.photometric, "name", str(page.photometric))
    if name in ("MINISWHITE", "MINISBLACK", "RGB", "MASK", "CFA", "LINEAR_RAW"):
        return False
    # Defaults of TIFF 6: the weights of ITU-R BT.601, and the whole range of 8 bits.
    usual = {
        "InkSet": (1,),
        "YCbCrCoefficients": (0.299, 0.587, 0.114),
        "ReferenceBlackWhite": (0, 255, 128, 255, 128, 255),
        **({"YCbCrSubSampling": (1, 1)} if page.compression == 1 else {}),
    }
    if name == "YCBCR" and page.compression == 1 and "YCbCrSubSampling" not in page.tags:
        raise _unknown_colors(path, f"{name} of half the resolution")
    if name not in ("SEPARATED", "YCBCR", "CIELAB", "PALETTE") or page.bitspersample > 8:
        raise _unknown_colors(path, f"{name} of {page.bitspersample} bits")
    for key in usual:
        if key in page.tags:
            numbers = np.ravel(page.tags[key].value).astype(float)
            if numbers.size == 2 * len(usual[key]):  # ratios
                numbers = numbers[::2] / numbers[1::2]
            if not np.array_equal(numbers.round(4), usual[key]):
                raise _unknown_colors(path, f"{name} with a {key} of its own")
    return True


def _unknown_colors(path: Path, colors: str) -> InputError:
    return InputError(
        f"{path}: its colors are {colors}; save it as RGB in the program that made it"
    )


def _as_rgb(picture: Any) -> np.ndarray:
    """Convert a picture in the colors of print, of video or of a palette, or in CIELAB, to RGB.

    The profile of the inks is used if the file has one.
    """
    from PIL import ImageCms

    profile = picture.info.get("icc_profile")
    if picture.mode == "LAB" or (picture.mode == "CMYK" and profile):
        source: Any = (
            ImageCms.createProfile("LAB")
            if picture.mode == "LAB"
            else ImageCms.ImageCmsProfile(io.BytesIO(profile))
        )
        screen: Any = ImageCms.createProfile("sRGB")
        try:
            picture = ImageCms.profileToProfile(picture, source, screen, outputMode="RGB")
        except ImageCms.PyCMSError as error:
            raise InputError("its profile of colors is none of its inks; save it as RGB") from error
    return np.asarray(picture.convert("RGB"))


def read_orientation(path: Path, page: int = 0) -> int:
    """Return the orientation tag, 1 to 8; 1 (as stored) if it is missing or has no meaning.

    Args:
        path: path of the picture.
        page: number of the page of a TIFF file.
    """
    if sniff(path) == "tiff":
        import tifffile

        with decoding(path, "TIFF"), tifffile.TiffFile(path) as file:
            keyframe: Any = file.pages[page].keyframe
            tag = keyframe.tags.get(_ORIENTATION)
            value = 1 if tag is None else tag.value
    else:
        from PIL import Image

        with decoding(path, "picture"), Bounded(path) as stored, Image.open(stored) as picture:
            value = picture.getexif().get(_ORIENTATION, 1)
    return int(value) if value in range(1, 9) else 1


def orient(array: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate and mirror the pixels ``(rows, columns, channels)`` as the tag requires.

    >>> orient(np.arange(6).reshape(2, 3, 1), 6)[..., 0]
    array([[3, 0],
           [4, 1],
           [5, 2]])
    """
    if orientation >= 5:  # rows and columns are swapped
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _is_deep_color(path: Path) -> bool:
    """Return whether a PNG has 16 bits and several channels, of which Pillow reads only 8 bits."""
    header = path.read_bytes()[:26]
    return len(header) == 26 and header[24] == 16 and header[25] in (2, 4, 6)


def _read_deep_color(path: Path) -> np.ndarray:
    import kornia_rs.io

    mode = {2: "rgb", 6: "rgba"}.get(path.read_bytes()[25])
    if mode is None:
        raise InputError(
            f"{path}: a grey picture of 16 bits with alpha; save it without the alpha channel"
        )
    return np.asarray(kornia_rs.io.read_image_png_u16(str(path), mode))
