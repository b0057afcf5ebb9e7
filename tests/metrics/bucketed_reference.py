"""The seeded sweeps on which our bucketed and three-way errors are compared with the package bucketed-scene-flow-eval, and its figures.

``PYTHONPATH=FOLDER python -m tests.metrics.bucketed_reference`` writes ``bucketed_golden.json``,
where FOLDER is what ``pip install --no-deps --target FOLDER bucketed-scene-flow-eval==2.0.25``
made. What that package imports only to draw and to load is replaced by empty modules where it is
missing; the computation of the errors needs none of it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

GOLDEN = Path(__file__).with_name("bucketed_golden.json")
_DRAWING = (
    "open3d",
    "cv2",
    "pandas",
    "tqdm",
    "joblib",
    "nntime",
    "pyquaternion",
    "nuscenes",
    "av2",
    "PIL",
    "scipy",
    "matplotlib",
)


class Frame(NamedTuple):
    """One sweep: float32 (N, 3) points, flow and truth without ego motion; int8 categories of Argoverse 2; which truths are known."""

    points: np.ndarray
    flow: np.ndarray
    truth: np.ndarray
    category: np.ndarray
    valid: np.ndarray


def frames(count: int = 3, points: int = 4000) -> list[Frame]:
    """Sweeps with every category, speeds of all buckets and points on both sides of 35 m; the second one has no pedestrian."""
    random = np.random.default_rng(7)
    made = []
    for k in range(count):
        where = random.uniform(-45, 45, (points, 3)).astype(np.float32)
        category = random.integers(-1, 30, points).astype(np.int8)
        if k == 1:
            category[np.isin(category, (15, 16, 22, 27))] = -1
        direction = random.normal(size=(points, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        speed = random.uniform(0, 2.6, points) * (random.random(points) < 0.6)
        truth = (direction * speed[:, None]).astype(np.float32)
        flow = (
            truth * random.uniform(0.5, 1.3, (points, 1))
            + random.normal(scale=0.05, size=(points, 3))
        ).astype(np.float32)
        made.append(Frame(where, flow, truth, category, random.random(points) < 0.9))
    return made


def reference_figures() -> dict[str, Any]:
    """What the package computes: static and dynamic errors of each meta-class, bucketed and three-way."""
    from bucketed_scene_flow_eval.datasets.argoverse2.argoverse_scene_flow import CATEGORY_MAP
    from bucketed_scene_flow_eval.datasets.argoverse2.av2_metacategories import (
        BUCKETED_METACATAGORIES,
        THREEWAY_EPE_METACATAGORIES,
    )
    from bucketed_scene_flow_eval.datastructures import (
        EgoLidarFlow,
        PointCloud,
        PoseInfo,
        RGBFrameLookup,
    )
    from bucketed_scene_flow_eval.datastructures.dataclasses import (
        SupervisedPointCloudFrame,
        TimeSyncedSceneFlowFrame,
    )
    from bucketed_scene_flow_eval.eval import BucketedEPEEvaluator, ThreeWayEPEEvaluator

    with tempfile.TemporaryDirectory() as folder:
        judges = {
            "bucketed": BucketedEPEEvaluator(
                CATEGORY_MAP, meta_class_lookup=BUCKETED_METACATAGORIES, output_path=Path(folder)
            ),
            "three_way": ThreeWayEPEEvaluator(
                CATEGORY_MAP, THREEWAY_EPE_METACATAGORIES, output_path=Path(folder)
            ),
        }
        found = {}
        for name, judge in judges.items():
            for k, f in enumerate(frames()):
                cloud = SupervisedPointCloudFrame(
                    full_pc=PointCloud(f.points),
                    pose=PoseInfo.identity(),
                    mask=np.ones(len(f.points), dtype=bool),
                    full_pc_classes=f.category,
                )
                true = TimeSyncedSceneFlowFrame(
                    pc=cloud,
                    auxillary_pc=None,
                    rgbs=RGBFrameLookup.empty(),
                    log_id="seeded",
                    log_idx=k,
                    log_timestamp=k,
                    flow=EgoLidarFlow(f.truth, f.valid),
                )
                judge.eval(EgoLidarFlow(f.flow, np.ones(len(f.points), dtype=bool)), true)
            found[name] = {
                k: [float(v) for v in values]
                for k, values in judge.compute_results(save_results=False).items()
            }
    return found


def categories() -> list[str]:
    """The words of Argoverse 2, in the order of the numbers above."""
    return [
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
    ]


class _Anything(type):
    """A class whose attributes are such classes: enough for annotations and base classes."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _Empty(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _EmptyModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for packages that are missing."""

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        return (
            importlib.machinery.ModuleSpec(name, self, is_package=True)
            if name.split(".")[0] in _DRAWING
            else None
        )

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def main() -> None:
    sys.meta_path.append(_EmptyModules())  # last, so that what is installed is used
    from importlib.metadata import version

    about = (
        f"bucketed-scene-flow-eval {version('bucketed-scene-flow-eval')} on the seeded sweeps of "
        "tests/metrics/bucketed_reference.py, run as `python -m tests.metrics.bucketed_reference`; "
        "[static, dynamic] of each class within 35 m"
    )
    GOLDEN.write_text(
        json.dumps({"about": about, **reference_figures()}, indent=1) + "\n", encoding="utf-8"
    )
    print(GOLDEN.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
