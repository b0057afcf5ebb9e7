"""The catalogue: what a user names and tunes, as small TOML files on four shelves.

``solvers/NAME.toml`` is a preset, ``priors/NAME/`` a trained prior, ``datasets/NAME.toml`` says where a data set comes
from and how it is read, ``scenes/NAME.toml`` is a whole runnable problem. The shelves are looked for in the user's own
folder (``INVTOOLBOX_CATALOGUE``, else the current directory) and then in what the toolbox brings; the first one that
has a name wins. No code runs from a catalogue file, and weights load without pickle.
"""

from __future__ import annotations

import importlib
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.errors import InputError, unknown_name

if TYPE_CHECKING:
    from torch import nn

    from invtoolbox.priors.base import Prior
    from invtoolbox.solvers.base import Solver

SHELVES = ("solvers", "priors", "scenes", "datasets")

#: Networks that a card of a trained prior, or a scene file, may name. All of them are built without a download.
NETWORKS = {
    "dncnn": "deepinv.models:DnCNN",
    "drunet": "deepinv.models:DRUNet",
    "gsdrunet": "deepinv.models:GSDRUNet",
    "scunet": "deepinv.models:SCUNet",
}


@dataclass(frozen=True)
class Entry:
    """One thing on a shelf.

    Attributes:
        kind: the shelf.
        name: what it is called in the API, in a scene file and on the command line.
        path: its TOML file; of a trained prior, the card in its folder.
        summary: the first comment line of the file.
    """

    kind: str
    name: str
    path: Path
    summary: str

    def read(self) -> dict[str, Any]:
        """The settings that the file holds."""
        return read_toml(self.path)


def folders(kind: str) -> list[Path]:
    """The folders of a shelf that exist, the user's own first."""
    if kind not in SHELVES:
        raise unknown_name("shelf", kind, SHELVES)
    own = Path(os.environ.get("INVTOOLBOX_CATALOGUE") or Path.cwd())
    places = [own / kind, _brought() / kind]
    return list(dict.fromkeys(place.resolve() for place in places if place.is_dir()))


def _brought() -> Path:
    """The shelves that the toolbox brings: beside the package in a checkout, inside of it in a wheel."""
    package = Path(__file__).resolve().parent
    return package.parent if (package.parent / "pyproject.toml").is_file() else package / "shelf"


def entries(kind: str) -> dict[str, Entry]:
    """Everything on a shelf, by name, in the order of the names.

    >>> "ct-small" in entries("scenes")
    True
    """
    found: dict[str, Entry] = {}
    for folder in folders(kind):
        pattern = "*/card.toml" if kind == "priors" else "*.toml"
        for path in sorted(folder.glob(pattern)):
            name = path.parent.name if kind == "priors" else path.stem
            found.setdefault(name, Entry(kind, name, path, _summary(path)))
    return dict(sorted(found.items()))


def find(kind: str, name: str) -> Entry:
    """The entry of a name; an unknown one is refused with the nearest known ones."""
    known = entries(kind)
    if name not in known:
        raise unknown_name(kind.removesuffix("s"), name, known)
    return known[name]


def has_preset(name: str) -> bool:
    return name in entries("solvers")


def load_preset(name: str, changes: Mapping[str, Any] | None = None) -> Solver:
    """A solver as a preset describes it: the key ``solver`` names it, the rest are its settings.

    Args:
        name: a file of the shelf ``solvers``, without ``.toml``.
        changes: settings that replace those of the preset.
    """
    from invtoolbox.registry import build

    entry = find("solvers", name)
    settings = entry.read()
    solver = settings.pop("solver", None)
    if not isinstance(solver, str):
        raise InputError(f'{entry.path} does not say which solver it is a preset of; add for example solver = "admm"')
    with _in_file(entry.path):
        result: Solver = build("solvers", solver, {**settings, **(changes or {})})
    return result


def has_prior(name: str) -> bool:
    return name in entries("priors")


def load_prior(name: str, changes: Mapping[str, Any] | None = None) -> Prior:
    """A trained prior: ``card.toml`` names the kind of prior, its settings and its network, whose weights lie beside it.

    A card reads::

        # DnCNN, trained on natural images for noise of standard deviation 25/255.
        prior = "denoiser"
        sigma = 0.098
        [network]
        name = "dncnn"
        in_channels = 1
        out_channels = 1
        weights = "weights.safetensors"

    Args:
        name: a folder of the shelf ``priors``.
        changes: settings that replace those of the card.
    """
    from invtoolbox.registry import build

    entry = find("priors", name)
    settings = entry.read()
    kind = settings.pop("prior", None)
    if not isinstance(kind, str):
        raise InputError(f'{entry.path} does not say which prior it describes; add for example prior = "denoiser"')
    settings.update(changes or {})
    with _in_file(entry.path):
        if isinstance(settings.get("network"), dict):
            settings["network"] = build_network(settings["network"], entry.path.parent)
        result: Prior = build("priors", kind, settings)
    return result


def build_network(table: Mapping[str, Any], folder: Path) -> nn.Module:
    """The network that a table describes: its name, what its class takes, and its file of weights.

    Args:
        table: ``name`` out of `NETWORKS`, ``weights`` (a safetensors file, relative to ``folder``) or none for random
            ones, and the arguments of the class.
        folder: where the weights lie.
    """
    import inspect

    arguments = dict(table)
    name, weights = arguments.pop("name", None), arguments.pop("weights", None)
    if not isinstance(name, str):
        raise InputError(f"the network has no name; it is one of {', '.join(NETWORKS)}")
    if name not in NETWORKS:
        raise unknown_name("network", name, NETWORKS)
    module, attribute = NETWORKS[name].split(":")
    cls = getattr(importlib.import_module(module), attribute)
    taken = inspect.signature(cls).parameters
    for key in arguments:
        if key not in taken:
            raise InputError(f"the network {name!r} has no setting {key!r}; it has {', '.join(taken)}")
    if "pretrained" in taken:
        arguments["pretrained"] = None  # its own default would download
    network: nn.Module = cls(**arguments)
    if weights is not None:
        load_weights(network, folder / str(weights))
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network.eval()


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill a network from a safetensors file; every weight must be there and have its shape."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputError(f"there are no weights at {path}; fetch or train them first")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error})") from error
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise InputError(f"the weights of {path} do not fit the network {type(network).__name__}: {first}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; where it is not one, the error names file and line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error


@contextmanager
def _in_file(path: Path) -> Iterator[None]:
    """Errors raised inside begin with the name of the file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _summary(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline().strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return first.lstrip("# ").strip() if first.startswith("#") else ""
