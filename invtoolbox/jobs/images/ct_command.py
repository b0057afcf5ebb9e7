"""``invtoolbox ct SINOGRAM``: reconstruct sinograms of 2D scans and projections of 3D scans."""

from __future__ import annotations

import argparse
from typing import Any

from invtoolbox.errors import InputError
from invtoolbox.jobs.images.command import (
    MEASUREMENTS,
    METHOD,
    REFERENCE,
    ImageCommand,
    ImageKind,
)

_NOTES = """a geometry file (angles in rows, detector elements in columns; one length unit throughout):
  kind = "fan"                  # or "parallel"
  num_detectors = 560
  detector_spacing = 0.2
  pixel_size = 0.148
  image_shape = [512, 512]
  source_origin = 410.66        # fan beam only
  source_detector = 553.74      # fan beam only
  [angles]
  unit = "degrees"              # or "radians"
  start = 0.0
  stop = 360.0
  count = 721

a geometry file of a 3D scan (projections: view, panel row, panel column):
  kind = "cone"                 # or "parallel3d"
  volume_shape = [256, 256, 256]
  voxel_size = 0.1
  detector_shape = [300, 400]   # rows, columns
  detector_spacing = 0.2
  source_origin = 100.0         # cone beam only
  source_detector = 250.0       # cone beam only
  # optional: detector_shift = [u, v], pitch (helix), tilt (laminography), curved, axis_shift, source_shift,
  # detector_rotation; or vectors = "poses.npy", 12 numbers per view in ASTRA's order, instead of all these
  [angles]                      # as above

"""


def _adjust(content: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Make the filtered back-projection alone of ``--fbp``: the initial guess and no iterations."""
    solver = content.setdefault("solver", {})
    if not solver.pop("fbp", False) and ("memory" not in solver or "name" in solver):
        return
    for key, option in {**METHOD, "--initial": "solver.initial"}.items():
        name = option.removeprefix("solver.")
        if option.startswith("solver.") and name in solver and name != "time_limit":
            raise InputError(
                f"--fbp is without iterations; leave {key} out, or start from it with --initial fbp"
            )
    solver |= {"initial": "fbp", "max_iterations": 0}
    content["prior"] = []


COMMAND = ImageCommand(
    description="Reconstruct a 2D parallel or fan-beam sinogram, or the projections of a cone or "
    "parallel beam onto a panel.\nScans of Nikon, Zeiss, SkyScan and RTK, HTC2022 .mat files and "
    "DXchange .h5 files contain their geometry; arrays\n(.npy, .npz, .h5, .tif) need a geometry file. "
    "Of a 3D scan, a folder as output gets one TIFF file per slice.",
    positional={"SINOGRAM": "measurements.path"},
    options={
        "--geometry": "measurements.geometry",
        **MEASUREMENTS,
        "--center": "measurements.center",
        "--views": "measurements.views",
        "--metal": "measurements.metal",
        "--stripes": "measurements.stripes",
        "--phase": "measurements.phase.delta_beta",
        "--energy": "measurements.phase.energy",
        "--distance": "measurements.phase.distance",
        "--initial": "solver.initial",
        **METHOD,
        "--memory": "solver.memory",
        "--dtype": "output.dtype",
        "--range": "output.range",
    },
    examples=(
        "ct sinogram.npy --geometry geometry.toml --output slice.tif",
        "ct htc2022_01a_limited.mat --report report.html",
        "ct tooth.h5 --item 1 --center 295.5 --prior tv --regularization 0.02",
        "ct tooth.h5 --items all --workers 2 --output tooth.mha",
        "ct projections.h5 --geometry cone.toml --fbp --output volume.nii.gz",
        "ct projections.h5 --geometry cone.toml --initial fbp --prior tv,nonnegative --output slices/",
        "ct foam.h5 --phase 1500 --energy 20 --distance 50 --fbp --output foam.tif",
        "ct scan.xtekct --memory 4GB --workers 4 --output volume.zarr",
    ),
    outputs=("{stem}_reconstruction.tif",),
    settings={
        "--image-shape": (
            "operator.image_shape",
            {
                "type": int,
                "nargs": 2,
                "metavar": ("ROWS", "COLUMNS"),
                "help": "size of a 2D reconstruction",
            },
        ),
        "--pixel-size": (
            "operator.pixel_size",
            {"type": float, "metavar": "LENGTH", "help": "pixel size of a 2D reconstruction"},
        ),
        "--volume-shape": (
            "operator.volume_shape",
            {
                "type": int,
                "nargs": 3,
                "metavar": ("SLICES", "ROWS", "COLUMNS"),
                "help": "size of a 3D reconstruction",
            },
        ),
        "--voxel-size": (
            "operator.voxel_size",
            {"type": float, "metavar": "LENGTH", "help": "voxel size of a 3D reconstruction"},
        ),
        "--fbp": (
            "solver.fbp",
            {
                "action": "store_true",
                "default": None,
                "help": "compute the filtered back-projection alone, without priors and iterations",
            },
        ),
        **REFERENCE,
    },
    defaults={"--prior": "default"},
    notes=_NOTES,
    items="sinograms of the file",
    title="CT",
    adjust=_adjust,
)

KIND = ImageKind(COMMAND)
