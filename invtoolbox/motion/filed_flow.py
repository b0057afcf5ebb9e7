"""A sequence together with the files of its flow, as tracks and clouds take it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from invtoolbox.datasets.flow_files import read_flow
from invtoolbox.errors import InputError
from invtoolbox.motion.trajectories import FlowStep
from invtoolbox.scenes.sweep import Sweeps


@dataclass(frozen=True)
class FiledFlow:
    """Every sweep but the last with its flow, read from the sequence and from ``FOLDER/NAME.npz`` when it is asked for.

    Args:
        sweeps: the sequence that the flow was estimated on.
        folder: of the result files, as `write_flow` writes them.

    >>> from invtoolbox.scenes.lidar import simulated_street
    >>> len(FiledFlow(simulated_street(sweeps=3, points=2000), "results"))
    2
    """

    sweeps: Sweeps
    folder: str | os.PathLike[str]

    def __len__(self) -> int:
        return max(len(self.sweeps) - 1, 0)

    def __getitem__(self, index: int) -> FlowStep:
        """The step of a sweep.

        Raises:
            InputError: its flow is missing, damaged, or that of another sweep.
        """
        if not 0 <= index < len(self):
            raise IndexError(
                f"there are flows of {len(self)} sweeps, and number {index} is asked for"
            )
        path = Path(self.folder).expanduser() / f"{self.sweeps.names[index]}.npz"
        if not path.is_file():
            raise InputError(
                f"{path}: there is no flow of that sweep; estimate it first, or leave the sweeps behind it out"
            )
        found, sweep = read_flow(path), self.sweeps[index]
        if len(found) != len(sweep):
            raise InputError(
                f"{path}: the flow of {len(found):,} points, and {sweep.source} has {len(sweep):,}; it belongs to another"
            )
        return FlowStep.of(sweep.points, found, sweep.pose)
