"""``invtoolbox deblur PICTURE --kernel KERNEL``: deblur photographs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.errors import InputError
from invtoolbox.jobs import options
from invtoolbox.jobs.images import command as job

if TYPE_CHECKING:
    from torch import Tensor

    from invtoolbox.datasets import Volume
    from invtoolbox.problem import Problem
    from invtoolbox.solution import Solution


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "deblur",
        help="deblur a photograph or a stack with a known kernel",
        description="Deblur a grey or color photograph that was blurred with a known kernel. A stack of "
        "slices and a stack as its kernel\n(a point spread function) are deblurred as a volume.",
        epilog="examples:\n"
        "  invtoolbox deblur photo.png --kernel kernel.png\n  invtoolbox deblur photo.png "
        "--kernel gaussian:1.6 --noise-std 0.02 --report report.html\n  invtoolbox deblur "
        "photo.tif --kernel Levin09.mat --kernel-item 3 --boundary valid --output sharp.tif\n  "
        "invtoolbox deblur photos/ --kernel kernel.png --workers 2 --output sharp/\n  "
        "invtoolbox deblur cells.tif --kernel psf.tif --boundary zero --output cells_sharp.tif",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "picture",
        metavar="PICTURE",
        help="a PNG, JPEG, BMP, TIFF or .npy file, or a folder of them; the range of pictures is 0 to 1",
    )
    blur = parser.add_argument_group("blur")
    blur.add_argument(
        "--kernel",
        required=True,
        metavar="KERNEL",
        help="a file (PNG, TIFF, .npy, Levin's .mat), which is scaled to the sum 1, or "
        "gaussian:WIDTH with the standard "
        "deviation in pixels",
    )
    blur.add_argument(
        "--kernel-item",
        type=int,
        metavar="N",
        help="number of the kernel in the file, counted from 0 (default: 0; a stack is one kernel "
        "of a volume)",
    )
    blur.add_argument(
        "--boundary",
        default="reflect",
        choices=("reflect", "periodic", "valid", "zero"),
        help="values beyond the edge of the picture; valid assumes nothing and gives a picture "
        "that is larger by the size "
        "of the kernel (default: reflect)",
    )
    blur.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="rows and columns of overlapping tiles, which bound the memory; 0 for none (default: "
        "512 above 2 megapixels, if the boundary is reflect or valid, without --time-limit and "
        "--resume)",
    )
    job.add_options(parser, prior="tv", output="PICTURE_deblurred.png in this folder")
    options.add_study(parser, "pictures of a folder, or pages of a file")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    """Deblur one picture, or many."""
    if options.is_study(arguments):
        from invtoolbox import datasets

        everywhere = job.resolve_paths(arguments, ("picture",))
        if not arguments.kernel.startswith("gaussian:"):
            everywhere = job.resolve_paths(everywhere, ("kernel",))
        return job.run_many(
            everywhere,
            everywhere.picture,
            sharpen,
            len(datasets.open_measurements(everywhere.picture)),
        )
    stack = _stack(arguments.picture)
    if stack is not None:
        return _deblur_volume(arguments, stack)
    where = job.choose_paths(arguments, f"{Path(arguments.picture).stem}_deblurred.png")
    problem, is_photograph = _problem(arguments, 0)
    tile = _tile(arguments, problem)
    if tile and arguments.resume:
        raise InputError("a picture in tiles is not resumed; leave --resume out, or give --tile 0")
    return job.run(
        problem,
        arguments,
        where,
        f"Deblurring of {Path(arguments.picture).name}",
        (0.0, 1.0) if is_photograph else None,
        work=(lambda: _deblur(problem, arguments, tile, not arguments.quiet)) if tile else None,
    )


def _stack(path: str) -> Volume | None:
    """Return the volume of a file with several slices, and None for other files."""
    from invtoolbox import datasets

    opened = datasets.open_measurements(path)
    return opened if isinstance(opened, datasets.Volume) and opened.shape[0] > 1 else None


def _deblur_volume(arguments: argparse.Namespace, stack: Volume) -> int:
    """Deblur a stack with a kernel that is a stack, as one volume."""
    from invtoolbox.data_terms.least_squares import LeastSquares
    from invtoolbox.operators import Blur3D
    from invtoolbox.problem import Problem

    is_file = not arguments.kernel.startswith("gaussian:") and arguments.kernel_item is None
    psf = _stack(arguments.kernel) if is_file else None
    if psf is None:
        raise InputError(
            f"{arguments.picture} has {stack.shape[0]} slices, and the kernel is one picture; give "
            "--items all to deblur every slice with it, or a kernel of several slices"
        )
    if arguments.tile:
        raise InputError("--tile is for pictures; leave it out for a volume")
    where = job.choose_paths(
        arguments, f"{Path(arguments.picture).stem}_deblurred.tif", is_volume=True
    )
    kernel = _normalize(psf.volume().y[0, 0], arguments.kernel)
    y = stack.volume().y
    shape: tuple[int, ...] = tuple(y.shape[2:])
    if arguments.boundary == "valid":
        shape = tuple(n + k - 1 for n, k in zip(shape, kernel.shape))
    A = Blur3D(kernel, shape, boundary=arguments.boundary)
    return job.run(
        Problem(y, A, LeastSquares(arguments.noise_std)),
        arguments,
        where,
        f"Deblurring of {Path(arguments.picture).name}",
        None,
        grid=stack.grid,
    )


def sharpen(arguments: argparse.Namespace, item: int) -> Solution:
    """Deblur one picture of many."""
    problem, _ = _problem(arguments, item)
    tile = _tile(arguments, problem)
    return _deblur(problem, arguments, tile, False) if tile else job.solve(problem, arguments)


def _tile(arguments: argparse.Namespace, problem: Problem) -> int:
    """Return the size of the tiles; 0 for a picture that is solved as a whole."""
    from invtoolbox.jobs.images.tiles import LARGE
    from invtoolbox.operators import Blur

    if arguments.tile is not None:
        if arguments.tile < 0:
            raise InputError(f"--tile is a number of pixels, got {arguments.tile}")
        if arguments.tile and arguments.time_limit is not None:
            raise InputError("--time-limit is for a picture as a whole; leave --tile out")
        return int(arguments.tile)
    A = problem.operator
    suits = isinstance(A, Blur) and A.boundary in ("reflect", "valid")
    whole = arguments.time_limit is not None or arguments.resume
    large = problem.y0.shape[-2:].numel() > LARGE
    return 512 if suits and large and not whole else 0


def _deblur(problem: Problem, arguments: argparse.Namespace, tile: int, progress: bool) -> Solution:
    """Deblur one picture by tiles."""
    from invtoolbox.catalogue.presets import solver_named
    from invtoolbox.core.environment import device_named
    from invtoolbox.jobs.images.tiles import deblur_in_tiles
    from invtoolbox.operators import Blur

    prior = job.sum_of_priors(arguments.prior)
    if not isinstance(problem.operator, Blur) or prior is None:
        raise InputError("tiles are for pictures and a prior; give --tile 0")
    return deblur_in_tiles(
        problem.y0,
        problem.operator,
        prior,
        solver_named(arguments.solver) if arguments.solver else None,
        job.weight(arguments.regularization),
        noise_std=arguments.noise_std,
        tile=tile,
        max_iterations=arguments.max_iterations,
        device=device_named(arguments.device),
        progress=progress,
    )


def _problem(arguments: argparse.Namespace, number: int) -> tuple[Problem, bool]:
    """Return the problem of one picture, and whether it is a photograph.

    The values of a photograph are between 0 and 1.
    """
    from invtoolbox import datasets
    from invtoolbox.data_terms.least_squares import LeastSquares
    from invtoolbox.measurements import report_unused_pages
    from invtoolbox.operators import Blur
    from invtoolbox.problem import Problem

    pictures = datasets.open_measurements(arguments.picture)
    if not options.is_study(arguments):
        report_unused_pages(pictures, arguments.picture, "--items all deblurs all of them")
    item = pictures[number]
    if item.y.ndim != 4 or item.geometry is not None:
        raise InputError(
            f"{arguments.picture} is not a picture; a sinogram is reconstructed by `invtoolbox ct`"
        )
    kernel = _kernel(arguments)
    rows, columns = item.y.shape[-2:]
    if arguments.boundary == "valid":
        rows, columns = rows + kernel.shape[0] - 1, columns + kernel.shape[1] - 1
    problem = Problem(
        item.y,
        Blur(kernel, (rows, columns), boundary=arguments.boundary),
        LeastSquares(arguments.noise_std),
    )
    return problem, "black" in item.meta["units"]


def _kernel(arguments: argparse.Namespace) -> Tensor:
    """Return the kernel, ``(rows, columns)``, with the sum 1."""
    name, _, width = arguments.kernel.partition(":")
    if name == "gaussian":
        from invtoolbox.jobs.images.parts import gaussian_kernel

        try:
            return gaussian_kernel(float(width), "--kernel")
        except ValueError:
            raise InputError(
                f"--kernel gaussian:WIDTH takes a positive number of pixels, got {width!r}"
            ) from None
    from invtoolbox import datasets
    from invtoolbox.measurements import report_unused_pages

    opened, number = datasets.open_measurements(arguments.kernel), arguments.kernel_item
    if number is None:
        number = 0
        if isinstance(opened, datasets.Volume) and len(opened) > 1:
            raise InputError(
                f"the kernel {arguments.kernel} has {len(opened)} slices, and "
                f"{arguments.picture} is one picture; choose one with --kernel-item"
            )
        report_unused_pages(opened, arguments.kernel, "choose another one with --kernel-item")
    if not -len(opened) <= number < len(opened):
        raise InputError(
            f"--kernel-item {number}: {arguments.kernel} has {len(opened)} items, counted from 0"
        )
    kernel = opened[number].y[0]
    if kernel.ndim != 3:
        raise InputError(
            f"{arguments.kernel} has shape {tuple(kernel.shape)}; a kernel is a picture, (rows, "
            "columns)"
        )
    return _normalize(kernel.mean(0), arguments.kernel)


def _normalize(kernel: Tensor, path: str) -> Tensor:
    """Return the kernel with the sum 1."""
    kernel = kernel.double()
    total = float(kernel.sum())
    if not bool((kernel != 0).any()) or not abs(total) > 1e-12:
        raise InputError(
            f"the kernel {path} sums to {total:g}, so it blurs everything to black; "
            "give one that is positive somewhere"
        )
    return (kernel / total).float()
