"""Every reader: files that the format's reference writer made, and what each refuses in one sentence."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from invtoolbox import datasets
from invtoolbox.datasets.scans.synchrotron import line_integrals
from invtoolbox.errors import InputError
from invtoolbox.processing import to_hounsfield

RNG = np.random.default_rng(0)


def write_htc(path: Path, angles: np.ndarray | None = None, **changes: object) -> Path:
    from scipy.io import savemat

    angles = np.linspace(0, 90, 31) if angles is None else angles
    parameters = {
        "angles": angles,
        "distanceSourceOrigin": 400.0,
        "distanceSourceDetector": 500.0,
        "pixelSizePost": 0.2,
        "numDetectorsPost": 20.0,
        "effectivePixelSizePost": 0.16,
        "distanceUnit": "mm",
        **changes,
    }
    parameters = {k: v for k, v in parameters.items() if v is not None}
    savemat(
        path,
        {
            "CtDataLimited": {
                "type": "2d",
                "sinogram": RNG.random((angles.size, 20)),
                "parameters": parameters,
            }
        },
        do_compression=True,
    )
    return path


def write_dxchange(path: Path, **changes: object) -> Path:
    """Counts of a Gaussian blob that turns about column 27.2, dark field 100, flat field 10,000."""
    angles = np.linspace(0, 180, 60, endpoint=False)
    u = np.arange(60)[None] - 27.2
    paths = [r * np.cos(np.radians(angles) - a)[:, None] for r, a in [(8, 0.3), (13, 2)]]
    line = np.repeat(sum(np.exp(-(((u - path) / 4) ** 2)) for path in paths)[:, None], 3, axis=1)
    fields = {
        "data": (100 + 9900 * np.exp(-line)).astype(np.float32),
        "theta": angles,
        "data_white": np.full((4, 3, 60), 10000, np.uint16),
        "data_dark": np.full((4, 3, 60), 100, np.uint16),
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, array in fields.items():
            if array is not None:
                file[f"exchange/{name}"] = array
        if fields["theta"] is not None:
            file["exchange/theta"].attrs["units"] = "degrees"
    return path


def write_dicom(path: Path, **changes: object) -> Path:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    stored = np.array([[0, 1000, 2000], [-2000, 1024, 24]], np.int16)
    fields = {
        "Modality": "CT",
        "Rows": 2,
        "Columns": 3,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "RescaleSlope": 2,
        "RescaleIntercept": -1024,
        "PixelSpacing": [0.7, 0.9],
        "PixelPaddingValue": -2000,
        "PixelData": stored.tobytes(),
        "SeriesInstanceUID": "1.2",
        **changes,
    }
    for name, value in fields.items():
        if value is not None:
            setattr(image, name, value)
    image.save_as(path, enforce_file_format=True)
    return path


def write_kernels(path: Path) -> Path:
    """A cell array as MATLAB 7.3 stores it: references, columns first, a header of 512 bytes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        references = [
            file.create_dataset(f"#refs#/{n}", data=RNG.random((3 + n, 5))).ref for n in range(2)
        ]
        file.create_dataset("kernels", (2, 1), dtype=h5py.ref_dtype)[:, 0] = references
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    return path


def write_picture(path: Path) -> Path:
    from skimage.io import imsave

    imsave(path, RNG.integers(0, 255, (40, 30), dtype=np.uint8), check_contrast=False)
    return path


def write_array(path: Path) -> Path:
    if path.suffix == ".npy":
        np.save(path, RNG.random((40, 30)))
    else:
        np.savez_compressed(path, y=RNG.random((40, 30)))
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "scan.mat": write_htc,
    "scan.h5": write_dxchange,
    "slice.dcm": write_dicom,
    "kernels.mat": write_kernels,
    "picture.png": write_picture,
    "picture.jpg": write_picture,
    "picture.tif": write_picture,
    "array.npy": write_array,
    "array.npz": write_array,
}


@pytest.mark.parametrize("name", WRITERS)
def test_content_decides_the_reader_whatever_the_name(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / name)
    item = datasets.open(path)[0]
    assert item.y.dtype == torch.float32 and item.y.shape[:2] == (1, 1) and item.y.is_contiguous()
    assert {"source", "units"} <= set(item.meta)
    renamed = path.rename(tmp_path / "without_suffix")
    again = datasets.open(renamed)
    assert torch.equal(again[0].y, item.y) and torch.equal(again[-len(again)].y, item.y)
    with pytest.raises(IndexError):
        again[len(again)]


@pytest.mark.parametrize("name", WRITERS)
def test_truncated_files_are_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    whole = WRITERS[name](tmp_path / name).read_bytes()
    refused = 0
    cuts = [0, 1, 7, 100, 600, *np.linspace(1, len(whole) - 1, 20).astype(int)]
    for cut in cuts:
        path = tmp_path / f"cut_{name}"
        path.write_bytes(whole[:cut])
        try:
            datasets.open(path)[0]
        except InputError as error:
            refused += 1
            assert f"cut_{name}" in str(error) and "\n" not in str(error)
    # A cut may fall in what is not read (padding at the end); never into a half-read image.
    assert refused >= len(cuts) - 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files_raise_nothing_but_input_errors(name: str, tmp_path: Path) -> None:
    whole = WRITERS[name](tmp_path / name).read_bytes()
    generator = np.random.default_rng(1)
    path = tmp_path / f"damaged_{name}"
    for _ in range(40):
        damaged = np.frombuffer(whole, np.uint8).copy()
        places = generator.integers(0, damaged.size, 6)
        damaged[places] = generator.integers(0, 256, 6)
        path.write_bytes(damaged.tobytes())
        try:
            datasets.open(path)[0]
        except InputError as error:
            assert path.name in str(error) and "\n" not in str(error)


def test_missing_empty_and_unknown(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.npy: there is no such file"):
        datasets.open(tmp_path / "none.npy")
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match=r"empty.png: the file is empty"):
        datasets.open(tmp_path / "empty.png")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="no known format"):
        datasets.open(tmp_path / "notes.txt")
    with pytest.raises(InputError, match=r"did you mean 'arrays'"):
        datasets.open(write_array(tmp_path / "a.npy"), reader="array")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="neither"):
        datasets.open(tmp_path / "folder")


def test_a_plug_in_reads_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from invtoolbox.catalogue import registry

    (tmp_path / "a.raw").write_bytes(b"1")
    plug_in = EntryPoint(
        "mine", "invtoolbox.datasets.volumes.pictures:Pictures", "invtoolbox.readers"
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: [plug_in])
    assert isinstance(datasets.open(tmp_path / "a.raw", reader="mine"), datasets.Pictures)
    with pytest.raises(InputError, match="did you mean 'mine'"):
        datasets.open(tmp_path / "a.raw", reader="mines")


def test_bmp(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for name, array in (("color", color), ("grey", color[..., 0]), ("bits", color[..., 0] > 99)):
        Image.fromarray(array).save(tmp_path / f"{name}.bmp")
        item = datasets.open(tmp_path / f"{name}.bmp")[0]
        channels = array if array.ndim == 3 else array[..., None]
        expected = np.moveaxis(channels / (1 if name == "bits" else 255), -1, 0)[None]
        assert np.allclose(item.y.numpy(), expected)
    assert len(datasets.open(tmp_path)) == 3
    data = (tmp_path / "color.bmp").read_bytes()
    (tmp_path / "cut.bmp").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cut.bmp"):
        datasets.open(tmp_path / "cut.bmp")[0]
    # A text that begins with the same two letters is no picture.
    (tmp_path / "text.bmp").write_bytes(b"BM is an abbreviation of Benchmark, see below")
    with pytest.raises(InputError, match="text.bmp"):
        datasets.open(tmp_path / "text.bmp")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (pytest.fail, ("code from a file was run",))

    objects = np.array([Trap()], dtype=object)
    np.save(tmp_path / "trap.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "trap.npz", y=objects)
    for name in ("trap.npy", "trap.npz"):
        with pytest.raises(InputError, match=name):
            datasets.open(tmp_path / name)


def test_htc(tmp_path: Path) -> None:
    from scipy.io import savemat

    path = write_htc(tmp_path / "htc2022_09z_limited.mat")
    item = datasets.open(path)[0]
    assert item.y.shape == (1, 1, 31, 20) and item.geometry is not None
    assert (
        item.geometry.angles[-1] == pytest.approx(np.pi / 2) and item.geometry.source_origin == 400
    )
    assert item.geometry.image_shape == (512, 512) and item.geometry.pixel_size == 0.16
    assert item.reference is None and item.segmentation is None
    savemat(
        tmp_path / "htc2022_09z_recon_fbp_seg.mat", {"reconFullFbpSeg": np.eye(512, dtype=np.uint8)}
    )
    savemat(tmp_path / "htc2022_09z_full_recon_fbp.mat", {"reconFullFbp": np.eye(512)})
    item = datasets.open(path)[0]
    assert item.segmentation is not None and item.segmentation.sum() == 512
    assert item.reference is not None and item.reference.max().item() == pytest.approx(1 / 0.16)


def test_htc_refuses(tmp_path: Path) -> None:
    from scipy.io import savemat

    savemat(tmp_path / "other.mat", {"x": np.ones(3)})
    with pytest.raises(InputError, match=r"other.mat.*CtData.*found x"):
        datasets.open(tmp_path / "other.mat", reader="htc2022")[0]
    with pytest.raises(InputError, match=r"lacks pixelSizePost"):
        datasets.open(write_htc(tmp_path / "a.mat", pixelSizePost=None))[0]
    with pytest.raises(InputError, match=r"'cm', expected mm"):
        datasets.open(write_htc(tmp_path / "b.mat", distanceUnit="cm"))[0]
    with pytest.raises(InputError, match=r"31 rows and 20 columns.*21 detector"):
        datasets.open(write_htc(tmp_path / "c.mat", numDetectorsPost=21.0))[0]


def test_dxchange(tmp_path: Path) -> None:
    data = datasets.open(write_dxchange(tmp_path / "scan.h5"))
    assert len(data) == 3
    item = data[1]
    assert item.y.shape == (1, 1, 60, 60) and item.geometry is not None
    assert item.geometry.kind == "parallel" and item.geometry.length_unit == "pixel"
    assert item.y.max().item() == pytest.approx(2, abs=0.05)
    assert item.geometry.axis_column == pytest.approx(27.2, abs=0.1)
    assert item.geometry.image_shape == (56, 56), (
        "as far as the shorter side of the detector reaches"
    )
    given = datasets.DataExchange(tmp_path / "scan.h5", center=20.0, pixel_size=0.005).geometry
    assert given.axis_column == pytest.approx(20.0) and given.detector_spacing == 0.005
    assert given.length_unit == "mm"


def test_dxchange_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"/exchange/data_dark"):
        datasets.open(write_dxchange(tmp_path / "a.h5", data_dark=None))
    with pytest.raises(InputError, match=r"/exchange/theta"):
        datasets.open(write_dxchange(tmp_path / "b.h5", theta=None))
    with pytest.raises(InputError, match=r"theta has shape \(59,\)"):
        datasets.open(write_dxchange(tmp_path / "c.h5", theta=np.zeros(59)))
    with pytest.raises(InputError, match=r"data_white has shape"):
        datasets.open(write_dxchange(tmp_path / "d.h5", data_white=np.ones((4, 3, 61))))
    with pytest.raises(InputError, match="swapped"):
        datasets.open(write_dxchange(tmp_path / "e.h5", data_white=np.ones((4, 3, 60))))


def test_counts_without_a_logarithm() -> None:
    white, dark = np.full(40, 1000.0), np.full(40, 100.0)
    counts = np.full((10, 40), 550.0)
    counts[2, 7] = 100.0
    counts[3, 8] = 50.0
    counts[4, 9] = 109.0
    white[20] = 100.0
    counts[:, 20] = 12345.0
    sinogram, dead, starved = line_integrals(counts, white, dark)
    assert dead == (20,) and starved == 2
    assert sinogram[2, 7] == sinogram[3, 8] == sinogram[4, 9] == pytest.approx(np.log(100))
    assert sinogram[:, 20] == pytest.approx(np.full(10, np.log(2)))
    assert np.isfinite(sinogram).all()
    with pytest.raises(
        InputError, match=r"1 of 400 counts are NaN or infinite, the first at view 5, column 6"
    ):
        line_integrals(
            np.where(np.arange(400).reshape(10, 40) == 206, np.nan, counts), np.full(40, 1e3), dark
        )
    with pytest.raises(InputError, match=r"400 counts are not above the dark field"):
        line_integrals(np.full((10, 40), 90.0), np.full(40, 1000.0), dark)


def test_dicom(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "slice.dcm")
    item = datasets.open(path)[0]
    expected = torch.tensor([[-1024.0, 976.0, 2976.0], [-1000.0, 1024.0, -976.0]])
    assert torch.equal(item.y[0, 0], expected)
    assert item.meta["pixel_size"] == (0.7, 0.9) and item.meta["units"] == "HU"
    attenuation = datasets.Dicom(path, units="1/mm")[0].y
    assert attenuation.min() == 0 and attenuation[0, 0, 0, 1].item() == pytest.approx(
        0.0193 * 1.976
    )
    hounsfield = to_hounsfield(attenuation, 0.0193)
    assert torch.allclose(hounsfield, expected.clamp(min=-1000), atol=1e-3)


def test_dicom_folder_is_sorted_along_z(tmp_path: Path) -> None:
    for number, z in enumerate([30.0, 10.0, 20.0]):
        write_dicom(tmp_path / f"{number}.dcm", ImagePositionPatient=[0, 0, z])
    assert [f.stem for f in datasets.Dicom(tmp_path).files] == ["1", "2", "0"]
    assert len(datasets.open(tmp_path)) == 3


def test_dicom_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="4 frames"):
        datasets.open(write_dicom(tmp_path / "a.dcm", NumberOfFrames=4))[0]
    with pytest.raises(InputError, match="RescaleSlope"):
        datasets.open(write_dicom(tmp_path / "b.dcm", RescaleSlope=None))[0]
    with pytest.raises(InputError, match="no pixels"):
        datasets.open(write_dicom(tmp_path / "c.dcm", PixelData=None))[0]
    with pytest.raises(InputError, match="color"):
        datasets.open(write_dicom(tmp_path / "d.dcm", SamplesPerPixel=3))[0]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_keep_every_bit(
    suffix: str, shape: tuple[int, ...], dtype: type, tmp_path: Path
) -> None:
    from tifffile import imwrite

    path = tmp_path / f"picture{suffix}"
    array = RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    if suffix == ".tif":
        imwrite(path, array, photometric="rgb" if len(shape) == 3 else "minisblack")
    else:
        path.write_bytes(png(array))
    y = datasets.open(path)[0].y
    colors = array[..., None] if array.ndim == 2 else array[..., :3]
    assert y.shape == (1, colors.shape[-1], 5, 7)
    stored = np.rint(y[0].double().numpy() * np.iinfo(dtype).max).astype(dtype)
    assert np.array_equal(stored, np.moveaxis(colors, -1, 0))


def png(array: np.ndarray) -> bytes:
    """A PNG of any depth, by the format's specification: no other writer at hand makes 16 bit color."""
    array = array[..., None] if array.ndim == 2 else array
    rows, columns, channels = array.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    lines = b"".join(b"\0" + line.astype(f">u{array.itemsize}").tobytes() for line in array)

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", columns, rows, 8 * array.itemsize, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_pages_of_a_tiff_and_floating_point(tmp_path: Path) -> None:
    from tifffile import imwrite

    pages = (RNG.random((3, 6, 5)) * 1e4 - 5).astype(np.float32)
    imwrite(tmp_path / "pages.tif", pages, photometric="minisblack")
    data = datasets.open(tmp_path / "pages.tif")
    assert len(data) == 3 and torch.equal(data[2].y[0, 0], torch.from_numpy(pages[2]))
    assert data[2].meta["units"] == "as stored"


def test_masks_and_palettes(tmp_path: Path) -> None:
    from PIL import Image

    colors = RNG.integers(0, 255, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(colors).quantize(256).save(tmp_path / "palette.png")
    Image.fromarray(colors[..., 0] > 99).save(tmp_path / "mask.png")
    palette = np.asarray(Image.open(tmp_path / "palette.png").convert("RGB")) / 255
    assert np.allclose(
        datasets.open(tmp_path / "palette.png")[0].y[0].numpy(), np.moveaxis(palette, -1, 0)
    )
    assert np.array_equal(
        datasets.open(tmp_path / "mask.png")[0].y[0, 0].numpy(), colors[..., 0] > 99
    )


def test_folder_of_pictures_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "c.tif"):
        write_picture(tmp_path / name)
    (tmp_path / "SOURCE.txt").write_text("here and there")
    data = datasets.open(tmp_path)
    assert [Path(data[i].meta["source"]).name for i in range(len(data))] == [
        "a.jpg",
        "b.png",
        "c.tif",
    ]


def test_arrays_count_items_first(tmp_path: Path) -> None:
    def opened(array: np.ndarray) -> tuple[int, tuple[int, ...]]:
        np.save(tmp_path / "a.npy", array)
        data = datasets.open(tmp_path / "a.npy")
        return len(data), tuple(data[0].y.shape)

    assert opened(np.zeros((6, 5), np.int16)) == (1, (1, 1, 6, 5))
    assert opened(np.zeros((9, 6, 5))) == (9, (1, 1, 6, 5))
    assert opened(np.zeros((4, 3, 6, 5))) == (4, (1, 3, 6, 5))
    assert opened(np.zeros((2, 1, 4, 6, 5))) == (2, (1, 1, 4, 6, 5))
    np.save(tmp_path / "a.npy", np.zeros((6, 5), np.complex128))
    assert datasets.open(tmp_path / "a.npy")[0].y.dtype == torch.complex64
    with pytest.raises(InputError, match="colors last"):
        opened(np.zeros((6, 5, 3)))
    with pytest.raises(InputError, match="empty"):
        opened(np.zeros((0, 5)))


def test_archives_bring_reference_and_noise(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, y=RNG.random((2, 6, 5)), reference=RNG.random((2, 4, 4)), noise_std=[0.1, 0.2])
    item = datasets.open(path)[1]
    assert (
        item.noise_std == 0.2
        and item.reference is not None
        and item.reference.shape == (1, 1, 4, 4)
    )
    np.savez(path, y=RNG.random((2, 6, 5)), noise_std=-1.0)
    with pytest.raises(InputError, match="noise_std"):
        datasets.open(path)
    np.savez(path, first=RNG.random((6, 5)), second=RNG.random((6, 5)))
    with pytest.raises(InputError, match=r"first float64 \(6, 5\), second"):
        datasets.open(path)
    assert datasets.Arrays(path, name="second")[0].y.shape == (1, 1, 6, 5)


def test_a_sinogram_with_a_geometry_file(tmp_path: Path) -> None:
    geometry = datasets.Geometry(
        "parallel", tuple(np.linspace(0, 3, 6)), num_detectors=5, image_shape=(4, 4)
    )
    geometry.write(tmp_path / "geometry.toml")
    np.save(tmp_path / "sinogram.npy", np.ones((6, 5)))
    np.save(tmp_path / "transposed.npy", np.ones((5, 6)))
    opened = datasets.open(tmp_path / "sinogram.npy", geometry=tmp_path / "geometry.toml")
    assert opened[0].geometry == geometry
    with pytest.raises(
        InputError, match=r"5 rows and 6 columns.*6 angles and 5 detector.*transpose"
    ):
        datasets.open(tmp_path / "transposed.npy", geometry)[0]


def test_nan_is_counted_and_placed(tmp_path: Path) -> None:
    array = np.ones((6, 5))
    array[3, 2] = array[4, 4] = np.nan
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=r"2 of 30 values.*\(0, 0, 3, 2\)"):
        datasets.open(tmp_path / "a.npy")[0]


def test_kernels_are_turned_from_columns_first_and_sum_to_one(tmp_path: Path) -> None:
    data = datasets.open(write_kernels(tmp_path / "kernels.mat"))
    assert len(data) == 2 and data[1].y.shape == (1, 1, 5, 4)
    assert data[0].y.sum().item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "head", "way"),
    [
        ("v.mp4", b"\0\0\0\x18ftypmp42", "a video, .* with ffmpeg -i v.mp4 frames"),
        ("x.cr2", b"II*\0\x10\0\0\0CR\2\0" + bytes(64), "kind .cr2, .* darktable-cli x.cr2"),
        ("x.svg", b"<svg/>", "with magick x.svg OUT.png"),
    ],
)
def test_a_known_picture_or_video_is_named_with_its_converter(
    name: str, head: bytes, way: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(head)
    with pytest.raises(InputError, match=way):
        datasets.open(tmp_path / name)
