"""``invtoolbox ct SINOGRAM``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.cli import job, many
from invtoolbox.errors import InputError

if TYPE_CHECKING:
    from invtoolbox.datasets.geometry import Geometry
    from invtoolbox.datasets.measurement import Measurement
    from invtoolbox.problem import Problem
    from invtoolbox.solution import Solution


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "ct", help="reconstruct a sinogram",
        description="Reconstruct a 2D parallel or fan-beam sinogram. HTC2022 .mat files and DXchange .h5 files bring their\n"
                    "geometry; arrays (.npy, .npz, .tif) come with a small geometry file.",
        epilog="examples:\n"
               "  invtoolbox ct sinogram.npy --geometry geometry.toml --output slice.tif\n"
               "  invtoolbox ct htc2022_01a_limited.mat --report report.html\n"
               "  invtoolbox ct tooth.h5 --item 1 --center 295.5 --prior tv --regularization 0.02\n"
               "  invtoolbox ct tooth.h5 --items all --workers 2 --output tooth.mha\n\n"
               "a geometry file (angles in rows, detector elements in columns; one length unit throughout):\n"
               "  kind = \"fan\"                  # or \"parallel\"\n"
               "  num_detectors = 560\n"
               "  detector_spacing = 0.2\n"
               "  pixel_size = 0.148\n"
               "  image_shape = [512, 512]\n"
               "  source_origin = 410.66        # fan beam only\n"
               "  source_detector = 553.74      # fan beam only\n"
               "  [angles]\n"
               "  unit = \"degrees\"              # or \"radians\"\n"
               "  start = 0.0\n"
               "  stop = 360.0\n"
               "  count = 721",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sinogram", metavar="SINOGRAM", help="a file of line integrals; `invtoolbox list readers` shows formats")
    scan = parser.add_argument_group("scan")
    scan.add_argument("--geometry", metavar="FILE", help="a geometry file; replaces what the data say")
    scan.add_argument("--reader", metavar="NAME", help="how to read the file, where its first bytes mislead")
    scan.add_argument("--item", type=int, default=0, metavar="N", help="which sinogram of the file, counted from 0 (default: 0)")
    scan.add_argument("--center", metavar="COLUMN",
                      help="the detector column that sees the axis of rotation, counted from 0 at the centre of the first, "
                           "or auto to find it (parallel beam)")
    scan.add_argument("--views", metavar="START:STOP:STEP", help="use some of the views, as a slice of Python")
    scan.add_argument("--image-shape", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="of the reconstruction")
    scan.add_argument("--pixel-size", type=float, metavar="LENGTH", help="of the reconstruction")
    job.add_options(parser, prior="tv,nonnegative", output="SINOGRAM_reconstruction.tif in this folder")
    many.add_options(parser, "which sinograms of the file")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    if many.is_asked_for(arguments):
        everywhere = many.absolute(arguments, ("sinogram", "geometry"))
        return many.run(everywhere, everywhere.sinogram, reconstruct, len(_open(everywhere)))
    where = job.paths(arguments, f"{Path(arguments.sinogram).stem}_reconstruction.tif")
    return job.run(_problem(arguments, arguments.item), arguments, where, f"CT of {Path(arguments.sinogram).name}", value_range=None)


def reconstruct(arguments: argparse.Namespace, item: int) -> Solution:
    """One sinogram of many."""
    return job.solve(_problem(arguments, item), arguments)


def _problem(arguments: argparse.Namespace, number: int) -> Problem:
    opened = _open(arguments)
    if not -len(opened) <= number < len(opened):
        raise InputError(f"--item {number}: {arguments.sinogram} has {len(opened)} items, counted from 0")
    item: Measurement = opened[number]
    if item.geometry is None:
        raise InputError(f"{arguments.sinogram} does not say how it was scanned; give --geometry, a file that does "
                         "(`invtoolbox ct --help` shows one)")
    geometry, y = _choose(arguments, item, item.geometry)
    from invtoolbox.data_terms.least_squares import LeastSquares
    from invtoolbox.problem import Problem

    noise_std = arguments.noise_std if arguments.noise_std is not None else item.noise_std
    return Problem(y, geometry.operator(), LeastSquares(noise_std))


def _open(arguments: argparse.Namespace) -> Any:
    from invtoolbox import datasets

    return datasets.open_measurements(arguments.sinogram, arguments.geometry, reader=arguments.reader)


def _choose(arguments: argparse.Namespace, item: Measurement, geometry: Geometry) -> tuple[Geometry, Any]:
    """The geometry and the sinogram with what the command line changes."""
    y = item.y
    if arguments.views is not None:
        chosen = _slice(arguments.views)
        angles = geometry.angles[chosen]
        if not angles:
            raise InputError(f"--views {arguments.views} leaves none of {len(geometry.angles)} views")
        geometry, y = dataclasses.replace(geometry, angles=angles), y[:, :, chosen]
    changes: dict[str, Any] = {}
    if arguments.image_shape is not None:
        changes["image_shape"] = tuple(arguments.image_shape)
    if arguments.pixel_size is not None:
        changes["pixel_size"] = arguments.pixel_size
    if arguments.center is not None:
        column = _center(arguments, geometry, y)
        changes["detector_shift"] = ((geometry.num_detectors - 1) / 2 - column) * geometry.detector_spacing
    return dataclasses.replace(geometry, **changes), y


def _center(arguments: argparse.Namespace, geometry: Geometry, y: Any) -> float:
    if arguments.center == "auto":
        from invtoolbox.datasets import center_of_rotation

        if geometry.kind != "parallel":
            raise InputError("--center auto is for parallel beams; give the column for a fan beam")
        column = center_of_rotation(y[0, 0].numpy(), geometry.angles)
        if not arguments.quiet:
            print(f"the axis of rotation is at column {column:.2f}")
        return column
    try:
        column = float(arguments.center)
    except ValueError:
        raise InputError(f"--center takes a detector column or auto, got {arguments.center!r}") from None
    if not 0 <= column <= geometry.num_detectors - 1:
        raise InputError(f"--center {column:g}: the detector has columns 0 to {geometry.num_detectors - 1}")
    return column


def _slice(text: str) -> slice:
    parts = text.split(":")
    try:
        numbers = [int(p) if p.strip() else None for p in parts]
    except ValueError:
        numbers = []
    if not 2 <= len(numbers) <= 3 or numbers[2:] == [0]:
        raise InputError(f"--views takes START:STOP or START:STOP:STEP, for example 0:360:2 or ::4, got {text!r}")
    if len(numbers) == 3 and numbers[2] is not None and numbers[2] < 0:
        raise InputError(f"--views: the step must be positive, got {text!r}")
    return slice(*numbers)
