"""``invtoolbox normals MAP --mask MASK``: integrate a normal map to depth and a mesh."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from invtoolbox.errors import InputError
from invtoolbox.jobs import options


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "normals",
        help="integrate a normal map to a depth map and a mesh",
        description="Integrate a normal map to a depth map that keeps depth discontinuities, and to "
        "a mesh. Red, green and blue are x to the\nright, y up and z towards the camera. With "
        "--back, the front and the back of an object are found together.",
        epilog="examples:\n"
        "  invtoolbox normals map.png --mask mask.png --output depth.npz mesh.obj\n"
        "  invtoolbox normals map.png --intrinsics K.txt --median-depth 1500 --output mesh.ply\n"
        "  invtoolbox normals front.png --back back.png --prior front.npy back.npy --output "
        "body.obj",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "map", metavar="MAP", help="a PNG or TIFF of 8 or 16 bits, or an .npy or .npz file"
    )
    parser.add_argument(
        "--mask", metavar="FILE", help="picture or array, not 0 inside of the object"
    )
    parser.add_argument(
        "--intrinsics",
        metavar="FILE",
        help="matrix of a perspective camera, three lines of three numbers, in pixels "
        "(default: orthographic)",
    )
    parser.add_argument(
        "--pixel-size",
        type=float,
        metavar="LENGTH",
        help="size of a pixel of an orthographic camera, the unit of the depth (default: 1)",
    )
    parser.add_argument(
        "--median-depth",
        type=float,
        metavar="LENGTH",
        help="median of a perspective depth, which normals do not determine (default: 1)",
    )
    parser.add_argument(
        "--k",
        type=float,
        metavar="K",
        help="sharpness of depth discontinuities; 0 smooths them (default: 2; 4 with --back)",
    )
    sides = parser.add_argument_group("coarse depth and the back")
    sides.add_argument(
        "--back", metavar="FILE", help="normal map of the back, in the camera's axes: z < 0"
    )
    sides.add_argument(
        "--prior",
        nargs="+",
        default=[],
        metavar="FILE",
        help="coarse depth as .npy or .npz, and a second file for the back; NaN where unknown",
    )
    sides.add_argument(
        "--prior-weight",
        type=float,
        default=1e-3,
        metavar="W",
        help="weight of the squared distance to it, per pixel (default: 0.001)",
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--output",
        "-o",
        nargs="+",
        metavar="FILE",
        help="depth as .npz or .npy, and a mesh as .obj, .off, or .ply (default: MAP_depth.npz)",
    )
    results.add_argument("--overwrite", action="store_true", help="replace existing files")
    options.add_quiet(results)
    options.add_threads(results)
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    """Read the map, integrate it, and write the results."""
    from invtoolbox import datasets
    from invtoolbox.jobs.normals.integrate import surface_from_normals
    from invtoolbox.jobs.normals.scene import write_surface

    outputs = [Path(name) for name in arguments.output or [f"{Path(arguments.map).stem}_depth.npz"]]
    for file in outputs:
        if file.exists() and not arguments.overwrite:
            raise InputError(f"{file} exists; give --overwrite to replace it, or another --output")
    if arguments.intrinsics and arguments.pixel_size is not None:
        raise InputError("--intrinsics is a perspective camera, which has no --pixel-size")
    sides = (arguments.map, *([arguments.back] if arguments.back else []))
    if len(arguments.prior) not in (0, len(sides)):
        raise InputError(f"{len(sides)} map(s) take as many files of --prior")
    maps = tuple(datasets.read_normal_map(name) for name in sides)
    coarse = tuple(datasets.read_depth(name) for name in arguments.prior)
    surface = surface_from_normals(
        maps if arguments.back else maps[0],
        datasets.read_mask(arguments.mask) if arguments.mask else None,
        datasets.read_intrinsics(arguments.intrinsics)
        if arguments.intrinsics
        else arguments.pixel_size,
        prior=coarse or None,
        prior_weight=arguments.prior_weight,
        k=arguments.k,
        median_depth=arguments.median_depth,
        progress=not arguments.quiet,
    )
    for file in outputs:
        write_surface(file, surface, overwrite=arguments.overwrite)
    if not arguments.quiet:
        for note in surface.notes:
            print(f"note: {note}")
        solution = surface.solutions[0]
        print(
            f"{solution.status[0]} after {int(solution.iterations[0])} iterations, "
            f"{solution.seconds:.1f} s; wrote {', '.join(map(str, outputs))}"
        )
    return 0
