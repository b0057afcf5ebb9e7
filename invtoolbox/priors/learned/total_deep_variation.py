"""Total deep variation: a learned energy of images, as a prior."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.networks.convex_network import item_sum
from invtoolbox.networks.deep_variation import DeepVariationNetwork
from invtoolbox.networks.foreign_weights import read_weights
from invtoolbox.operators.base import expand
from invtoolbox.priors.base import ExplicitPrior


class TotalDeepVariation(ExplicitPrior):
    r"""``R(x) = balance / s0^2 * sum over pixels of r(x s0 / sigma)``, r a network that gives one energy a pixel.

    After Kobler, Effland, Kunisch and Pock, "Total deep variation for linear inverse problems", CVPR 2020. Their network learned r for
    noise of standard deviation ``s0``, together with the balance between ``1/2 |x - y|^2`` and the sum of r; other noise ``sigma`` is
    brought to that one by scaling the image, as they do. In these units the balance that was learned is that of weight 1 and
    `LeastSquares` with ``noise_std=sigma``, or of weight ``sigma^2`` and ``1/2 |A x - y|^2``.

    R is smooth and not convex. The network learned it for ten steps of its gradient flow, not for the minimum, and near the minimum weight
    1 smooths too much: on a part of a photograph with noise 25/255 the flow reaches 27.1 dB (as DnCNN does), L-BFGS after 25 iterations
    23.0 dB with weight 1 and 24.1 dB with 0.5. Take a smaller weight, or stop early. `from_file` reads the weights of the authors.

    Args:
        network: gives the energies ``(batch, 1, rows, columns)`` of images ``(batch, channel, rows, columns)`` in [0, 1].
        sigma: noise level that the prior is meant for, in the units of the image; a number, or one an item. That of the training by
            default.
        trained_level: s0, on the network's own intensity scale.
        balance: how much the sum of r counts against ``1/2 |x - y|^2`` at that level.
        intensity_range: the values ``(low, high)`` of the image that the network is to see as 0 and 1.
        channelwise: a network for one channel, on every channel by itself.

    >>> prior = TotalDeepVariation(DeepVariationNetwork(1, features=4, scales=2, blocks=1), trained_level=0.1)
    >>> prior.energy(torch.rand(2, 1, 8, 8)).shape, sorted(prior.offers)
    (torch.Size([2]), ['energy', 'gradient'])
    """

    is_convex = None
    is_smooth = True
    item_fields: ClassVar[tuple[str, ...]] = ("sigma",)

    def __init__(
        self,
        network: DeepVariationNetwork,
        sigma: float | Tensor | None = None,
        *,
        trained_level: float = 25 / 255,
        balance: float = 1.0,
        intensity_range: tuple[float, float] = (0.0, 1.0),
        channelwise: bool = False,
    ) -> None:
        if not intensity_range[1] > intensity_range[0]:
            raise InputError(
                f"intensity_range is (low, high) with low < high, got {intensity_range}"
            )
        sigma = (
            trained_level * (intensity_range[1] - intensity_range[0]) if sigma is None else sigma
        )
        if not bool((torch.as_tensor(sigma) > 0).all()) or not trained_level > 0 or not balance > 0:
            raise InputError(
                f"TotalDeepVariation needs a positive sigma, trained_level and balance, got {sigma}, {trained_level} and "
                f"{balance}"
            )
        self.network, self.sigma = network, sigma  # type: ignore[assignment]
        self.trained_level, self.balance = trained_level, balance
        self.intensity_range, self.channelwise = intensity_range, channelwise

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        sigma: float | Tensor | None = None,
        *,
        trained_level: float | None = None,
        intensity_range: tuple[float, float] = (0.0, 1.0),
        channelwise: bool = False,
    ) -> Self:
        """The prior of one of the authors' files, ``tdv3-3-25-f32-gray.pth`` or ``tdv3-3-25-f32-color.pth`` (github.com/VLOGroup/tdv).

        Nothing but tensors and plain containers is unpickled. Features, scales, blocks, channels and the balance are those of the file.

        Args:
            path: of the file.
            trained_level: noise level of the training. By default it is read from the name of the file, which gives it in 1/255, third of
                its numbers.
            sigma, intensity_range, channelwise: as in `TotalDeepVariation`.

        Raises:
            InputError: a file that is missing, holds another network or asks for more than tensors, or no level.
        """
        content = read_weights(path)
        named = re.match(r"tdv\d+-\d+-(\d+)-", Path(path).stem)
        if trained_level is None and named is None:
            raise InputError(
                f"the name {Path(path).name!r} does not say for which noise level the network was trained, as "
                "'tdv3-3-25-f32-gray.pth' does; give trained_level"
            )
        level = trained_level if named is None or trained_level is not None else int(named[1]) / 255
        assert level is not None
        network, balance = _built(path, content)
        return cls(
            network,
            sigma,
            trained_level=level,
            balance=balance,
            intensity_range=intensity_range,
            channelwise=channelwise,
        )

    def energy(self, x: Tensor) -> Tensor:
        low, high = self.intensity_range
        width = high - low
        level = torch.as_tensor(self.sigma, dtype=x.dtype, device=x.device) / width
        seen = (x - low) / width if (low, high) != (0, 1) else x
        ratio = self.trained_level / level
        scaled = seen * (expand(ratio, seen) if ratio.ndim else ratio)
        weight = next(self.network.parameters())
        if weight.device != x.device or weight.dtype != x.dtype:
            raise InputError(
                f"the network of {self!r} is {weight.dtype} on {weight.device} and the image {x.dtype} on {x.device}; move "
                f"the prior with prior.to(dtype={x.dtype}, device={str(x.device)!r})"
            )
        if self.channelwise and x.shape[1] > 1:
            scaled = scaled.reshape(-1, 1, *x.shape[2:])
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            energies = item_sum(self.network(scaled)).view(len(x), -1).sum(1)
        return (self.balance / self.trained_level**2 * energies).to(x.dtype)

    def __repr__(self) -> str:
        levels = torch.as_tensor(self.sigma)
        sigma = f"{float(levels):g}" if levels.numel() == 1 else f"({len(levels)},)"
        return f"TotalDeepVariation(sigma={sigma})"


def _built(path: str | Path, content: dict[str, Any]) -> tuple[DeepVariationNetwork, float]:
    """The network of a file, frozen, and the balance that was learned with it."""
    try:
        settings, state = content["config"]["R"]["config"], content["model"]
        network = DeepVariationNetwork(
            settings["in_channels"],
            settings["num_features"],
            settings["num_scales"],
            settings["num_mb"],
        )
        # What they call the stopping time is the step on R, what they call lambda that on the misfit.
        balance = float(state["T"]) / float(state["lmbda"])
        weights = {
            name.removeprefix("R."): value
            for name, value in state.items()
            if name.startswith("R.") and name.endswith(".weight")
        }
        if settings.get("multiplier", 1) != 1:
            raise ValueError(f"features that grow by {settings['multiplier']} a scale")
        # The authors' energy is the mean of their features' energies.
        weights["KN.weight"] = weights["KN.weight"] / settings["num_features"]
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} does not hold a network of total deep variation as its authors write it ({reason})"
        ) from error
    return network.eval().requires_grad_(False), balance
