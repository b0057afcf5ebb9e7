"""Priors and solvers by name: registered classes, presets and trained priors.

No code runs from the files of the catalogue, and weights load without pickle.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.catalogue.registry import build, lookup, names, registered_name, require_settings
from invtoolbox.catalogue.shelves import (
    entries,
    find,
    has_own_folder,
    has_preset,
    has_prior,
    note_shadow,
)
from invtoolbox.core.trust import is_trusting, named_file, trusting
from invtoolbox.errors import InputError, match_name, naming, require_name, unknown_name

if TYPE_CHECKING:
    from torch import nn

    from invtoolbox.priors.base import Prior
    from invtoolbox.solvers.base import Solver

#: Networks that a card of a trained prior, or a scene file, may name. None of them downloads
#: anything.
NETWORKS = {
    "bottleneck": "invtoolbox.networks.denoisers:Bottleneck",
    "convex-convolution": "invtoolbox.networks.convex_convolution:ConvexConvolution",
    "convex-energy": "invtoolbox.networks.convex_energy:ConvexEnergy",
    "convex-dense": "invtoolbox.networks.convex_network:ConvexDense",
    "cosine-hyperprior": "invtoolbox.networks.cosine_hyperprior:CosineHyperprior",
    "diffusion-unet": "invtoolbox.networks.diffusion_unet:DiffusionUNet",
    "dncnn": "invtoolbox.networks.denoisers:DnCNN",
    "mean-scale-hyperprior": "invtoolbox.networks.hyperprior:MeanScaleHyperprior",
    "residual-unet": "invtoolbox.networks.residual_unet:ResidualUNet",
    "drunet": "deepinv.models:DRUNet",
    "gsdrunet": "deepinv.models:GSDRUNet",
    "scunet": "deepinv.models:SCUNet",
}


#: Priors by other words for what they do, as `spell` spells them.
MEANT = {
    word: name
    for name, words in {
        "denoiser-natural": "bm3d nlm nonlocalmeans pnp plugandplay red dpir drunet dncnn denoising",
        "tv": "rof variation gradientl1",
        "l1": "lasso sparse sparsity",
        "tikhonov": "ridge l2 smooth smoothness quadratic h1 wiener",
        "nonnegative": "positive positivity nonneg",
        "diffusion-natural": "ddpm score edm",
        "wavelet": "wavelets haar daubechies",
        "nuclear-norm": "lowrank nuclear",
        "box": "bounds clip",
        "huber-tv": "huber",
        "graph-laplacian": "graph graphla",
        "lpn-natural": "lpn",
    }.items()
    for word in words.split()
}


#: Solvers by their names in deepinv and other packages, as `spell` spells them.
MEANT_SOLVERS = {
    word: name
    for name, words in {
        "proximal-gradient": "pgd ista fbs forwardbackward md pmd mirrordescent",
        "gradient-descent": "gd landweber steepestdescent",
        "pdhg": "pdcp cp chambollepock primaldual",
        "douglas-rachford": "drs dr",
        "half-quadratic": "hqs epll",
        "osem": "mlem em bsrem mlosem",
        "richardson-lucy": "rl blindrl lucyrichardson",
        "admm": "splitbregman ppxa admml2",
        "stochastic-pdhg": "spdhg",
        "pnp-admm": "pnp plugandplay",
        "sart": "art kaczmarz",
        "lsmr": "lsqr",
        "cgls": "cgne cgnr",
        "lbfgs": "bfgs quasinewton",
        "gauss-newton": "newton",
        "levenberg-marquardt": "lm",
        "adam": "sgd rmsprop",
        "reweighted": "irls irl1",
        "ula": "langevin pnpula mala",
        "edm": "posteriordiffusion ddpm ddim heun",
    }.items()
    for word in words.split()
}


def priors_named(prior: str | Prior | Sequence[str | Prior] | None) -> Prior | None:
    """Return the sum of priors; None without any.

    Args:
        prior: a prior, also of deepinv, a name, names with commas between them, a list of priors
            and names, or None.

    >>> priors_named("nonnegative, tv")
    NonNegative() + TotalVariation()
    """
    from invtoolbox.priors.base import Prior

    priors = [prior_named(p) if isinstance(p, str) else _converted(p) for p in split_priors(prior)]
    for term in priors:
        if not isinstance(term, Prior):
            raise InputError(
                "prior must be a name, a list of names, one of it.priors or a subclass of "
                f"ExplicitPrior or ImplicitPrior, got {_describe(term)}"
            )
    return sum(priors[1:], priors[0]) if priors else None


def _converted(term: Any) -> Any:
    """Return the prior of a prior of deepinv, anything else as it is."""
    deepinv = sys.modules.get("deepinv")  # an object of it exists only if it is imported
    if deepinv is None or not isinstance(term, deepinv.optim.Prior):
        return term
    from invtoolbox.priors.adapters import as_prior

    return as_prior(term)


def _describe(term: Any) -> str:
    """Return what was given in place of a prior, and the call that makes one of it."""
    from torch import nn

    name = getattr(term, "__name__", type(term).__name__)
    if isinstance(term, type):
        return f"the class {name}; pass an object of it, {name}()"
    if isinstance(term, nn.Module):
        return (
            f"the network {name}; it.priors.Denoiser(network, sigma=0.05) makes a denoiser a prior"
        )
    if callable(term):
        return (
            f"the function {name}; it.as_prior(function, role=...) makes a prior of a function that "
            "computes an energy, a gradient, a prox or a denoiser"
        )
    if isinstance(term, Mapping):
        return f"{name}; weights are factors, 0.1 * it.priors.TotalVariation() + it.priors.NonNegative()"
    return f"{name}; it.as_prior converts priors of deepinv and functions"


def split_priors(prior: Any) -> list[Any]:
    """Return the priors and the registered names in an argument of `priors_named`."""
    if prior is None:
        return []
    entries = prior if isinstance(prior, (list, tuple)) else [prior]
    parts = [item for entry in entries for item in _split(entry)]
    return [
        (registered_name("priors", item) or item) if isinstance(item, str) else item
        for item in parts
    ]


def _split(entry: Any) -> list[Any]:
    return [name.strip() for name in entry.split(",")] if isinstance(entry, str) else [entry]


def prior_named(name: str, settings: Mapping[str, Any] | None = None) -> Prior:
    """Return a prior by its registered name, or a trained prior by its name in the catalogue.

    Args:
        name: a name of ``invtoolbox list priors``.
        settings: settings that replace settings of the prior.
    """
    from invtoolbox.priors.base import Prior

    changes = dict(settings or {})
    is_trained = has_prior(name) and not is_shadow("priors", name)
    if not is_trained and registered_name("priors", name) is None:
        if "*" in name or "+" in name:
            raise InputError(
                f"there is no prior named {name!r}; names have no weights, so write 0.1 * "
                "it.priors.TotalVariation() + it.priors.NonNegative(), for example"
            )
        raise unknown_name("prior", name, {*names("priors"), *entries("priors")}, MEANT)
    prior = load_prior(name, changes) if is_trained else build("priors", name, changes)
    if not isinstance(prior, Prior):
        raise InputError(f"the plug-in {name!r} gave a {type(prior).__name__}, not a prior")
    return prior


def solver_named(name: str, settings: Mapping[str, Any] | None = None) -> Solver:
    """Return a solver by its registered name, or a preset of the catalogue.

    Args:
        name: a name of ``invtoolbox list solvers``.
        settings: settings that replace settings of the solver.
    """
    from invtoolbox.solvers.base import Solver

    changes = dict(settings or {})
    is_preset = has_preset(name) and not is_shadow("solvers", name)
    if not is_preset and registered_name("solvers", name) is None:
        choices = {*names("solvers"), *entries("solvers")}
        raise unknown_name("solver", name, choices, MEANT_SOLVERS)
    solver = load_preset(name, changes) if is_preset else build("solvers", name, changes)
    if not isinstance(solver, Solver):
        raise InputError(f"the plug-in {name!r} gave a {type(solver).__name__}, not a solver")
    return solver


def is_shadow(kind: str, name: str) -> bool:
    """Return whether a file of the catalogue has the name of a class, which then has precedence.

    Args:
        kind: "priors" or "solvers".
        name: name of a file of the shelf.
    """
    if is_trusting() or has_own_folder() or match_name(name, names(kind)) is None:
        return False
    note_shadow(lookup(kind, name), find(kind, name).path)
    return True


def load_preset(name: str, changes: Mapping[str, Any] | None = None) -> Solver:
    """Load a solver preset from ``solvers/NAME.toml``.

    The key ``solver`` names the solver, the other keys are its settings.

    Args:
        name: a file of the shelf, without ``.toml``.
        changes: settings that replace settings of the preset.
    """
    entry = find("solvers", name)
    settings = entry.read()
    solver = settings.pop("solver", None)
    if not isinstance(solver, str):
        raise InputError(
            f'{entry.path} does not name the solver of the preset; add for example solver = "admm"'
        )
    with naming(entry.path):
        return build("solvers", solver, {**settings, **(changes or {})})


def load_prior(name: str, changes: Mapping[str, Any] | None = None, trusted: bool = False) -> Prior:
    """Load a trained prior from ``priors/NAME/card.toml``: its kind, its settings and its network.

    A card reads::

        # DnCNN, trained on natural images for noise of standard deviation 25/255.
        prior = "denoiser"
        sigma = 0.098
        [network]
        name = "dncnn"
        depth = 17
        weights = "weights.safetensors"       # next to the card

    Args:
        name: a folder of the shelf.
        changes: settings that replace settings of the card.
        trusted: whether a folder ``priors/NAME`` of the current folder may take the place of the
            prior of that name that comes with the toolbox, and its card may name weights outside of
            its folder.
    """
    with trusting(trusted):
        return _load_prior(name, changes)


def _load_prior(name: str, changes: Mapping[str, Any] | None) -> Prior:
    """Load a trained prior; see `load_prior`."""
    entry = find("priors", name)
    settings = entry.read()
    kind = settings.pop("prior", None)
    if not isinstance(kind, str):
        raise InputError(
            f'{entry.path} does not name the kind of prior; add for example prior = "denoiser"'
        )
    changes, training = dict(changes or {}), settings.pop("trained_on", None)
    if "intensity_range" in changes and "sigma" in settings:
        # The sigma of a card is in the units of its own intensity range.
        low, high = settings.get("intensity_range", (0.0, 1.0))
        new_low, new_high = changes["intensity_range"]
        changes.setdefault("sigma", settings["sigma"] * (new_high - new_low) / (high - low))
    settings.update(changes)
    with naming(entry.path):
        table = settings.get("network")
        if isinstance(table, dict):
            if not str(table.get("weights", "")).endswith(".safetensors"):
                raise InputError(
                    "the weights of a trained prior are a safetensors file next to its card"
                )
            weights = named_file(entry.path.parent, str(table["weights"]), entry.path)
            settings["network"] = build_network(table, weights)
        prior: Prior = build("priors", kind, settings)
        if training is None or "intensity_range" in changes:
            return prior
        from invtoolbox.priors.settings import replace
        from invtoolbox.priors.trained_on import TrainedOn

        return replace(prior, trained_on=TrainedOn.of_card(training))


def build_network(table: Mapping[str, Any], weights: Path | None) -> nn.Module:
    """Build the network that a table describes, in evaluation mode.

    Args:
        table: ``name``, one of `NETWORKS`, and the arguments of the class.
        weights: a ``.safetensors`` file, or a ``.pth`` file from which only tensors are unpickled;
            None for random weights.
    """
    arguments = {key: value for key, value in table.items() if key not in ("name", "weights")}
    name = table.get("name")
    if not isinstance(name, str):
        raise InputError(f"the network has no name; it is one of {', '.join(NETWORKS)}")
    module, attribute = NETWORKS[require_name("network", name, NETWORKS)].split(":")
    cls = getattr(importlib.import_module(module), attribute)
    taken = inspect.signature(cls).parameters
    require_settings(f"the network {name!r}", arguments, taken)
    if "pretrained" in taken:
        arguments["pretrained"] = None  # its own default would download
    network: nn.Module = cls(**arguments)
    if weights is not None:
        load_weights(network, weights)
    return network.eval().requires_grad_(False)


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill a network from a file of weights.

    Args:
        network: network whose weights are replaced.
        path: file of weights.

    Raises:
        InputError: if a weight is missing, or has another shape.
    """
    from invtoolbox.networks.foreign_weights import read_weights

    tensors = read_weights(path)
    try:
        network.load_state_dict(tensors)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"the weights of {path} do not fit the network {type(network).__name__}: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
