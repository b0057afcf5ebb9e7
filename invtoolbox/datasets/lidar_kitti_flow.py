"""Scene flow pairs as NumPy archives: two clouds and the flow of the first, as the KITTI scene flow set is handed around."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from invtoolbox.datasets.files import decoding, require_file
from invtoolbox.datasets.measurement import checked_index
from invtoolbox.datasets.point_files import member, require_measurements
from invtoolbox.datasets.sweep_files import files_in_order, require_folder
from invtoolbox.errors import InputError
from invtoolbox.scenes.sweep import FlowLabels, Sweep

#: Names under which archives hold the first cloud, the second, and the flow.
FIRST, SECOND, FLOW = (
    ("pc1", "pos1", "pc0"),
    ("pc2", "pos2", "pc1"),
    ("flow", "gt", "gt_flow", "sf", "gt_flow_0_1"),
)


class KittiSceneFlow:
    """Pairs of clouds with their flow: a folder of `.npz` files, or one such file; each file is a pair of its own.

    ``data.pair(k)`` gives the two sweeps, the first with its labels; ``data[k]`` is that first one. The flow includes the
    sensor's own motion. The set does not say who moves: no point is labelled dynamic, and the category is -1.

    Args:
        frame: "camera", as the set is handed around (Liu et al. 2019: x left, y up, z forward), turned here to x forward, y left,
            z up; or "lidar", which leaves the axes as they are.

    Raises:
        InputError: for a folder without `.npz` files; when a pair is read, for a damaged one, and for arrays that are missing or
            of other shapes.
    """

    def __init__(
        self, path: str | os.PathLike[str], frame: Literal["camera", "lidar"] = "camera"
    ) -> None:
        path = Path(path).expanduser()
        self.files = (
            [require_file(path)]
            if path.is_file()
            else files_in_order(require_folder(path, "pairs"), (".npz",), "pairs")
        )
        if frame not in ("camera", "lidar"):
            raise InputError(f"frame must be 'camera' or 'lidar', got {frame!r}")
        self.frame = frame
        self.names = [file.stem for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sweep:
        return self.pair(index)[0]

    def pair(self, index: int) -> tuple[Sweep, Sweep]:
        """The first sweep with its flow labels, and the second; 0.1 s apart."""
        file = require_file(self.files[checked_index(index, len(self))])
        with decoding(file, "scene flow"), np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{file}: not a .npz archive; save the pair again")
            names = _names(file, archive.files)
            first, second, flow = (
                self._turned(file, name, member(file, archive, name)) for name in names
            )
        if len(flow) != len(first):
            raise InputError(
                f"{file}: {len(flow):,} flows for {len(first):,} points of {names[0]}; save one a point"
            )
        for cloud in (first, second):
            require_measurements(file, cloud)
        unknown = torch.full((len(first),), -1, dtype=torch.int64)
        labels = FlowLabels(
            flow, flow.isfinite().all(1), torch.zeros(len(first), dtype=torch.bool), unknown, ()
        )
        meta = {"reader": "kitti-scene-flow", "frame": self.frame}
        return (
            Sweep(first, 0.0, labels=labels, source=f"{file} ({names[0]})", meta=meta),
            Sweep(second, 0.1, source=f"{file} ({names[1]})", meta=meta),
        )

    def _turned(self, file: Path, name: str, array: np.ndarray) -> torch.Tensor:
        if array.ndim != 2 or array.shape[1] != 3:
            raise InputError(f"{file}: {name} has the shape {array.shape}; expected (N, 3)")
        turned = array[:, [2, 0, 1]] if self.frame == "camera" else array
        return torch.from_numpy(np.ascontiguousarray(turned, dtype=np.float32))


def _names(file: Path, there: Sequence[str]) -> tuple[str, str, str]:
    first = next((name for name in FIRST if name in there), None)
    # "pc1" is the second cloud where there is a "pc0".
    second = next((name for name in SECOND if name in there and name != first), None)
    if first == "pc1" and "pc0" in there:
        first, second = "pc0", "pc1"
    flow = next((name for name in FLOW if name in there), None)
    if first is None or second is None or flow is None:
        raise InputError(
            f"{file}: a pair needs two clouds ({', '.join(FIRST[:2])}; {', '.join(SECOND[:2])}) and the flow "
            f"({', '.join(FLOW[:3])}); there is {', '.join(there) or 'nothing'}"
        )
    return first, second, flow
