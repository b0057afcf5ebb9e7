"""The common parts of the benchmarks: options, data folder, state of the machine, wording of a verdict."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch

# Without INVTOOLBOX_DATA, benchmarks read the folder ../shared/data next to the repository.
os.environ.setdefault(
    "INVTOOLBOX_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data")
)


def data_folder() -> Path:
    """Return the folder of real measurements, ``INVTOOLBOX_DATA``."""
    folder = Path(os.environ["INVTOOLBOX_DATA"])
    if not folder.is_dir():
        raise SystemExit(
            f"no real measurements at {folder}; set INVTOOLBOX_DATA to the folder that holds them"
        )
    return folder


def machine() -> str:
    """Describe the run: date, processor, versions, threads, load, and the time of one ASTRA projection.

    The last figure makes seconds comparable.
    """
    from invtoolbox.core.environment import machine as describe

    return (
        f"{date.today()}, {describe()['processor']}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads, load average "
        f"{os.getloadavg()[0]:.2f}, {_astra()}"
    )


def run_script(main: Callable[..., None]) -> None:
    """Call the function `main` of a script with the options of the command line.

    The parameters of `main` are the options: names, types, defaults, and the help from the section
    ``Args`` of its docstring. A bool is a flag, ``--name`` or ``--no-name``; a parameter before ``/``
    has no dashes; ``Annotated[type, choices or function]`` restricts or reads a text; an underscore
    at the end of a name is no part of the option.
    """
    module = inspect.getmodule(main)
    parser = argparse.ArgumentParser(
        description=module and module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    helps = dict(re.findall(r"^ {4}(\w+): (.+)$", inspect.getdoc(main) or "", flags=re.MULTILINE))
    hints = get_type_hints(main, include_extras=True)
    for name, parameter in inspect.signature(main).parameters.items():
        option = name.rstrip("_").replace("_", "-")
        settings: dict[str, Any] = {"default": parameter.default, "help": helps.get(name)}
        if hints[name] is bool:
            settings["action"] = "store_false" if parameter.default else "store_true"
            option = f"no-{option}" if parameter.default else option
        else:
            settings |= _reading(hints[name])
        dashes = "-" if len(option) == 1 else "--"
        if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            parser.add_argument(dashes + option, dest=name, **settings)
        elif parameter.default is inspect.Parameter.empty:
            parser.add_argument(name, **(settings | {"default": None}))
        else:
            parser.add_argument(name, **({"nargs": "?"} | settings))
    arguments = vars(parser.parse_args())
    positional = [
        arguments.pop(name)
        for name, parameter in inspect.signature(main).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY
    ]
    main(*positional, **arguments)


def _reading(hint: Any) -> dict[str, Any]:
    """Return the settings of argparse that read a value of a type."""
    kind, types = get_origin(hint), [t for t in get_args(hint) if t is not NoneType]
    if kind is Annotated:
        rule = types[1]
        return {"type": rule} if callable(rule) else {**_reading(types[0]), "choices": tuple(rule)}
    if kind is Literal:
        return {"choices": types}
    if kind is Union or kind is UnionType:
        return _reading(types[0])
    if kind is Sequence:
        return {**_reading(types[0]), "nargs": "*"}
    if kind is tuple:
        return {**_reading(types[0]), "nargs": len(types)}
    return {"type": hint}


def verdict(holds: bool, bar: str) -> str:
    return f"[{'holds' if holds else 'FALLS SHORT'}: {bar}]"


def alternating(
    calls: dict[str, Callable[[], Any]],
    repeats: int = 7,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Measure the median seconds of each call; the calls take turns, after one warm-up of each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            began = clock()
            call()
            times[name].append(clock() - began)
    return {name: median(values) for name, values in times.items()}


class Kept:
    """Results of earlier calls of a script in a JSON file, from which a later call continues."""

    def __init__(self, path: Path, again: bool = False) -> None:
        self.path = path
        self.known: dict[str, Any] = (
            json.loads(path.read_text()) if path.exists() and not again else {}
        )

    def result(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self.known:
            self.known[key] = compute()
            print(f"    {key}: {self.known[key]}", flush=True)
            self.path.write_text(json.dumps(self.known, indent=1))
        return self.known[key]


def best_exponent(error: Callable[[float], float], start: float) -> float:
    """Search the e of the weight ``10 ** e`` with the least error.

    The search goes by powers of ten from a start, then by the root of ten to either side.
    """
    known: dict[float, float] = {}

    def at(exponent: float) -> float:
        if exponent not in known:
            known[exponent] = error(exponent)
        return known[exponent]

    while at(start + 1) < at(start):
        start += 1
    while at(start - 1) < at(start):
        start -= 1
    return min((start - 0.5, start, start + 0.5), key=at)


def kernels(folder: Path, numbers: Sequence[int]) -> list[torch.Tensor]:
    """Read Levin's blur kernels, counted from 1."""
    import h5py

    with h5py.File(folder / "kernels" / "Levin09.mat") as file:
        references = np.array(file["kernels"]).ravel()
        return [
            torch.from_numpy(np.array(file[references[n - 1]]).T.astype(np.float32))
            for n in numbers
        ]


def _astra() -> str:
    try:
        import astra
    except ImportError:
        return "astra-toolbox is not installed"
    volume = astra.create_vol_geom(256, 256)
    projector = astra.create_projector(
        "linear",
        astra.create_proj_geom("parallel", 1.0, 384, np.linspace(0, np.pi, 180, False)),
        volume,
    )
    image = np.ones((256, 256), dtype=np.float32)
    began = time.perf_counter()
    identifier, _ = astra.create_sino(image, projector)
    seconds = time.perf_counter() - began
    astra.data2d.delete(identifier)
    return (
        f"one ASTRA 256x256 forward projection (180 views, 384 bins, 1 thread) {1e3 * seconds:.0f} "
        "ms"
    )
