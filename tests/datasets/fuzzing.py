"""Small whole files of every format, and ways to damage them; for the tests and for benchmarks/reader_fuzz.py."""

from __future__ import annotations

import gzip
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import torch

from invtoolbox import Problem, Solution, datasets, solve
from invtoolbox.geometry import Affine, Composite, DisplacementField, Grid
from invtoolbox.geometry.gaussians import Splats
from invtoolbox.geometry.meshes import Mesh
from invtoolbox.geometry.voxels import Voxels, VoxelSpace
from invtoolbox.operators import Identity
from tests.datasets import (
    event_files,
    mri_sets,
    recording_sets,
    scanner_sets,
    sweep_sets,
    test_segy,
    view_sets,
)
from tests.datasets import test_other_writers as writers
from tests.datasets import test_readers as plain

RNG = np.random.default_rng(5)
STORED = RNG.integers(0, 4000, (6, 12, 10), dtype=np.uint16)


def write_nifti(path: Path) -> Path:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(STORED.astype(np.int16).T, np.diag([2, 2, 3, 1.0])), path)
    return path


def write_metaimage(path: Path) -> Path:
    datasets.write_metaimage(path, STORED, (3, 2, 2), compress="packed" in path.name)
    return path


def write_nxtomo(path: Path) -> Path:
    """Counts of a Gaussian blob, four flat and three dark frames before the projections."""
    angles = np.linspace(0, 180, 30, endpoint=False)
    line = np.exp(
        -(((np.arange(24)[None] - 11 - 4 * np.cos(np.radians(angles) - 0.3)[:, None]) / 3) ** 2)
    )
    counts = np.repeat((100 + 9900 * np.exp(-line))[:, None], 2, axis=1)
    frames = np.concatenate(
        [np.full((4, 2, 24), 10000.0), np.full((3, 2, 24), 100.0), counts]
    ).astype(np.uint16)
    with h5py.File(path, "w") as file:
        file["entry/instrument/detector/data"] = frames
        file["entry/instrument/detector/image_key"] = np.repeat([1, 2, 0], [4, 3, 30])
        file["entry/sample/rotation_angle"] = np.concatenate([np.zeros(7), angles])
        file["entry/sample/rotation_angle"].attrs["units"] = "degrees"
    return path


def write_kspace(path: Path) -> Path:
    lines = [
        mri_sets.acquisition(
            np.full((2, 6), 1 + row + 1j), row, flags=[*[mri_sets.REVERSE] * (row % 2)]
        )
        for row in range(4)
    ]
    noise = mri_sets.acquisition(
        np.array([[1, 2j, -1, 1, 3], [1, 1, 1j, -2, 1]]), flags=[mri_sets.NOISE]
    )
    return mri_sets.write_ismrmrd(path, mri_sets.header((6, 4, 1), (60, 40, 5)), [*lines, noise])


def write_coils(path: Path) -> Path:
    kspace = (1 + np.arange(96.0)).reshape(2, 2, 6, 4)
    return mri_sets.write_fastmri(path, kspace, mri_sets.header((6, 4, 1), (60, 40, 5)))


def write_hdf5(path: Path) -> Path:
    datasets.write_hdf5(path, {"x": STORED[:, None].astype(np.float32)}, {"units": "1"})
    return path


def write_hdf5_packed(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "volume", data=STORED, chunks=(2, 6, 5), compression="gzip", shuffle=True
        )
    return path


def write_raw(path: Path) -> Path:
    path.mkdir()
    datasets.write_raw(path / "volume.raw", STORED, (3, 2, 2))
    return path / "volume.raw"


def write_pair(path: Path) -> Path:
    path.mkdir()
    datasets.write_metaimage(path / "volume.mhd", STORED)
    return path / "volume.mhd"


def write_pages(path: Path) -> Path:
    from tifffile import imwrite

    imwrite(
        path,
        STORED,
        photometric="minisblack",
        compression="zlib" if "packed" in path.name else None,
    )
    return path


def write_folder(path: Path) -> Path:
    return datasets.write_tiff_stack(path, STORED)


def write_series(path: Path) -> Path:
    path.mkdir()
    for number in range(4):
        plain.write_dicom(
            path / f"{number}.dcm",
            ImagePositionPatient=[0, 0, 2 * number],
            InstanceNumber=number,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        )
    return path


def write_street(path: Path) -> Path:
    path.write_text(
        "# A street.\n[simulated]\nsweeps = 3\nseed = 12\npoints = 800\ntraffic = 0.5\ndeskew = "
        "false\n"
    )
    return path


def write_rtk(path: Path) -> Path:
    """A geometry as itk-rtk writes it, without the matrices, and its stack."""
    path.mkdir()
    views = "".join(
        f"  <Projection>\n    <GantryAngle>{20 * k}</GantryAngle>\n  </Projection>\n"
        for k in range(6)
    )
    (path / "geometry.xml").write_text(
        '<?xml version="1.0"?>\n<!DOCTYPE RTKGEOMETRY>\n<RTKThreeDCircularGeometry version="3">\n'
        "    <SourceToIsocenterDistance>60</SourceToIsocenterDistance>\n"
        f"    <SourceToDetectorDistance>150</SourceToDetectorDistance>\n{views}</RTKThreeDCircularGeometry>\n"
    )
    datasets.write_metaimage(path / "projections.mha", STORED / np.float32(4000), (1, 1, 1))
    return path


def write_mesh(path: Path) -> Path:
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [1, 2, 3]])
    vertices = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    if path.suffix == ".npz":
        np.savez_compressed(path, vertices=vertices.numpy(), faces=faces.numpy())
        return path
    return datasets.write_mesh(path, Mesh(vertices, faces, vertices)).path


def write_splats(path: Path) -> Path:
    x = Splats.of_points(torch.rand(1, 20, 3), torch.rand(1, 20, 3), 0.1, 0.9)
    return datasets.write_splats(path, x).path


def write_voxels(path: Path) -> Path:
    space = VoxelSpace((3, 4, 5), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0)
    rows = space.rows
    return datasets.write_voxels(
        path, Voxels(torch.rand(1, rows), torch.rand(1, rows, 1, 3), space)
    ).path


def write_flow(path: Path) -> Path:
    no = torch.zeros(5, dtype=torch.bool)
    estimate: Any = SimpleNamespace(
        flow=torch.ones(5, 3),
        ego_motion=torch.eye(4),
        dynamic=~no,
        ground=no,
        instance=-torch.ones(5, dtype=torch.int64),
        valid=~no,
        method="none",
    )
    return datasets.write_flow(path, estimate, torch.zeros(5, 3), names=("0", "1"))


def write_geometry(path: Path) -> Path:
    path.write_text(
        'kind = "fan"\nimage_shape = [16, 16]\nnum_detectors = 24\ndetector_spacing = 1.0\n'
        "pixel_size = 1.0\nsource_origin = 40.0\nsource_detector = 60.0\n"
        '[angles]\nunit = "degrees"\nstart = 0.0\nstop = 360.0\ncount = 30\nendpoint = false\n'
    )
    return path


def write_dmat(path: Path) -> Path:
    path.write_text("2 3\n" + "\n".join(str(k / 7) for k in range(6)))
    return path


def write_solution(path: Path) -> Path:
    problem = Problem(torch.ones(2, 1, 6), Identity((1, 6)))
    return solve(problem, "tikhonov", regularization=1.0, progress=False).save(path)


def write_transform(path: Path) -> Path:
    """An affine map, a field, or both, by the suffix."""
    affine = Affine(np.diag([1.1, 0.9, 1.0, 1.0]))
    field = DisplacementField(torch.from_numpy(RNG.normal(size=(3, 4, 5, 6))), Grid())
    both: dict[str, Any] = {".tfm": affine, ".mat": affine, ".h5": Composite([field, affine])}
    return datasets.write_transform(path, both.get(path.suffix, field)).path


def write_scene(path: Path) -> Path:
    path.write_text(
        '# A scene.\n[measurements]\npath = "a.npy"\n[solver]\nname = "adam"\n'
        "[[prior]]\nname = 'tv'\nweight = 0.1\n[presets.short]\n'solver.time_limit' = 10\n"
    )
    return path


#: Every reader by name: of data sets (by `datasets.open`), of other files, and of solutions.
FILE_READERS: dict[str, Callable[[Path], Any]] = {
    **datasets.FILE_READERS,
    "solution": Solution.load,
}


#: A whole file, or folder, of each reader (and of its variants), with the reader's name.
def other_writer(write: Callable[[Path], None] | bytes) -> Callable[[Path], Path]:
    """Return a function that writes a file of another writer, from `test_other_writers`."""

    def make(path: Path) -> Path:
        path.write_bytes(write) if isinstance(write, bytes) else write(path)
        return path

    return make


SEEDS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "scan.mat": ("htc2022", plain.write_htc),
    "scan.h5": ("dxchange", plain.write_dxchange),
    "slice.dcm": ("dicom", plain.write_dicom),
    "kernels.mat": ("blur-kernels", plain.write_kernels),
    "picture.png": ("pictures", plain.write_picture),
    "picture.jpg": ("pictures", plain.write_picture),
    "picture.tif": ("pictures", plain.write_picture),
    "array.npy": ("arrays", plain.write_array),
    "array.npz": ("arrays", plain.write_array),
    "stack.tif": ("tiff-stack", write_pages),
    "packed.tif": ("tiff-stack", write_pages),
    "slices": ("tiff-stack", write_folder),
    "volume.nii": ("nifti", write_nifti),
    "volume.nii.gz": ("nifti", write_nifti),
    "series": ("dicom-series", write_series),
    "scan.nxs": ("nxtomo", write_nxtomo),
    "kspace.h5": ("ismrmrd", write_kspace),
    "coils.h5": ("fastmri", write_coils),
    "arrays.h5": ("hdf5", write_hdf5),
    "packed.h5": ("hdf5", write_hdf5_packed),
    "volume.mha": ("metaimage", write_metaimage),
    "packed.mha": ("metaimage", write_metaimage),
    "pair": ("metaimage", write_pair),
    "raw": ("raw", write_raw),
    **{
        f"{name.replace(' ', '_')}{Path(writers.PICTURES[name][0]).suffix}": (
            "pictures",
            other_writer(writers.PICTURES[name][1]),
        )
        for name in ("LZW", "inks", "inks by Photoshop", "video", "CIELAB", "a palette")
    },
    **{
        f"{name.replace(' ', '_')}.dcm": ("dicom", other_writer(writers.DICOMS[name][0]))
        for name in ("MR", "without preamble", "enhanced CT, scales per frame")
    },
    **{
        f"{name.replace(' ', '_')}.mat": ("matlab", other_writer(writers.MATLAB[name][0]))
        for name in ("k-space", "next to a struct", "k-space of version 7.3")
    },
    **{
        f"{name.replace(' ', '_')}{Path(writers.MESHES[name][0]).suffix}": (
            "mesh",
            other_writer(writers.MESHES[name][1]),
        )
        for name in ("Open3D, both", "MeshLab, one face, text", "MeshLab, textured")
    },
    **scanner_sets.SETS,
    "rtk": ("rtk", write_rtk),
    **sweep_sets.SETS,
    **recording_sets.SETS,
    **view_sets.SETS,
    **event_files.SETS,
    "street.toml": ("street", write_street),
    "mesh.obj": ("mesh", write_mesh),
    "mesh.off": ("mesh", write_mesh),
    "mesh.npz": ("mesh", write_mesh),
    "mesh.ply": ("mesh", write_mesh),
    "mesh.glb": ("mesh", write_mesh),
    "mesh.stl": ("mesh", write_mesh),
    "splats.ply": ("splats", write_splats),
    "voxels.safetensors": ("voxels", write_voxels),
    "flow.npz": ("flow", write_flow),
    "geometry.toml": ("geometry", write_geometry),
    "values.dmat": ("dmat", write_dmat),
    "line.sgy": ("segy", test_segy.write),
    "solution.h5": ("solution", write_solution),
    "scene.toml": ("toml", write_scene),
    "affine.tfm": ("transform", write_transform),
    "affine.mat": ("transform", write_transform),
    "both.h5": ("transform", write_transform),
    "field.nii.gz": ("transform", write_transform),
    "field.mha": ("transform", write_transform),
}
#: Seeds that hold files whose length is declared nowhere: one cut at a whole number of points (or
#: poses) is a shorter one; and a street, where a digit more or less is another street.
UNDECLARED = (
    *("odometry", "raw drive", "bins", "nuscenes", "street.toml", "views rgbd"),
    *("mesh.obj", "geometry.toml", "scene.toml", "values.dmat", "line.sgy"),
    *("vlp16.pcap", "vlp16.pcapng", "ouster pcap"),
    *("events.aedat4", "events.dat", "events.raw", "events evt2.raw", "events.txt"),
)
KINDS = ("truncate", "flip", "flip header", "zero", "swap header", "huge", "empty", "suffix")
#: Damage without bytes on the disk: a file followed by 5 GB of holes, and a file of nothing else.
SPARSE_KINDS, SPARSE_BYTES = ("followed by holes", "holes"), 5 * 10**9
_HUGE = (0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 0x00FFFFFF, 0xFFFF, 0x7FFF)


def damaged(content: bytes, kind: str, generator: np.random.Generator, other: bytes) -> bytes:
    """The bytes of a file after one kind of damage."""
    if kind == "empty":
        return b""
    if kind == "truncate":
        return content[: int(generator.integers(1, len(content)))]
    if kind == "swap header":
        length = int(generator.choice([4, 8, 16, 64, 128, 256, 512]))
        return other[:length] + content[length:]
    array = np.frombuffer(content, np.uint8).copy()
    if kind in ("flip", "flip header"):
        reach = array.size if kind == "flip" else min(array.size, 512)
        for place in generator.integers(0, reach, int(generator.integers(1, 9))):
            array[place] ^= 1 << int(generator.integers(0, 8))
    elif kind == "zero":
        start = int(generator.integers(0, array.size))
        array[start : start + int(generator.integers(1, 257))] = 0
    elif kind == "huge":
        head = content[:1024]
        if b"DimSize" in head or head.startswith(b"shape"):
            numbers = list(re.finditer(rb"\d+", head))
            found = numbers[int(generator.integers(0, len(numbers)))]
            large = str(generator.choice([10**4, 2**31, 10**12, 10**30, -1])).encode()
            return content[: found.start()] + large + content[found.end() :]
        size = int(generator.choice([2, 4, 8]))
        place = int(generator.integers(0, max(min(array.size, 2048) - size, 1)))
        value = int(generator.choice(_HUGE)) * (1 if size < 8 else 2**20)
        order = "little" if generator.integers(0, 2) else "big"
        word = (value % 2 ** (8 * size)).to_bytes(size, order)
        array[place : place + size] = np.frombuffer(word, np.uint8)[
            : array[place : place + size].size
        ]
    return array.tobytes()


def damage(
    seed: Path, place: Path, kind: str, generator: np.random.Generator, others: list[bytes]
) -> Path:
    """A damaged copy of a seed under `place`, which is made anew; gives the path to open."""
    shutil.rmtree(place, ignore_errors=True)
    alone = seed.is_file() and seed.parent.name not in ("raw", "pair", "ouster pcap")
    if alone:
        place.mkdir()
        copy = place / seed.name
        victims = [shutil.copyfile(seed, copy)]
    else:
        folder = seed if seed.is_dir() else seed.parent
        shutil.copytree(folder, place, copy_function=shutil.copyfile)
        copy = place if seed.is_dir() else place / seed.name
        # Some writers give a folder within the one that they fill.
        victims = sorted(file for file in place.rglob("*") if file.is_file())
    victim = Path(victims[int(generator.integers(0, len(victims)))])
    if kind in SPARSE_KINDS:
        if kind == "holes":
            victim.write_bytes(b"")
        os.truncate(victim, SPARSE_BYTES)
        return copy
    content, other = victim.read_bytes(), others[int(generator.integers(0, len(others)))]
    if victim.name.endswith(".gz") and generator.integers(0, 2):  # damage beneath the packing
        victim.write_bytes(
            gzip.compress(damaged(gzip.decompress(content), kind, generator, other), 1)
        )
    else:
        victim.write_bytes(damaged(content, kind, generator, other))
    if kind == "suffix" and alone:
        victim.write_bytes(content)
        suffix = str(
            generator.choice(
                [
                    ".tif",
                    ".png",
                    ".nii",
                    ".nii.gz",
                    ".mha",
                    ".h5",
                    ".dcm",
                    ".raw",
                    ".npy",
                    ".mat",
                    ".toml",
                    "",
                ]
            )
        )
        copy = victim.rename(place / f"file{suffix}")
    return copy


def shapes_in(value: Any) -> list[tuple[int, ...]]:
    """Shapes of the tensors among the attributes of an object, or the number of its entries."""
    if isinstance(value, torch.Tensor):
        return [tuple(value.shape)]
    parts = vars(value).values() if hasattr(value, "__dict__") else ()
    return [tuple(p.shape) for p in parts if isinstance(p, torch.Tensor)]


def outcome(path: Path, reader: str | None = None) -> list[tuple[int, ...]] | str:
    """Shapes of the first and the last item and of the volume, or the sentence of the refusal; all else is raised."""
    from invtoolbox.errors import InputError
    from invtoolbox.geometry.sweeps import Sweep

    try:
        if reader in FILE_READERS:
            return shapes_in(FILE_READERS[reader](path))
        data = datasets.open(path, reader=reader)
        if isinstance(data, datasets.PosedPictures):
            return [
                (len(data),),
                tuple(data.pictures.shape),
                () if data.points is None else tuple(data.points.shape),
            ]
        items = [data[k] for k in dict.fromkeys((0, len(data) - 1))]
        shapes = [
            tuple(item.points.shape if isinstance(item, Sweep) else item.y.shape) for item in items
        ]
        if isinstance(data, datasets.Volume):
            shapes.append(tuple(data.volume().y.shape))
        return [(len(data),), *shapes]
    except InputError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                raise MemoryError(str(error)) from error
            cause = cause.__cause__
        sentence = str(error)
        if "\n" in sentence or not sentence.strip() or len(sentence) > 1500:
            raise AssertionError(f"not one sentence: {sentence!r}") from error
        return sentence
