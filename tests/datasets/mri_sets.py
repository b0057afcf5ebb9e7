"""Raw data of MRI in the layouts of ISMRMRD, written by the reference writer, and of fastMRI."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
from ismrmrd import xsd

#: Flags of acquisitions by the names of their constants.
NOISE, CALIBRATION, REVERSE, NAVIGATION = (
    ismrmrd.ACQ_IS_NOISE_MEASUREMENT,
    ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,
    ismrmrd.ACQ_IS_REVERSE,
    ismrmrd.ACQ_IS_NAVIGATION_DATA,
)
#: Directions of an oblique slice: readout, phase encoding, slice; no axis is one of the patient's.
OBLIQUE = np.linalg.qr(np.array([[2.0, 1.0, 0.3], [-0.5, 2.0, 1.0], [0.2, -0.7, 1.5]]))[0].T


def header(
    matrix: Sequence[int],
    fov: Sequence[float],
    recon: Sequence[int] | None = None,
    recon_fov: Sequence[float] | None = None,
    centers: Sequence[int | None] = (None, None),
    trajectory: str = "cartesian",
    bandwidth: float | None = None,
    encodings: int = 1,
    echo_times: Sequence[float] = (),
) -> bytes:
    """Return the XML header by the schema of ismrmrd; sizes are x, y, z; centres of steps 1 and 2."""

    def space(sizes: Sequence[int], lengths: Sequence[float]) -> Any:
        x, y, z = (float(length) for length in lengths)
        fov = xsd.fieldOfViewMm(x=x, y=y, z=z)
        columns, rows, slices = (int(n) for n in sizes)
        matrix = xsd.matrixSizeType(x=columns, y=rows, z=slices)
        return xsd.encodingSpaceType(matrixSize=matrix, fieldOfView_mm=fov)

    limits = xsd.encodingLimitsType()
    for step, center in enumerate(centers, start=1):
        if center is not None:
            limit = xsd.limitType(minimum=0, maximum=matrix[step] - 1, center=center)
            setattr(limits, f"kspace_encoding_step_{step}", limit)
    encoding = xsd.encodingType(
        encodedSpace=space(matrix, fov),
        reconSpace=space(recon or matrix, recon_fov or fov),
        encodingLimits=limits,
        trajectory=xsd.trajectoryType(trajectory),
    )
    system = xsd.acquisitionSystemInformationType(
        systemVendor="simulated", relativeReceiverNoiseBandwidth=bandwidth
    )
    whole = xsd.ismrmrdHeader(
        acquisitionSystemInformation=system,
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63_870_000),
        encoding=[encoding] * encodings,
        sequenceParameters=xsd.sequenceParametersType(TE=list(echo_times), TR=[500.0]),
    )
    return str(xsd.ToXML(whole)).encode()


def acquisition(
    data: np.ndarray,
    step: int = 0,
    partition: int = 0,
    flags: Iterable[int] = (),
    counters: dict[str, int] | None = None,
    trajectory: np.ndarray | None = None,
    center: int | None = None,
    position: Sequence[float] = (0.0, 0.0, 0.0),
    directions: np.ndarray | None = None,
    **fields: Any,
) -> Any:
    """Return one readout ``(coil, sample)``; directions are those of readout, phase and slice."""
    points = None if trajectory is None else np.ascontiguousarray(trajectory, np.float32)
    made = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data, np.complex64), points)
    made.center_sample = data.shape[1] // 2 if center is None else center
    made.idx.kspace_encode_step_1, made.idx.kspace_encode_step_2 = step, partition
    for name, value in (counters or {}).items():
        setattr(made.idx, name, value)
    for flag in flags:
        made.setFlag(flag)
    read, phase, along = np.eye(3) if directions is None else directions
    made.position[:], made.read_dir[:] = list(position), list(read)
    made.phase_dir[:], made.slice_dir[:] = list(phase), list(along)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def write_ismrmrd(path: Path, xml: bytes | None, acquisitions: Iterable[Any]) -> Path:
    with ismrmrd.Dataset(str(path)) as dataset:
        if xml is not None:
            dataset.write_xml_header(xml)
        for made in acquisitions:
            dataset.append_acquisition(made)
    return path


def write_fastmri(path: Path, kspace: np.ndarray, xml: bytes | None, **arrays: Any) -> Path:
    """Write ``kspace`` (slice, coil, readout, phase encoding), and further arrays by name."""
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace.astype(np.complex64)
        if xml is not None:
            file["ismrmrd_header"] = xml
        for name, values in arrays.items():
            file[name] = values
    return path


def coils_of(rows: int, columns: int, coils: int) -> np.ndarray:
    """Return smooth complex sensitivities ``(coil, row, column)``."""
    v, u = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    turn = 2 * np.pi * np.arange(coils)[:, None, None] / coils
    away = (v - 1.2 * np.sin(turn)) ** 2 + (u - 1.2 * np.cos(turn)) ** 2
    return np.exp(-away / 1.5 + 1j * (turn + 0.5 * u))


def centred_fft(x: np.ndarray, axes: Sequence[int] = (-2, -1)) -> np.ndarray:
    return np.fft.fftshift(
        np.fft.fftn(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes=axes
    )


def phantom(rows: int, columns: int) -> np.ndarray:
    """Return an asymmetric complex image of two ellipses and a slow phase."""
    v, u = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    body = (u**2 / 0.6 + v**2 / 0.7 < 1) + 0.8 * ((u - 0.3) ** 2 + (v + 0.2) ** 2 < 0.04)
    return body * np.exp(1j * (0.4 * u - 0.3 * v))
