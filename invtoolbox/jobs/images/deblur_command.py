"""``invtoolbox deblur PICTURE --kernel KERNEL``: deblur photographs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from invtoolbox import datasets
from invtoolbox.errors import InputError
from invtoolbox.jobs import options
from invtoolbox.jobs.images.command import (
    MEASUREMENTS,
    METHOD,
    REFERENCE,
    ImageCommand,
    ImageKind,
)
from invtoolbox.operators.imaging.blur import BOUNDARIES


def _kernel(text: str) -> dict[str, Any]:
    """Return the table of a kernel: a Gaussian, or a file, which is scaled to the sum 1."""
    name, _, width = text.partition(":")
    if name != "gaussian":
        return {"path": text, "normalized": True}
    try:
        return {"gaussian": float(width)}
    except ValueError:
        return {"gaussian": width}


def _count_slices(table: dict[str, Any]) -> int:
    """Return the number of slices of a file if they are one volume, else 1."""
    if "path" not in table or "item" in table:
        return 1
    opened = datasets.open_measurements(table["path"], reader=table.get("reader"))
    if isinstance(opened, (datasets.HTC2022, datasets.DataExchange, datasets.NXtomo)):
        raise InputError(
            f"{table['path']} is not a picture; a sinogram is reconstructed by `invtoolbox ct`"
        )
    return opened.shape[0] if isinstance(opened, datasets.Volume) else 1


def _adjust(content: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Choose the blur of pictures, or of a volume if picture and kernel have several slices."""
    source, kernel = content["measurements"], content["operator"]["kernel"]
    slices, thickness = _count_slices(source), _count_slices(kernel)
    if options.request_of(arguments).is_study:
        slices = 1
    if slices > 1 and thickness == 1:
        raise InputError(
            f"{source['path']} has {slices} slices, and the kernel is one picture; give --items all "
            "to deblur every slice with it, or a kernel of several slices"
        )
    if slices == 1 and thickness > 1:
        raise InputError(
            f"the kernel {kernel['path']} has {thickness} slices, and {source['path']} is one "
            "picture; choose one with --kernel-item"
        )
    content["operator"].setdefault("name", "blur" if slices == 1 else "blur-3d")
    if slices > 1 and not arguments.output:
        arguments.output = [f"{Path(source['path']).stem}_deblurred.tif"]


COMMAND = ImageCommand(
    description="Deblur a grey or color photograph that was blurred with a known kernel. A stack of "
    "slices and a stack as its kernel\n(a point spread function) are deblurred as a volume. The "
    "range of pictures is 0 to 1.",
    positional={"PICTURE": "measurements.path"},
    options={**MEASUREMENTS, **METHOD, "--tile": "solver.tile"},
    examples=(
        "deblur photo.png --kernel kernel.png",
        "deblur photo.png --kernel gaussian:1.6 --noise-std 0.02 --report report.html",
        "deblur photo.tif --kernel Levin09.mat --kernel-item 3 --boundary valid --output sharp.tif",
        "deblur photos/ --kernel kernel.png --workers 2 --output sharp/",
        "deblur cells.tif --kernel psf.tif --boundary zero --output cells_sharp.tif",
    ),
    outputs=("{stem}_deblurred.png",),
    settings={
        "--kernel": (
            "operator.kernel",
            {
                "type": _kernel,
                "required": True,
                "metavar": "KERNEL",
                "help": "a file (PNG, TIFF, .npy, Levin's .mat), which is scaled to the sum 1, or "
                "gaussian:WIDTH with the standard deviation in pixels",
            },
        ),
        "--kernel-item": (
            "operator.kernel.item",
            {
                "type": int,
                "metavar": "N",
                "help": "number of the kernel in the file, counted from 0 (default: 0; a stack is "
                "one kernel of a volume)",
            },
        ),
        "--boundary": (
            "operator.boundary",
            {
                "choices": BOUNDARIES,
                "help": "values beyond the edge of the picture; valid assumes nothing and gives a "
                "picture that is larger by the size of the kernel (default: reflect)",
            },
        ),
        **REFERENCE,
    },
    defaults={"--prior": "tv", "--tile": "auto"},
    items="pictures of a folder, or pages of a file",
    title="Deblurring",
    adjust=_adjust,
)

KIND = ImageKind(COMMAND)
