"""``invtoolbox ct SINOGRAM``: reconstruct sinograms of 2D scans and projections of 3D scans."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.errors import InputError
from invtoolbox.jobs import options
from invtoolbox.jobs.images import command as job

if TYPE_CHECKING:
    from torch import Tensor

    from invtoolbox.datasets.measurement import Measurement
    from invtoolbox.datasets.scans.geometry_3d import Geometry3D
    from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
    from invtoolbox.problem import Problem
    from invtoolbox.solution import Solution


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "ct",
        help="reconstruct a sinogram, or the projections of a 3D scan",
        description="Reconstruct a 2D parallel or fan-beam sinogram, or the projections of a cone "
        "or parallel beam onto a panel.\n"
        "HTC2022 .mat files and DXchange .h5 files contain their geometry; arrays (.npy, .npz, "
        ".h5, .tif) need a geometry\nfile.",
        epilog="examples:\n"
        "  invtoolbox ct sinogram.npy --geometry geometry.toml --output slice.tif\n  invtoolbox "
        "ct htc2022_01a_limited.mat --report report.html\n  invtoolbox ct tooth.h5 --item 1 "
        "--center 295.5 --prior tv --regularization 0.02\n  invtoolbox ct tooth.h5 --items all "
        "--workers 2 --output tooth.mha\n  invtoolbox ct projections.h5 --geometry cone.toml "
        "--fbp --output volume.nii.gz\n  invtoolbox ct projections.h5 --geometry cone.toml "
        "--initial fbp --prior tv,nonnegative --output slices/\n\na geometry file (angles in "
        "rows, detector elements in columns; one length unit throughout):\n"
        '  kind = "fan"                  # or "parallel"\n'
        "  num_detectors = 560\n"
        "  detector_spacing = 0.2\n"
        "  pixel_size = 0.148\n"
        "  image_shape = [512, 512]\n"
        "  source_origin = 410.66        # fan beam only\n"
        "  source_detector = 553.74      # fan beam only\n"
        "  [angles]\n"
        '  unit = "degrees"              # or "radians"\n'
        "  start = 0.0\n"
        "  stop = 360.0\n"
        "  count = 721\n\n"
        "a geometry file of a 3D scan (projections: view, panel row, panel column):\n"
        '  kind = "cone"                 # or "parallel3d"\n'
        "  volume_shape = [256, 256, 256]\n  voxel_size = 0.1\n  detector_shape = [300, 400]   # "
        "rows, columns\n  detector_spacing = 0.2\n  source_origin = 100.0         # cone beam "
        "only\n  source_detector = 250.0       # cone beam only\n  # optional: detector_shift = "
        "[u, v], pitch (helix), tilt (laminography), curved, axis_shift, source_shift,\n"
        '  # detector_rotation; or vectors = "poses.npy", 12 numbers per view in ASTRA\'s order, instead of all these\n'
        "  [angles]                      # as above",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sinogram",
        metavar="SINOGRAM",
        help="a file of line integrals; `invtoolbox list readers` lists the formats",
    )
    scan = parser.add_argument_group("scan")
    scan.add_argument(
        "--geometry", metavar="FILE", help="a geometry file; it replaces the geometry in the data"
    )
    scan.add_argument(
        "--reader",
        metavar="NAME",
        help="name of the reader (default: chosen by the first bytes of the file)",
    )
    scan.add_argument(
        "--item",
        type=int,
        metavar="N",
        help="number of the sinogram in the file, counted from 0 (default: 0)",
    )
    scan.add_argument(
        "--center",
        metavar="COLUMN",
        help="detector column onto which the axis of rotation projects, counted from 0 at the "
        "centre of the first column; "
        "auto estimates it (parallel beam)",
    )
    scan.add_argument(
        "--views", metavar="START:STOP:STEP", help="choice of views, as a slice of Python"
    )
    scan.add_argument(
        "--image-shape",
        type=int,
        nargs=2,
        metavar=("ROWS", "COLUMNS"),
        help="size of a 2D reconstruction",
    )
    scan.add_argument(
        "--pixel-size", type=float, metavar="LENGTH", help="pixel size of a 2D reconstruction"
    )
    scan.add_argument(
        "--volume-shape",
        type=int,
        nargs=3,
        metavar=("SLICES", "ROWS", "COLUMNS"),
        help="size of a 3D reconstruction",
    )
    scan.add_argument(
        "--voxel-size", type=float, metavar="LENGTH", help="voxel size of a 3D reconstruction"
    )
    start = parser.add_argument_group(
        "filtered back-projection",
        "For a cone beam this is the method of Feldkamp, Davis and Kress.",
    )
    start.add_argument(
        "--fbp",
        action="store_true",
        help="compute the filtered back-projection alone, without priors and iterations",
    )
    start.add_argument(
        "--initial", choices=["fbp"], help="initial guess: the filtered back-projection"
    )
    job.add_options(
        parser, prior="tv,nonnegative", output="SINOGRAM_reconstruction.tif in this folder"
    )
    options.add_study(parser, "sinograms of the file")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    """Reconstruct one sinogram or scan, or many."""
    if options.is_study(arguments):
        everywhere = job.resolve_paths(arguments, ("sinogram", "geometry"))
        opened = _open(everywhere)
        if isinstance(opened[0].geometry, _geometry_3d()) and (
            everywhere.output or ""
        ).lower().endswith(job.VOLUME_FORMATS):
            raise InputError(
                f"--output {everywhere.output}: every item of a 3D scan is a volume; give a folder"
            )
        return job.run_many(everywhere, everywhere.sinogram, reconstruct, len(opened))
    problem, geometry = _problem(arguments, arguments.item or 0)
    where = job.choose_paths(
        arguments,
        f"{Path(arguments.sinogram).stem}_reconstruction.tif",
        is_volume=isinstance(geometry, _geometry_3d()),
    )
    method, start = _method(problem, arguments)
    grid = geometry.grid() if isinstance(geometry, _geometry_3d()) else None
    return job.run(
        problem,
        method,
        where,
        f"CT of {Path(arguments.sinogram).name}",
        None,
        start,
        grid,
        _describe_fbp if arguments.fbp else str,
    )


def _describe_fbp(solution: Solution) -> str:
    """Return the summary of a filtered back-projection, in which no solver took part."""
    shape = tuple(solution.x.shape)
    return f"filtered back-projection alone: x {shape}, no priors, no iterations"


def reconstruct(arguments: argparse.Namespace, item: int) -> Solution:
    """Reconstruct one sinogram of many."""
    problem, _ = _problem(arguments, item)
    method, start = _method(problem, arguments)
    return job.solve(problem, method, start=start)


def _geometry_3d() -> type[Geometry3D]:
    from invtoolbox.datasets import Geometry3D

    return Geometry3D


def _method(
    problem: Problem, arguments: argparse.Namespace
) -> tuple[argparse.Namespace, Tensor | None]:
    """Return the options of the method and the initial guess."""
    from invtoolbox.operators.base import LinearOperator

    assert isinstance(problem.operator, LinearOperator)
    if not arguments.fbp:
        return arguments, problem.operator.pseudo_inverse(problem.y) if arguments.initial else None
    for option in ("solver", "max_iterations", "initial"):
        if getattr(arguments, option) is not None:
            raise InputError(
                f"--fbp is without iterations; leave --{option.replace('_', '-')} out, or start "
                "from it with --initial fbp"
            )
    alone = {"prior": "none", "max_iterations": 0}
    return argparse.Namespace(**{**vars(arguments), **alone}), problem.operator.pseudo_inverse(
        problem.y
    )


def _problem(arguments: argparse.Namespace, number: int) -> tuple[Problem, ScanGeometry]:
    opened = _open(arguments)
    if arguments.item is None and not options.is_study(arguments):
        from invtoolbox.measurements import report_unused_pages

        report_unused_pages(
            opened, arguments.sinogram, "choose one with --item, or all with --items all"
        )
    if not -len(opened) <= number < len(opened):
        raise InputError(
            f"--item {number}: {arguments.sinogram} has {len(opened)} items, counted from 0"
        )
    item: Measurement = opened[number]
    if item.meta.get("units") == "HU":
        raise InputError(
            f"{arguments.sinogram} holds an image, not a sinogram, so there is nothing to "
            "reconstruct; `invtoolbox run ct-dicom` simulates a scan of such an image"
        )
    if item.geometry is None:
        raise InputError(
            f"{arguments.sinogram} contains no geometry; give --geometry with a geometry file "
            "(`invtoolbox ct --help` shows one)"
        )
    geometry, y = _choose(arguments, item, item.geometry)
    from invtoolbox.data_terms.least_squares import LeastSquares
    from invtoolbox.problem import Problem

    noise_std = arguments.noise_std if arguments.noise_std is not None else item.noise_std
    return Problem(y, geometry.operator(), LeastSquares(noise_std)), geometry


def _open(arguments: argparse.Namespace) -> Any:
    from invtoolbox import datasets

    return datasets.open_measurements(
        arguments.sinogram, arguments.geometry, reader=arguments.reader
    )


def _choose(
    arguments: argparse.Namespace, item: Measurement, geometry: ScanGeometry
) -> tuple[ScanGeometry, Any]:
    """Return the geometry and the sinogram after the changes of the command line."""
    y = item.y
    if arguments.views is not None:
        chosen = _slice(arguments.views)
        if not range(geometry.view_count)[chosen]:
            raise InputError(
                f"--views {arguments.views} leaves none of {geometry.view_count} views"
            )
        geometry, y = geometry.with_views(chosen), y[:, :, chosen]
    fields = {f.name for f in dataclasses.fields(geometry)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for name, other in (
        ("image_shape", "volume-shape"),
        ("pixel_size", "voxel-size"),
        ("volume_shape", "image-shape"),
        ("voxel_size", "pixel-size"),
    ):
        value = getattr(arguments, name)
        if value is None:
            continue
        if name not in fields:
            raise InputError(
                f"--{name.replace('_', '-')} is not for a scan of the kind {geometry.kind!r}; give "
                f"--{other}"
            )
        changes[name] = tuple(value) if isinstance(value, list) else value
    if changes:
        geometry = dataclasses.replace(geometry, **changes)  # type: ignore[type-var]
    return geometry if arguments.center is None else geometry.with_axis_column(
        _center(arguments, geometry, y)
    ), y


def _center(arguments: argparse.Namespace, geometry: ScanGeometry, y: Any) -> float:
    if arguments.center == "auto":
        from invtoolbox.datasets import center_of_rotation

        if (
            not geometry.kind.startswith("parallel")
            or not geometry.angles
            or getattr(geometry, "tilt", 0.0) != 0
        ):
            raise InputError("--center auto is for parallel beams across the axis; give the column")
        # Of a panel, the row in the middle.
        sinogram = y[0, 0] if geometry.axes == 2 else y[0, 0, :, y.shape[3] // 2]
        column = center_of_rotation(sinogram.numpy(), geometry.angles)
        if not arguments.quiet:
            print(f"the axis of rotation is at column {column:.2f}")
        return column
    try:
        column = float(arguments.center)
    except ValueError:
        raise InputError(
            f"--center takes a detector column or auto, got {arguments.center!r}"
        ) from None
    if not 0 <= column <= geometry.columns - 1:
        raise InputError(
            f"--center {column:g}: the detector has columns 0 to {geometry.columns - 1}"
        )
    return column


def _slice(text: str) -> slice:
    parts = text.split(":")
    try:
        numbers = [int(p) if p.strip() else None for p in parts]
    except ValueError:
        numbers = []
    if not 2 <= len(numbers) <= 3 or numbers[2:] == [0]:
        raise InputError(
            f"--views takes START:STOP or START:STOP:STEP, for example 0:360:2 or ::4, got {text!r}"
        )
    if len(numbers) == 3 and numbers[2] is not None and numbers[2] < 0:
        raise InputError(f"--views: the step must be positive, got {text!r}")
    return slice(*numbers)
