"""Fourier transform at arbitrary frequencies: radial, spiral and other trajectories of MRI."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.core.guards import as_tensor, check_range
from invtoolbox.errors import InputError
from invtoolbox.kernels.grids.gridding import Gridding
from invtoolbox.kernels.linear_map import is_differentiated, linear_map
from invtoolbox.operators.base import count_items
from invtoolbox.operators.mri.coils import CoilOperator, combine_coils
from invtoolbox.operators.mri.fourier import complex_dtype, outer_level
from invtoolbox.operators.mri.off_resonance import as_segments


class NonUniformFourier(CoilOperator):
    r"""Non-Cartesian MRI ``y_j[m] = N^{-1/2} sum_n s_j[n] x[n] exp(-2 pi i <k_m, (n - c) / N>)``.

    Here ``c = N // 2``. Frequencies are in cycles per field of view, so that whole numbers from
    ``-N // 2`` on are the samples of `Fourier` and `CartesianMRI`. The sum is computed by gridding:
    the image is divided by the transform of a Kaiser-Bessel kernel, padded and transformed by FFT,
    and the kernel interpolates (Beatty, Nishimura & Pauly, IEEE TMI 24, 2005). The result differs
    from the exact sum by 1e-5 relative for a kernel of 6 grid cells, 1e-7 for 8; the adjoint is the
    exact transpose of this computation.

    With a field map f and the times t_m of the samples, every term of the sum has the factor
    ``exp(2 pi i f[n] t_m)``: off-resonance, which blurs the images of long readouts. It is
    approximated to 1e-5 by a few products of an image and a time course, each of which costs one
    transform; see `off_resonance.Segments`. ``-41 .. 128`` Hz over 20 ms take 10 or 11.

    Measurements have the shape ``(batch, coil, *samples)``. `with_parameters` takes another
    trajectory or other coil maps, and the operator is differentiable in both (delays of the
    gradients can be calibrated).

    Args:
        trajectory: frequencies ``(*samples, dimensions)``, ordered as the axes of space, within
            ``-N / 2 .. N / 2``.
        image_shape: shape ``(row, column)`` or ``(1, *space)``; images are complex.
        coil_maps: complex sensitivities, ``(coil, *space)`` or ``(batch, coil, *space)``; ``None``
            is one coil of uniform sensitivity.
        width: width of the kernel, in cells of the grid.
        oversampling: ratio of the size of the grid to the size of the image.
        field_map: off-resonance in Hz, ``space``, or ``(batch, *space)`` if items differ; None is a
            homogeneous field. ``invtoolbox.estimate_field_map`` computes it from two echoes.
        times: time of every sample since the excitation in seconds, broadcast against ``samples``
            (one readout's times serve all spokes); needed with a field map.

    Raises:
        InputError: if frequencies exceed the resolution of the image (are they in radians?), or if
            shapes do not fit.

    >>> from invtoolbox.operators import radial_trajectory
    >>> k = radial_trajectory(8, spokes=3)
    >>> A = NonUniformFourier(k, (8, 8))
    >>> A.range_shape, A(torch.ones(1, 1, 8, 8))[0, 0, :, 8].real.round(decimals=3)
    ((1, 3, 16), tensor([8., 8., 8.]))
    """

    # deepinv's NonCartesianMRI needs mri-nufft and FINUFFT, keeps plans that are not copied, casts
    # everything to float32, and is not differentiable in the trajectory; torchkbnufft is not
    # maintained. This implementation covers what is needed of both.

    def __init__(
        self,
        trajectory: Any,
        image_shape: Sequence[int],
        coil_maps: Any = None,
        width: int = 6,
        oversampling: float = 2.0,
        field_map: Any = None,
        times: Any = None,
    ) -> None:
        check_range(self, "[2, 16]", width=width)
        check_range(self, "[1.25, 4]", oversampling=oversampling)
        shape = self._set_coils(image_shape, coil_maps)
        self.width, self.oversampling = int(width), float(oversampling)
        # Shape parameter of the kernel: Beatty et al. (2005), equation 5.
        ratio = self.width / self.oversampling * (self.oversampling - 0.5)
        self._beta = math.pi * math.sqrt(ratio**2 - 0.8)
        self.grid = tuple(2 * math.ceil(oversampling * n / 2) for n in shape[1:])
        values = as_tensor(trajectory)
        self.sample_shape = tuple(values.shape[:-1])
        self._set_trajectory(values)
        self.segments = as_segments(field_map, times, shape[1:], self.sample_shape)
        self.range_shape = (self.coils, *self.sample_shape)
        self.items = self._count_items()

    def estimate_noise_std(self, y: Tensor, weights: Tensor | None = None) -> Tensor:
        """Estimate the noise level from the fifth of the samples of highest frequency."""
        radius = self.trajectory.norm(dim=-1).to(y.device)
        radius = radius.unsqueeze(-1 - len(self.sample_shape)).expand_as(y)
        used = torch.ones_like(y.real) if weights is None else weights.to(y.real).expand_as(y)
        return torch.stack([outer_level(v.abs(), r, u > 0) for v, r, u in zip(y, radius, used)])

    def _count_items(self) -> int | None:
        trajectory = self.trajectory if self._differs else None
        in_space = None if self.segments is None else self.segments.in_space
        names = f"the trajectory, the coil_maps and the field map of {self}"
        return count_items(names, trajectory, self.coil_maps, in_space)

    @property
    def _differs(self) -> bool:
        """Whether every item has its own trajectory, ``(batch, *samples, dimensions)``."""
        return self.trajectory.ndim == len(self.sample_shape) + 2

    def _set_trajectory(self, trajectory: Tensor) -> None:
        """Set the trajectory, and the cells and weights of the interpolation."""
        space = self.domain_shape[1:]
        if (
            trajectory.ndim < 2
            or not trajectory.numel()
            or trajectory.shape[-1] != len(space)
            or not trajectory.is_floating_point()
        ):
            raise InputError(
                "the trajectory of NonUniformFourier has shape "
                f"{tuple(trajectory.shape)} and dtype {trajectory.dtype}; expected real "
                f"frequencies (*samples, {len(space)})"
            )
        largest = trajectory.detach().abs().reshape(-1, len(space)).amax(0).tolist()
        if any(not k <= n / 2 + 0.5 for k, n in zip(largest, space)):
            raise InputError(
                "the trajectory of NonUniformFourier reaches "
                f"{[round(k, 3) for k in largest]} cycles per field of view, but an image of "
                f"{space} holds half as many as it has pixels"
            )
        self.trajectory = trajectory
        # Per axis: the grid cells of each sample, and their weights; (width, 1 or batch, samples)
        # each.
        flat = trajectory.reshape(len(trajectory) if self._differs else 1, -1, len(space))
        points = [u * (g / n) for u, g, n in zip(flat.double().unbind(2), self.grid, space)]
        first = [torch.ceil(u.detach() - self.width / 2) for u in points]
        offsets = torch.arange(self.width, device=trajectory.device).view(-1, 1, 1)
        self.cells = tuple(((f + offsets) % g).long() for f, g in zip(first, self.grid))
        self.taps = tuple(self._kernel(u - (f + offsets)) for u, f in zip(points, first))
        self.gridding: Gridding | None = None
        # The kernels of the CPU have no derivative in the trajectory.
        if (
            trajectory.device.type == "cpu"
            and len(self.grid) <= 3
            and min(self.grid) >= self.width
            and not is_differentiated(trajectory)
        ):
            weights = [t.movedim(0, -1) for t in self.taps]
            self.gridding = Gridding([c[0] for c in self.cells], weights, self.grid)

    def _kernel(self, distance: Tensor) -> Tensor:
        # Kaiser-Bessel kernel I0(beta sqrt(1 - (2 d / width)^2)) / I0(beta).
        inside = (1 - (2 * distance / self.width).square()).clamp_min(1e-30)
        return torch.special.i0(self._beta * inside.sqrt()) / torch.special.i0(
            torch.tensor(self._beta, dtype=torch.float64)
        )

    def _kernel_transform(self, frequency: Tensor) -> Tensor:
        # width sinh(r) / (r I0(beta)) with r = sqrt(beta^2 - (pi width f)^2).
        root = (self._beta**2 - (math.pi * self.width * frequency).square()).clamp_min(1e-12).sqrt()
        return (
            self.width
            * torch.sinh(root)
            / (root * torch.special.i0(torch.tensor(self._beta, dtype=torch.float64)))
        )

    def _correction(self, like: Tensor) -> Tensor:
        """Return the inverse of the kernel's transform at every pixel, with the unitary factor."""
        total = torch.full(
            [1] * len(self.grid),
            1 / math.sqrt(math.prod(self.domain_shape[1:])),
            dtype=torch.float64,
        )
        for axis, (n, g) in enumerate(zip(self.domain_shape[1:], self.grid)):
            profile = 1 / self._kernel_transform(
                (torch.arange(n, dtype=torch.float64) - n // 2) / g
            )
            total = total * profile.view([-1 if k == axis else 1 for k in range(len(self.grid))])
        return total.to(dtype=like.real.dtype, device=like.device)

    # -- parameters --------------------------------------------------------------------------------

    def parameters(self) -> dict[str, Tensor]:
        """Return ``trajectory``, and ``coil_maps`` if given.

        The shapes are ``(*samples, dimensions)`` and ``(1 or batch, coil, *space)``.

        If items differ, the trajectory has a batch axis in front.
        """
        maps = {} if self.coil_maps is None else {"coil_maps": self.coil_maps}
        return {"trajectory": self.trajectory, **maps}

    def item_parameters(self, batch: int) -> dict[str, Tensor]:
        parameters = self.parameters()
        shape = self.trajectory.shape[1:] if self._differs else self.trajectory.shape
        parameters["trajectory"] = self.trajectory.expand(batch, *shape)
        if self.coil_maps is not None:
            parameters["coil_maps"] = self.coil_maps.expand(batch, *self.coil_maps.shape[1:])
        return parameters

    def select(self, index: Tensor) -> Self:
        if self.items is None:
            return self
        # The first axis of a shared trajectory may be as long as the batch, so it is not selected
        # from.
        chosen = {"trajectory": self.trajectory.index_select(0, index)} if self._differs else {}
        if self.coil_maps is not None and len(self.coil_maps) > 1:
            chosen["coil_maps"] = self.coil_maps.index_select(0, index)
        operator = self._replace({})
        if self.segments is not None:
            operator.segments = self.segments.select(index)
        return operator._replace(chosen)._with_items(len(index))

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        operator = super()._replace({})
        if "coil_maps" in parameters:
            operator.coil_maps = self._check_new_maps(parameters["coil_maps"])
        if "trajectory" in parameters:
            shape = tuple(parameters["trajectory"].shape)
            if (
                shape[-len(self.sample_shape) - 1 : -1] != self.sample_shape
                or len(shape) > len(self.sample_shape) + 2
            ):
                raise InputError(
                    f"{self} has a trajectory of shape "
                    f"{(*self.sample_shape, self.trajectory.shape[-1])}, or one per item, got "
                    f"{shape}; create a new NonUniformFourier"
                )
            operator._set_trajectory(parameters["trajectory"])
        return operator._with_items(operator._count_items())

    # -- the operator ------------------------------------------------------------------------------

    def _forward(self, x: Tensor) -> Tensor:
        x = x.to(complex_dtype(x))
        x = x * self._correction(x)
        if self.segments is None:
            return self._measure(x)
        # sum_l in_time_l NUFFT(in_space_l x)
        total: Any = 0
        for k in range(self.segments.count):
            in_space, in_time = self._segment(k, x)
            total = total + in_time * self._measure(in_space * x)
        return total

    def _adjoint(self, y: Tensor) -> Tensor:
        y = y.to(complex_dtype(y))
        if self.segments is None:
            return self._combine(y) * self._correction(y)
        total: Any = 0
        for k in range(self.segments.count):
            in_space, in_time = self._segment(k, y)
            total = total + in_space.conj() * self._combine(in_time.conj() * y)
        return total * self._correction(y)

    def _segment(self, k: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return a segment's factors, ``(1 or batch, 1, *space)`` and ``samples``."""
        assert self.segments is not None
        in_space = self.segments.in_space[:, k : k + 1].to(like.dtype)
        return in_space, self.segments.in_time[k].to(like.dtype)

    def _measure(self, x: Tensor) -> Tensor:
        """Transform an image that is divided by the kernel's transform, as every coil sees it."""
        maps = None if self.coil_maps is None else self.coil_maps.to(x.dtype)
        if not self._runs_kernels(x, maps):
            weighted = x if maps is None else maps * x
            grid = self._to_grid(weighted).flatten(2)
            return self._interpolate(grid).unflatten(2, self.sample_shape)
        return linear_map(x, lambda v: self._run(v, maps), lambda v: self._run_transpose(v, maps))

    def _combine(self, y: Tensor) -> Tensor:
        """Apply the transpose of `_measure`: the transposes of its steps, backwards."""
        maps = None if self.coil_maps is None else self.coil_maps.to(y.dtype)
        if not self._runs_kernels(y, maps):
            grid = self._spread(y.flatten(2)).unflatten(2, self.grid)
            return combine_coils(self._from_grid(grid), maps)
        return linear_map(y, lambda v: self._run_transpose(v, maps), lambda v: self._run(v, maps))

    def _runs_kernels(self, like: Tensor, maps: Tensor | None) -> bool:
        is_fixed = maps is None or not is_differentiated(maps)
        return self.gridding is not None and like.device.type == "cpu" and is_fixed

    # One image after the other, so that its grid stays in the cache of a core.

    def _run(self, x: Tensor, maps: Tensor | None) -> Tensor:
        assert self.gridding is not None
        self._keep_pages(x)
        values = x.new_empty(len(x), self.coils, *self.sample_shape)
        for b, c in itertools.product(range(len(x)), range(self.coils)):
            image = x[b, 0] if maps is None else maps[b % len(maps), c] * x[b, 0]
            self.gridding.gather(self._to_grid(image[None, None]).contiguous(), values[b, c], b)
        return values

    def _run_transpose(self, y: Tensor, maps: Tensor | None) -> Tensor:
        assert self.gridding is not None
        self._keep_pages(y)
        y = y.resolve_conj().contiguous()
        images = y.new_zeros(len(y), 1, *self.domain_shape[1:])
        for b, c in itertools.product(range(len(y)), range(self.coils)):
            grid = self.gridding.scatter(y[b, c], b)
            image = self._from_grid(grid[None, None])[0, 0]
            images[b, 0] += image if maps is None else maps[b % len(maps), c].conj() * image
        return images

    def _keep_pages(self, like: Tensor) -> None:
        # Once a block of some size is free again, the allocator of Linux keeps free memory up to
        # twice this size. Otherwise it would return every grid to the system, and the time of a
        # transform would be doubled by the zeros of new pages. Nothing is written to the block.
        like.new_empty(4 * math.prod(self.grid))

    def _to_grid(self, x: Tensor) -> Tensor:
        # Axis by axis, so that columns of zeros are not transformed; the last one is contiguous.
        for axis in range(2, x.ndim):
            x = torch.fft.fft(self._pad(x, axis), dim=axis)
        return x

    def _from_grid(self, x: Tensor) -> Tensor:
        # The conjugate transpose of the FFT is the inverse one without its factor 1 / N.
        for axis in range(x.ndim - 1, 1, -1):
            x = self._crop(torch.fft.ifft(x, dim=axis, norm="forward"), axis)
        return x

    def _pad(self, x: Tensor, axis: int) -> Tensor:
        """Pad an axis of an image to the grid, with its origin at index 0."""
        n, g = self.domain_shape[axis - 1], self.grid[axis - 2]
        before, after = x.split([n // 2, n - n // 2], axis)
        gap = list(x.shape)
        gap[axis] = g - n
        return torch.cat([after, x.new_zeros(gap), before], axis)

    def _crop(self, x: Tensor, axis: int) -> Tensor:
        """Apply the transpose of `_pad`."""
        n, g = self.domain_shape[axis - 1], self.grid[axis - 2]
        return torch.cat([x.narrow(axis, g - n // 2, n // 2), x.narrow(axis, 0, n - n // 2)], axis)

    def _taps(self, like: Tensor) -> Any:
        """Iterate over the cells of the kernel: flat index on the grid and weight of each sample.

        Both have the shape ``(1 or batch, 1, samples)``.
        """
        dtype = like.real.dtype
        for offsets in itertools.product(range(self.width), repeat=len(self.grid)):
            index, weight = self.cells[0][offsets[0]], self.taps[0][offsets[0]]
            for axis, k in enumerate(offsets[1:], start=1):
                index = index * self.grid[axis] + self.cells[axis][k]
                weight = weight * self.taps[axis][k]
            yield index.unsqueeze(1), weight.unsqueeze(1).to(dtype)

    # Cells are processed one by one: all of them at once would take width^dimensions times the
    # memory of the measurements.

    def _interpolate(self, grid: Tensor) -> Tensor:
        """Interpolate the grid ``(batch, coil, cells)`` at the samples."""
        total: Tensor | None = None
        for index, weight in self._taps(grid):
            summand = grid.gather(2, index.expand(*grid.shape[:2], -1)) * weight
            total = summand if total is None else total + summand
        assert total is not None
        return total

    def _spread(self, samples: Tensor) -> Tensor:
        """Apply the transpose of `_interpolate`."""
        grid = samples.new_zeros(*samples.shape[:2], math.prod(self.grid))
        for index, weight in self._taps(samples):
            # In place, unless a graph is recorded.
            grid = (
                grid.scatter_add(2, index.expand(*samples.shape[:2], -1), samples * weight)
                if samples.requires_grad or weight.requires_grad
                else grid.scatter_add_(2, index.expand(*samples.shape[:2], -1), samples * weight)
            )
        return grid

    # -- closed forms ------------------------------------------------------------------------------

    def density(self, iterations: int = 20) -> Tensor:
        """Compute the area of k-space per sample, ``(1 or batch, *samples)``.

        The unit is the area of a Cartesian sample. The areas come from the fixed point
        ``w <- w / (P P^T w)``, P the interpolation (Pipe & Menon, MRM 41, 1999).
        """
        weights = torch.ones(
            self.cells[0].shape[1],
            1,
            math.prod(self.sample_shape),
            dtype=torch.float64,
            device=self.trajectory.device,
        )
        with torch.no_grad():
            for _ in range(iterations):
                weights = weights / self._interpolate(self._spread(weights)).clamp_min(1e-12)
            # The kernel's square integral is now 1 everywhere on the grid; a Cartesian sample has
            # the area of the oversampling.
            peak = float(self._kernel_transform(torch.zeros((), dtype=torch.float64))) ** 2
            for n, g in zip(self.domain_shape[1:], self.grid):
                weights = weights * peak * n / g
        return weights.view(-1, *self.sample_shape)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """Compute the gridding reconstruction: the adjoint of the samples times their `density`.

        Coils are combined as in `CartesianMRI`.
        """
        self._check_measurements("pseudo-inverse", y)
        image = self._adjoint(y * self.density().to(y.real.dtype).unsqueeze(1))
        return self._divide_by_power(image)

    def __repr__(self) -> str:
        coils = f", {self.coils} coils" if self.coil_maps is not None else ""
        samples = "x".join(map(str, self.sample_shape))
        segments = "" if self.segments is None else f", {self.segments.count} segments"
        return f"NonUniformFourier({samples} samples, {self.domain_shape}{coils}{segments})"
