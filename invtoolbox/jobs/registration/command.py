"""``invtoolbox register MOVING FIXED``: register two images or volumes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from invtoolbox.errors import InputError
from invtoolbox.jobs import options


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "register",
        help="register two images or volumes",
        description="Find the displacement field that takes a moving image to a fixed one on the "
        "same grid, and warp the moving image,\nor labels that belong to it.",
        epilog="examples:\n"
        "  invtoolbox register moving.nii.gz fixed.nii.gz --output warped.nii.gz field.npz\n"
        "  invtoolbox register ct.nii.gz mr.nii.gz --loss mi --labels organs.nii.gz moved.nii.gz\n"
        "  invtoolbox register before.png after.png --prior linear-elastic --smoothness 2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in ("moving", "fixed"):
        parser.add_argument(
            name,
            metavar=name.upper(),
            help=f"the {name} image: NIfTI, MetaImage, DICOM, PNG, TIFF or .npy",
        )
    parser.add_argument(
        "--loss",
        default="least-squares",
        choices=["least-squares", "ncc", "mi"],
        help="least squares for the same brightness, normalized cross-correlation if brightness "
        "differs, mutual information for two modalities (default: least-squares)",
    )
    parser.add_argument(
        "--prior",
        default="bending",
        choices=["bending", "diffusion", "linear-elastic", "grid-arap"],
        help="prior of the displacement (default: bending)",
    )
    parser.add_argument(
        "--poisson",
        type=float,
        metavar="NU",
        help="Poisson's ratio of --prior linear-elastic (default: 0.4)",
    )
    parser.add_argument(
        "--smoothness",
        type=float,
        metavar="FACTOR",
        default=1.0,
        help="factor on the usual weight of the prior (default: 1)",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs="+",
        metavar="LENGTH",
        help="distance of pixels along every axis, for files that do not state it (default: 1)",
    )
    parser.add_argument(
        "--mask", metavar="FILE", help="picture or array, not 0 where the misfit counts"
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--output",
        "-o",
        nargs="+",
        metavar="FILE",
        help="the warped image in a format of images, and the displacement and its Jacobian "
        "determinant as .npz (default: MOVING_registered with the suffix of MOVING)",
    )
    results.add_argument(
        "--labels",
        nargs=2,
        metavar=("FILE", "OUTPUT"),
        help="labels on the moving image, and the file of the warped labels",
    )
    results.add_argument("--overwrite", action="store_true", help="replace existing files")
    options.add_quiet(results)
    options.add_threads(results)
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    """Read both images, register them, and write the results."""
    import numpy as np
    import torch

    from invtoolbox import datasets
    from invtoolbox.catalogue.registry import build
    from invtoolbox.jobs.registration.register import register
    from invtoolbox.jobs.registration.scene import read_image, write_motion

    outputs = [Path(name) for name in arguments.output or [_default_output(arguments.moving)]]
    written = [*outputs, *([Path(arguments.labels[1])] if arguments.labels else [])]
    for file in written:
        if file.exists() and not arguments.overwrite:
            raise InputError(f"{file} exists; give --overwrite to replace it, or another --output")
    if arguments.poisson is not None and arguments.prior != "linear-elastic":
        raise InputError("--poisson belongs to --prior linear-elastic")
    settings = {} if arguments.poisson is None else {"poisson": arguments.poisson}
    moving, fixed = read_image(arguments.moving), read_image(arguments.fixed)
    spacing = arguments.spacing
    if spacing is not None and len(spacing) == 1:
        spacing = spacing[0]
    motion = register(
        moving,
        fixed,
        build("priors", arguments.prior, settings),
        spacing=spacing,
        loss=arguments.loss,
        smoothness=arguments.smoothness,
        mask=datasets.read_mask(arguments.mask) if arguments.mask else None,
        progress=not arguments.quiet,
    )
    for file in outputs:
        if file.suffix.lower() == ".npz":
            write_motion(file, motion, overwrite=arguments.overwrite)
        else:
            datasets.write(file, _like(fixed, motion.warped), overwrite=arguments.overwrite)
    if arguments.labels:
        given = read_image(arguments.labels[0])
        values = given.slices() if isinstance(given, datasets.Volume) else given.numpy()
        labels = torch.from_numpy(np.rint(values).astype(np.int16))
        labels = labels[None, None] if isinstance(given, datasets.Volume) else labels
        if labels.ndim == 5 and labels.shape[2] == 1:
            labels = labels.squeeze(2)
        moved = motion.apply(labels)
        datasets.write(arguments.labels[1], _like(fixed, moved), overwrite=arguments.overwrite)
    if not arguments.quiet:
        for note in motion.notes:
            print(f"note: {note}")
        length = motion.displacement[0].norm(dim=0)
        print(
            f"{motion.status[0]}; displacement {float(length.mean()):.3g} on average, at most "
            f"{float(length.max()):.3g}, in the unit of the spacing; wrote {', '.join(map(str, written))}"
        )
    return 0


def _like(fixed: Any, image: Any) -> Any:
    """Return an image on the grid of the fixed one, for writing."""
    from invtoolbox import datasets

    if isinstance(fixed, datasets.Volume):
        values = image[0, 0] if image.ndim == 5 else image[0]
        return datasets.VolumeInMemory(values, fixed.grid)
    return image[0, 0] if image.shape[1] == 1 else image


def _default_output(moving: str) -> str:
    name = Path(moving).name
    suffix = ".nii.gz" if name.lower().endswith(".nii.gz") else Path(name).suffix
    return f"{name.removesuffix(suffix)}_registered{suffix}"
