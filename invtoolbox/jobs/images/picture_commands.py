"""``invtoolbox denoise``, ``superresolve`` and ``inpaint``: restore photographs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from invtoolbox.errors import InputError
from invtoolbox.jobs.images.command import MEASUREMENTS, METHOD, REFERENCE
from invtoolbox.jobs.images.picture_command import PictureCommand, PictureKind

OPTIONS = {**MEASUREMENTS, **METHOD, "--tile": "solver.tile"}
ITEMS = "pictures of a folder, in the order of their names"
#: Part of the descriptions of all commands of pictures.
FORMS = (
    "A folder gives a folder of pictures.\nResults have the format, depth, alpha and metadata of their "
    "pictures. Values and --noise-std are from 0 to 1,\nwhere 1 is white."
)
_DEFAULTS = {"--prior": "default", "--tile": "auto"}


def _mask(content: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Take the missing pixels from the mask, or from the picture itself."""
    operator, source = content["operator"], content["measurements"]
    picture = Path(source["path"])
    if source.setdefault("reader", "pictures") == "pictures":
        source.setdefault("options", {}).setdefault("with_gaps", True)
    if "mask" not in operator:
        operator["mask"] = {"missing": "transparent"}
        return
    mask = Path(operator["mask"]).expanduser()
    if mask.is_dir():
        masks = [f for f in sorted(mask.iterdir()) if f.stem == picture.stem]
        masks.sort(key=lambda f: f.name != picture.name)
        if not masks:
            raise InputError(
                f"{mask} has no mask for {picture.name}; save one as {picture.stem}.png, or give one "
                "mask for all pictures"
            )
        mask = masks[0]
    operator["mask"] = {"path": str(mask), "missing": "white"}


DENOISE = PictureKind(
    PictureCommand(
        description="Remove the noise of a grey or color photograph. " + FORMS,
        positional={"PICTURE": "measurements.path"},
        options=OPTIONS,
        examples=(
            "denoise photo.jpg",
            "denoise night.tif --noise-std 0.04 --output clean.tif --report report.html",
            "denoise photos/ --output clean/",
        ),
        outputs=("{stem}_denoised{suffix}",),
        settings=REFERENCE,
        defaults=_DEFAULTS,
        items=ITEMS,
        title="Denoising",
        operator="identity",
        ending="denoised",
    )
)

SUPERRESOLVE = PictureKind(
    PictureCommand(
        description="Enlarge a grey or color photograph. " + FORMS,
        positional={"PICTURE": "measurements.path"},
        options=OPTIONS,
        examples=(
            "superresolve photo.png --factor 2",
            "superresolve photos/ --factor 2 --output large/",
        ),
        outputs=("{stem}_enlarged{suffix}",),
        settings={
            "--factor": (
                "operator.factor",
                {
                    "type": int,
                    "required": True,
                    "metavar": "N",
                    "help": "number of new pixels per pixel, along rows and along columns",
                },
            ),
            "--filter": (
                "operator.filter",
                {
                    "choices": ("bicubic", "gaussian", "box"),
                    "help": "filter by which the small picture came from a large one: that of image "
                    "programs, a soft lens, or the area of a sensor's pixels (default: bicubic)",
                },
            ),
            **REFERENCE,
        },
        defaults=_DEFAULTS,
        items=ITEMS,
        title="Enlarging",
        operator="downsampling",
        ending="enlarged",
    )
)

INPAINT = PictureKind(
    PictureCommand(
        description="Fill in missing pixels of a grey or color photograph. Known pixels stay as they "
        "are,\nunless --noise-std is given. " + FORMS,
        positional={"PICTURE": "measurements.path"},
        options=OPTIONS,
        examples=(
            "inpaint photo.png --mask scratches.png",
            "inpaint cut-out.png",
            "inpaint photos/ --mask masks/ --output filled/",
        ),
        outputs=("{stem}_inpainted{suffix}",),
        settings={
            "--mask": (
                "operator.mask",
                {
                    "metavar": "FILE",
                    "help": "picture of two values whose white pixels are missing; or a folder with a "
                    "mask of the same name per picture (default: pixels that are transparent or NaN, "
                    "and then opaque)",
                },
            ),
            **REFERENCE,
        },
        defaults=_DEFAULTS,
        items=ITEMS,
        title="Inpainting",
        adjust=_mask,
        operator="inpainting",
        ending="inpainted",
    )
)
