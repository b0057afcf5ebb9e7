"""An image that moves: one image and one displacement field per frame of a series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.operators.finite_difference import check_lengths
from invtoolbox.operators.image_warp import warp_images
from invtoolbox.operators.matrix import LinearFunction
from invtoolbox.priors.base import ImplicitPrior, Prior, PriorSum, Problem
from invtoolbox.priors.motion.displacement import Bending, DisplacementPrior, mean_length
from invtoolbox.priors.settings import replace, require_bound

#: Number of control points along the shortest axis of the coarsest grid, at most.
_COARSEST = 8

#: Weight of a prior of motion that was given without one, relative to a registration of two images:
#: many frames determine the image. A compromise: on simulated rings 1 is better by 0.2 dB, and the
#: heart of ``benchmarks/registration.py`` prefers less.
_SHARE = 0.3

#: Number of CGLS steps for the image at rest, from which the search starts.
_FIRST_STEPS = 10


class MovingImage(ImplicitPrior):
    r"""A series of frames of one moving image, ``x_t(p) = image(p + u_t(p))``.

    Image and displacement fields are found together, from the measurements of all frames:
    ``it.solve(problem, MovingImage(image=0.005 * HuberTV()))``. The operator measures a series
    ``(batch, channel, frames, *space)``, frame by frame, such as ``CartesianMRI(masks, (1, frames,
    rows, columns), axes=2)`` or `operators.Gated` around any scan. The term of the parameters is
    ``S = R_image(image) + sum_t R_motion(u_t)``.

    Every field is a sum of cubic B-splines on grids of control points, each twice as fine as the
    next. Coarse motion is found first, so no first reconstruction of single frames is needed. The
    fields have a mean of 0 over the frames, which puts the image at the mean position. The image is
    interpolated linearly, as in `operators.ImageWarp`.

    Sources: Odille et al., "Joint reconstruction of multiple images and motion in MRI", Magn.
    Reson. Med. 60 (2008); Burger, Dirks and Schoenlieb, "A variational model for joint motion
    estimation and image reconstruction", SIAM J. Imaging Sci. 11 (2018). Splines: Rueckert et al.
    (1999).

    Args:
        motion: prior of the displacement fields, or a sum; `Bending` by default. A prior of
            displacement fields without a written weight gets its usual one.
        image: smooth prior of the image with its weight, such as ``0.01 * HuberTV()``, or None.
        spacing: distance of neighbours along every axis, the unit of the displacement; 1 by
            default.
        cell: number of pixels between control points of the finest grid, a power of 2.

    Raises:
        InputError: for a prior of the image that has a kink; if the problem is known, for an
            operator on other images than a series, or an unwritten weight with a misfit that is not
            least squares.

    >>> import invtoolbox as it
    >>> row = torch.arange(32.0)[:, None]
    >>> blob = [torch.exp(-((row - 12 - t) ** 2 + (row.T - 16) ** 2) / 20) for t in (0, 2, 4)]
    >>> y = torch.stack(blob)[None, None]
    >>> prior = MovingImage()
    >>> problem = it.Problem(y, it.operators.Identity((1, 3, 32, 32)))
    >>> solution = it.solve(problem, prior, max_iterations=40, progress=False)
    >>> u = prior.displacement(solution.parameters)
    >>> round(float(u[0, 0, 0, 14, 16])), round(float(u[0, 2, 0, 14, 16]))  # from the mean position
    (2, -2)
    """

    item_fields: ClassVar[tuple[str, ...]] = ("start", "scale")
    is_well_scaled: ClassVar[bool] = True

    def __init__(
        self,
        motion: Prior | None = None,
        image: Prior | None = None,
        spacing: Sequence[float] | None = None,
        cell: int = 4,
    ) -> None:
        if cell < 1 or cell & (cell - 1):
            raise InputError(f"the cell of MovingImage is a power of 2, in pixels, got {cell}")
        self.motion = (Bending() if motion is None else motion).as_sum()
        self.image = (PriorSum() if image is None else image).as_sum()
        for term in (*self.motion.terms, *self.image.terms):
            if not term.prior.smooth or "energy" not in term.prior.offers:
                raise InputError(
                    f"MovingImage takes priors with an energy and without a kink, such as "
                    f"HuberTV, got {term.prior!r}"
                )
        if self.motion.implicit is not None or self.image.implicit is not None:
            raise InputError("motion and image of MovingImage take explicit priors only")
        self.spacing = None if spacing is None else tuple(float(h) for h in spacing)
        self.cell = cell
        self.frames = 0
        self.start: Tensor | None = None
        self.scale = torch.ones(1)

    def prepare(self, problem: Problem, solve: Any) -> Self:
        shape = tuple(problem.image_shape)
        if len(shape) not in (4, 5):
            raise InputError(
                "MovingImage takes operators on series (channel, frames, *space) with 2 or 3 axes "
                f"of space, and {problem.operator} takes {shape}"
            )
        channels, frames, *space = shape
        lengths = check_lengths("MovingImage", self.spacing, len(space))
        start = problem.zeros()[:, :, 0]
        scale = torch.ones_like(start.real[:, :1].flatten(1)[:, 0])
        contrast = None
        if problem.is_linear:
            repeat = _repeat((channels, *space), frames)
            still = problem.with_operator(problem.operator @ repeat)
            quadratic = problem.data_term.is_quadratic
            if quadratic:
                start = solve(still, solver="cgls", max_iterations=_FIRST_STEPS, progress=False).x
            else:
                start = _back_project(still)
            flat = start.flatten(1)
            # Not mean() and std(): they round an item of a batch otherwise than the item alone.
            flat = flat - flat.sum(1, keepdim=True) / flat.shape[1]
            spread = item_norm(flat) / math.sqrt(flat.shape[1])
            scale = torch.where(spread > 0, spread, scale)
            if quadratic:
                response = problem.operator(repeat(flat.view_as(start)))
                blank = problem.operator(problem.zeros())
                misfit = problem.data_term.value(response, blank)
                contrast = 2 * misfit / (frames * math.prod(space))
        return replace(
            self,
            motion=_weigh(self.motion, contrast, lengths),
            spacing=lengths,
            frames=frames,
            start=start / expand(scale, start),
            scale=scale,
        )

    def initial(self) -> dict[str, Tensor]:
        """Return the image at rest and fields of 0.

        ``image`` is ``(batch, channel, *space)`` in units of the standard deviation of the first
        image. ``motion0``, ``motion1``, ... are the coefficients of the grids, coarse to fine,
        ``(batch, frames, dimensions, *control points)``.
        """
        start = require_bound(self, self.start)
        sizes = [tuple(start.shape[2:])]
        for _ in range(self.cell.bit_length() - 1):
            sizes[0] = _halve(sizes[0])
        while min(sizes[0]) > _COARSEST:
            sizes.insert(0, _halve(sizes[0]))
        like = start.real
        return {
            "image": start,
            **{
                f"motion{k}": like.new_zeros(len(like), self.frames, like.ndim - 2, *size)
                for k, size in enumerate(sizes)
            },
        }

    def displacement(self, parameters: dict[str, Tensor]) -> Tensor:
        """Return the fields u_t in the unit of the spacing.

        The shape is ``(batch, frames, dimensions, *space)``.

        Args:
            parameters: ``Solution.parameters``, or other parameters of this prior.
        """
        grids = [leaf.real for name, leaf in parameters.items() if name.startswith("motion")]
        u = grids[0]
        for finer in grids[1:]:
            u = _refine(u, finer.shape[3:]) + finer
        space = tuple(parameters["image"].shape[2:])
        sizes = [space]
        for _ in range(self.cell.bit_length() - 1):
            sizes.insert(0, _halve(sizes[0]))
        for size in sizes[1:]:
            u = _refine(u, size)
        u = u - u.sum(1, keepdim=True) / u.shape[1]
        lengths = check_lengths("MovingImage", self.spacing, len(space))
        return u * u.new_tensor(lengths).view(-1, *[1] * len(space))

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        return self._series(parameters, self.displacement(parameters))

    def decode_and_energy(
        self, parameters: dict[str, Tensor], generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        u = self.displacement(parameters)
        return self._series(parameters, u), self._energy(parameters, u)

    def energy(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return self._energy(parameters, self.displacement(parameters))

    def _series(self, parameters: dict[str, Tensor], u: Tensor) -> Tensor:
        image = self._image(parameters)
        frames = u.shape[1]
        copies = image.unsqueeze(1).expand(-1, frames, *image.shape[1:]).flatten(0, 1)
        warped = warp_images(copies, u.flatten(0, 1), require_bound(self, self.spacing))
        return warped.unflatten(0, (-1, frames)).transpose(1, 2)

    def _image(self, parameters: dict[str, Tensor]) -> Tensor:
        image = parameters["image"]
        return image * expand(self.scale.to(image.real), image)

    def _energy(self, parameters: dict[str, Tensor], u: Tensor) -> Tensor:
        total = self.image.energy(self._image(parameters))
        for term in self.motion.terms:
            energy = term.prior.energy(u.flatten(0, 1)).unflatten(0, u.shape[:2]).sum(1)
            total = total + expand(term.weight, energy) * energy
        return total

    def select(self, index: Tensor) -> Self:
        motion, image = self.motion.select(index), self.image.select(index)
        return replace(super().select(index), motion=motion, image=image)

    def __repr__(self) -> str:
        return f"MovingImage({self.motion!r}, {self.image!r})"


def _repeat(shape: tuple[int, ...], frames: int) -> LinearFunction:
    """Return the operator that repeats an image as the frames of a series.

    Args:
        shape: shape of the image, ``(channel, *space)``.
        frames: number of frames.
    """

    def repeat(x: Tensor) -> Tensor:
        return x.unsqueeze(2).expand(-1, -1, frames, *x.shape[2:]).contiguous()

    def add(y: Tensor) -> Tensor:
        return y.sum(2)

    return LinearFunction(repeat, shape, (shape[0], frames, *shape[1:]), adjoint=add)


def _back_project(problem: Problem) -> Tensor:
    """Return the multiple of the back-projection that fits the measurements best.

    It is 0 if the data term knows no prediction that fits. For counts, the misfit of 0 is infinite.
    """
    A: Any = problem.operator
    target = problem.data_term.fitting_prediction(problem.y)
    if target is None:
        return problem.zeros()
    x = A.adjoint(target)
    prediction = A(x)
    squared = inner(prediction, prediction)
    # argmin_s |s A x - target|^2 = <A x, target> / |A x|^2.
    factor = inner(prediction, target) / torch.where(squared > 0, squared, torch.ones_like(squared))
    return x * expand(factor, x)


def _weigh(motion: PriorSum, contrast: Tensor | None, lengths: tuple[float, ...]) -> PriorSum:
    """Return priors of motion with their weights and the spacing.

    Args:
        motion: the priors as given.
        contrast: misfit per pixel if the image were missing, ``(batch,)``, which a registration of
            images in units of their standard deviation has as 1; None if it is not known.
        lengths: distance of neighbours along every axis.
    """
    terms: list[Any] = []
    for term in motion.terms:
        prior, weight = term.prior, term.weight
        if isinstance(prior, DisplacementPrior):
            if prior.spacing is None:
                prior = replace(prior, spacing=lengths)
            if not term.chosen and contrast is not None:
                unit = mean_length(lengths) ** prior.length_power
                weight = contrast * (_SHARE * prior.usual_strength * unit)
        if not term.chosen and weight is term.weight:
            raise InputError(
                f"{prior!r} has no usual weight here; write it, as in 0.1 * "
                f"{type(prior).__name__}()"
            )
        terms.extend((weight * prior).terms)
    return PriorSum(tuple(terms))


def _halve(size: tuple[int, ...]) -> tuple[int, ...]:
    """Return the number of control points per axis from which `_refine` gives at least ``size``."""
    return tuple(-(-n // 2) + 2 for n in size)


def _refine(u: Tensor, size: Sequence[int]) -> Tensor:
    """Return the coefficients of cubic B-splines on a grid of half the distance (subdivision).

    Args:
        u: coefficients, ``(batch, frames, dimensions, *control points)``.
        size: number of control points of the finer grid.
    """
    for axis, n in enumerate(size, start=3):
        count = u.shape[axis] - 2
        left, middle, right = (u.narrow(axis, k, count) for k in range(3))
        # The two-scale relation of cubic B-splines: 1/8, 6/8, 1/8 at an old control point, and
        # 1/2, 1/2 between two.
        pair = torch.stack([(left + 6 * middle + right) / 8, (middle + right) / 2], axis + 1)
        u = pair.flatten(axis, axis + 1).narrow(axis, 0, n)
    return u
