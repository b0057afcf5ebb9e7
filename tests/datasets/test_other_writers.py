"""Files of other writers: each opens with the values that its writer meant, or one sentence refuses it.

A row is written by the other library, or by the layout of bytes of that writer.
"""

from __future__ import annotations

import datetime
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pydicom
import pytest
import tifffile
import torch
from PIL import Image, ImageCms
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from scipy.io import savemat

import invtoolbox as it
from invtoolbox.datasets.sweeps.pcd import read_pcd
from invtoolbox.errors import InputError

DRAW = np.random.default_rng(0)
GREY = (np.indices((24, 32)).sum(0) * 4 + DRAW.integers(0, 9, (24, 32))).astype(np.uint8)
#: Smooth colors, so that a JPEG keeps them.
ROWS, COLUMNS = np.indices((24, 32))
RGB = np.stack([ROWS * 8, COLUMNS * 6, 200 - ROWS * 3], -1).astype(np.uint8)

#: Colors that 8 bits of CIELAB keep.
PALE = RGB // 2 + 64

# -- pictures --------------------------------------------------------------------------------------


def pillow(picture: Any, mode: str | None = None, **options: Any) -> Callable[[Path], None]:
    """Return a function that saves a picture by Pillow."""

    def write(path: Path) -> None:
        image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
        (image if mode is None else image.convert(mode)).save(path, **options)

    return write


def tiff(array: np.ndarray, **options: Any) -> Callable[[Path], None]:
    """Return a function that saves an array by tifffile."""
    return lambda path: tifffile.imwrite(path, array, **options)


def white_as_zero(path: Path) -> None:
    """Save a grey picture by LZW, in which 0 is white."""
    Image.fromarray(255 - GREY).save(path, compression="tiff_lzw")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags[262].overwrite(0)  # type: ignore[union-attr]


def planes_by_lzw(path: Path) -> None:
    """Save colors by the layout of GDAL, INTERLEAVE=BAND and COMPRESS=LZW: a strip per color."""
    strips = []
    for k in range(3):
        stream = io.BytesIO()
        Image.fromarray(RGB[..., k].copy()).save(stream, format="TIFF", compression="tiff_lzw")
        with tifffile.TiffFile(io.BytesIO(stream.getvalue())) as file:
            start, count = (file.pages[0].tags[n].value[0] for n in (273, 279))  # type: ignore[union-attr]
        strips.append(stream.getvalue()[start : start + count])
    lengths = [len(strip) for strip in strips]
    first = 8 + 2 + 12 * 10 + 4  # behind the tags
    starts = [first + 30 + sum(lengths[:k]) for k in range(3)]
    tags = [(256, 3, 1, 32), (257, 3, 1, 24), (258, 3, 3, first), (259, 3, 1, 5), (262, 3, 1, 2)]
    tags += [(273, 4, 3, first + 6), (277, 3, 1, 3), (278, 3, 1, 24), (279, 4, 3, first + 18)]
    rows = b"".join(struct.pack("<HHII", *tag) for tag in (*tags, (284, 3, 1, 2)))
    numbers = struct.pack("<3H3I3I", 8, 8, 8, *starts, *lengths)
    head = b"II*\0" + struct.pack("<IH", 8, 10)
    path.write_bytes(head + rows + bytes(4) + numbers + b"".join(strips))


def lab() -> Image.Image:
    """Colors in CIELAB, by LittleCMS."""
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(Image.fromarray(PALE), *profiles, outputMode="LAB")  # type: ignore[arg-type, return-value]


def print_colors(picture: np.ndarray) -> np.ndarray:
    """Return inks whose product with white paper is the picture."""
    black = 255 - picture.max(-1, keepdims=True).astype(float)
    inks = 255 * (255 - black - picture) / np.maximum(255 - black, 1)
    return np.concatenate([inks, black], -1).round().astype(np.uint8)


CMYK = Image.fromarray(print_colors(RGB), "CMYK")
YCBCR = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
PALETTE = Image.fromarray(RGB).quantize(256)
SIXTEEN = GREY.astype(np.uint16) * 257

#: Pictures: name of the file, the writer, and the values from 0 to 1 with the largest difference.
PICTURES: dict[str, tuple[str, Callable[[Path], None], np.ndarray, float]] = {
    "LZW": ("a.tif", pillow(GREY, compression="tiff_lzw"), GREY / 255, 0),
    "LZW of 16 bits": ("a.tif", pillow(SIXTEEN, compression="tiff_lzw"), SIXTEEN / 65535, 0),
    "LZW of colors": ("a.tif", pillow(RGB, compression="tiff_lzw"), RGB / 255, 0),
    "LZW of real numbers": (
        "a.tif",
        pillow(GREY.astype("f4"), compression="tiff_lzw"),
        GREY.astype(float),
        0,
    ),
    "fax, group 4": (
        "a.tif",
        pillow(GREY > 90, compression="group4"),
        (GREY > 90).astype(float),
        0,
    ),
    "PackBits": ("a.tif", pillow(GREY, compression="packbits"), GREY / 255, 0),
    "JPEG in TIFF": ("a.tif", pillow(RGB, compression="jpeg", quality=95), RGB / 255, 0.06),
    "inks": ("a.tif", pillow(CMYK), RGB / 255, 0.01),
    "inks by LZW": ("a.tif", pillow(CMYK, compression="tiff_lzw"), RGB / 255, 0.01),
    "inks by tifffile": (
        "a.tif",
        tiff(print_colors(RGB), photometric="separated"),
        RGB / 255,
        0.01,
    ),
    "inks by Photoshop": ("a.jpg", pillow(CMYK, quality=95, subsampling=0), RGB / 255, 0.06),
    "video": ("a.tif", tiff(YCBCR, photometric="ycbcr"), RGB / 255, 0.02),
    "CIELAB": ("a.tif", pillow(lab()), PALE / 255, 0.04),
    "CIELAB by tifffile": (
        "a.tif",
        tiff(
            np.array([[[255, 0, 0], [0, 0, 0], [128, 0, 0]]], np.uint8).repeat(2, 0),
            photometric="cielab",
        ),
        np.array([[[1.0] * 3, [0.0] * 3, [0.467] * 3]]).repeat(2, 0),
        0.01,
    ),
    "a palette": ("a.tif", pillow(PALETTE), np.asarray(PALETTE.convert("RGB")) / 255, 0),
    "a palette in PNG": ("a.png", pillow(PALETTE), np.asarray(PALETTE.convert("RGB")) / 255, 0),
    "white as 0": ("a.tif", tiff(255 - GREY, photometric="miniswhite"), GREY / 255, 0),
    "white as 0 by LZW": (
        "a.tif",
        white_as_zero,
        GREY / 255,
        0,
    ),
    "planes of colors": (
        "a.tif",
        tiff(np.moveaxis(RGB, -1, 0).copy(), photometric="rgb", planarconfig="separate"),
        RGB / 255,
        0,
    ),
    "planes by LZW, as GDAL writes": ("a.tif", planes_by_lzw, RGB / 255, 0),
    "tiles, as GDAL writes": (
        "a.tif",
        tiff(SIXTEEN, tile=(16, 16), compression="zlib", predictor=2),
        SIXTEEN / 65535,
        0,
    ),
    "big-endian BigTIFF": ("a.tif", tiff(SIXTEEN, bigtiff=True, byteorder=">"), SIXTEEN / 65535, 0),
    "ImageJ": ("a.tif", tiff(GREY, imagej=True), GREY / 255, 0),
    "OME": ("a.ome.tif", tiff(GREY, metadata={"axes": "YX"}), GREY / 255, 0),
    "16 bits in PNG": ("a.png", pillow(SIXTEEN), SIXTEEN / 65535, 0),
}


@pytest.mark.parametrize("writer", PICTURES)
def test_a_picture_has_its_colors(tmp_path: Path, writer: str) -> None:
    name, write, values, distance = PICTURES[writer]
    write(tmp_path / name)
    y = it.datasets.open(tmp_path / name, reader="pictures")[0].y[0].movedim(0, -1).numpy()
    assert y.shape == (*values.shape[:2], 1 if values.ndim == 2 else 3)
    assert np.abs(y.squeeze() - values).max() <= distance + 1e-6


#: Pictures that are refused, and the words.
NO_PICTURES: dict[str, tuple[Callable[[Path], None], str]] = {
    "inks of 16 bits": (
        tiff(print_colors(RGB).astype("u2"), photometric="separated"),
        "SEPARATED of 16 bits",
    ),
    "CIELAB of 16 bits": (tiff(RGB.astype("u2"), photometric="cielab"), "CIELAB of 16 bits"),
    "CIELAB of ICC": (tiff(RGB, photometric="icclab"), "ICCLAB of 8 bits"),
    "video of other weights": (
        tiff(
            YCBCR,
            photometric="ycbcr",
            extratags=[(529, 5, 3, (2126, 10000, 7152, 10000, 722, 10000), True)],
        ),
        "YCBCR with a YCbCrCoefficients of its own",
    ),
    "other inks": (
        tiff(print_colors(RGB), photometric="separated", extratags=[(332, 3, 1, 2, True)]),
        "SEPARATED with a InkSet of its own",
    ),
}


@pytest.mark.parametrize("writer", NO_PICTURES)
def test_colors_that_are_not_converted_are_refused(tmp_path: Path, writer: str) -> None:
    write, words = NO_PICTURES[writer]
    write(tmp_path / "a.tif")
    with pytest.raises(InputError, match=f"{words}; save it as RGB"):
        it.datasets.open(tmp_path / "a.tif", reader="pictures")[0]


def test_a_profile_of_other_colors_is_refused(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    CMYK.save(tmp_path / "a.tif", icc_profile=profile)
    with pytest.raises(InputError, match="none of its inks"):
        it.datasets.open(tmp_path / "a.tif")[0]


def test_a_stack_by_lzw_is_a_volume(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY + k) for k in range(3)]
    pages[0].save(
        tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw"
    )
    opened = it.datasets.open(tmp_path / "a.tif")
    assert [int(opened[k].y[0, 0, 0, 0]) for k in range(3)] == [
        int(GREY[0, 0]) + k for k in range(3)
    ]
    packed = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match="truncated"):
        it.datasets.open(tmp_path / "a.tif")[2]


def test_pages_in_a_circle_end(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    (start,) = struct.unpack_from("<I", content, 4)
    (tags,) = struct.unpack_from("<H", content, start)
    struct.pack_into("<I", content, start + 2 + 12 * tags, start)  # the next page is the first
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(InputError, match="truncated or damaged"):
        it.datasets.open(tmp_path / "a.tif")


# -- DICOM, by pydicom -----------------------------------------------------------------------------


def dicom(syntax: Any = ExplicitVRLittleEndian, frames: int = 0, **fields: Any) -> Any:
    """Return a function that writes an image of DICOM: the values count up, frame by frame."""

    def write(path: Path) -> None:
        header = Dataset()
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = syntax
        header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", "1.2.3"
        header.Rows, header.Columns, header.SamplesPerPixel = 4, 5, 1
        header.BitsAllocated = header.BitsStored = 16
        header.HighBit, header.PixelRepresentation = 15, 0
        header.PhotometricInterpretation = "MONOCHROME2"
        header.ContentDate = datetime.date(2026, 1, 1).strftime("%Y%m%d")
        if frames:
            header.NumberOfFrames = frames
        for name, value in fields.items():
            setattr(header, name, value)
        stored = np.arange(20 * max(frames, 1), dtype="<u2")
        header.PixelData = stored.tobytes()
        if syntax == RLELossless:
            header.compress(RLELossless, stored.reshape(4, 5))
        header.save_as(path, enforce_file_format=syntax != ImplicitVRLittleEndian)

    return write


def sequence(**fields: Any) -> Sequence:
    item = Dataset()
    for name, value in fields.items():
        setattr(item, name, value)
    return Sequence([item])


def group(slope: float, spacing: float = 0.7) -> Dataset:
    """Return the functional groups of a frame."""
    item = Dataset()
    item.PixelValueTransformationSequence = sequence(RescaleSlope=slope, RescaleIntercept=-10)
    item.PixelMeasuresSequence = sequence(PixelSpacing=[spacing, 0.9], SliceThickness=2)
    return item


COUNT = np.arange(20.0).reshape(4, 5)
SCALE = {"RescaleSlope": 2, "RescaleIntercept": -10}
#: Images of DICOM: the writer, the number of items, the last item, and its units.
DICOMS: dict[str, tuple[Any, int, np.ndarray, str]] = {
    "CT": (dicom(Modality="CT", **SCALE), 1, 2 * COUNT - 10, "HU"),
    "MR": (dicom(Modality="MR"), 1, COUNT, "as stored"),
    "MR with a scale": (dicom(Modality="MR", **SCALE), 1, 2 * COUNT - 10, "as stored"),
    "PET": (dicom(Modality="PT", **SCALE), 1, 2 * COUNT - 10, "as stored"),
    "X-ray": (dicom(Modality="DX"), 1, COUNT, "as stored"),
    "MR by RLE": (dicom(RLELossless, Modality="MR"), 1, COUNT, "as stored"),
    "without preamble": (dicom(ImplicitVRLittleEndian, Modality="MR"), 1, COUNT, "as stored"),
    "frames of MR": (dicom(frames=3, Modality="MR"), 3, COUNT + 40, "as stored"),
    "frames of CT": (dicom(frames=2, Modality="CT", **SCALE), 2, 2 * COUNT + 30, "HU"),
    "enhanced CT, scales per frame": (
        dicom(
            frames=2,
            Modality="CT",
            PerFrameFunctionalGroupsSequence=Sequence([group(1), group(3)]),
        ),
        2,
        3 * (COUNT + 20) - 10,
        "HU",
    ),
    "enhanced MR, one scale": (
        dicom(frames=2, Modality="MR", SharedFunctionalGroupsSequence=Sequence([group(2)])),
        2,
        2 * (COUNT + 20) - 10,
        "as stored",
    ),
}


@pytest.mark.parametrize("writer", DICOMS)
def test_an_image_of_dicom_has_its_values(tmp_path: Path, writer: str) -> None:
    write, count, last, units = DICOMS[writer]
    write(tmp_path / "a.dcm")
    opened = it.datasets.open(tmp_path / "a.dcm")
    item = opened[-1]
    assert len(opened) == count and item.meta["units"] == units
    assert np.allclose(item.y[0, 0].numpy(), last)
    if "enhanced" in writer:
        assert item.meta["pixel_size"] == (0.7, 0.9) and item.meta["slice_thickness"] == 2


def test_what_is_no_attenuation_is_refused(tmp_path: Path) -> None:
    dicom(Modality="MR")(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="image of MR has no attenuation"):
        it.datasets.Dicom(tmp_path / "a.dcm", units="1/mm")[0]
    dicom(Modality="CT")(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="no RescaleSlope"):
        it.datasets.open(tmp_path / "a.dcm")[0]
    content = pydicom.dcmread(tmp_path / "a.dcm")
    content.NumberOfFrames = 10**8
    content.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="declares 100000000 frames"):
        it.datasets.open(tmp_path / "a.dcm")


# -- MATLAB, by SciPy ------------------------------------------------------------------------------

STACK = DRAW.normal(size=(6, 7, 4))
KSPACE = STACK + 1j * STACK[::-1]


def mat(**variables: Any) -> Callable[[Path], None]:
    return lambda path: savemat(path, variables)


def mat73(**variables: np.ndarray) -> Callable[[Path], None]:
    """Return a function that writes MATLAB's own layout of version 7.3: HDF5 behind 512 bytes."""

    def write(path: Path) -> None:
        stream = io.BytesIO()
        with h5py.File(stream, "w", userblock_size=512) as file:
            for name, array in variables.items():
                stored = np.ascontiguousarray(array.T)
                if np.iscomplexobj(stored):
                    pairs = np.empty(stored.shape, [("real", "<f8"), ("imag", "<f8")])
                    pairs["real"], pairs["imag"] = stored.real, stored.imag
                    stored = pairs
                file[name] = stored
                file[name].attrs["MATLAB_class"] = np.bytes_("double")
        content = bytearray(stream.getvalue())
        words = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM"
        content[: len(words)] = words
        path.write_bytes(content)

    return write


#: Arrays of MATLAB: the writer, the number of items, and the first item.
MATLAB: dict[str, tuple[Callable[[Path], None], int, np.ndarray]] = {
    "one image": (mat(image=STACK[..., 0]), 1, STACK[None, ..., 0]),
    "whole numbers": (mat(image=GREY), 1, GREY[None]),
    "a stack": (mat(volume=STACK), 4, STACK[None, ..., 0]),
    "the one named y": (mat(y=STACK[..., 1], x=STACK[..., 0]), 1, STACK[None, ..., 1]),
    "next to a struct": (mat(image=STACK[..., 0], info={"a": 1}), 1, STACK[None, ..., 0]),
    "k-space": (mat(kspace=KSPACE, mask=STACK[..., 0]), 1, np.moveaxis(KSPACE, -1, 0)),
    "k-space of one coil": (mat(raw=KSPACE[..., 0]), 1, KSPACE[None, ..., 0]),
    "version 7.3": (mat73(image=STACK[..., 0]), 1, STACK[None, ..., 0]),
    "a stack of version 7.3": (mat73(volume=STACK), 4, STACK[None, ..., 0]),
    "k-space of version 7.3": (mat73(kspace=KSPACE), 1, np.moveaxis(KSPACE, -1, 0)),
}


@pytest.mark.parametrize("writer", MATLAB)
def test_an_array_of_matlab_has_its_axes(tmp_path: Path, writer: str) -> None:
    write, count, first = MATLAB[writer]
    write(tmp_path / "a.mat")
    opened = it.datasets.open(tmp_path / "a.mat")
    assert len(opened) == count and np.allclose(opened[0].y[0].numpy(), first, atol=1e-6)


def test_a_file_of_matlab_without_arrays_is_refused(tmp_path: Path) -> None:
    for write in (mat(info={"a": 1}), mat73()):
        write(tmp_path / "a.mat")
        with pytest.raises(InputError, match="needs one array of numbers"):
            it.datasets.open(tmp_path / "a.mat")
    mat(image=GREY)(tmp_path / "a.mat")
    (tmp_path / "a.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated"):
        it.datasets.open(tmp_path / "a.mat")


# -- meshes ----------------------------------------------------------------------------------------

CORNERS = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def off(head: str, rest: str) -> bytes:
    rows = [f"{head}", "4 4 0", *(f"{x:g} {y:g} {z:g} {rest}" for x, y, z in CORNERS)]
    return "\n".join([*rows, *(f"3 {a} {b} {c}" for a, b, c in FACES), ""]).encode()


def obj(start: bytes) -> bytes:
    rows = [f"v {x:g} {y:g} {z:g}" for x, y, z in CORNERS]
    return start + "\r\n".join([*rows, *(f"f {a} {b} {c}" for a, b, c in FACES + 1), ""]).encode()


def stl() -> bytes:
    """A binary STL as CAD programs write it: every face has corners of its own."""
    rows = [struct.pack("<12fH", *[0.0] * 3, *CORNERS[face].ravel(), 0) for face in FACES]
    return bytes(80) + struct.pack("<I", len(rows)) + b"".join(rows)


def meshlab(faces: np.ndarray, form: str) -> bytes:
    """A textured PLY by MeshLab, with seams: each face has places of its own in the texture."""
    head = (
        f"ply\nformat {form} 1.0\ncomment VCGLIB generated\ncomment TextureFile texture.png\n"
        "element vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\n"
        "property list uchar float texcoord\nproperty int texnumber\nend_header\n"
    ).encode()
    if form == "ascii":
        rows = [f"{x:g} {y:g} {z:g} " for x, y, z in CORNERS]
        rows += [f"3 {a} {b} {c} 6 0 0 0.{k} 0 1 0.{k} 0 " for k, (a, b, c) in enumerate(faces)]
        return head + "\n".join([*rows, ""]).encode()
    rows_of_bytes = [
        struct.pack("<B3iB6fi", 3, *face, 6, 0, 0, k / 9, 0, 1, k / 9, 0)
        for k, face in enumerate(faces)
    ]
    return head + CORNERS.astype("<f4").tobytes() + b"".join(rows_of_bytes)


#: Meshes: name of the file, its bytes, its faces, and the color of its vertices.
MESHES: dict[str, tuple[str, bytes, np.ndarray, list[float] | None]] = {
    "Open3D, plain": ("a.off", off("OFF", ""), FACES, None),
    "Open3D, normals": ("a.off", off("NOFF", "0 0 1"), FACES, None),
    "Open3D, colors": ("a.off", off("COFF", "255 51 0 255"), FACES, [1, 0.2, 0]),
    "Open3D, both": ("a.off", off("CNOFF", "0 0 1 255 51 0 255"), FACES, [1, 0.2, 0]),
    "Geomview, real colors": ("a.off", off("COFF", "1.0 0.2 0.0 1.0"), FACES, [1, 0.2, 0]),
    "OBJ with a mark of its bytes": ("a.obj", obj(b"\xef\xbb\xbf"), FACES, None),
    "OBJ with a mark and a comment": ("a.obj", obj(b"\xef\xbb\xbf# made\r\n"), FACES, None),
    "STL": ("a.stl", stl(), FACES, None),
    "MeshLab, textured": ("a.ply", meshlab(FACES, "binary_little_endian"), FACES, None),
    "MeshLab, textured, text": ("a.ply", meshlab(FACES, "ascii"), FACES, None),
    "MeshLab, one face": ("a.ply", meshlab(FACES[:1], "binary_little_endian"), FACES[:1], None),
    "MeshLab, one face, text": ("a.ply", meshlab(FACES[:1], "ascii"), FACES[:1], None),
}


@pytest.mark.parametrize("texture", [False, True])
@pytest.mark.parametrize("writer", MESHES)
def test_a_mesh_has_its_vertices_and_faces(
    tmp_path: Path, writer: str, texture: bool, caplog: pytest.LogCaptureFixture
) -> None:
    name, content, faces, color = MESHES[writer]
    if name.endswith((".ply", ".stl")):
        pytest.importorskip("trimesh")
    (tmp_path / name).write_bytes(content)
    if texture:
        Image.fromarray(RGB).save(tmp_path / "texture.png")
    mesh = it.datasets.read_mesh(tmp_path / name)
    assert len(mesh.vertices) == 4 and not caplog.records
    # Of an STL the order is that of the first corners.
    assert np.array_equal(mesh.vertices[mesh.faces].numpy(), CORNERS[faces])
    if not name.endswith(".stl"):
        assert np.array_equal(mesh.vertices.numpy(), CORNERS)
    tint = None if color is None else torch.tensor(color).expand(4, 3)
    assert (mesh.colors is None) == (tint is None)
    assert tint is None or torch.allclose(mesh.colors, tint)


def test_a_shape_of_cad_is_deformed_in_one_piece(tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    (tmp_path / "a.stl").write_bytes(stl())
    mesh = it.datasets.read_mesh(tmp_path / "a.stl")
    moved = it.deform(mesh, {0: mesh.vertices[0].tolist(), 1: (mesh.vertices[1] * 1.5).tolist()})
    assert len(moved.vertices) == 4 and bool(moved.vertices.isfinite().all())


# -- clouds of PCL ---------------------------------------------------------------------------------

XYZI = DRAW.normal(size=(30, 4)).astype("<f4")


def pcd(fields: str, size: str, kind: str, count: str, body: bytes) -> bytes:
    """A binary PCD file as `pcl::PCDWriter` writes it."""
    return (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
        f"FIELDS {fields}\nSIZE {size}\nTYPE {kind}\nCOUNT {count}\nWIDTH 30\nHEIGHT 1\n"
        "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 30\nDATA binary\n"
    ).encode() + body


def records(stride: int, *places: int) -> bytes:
    """Return the points in records of so many bytes, with the fields at their places."""
    table = np.full((30, stride), 0xAB, np.uint8)
    for k, place in enumerate(places):
        table[:, place : place + 4] = XYZI[:, k : k + 1].view(np.uint8)
    return table.tobytes()


PADDED = pcd("x y z _ intensity _", "4 4 4 1 4 1", "F F F U F U", "1 1 1 4 1 12", records(32, 0, 4, 8, 16))  # fmt: skip
#: Clouds, and the number of columns that they have.
CLOUDS = {
    "padding": (PADDED, 4),
    "padding of no bytes": (
        pcd("x y z _ intensity", "4 4 4 1 4", "F F F U F", "1 1 1 0 1", records(16, 0, 4, 8, 12)),
        4,
    ),
    "counts of 0": (
        pcd("x y z intensity", "4 4 4 4", "F F F F", "0 0 0 0", records(16, 0, 4, 8, 12)),
        4,
    ),
    "records of 16 bytes": (pcd("x y z", "4 4 4", "F F F", "1 1 1", records(16, 0, 4, 8)), 3),
    "records of 32 bytes": (
        pcd("x y z intensity", "4 4 4 4", "F F F F", "1 1 1 1", records(32, 0, 4, 8, 16)),
        4,
    ),
    "a line at the end": (
        pcd("x y z", "4 4 4", "F F F", "1 1 1", records(12, 0, 4, 8) + b"\n"),
        3,
    ),
}


@pytest.mark.parametrize("writer", CLOUDS)
def test_a_cloud_of_pcl_has_its_points(tmp_path: Path, writer: str) -> None:
    content, columns = CLOUDS[writer]
    (tmp_path / "0.pcd").write_bytes(content)
    read = read_pcd(tmp_path / "0.pcd")
    assert list(read) == ["x", "y", "z", "intensity"][:columns]
    assert np.array_equal(np.stack(list(read.values()), 1), XYZI[:, :columns])


def test_records_whose_padding_is_unknown_are_refused(tmp_path: Path) -> None:
    fields = pcd("x y z intensity", "4 4 4 4", "F F F F", "1 1 1 1", records(24, 0, 4, 8, 16))
    (tmp_path / "0.pcd").write_bytes(fields)
    with pytest.raises(InputError, match="records have 24 bytes, and their fields 16"):
        read_pcd(tmp_path / "0.pcd")
