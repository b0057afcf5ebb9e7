"""Reader of Argoverse 2 sensor logs: sweeps, poses, boxes and flow labels from feather tables.

It needs only pyarrow.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice
from invtoolbox.datasets.pose_files import from_quaternion
from invtoolbox.datasets.sweeps.columns import read_feather
from invtoolbox.datasets.sweeps.sweep_files import (
    SweepFiles,
    files_in_order,
    number_of,
    require_folder,
    to_int64,
)
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import (
    Boxes,
    FlowLabels,
    Sweep,
    box_of_points,
    flow_from_boxes,
    number_of_track,
)

#: Words for the numbers of ``classes``: 0 for none, then the categories of the data set in
#: alphabetical order.
CATEGORIES = (
    "NONE",
    "ANIMAL",
    "ARTICULATED_BUS",
    "BICYCLE",
    "BICYCLIST",
    "BOLLARD",
    "BOX_TRUCK",
    "BUS",
    "CONSTRUCTION_BARREL",
    "CONSTRUCTION_CONE",
    "DOG",
    "LARGE_VEHICLE",
    "MESSAGE_BOARD_TRAILER",
    "MOBILE_PEDESTRIAN_CROSSING_SIGN",
    "MOTORCYCLE",
    "MOTORCYCLIST",
    "OFFICIAL_SIGNALER",
    "PEDESTRIAN",
    "RAILED_VEHICLE",
    "REGULAR_VEHICLE",
    "SCHOOL_BUS",
    "SIGN",
    "STOP_SIGN",
    "STROLLER",
    "TRAFFIC_LIGHT_TRAILER",
    "TRUCK",
    "TRUCK_CAB",
    "VEHICULAR_TRAILER",
    "WHEELCHAIR",
    "WHEELED_DEVICE",
    "WHEELED_RIDER",
)

_QUATERNION = ("qw", "qx", "qy", "qz")
_TRANSLATION = ("tx_m", "ty_m", "tz_m")
_FLOW = ("flow_tx_m", "flow_ty_m", "flow_tz_m")
_SIZE = ("length_m", "width_m", "height_m")


class Argoverse2(SweepFiles):
    """Lidar sweeps of an Argoverse 2 sensor log.

    Points are in the ego vehicle's frame at the timestamp of the sweep, with the vehicle's motion
    within the sweep removed (`deskewed`). The time of a point counts from that timestamp. Two
    lidars of 32 beams rotate half a turn apart; `ring` is ``laser_number``, 0 to 63. Poses come
    from ``city_SE3_egovehicle.feather`` at exactly the timestamp, boxes from
    ``annotations.feather``.

    Args:
        path: path of the log's folder, which holds ``sensors/lidar``, or of a folder that holds
            exactly one log.
        labels: source of the flow labels. "file" reads the flow of the first sweep from
            ``flow_labels.feather``, if it exists (its flow includes the ego motion). "boxes"
            computes the flow of every sweep except the last from the boxes (`flow_from_boxes`).
            "none" reads no labels.
        expansion: expansion of the boxes, for labels "boxes".

    Raises:
        InputError: for a folder that is not a log. When a sweep is read: for a damaged table, a
            missing column, or a missing pose; the error names the file.
        MissingDependency: if pyarrow is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        labels: Literal["file", "boxes", "none"] = "file",
        expansion: float | Literal["speed"] = 0.2,
    ) -> None:
        self.log = find_log(require_folder(path, "an Argoverse 2 log"))
        scans = self.log / "sensors" / "lidar"
        super().__init__(files_in_order(scans, (".feather",), "an Argoverse 2 log", numbered=True))
        check_choice(self, ("file", "boxes", "none"), labels=labels)
        self.labels, self.expansion = labels, expansion
        self.poses = _read_poses(self.log / "city_SE3_egovehicle.feather")
        self.annotations = _Annotations(self.log / "annotations.feather")

    def _read(self, index: int) -> Sweep:
        sweep = self._without_labels(index)
        labels = None
        if self.labels == "boxes" and sweep.boxes is not None and index + 1 < len(self):
            following = self._without_labels(index + 1)
            if following.boxes is not None:
                labels = flow_from_boxes(sweep, following, self.expansion, CATEGORIES)
        elif self.labels == "file" and index == 0 and (self.log / "flow_labels.feather").is_file():
            boxes = self.annotations.at(number_of(self.files[1])) if len(self) > 1 else None
            labels = _read_labels(self.log / "flow_labels.feather", sweep, boxes)
        return sweep if labels is None else Sweep(**{**vars(sweep), "labels": labels})

    def _without_labels(self, index: int) -> Sweep:
        file = self.files[index]
        table = read_feather(file, tuple("xyz"), ("intensity", "laser_number", "offset_ns"))
        stamp = number_of(file)
        if self.poses is not None and stamp not in self.poses:
            raise InputError(
                f"{self.log / 'city_SE3_egovehicle.feather'}: no pose at the time {stamp} of the "
                f"sweep {file.name}; fetch the file again"
            )
        time, intensity = (
            torch.from_numpy((table[name] / unit).astype(np.float32)) if name in table else None
            for name, unit in (("offset_ns", 1e9), ("intensity", 1))
        )
        return Sweep(
            torch.from_numpy(_stack(table, tuple("xyz")).astype(np.float32)),
            stamp / 1e9,
            time=time,
            intensity=intensity,
            ring=to_int64(table["laser_number"]) if "laser_number" in table else None,
            pose=None if self.poses is None else self.poses[stamp],
            deskewed=True,
            boxes=self.annotations.at(stamp),
            source=str(file),
            meta={"reader": "argoverse2", "log": self.log.name, "timestamp_ns": stamp},
        )


def find_log(path: Path) -> Path:
    """Return a folder if it is a log, or else the only log that it holds."""
    if (path / "sensors" / "lidar").is_dir():
        return path
    logs = [folder for folder in sorted(path.iterdir()) if (folder / "sensors" / "lidar").is_dir()]
    if len(logs) != 1:
        names = ", ".join(log.name for log in logs[:3])
        raise InputError(
            f"{path}: an Argoverse 2 log is a folder with sensors/lidar in it, but this folder "
            f"holds {len(logs)} logs{names and f' ({names}, ...)'}; give one log"
        )
    return logs[0]


def _stack(table: dict[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    return np.stack([table[name] for name in names], axis=1)


def _read_poses(path: Path) -> dict[int, Tensor] | None:
    """Read the ego vehicle's poses in the city by nanoseconds; None for a log without the file."""
    if not path.exists():
        return None
    table = read_feather(path, ("timestamp_ns", *_QUATERNION, *_TRANSLATION))
    matrices = from_quaternion(_stack(table, _TRANSLATION), _stack(table, _QUATERNION), str(path))
    return dict(zip(table["timestamp_ns"].tolist(), matrices))


class _Annotations:
    """Boxes of a log, in the ego vehicle's frame at the time of each sweep."""

    def __init__(self, path: Path) -> None:
        self.rows: dict[int, np.ndarray] = {}
        if not path.exists():
            return
        numbers = ("timestamp_ns", *_SIZE, *_QUATERNION, *_TRANSLATION)
        table = read_feather(path, numbers, words=("track_uuid", "category"))
        self.track, self.category = table["track_uuid"], table["category"]
        self.size = torch.from_numpy(_stack(table, _SIZE).astype(np.float64))
        if not bool((self.size.isfinite() & (self.size >= 0)).all()):
            raise InputError(
                f"{path}: the size of a box is negative or not finite; fetch the file again"
            )
        self.pose = from_quaternion(
            _stack(table, _TRANSLATION), _stack(table, _QUATERNION), str(path)
        )
        stamps, first = np.unique(table["timestamp_ns"], return_inverse=True)
        order = np.argsort(first, kind="stable")
        self.rows = dict(zip(stamps.tolist(), np.split(order, np.cumsum(np.bincount(first))[:-1])))

    def at(self, stamp: int) -> Boxes | None:
        if stamp not in self.rows:
            return None
        rows = self.rows[stamp]
        return Boxes(
            self.pose[rows],
            self.size[rows],
            tuple(str(word) for word in self.track[rows]),
            tuple(str(word) for word in self.category[rows]),
        )


def _read_labels(path: Path, sweep: Sweep, following: Boxes | None) -> FlowLabels:
    """Read the table of labels.

    The boxes determine the object of each point, and whether the next sweep contains this object.
    """
    table = read_feather(path, (*_FLOW, "classes", "dynamic"), ("is_ground_0",))
    if len(table["classes"]) != len(sweep):
        raise InputError(
            f"{path}: {len(table['classes']):,} labels for {len(sweep):,} points of "
            f"{sweep.source}; give the labels of this sweep"
        )
    flow = torch.from_numpy(_stack(table, _FLOW).astype(np.float32))
    category = to_int64(table["classes"])
    if len(category) and not 0 <= int(category.min()) <= int(category.max()) < len(CATEGORIES):
        raise InputError(
            f"{path}: a class is numbered {int(category.max())}, but there are {len(CATEGORIES)} "
            "classes; fetch the file again"
        )
    valid = flow.isfinite().all(1)
    instance = None
    if sweep.boxes is not None:
        # The labels were made with boxes of this expansion.
        owner = box_of_points(
            sweep.points.double(), sweep.boxes, sweep.boxes.size + torch.tensor([0.2, 0.2, 0.0])
        )
        tracks = torch.tensor([number_of_track(track) for track in sweep.boxes.track] + [-1])
        instance = tracks[owner]
        if following is not None:
            gone = torch.tensor(
                [track not in following.track for track in sweep.boxes.track] + [False]
            )
            valid &= ~gone[owner]
    ground = torch.from_numpy(table["is_ground_0"].astype(bool)) if "is_ground_0" in table else None
    return FlowLabels(
        flow,
        valid,
        dynamic=torch.from_numpy(table["dynamic"].astype(bool)),
        category=category,
        categories=CATEGORIES,
        ground=ground,
        instance=instance,
    )
