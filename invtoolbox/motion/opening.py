"""How a sequence of sweeps is opened, in words that can travel: a path, a reader, and its options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invtoolbox.errors import InputError
from invtoolbox.scenes.sweep import Sweeps

#: The reader of files that describe a street, which is simulated; its options are those of `invtoolbox.scenes.simulated_street`.
STREET = "street"


@dataclass(frozen=True)
class SequencePath:
    """Where sweeps are and how they are read; every worker opens them anew by it.

    Attributes:
        path: a folder; or a file, such as the description of a street.
        reader: its name; chosen by what the path holds where None.
        options: of the reader.
    """

    path: Path
    reader: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str | Path, reader: str | None = None, options: Mapping[str, Any] | None = None
    ) -> SequencePath:
        """From a path, or the name of a data set of the catalogue.

        >>> len(SequencePath.of("street", options={"sweeps": 3, "points": 500}).open())
        3
        """
        from invtoolbox import catalogue, datasets
        from invtoolbox.datasets.lidar_opening import SWEEP_PATHS
        from invtoolbox.datasets.shelf import sweep_options

        path, wanted = Path(name).expanduser(), dict(options or {})
        if not path.exists():
            entry = catalogue.entries("datasets").get(str(name))
            if entry is None:
                raise InputError(
                    f"there is no folder or file {name}, and no data set of that name in the catalogue; `invtoolbox list "
                    "datasets` shows those"
                )
            settings = entry.read()
            reader = reader or settings["reader"]
            if reader == STREET:
                return cls(entry.path, reader, wanted)
            path, wanted = datasets.find_file(str(name)), {**sweep_options(str(name)), **wanted}
        elif path.suffix == ".toml" and reader is None:
            reader = STREET
        for key in SWEEP_PATHS:  # workers may stand in another folder
            if key in wanted and Path(str(wanted[key])).expanduser().exists():
                wanted[key] = str(Path(str(wanted[key])).expanduser().resolve())
        return cls(path.resolve(), reader, wanted)

    def open(self) -> Sweeps:
        """The sweeps; an `InputError` for an option that the reader does not have."""
        from invtoolbox.datasets import open_sweeps

        if self.reader == STREET:
            from invtoolbox.datasets.lidar_simulated import street_of_file

            return street_of_file(self.path, self.options)
        taken = [
            name
            for name in inspect.signature(open_sweeps).parameters
            if name not in ("path", "reader")
        ]
        for key in self.options:
            if key not in taken:
                raise InputError(
                    f"no reader of sweeps has an option {key!r}; there are {', '.join(taken)}"
                )
        return open_sweeps(self.path, self.reader, **self.options)

    def description(self) -> dict[str, Any]:
        """What tells two sequences apart, as plain values; the number of sweeps is not in it, so that a recording may grow."""
        if self.reader == STREET:
            from invtoolbox.datasets.lidar_simulated import street_settings

            return {
                "street": {
                    key: value
                    for key, value in street_settings(self.path, self.options).items()
                    if key != "sweeps"
                }
            }
        return {
            "path": str(self.path),
            "reader": self.reader,
            "options": dict(sorted(self.options.items())),
        }

    def refuse_within(self, place: str | Path) -> None:
        """Refuse a place for results within the recording, which is only read."""
        from invtoolbox.datasets.flow_files import refuse_source

        if self.reader != STREET:
            refuse_source(place, self.path)


def open_sequence(opening: SequencePath | Sweeps) -> Sweeps:
    """Sweeps that are open already, or opened by their path."""
    return opening.open() if isinstance(opening, SequencePath) else opening
