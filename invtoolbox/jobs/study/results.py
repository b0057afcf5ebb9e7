"""Result files of a study: whole or not counted, and the same bytes for the same result.

A `ResultFormat` defines the content of the files; the format of images is `Hdf5Results`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from invtoolbox.core.checks import decoding, require_file
from invtoolbox.core.pytrees import tree_leaves
from invtoolbox.datasets.output import write_hdf5
from invtoolbox.datasets.volumes.hdf5 import open_hdf5
from invtoolbox.errors import InputError
from invtoolbox.solution import Solution

_FORMAT = "invtoolbox result 1"


@dataclass(frozen=True)
class Answer:
    """Result of one item.

    Arrays and facts depend on the item alone; times and names of machines are in the log, so that
    result files can be compared.

    Attributes:
        arrays: arrays by name; one of them is ``x``.
        facts: plain values that JSON can hold.
    """

    arrays: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


class ResultFormat(Protocol):
    """Format of result files, one file per item.

    The facts of an item can be read without computing it again. A format is sent to the workers, so
    it holds plain values. Its files must depend on the item alone: the same result gives the same
    bytes.

    Attributes:
        suffix: suffix of the file's name, with the dot.
    """

    @property
    def suffix(self) -> str: ...

    def write(self, path: Path, result: Any, name: str, fingerprint: str) -> Mapping[str, Any]:
        """Write a result atomically over an earlier file.

        Returns the facts that `facts` reads.
        """

    def facts(self, path: Path, fingerprint: str) -> Mapping[str, Any]:
        """Return the facts of a file.

        Raises an `InputError` if it is missing or not whole, or of another study or item.
        """

    def read(self, path: Path) -> Any:
        """Return the content of a file; an `InputError` if it is not whole."""


@dataclass(frozen=True)
class Hdf5Results:
    """Solutions, images and `Answer`s as HDF5 files.

    >>> Hdf5Results().suffix
    '.h5'
    """

    suffix: str = ".h5"

    def write(self, path: Path, result: Any, name: str, fingerprint: str) -> Mapping[str, Any]:
        answer = answer_of(result)
        write_result(path, answer, name, fingerprint)
        return answer.facts

    def facts(self, path: Path, fingerprint: str) -> Mapping[str, Any]:
        return read_result(path, fingerprint).facts

    def read(self, path: Path) -> Answer:
        return read_result(path)


def answer_of(result: Solution | Tensor | np.ndarray | Answer) -> Answer:
    """Convert the result of the work, a solution, an image or an answer, to an answer."""
    if isinstance(result, Answer):
        return result
    if isinstance(result, Solution):
        arrays = (
            {"x": result.x}
            if isinstance(result.x, Tensor)
            else {f"x.{k}": v for k, v in tree_leaves(result.x)}
        )
        return Answer(
            {**arrays, "iterations": result.iterations, "regularization": result.regularization},
            {"status": list(result.status), "solver": result.solver, "prior": result.prior},
        )
    if isinstance(result, (Tensor, np.ndarray)):
        return Answer({"x": result})
    raise InputError(
        f"the work gave a {type(result).__name__}; a Solution, an image or an Answer is expected"
    )


def write_result(path: Path, answer: Answer, name: str, fingerprint: str) -> None:
    """Write a result file; the same answer gives the same bytes.

    Args:
        path: the file.
        answer: the result.
        name: name of the item.
        fingerprint: fingerprint of the study.
    """
    arrays = {
        key: value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        for key, value in answer.arrays.items()
    }
    facts = json.dumps(answer.facts, sort_keys=True)
    attributes = {
        "format": _FORMAT,
        "item": name,
        "study": fingerprint,
        "facts": facts,
        "sha256": _digest(arrays, facts),
    }
    write_hdf5(path, arrays, attributes, overwrite=True)


def read_result(path: str | Path, fingerprint: str | None = None) -> Answer:
    """Read a result file.

    Args:
        path: the file.
        fingerprint: fingerprint of the study; None to accept any study.

    Raises:
        InputError: the file is missing or not whole, or belongs to another study or item.
    """
    path = require_file(path)
    with decoding(path, "result"), open_hdf5(path) as file:
        if file.attrs.get("format") != _FORMAT:
            raise InputError(f"{path}: not a result file of a study")
        arrays = {key: np.asarray(node[()]) for key, node in file.items()}
        facts, study, digest, item = (
            str(file.attrs[key]) for key in ("facts", "study", "sha256", "item")
        )
    if digest != _digest(arrays, facts):
        raise InputError(f"{path}: damaged, its checksum is wrong; compute it again")
    if fingerprint is not None and (study != fingerprint or item != path.stem):
        raise InputError(f"{path}: a result of another study, or of another item")
    return Answer(arrays, json.loads(facts))


def _digest(arrays: Mapping[str, np.ndarray], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for key in sorted(arrays):
        digest.update(f"{key} {arrays[key].dtype.str} {arrays[key].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    return digest.hexdigest()
