"""Solvers and trained priors as the catalogue describes them. No code runs from its files; weights load without pickle."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.catalogue.shelves import find
from invtoolbox.errors import InputError, unknown_name

if TYPE_CHECKING:
    from torch import nn

    from invtoolbox.priors.base import Prior
    from invtoolbox.solvers.base import Solver

#: Networks that a card of a trained prior, or a scene file, may name. All of them are built without a download.
NETWORKS = {
    "bottleneck": "invtoolbox.networks.denoisers:Bottleneck",
    "convex-convolution": "invtoolbox.networks.convex_convolution:ConvexConvolution",
    "convex-energy": "invtoolbox.networks.convex_energy:ConvexEnergy",
    "convex-dense": "invtoolbox.networks.convex_network:ConvexDense",
    "cosine-hyperprior": "invtoolbox.networks.cosine_hyperprior:CosineHyperprior",
    "dncnn": "invtoolbox.networks.denoisers:DnCNN",
    "mean-scale-hyperprior": "invtoolbox.networks.hyperprior:MeanScaleHyperprior",
    "drunet": "deepinv.models:DRUNet",
    "gsdrunet": "deepinv.models:GSDRUNet",
    "scunet": "deepinv.models:SCUNet",
}


def load_preset(name: str, changes: Mapping[str, Any] | None = None) -> Solver:
    """A solver as ``solvers/NAME.toml`` describes it: the key ``solver`` names it, the rest are its settings.

    Args:
        name: a file of the shelf, without ``.toml``.
        changes: settings that replace those of the preset.
    """
    from invtoolbox.catalogue.registry import build

    entry = find("solvers", name)
    settings = entry.read()
    solver = settings.pop("solver", None)
    if not isinstance(solver, str):
        raise InputError(
            f'{entry.path} does not say which solver it is a preset of; add for example solver = "admm"'
        )
    with _in_file(entry.path):
        result: Solver = build("solvers", solver, {**settings, **(changes or {})})
    return result


def load_prior(name: str, changes: Mapping[str, Any] | None = None) -> Prior:
    """A trained prior: ``priors/NAME/card.toml`` names the kind of prior, its settings and its network.

    A card reads::

        # DnCNN, trained on natural images for noise of standard deviation 25/255.
        prior = "denoiser"
        sigma = 0.098
        [network]
        name = "dncnn"
        depth = 17
        weights = "weights.safetensors"       # beside the card

    Args:
        name: a folder of the shelf.
        changes: settings that replace those of the card.
    """
    from invtoolbox.catalogue.registry import build

    entry = find("priors", name)
    settings = entry.read()
    kind = settings.pop("prior", None)
    if not isinstance(kind, str):
        raise InputError(
            f'{entry.path} does not say which prior it describes; add for example prior = "denoiser"'
        )
    settings.update(changes or {})
    with _in_file(entry.path):
        table = settings.get("network")
        if isinstance(table, dict):
            if not str(table.get("weights", "")).endswith(".safetensors"):
                raise InputError(
                    "the weights of a trained prior are a safetensors file beside its card"
                )
            settings["network"] = build_network(table, entry.path.parent / str(table["weights"]))
        result: Prior = build("priors", kind, settings)
    return result


def build_network(table: Mapping[str, Any], weights: Path | None) -> nn.Module:
    """The network that a table describes, in evaluation mode.

    Args:
        table: ``name`` out of `NETWORKS`, and the arguments of the class.
        weights: a ``.safetensors`` file, or a ``.pth`` file of which nothing but tensors is unpickled; None for
            random weights.
    """
    import inspect

    arguments = {key: value for key, value in table.items() if key not in ("name", "weights")}
    name = table.get("name")
    if not isinstance(name, str):
        raise InputError(f"the network has no name; it is one of {', '.join(NETWORKS)}")
    if name not in NETWORKS:
        raise unknown_name("network", name, NETWORKS)
    module, attribute = NETWORKS[name].split(":")
    cls = getattr(importlib.import_module(module), attribute)
    taken = inspect.signature(cls).parameters
    for key in arguments:
        if key not in taken:
            raise InputError(
                f"the network {name!r} has no setting {key!r}; it has {', '.join(taken)}"
            )
    if "pretrained" in taken:
        arguments["pretrained"] = None  # its own default would download
    network: nn.Module = cls(**arguments)
    if weights is not None:
        load_weights(network, weights)
    return network.eval().requires_grad_(False)


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill a network from a file of weights; every weight must be there and have its shape."""
    from invtoolbox.networks.foreign_weights import read_weights

    tensors = read_weights(path)
    try:
        network.load_state_dict(tensors)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"the weights of {path} do not fit the network {type(network).__name__}: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error


@contextmanager
def _in_file(path: Path) -> Iterator[None]:
    """Errors raised inside begin with the name of the file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
