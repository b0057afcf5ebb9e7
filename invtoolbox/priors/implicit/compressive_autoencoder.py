"""A compressive autoencoder as a prior: images are decoded from latents that take few bits.

`starting_picture` computes the image from whose code the solve starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor, nn

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.networks.foreign_weights import CompressaiModel, is_compressai
from invtoolbox.operators.base import expand
from invtoolbox.priors.base import ImplicitPrior, Problem
from invtoolbox.priors.images.tikhonov import Tikhonov
from invtoolbox.priors.settings import check_intensity_range, replace, require_bound


class CompressiveAutoencoder(ImplicitPrior):
    """Images ``x = D(z)`` with the energy ``S(z, h) = -log p(z | h) - log p(h)``, in nats.

    The latents are not rounded. Biquard, Chabert, Genin, Latry and Oberlin, "Variational Bayes
    image restoration with compressive autoencoders" (IEEE TIP 34, 2025).
    `solvers.VariationalLatent` finds a distribution over the latents, and with it a posterior over
    images; `solvers.Adam` finds their mode (MAP-z). Both start from the code of a smooth first
    reconstruction.

    The data term needs the noise level (``LeastSquares(noise_std=...)``), as the energy is in nats;
    for measurements without noise, 0.004 of the range of the intensities is usual. A network of one
    channel codes every channel of an image separately; a network of three channels gets a grey
    image three times.

    Args:
        network: a `CosineHyperprior` or `MeanScaleHyperprior`, a model of the package compressai
            (ScaleHyperprior, MeanScaleHyperprior, the autoregressive ones, Cheng2020,
            FactorizedPrior), or any module with their methods ``encode``, ``decode`` and
            ``energy``.
        rate_scale: factor of the contrast with which pictures are coded, a number or one value per
            item. Below 1 they are coded more coarsely, which is a stronger prior for harder
            problems and more noise, without new training (Biquard et al. 2024).
        bitrate: alpha of the rate-distortion training, if the network has no second decoder. It
            determines the standard deviation of a pixel around its decoded value, see
            `training.RateDistortion.decoder_std`.
        intensity_range: the values ``(low, high)`` of the image that the network gets as 0 and 1.

    >>> from invtoolbox.priors import MeanScaleHyperprior
    >>> prior = CompressiveAutoencoder(MeanScaleHyperprior(widths=(4, 4, 8), latents=6, hyper=4))
    >>> code = prior.encode(torch.rand(2, 1, 40, 70))
    >>> {name: tuple(t.shape) for name, t in code.items()}
    {'z': (2, 6, 8, 12), 'h': (2, 4, 2, 3)}
    """

    item_fields: ClassVar[tuple[str, ...]] = ("rate_scale", "start_z", "start_h")

    def __init__(
        self,
        network: nn.Module,
        rate_scale: float | Tensor = 1.0,
        bitrate: float | None = None,
        intensity_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if is_compressai(network):
            network = CompressaiModel(network)
        missing = [
            name
            for name in ("encode", "decode", "energy")
            if not callable(getattr(network, name, None))
        ]
        if missing:
            raise InputError(
                "the network of a CompressiveAutoencoder is a CosineHyperprior, a "
                "MeanScaleHyperprior or a model of compressai; "
                f"{type(network).__name__} has no {missing[0]}"
            )
        check_range(self, "(0, inf]", rate_scale=rate_scale, bitrate=bitrate)
        check_intensity_range(intensity_range)
        self.network, self.rate_scale, self.bitrate = network, rate_scale, bitrate
        self.intensity_range = (float(intensity_range[0]), float(intensity_range[1]))
        self.image_shape: tuple[int, ...] = ()
        self.start_z: Tensor | None = None
        self.start_h: Tensor | None = None

    def prepare(self, problem: Problem, solve: Any) -> Self:
        bound = replace(self, image_shape=self._check(problem.image_shape))
        code = bound.encode(starting_picture(problem, solve, self.intensity_range))
        return replace(bound, start_z=code["z"], start_h=code.get("h"))

    def initial(self) -> dict[str, Tensor]:
        """Return the code of the first reconstruction."""
        z = require_bound(self, self.start_z)
        return {"z": z} if self.start_h is None else {"z": z, "h": self.start_h}

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        """Return the latents of images, as ``it.solve(..., initial=)`` takes them.

        They are ``{"z": ..., "h": ...}``, ``(batch, channel, row, column)`` each.
        """
        low, high = self.intensity_range
        pictures = self._fold((x - low) / (high - low) * expand(self.rate_scale, x))
        with torch.no_grad():
            latents = _itemwise(self.network.encode, pictures)  # type: ignore[arg-type]
        return dict(zip(("z", "h"), (t.reshape(x.shape[0], -1, *t.shape[2:]) for t in latents)))

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        size = self._size()
        low, high = self.intensity_range
        (x,) = _itemwise(lambda z: (self.network.decode(z, size),), self._split(parameters["z"]))  # type: ignore[operator]
        x = self._unfold(x)
        return low + (high - low) * x / expand(self.rate_scale, x)

    def pixel_std(self, parameters: dict[str, Tensor]) -> Tensor | None:
        size = self._size()
        low, high = self.intensity_range
        if getattr(self.network, "log_std", None) is None:
            if self.bitrate is None:
                return None
            # The distortion is alpha 255^2 |x - D(z)|^2 against bits, so a pixel has the variance
            # 1 / (2 log(2) alpha 255^2).
            z = parameters["z"]
            std = z.new_full(
                (z.shape[0], *self.image_shape),
                1 / (255 * (2 * 0.6931471805599453 * self.bitrate) ** 0.5),
            )
        else:
            log_std: Any = self.network.log_std
            (std,) = _itemwise(lambda z: (log_std(z, size).exp(),), self._split(parameters["z"]))
            std = self._unfold(std)
        return (high - low) * std / expand(self.rate_scale, std)

    def energy(self, parameters: dict[str, Tensor], x: Any) -> Tensor:
        latents = [self._split(t) for t in parameters.values()]
        (energy,) = _itemwise(lambda *parts: (self.network.energy(*parts),), *latents)  # type: ignore[operator]
        return energy.view(next(iter(parameters.values())).shape[0], -1).sum(1)

    def _check(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        channels = self._channels()
        if len(image_shape) != 3 or not (
            image_shape[0] == channels or channels == 1 or image_shape[0] == 1
        ):
            raise InputError(
                f"{self!r} codes images (channel, row, column) of {channels} channels, "
                f"or grey ones, got {image_shape}"
            )
        return tuple(image_shape)

    def _channels(self) -> int:
        return int(getattr(self.network, "channels", 3))

    def _size(self) -> tuple[int, int]:
        shape = require_bound(self, self.image_shape)
        return shape[-2], shape[-1]

    def _fold(self, x: Tensor) -> Tensor:
        """Return images as the network takes them: channels as items, or grey images tripled."""
        channels = self._channels()
        if x.shape[1] == channels:
            return x
        return x.reshape(-1, 1, *x.shape[2:]) if channels == 1 else x.expand(-1, channels, -1, -1)

    def _unfold(self, x: Tensor) -> Tensor:
        channels = self.image_shape[0]
        if x.shape[1] == channels:
            return x
        return x.reshape(-1, channels, *x.shape[2:]) if x.shape[1] == 1 else x.mean(1, keepdim=True)

    def _split(self, latent: Tensor) -> Tensor:
        """Return latents with a channel of the image as an item, if channels are coded singly."""
        if self._channels() == 1 and self.image_shape[0] > 1:
            return latent.reshape(-1, latent.shape[1] // self.image_shape[0], *latent.shape[2:])
        return latent

    def __repr__(self) -> str:
        scale = (
            ""
            if isinstance(self.rate_scale, float) and self.rate_scale == 1
            else f", rate_scale={_words(self.rate_scale)}"
        )
        scale += (
            "" if self.intensity_range == (0, 1) else f", intensity_range={self.intensity_range}"
        )
        return f"CompressiveAutoencoder({type(self.network).__name__}{scale})"


#: Usual difference of two neighbouring pixels of a picture, in shares of the range of its
#: intensities, and the noise that is assumed if it is unknown.
_STEP, _NOISE = 0.05, 0.004


def starting_picture(problem: Problem, solve: Any, intensity_range: tuple[float, float]) -> Tensor:
    """Compute the smoothest picture that explains the measurements, ``(batch, channel, *space)``.

    It lies within a third of its range beyond either end. It interpolates missing pixels, sharpens
    blurred ones as far as the noise allows, and is a first reconstruction of a scan: least squares
    and the squared differences of neighbours, by a few steps of conjugate gradients. If the problem
    is not quadratic, it is the middle of the range.
    """
    low, high = intensity_range
    spread = high - low
    if problem.is_linear and problem.data_term.is_quadratic:
        has_level = getattr(problem.data_term, "noise_std", None) is not None
        # Bayes' rule for differences of neighbours of the standard deviation _STEP * spread.
        weight = (1.0 if has_level else _NOISE**2 * spread**2) / (_STEP * spread) ** 2
        x: Tensor = solve(
            problem,
            weight * Tikhonov("gradient"),
            "cg",
            1.0,
            max_iterations=50,
            tolerance=1e-3,
            progress=False,
        ).x
        return x.clamp(low - spread / 3, high + spread / 3)
    return torch.full_like(problem.zeros(), (low + high) / 2)


def _words(value: float | Tensor) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value.tolist())


def _itemwise(function: Callable[..., tuple[Tensor, ...]], *latents: Tensor) -> tuple[Tensor, ...]:
    """Call a function item by item on a CPU, and on the whole batch elsewhere.

    An item then has the same products alone and in a batch, and bitwise the same answer.
    """
    if latents[0].device.type != "cpu":
        return function(*latents)
    # A batch of one is sliced too: derivatives of several uses are then added in the order of a
    # larger batch.
    items = [function(*(t[k : k + 1] for t in latents)) for k in range(latents[0].shape[0])]
    return tuple(torch.cat(column) for column in zip(*items))
