"""``invtoolbox deblur PICTURE --kernel KERNEL``: deblur photographs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.cli import job, options
from invtoolbox.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from invtoolbox.problem import Problem
    from invtoolbox.solution import Solution


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "deblur",
        help="deblur a photograph with a known kernel",
        description="Deblur a grey or color photograph that was blurred with a known kernel.",
        epilog="examples:\n"
        "  invtoolbox deblur photo.png --kernel kernel.png\n  invtoolbox deblur photo.png "
        "--kernel gaussian:1.6 --noise-std 0.02 --report report.html\n  invtoolbox deblur "
        "photo.tif --kernel Levin09.mat --kernel-item 3 --boundary valid --output sharp.tif\n  "
        "invtoolbox deblur photos/ --kernel kernel.png --workers 2 --output sharp/",
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
        help="number of the kernel in the file, counted from 0 (default: 0)",
    )
    blur.add_argument(
        "--boundary",
        default="reflect",
        choices=("reflect", "periodic", "valid", "zero"),
        help="values beyond the edge of the picture; valid assumes nothing and gives a picture "
        "that is larger by the size "
        "of the kernel (default: reflect)",
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
    where = job.choose_paths(arguments, f"{Path(arguments.picture).stem}_deblurred.png")
    problem, is_photograph = _problem(arguments, 0)
    return job.run(
        problem,
        arguments,
        where,
        f"Deblurring of {Path(arguments.picture).name}",
        (0.0, 1.0) if is_photograph else None,
    )


def sharpen(arguments: argparse.Namespace, item: int) -> Solution:
    """Deblur one picture of many."""
    return job.solve(_problem(arguments, item)[0], arguments)


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
    import torch

    name, _, width = arguments.kernel.partition(":")
    if name == "gaussian":
        from invtoolbox.runs.images.parts import gaussian_kernel

        try:
            return gaussian_kernel(float(width), "--kernel")
        except ValueError:
            raise InputError(
                f"--kernel gaussian:WIDTH takes a positive number of pixels, got {width!r}"
            ) from None
    from invtoolbox import datasets
    from invtoolbox.measurements import report_unused_pages

    opened, number = datasets.open_measurements(arguments.kernel), arguments.kernel_item or 0
    if arguments.kernel_item is None:
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
    kernel = kernel.to(torch.float64).mean(0)
    total = float(kernel.sum())
    if not bool((kernel != 0).any()) or not abs(total) > 1e-12:
        raise InputError(
            f"the kernel {arguments.kernel} sums to {total:g}, so it blurs everything to black; "
            "give one that is positive somewhere"
        )
    return (kernel / total).float()
