"""Stacks of microscopes with channels and times: OME-TIFF and OME-Zarr, read and written in parts."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import decoding
from invtoolbox.core.environment import optional_package
from invtoolbox.datasets.output import writing, writing_folder
from invtoolbox.datasets.volumes.ome_zarr import UNITS
from invtoolbox.datasets.volumes.tiff import SUFFIXES, tiff_grid
from invtoolbox.datasets.volumes.volume import check_voxel_size
from invtoolbox.errors import InputError

AXES = "TCZYX"
#: Micrometres of units of length, by their names in OME.
_MICROMETRES = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "um": 1.0, "µm": 1.0, "μm": 1.0, "nm": 1e-3,
    **{name: {"m": 1e6, "cm": 1e4, "mm": 1e3, "um": 1.0, "nm": 1e-3}[key] for key, name in UNITS.items()},
}  # fmt: skip
_SECONDS = {"s": 1.0, "second": 1.0, "ms": 1e-3, "millisecond": 1e-3, "min": 60.0, "minute": 60.0}
#: Slices, rows and columns of a chunk of OME-Zarr, at most.
_CHUNK = (32, 128, 128)


@dataclass(frozen=True)
class Metadata:
    """Facts in the file of a stack; None for a fact that the file does not state.

    Attributes:
        voxel_size: distances of slices, rows and columns in micrometres.
        channels: names of the channels.
        wavelengths: emission wavelengths of the channels in micrometres.
        time_step: seconds between two times.
        na: numerical aperture of the objective.
        immersion: immersion medium of the objective.
    """

    voxel_size: tuple[float, float, float] | None = None
    channels: tuple[str, ...] | None = None
    wavelengths: tuple[float | None, ...] | None = None
    time_step: float | None = None
    na: float | None = None
    immersion: str | None = None


class Stack(ABC):
    """Stack with the axes time, channel, slice, row and column, of which `read` returns parts.

    Attributes:
        path: path of the file or folder.
        shape: lengths of the five axes.
        dtype: type of the stored values.
        metadata: what the file says.
    """

    def __init__(self, path: Path, shape: Sequence[int], dtype: Any, metadata: Metadata) -> None:
        self.path, self.shape = path, tuple(int(n) for n in shape)
        self.dtype, self.metadata = np.dtype(dtype), metadata

    @abstractmethod
    def read(self, time: int, channel: int, part: tuple[slice, slice, slice]) -> np.ndarray:
        """Read a box of slices, rows and columns of one time and channel."""


class _Stored(Stack):
    """Stack in an array of any order of the named axes.

    Args:
        path: path of the file.
        array: function of an index tuple that reads a part.
        shape: lengths of the stored axes.
        axes: their names.
        dtype: type of the values.
        metadata: what the file says.
    """

    def __init__(
        self,
        path: Path,
        array: Any,
        shape: Sequence[int],
        axes: str,
        dtype: Any,
        metadata: Metadata,
    ) -> None:
        self._array, self._axes = array, axes
        lengths = dict(zip(axes, shape))
        super().__init__(path, [lengths.get(a, 1) for a in AXES], dtype, metadata)

    def read(self, time: int, channel: int, part: tuple[slice, slice, slice]) -> np.ndarray:
        at: dict[str, Any] = dict(zip(AXES, (time, channel, *part)))
        space = [a for a in self._axes if a in "ZYX"]
        with decoding(self.path, "microscopy"):
            box = np.asarray(self._array(tuple(at[a] for a in self._axes)))
        box = box.transpose([space.index(a) for a in "ZYX" if a in space])
        return box if "Z" in space else box[None]


def open_stack(
    path: str | os.PathLike[str],
    axes: str | None = None,
    voxel_size: Any = None,
    unnamed: str | None = None,
) -> Stack:
    """Open an OME-TIFF, an ImageJ stack or an OME-Zarr folder; no values are read yet.

    Args:
        path: path of the file or folder.
        axes: names of the stored axes, letters of TCZYX; from the file by default.
        voxel_size: distances of slices, rows and columns in micrometres; from the file by default.
        unnamed: name of an axis that a TIFF file does not name; None if it must name all.

    Raises:
        InputError: an unknown format, or axes without names.
    """
    path = Path(path).expanduser()
    if path.is_dir() and path.name.endswith(".zarr"):
        array, shape, named, dtype, metadata = _open_zarr(path)
    elif path.is_file() and path.suffix.lower() in SUFFIXES:
        array, shape, named, dtype, metadata = _open_tiff(path)
    else:
        raise InputError(
            f"{path}: no OME-TIFF and no OME-Zarr folder; convert it with bfconvert or bioformats2raw"
        )
    named = named if axes is None else axes.upper()
    if unnamed is not None:
        named = named.replace("Q", unnamed).replace("I", unnamed)  # tifffile's letters for them
    if (
        len(named) != len(shape)
        or len(set(named)) < len(named)
        or not set("YX") <= set(named) <= set(AXES)
    ):
        raise InputError(
            f"{path}: the names of its axes of lengths {tuple(shape)} are {named or 'missing'}; give "
            f"--axes with one letter of {AXES} each, for example {AXES[-len(shape) :]}"
        )
    if voxel_size is not None:
        metadata = replace(metadata, voxel_size=check_voxel_size(path, list(voxel_size)))
    return _Stored(path, array, shape, named, dtype, metadata)


def _open_tiff(path: Path) -> tuple[Any, Sequence[int], str, Any, Metadata]:
    import tifffile

    with decoding(path, "TIFF"), tifffile.TiffFile(path) as file:
        series = file.series[0]
        grid, xml = tiff_grid(file), file.ome_metadata
        metadata = Metadata(None if grid is None else _in_micrometres(grid.voxel_size, grid.unit))
        if xml:
            metadata = _read_ome(tifffile.xml2dict(xml))
        shape, axes, dtype = series.shape, series.axes, series.dtype
        is_mapped = series.dataoffset is not None

    def read(index: tuple[Any, ...]) -> np.ndarray:
        if is_mapped:
            return np.asarray(tifffile.memmap(path, mode="r")[index])
        lead = np.arange(math.prod(shape[:-2])).reshape(shape[:-2])[index[:-2]]
        with tifffile.TiffFile(path) as opened:
            pages: Any = opened.series[0].pages
            chosen = [pages[int(k)].asarray()[index[-2:]] for k in np.ravel(lead)]
        return np.stack(chosen).reshape(*np.shape(lead), *chosen[0].shape)

    return read, shape, axes, dtype, metadata


def _in_micrometres(size: Sequence[float], unit: str) -> tuple[float, float, float] | None:
    factor = _MICROMETRES.get(unit)
    return None if factor is None else (size[0] * factor, size[1] * factor, size[2] * factor)


def _read_ome(document: dict[str, Any]) -> Metadata:
    """Return the metadata of the first image of OME-XML."""
    root = document.get("OME", {})
    image = _first(root.get("Image", {}))
    pixels = _first(image.get("Pixels", {}))
    sizes = [
        None if (size := pixels.get(f"PhysicalSize{a}")) is None
        else float(size) * _MICROMETRES.get(pixels.get(f"PhysicalSize{a}Unit", "µm"), math.nan)
        for a in "ZYX"
    ]  # fmt: skip
    if sizes[0] is None and int(pixels.get("SizeZ", 1)) == 1:
        sizes[0] = 1.0
    voxel = None
    if all(size is not None and size > 0 for size in sizes):
        voxel = (float(sizes[0] or 0), float(sizes[1] or 0), float(sizes[2] or 0))
    channels = pixels.get("Channel", [])
    channels = channels if isinstance(channels, list) else [channels]
    names = tuple(str(c["Name"]) for c in channels if "Name" in c)
    wavelengths = tuple(
        float(c["EmissionWavelength"])
        * _MICROMETRES.get(c.get("EmissionWavelengthUnit", "nm"), 1e-3)
        if "EmissionWavelength" in c
        else None
        for c in channels
    )
    step = pixels.get("TimeIncrement")
    factor = _SECONDS.get(pixels.get("TimeIncrementUnit", "s"), 1.0)
    objective = _first(_first(root.get("Instrument", {})).get("Objective", {}))
    return Metadata(
        voxel,
        names if names and len(names) == len(channels) else None,
        wavelengths if any(w is not None for w in wavelengths) else None,
        None if step is None else float(step) * factor,
        float(objective["LensNA"]) if "LensNA" in objective else None,
        str(objective["Immersion"]).lower() if "Immersion" in objective else None,
    )


def _first(entry: Any) -> dict[str, Any]:
    first = entry[0] if isinstance(entry, list) and entry else entry
    return first if isinstance(first, dict) else {}


def _open_zarr(path: Path) -> tuple[Any, Sequence[int], str, Any, Metadata]:
    zarr = _zarr()
    with decoding(path, "OME-Zarr"):
        node = zarr.open(str(path), mode="r")
        if not hasattr(node, "create_array"):  # an array alone
            names = getattr(node.metadata, "dimension_names", None) or ()
            axes = "".join(str(name or "?")[0].upper() for name in names)
            return node.__getitem__, node.shape, axes, node.dtype, Metadata()
        attributes = dict(node.attrs)
        ome = attributes.get("ome", attributes)
        multiscale = _first(ome.get("multiscales", []))
        # Version 0.3 has names alone.
        entries: list[dict[str, Any]] = [
            a if isinstance(a, dict) else {"name": str(a)} for a in multiscale.get("axes", [])
        ]
        dataset = _first(multiscale.get("datasets", [{"path": "0"}]))
        array = node[dataset["path"]]
    scale = next(
        (
            t["scale"]
            for t in dataset.get("coordinateTransformations", [])
            if t.get("type") == "scale" and len(t["scale"]) == len(entries)
        ),
        None,
    )
    named = "".join(str(a["name"])[0].upper() for a in entries)
    sizes: dict[str, float] = {}
    for entry, step in zip(entries, scale or ()):
        units = _SECONDS if entry.get("type") == "time" else _MICROMETRES
        if entry.get("unit") in units:
            sizes[str(entry["name"]).upper()] = float(step) * units[entry["unit"]]
    sizes |= {"Z": 1.0} if "Z" not in named else {}
    labels = tuple(
        str(c.get("label", "")) for c in _first(ome.get("omero", {})).get("channels", [])
    )
    metadata = Metadata(
        (sizes["Z"], sizes["Y"], sizes["X"]) if set("ZYX") <= set(sizes) else None,
        labels if any(labels) else None,
        time_step=sizes.get("T"),
    )
    return array.__getitem__, array.shape, named, array.dtype, metadata


def _zarr() -> Any:
    return optional_package("zarr", "OME-Zarr needs zarr, which is not installed;", "microscopy")


def write_stack(path: str | os.PathLike[str], stack: Stack, overwrite: bool = False) -> Path:
    """Write a stack as OME-TIFF or OME-Zarr 0.5 with its metadata; memory holds a few slices.

    Args:
        path: path of the output, which ends in `.tif`, `.tiff` or `.zarr`.
        stack: the stack, with values of its own type.
        overwrite: replace an existing output.
    """
    path = Path(path).expanduser()
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another path, or pass overwrite=True")
    if path.suffix == ".zarr":
        _write_zarr(path, stack)
    elif path.suffix.lower() in SUFFIXES:
        _write_tiff(path, stack)
    else:
        raise InputError(f"{path}: a stack is written as .tif or .zarr; change the suffix")
    return path


def _slabs(stack: Stack, depth: int) -> Iterator[tuple[int, int, slice, np.ndarray]]:
    """Yield time, channel, slices and values of slabs, in the order of the axes."""
    every = slice(None)
    for time in range(stack.shape[0]):
        for channel in range(stack.shape[1]):
            for start in range(0, stack.shape[2], depth):
                slices = slice(start, min(start + depth, stack.shape[2]))
                yield time, channel, slices, stack.read(time, channel, (slices, every, every))


def _write_tiff(path: Path, stack: Stack) -> None:
    import tifffile

    stated = stack.metadata
    metadata: dict[str, Any] = {"axes": AXES}
    for name, size in zip("ZYX", stated.voxel_size or ()):
        metadata |= {f"PhysicalSize{name}": size, f"PhysicalSize{name}Unit": "µm"}
    if stated.channels or stated.wavelengths:
        metadata["Channel"] = {
            **({"Name": list(stated.channels)} if stated.channels else {}),
            **(
                {
                    "EmissionWavelength": [w and 1e3 * w for w in stated.wavelengths],
                    "EmissionWavelengthUnit": ["nm"] * len(stated.wavelengths),
                }
                if stated.wavelengths and None not in stated.wavelengths
                else {}
            ),
        }
    if stated.time_step is not None:
        metadata |= {"TimeIncrement": stated.time_step, "TimeIncrementUnit": "s"}
    pages = (page for *_, slab in _slabs(stack, 1) for page in slab)
    big = math.prod(stack.shape) * stack.dtype.itemsize > 2**31
    with (
        writing(path, overwrite=True) as stream,
        tifffile.TiffWriter(stream, bigtiff=big, ome=True) as writer,
    ):
        writer.write(
            pages, shape=stack.shape, dtype=stack.dtype, photometric="minisblack", metadata=metadata
        )


def _write_zarr(path: Path, stack: Stack) -> None:
    zarr, stated = _zarr(), stack.metadata
    space = {"type": "space", **({"unit": "micrometer"} if stated.voxel_size else {})}
    axes = [
        {"name": "t", "type": "time", **({"unit": "second"} if stated.time_step else {})},
        {"name": "c", "type": "channel"},
        *({"name": name, **space} for name in "zyx"),
    ]
    scale = [stated.time_step or 1.0, 1.0, *(stated.voxel_size or (1.0, 1.0, 1.0))]
    places = [{"type": "scale", "scale": scale}]
    multiscale = {
        "name": path.stem,
        "axes": axes,
        "datasets": [{"path": "0", "coordinateTransformations": places}],
    }
    chunk = tuple(min(a, b) for a, b in zip(_CHUNK, stack.shape[2:]))
    with writing_folder(path) as hidden:
        group = zarr.create_group(str(hidden), zarr_format=3)
        ome: dict[str, Any] = {"version": "0.5", "multiscales": [multiscale]}
        if stated.channels:
            window = {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0}
            ome["omero"] = {
                "channels": [
                    {"label": name, "color": "FFFFFF", "active": True, "window": window}
                    for name in stated.channels
                ]
            }
        group.attrs["ome"] = ome
        array = group.create_array(
            "0",
            shape=stack.shape,
            chunks=(1, 1, *chunk),
            dtype=stack.dtype,
            dimension_names=list("tczyx"),
        )
        for time, channel, slices, slab in _slabs(stack, chunk[0]):
            array[time, channel, slices] = slab
