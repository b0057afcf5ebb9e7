"""Reader of the Helsinki Tomography Challenge 2022: fan-beam sinograms of acrylic discs.

The scans cover a full circle or a limited arc.

Source: Meaney, Silva de Moura, Siltanen, "Helsinki Tomography Challenge 2022 open tomographic
dataset", Zenodo, doi 10.5281/zenodo.7418878.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from invtoolbox.core.checks import decoding, require_file, require_keys, sniff
from invtoolbox.datasets.measurement import Measurement, as_tensor, check_index
from invtoolbox.datasets.scans.geometry_2d import Geometry
from invtoolbox.datasets.scans.geometry_file import check_is_2d
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.errors import InputError

IMAGE_SHAPE = (512, 512)
_PARAMETERS = (
    "angles",
    "distanceSourceOrigin",
    "distanceSourceDetector",
    "pixelSizePost",
    "numDetectorsPost",
    "effectivePixelSizePost",
)


class HTC2022:
    """Data set of one sinogram, from one `.mat` file of the challenge.

    The sinogram is stored as ``-log(I / I0)``. The angles, the distances and the detector are used
    as in the file; lengths are in millimetres. The image has the size that the challenge uses:
    512x512 pixels of the effective pixel size (detector pixel divided by the magnification,
    0.148 mm). The conventions agree with `invtoolbox.operators.FanBeam`, so nothing is rotated or
    mirrored: a filtered back-projection has the same position as the reconstruction that comes with
    the data.

    The reader looks for two files in the same folder: a filtered back-projection
    (`NAME_recon_fbp.mat`) becomes `reference`, converted from 1/pixel to 1/mm, and a segmentation
    (`NAME_recon_fbp_seg.mat`) becomes `segmentation`. For a limited arc, both files of the full
    scan are used.

    Args:
        path: path of the `.mat` file.
        geometry: geometry of the scan; it replaces the description in the file.
    """

    def __init__(self, path: str | os.PathLike[str], geometry: ScanGeometry | None = None) -> None:
        self.path = require_file(path)
        self.geometry = None if geometry is None else check_is_2d(geometry, f"{self.path}: HTC2022")

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Measurement:
        check_index(index, 1)
        variables = _load(self.path)
        data = [v for k, v in variables.items() if k.startswith("CtData")]
        if len(data) != 1 or not hasattr(data[0], "sinogram") or not hasattr(data[0], "parameters"):
            raise InputError(
                f"{self.path}: no struct CtDataFull or CtDataLimited with a sinogram and "
                f"parameters (found {', '.join(sorted(variables)) or 'nothing'}); give a "
                "sinogram of HTC2022"
            )
        parameters = data[0].parameters
        with decoding(self.path, "HTC2022"):
            geometry = self.geometry or _geometry(self.path, parameters)
        sinogram = np.atleast_2d(data[0].sinogram)
        if sinogram.dtype == object or not np.issubdtype(sinogram.dtype, np.number):
            raise InputError(
                f"{self.path}: the sinogram is not an array of numbers; fetch the file again"
            )
        reference = _load_neighbour(self.path, "_recon_fbp.mat", "reconFullFbp")
        segmentation = _load_neighbour(self.path, "_recon_fbp_seg.mat", "reconFullFbpSeg")
        labels = None
        if segmentation is not None:
            labels = torch.from_numpy(np.array(segmentation, dtype=np.uint8, order="C"))[None, None]
        return Measurement(
            y=as_tensor(sinogram)[None, None],
            geometry=geometry,
            reference=None
            if reference is None
            else as_tensor(reference / geometry.pixel_size)[None, None],
            segmentation=labels,
            meta={
                "source": str(self.path),
                "units": "1 (line integral of the attenuation)",
                "image_units": "1/mm",
                "date": str(getattr(parameters, "date", "")),
                "scanner": str(getattr(parameters, "scanner", "")),
            },
        )


def _load(path: Path) -> dict[str, Any]:
    """Load the variables of a MATLAB file of version 5.

    Structs become plain objects, and nothing in the file is executed.
    """
    from scipy.io import loadmat

    require_file(path)
    if sniff(path) == "mat7.3":
        raise InputError(
            f"{path}: a MATLAB 7.3 file; HTC2022 is published in version 5, save it with -v7"
        )
    if sniff(path) != "mat5":  # SciPy would take any bytes for version 4
        raise InputError(f"{path}: not a MATLAB file of version 5; save it with -v7")
    with decoding(path, "MATLAB"):
        variables = loadmat(path, squeeze_me=True, struct_as_record=False)
    return {k: v for k, v in variables.items() if not k.startswith("__")}


def _geometry(path: Path, parameters: Any) -> Geometry:
    require_keys(
        f"{path}: the struct parameters lacks",
        _PARAMETERS,
        dir(parameters),
        "fetch the file again or pass a geometry",
    )
    unit = str(getattr(parameters, "distanceUnit", "mm"))
    if unit != "mm":
        raise InputError(f"{path}: distances are in {unit!r}, expected mm; pass a geometry")
    return Geometry(
        kind="fan",
        angles=tuple(math.radians(float(a)) for a in np.atleast_1d(parameters.angles)),
        num_detectors=int(parameters.numDetectorsPost),
        image_shape=IMAGE_SHAPE,
        pixel_size=float(parameters.effectivePixelSizePost),
        detector_spacing=float(parameters.pixelSizePost),
        source_origin=float(parameters.distanceSourceOrigin),
        source_detector=float(parameters.distanceSourceDetector),
    )


def _load_neighbour(path: Path, suffix: str, variable: str) -> np.ndarray | None:
    """Load an array that belongs to a sinogram or to the full scan of the same disc, if any."""
    disc = path.stem.removesuffix("_limited").removesuffix("_full")
    for stem in dict.fromkeys((path.stem, f"{disc}_full", disc)):
        candidate = path.with_name(stem + suffix)
        if candidate.is_file():
            variables = _load(candidate)
            if variable not in variables:
                raise InputError(
                    f"{candidate}: no variable {variable}; move the file away or fetch it again"
                )
            return np.asarray(variables[variable])
    return None
