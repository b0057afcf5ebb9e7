"""``invtoolbox deblur PICTURE --kernel KERNEL``: deblur photographs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from invtoolbox import datasets
from invtoolbox.errors import InputError
from invtoolbox.jobs import options
from invtoolbox.jobs.images.command import REFERENCE
from invtoolbox.jobs.images.kernels import SHAPES
from invtoolbox.jobs.images.picture_command import PictureCommand, PictureKind
from invtoolbox.jobs.images.picture_commands import FORMS, ITEMS, OPTIONS
from invtoolbox.operators.imaging.blur import BOUNDARIES


def _kernel(text: str) -> dict[str, Any]:
    """Return the table of a kernel: a shape, or a file, which is scaled to the sum 1."""
    if text == "auto":
        raise argparse.ArgumentTypeError(
            "the toolbox has no blind deblurring, which finds the kernel in the photograph: give "
            "disc:RADIUS if it is out of focus, motion:LENGTH,ANGLE if it moved along a line, "
            "gaussian:WIDTH, or a file"
        )
    name, _, size = text.partition(":")
    if name not in SHAPES:
        # One letter before a colon is a drive of Windows.
        if size and name.isalpha() and len(name) > 1 and not Path(text).exists():
            raise argparse.ArgumentTypeError(
                f"there is no shape of a kernel {name!r}: the shapes are disc:RADIUS, "
                "motion:LENGTH,ANGLE and gaussian:WIDTH, all in pixels; others come from a file"
            )
        return {"path": text, "normalized": True}
    numbers = [_number(word) for word in size.split(",")]
    return {name: numbers if len(numbers) > 1 else numbers[0]}


def _number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


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
    if slices == 1 and "boundary" not in content["operator"]:
        # Nobody knows what lies beyond the edges of a photograph.
        content["operator"]["boundary"] = "valid"
        content.setdefault("output", {})["crop"] = True
    if slices == 1:
        return
    content["operator"]["name"] = "blur-3d"
    if not arguments.output:
        arguments.output = [f"{Path(source['path']).stem}_deblurred.tif"]


COMMAND = PictureCommand(
    description="Deblur a grey or color photograph that was blurred with a known kernel. A stack of "
    "slices and a stack as its kernel\n(a point spread function) are deblurred as a volume. "
    + FORMS,
    positional={"PICTURE": "measurements.path"},
    options=OPTIONS,
    examples=(
        "deblur photo.jpg --kernel disc:4.5",
        "deblur photo.png --kernel motion:15,30 --noise-std 0.02 --report report.html",
        "deblur photo.tif --kernel Levin09.mat --kernel-item 3 --boundary valid --output sharp.tif",
        "deblur photos/ --kernel kernel.png --workers 2 --output sharp/",
        "deblur cells.tif --kernel psf.tif --boundary zero --output cells_sharp.tif",
    ),
    outputs=("{stem}_deblurred{suffix}",),
    settings={
        "--kernel": (
            "operator.kernel",
            {
                "type": _kernel,
                "required": True,
                "metavar": "KERNEL",
                "help": "disc:RADIUS of a defocus, motion:LENGTH,ANGLE of a straight motion "
                "(degrees, counterclockwise from the right), gaussian:WIDTH (standard deviation), all "
                "in pixels; or a file (PNG, TIFF, .npy, Levin's .mat), which is scaled to the sum 1",
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
                "picture that is larger by the size of the kernel (default: valid, cropped to the "
                "size of the picture; of a volume, reflect)",
            },
        ),
        **REFERENCE,
    },
    defaults={"--prior": "default", "--tile": "auto"},
    items=f"{ITEMS}, or pages of a file",
    title="Deblurring",
    adjust=_adjust,
    operator="blur",
    ending="deblurred",
    is_stack=lambda content: _count_slices(content["operator"]["kernel"]) > 1,
)

KIND = PictureKind(COMMAND)
