"""A denoiser as a prior.

Its prox gives plug-and-play methods, its gradient gives regularization by denoising (RED).
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from invtoolbox.core.constants import constant
from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.core.pytrees import map_items
from invtoolbox.errors import InputError
from invtoolbox.networks.denoisers import load_dncnn
from invtoolbox.operators.base import expand
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.first_call import naming_faults
from invtoolbox.priors.settings import check_intensity_range, format_setting

LevelArgument = Literal["batch", "number", "none"]
#: Rows: luminance and two chrominances of red, green and blue, of length 1.
_OPPONENT = tuple(
    tuple(value / sum(v * v for v in row) ** 0.5 for value in row)
    for row in ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
)
#: Errors of a denoised image, in errors of a constant one, above which a network returns something
#: else; networks before their training have about 1.
WORSE = 1.25
#: Advice for a network that is called in another way.
_OTHER = (
    "give a function (x, sigma) that calls the network and returns the denoised image, such as lambda "
    "x, sigma: network(torch.cat([x, torch.full_like(x[:, :1], sigma)], 1)) for a map of the level as "
    "a channel, or network(x, t).sample for an object; a predicted noise is subtracted from x"
)
_LEVEL_NAMES = {"sigma", "noise_level", "noise_std", "level", "std"}


class Denoiser(ExplicitPrior):
    """Any denoiser as a prior: a deepinv denoiser, an ``nn.Module`` or a callable.

    It stands in for a proximal operator, ``prox(x, t) = denoise(x, sqrt(t) sigma)`` (plug-and-play,
    Venkatakrishnan et al. 2013), or for a gradient, ``x - denoise(x, sigma)`` (RED, Romano et al.
    2017); there is no energy. The network runs in evaluation mode, in its own precision and on its
    own device; afterwards its modules have the mode that they had before. Gradients pass through it
    only if ``x`` requires them. Complex images are denoised as real and imaginary parts, which are
    twice as many channels.

    Args:
        network: callable ``network(x, sigma)`` or ``network(x)``, see ``level``.
        sigma: noise level that the prior removes at weight and step 1, in the units of the image; a
            number, or one value per item.
        level: form in which the network takes the noise level: a tensor ``(batch,)`` (``"batch"``,
            deepinv's convention), a plain number (``"number"``: items with different levels are
            denoised one by one), or not at all (``"none"``). By default it is read from the
            signature: a second argument that is required, or that has the name of a noise level, is
            the level, unless its default is None, which is how deepinv marks networks that ignore
            it. Modules get tensors, other callables numbers.
        trained_level: noise level that a network without a level argument was trained for, on its
            own intensity scale.
        rescale: whether such a network is used at other levels ``s`` than the trained ``s0``. Above
            ``s0`` the intensities are scaled, ``(s / s0) network(x s0 / s)`` (Xu, Liu, Sun,
            Wohlberg & Kamilov 2020). Below ``s0`` scaling would give the network values that it was
            not trained on, so only a part of the noise is removed,
            ``x + (s / s0) (network(x) - x)``.
        intensity_range: the values ``(low, high)`` of the image that the network gets as 0 and 1.
        channelwise: whether a network for one channel is applied to every channel separately.
        opponent: whether the three channels of a color image are first turned into luminance and
            chrominance by a rotation, which keeps white noise white. Chrominance is smoother than
            any color, so a network for one channel removes more noise from it. The network gets
            the mean of the channels, with its level, as the luminance, and has to know values below
            0 (`ResidualUNet`, `DiffusionUNet`).

    Attributes:
        fixed_level: whether the noise level has no influence; such a prior accepts no weight.

    >>> shrink = Denoiser(lambda x, sigma: x / (1 + sigma**2), sigma=1.0)
    >>> shrink.prox(torch.ones(1, 1, 2), 1.0)
    tensor([[[0.5000, 0.5000]]])
    >>> shrink.gradient(torch.ones(1, 1, 2))
    tensor([[[0.5000, 0.5000]]])
    """

    is_convex = None
    item_fields: ClassVar[tuple[str, ...]] = ("sigma",)

    def __init__(
        self,
        network: Callable[..., Tensor],
        sigma: float | Tensor = 0.05,
        *,
        level: LevelArgument | None = None,
        trained_level: float | None = None,
        rescale: bool = False,
        intensity_range: tuple[float, float] = (0.0, 1.0),
        channelwise: bool = False,
        opponent: bool = False,
    ) -> None:
        if not callable(network):
            raise InputError(
                f"the network of a Denoiser has to be callable, got {type(network).__name__}"
            )
        check_range(self, "(0, inf]", sigma=sigma)
        check_intensity_range(intensity_range)
        check_choice(self, ("batch", "number", "none", None), level=level)
        self.network, self.sigma = network, sigma  # type: ignore[assignment]
        self.level: LevelArgument = level if level is not None else _level_argument(network)
        if rescale and (self.level != "none" or trained_level is None or not trained_level > 0):
            raise InputError(
                "rescale is for a network without a noise level argument, "
                "and needs its trained_level"
            )
        self.trained_level, self.rescale = trained_level, rescale
        self.intensity_range, self.channelwise = intensity_range, channelwise
        self.opponent = opponent
        self.fixed_level = self.level == "none" and not rescale

    @classmethod
    def from_kair(
        cls,
        path: str | Path,
        sigma: float | None = None,
        *,
        rescale: bool = False,
        intensity_range: tuple[float, float] = (0.0, 1.0),
        channelwise: bool = False,
    ) -> Self:
        """Load a DnCNN for one noise level from a file of KAIR's model zoo.

        The networks are those of Zhang et al., "Beyond a Gaussian denoiser", IEEE TIP 2017. Only
        tensors are unpickled. Without ``rescale`` the prior takes no weight other than 1.

        Args:
            path: ``dncnn_15.pth``, ``dncnn_25.pth`` or ``dncnn_50.pth``, or another DnCNN of that
                layout.
            sigma: noise level of the training, for images in [0, 1]. By default it is read from the
                file name, which gives it in units of 1/255; a blind network needs a value here.
            rescale: as in `Denoiser`.
            intensity_range: as in `Denoiser`.
            channelwise: as in `Denoiser`.

        Raises:
            InputError: The file is missing, holds another network or more than tensors, or the
                level is unknown.

        >>> import tempfile
        >>> from invtoolbox.priors import DnCNN
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "dncnn_25.pth"
        ...     torch.save(DnCNN(depth=3, width=4).state_dict(), path)  # in KAIR's layout
        ...     Denoiser.from_kair(path)
        Denoiser(DnCNN, sigma=0.0980392)
        """
        level = find_trained_level(path, r"dncnn_(\d+)$", sigma, "'dncnn_25.pth' does; give sigma")
        network = load_dncnn(path)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU
        return cls(
            network,
            level * (intensity_range[1] - intensity_range[0]),
            level="none",
            trained_level=level if rescale else None,
            rescale=rescale,
            intensity_range=intensity_range,
            channelwise=channelwise,
        )

    def usual_weight(self, variance: Tensor, denoiser_strength: float) -> tuple[Tensor, str] | None:
        """Return the weight of the prox of a density, times the strength that suits the solver."""
        sigma = torch.as_tensor(self.sigma, dtype=variance.dtype, device=variance.device)
        return (
            denoiser_strength * variance / sigma.square(),
            f"the weight is {denoiser_strength:g} noise variances over "
            f"{format_setting(sigma)}^2, as is usual for denoisers",
        )

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        if x.is_complex():
            channels = torch.view_as_real(x).movedim(-1, 2).flatten(1, 2)
            clean = self.denoise(channels, sigma).unflatten(1, (-1, 2)).movedim(2, -1)
            return torch.view_as_complex(clean.contiguous())
        low, high = self.intensity_range
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device) / (high - low)
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad),
            _evaluation(self.network),
        ):
            scaled = x if (low, high) == (0, 1) else (x - low) / (high - low)
            if self.opponent and x.shape[1] == 3:
                # The luminance of length 1 is the mean of the channels times the root of 3.
                size = constant((3**-0.5, 1.0, 1.0), scaled)
                turned = _rotate(scaled, _OPPONENT) * size.view(3, 1, 1)
                turned = self._separately(turned, levels.reshape(-1, 1) * size)
                clean = _rotate(turned / size.view(3, 1, 1), tuple(zip(*_OPPONENT)))
            elif self.channelwise and x.shape[1] > 1:
                clean = self._separately(scaled, levels.reshape(-1, 1))
            else:
                clean = self._at_level(scaled, levels)
            return clean if (low, high) == (0, 1) else clean * (high - low) + low

    def remark(self, like: Tensor) -> str | None:
        if like.is_complex() or like.ndim < 3 or not self._is_foreign():
            return None
        # A ramp along the last axis, a quarter of the range away from its ends.
        low, high = self.intensity_range
        most = 64 if like.ndim == 4 else 32
        shape = (1, like.shape[1], *(n if n < most else most for n in like.shape[2:]))
        ramp = torch.linspace(0.25, 0.75, shape[-1], dtype=like.dtype, device=like.device)
        ramp = (low + (high - low) * ramp).expand(shape)
        sigma = torch.as_tensor(self.sigma, dtype=like.dtype, device=like.device).flatten()[:1]
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like) * sigma
        try:
            with torch.no_grad(), torch.random.fork_rng([]):
                error = self.denoise(ramp + noise, sigma) - ramp
        except InputError:  # a network for one size
            return None
        ratio = float(error.norm() / torch.maximum((ramp - ramp.mean()).norm(), 3 * noise.norm()))
        if ratio < WORSE:
            return None
        return (
            f"the network of {self!r} leaves a noisy ramp {ratio:.2g} times as far from the clean one as "
            "a constant is; a denoiser returns the image without noise, in the scale of its argument: "
            "subtract a predicted noise from x, and divide by the scale of the network"
        )

    def _is_foreign(self) -> bool:
        kind = self.network if inspect.isfunction(self.network) else type(self.network)
        return str(kind.__module__).partition(".")[0] != __name__.partition(".")[0]

    def _separately(self, x: Tensor, levels: Tensor) -> Tensor:
        """Apply the network to every channel as an item.

        The levels are ``(1 or batch, 1 or channel)``.
        """
        levels = levels.expand(len(x), x.shape[1]).flatten() if levels.numel() > 1 else levels
        return self._at_level(x.reshape(-1, 1, *x.shape[2:]), levels).reshape(x.shape)

    def _at_level(self, x: Tensor, levels: Tensor) -> Tensor:
        clean = self._rescale(x, levels) if self.rescale else self._call(x, levels)
        return clean.to(x.dtype)

    def _rescale(self, x: Tensor, levels: Tensor) -> Tensor:
        """Call the network at its trained level, and scale its result to the given levels."""
        assert self.trained_level is not None
        ratio = expand(levels / self.trained_level, x)
        scale = ratio.clamp_min(1)
        clean = self._call(x / scale, levels).to(x.dtype) * scale
        return torch.lerp(x, clean, ratio.clamp_max(1).expand_as(x))

    def _call(self, x: Tensor, levels: Tensor) -> Tensor:
        """Call the network on its own intensity scale, in its own precision."""
        module = self.network if isinstance(self.network, nn.Module) else nn.Module()
        tensors = itertools.chain(module.parameters(), module.buffers())
        reference = next((p for p in tensors if p.is_floating_point()), None)
        if reference is not None:
            if reference.device != x.device:
                raise InputError(
                    f"the network of {self!r} is on {reference.device} and the image on "
                    f"{x.device}; move the prior with prior.to({str(x.device)!r})"
                )
            x = x.to(reference.dtype)
        with naming_faults(f"the network of {self!r}", f"images of shape {tuple(x.shape)}", _OTHER):
            if self.level == "none":
                clean = map_items(self.network, x)
            elif self.level == "batch":
                clean = map_items(
                    self.network, x, levels.reshape(-1).expand(x.shape[0]).to(x.dtype)
                )
            elif levels.numel() == 1:
                clean = map_items(lambda item: self.network(item, float(levels)), x)
            else:
                clean = torch.cat(
                    [self.network(x[k : k + 1], float(levels[k])) for k in range(x.shape[0])]
                )
        if not isinstance(clean, Tensor) or clean.shape != x.shape:
            is_image = isinstance(clean, Tensor) and clean.ndim == x.ndim
            got = (
                tuple(clean.shape)
                if isinstance(clean, Tensor)
                else f"a value of the class {type(clean).__name__}"
            )
            raise InputError(
                f"the network of {self!r} must keep the shape {tuple(x.shape)}, it returned {got}"
                + ("" if is_image else f"; {_OTHER}")
            )
        return clean

    def __repr__(self) -> str:
        name = getattr(self.network, "__name__", type(self.network).__name__)
        return f"Denoiser({name}, sigma={format_setting(torch.as_tensor(self.sigma))})"


def _rotate(x: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """Turn the channels of images by a matrix."""
    mixed = (sum(m * channel for m, channel in zip(row, x.unbind(1))) for row in matrix)
    return torch.stack(list(mixed), 1)  # type: ignore[arg-type]


def find_trained_level(path: str | Path, pattern: str, level: float | None, hint: str) -> float:
    """Return the noise level that a network was trained for.

    It is the level itself, or the first group of ``pattern`` in the name of the file, in 1/255.
    """
    if level is not None:
        return level
    match = re.match(pattern, Path(path).stem)
    if match is None:
        raise InputError(
            f"the name {Path(path).name!r} does not contain the noise level of the training, "
            f"as {hint}"
        )
    return int(match[1]) / 255


def _level_argument(network: Callable[..., Tensor]) -> LevelArgument:
    """Return the form in which a network takes the noise level, from its signature."""
    module = isinstance(network, nn.Module)
    try:
        signature = inspect.signature(
            network.forward if isinstance(network, nn.Module) else network
        )
    except (TypeError, ValueError):
        raise InputError(
            "the signature of this denoiser cannot be read; give level='batch', 'number' or 'none'"
        ) from None
    positional = [
        p
        for p in signature.parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if len(positional) < 2 or positional[1].default is None:
        return "none"
    second = positional[1]
    required = second.default is second.empty
    return ("batch" if module else "number") if required or second.name in _LEVEL_NAMES else "none"


@contextmanager
def _evaluation(network: Any) -> Iterator[None]:
    """Put the network in evaluation mode, and restore the mode of every module afterwards."""
    training = (
        [m for m in network.modules() if m.training] if isinstance(network, nn.Module) else []
    )
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
