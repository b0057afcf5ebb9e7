"""How a study keeps the flow of its sweeps: as the files of `invtoolbox.datasets.flow_files`, which say whose results they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from invtoolbox.datasets.flow_files import Estimate, FlowFile, read_flow, write_flow
from invtoolbox.errors import InputError


@dataclass(frozen=True, eq=False)
class PairFlow:
    """What came of a pair of sweeps.

    Attributes:
        estimate: the flow, as `motion.estimate` gives it.
        points: of the first sweep, ``(N, 3)``.
        names: of both sweeps.
        facts: what JSON can hold, functions of the pair alone.
    """

    estimate: Estimate
    points: Tensor
    names: tuple[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FlowResults:
    """A `ResultFormat`: one ``.npz`` a sweep, read back as a `FlowFile`.

    >>> FlowResults().suffix
    '.npz'
    """

    suffix: str = ".npz"

    def write(self, path: Path, result: PairFlow, name: str, fingerprint: str) -> Mapping[str, Any]:
        about = {"item": name, "study": fingerprint, "facts": dict(result.facts)}
        write_flow(path, result.estimate, result.points, result.names, overwrite=True, about=about)
        return result.facts

    def facts(self, path: Path, fingerprint: str) -> Mapping[str, Any]:
        about = self.read(path).about  # the archive's checksums are compared as it is read
        if about.get("study") != fingerprint or about.get("item") != path.stem:
            raise InputError(f"{path}: a result of another study, or of another item")
        facts: Mapping[str, Any] = about["facts"]
        return facts

    def read(self, path: Path) -> FlowFile:
        return read_flow(path)
