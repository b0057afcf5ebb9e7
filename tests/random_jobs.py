"""Random jobs of every kind that can be resumed, one input changed at a time; for the tests and benchmarks/resume.py.

A job is a flat dict of inputs and a function that does it in a folder, in part or to its end. `attempt`
stops a job, resumes it with one changed input and unchanged, and compares it with an undisturbed job.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.core.content import digest
from invtoolbox.datasets.output import make_folder
from invtoolbox.errors import InputError
from tests import random_parts, random_runs
from tests.training.interruption import BreakingPairs, Stopped

Inputs = dict[str, Any]


class Kind(NamedTuple):
    """A kind of jobs.

    Attributes:
        draw: inputs of a number.
        go: does a job in a folder, to its end or only its first part; returns what must be equal.
        names: inputs that can change.
        changed: inputs with one of them changed.
        anew: whether a job with changed inputs may do anew what they concern, instead of a refusal.
    """

    draw: Callable[[int], Inputs]
    go: Callable[[Inputs, Path, bool], Any]
    names: Callable[[Inputs], list[str]] = list
    changed: Callable[[Inputs, str, int], Inputs] = lambda run, name, number: {
        **run,
        name: _change(run[name], random.Random(number)),
    }
    anew: bool = False


def attempt(kind: str, number: int, place: Path, name: str | None = None) -> tuple[str, str]:
    """Return the input of a random job that was changed, and what is wrong, or ''."""
    job = KINDS[kind]
    run = job.draw(number)
    name = name or random.Random(number).choice(job.names(run))
    folder = place / "stopped"
    job.go(run, folder, False)
    before = _results(folder)
    other = job.changed(run, name, number)
    try:
        found = job.go(other, folder, True)
    except InputError as error:
        if "another" not in str(error) or "\n" in str(error):
            return name, f"refused by another sentence: {error}"
        if _results(folder) != before:
            return name, "refused, and the files were changed"
    else:
        if not job.anew:
            return name, "accepted after its change"
        if digest(found) != digest(job.go(other, place / "other", True)):
            return name, "a result of the earlier input was kept"
    resumed, undisturbed = job.go(run, folder, True), job.go(run, place / "whole", True)
    if digest(resumed) != digest(undisturbed):
        return name, "the resumed job differs from the undisturbed job"
    return name, ""


def _results(folder: Path) -> dict[str, Any]:
    """Return the content of the files of a job, except its data."""
    return {
        str(path.relative_to(folder)): _content(path)
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "data"
    }


def _content(path: Path) -> Any:
    if path.suffix not in (".safetensors", ".ckpt"):
        return path.read_bytes()
    with safe_open(path, framework="pt") as file:  # the order of its header is random
        return digest({"about": file.metadata(), **{k: file.get_tensor(k) for k in file.keys()}})  # noqa: SIM118


def _change(value: Any, draw: random.Random) -> Any:
    if isinstance(value, Tensor):
        other = value.clone()
        place = draw.randrange(other.numel())
        other.view(-1)[place] = 1.01 * other.view(-1)[place] + 1e-3
        return other
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return {"l1": "l2", "l2": "l1", "huber-tv": "tikhonov", "tikhonov": "huber-tv"}[value]
    return value + 1 if isinstance(value, int) else 1.01 * value


def _file(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write a data file with a date that depends on its content alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    moment = 10**18 + int(hashlib.sha256(path.read_bytes()).hexdigest()[:12], 16)
    os.utime(path, ns=(moment, moment))
    return path


def _noise(number: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(number)
    return lambda *shape: 0.1 + torch.rand(shape, generator=generator)


# -- single solves ---------------------------------------------------------------------------------


def _solve(run: Inputs, folder: Path, to_end: bool) -> Any:
    solution = random_runs.solve(run, 5 if to_end else 3, folder / "run.ckpt")
    return solution.x, solution.iterations, solution.regularization


def _solve_with_any_parts(run: Inputs, folder: Path, to_end: bool) -> Any:
    try:
        solution = random_parts.solve(run, 5, folder / "run.ckpt", None if to_end else 3)
    except random_parts.Stopped:
        return None
    return solution.x, solution.iterations, solution.regularization


# -- trainings -------------------------------------------------------------------------------------


def _draw_training(number: int) -> Inputs:
    draw, noise = random.Random(number), _noise(number)
    return {
        "first image": noise(1, 1, 12, 12),
        "second image": noise(1, 1, 10, 14),
        "noise_std": draw.uniform(0.05, 0.1),
        "crop": draw.randrange(5, 8),
        "weights of the network": noise(4, 1, 3, 3) / 9,
        "slope of the network": draw.uniform(0.05, 0.2),
        "first loss": draw.choice(["l1", "l2"]),
        "gamma": draw.uniform(1.0, 2.0),
        "first rate": draw.uniform(1e-3, 1e-2),
        "second rate": draw.uniform(1e-3, 1e-2),
        "first count": draw.randrange(3, 6),
        "second count": draw.randrange(3, 6),
        "clip": draw.uniform(0.5, 1.0),
        "validation image": noise(1, 1, 12, 12),
        "seed": draw.randrange(99),
    }


def _train(run: Inputs, folder: Path, to_end: bool) -> Any:
    from invtoolbox.training import L1, L2, NoisyPairs, ProximalMatching, Stage, train

    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.LeakyReLU(run["slope of the network"]),
        nn.Conv2d(4, 1, 1, bias=False),
    )
    network[0].weight.data = run["weights of the network"].clone()
    network[2].weight.data.fill_(0.3)
    first = {"l1": L1(), "l2": L2()}[run["first loss"]]
    stages = [
        Stage(first, 4, run["first rate"], run["first count"], clip=run["clip"]),
        Stage(ProximalMatching(run["gamma"]), 6, run["second rate"], run["second count"]),
    ]
    images = [run["first image"], run["second image"]]
    pairs: Any = NoisyPairs(images, run["noise_std"], run["crop"])
    try:
        trained = train(
            network,
            pairs if to_end else BreakingPairs(pairs, 8),
            stages,
            validation=NoisyPairs([run["validation image"]], run["noise_std"], run["crop"]),
            validate_every=2,
            seed=run["seed"],
            folder=folder,
            write_every=0.0,
            progress=False,
        )
    except Stopped:
        return None
    return dict(trained.network.state_dict()), trained.losses, trained.validation


# -- scenes from photographs -----------------------------------------------------------------------


@cache
def _photographs() -> Any:
    from invtoolbox.datasets import PosedPictures
    from invtoolbox.operators import GaussianRenderer
    from tests.jobs.photographs.conftest import balls, cameras

    views = cameras(5, 10)
    seen = GaussianRenderer(views, ("color", "alpha"))(balls())[0].transpose(0, 1)
    return PosedPictures(views, seen[:, :3].contiguous(), seen[:, 3:].contiguous())


def _draw_views(number: int) -> Inputs:
    draw, pictures = random.Random(number), _photographs()
    return {
        "pictures": pictures.pictures.clone(),
        "alpha": pictures.alpha.clone(),
        "poses": pictures.cameras.world_to_camera.clone(),
        "focal lengths": pictures.cameras.intrinsics.clone(),
        "box": draw.uniform(0.9, 1.1),
        "resolution": draw.randrange(5, 8),
        "first resolution": draw.randrange(4, 5),
        "learning rate": draw.uniform(0.1, 0.2),
        "second decay": draw.uniform(0.01, 0.02),
        "subset": draw.randrange(50, 90),
        "weight of the variation": draw.uniform(1e-5, 1e-4),
        "weight of silhouettes": draw.uniform(0.1, 0.2),
        "seed": draw.randrange(99),
    }


def _reconstruct_views(run: Inputs, folder: Path, to_end: bool) -> Any:
    from dataclasses import replace

    from invtoolbox.jobs.photographs import Stage, VoxelModel, solve_in_stages, split_views
    from invtoolbox.priors import VoxelVariation

    given, box = _photographs(), run["box"]
    views = replace(
        given.cameras, world_to_camera=run["poses"].clone(), intrinsics=run["focal lengths"].clone()
    )
    pictures = replace(
        given, cameras=views, pictures=run["pictures"].clone(), alpha=run["alpha"].clone()
    )
    stages = [
        Stage(4, prior={"resolution": run["first resolution"]}),
        Stage(6 if to_end else 3, solver={"decay": run["second decay"]}),
    ]
    found = solve_in_stages(
        VoxelModel((-box,) * 3, (box,) * 3, 1.0, resolution=run["resolution"], alpha=0.1),
        split_views(pictures, 0),
        stages,
        it.solvers.Adam(learning_rate=run["learning rate"], subset_size=run["subset"]),
        run["weight of the variation"] * VoxelVariation("density"),
        seed=run["seed"],
        silhouettes=run["weight of silhouettes"],
        folder=make_folder(folder),
        progress=False,
    )
    return found.x.density, found.x.color, [r.iterations for r in found.reports]


# -- studies, sequences and scene files ------------------------------------------------------------


def _draw_study(number: int) -> Inputs:
    draw, noise = random.Random(number), _noise(number)
    return {
        "volume": noise(4, 5, 6),
        "gain": noise(1),
        "power": draw.uniform(1.0, 2.0),
        "setting": draw.randrange(9),
    }


def _map_slices(source: str) -> Callable[[Inputs, Path, bool], Any]:
    def go(run: Inputs, folder: Path, to_end: bool) -> Any:
        gain, power = run["gain"].clone(), run["power"]
        volume = run["volume"].numpy()
        data: Any
        if source == "file":
            data = _file(folder / "data" / "volume.npy", lambda path: np.save(path, volume))
        elif source == "folder":
            for k, one in enumerate(volume):
                _file(
                    folder / "data" / f"slice_{k}.tif",
                    lambda path, one=one: it.datasets.write(
                        path, torch.tensor(one), overwrite=True
                    ),
                )
            data = folder / "data"
        else:
            data = it.datasets.VolumeInMemory(run["volume"].clone()[None], it.datasets.Grid())
        study = it.map_slices(
            data,
            lambda item: gain * item.y.float() ** power,
            folder / "out",
            slices=None if to_end else range(2),
            settings={"setting": run["setting"]},
            resume=True,
            progress=False,
        )
        return [np.asarray(study[k].arrays["x"]) for k in range(len(study))]

    return go


def _draw_sequence(number: int) -> Inputs:
    draw, street = random.Random(number), it.simulation.street(sweeps=4, points=120, seed=number)
    return {
        **{f"sweep {k}": street[k].points.clone() for k in range(4)},
        **{f"position {k}": street[k].pose[:3, 3].clone() for k in range(4)},
        "seed": draw.randrange(99),
        "range": draw.uniform(40.0, 80.0),
        "gain": draw.uniform(0.5, 1.0),
    }


def _flow(run: Inputs, folder: Path, to_end: bool) -> Any:
    from invtoolbox.jobs.flow.preparation import Preparation
    from invtoolbox.jobs.flow.sequence import flow_sequence

    data, gain = make_folder(folder / "data"), run["gain"]
    for k in range(4):
        rows = torch.nn.functional.pad(run[f"sweep {k}"], (0, 1))
        rows.numpy().astype("<f4").tofile(data / f"00000{k}.bin")
    poses = np.stack([np.eye(3, 4).flatten() for _ in range(4)])
    poses[:, 3::4] = torch.stack([run[f"position {k}"] for k in range(4)])
    np.savetxt(data / "poses.txt", poses, fmt="%.17g")

    def estimate(source: Any, target: Any, method: Any, preparation: Any, seed: int) -> Any:
        no = torch.zeros(len(source), dtype=torch.bool)
        flow = gain * (target.points.mean(0) - source.points) + seed * preparation.max_range
        return SimpleNamespace(
            flow=flow + float(source.pose[0, 3]),
            ego_motion=source.pose,
            dynamic=no,
            ground=no,
            instance=torch.full((len(source),), -1),
            valid=~no,
            method="mean",
            notes=(),
        )

    study = flow_sequence(
        data,
        folder / "out",
        estimate=estimate,
        preparation=Preparation(max_range=run["range"]),
        items="all" if to_end else "0:2",
        seed=run["seed"],
        resume=True,
        progress=False,
    )
    return [study[k].flow for k in range(len(study))]


SCENE = """measurements.path = "data/y.npy"
operator = {{ name = "blur", kernel = {{ path = "data/kernel.npy" }} }}
data_term = {{ name = "least-squares", noise_std = {noise!r} }}
prior = {{ name = "{prior}" }}
solver = {{ name = "adam", tolerance = {tolerance!r} }}
regularization.weight = {weight!r}
seed = {seed}
output.formats = ["h5"]
"""


def _draw_scene(number: int) -> Inputs:
    draw, noise = random.Random(number), _noise(number)
    return {
        "y": noise(4, 8, 8),
        "kernel": noise(3, 3),
        "noise": draw.uniform(0.05, 0.1),
        "prior": draw.choice(["huber-tv", "tikhonov"]),
        "weight": draw.uniform(0.1, 1.0),
        "seed": draw.randrange(99),
    }


def _scene(finished: bool, items: bool) -> Callable[[Inputs, Path, bool], Any]:
    """A scene file: with a checkpoint, finished, or over the items of its data."""

    def go(run: Inputs, folder: Path, to_end: bool) -> Any:
        y = run["y"] if items else run["y"][:1]
        _file(folder / "data" / "y.npy", lambda path: np.save(path, y.numpy()))
        _file(folder / "data" / "kernel.npy", lambda path: np.save(path, run["kernel"].numpy()))
        text = SCENE.format(**run, tolerance=1e3 if finished else 1e-9)
        (folder / "data" / "scene.toml").write_text(text.replace("data/", ""))
        found = it.run(
            folder / "data" / "scene.toml",
            {"solver.max_iterations": 6 if to_end or items else 3},
            folder / "out",
            resume=True,
            progress=False,
            items=("all" if to_end else "0:2") if items else None,
        )
        if items:
            return [np.asarray(found[k].arrays["x"]) for k in range(len(found))]
        return found.x, found.iterations

    return go


def _draw_mesh(number: int) -> Inputs:
    draw = random.Random(number)
    x, y = torch.meshgrid(torch.arange(5.0), torch.arange(3.0), indexing="ij")
    return {
        "vertices": torch.stack([x.flatten(), y.flatten(), 0.1 * _noise(number)(15)], 1),
        "turn": draw.uniform(-40.0, 40.0),
        "weight": draw.uniform(0.5, 2.0),
    }


def _move_mesh(run: Inputs, folder: Path, to_end: bool) -> Any:
    i = (torch.arange(4)[:, None] * 3 + torch.arange(2)).flatten()[:, None]
    faces = torch.cat([i + torch.tensor([0, 3, 1]), i + torch.tensor([1, 3, 4])])
    np.savez(
        make_folder(folder / "data") / "mesh.npz",
        vertices=run["vertices"].numpy(),
        faces=faces.numpy(),
    )
    groups = torch.full((15,), -1)
    groups[:3], groups[12:] = 0, 1
    np.save(folder / "data" / "groups.npy", groups.numpy())
    (folder / "data" / "scene.toml").write_text(
        'mesh.path = "mesh.npz"\noutput.formats = ["h5"]\n'
        f'prior = {{ name = "arap", weight = {run["weight"]!r} }}\n'
        '[handles]\npath = "groups.npy"\n'
        f"[[handles.move]]\ngroup = 1\nturn = [0.0, {run['turn']!r}, 0.0]\n"
    )
    outcome = it.run(folder / "data" / "scene.toml", (), folder / "out", True, progress=False)
    return outcome.solution.x


KINDS: dict[str, Kind] = {
    "solve": Kind(
        random_runs.random_run,
        _solve,
        random_runs.inputs_of,
        random_runs.changed,
    ),
    "any parts": Kind(
        random_parts.draw,
        _solve_with_any_parts,
        random_parts.changeable,
        random_parts.changed,
    ),
    "training": Kind(_draw_training, _train),
    "photographs": Kind(_draw_views, _reconstruct_views),
    "study of a file": Kind(_draw_study, _map_slices("file")),
    "study of a folder": Kind(_draw_study, _map_slices("folder")),
    "study of a volume": Kind(_draw_study, _map_slices("memory")),
    "flow sequence": Kind(_draw_sequence, _flow, anew=True),
    "scene": Kind(_draw_scene, _scene(finished=False, items=False)),
    "finished scene": Kind(_draw_scene, _scene(finished=True, items=False)),
    "scene over items": Kind(_draw_scene, _scene(finished=False, items=True)),
    "mesh scene": Kind(_draw_mesh, _move_mesh),
}
