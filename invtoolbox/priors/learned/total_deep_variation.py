"""Total deep variation, a learned energy of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import map_items
from invtoolbox.errors import InputError
from invtoolbox.networks.convex_network import item_sum
from invtoolbox.networks.deep_variation import DeepVariationNetwork
from invtoolbox.networks.foreign_weights import read_weights
from invtoolbox.operators.base import expand
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.learned.denoiser import find_trained_level
from invtoolbox.priors.settings import check_intensity_range, check_placement, format_setting


class TotalDeepVariation(ExplicitPrior):
    """Learned energy ``R(x) = balance / s0^2 * sum over pixels of r(x s0 / sigma)``.

    r is a network that gives one energy per pixel (Kobler, Effland, Kunisch and Pock, "Total deep
    variation for linear inverse problems", CVPR 2020). Their network learned r for noise of
    standard deviation ``s0``, together with the balance between ``1/2 |x - y|^2`` and the sum of r.
    For other noise ``sigma`` the image is scaled, as in the paper. In these units the learned
    balance corresponds to weight 1 and `LeastSquares` with ``noise_std=sigma``, or to weight
    ``sigma^2`` and ``1/2 |A x - y|^2``.

    R is smooth and not convex. The network learned it for ten steps of its gradient flow, not for
    the minimum, and near the minimum weight 1 smooths too much: on a part of a photograph with
    noise 25/255 the flow reaches 27.1 dB (as DnCNN does), L-BFGS after 25 iterations 23.0 dB with
    weight 1 and 24.1 dB with 0.5. Use a smaller weight, or stop early. `from_file` reads the
    weights of the authors.

    Args:
        network: returns the energies ``(batch, 1, rows, columns)`` of images
            ``(batch, channel, rows, columns)`` in [0, 1].
        sigma: noise level that the prior is meant for, in the units of the image; a number, or one
            value per item; the level of the training by default.
        trained_level: s0, on the network's own intensity scale.
        balance: factor of the sum of r against ``1/2 |x - y|^2`` at that level.
        intensity_range: the values ``(low, high)`` of the image that the network gets as 0 and 1.
        channelwise: whether a network for one channel is applied to every channel separately.

    >>> network = DeepVariationNetwork(1, features=4, scales=2, blocks=1)
    >>> prior = TotalDeepVariation(network, trained_level=0.1)
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
        check_intensity_range(intensity_range)
        sigma = (
            trained_level * (intensity_range[1] - intensity_range[0]) if sigma is None else sigma
        )
        check_range(self, "(0, inf]", sigma=sigma, trained_level=trained_level, balance=balance)
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
        """Load the prior from a file of its authors (github.com/VLOGroup/tdv).

        The files are ``tdv3-3-25-f32-gray.pth`` and ``tdv3-3-25-f32-color.pth``. Only tensors and
        plain containers are unpickled. The file defines the features, scales, blocks, channels and
        the balance.

        Args:
            path: path of the file.
            sigma: as in `TotalDeepVariation`.
            trained_level: noise level of the training. By default it is read from the file name,
                which gives it in 1/255 as the third of its numbers.
            intensity_range: as in `TotalDeepVariation`.
            channelwise: as in `TotalDeepVariation`.

        Raises:
            InputError: The file is missing, holds another network or more than tensors, or the
                level is unknown.
        """
        content = read_weights(path)
        hint = "'tdv3-3-25-f32-gray.pth' does; give trained_level"
        level = find_trained_level(path, r"tdv\d+-\d+-(\d+)-", trained_level, hint)
        network, balance = _build(path, content)
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
        inside = (x - low) / width if (low, high) != (0, 1) else x
        ratio = self.trained_level / level
        scaled = inside * (expand(ratio, inside) if ratio.ndim else ratio)
        check_placement(self, self.network, x)
        if self.channelwise and x.shape[1] > 1:
            scaled = scaled.reshape(-1, 1, *x.shape[2:])
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            energies = item_sum(map_items(self.network, scaled)).view(len(x), -1).sum(1)
        return (self.balance / self.trained_level**2 * energies).to(x.dtype)

    def __repr__(self) -> str:
        return f"TotalDeepVariation(sigma={format_setting(torch.as_tensor(self.sigma))})"


def _build(path: str | Path, content: dict[str, Any]) -> tuple[DeepVariationNetwork, float]:
    """Return the frozen network of a file, and the balance that was learned with it."""
    try:
        settings, state = content["config"]["R"]["config"], content["model"]
        network = DeepVariationNetwork(
            settings["in_channels"],
            settings["num_features"],
            settings["num_scales"],
            settings["num_mb"],
        )
        # The authors' stopping time is the step on R, and their lambda is the step on the misfit.
        balance = float(state["T"]) / float(state["lmbda"])
        weights = {
            name.removeprefix("R."): value
            for name, value in state.items()
            if name.startswith("R.") and name.endswith(".weight")
        }
        if settings.get("multiplier", 1) != 1:
            raise ValueError(f"features that grow by {settings['multiplier']} per scale")
        # The authors' energy is the mean of their features' energies.
        weights["KN.weight"] = weights["KN.weight"] / settings["num_features"]
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} does not hold a network of total deep variation "
            f"as its authors write it ({reason})"
        ) from error
    return network.eval().requires_grad_(False), balance
