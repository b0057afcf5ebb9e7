"""A denoiser as a prior: plug-and-play through its prox, regularisation by denoising through its gradient."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from invtoolbox.errors import InputError
from invtoolbox.networks.denoisers import load_dncnn
from invtoolbox.operators.base import expand
from invtoolbox.priors.base import ExplicitPrior

LevelArgument = Literal["batch", "number", "none"]
_LEVEL_NAMES = {"sigma", "noise_level", "noise_std", "level", "std"}


class Denoiser(ExplicitPrior):
    r"""Any denoiser: a deepinv denoiser, an ``nn.Module`` or a callable.

    It stands in for a proximal operator, ``prox(x, t) = denoise(x, sqrt(t) sigma)`` (plug-and-play,
    Venkatakrishnan et al. 2013), or for a gradient, ``x - denoise(x, sigma)`` (RED, Romano et al. 2017);
    there is no energy. The network runs in evaluation mode, in its own precision and on its own device, and
    is left as it was found. Gradients pass through it only where ``x`` asks for them.

    Args:
        network: called ``network(x, sigma)`` or ``network(x)``, see ``level``.
        sigma: noise level that the prior removes at weight and step 1, in the units of the image; a number,
            or one an item.
        level: how the network takes the noise level: a tensor ``(batch,)`` (``"batch"``, deepinv's
            convention), a plain number (``"number"``: items of other levels are called apart), or not at all
            (``"none"``). By default it is read from the signature: a second argument that is required or has
            the name of a noise level is one, unless its default is None, which is how deepinv marks networks
            that ignore it. Modules get tensors, other callables numbers.
        trained_level: the noise level that a network without a level argument was trained for, on its own
            intensity scale.
        rescale: use such a network at other levels ``s`` than the trained ``s0``. Above it the intensities
            are scaled, ``(s / s0) network(x s0 / s)`` (Xu, Liu, Sun, Wohlberg & Kamilov 2020); below it that
            would show the network values it never saw, so there it removes a part only,
            ``x + (s / s0) (network(x) - x)``. For KAIR's DnCNN of level 25/255 on a photograph with noise
            10/255: 31.4 dB, 25.5 by scaling, 30.6 as it is; with noise 50/255: 27.0 dB, 17.5 as it is.
        intensity_range: the values ``(low, high)`` of the image that the network is to see as 0 and 1.
        channelwise: call a network for one channel on every channel by itself.

    Complex images are denoised as real and imaginary parts, which are twice as many channels.

    Attributes:
        fixed_level: the noise level has no influence, so the prior can be given no weight.

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
    ) -> None:
        if not callable(network):
            raise InputError(
                f"the network of a Denoiser is something to call, got {type(network).__name__}"
            )
        if not bool((torch.as_tensor(sigma) > 0).all()):
            raise InputError(f"sigma of a Denoiser must be positive, got {sigma}")
        if not intensity_range[1] > intensity_range[0]:
            raise InputError(
                f"intensity_range is (low, high) with low < high, got {intensity_range}"
            )
        if level not in (None, "batch", "number", "none"):
            raise InputError(f"level is 'batch', 'number', 'none' or None, got {level!r}")
        self.network, self.sigma = network, sigma  # type: ignore[assignment]
        self.level: LevelArgument = level if level is not None else _level_argument(network)
        if rescale and (self.level != "none" or trained_level is None or not trained_level > 0):
            raise InputError(
                "rescale is for a network without a noise level argument, "
                "and needs its trained_level"
            )
        self.trained_level, self.rescale = trained_level, rescale
        self.intensity_range, self.channelwise = intensity_range, channelwise
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
        """A DnCNN out of a file of KAIR's model zoo (Zhang et al., "Beyond a Gaussian denoiser", IEEE TIP 2017), for one noise level.

        Nothing but tensors is unpickled. Without ``rescale`` the prior takes no weight other than 1.

        Args:
            path: ``dncnn_15.pth``, ``dncnn_25.pth`` or ``dncnn_50.pth``, or another DnCNN of that layout.
            sigma: the level that it was trained for, images in [0, 1]. By default it is read from the name of the file, which gives it
                in units of 1/255; a blind network needs one.
            rescale, intensity_range, channelwise: as in `Denoiser`.

        Raises:
            InputError: a file that is missing, holds another network or asks for more than tensors, or no level.

        >>> import tempfile
        >>> from invtoolbox.priors import DnCNN
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(DnCNN(depth=3, width=4).state_dict(), f"{folder}/dncnn_25.pth")  # as KAIR's lies there
        ...     Denoiser.from_kair(f"{folder}/dncnn_25.pth")
        Denoiser(DnCNN, sigma=0.0980392)
        """
        named = re.fullmatch(r"dncnn_(\d+)", Path(path).stem)
        if sigma is None and named is None:
            raise InputError(
                f"the name {Path(path).name!r} does not say for which noise level the network was trained, as "
                "'dncnn_25.pth' does; give sigma"
            )
        level = sigma if named is None or sigma is not None else int(named[1]) / 255
        assert level is not None
        network = load_dncnn(path)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a processor
        return cls(
            network,
            level * (intensity_range[1] - intensity_range[0]),
            level="none",
            trained_level=level if rescale else None,
            rescale=rescale,
            intensity_range=intensity_range,
            channelwise=channelwise,
        )

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        if x.is_complex():
            parts = torch.view_as_real(x).movedim(-1, 2).flatten(1, 2)
            clean = self.denoise(parts, sigma).unflatten(1, (-1, 2)).movedim(2, -1)
            return torch.view_as_complex(clean.contiguous())
        if self.channelwise and x.shape[1] > 1:
            levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
            levels = levels.repeat_interleave(x.shape[1]) if levels.numel() > 1 else levels
            return self.denoise(x.reshape(-1, 1, *x.shape[2:]), levels).reshape(x.shape)
        low, high = self.intensity_range
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device) / (high - low)
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad),
            _evaluation(self.network),
        ):
            scaled = x if (low, high) == (0, 1) else (x - low) / (high - low)
            clean = self._rescaled(scaled, levels) if self.rescale else self._call(scaled, levels)
            clean = clean.to(x.dtype)
            return clean if (low, high) == (0, 1) else clean * (high - low) + low

    def _rescaled(self, x: Tensor, levels: Tensor) -> Tensor:
        assert self.trained_level is not None
        ratio = expand(levels / self.trained_level, x)
        scale = ratio.clamp_min(1)
        clean = self._call(x / scale, levels).to(x.dtype) * scale
        return torch.lerp(x, clean, ratio.clamp_max(1).expand_as(x))

    def _call(self, x: Tensor, levels: Tensor) -> Tensor:
        """The network on its own intensity scale, in its own precision."""
        reference = next((p for p in _tensors(self.network) if p.is_floating_point()), None)
        if reference is not None:
            if reference.device != x.device:
                raise InputError(
                    f"the network of {self!r} is on {reference.device} and the image on "
                    f"{x.device}; move the prior with prior.to({str(x.device)!r})"
                )
            x = x.to(reference.dtype)
        if self.level == "none":
            clean = self.network(x)
        elif self.level == "batch":
            clean = self.network(x, levels.reshape(-1).expand(x.shape[0]).to(x.dtype))
        elif levels.numel() == 1:
            clean = self.network(x, float(levels))
        else:
            clean = torch.cat(
                [self.network(x[k : k + 1], float(levels[k])) for k in range(x.shape[0])]
            )
        if not isinstance(clean, Tensor) or clean.shape != x.shape:
            got = tuple(clean.shape) if isinstance(clean, Tensor) else type(clean).__name__
            raise InputError(
                f"the network of {self!r} must keep the shape {tuple(x.shape)}, it gave {got}"
            )
        return clean

    def __repr__(self) -> str:
        name = getattr(self.network, "__name__", type(self.network).__name__)
        levels = torch.as_tensor(self.sigma)
        sigma = f"{float(levels):g}" if levels.numel() == 1 else f"({len(levels)},)"
        return f"Denoiser({name}, sigma={sigma})"


def _level_argument(network: Callable[..., Tensor]) -> LevelArgument:
    """How a network takes the noise level, from its signature."""
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


def _tensors(network: Any) -> Iterator[Tensor]:
    if isinstance(network, nn.Module):
        yield from network.parameters()
        yield from network.buffers()


@contextmanager
def _evaluation(network: Any) -> Iterator[None]:
    """The network in evaluation mode, and afterwards every module in the mode it had."""
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
