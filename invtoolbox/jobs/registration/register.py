"""Register images and volumes by linear motions and a displacement field; `it.register`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox import metrics
from invtoolbox.core.guards import as_tensor
from invtoolbox.core.short_text import ShortText
from invtoolbox.data_terms import DataTerm
from invtoolbox.datasets.volumes.foreign_images import as_volume
from invtoolbox.errors import InputError, naming_arguments
from invtoolbox.geometry import Affine, Composite, DisplacementField, Grid, Transform, resample
from invtoolbox.jobs.registration.checks import Pair, read_pair, to_image, to_landmarks, to_mask
from invtoolbox.jobs.registration.deformable import (
    LOSSES,
    DeformableStage,
    Loss,
    check_takes_mask,
    has_usual_weight,
)
from invtoolbox.jobs.registration.stages import (
    BENDING,
    USUAL,
    Motion,
    Task,
    check_overlap,
    compose,
    read_stages,
)
from invtoolbox.operators import Warp
from invtoolbox.operators.image_warp import Interpolation
from invtoolbox.priors import Bending, Prior
from invtoolbox.solution import Solution
from invtoolbox.solvers import GaussNewton, Solver


@dataclass(frozen=True, eq=False, repr=False)
class Registration(ShortText):
    """Result of registering images.

    Attributes:
        displacement: the field u of the whole motion, ``(batch, 2 or 3, *space)``, in the unit of
            the spacing: ``warped(p) = moving(p + u(p))``. Component k is along axis k of the fixed
            image. Positions of images on different grids are those of their headers.
        warped: the moving image in the place of the fixed one, ``(batch, channel, *space)``.
        spacing: distance of neighbours along every axis of the fixed image.
        solutions: `Solution` of every item on the finest level of the last stage. Its x is the field
            that the last stage adds, for a diffeomorphic stage the velocity, halfway between the
            images.
        notes: findings, one sentence each.
        linear: linear motion of every item; None without a linear stage.
        transforms: the whole motion of every item, positions in the fixed image to positions in the
            moving one.
        grids: positions of the pixels of the moving and of the fixed image.
    """

    displacement: Tensor
    warped: Tensor
    spacing: tuple[float, ...]
    solutions: tuple[Solution, ...]
    notes: tuple[str, ...]
    linear: tuple[Affine | None, ...] = ()
    transforms: tuple[Transform, ...] = ()
    grids: tuple[Grid, Grid] = (Grid(), Grid())
    moving_shape: tuple[int, ...] = ()

    @property
    def status(self) -> tuple[str, ...]:
        """Status of every item on the finest level."""
        return tuple(solution.status[0] for solution in self.solutions)

    @property
    def has_inverse(self) -> bool:
        """Whether the inverse was found together with the motion."""
        steps = [
            step
            for transform in self.transforms
            for step in (transform.steps if isinstance(transform, Composite) else [transform])
        ]
        return all(
            isinstance(step, Affine) or getattr(step, "backward", None) is not None
            for step in steps
        )

    @property
    def inverse(self) -> Tensor:
        """Displacement of the inverse motion on the moving image, ``(batch, 2 or 3, *space)``.

        Component k is along axis k of the moving image. A diffeomorphic stage finds the inverse
        together with the motion; of other fields it is computed, which takes some time.

        Raises:
            InputError: the field folds, so it has no inverse.
        """
        grid, shape = self.grids[0], self.moving_shape
        linear = torch.from_numpy(grid.affine(len(shape)))[:-1, :-1]
        to_axes = torch.linalg.inv(linear / linear.norm(dim=0))
        fields = [
            DisplacementField.sample(transform.inverse(), grid, shape).displacement
            for transform in self.transforms
        ]
        return torch.stack([torch.tensordot(to_axes, u, 1) for u in fields]).to(self.displacement)

    @property
    def jacobian(self) -> Tensor:
        """Jacobian determinant, the local change of volume, ``(batch, *space)``."""
        return metrics.jacobian_determinant(self.displacement, self.spacing)

    def transform(self, item: int = 0) -> Transform:
        """Return the map of an item from points of the fixed image to points of the moving one.

        Points are ``(..., 2 or 3)``, as (x, y[, z]) in mm, see `geometry.transforms`. An image
        without a grid begins at 0, with x along its columns and y along its rows. `datasets.
        write_transform` writes the transform for ITK.

        Args:
            item: number of the item of the batch.
        """
        return self.transforms[item]

    def apply(self, image: Any) -> Any:
        """Warp another image of the moving side: another channel, or labels.

        Labels (integers or booleans) are taken from the nearest pixel, other images are
        interpolated.

        Args:
            image: image or labels, ``(*space)`` or ``(batch, channel, *space)``, a tensor or an
                array.

        Returns:
            The warped image, of the type and number of axes of the argument.
        """
        original = image if isinstance(image, Tensor) else as_tensor(np.asarray(image))
        field = self.displacement
        batch = to_image(original, "the image").to(field)
        if tuple(batch.shape[2:]) != self.moving_shape:
            raise InputError(
                f"the image has {tuple(batch.shape[2:])} pixels, and the moving image "
                f"{self.moving_shape}"
            )
        batch = batch.expand(max(len(batch), len(field)), *batch.shape[1:])
        is_label = not original.is_floating_point()
        if any(motion is not None for motion in self.linear):
            shape = field.shape[2:]
            warped = torch.cat(
                [
                    _resample(batch[k : k + 1], transform, self.grids, shape, is_label)
                    for k, transform in enumerate(self.transforms)
                ]
            )
        elif is_label:  # whole pixels, so that labels do not mix, and no errors of rounding
            warped = Warp(_to_nearest(field, self.spacing), self.spacing)(batch).round()
        else:
            warped = Warp(field, self.spacing)(batch)
        warped = warped.to(original.dtype)
        if original.ndim == batch.ndim - 2 and len(warped) == 1:
            warped = warped[0, 0]
        return warped if isinstance(image, Tensor) else warped.cpu().numpy()


@naming_arguments
def register(
    moving: Any,
    fixed: Any,
    prior: Prior | None = None,
    *,
    spacing: Sequence[Any] | float | None = None,
    affine: Any = None,
    stages: Sequence[str] | None = None,
    loss: Loss | DataTerm | None = None,
    smoothness: float = 1.0,
    levels: int | None = None,
    landmarks: Any = None,
    landmark_weight: float = 10.0,
    mask: Any = None,
    moving_mask: Any = None,
    mirrored: bool = False,
    quick: bool = False,
    interpolation: Interpolation | None = None,
    solver: Solver | None = None,
    max_iterations: int = 30,
    tolerance: float = 0.03,
    progress: bool = False,
) -> Registration:
    r"""Find the motion that takes a moving image to a fixed one.

    Linear stages find a motion L of space, as a `priors.AffineMap`, from several starts. The last
    stage then minimizes ``D(moving(L(p + u(p))), fixed(p)) + R(u)`` over displacement fields u, one
    pixel one vector. Both go from coarse to fine images. A batch is registered pair by pair.

    A diffeomorphic stage minimizes ``D(m(exp v), f) / 2 + D(f(exp -v), m) / 2 + R(v)`` over
    stationary velocities v (`operators.Exponential`), between ``m(p) = moving(H(p))`` and ``f(p) =
    fixed(H^-1(p))`` with ``H(H(p)) = L(p)``. The motion ``H exp(v) H`` does not fold, has an
    inverse, and exchanged images have the inverse motion (Ashburner 2007; Vercauteren et al. 2008;
    Avants et al. 2008). L is then the geometric mean of both directions. Where no H is unique, for
    rotations by 180 degrees and mirrored images, H is replaced by L and the identity, with a
    note.

    Images on one grid have no linear stage, unless a motion of more than two pixels explains most of
    their difference, or lowers the objective of the field clearly; the result has a note.

    If the prior has no written weight and there are no landmarks, the images are registered again
    with as much further noise as they have, for any loss. If that changes the field by more than
    0.3 of its length (0.7 with descriptors), where the fixed image has structure, u is zero, with
    a note.

    Args:
        moving: image or volume, ``(*space)`` or ``(batch, channel, *space)`` with 2 or 3 axes of
            space; a tensor, an array, or a volume of `datasets.open` or image of SimpleITK, ITK or
            nibabel, which may have another grid than the fixed one: its header gives its place.
        fixed: image or volume that the moving one is taken to.
        prior: prior of the displacement: `priors.Bending` (the default), `priors.Diffusion`,
            `priors.LinearElastic`, `priors.GridARAP`, or any other or a sum.
        spacing: distance of neighbours along every axis, a number or one per axis, or a pair of
            such tuples, of moving and fixed image; by default the spacing of the volumes, or 1.
        affine: matrix that maps the indices ``(slice, row, column, 1)`` of an array to ``(x, y, z,
            1)``, or ``(row, column, 1)`` to ``(x, y, 1)``; or a pair, of moving and fixed image.
        stages: some of ``"translation"``, ``"rigid"``, ``"similarity"``, ``"affine"`` and
            ``"bending"`` or ``"diffeomorphic"``, in this order; the last two are fields with the
            prior. By default ``("rigid", "affine", "bending")`` for images on different grids.
        loss: ``"least-squares"`` for images of the same brightness, ``"ncc"`` (normalized
            cross-correlation) if brightness and contrast differ, ``"lncc"`` if they also vary over
            the image, ``"mi"`` (mutual information) or ``"mind"`` (descriptors of edges) for two
            modalities; or any data term. By default least squares, and ``"ncc"`` if the grids
            differ. Least squares compares the images in units of the standard deviation of the
            fixed one, and means correlation in linear stages.
        smoothness: factor on the weight of the prior. A prior without a written weight has one that
            suits the noise of the images, for any unit of brightness and length.
        levels: number of resolutions of the field, each half of the next; by default as many as
            leave 16 pixels along an axis. Axes of fewer than 32 pixels are not halved. Fields of
            more than a million pixels are found at half of the resolution.
        landmarks: pair of points in the moving image and the same points in the fixed one,
            ``(N, 2 or 3)`` each, along the axes of their image, in the unit of its spacing, from the
            centre of its first pixel.
        landmark_weight: weight of half the squared distance between landmarks, in pixels.
        mask: true at pixels of the fixed image whose misfit counts.
        moving_mask: true at pixels of the moving image that count, for linear stages and what
            follows them.
        mirrored: also search mirrored positions, for arrays whose left and right are unknown.
        quick: a quarter of the resolution, for a first look.
        interpolation: see `operators.ImageWarp`; cubic by default, whose slopes are continuous, but
            volumes are warped linearly in the end, as ITK warps them.
        solver: solver of every level of the field; Gauss-Newton with a Fourier preconditioner by
            default.
        max_iterations: largest number of iterations per level of the field.
        tolerance: bound on the gradient relative to its start, per level, see the solver.
        progress: show progress bars.

    Returns:
        Displacement, transform, warped image, Jacobian determinant, status and notes.

    Raises:
        InputError: for images of different dimension or channels, that do not overlap and have no
            linear stage, are constant or NaN; an empty mask or one of another grid; or landmarks
            outside of the image.

    >>> row, column = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    >>> blob = lambda r, c: torch.exp(-((row - r) ** 2 + (column - c) ** 2) / 50)
    >>> motion = register(blob(22, 18), blob(20, 20), spacing=0.5)  # millimetres
    >>> [round(float(u)) for u in motion.displacement[0, :, 20, 20]]
    [1, -1]
    """
    pair = read_pair(as_volume(moving), as_volume(fixed), spacing, affine)
    mask, moving_mask = as_volume(mask), as_volume(moving_mask)
    notes = list(pair.notes)
    usual = (BENDING,) if pair.is_one_grid else USUAL
    plan = read_stages(usual if stages is None else stages)
    if stages is None and not pair.is_one_grid:
        notes.append(
            f"the images lie on different grids, so the stages are {', '.join(USUAL)}; stages= "
            "selects others"
        )
    notes += check_overlap(pair, plan)
    if loss is None:
        loss = "least-squares" if pair.is_one_grid else "ncc"
    if not isinstance(loss, DataTerm) and loss not in LOSSES:
        raise InputError(f"loss is {', '.join(LOSSES)} or a data term, got {loss!r}")
    if mask is not None:
        check_takes_mask(loss)
    is_tested = landmarks is None and has_usual_weight(prior)
    # Written weights, or landmarks, are the user's word on the motion.
    task = Task(
        pair,
        plan,
        stage=DeformableStage(
            loss,
            interpolation or "cubic",
            solver
            or GaussNewton(preconditioner="fourier", inner_iterations=10, inner_tolerance=0.1),
            levels=levels,
            skipped=2 if quick else 0,
            landmark_weight=landmark_weight,
            max_iterations=max_iterations,
            tolerance=tolerance,
            progress=progress,
            is_diffeomorphic=plan.is_diffeomorphic,
        ),
        prior=Bending() if prior is None else prior,
        smoothness=smoothness,
        points=None if landmarks is None else to_landmarks(landmarks, pair),
        masks=(
            None if moving_mask is None else to_mask(moving_mask, pair.moving, pair.grids[0], True),
            None if mask is None else to_mask(mask, pair.fixed, pair.grids[1]),
        ),
        mirrored=mirrored,
        is_tested=is_tested,
        is_free=is_tested and stages is None and pair.is_one_grid,
    )
    # Pair by pair: the answer does not depend on the batch, and neither does the work.
    motions = [task.register(item) for item in range(len(pair.fixed))]
    fields, warped, transforms = [], [], []
    for item, motion in enumerate(motions):
        name = f"pair {item}: " if len(motions) > 1 else ""
        field, transform = compose(motion, pair)
        fields.append(field)
        transforms.append(transform)
        image = pair.moving[item : item + 1]
        if motion.matrix is None:
            kernel = interpolation or ("cubic" if image.ndim == 4 else "linear")
            warped.append(Warp(field, pair.spacing, kernel)(image))
        else:
            warped.append(_resample(image, transform, pair.grids, pair.fixed.shape[2:]))
        notes += [name + note for note in motion.notes]
        notes += [name + note for note in _findings(field, pair, motion)]
    return Registration(
        torch.cat(fields),
        torch.cat(warped),
        pair.spacing,
        tuple(motion.solution for motion in motions),
        tuple(notes),
        linear=tuple(None if m.matrix is None else Affine(m.matrix) for m in motions),
        transforms=tuple(transforms),
        grids=pair.grids,
        moving_shape=tuple(pair.moving.shape[2:]),
    )


def _findings(field: Tensor, pair: Pair, motion: Motion) -> list[str]:
    notes = []
    folded = float(metrics.folding(field, pair.spacing)[0])
    if folded > 0 and (motion.matrix is None or float(motion.matrix.det()) > 0):
        notes.append(
            f"the field folds at {folded:.2%} of the pixels; a larger weight of the prior or "
            'stages=("diffeomorphic",) prevents it'
        )
    largest = motion.field[0].abs().flatten(1).amax(1).tolist()
    if any(u > 0.5 * n * h for u, n, h in zip(largest, field.shape[2:], pair.spacing)):
        notes.append("a displacement is longer than half of the image; check the images' positions")
    solution = motion.solution
    if solution.status[0] != "converged":
        notes.append(
            f"on the finest level the status is {solution.status[0]} after "
            f"{int(solution.iterations[0])} iterations"
        )
    return notes


def _resample(
    image: Tensor,
    transform: Transform,
    grids: tuple[Grid, Grid],
    shape: Sequence[int],
    is_label: bool = False,
) -> Tensor:
    """Resample an image by the whole motion, once; beyond its border it has its least value."""
    outside = 0.0 if is_label else float(image.min())
    return resample(image, transform, grids[1], grids[0], shape, nearest=is_label, outside=outside)


def _to_nearest(field: Tensor, spacing: Sequence[float]) -> Tensor:
    """Return the displacement to the centres of the nearest pixels."""
    lengths = field.new_tensor(spacing).view(-1, *[1] * (field.ndim - 2))
    return (field / lengths).round() * lengths
