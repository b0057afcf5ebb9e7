"""Weights from elsewhere: files of tensors, and models of the package compressai.

`read_weights` reads only tensors and plain containers. `CompressaiModel` wraps a model object;
compressai pins NumPy below 2, so nothing here imports it.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invtoolbox.errors import InputError

#: Object in a pickle that is no tensor, as torch's message names it.
_ASKED_FOR = re.compile(r"GLOBAL ([\w.]+)")
#: Errors of torch and safetensors for other files.
_UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
)


def read_weights(path: str | Path) -> dict[str, Any]:
    """Read the dictionary of a ``.safetensors`` file, or of a ``torch.save`` file, on the CPU.

    Objects in a pickle are code that runs while it is read, so they are refused. Only tensors,
    numbers, strings, lists and dictionaries are created.

    Args:
        path: path of the file.

    Raises:
        InputError: The file is missing, is not a file of weights, or holds other objects.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"there are no weights at {path}; fetch or train them first")
    try:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                return load_file(path)
            except SafetensorError as error:
                raise ValueError(str(error)) from error
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        asked = _ASKED_FOR.search(str(error))
        if asked is not None:
            raise InputError(
                f"{path} asks for {asked[1]} while it is read, which could run any code, so it is "
                "refused; if you trust the file, load it in a program of your own and save its "
                "tensors alone, as safetensors"
            ) from error
        reason = (
            str(error).split("WeightsUnpickler error: ")[-1].splitlines() or [type(error).__name__]
        )[0]
        raise InputError(f"{path} is not a readable file of weights ({reason})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not weights by name")
    return content


def is_compressai(network: nn.Module) -> bool:
    """Return whether a network of any class has the parts of a compressai model.

    The parts are the transforms ``g_a`` and ``g_s``, and an ``entropy_bottleneck``.
    """
    return all(hasattr(network, name) for name in ("g_a", "g_s", "entropy_bottleneck"))


class CompressaiModel(nn.Module):
    """Wrapper with ``encode``, ``decode`` and ``energy`` of a compressai model, without rounding.

    compressai calls the latents y and z that are called z and h here. Its ``forward`` rounds in
    evaluation mode, which has no gradient, so the likelihoods come from its entropy models
    directly; they have a floor of 1e-9 that lets gradients pass.

    Args:
        model: FactorizedPrior, ScaleHyperprior, MeanScaleHyperprior,
            JointAutoregressiveHierarchicalPriors, Cheng2020, or a module with the same parts.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        hyper = [name for name in ("h_a", "h_s", "gaussian_conditional") if hasattr(model, name)]
        if hyper and len(hyper) < 3:
            raise InputError(
                f"{type(model).__name__} has {hyper[0]}, "
                "but not all of h_a, h_s and gaussian_conditional"
            )
        self.has_hyper = bool(hyper)
        self.autoregressive = hasattr(model, "context_prediction") and hasattr(
            model, "entropy_parameters"
        )
        first = next(m for m in model.g_a.modules() if isinstance(m, nn.Conv2d))  # type: ignore[union-attr]
        self.channels = first.in_channels
        self.stride = 64 if self.has_hyper else 16

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        from invtoolbox.networks.hyperprior import extend

        m: Any = self.model
        z = m.g_a(extend(x, -x.shape[-2] % self.stride, -x.shape[-1] % self.stride))
        if not self.has_hyper:
            return (z,)
        return z, m.h_a(z.abs() if self._scale_only(z) else z)

    def decode(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        m: Any = self.model
        x: Tensor = m.g_s(z)
        return x[..., : size[0], : size[1]]

    def energy(self, z: Tensor, h: Tensor | None = None) -> Tensor:
        m: Any = self.model
        if h is None:
            return _nats(_factorized_likelihood(m.entropy_bottleneck, z))
        parameters = m.h_s(h)
        if self.autoregressive:
            parameters = m.entropy_parameters(torch.cat([parameters, m.context_prediction(z)], 1))
        scales, means = (
            (parameters, None) if parameters.shape[1] == z.shape[1] else parameters.chunk(2, 1)
        )
        conditional = m.gaussian_conditional
        likelihood = _clamp(conditional, _first(conditional._likelihood(z, scales, means)))
        return _nats(likelihood) + _nats(_factorized_likelihood(m.entropy_bottleneck, h))

    def _scale_only(self, z: Tensor) -> bool:
        """Return whether the hyper-synthesis gives one number per latent, and no mean.

        This is a ScaleHyperprior, which codes magnitudes.
        """
        m: Any = self.model
        convolutions = [
            c for c in m.h_s.modules() if isinstance(c, (nn.Conv2d, nn.ConvTranspose2d))
        ]
        return not self.autoregressive and convolutions[-1].out_channels == z.shape[1]


def _factorized_likelihood(bottleneck: Any, h: Tensor) -> Tensor:
    """Return likelihoods of latents, as the bottleneck takes ``(channel, 1, batch * places)``."""
    rows = h.transpose(0, 1)
    likelihood = _clamp(bottleneck, _first(bottleneck._likelihood(rows.reshape(h.shape[1], 1, -1))))
    return likelihood.reshape(rows.shape).transpose(0, 1)


def _first(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result


def _clamp(entropy_model: Any, likelihood: Tensor) -> Tensor:
    floor = getattr(entropy_model, "likelihood_lower_bound", None)
    return likelihood.clamp_min(1e-9) if floor is None else floor(likelihood)


def _nats(likelihood: Tensor) -> Tensor:
    return -likelihood.log().flatten(1).sum(1)
