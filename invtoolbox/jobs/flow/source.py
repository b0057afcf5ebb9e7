"""Source of a sequence of sweeps, which can be sent to a worker: a path, a reader, its options."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invtoolbox import datasets
from invtoolbox.catalogue import shelves
from invtoolbox.core.checks import missing_path
from invtoolbox.core.guards import check_choice
from invtoolbox.datasets.shelf import sweep_options
from invtoolbox.datasets.sweeps.flow_files import refuse_source
from invtoolbox.datasets.sweeps.opening import (
    SWEEP_PATHS,
    locate,
    street_of_file,
    street_settings,
)
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import Sweeps

#: Reader of files that describe a simulated street; its options are the arguments of
#: `invtoolbox.simulation.street`.
STREET = "street"


@dataclass(frozen=True)
class SequencePath:
    """Place of a sequence and the way to read it; every worker opens the sequence from it.

    Attributes:
        path: a folder; or a file, such as the description of a street.
        reader: name of the reader; None to choose it by the content of the path.
        options: options of the reader.
    """

    path: Path
    reader: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str | Path, reader: str | None = None, options: Mapping[str, Any] | None = None
    ) -> SequencePath:
        """Return the sequence of a path, or of the name of a data set of the catalogue.

        Args:
            name: path or name.
            reader: name of the reader, in place of the default reader.
            options: options of the reader, in addition to or in place of the catalogue's.

        Raises:
            InputError: there is neither a path nor a data set of that name.

        >>> len(SequencePath.of("street", options={"sweeps": 3, "points": 500}).open())
        3
        """
        path, settings = Path(name).expanduser(), dict(options or {})
        if not path.exists():
            entry = shelves.entries("datasets").get(str(name))
            if entry is None:
                raise InputError(missing_path(name, "data set", shelves.entries("datasets")))
            reader = reader or entry.read()["reader"]
            if reader == STREET:
                return cls(entry.path, reader, settings)
            path = datasets.find_file(str(name))
            # Options of the caller take precedence over options of the catalogue.
            settings = {**sweep_options(str(name)), **settings}
        elif reader is None:
            # Before the path is resolved: errors use the user's word.
            path, name_of_reader = locate(name)
            reader = STREET if name_of_reader == STREET else None
        for key in SWEEP_PATHS:  # the current directory of a worker may differ
            place = Path(str(settings.get(key, ""))).expanduser()
            if key in settings and place.exists():
                settings[key] = str(place.resolve())
        return cls(path.resolve(), reader, settings)

    def open(self) -> Sweeps:
        """Open the sweeps.

        Raises:
            InputError: no reader has an option of that name, or the sweeps cannot be opened.
        """
        if self.reader == STREET:
            return street_of_file(self.path, self.options)
        names = [
            name
            for name in inspect.signature(datasets.open_sweeps).parameters
            if name not in ("path", "reader")
        ]
        for key in self.options:
            check_choice("the readers of sweeps", names, option=key)
        return datasets.open_sweeps(self.path, self.reader, **self.options)

    def description(self) -> dict[str, Any]:
        """Return plain values that differ if two sequences differ.

        The number of sweeps is left out, so that a recording may grow.
        """
        if self.reader == STREET:
            settings = street_settings(self.path, self.options)
            return {"street": {key: value for key, value in settings.items() if key != "sweeps"}}
        return {
            "path": str(self.path),
            "reader": self.reader,
            "options": dict(sorted(self.options.items())),
        }

    def refuse_within(self, place: str | Path) -> None:
        """Refuse a place for results inside the recording, which is only read."""
        if self.reader != STREET:
            refuse_source(place, self.path)


def open_sequence(opening: SequencePath | Sweeps) -> Sweeps:
    """Return sweeps that are open already, or open them by their path."""
    return opening.open() if isinstance(opening, SequencePath) else opening


def describe(opening: SequencePath | Sweeps) -> Any:
    """Return plain values that differ if two sequences differ."""
    if isinstance(opening, SequencePath):
        return opening.description()
    description = {"sweeps": _without_address(opening)}
    with contextlib.suppress(InputError):  # the study reports the damaged sweep
        points = opening[0].points.cpu().contiguous().numpy()
        description["first"] = hashlib.sha256(points.tobytes()).hexdigest()[:16]
    return description


def plain(settings: Any) -> Any:
    """Return settings as values that JSON can hold, distinct for distinct settings."""
    # The class is named, because two classes may have the same fields.
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        fields = {f.name: plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
        return {"kind": type(settings).__name__, **fields}
    if isinstance(settings, Mapping):
        return {str(key): plain(value) for key, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [plain(value) for value in settings]
    if settings is None or isinstance(settings, (bool, int, float, str)):
        return settings
    return _without_address(settings)


def _without_address(setting: Any) -> str:
    # The default repr holds an address, which differs from run to run.
    words = repr(setting)
    if " at 0x" not in words:
        return words
    named = setting if hasattr(setting, "__qualname__") else type(setting)
    return f"{named.__module__}.{named.__qualname__}"
