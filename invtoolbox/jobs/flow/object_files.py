"""Files of the moving objects of a sequence: labels, boxes, static maps, velocities, copies of scenes.

Programs for labelling and mapping read them: SemanticKITTI's labels, KITTI's tracks, PLY, PCD, LAZ,
and the scenes of OpenSceneFlow.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from invtoolbox.core.checks import decoding
from invtoolbox.datasets import FlowFile, OpenSceneFlow, read_flow, write_ply
from invtoolbox.datasets.output import make_folder, write_bytes, write_npy, writing
from invtoolbox.datasets.sweeps.pcd import write_pcd
from invtoolbox.datasets.sweeps.point_files import write_las
from invtoolbox.geometry.sweeps import Sweep, Sweeps
from invtoolbox.jobs.flow.accumulation import Accumulation, map_scores, static_pieces
from invtoolbox.jobs.flow.objects import TrackedObject, number_points
from invtoolbox.jobs.flow.trajectories import FlowStep
from invtoolbox.jobs.job import write_json

#: Classes of SemanticKITTI's moving object segmentation; 0 is no measurement.
STATIC, MOVING = 9, 251
#: A sweep with its number, its name and its flow.
Result = tuple[int, str, Sweep, FlowFile]


def write_labels(folder: Path, results: Iterator[Result], objects: Sequence[TrackedObject]) -> None:
    """Write which points of every sweep move, as ``NAME.label`` and ``NAME.npy``.

    A label of SemanticKITTI is a uint32 per point: the class (9 static, 251 moving, 0 no
    measurement) in the lower half, and the number of the object in the upper half. The array is
    boolean.

    Args:
        folder: folder of the files.
        results: sweeps with their flows.
        objects: the objects of the sequence.
    """
    make_folder(folder)
    for index, name, sweep, flow in results:
        number = number_points(index, sweep, flow, objects).numpy()
        moving = number > 0
        classes = np.where(moving, MOVING, np.where(flow.valid.numpy(), STATIC, 0))
        codes = classes.astype("<u4") | (number.astype("<u4") << 16)
        write_bytes(folder / f"{name}.label", codes.tobytes(), overwrite=True)
        write_npy(folder / f"{name}.npy", moving, overwrite=True)


def write_boxes(folder: Path, opened: Sweeps, objects: Sequence[TrackedObject]) -> None:
    """Write the boxes of the objects as ``tracks.json`` and in KITTI's format of tracks.

    The boxes of ``tracks.json`` are in the frame of the sensor at their sweep. ``kitti.txt`` has
    the axes of a camera at the sensor that looks to the front; the box in the picture is -1.

    Args:
        folder: folder of the files.
        opened: the sequence.
        objects: the objects of the sequence.
    """
    make_folder(folder)
    tracks, lines = [], []
    for tracked in objects:
        boxes = []
        length, width, height = tracked.size
        for one in [observation for observation in tracked.observations if len(observation.rows)]:
            x, y, z = one.centre.tolist()
            box = {"sweep": opened.names[one.sweep], "centre": [x, y, z], "heading": one.heading}
            boxes.append({**box, "velocity": one.velocity.tolist(), "points": len(one.rows)})
            # KITTI: x right, y down, z front; the place is the middle of the floor, and the angle
            # about y is 0 along x.
            turn = math.remainder(-one.heading - math.pi / 2, math.tau)
            view = math.remainder(turn - math.atan2(-y, x), math.tau)
            numbers = (height, width, length, -y, -(z - height / 2), x, turn)
            lines.append(
                (
                    one.sweep,
                    tracked.number,
                    f"{one.sweep} {tracked.number} {tracked.category.capitalize()} -1 -1 {view:.4f} "
                    f"-1 -1 -1 -1 {' '.join(f'{n:.4f}' for n in numbers)}",
                )
            )
        about = {"number": tracked.number, "category": tracked.category, "size": list(tracked.size)}
        tracks.append({**about, "boxes": boxes})
    content = {
        "format": "invtoolbox tracks 1",
        "units": "metres, radians, metres per second; x front, y left, z up, at the sensor of the "
        "sweep; size is length, width, height; velocities are those in the world",
        "tracks": tracks,
    }
    write_json(folder / "tracks.json", content)
    text = "".join(f"{line}\n" for _, _, line in sorted(lines))
    write_bytes(folder / "kitti.txt", text.encode(), overwrite=True)


@dataclass(frozen=True)
class _StaticSteps:
    """Sweeps with their flows, in which the points of objects count as moving."""

    opened: Sweeps
    folder: Path
    objects: Sequence[TrackedObject]

    def __len__(self) -> int:
        return max(len(self.opened) - 1, 0)

    def __getitem__(self, index: int) -> FlowStep:
        sweep, flow = self.opened[index], read_flow(self.folder / f"{self.opened.names[index]}.npz")
        number = number_points(index, sweep, flow, self.objects)
        step = FlowStep.of(sweep.points, flow, sweep.pose)
        return replace(step, dynamic=(number > 0) | flow.dynamic)


def write_map(path: Path, opened: Sweeps, folder: Path, objects: Sequence[TrackedObject]) -> None:
    """Write the points of all sweeps without those that move, in the frame of the first sweep.

    The first point in every cube of 5 cm is kept; ``sweep`` is the number of its sweep. ``score`` is
    the share of the sweeps that see the place of a point in which something is measured there: it is
    low for things that stood there for a while, and 1 if one sweep alone sees the place.

    Args:
        path: path that ends in ``.ply``, ``.pcd`` or ``.laz``.
        opened: the sequence.
        folder: folder of the flows.
        objects: the objects of the sequence.
    """
    steps = _StaticSteps(opened, folder, objects)
    pieces = list(static_pieces(steps, Accumulation()))
    points = np.concatenate([piece.points.numpy() for piece in pieces])
    sweep = np.concatenate([np.full(len(p.points), p.sweep, np.int32) for p in pieces])
    score = map_scores(torch.from_numpy(points), pieces, opened)
    writers: dict[str, Callable[..., Any]] = {
        ".ply": write_ply,
        ".pcd": write_pcd,
        ".laz": write_las,
    }
    write = writers[path.suffix]
    write(path, points, scalars={"sweep": sweep, "score": score}, overwrite=True)


def write_velocities(
    folder: Path, opened: Sweeps, results: Iterator[Result], objects: Sequence[TrackedObject]
) -> None:
    """Write every sweep as PLY with the velocity of each point in the world, and its object.

    Args:
        folder: folder of the files.
        opened: the sequence.
        results: sweeps with their flows.
        objects: the objects of the sequence.
    """
    make_folder(folder)
    for index, name, sweep, flow in results:
        number = number_points(index, sweep, flow, objects)
        # The residual flow has the directions of the next frame; R^T turns it into the directions
        # of this frame.
        turned = flow.residual.double() @ flow.ego_motion[:3, :3]
        speed = turned / (opened[index + 1].timestamp - sweep.timestamp or 1.0)
        scalars = {axis: speed[:, k].float().numpy() for k, axis in enumerate(("vx", "vy", "vz"))}
        scalars |= {"moving": (number > 0).byte().numpy(), "object": number.numpy()}
        write_ply(folder / f"{name}.ply", sweep.points.numpy(), scalars=scalars, overwrite=True)


def write_scene(
    folder: Path, scene: OpenSceneFlow, results: Iterator[Result], objects: Sequence[TrackedObject]
) -> None:
    """Write a copy of a scene of OpenSceneFlow with the flow and the objects.

    A group gets ``invtoolbox`` (the flow, as OpenSceneFlow saves the results of methods), ``label``
    (the number of the object of each point, 0 for static points), and ``flow_instance_id`` unless
    it has one. The user's file is only read.

    Args:
        folder: folder of the copy, which has the name of the scene.
        scene: the scene.
        results: sweeps with their flows.
        objects: the objects of the sequence.
    """
    with writing(folder / scene.file.name, overwrite=True) as stream:
        with scene.file.open("rb") as original:
            shutil.copyfileobj(original, stream)
        stream.flush()
        # The stream holds the lock of its hidden file.
        with (
            decoding(scene.file, "HDF5"),
            h5py.File(stream.name, "r+", locking=False) as file,
        ):
            for index, name, sweep, flow in results:
                number = number_points(index, sweep, flow, objects).numpy()
                arrays = {"invtoolbox": flow.flow.numpy(), "label": number.astype(np.uint16)}
                if "flow_instance_id" not in file[name]:
                    arrays["flow_instance_id"] = number
                for key, array in arrays.items():
                    if key in file[name]:
                        del file[name][key]
                    file[name][key] = array
