"""Renderer of photographs whose exposure and white balance differ from picture to picture."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.operators.rendering.gaussian_renderer import GaussianRenderer


class ExposedRenderer(GaussianRenderer):
    r"""Photographs of `geometry.Splats` with a gain per picture and channel.

    The color c of picture k and channel j becomes ``c exp(e_kj - mean_k e_kj)``. The parameter
    ``exposure``, ``(cameras, channels)``, holds the logarithms e, 0 by default. Pictures alone
    determine gains up to one common factor per channel; subtracting the mean makes the geometric
    mean of the gains 1. ``Problem(..., unknown={"exposure": None})`` finds them together with the
    scene, and a view without a known gain is rendered by `GaussianRenderer`.

    Args:
        cameras: see `GaussianRenderer`.
        exposure: logarithms of the gains, ``(cameras, channels)``; 0 by default.
        exposure_step: unit in which solvers move ``exposure``.
        settings: further settings of `GaussianRenderer`; color must be the only output.

    >>> import torch
    >>> from invtoolbox.geometry import Splats, look_at
    >>> cameras = look_at(torch.tensor([[0.0, 0.0, -4.0], [0.0, 0.0, -4.0]]), size=(8, 12))
    >>> gains = torch.tensor([[2.0, 2.0, 2.0], [0.5, 0.5, 0.5]]).log()
    >>> x = Splats.of_points(torch.zeros(1, 1, 3), torch.full((1, 1, 3), 0.4), 0.3, 0.9)
    >>> bright, dark = ExposedRenderer(cameras, gains)(x)[0, 0, :, 4, 6]
    >>> round(float(bright / dark), 4)
    4.0
    """

    item_fields: ClassVar[tuple[str, ...]] = (*GaussianRenderer.item_fields, "exposure")

    def __init__(
        self,
        cameras: Cameras,
        exposure: Tensor | None = None,
        exposure_step: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(cameras, **settings)
        shape = (len(cameras), self.channels)
        if self.outputs != ("color",):
            raise InputError(f"ExposedRenderer has the output color alone, got {self.outputs}")
        if exposure is None:
            exposure = self.twist.new_zeros(shape)
        if exposure.shape != shape:
            raise InputError(
                f"ExposedRenderer takes an exposure of shape {shape}, one value per camera and "
                f"channel, got {tuple(exposure.shape)}"
            )
        self.exposure, self.exposure_step = exposure[None], exposure_step

    @property
    def gains(self) -> Tensor:
        """Gains of the pictures, ``(batch or 1, cameras, channels)``."""
        return (self.exposure - self.exposure.mean(1, keepdim=True)).exp()

    def with_info(self, x: Any) -> tuple[Tensor, dict[str, Tensor]]:
        color, info = super().with_info(x)
        if self.outputs != ("color",):  # of `nearby`
            return color, info
        gains = self._select(self.gains).to(color)
        return color * gains.transpose(1, 2)[..., None, None], info

    def fixed_scales(self) -> dict[str, float]:
        return {**super().fixed_scales(), "exposure": self.exposure_step}

    def parameters(self) -> dict[str, Tensor]:
        exposure = self.exposure if self.items is not None else self.exposure[0]
        return {**super().parameters(), "exposure": exposure}
