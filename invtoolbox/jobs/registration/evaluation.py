"""Measures and the figure of a registration, and its transform as a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox import datasets, metrics
from invtoolbox.datasets.transforms.opening import WRITTEN, check_suffix
from invtoolbox.errors import InputError
from invtoolbox.geometry import (
    Affine,
    Composite,
    DisplacementField,
    Grid,
    Transform,
    resample,
)
from invtoolbox.jobs.kind import Compared, Inputs, write_figure
from invtoolbox.jobs.registration.checks import to_image
from invtoolbox.jobs.registration.register import Registration
from invtoolbox.jobs.registration.stages import read_stages
from invtoolbox.plotting.figures import registration_figure

#: Number of bins of the histograms of mutual information.
_BINS = 32
#: More labels than these are reported by their mean alone.
_MOST_LABELS = 32


def images_of_stages(motion: Registration, moving: Any) -> dict[str, Tensor]:
    """Return the moving image on the fixed grid before and after every stage of the first item.

    Pixels outside of the moving image are NaN.

    Args:
        motion: the registration.
        moving: the moving image, as it was given.
    """
    transform = motion.transform()
    steps = transform.steps if isinstance(transform, Composite) else [transform]
    image = to_image(moving, "the moving image")[:1].to(motion.warped)
    shape = motion.warped.shape[2:]
    stages = {"before": Composite([Affine.identity(transform.dimensions)])}
    # The stages come in the order in which they were found: the field, found last, is first.
    for count in range(1, len(steps) + 1):
        is_field = isinstance(steps[-count], DisplacementField)
        stages["after field" if is_field else "after linear"] = Composite(steps[-count:])
    return {
        name: resample(image, stage, motion.grids[1], motion.grids[0], shape, outside=math.nan)
        for name, stage in stages.items()
    }


def measure(motion: Registration, inputs: Inputs) -> dict[str, float]:
    """Return the measures of a registration by name.

    They are the mean displacement, folds, Jacobian, and likeness of the images before and after
    every stage: correlation, and normalized mutual information, from 1 to 2, which counts for two
    modalities (Studholme et al. 1999). "error" is the mean distance from the true displacement
    within a simulated ring, in pixels. Landmarks and labels of both images give the target
    registration error and Dice.
    """
    from skimage.metrics import normalized_mutual_information

    u, ring = motion.displacement, inputs["ring"]
    measures = {
        "moved": float(u[0].norm(dim=0).mean()),
        "folding": float(metrics.folding(u, motion.spacing)[0]),
        **metrics.jacobian_statistics(motion.jacobian[0]),
    }
    fixed = to_image(inputs["fixed"], "the fixed image")[:1].to(motion.warped)
    for name, image in images_of_stages(motion, inputs["moving"]).items():
        inside = image.isfinite()
        if not bool(inside.any()):  # the images do not overlap
            continue
        pair = image[inside].view(1, 1, -1), fixed[inside].view(1, 1, -1)
        measures[f"correlation {name}"] = float(metrics.correlation(*pair))
        sides = (side.cpu().numpy().ravel() for side in pair)
        information = normalized_mutual_information(*sides, bins=_BINS)
        measures[f"mutual information {name}"] = float(information)
    if inputs["landmarks"] is not None:
        moving, still = (torch.from_numpy(side) for side in inputs["landmarks"])
        errors = metrics.target_registration_error(motion.transform(), moving, still)
        start = (moving - still).norm(dim=-1)
        measures |= {"landmark error before": float(start.mean())}
        measures |= {"landmark error": float(errors.mean()), "worst landmark": float(errors.max())}
    if inputs["fixed labels"] is not None:
        measures |= _overlap(motion, inputs)
    if ring is not None:
        spacing = u.new_tensor(motion.spacing).view(-1, 1, 1)
        error = (u[0] / spacing - ring.displacement[0]).norm(dim=0)
        measures["error"] = float(error[ring.inside].mean())
    return measures


def _overlap(motion: Registration, inputs: Inputs) -> dict[str, float]:
    warped, fixed = warp_labels(motion, inputs["labels"]), to_labels(inputs["fixed labels"])
    fixed = fixed.to(warped.device)
    if warped.shape[2:] != fixed.shape[2:]:
        raise InputError(
            f"the labels on the fixed image have {tuple(fixed.shape[2:])} pixels, and the fixed "
            f"image {tuple(warped.shape[2:])}"
        )
    names = [k for k in torch.cat([warped.unique(), fixed.unique()]).unique().tolist() if k != 0]
    scores = {f"dice of {k}": float(metrics.dice(warped, fixed, k)) for k in names}
    mean = {"dice": float(np.mean([*scores.values()]))} if scores else {}
    return mean if len(names) > _MOST_LABELS else {**mean, **scores}


def to_labels(labels: Any) -> Tensor:
    """Return labels as whole numbers, ``(1, 1, *space)``, one slice as an image."""
    return to_image(labels, "the labels").round().to(torch.int16)


def warp_labels(motion: Registration, labels: Any) -> Tensor:
    """Return labels on the moving image in the place of the fixed one, ``(1, 1, *space)``.

    Args:
        motion: the registration.
        labels: a volume, or a tensor of a picture or an array.
    """
    return motion.apply(to_labels(labels))


def check_transform(path: Path, scene: Any) -> None:
    """Raise an `InputError` if a file cannot hold the transform of a registration.

    Args:
        path: the file.
        scene: tables of the registration. Linear stages alone are an affine map.
    """
    stages = getattr(scene.registration, "stages", None) or ("bending",)
    is_field = read_stages(stages).is_deformable
    if WRITTEN[check_suffix(path)] in ("text", "matlab") and is_field:
        raise InputError(
            f"{path}: a registration has a displacement field, which this format does not hold; use "
            ".h5, .nii.gz or .mha"
        )


def write_transform(path: Path, motion: Registration, inputs: Inputs) -> None:
    """Write the transform of the first item; in formats of fields as one field on the fixed grid."""
    _write(path, motion, motion.transform(), motion.grids[1], motion.displacement.shape[2:])


def write_inverse(path: Path, motion: Registration, inputs: Inputs) -> None:
    """Write the inverse of the first item; in formats of fields as one field on the moving grid."""
    _write(path, motion, motion.transform().inverse(), motion.grids[0], motion.moving_shape)


def _write(
    path: Path, motion: Registration, transform: Transform, grid: Grid, shape: Sequence[int]
) -> None:
    if WRITTEN[check_suffix(path)] in ("nifti", "metaimage"):
        field = DisplacementField.sample(transform, grid, shape)
        transform = DisplacementField(field.displacement.to(motion.displacement), grid)
    datasets.write_transform(path, transform, overwrite=True)


def write_picture(path: Path, motion: Registration, inputs: Inputs) -> None:
    """Draw overlays, checkerboard, deformed grid and Jacobian of the first channel."""
    fixed = to_image(inputs["fixed"], "the fixed image")
    before = images_of_stages(motion, inputs["moving"])["before"]
    images = [image[0, 0] for image in (fixed, before, motion.warped)]
    change = motion.displacement[0], motion.jacobian[0]
    write_figure(path, registration_figure(images, *change, motion.spacing))


def compare(file: Any, motion: Registration, inputs: Inputs) -> Compared:
    """Return the moving image before and after the registration, and the fixed one.

    Args:
        file: the scene.
        motion: the registration.
        inputs: images of the scene.
    """
    stages = images_of_stages(motion, inputs["moving"])
    fixed = to_image(inputs["fixed"], "the fixed image")[:1].to(motion.warped)
    before, after = (stages[name] for name in ("before", list(stages)[-1]))
    images = {"Moving, before": before[0], "Moving, after": after[0], "Fixed": fixed[0]}
    words, is_good = "", None
    inside = before.isfinite() & after.isfinite()
    if bool(inside.any()):
        still = fixed[inside].view(1, 1, -1)
        start, end = (
            float(metrics.correlation(image[inside].view(1, 1, -1), still))
            for image in (before, after)
        )
        words = f"The correlation with the fixed image is {end:.3f}, and was {start:.3f} before."
        # Images of two modalities may be related without being correlated.
        is_good = True if end > start else None
    return Compared(images, "Fixed", words=words, is_good=is_good)
