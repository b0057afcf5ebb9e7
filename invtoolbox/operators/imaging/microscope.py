"""Microscopes: blur of a volume by the point spread function of an objective, from its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice, check_range, to_shape
from invtoolbox.errors import InputError
from invtoolbox.operators.imaging.blur_3d import Blur3D
from invtoolbox.operators.imaging.point_spread import Pupil, bessel_j, on_grid, refractive_index

Kind = Literal["widefield", "confocal", "light-sheet", "two-photon"]
Model = Literal["scalar", "vectorial"]
KINDS: tuple[str, ...] = get_args(Kind)

#: Half of the kernel along the axis, in depths of focus ``n wavelength / NA^2``, and its least half
#: across the axis, in Airy radii.
_DEPTHS, _RADII = 6.0, 5.0


class Microscope(Blur3D):
    r"""Convolution of a volume with the point spread function of a microscope; see `Blur3D`.

    The point spread function is computed from the numbers of the objective (`Pupil.intensity`) at
    the centres of the voxels, with h the light that is detected and e the excitation:

    - ``"widefield"``: h;
    - ``"confocal"``: e times the convolution of h with the disc of the pinhole;
    - ``"light-sheet"``: h times the profile ``exp(-2 z^2 / w^2)`` of a sheet with the waist
      ``w = excitation / (pi sheet_na)``;
    - ``"two-photon"``: the square of e.

    Its sum is 1. The kernel is centred at the plane of nominal focus: spherical aberration at a
    depth moves its maximum, as it does in the instrument.

    The parameters ``na``, ``wavelength``, ``sample`` and ``depth`` may be unknown: the kernel is a
    differentiable function of them.

    Args:
        image_shape: shape ``(slice, row, column)``; any number of channels is accepted.
        na: numerical aperture of the objective.
        wavelength: wavelength of the detected light in vacuum, in micrometres.
        immersion: ``"air"``, ``"water"``, ``"glycerol"``, ``"silicone"``, ``"oil"``, or a refractive
            index.
        voxel_size: distances of slices, rows and columns in the sample, in micrometres.
        kind: kind of the microscope, see above.
        model: ``"scalar"`` (Gibson and Lanni 1992), or ``"vectorial"`` (Richards and Wolf 1959), which
            differs for apertures above about 0.7.
        excitation: wavelength of the excitation; by default ``wavelength``, and needed for
            ``"two-photon"``.
        sample: refractive index of the sample.
        depth: distance of the imaged structures from the coverslip, in micrometres.
        pinhole: diameter of the pinhole in Airy units, ``1.22 wavelength / na``, for ``"confocal"``.
        sheet_na: numerical aperture of the illumination, for ``"light-sheet"``.
        kernel_shape: shape of the kernel; by default it holds 6 depths of focus on both sides, and is
            at most as large as the volume.
        boundary: boundary rule, as in `Blur3D`.

    Raises:
        InputError: an unknown kind or medium, an aperture that the immersion does not allow, a length
            that is not positive, and in the cases of `Blur3D`.

    >>> A = Microscope((9, 17, 17), 1.1, 0.52, "water", (0.3, 0.1, 0.1))
    >>> A.kernel.shape, round(float(A.kernel.sum()), 4)
    (torch.Size([1, 1, 9, 17, 17]), 1.0)
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        na: float | Tensor,
        wavelength: float | Tensor,
        immersion: str | float,
        voxel_size: Sequence[float],
        kind: Kind = "widefield",
        *,
        model: Model = "scalar",
        excitation: float | None = None,
        sample: float | Tensor = 1.333,
        depth: float | Tensor = 0.0,
        pinhole: float = 1.0,
        sheet_na: float = 0.06,
        kernel_shape: Sequence[int] | None = None,
        boundary: str = "zero",
    ) -> None:
        check_choice(self, KINDS, kind=kind)
        check_choice(self, get_args(Model), model=model)
        if len(voxel_size) != 3:
            raise InputError(
                "the voxel_size of a Microscope is three lengths in micrometres, along slices, rows "
                f"and columns, got {tuple(voxel_size)}"
            )
        index = refractive_index(immersion)
        for length in voxel_size:
            check_range(self, "(0, inf)", voxel_size=length)
        check_range(self, "(0, inf)", na=na, wavelength=wavelength, sample=sample)
        check_range(self, "[0, inf)", depth=depth, pinhole=pinhole)
        check_range(self, "(0, inf)", excitation=excitation, sheet_na=sheet_na)
        largest = float(torch.as_tensor(na).max())
        if not largest < index:
            raise InputError(
                f"an aperture of {largest:g} needs an immersion of a larger refractive index, and "
                f"{immersion} has {index:g}; check na and immersion"
            )
        if kind == "two-photon" and excitation is None:
            raise InputError('kind "two-photon" needs the wavelength of the laser; give excitation')
        self.kind, self.model = kind, model
        self.immersion, self.excitation = index, excitation
        self.pinhole, self.sheet_na = pinhole, sheet_na
        self.voxel_size = tuple(float(h) for h in voxel_size)
        settings = {"na": na, "wavelength": wavelength, "sample": sample, "depth": depth}
        self._values = {
            name: torch.as_tensor(value, dtype=torch.float64).reshape(-1)
            for name, value in settings.items()
        }
        shape = to_shape(self, image_shape=image_shape)
        if len(shape) != 3:
            raise InputError(
                f"the image_shape of a Microscope is (slice, row, column), got {shape}"
            )
        self.kernel_shape = (
            self._usual_shape(shape)
            if kernel_shape is None
            else tuple(int(n) for n in kernel_shape)
        )
        kernel = self._point_spread(self._values)
        super().__init__(kernel, shape, boundary)

    def _usual_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return odd sizes that hold most of the light, and fit the volume."""
        na, wavelength = float(self._values["na"].max()), float(self._values["wavelength"].max())
        longest = max(wavelength, self.excitation or 0.0)
        along = _DEPTHS * self.immersion * longest / na**2
        cone = along * math.tan(math.asin(na / self.immersion))
        across = max(_RADII * 0.61 * longest / na, cone)
        halves = (along, across, across)
        sizes = [2 * math.ceil(half / h) + 1 for half, h in zip(halves, self.voxel_size)]
        return tuple(min(size, n - 1 + n % 2) for size, n in zip(sizes, shape))

    def _point_spread(self, values: dict[str, Tensor]) -> Tensor:
        """Compute one kernel per item, ``(1 or items, slice, row, column)``."""
        count = max(len(value) for value in values.values())
        full = {name: value.double().expand(count) for name, value in values.items()}
        return torch.stack(
            [
                self._kernel_of({name: value[k] for name, value in full.items()})
                for k in range(count)
            ]
        )

    def _kernel_of(self, values: dict[str, Tensor]) -> Tensor:
        """Compute the kernel of one item."""
        numbers: dict[str, Any] = {k: values[k] for k in ("na", "sample", "depth")}
        like = values["depth"]
        numbers["immersion"] = torch.full_like(like, self.immersion)
        numbers["vectorial"] = self.model == "vectorial"
        excitation = values["wavelength"]
        if self.excitation is not None:
            excitation = torch.full_like(like, self.excitation)

        def light(wavelength: Tensor) -> Tensor:
            pupil = Pupil(wavelength=wavelength, **numbers)
            return on_grid(pupil, self.kernel_shape, self.voxel_size)

        if self.kind == "two-photon":
            kernel = light(excitation).square()
        else:
            kernel = light(values["wavelength"])
            if self.kind == "confocal":
                radius = 0.61 * self.pinhole * values["wavelength"] / values["na"]
                kernel = light(excitation) * self._through_disc(kernel, radius)
            elif self.kind == "light-sheet":
                waist = excitation / (math.pi * self.sheet_na)
                n = self.kernel_shape[0]
                z = (torch.arange(n).to(kernel) - n // 2) * self.voxel_size[0]
                kernel = kernel * torch.exp(-2 * (z / waist).square())[:, None, None]
        return kernel / kernel.sum()

    def _through_disc(self, light: Tensor, radius: Tensor) -> Tensor:
        """Convolve planes with a disc, by its transform ``2 J_1(q a) / (q a)``."""
        size = [2 * n for n in light.shape[1:]]
        rows, columns = (
            2 * math.pi * frequency(n, h, dtype=light.dtype, device=light.device)
            for frequency, n, h in zip(
                (torch.fft.fftfreq, torch.fft.rfftfreq), size, self.voxel_size[1:]
            )
        )
        arguments = ((rows.square()[:, None] + columns.square()).sqrt() * radius).clamp_min(1e-6)
        spectrum = torch.fft.rfft2(light, s=size) * (2 * bessel_j(1, arguments) / arguments)
        blurred = torch.fft.irfft2(spectrum, s=size)[:, : light.shape[1], : light.shape[2]]
        return blurred.clamp_min(0)

    # -- parameters --------------------------------------------------------------------------------

    def parameters(self) -> dict[str, Tensor]:
        """``na``, ``wavelength``, ``sample`` and ``depth``, each ``(1 or items,)``."""
        return dict(self._values)

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        if not parameters:
            return super()._replace({})
        changed = {name: value.reshape(-1) for name, value in parameters.items()}
        values = {**self._values, **changed}
        microscope = super()._replace({"kernel": self._point_spread(values)})
        microscope._values = values
        return microscope

    def __repr__(self) -> str:
        na, wavelength = float(self._values["na"].mean()), float(self._values["wavelength"].mean())
        return (
            f"Microscope({self.domain_shape}, na={na:g}, wavelength={wavelength:g}, "
            f"kind={self.kind!r}, boundary={self.boundary!r})"
        )
