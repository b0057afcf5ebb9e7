"""Kill ten kinds of jobs with SIGKILL at random moments; what they leave is resumed to the undisturbed result.

    python benchmarks/kills.py [--kills 20] [--only solve training study survey motion ...] [--seed 0]

A job is a process that runs until it is killed, and is started again until it ends. The moments are drawn
between the start of the work and its usual end, so that a job dies several times on its way. The study
runs on two Dask workers, and the whole process group is killed; of a study of the kind "worker" one Dask
worker dies, drawn by chance, and the study itself goes on. The scene files are those of a survey, of the
depths of a video, of an animation and of a moving object, by `it.run(resume=True)`.
After all kills the job runs to its end, and its result is compared, bit by bit, with the result of an
undisturbed job.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, run_script, verdict

import invtoolbox as it

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

#: A file that a job makes when its work begins: the imports are over.
BEGUN = "begun"


def slowly(progress: Any) -> None:
    """Let a step take longer, so that a job has moments enough to be killed at."""
    time.sleep(0.01)


def solve(folder: Path) -> Any:
    y = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    solution = it.solve(
        it.Problem(y, it.operators.Blur(torch.ones(3, 3) / 9, (32, 32))),
        it.priors.HuberTV(),
        it.solvers.Adam(tolerance=0.0),
        regularization=0.1,
        max_iterations=120,
        checkpoint=it.Checkpoint(folder / "run.ckpt", every=0.0),
        callbacks=[slowly],
        progress=False,
    )
    return solution.x, solution.history["objective"]


def training(folder: Path) -> Any:
    from invtoolbox.training import L1, L2, Crops, NoisyPairs, Stage, train

    class Slow(NoisyPairs):
        def draw(self, count: int, generator: torch.Generator) -> Any:
            time.sleep(0.01)
            return super().draw(count, generator)

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 1, 3, padding=1)
    )
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    pairs: Crops = Slow([image], 0.1, 8)
    trained = train(
        network,
        pairs,
        [Stage(L1(), 50, count=4), Stage(L2(), 50, count=4)],
        validation=NoisyPairs([image], 0.1, 8),
        validate_every=10,
        folder=folder,
        write_every=0.0,
        progress=False,
    )
    return dict(trained.network.state_dict()), trained.losses, trained.validation


def photographs(folder: Path) -> Any:
    from invtoolbox.jobs.photographs import GaussianModel, Stage, solve_in_stages, split_views
    from tests.random_jobs import _photographs

    model = GaussianModel((-1.0,) * 3, (1.0,) * 3, 1.0, count=60, most=90, degree=0, length=60)
    found = solve_in_stages(
        model,
        split_views(_photographs(), 0),
        [Stage(50), Stage(40, prior={"strategy": "none"})],
        it.solvers.Adam(subset_size=1, epsilon=1e-15),
        data_term=it.data_terms.Photometric(0.0),
        folder=folder,
        progress=False,
    )
    return vars(found.x)


def half(item: it.datasets.Measurement) -> torch.Tensor:
    time.sleep(0.15)
    return 0.5 * item.y


def study(folder: Path) -> Any:
    data = it.datasets.VolumeInMemory(torch.arange(360.0).view(1, 12, 5, 6), it.datasets.Grid())
    found = it.map_slices(
        data, half, folder / "out", workers=2, resume=True, progress=False, key="half"
    )
    assert not found.failed
    return {path.name: path.read_bytes() for path in (folder / "out").glob("*.h5")}


def flow(folder: Path) -> Any:
    from invtoolbox.jobs.flow.sequence import flow_sequence
    from invtoolbox.jobs.flow.source import SequencePath
    from tests.jobs.flow.recording import standing

    def estimate(*pair: Any) -> Any:
        time.sleep(0.1)
        return standing(*pair)

    street = SequencePath.of("street", options={"sweeps": 9, "points": 500})
    found = flow_sequence(street, folder / "out", estimate=estimate, resume=True, progress=False)
    assert not found.failed
    return {path.name: path.read_bytes() for path in (folder / "out").glob("*.npz")}


def scene(name: str, folder: Path, **changes: Any) -> Any:
    """Run a scene file slowly, and return the content of its files."""
    sync = os.fsync

    def slow_sync(stream: int) -> None:
        time.sleep(0.05)  # moments between the files of a result
        sync(stream)

    os.fsync = slow_sync
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    it.run(name, changes, folder / "out", resume=True, progress=False)
    return {path.name: content(path) for path in sorted((folder / "out").rglob("*.*"))}


def content(path: Path) -> Any:
    """Return what a file of a result holds, without its seconds."""
    if path.name == "solution.h5":
        solution = it.Solution.load(path)
        return solution.x, solution.status, solution.iterations
    return path.read_text()[-20:] if path.suffix == ".html" else path.read_bytes()


def survey(folder: Path) -> Any:
    from tests.jobs.waves.test_scene import SCENE

    model = np.full((24, 42), 1550.0)
    model[12:] = 1750.0
    np.save(folder / "model.npy", model)
    (folder / "survey.toml").write_text(SCENE)
    return scene(str(folder / "survey.toml"), folder, inversion__max_iterations=4)


def video(folder: Path) -> Any:
    from tests.jobs.video_depths import test_align

    cameras, truth = test_align.scene((14, 18))
    names = tuple(f"view{k}.png" for k in range(4))
    it.datasets.write_transforms(
        folder / "transforms.json", replace(cameras, names=names), overwrite=True
    )
    (folder / "maps").mkdir(exist_ok=True)
    for name, depth in zip(names, test_align.maps_of(truth, 0.05)):
        it.datasets.write_png(folder / name, torch.zeros(14, 18), overwrite=True)
        np.save(folder / "maps" / f"{Path(name).stem}.npy", depth.numpy())
    (folder / "video.toml").write_text(
        '[video]\npath = "transforms.json"\nmaps = "maps"\nshrink = 1\n[alignment]\nconsistency = 1.0\n'
    )
    return scene(str(folder / "video.toml"), folder)


def animation(folder: Path) -> Any:
    return scene("animation-simulated", folder, animation__max_iterations=30)


def motion(folder: Path) -> Any:
    return scene(
        "bending-bar",
        folder,
        motion__simulate__times=5,
        motion__simulate__held_out=1,
        solver__max_iterations=12,
    )


JOBS: dict[str, Callable[[Path], Any]] = {
    "solve": solve,
    "training": training,
    "photographs": photographs,
    "study": study,
    "flow": flow,
    "worker": study,
    "survey": survey,
    "video": video,
    "animation": animation,
    "motion": motion,
}


def work(name: str, folder: Path) -> None:
    """Do a job in this process, and print the digest of its result."""
    from invtoolbox.core.content import digest

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / BEGUN).touch()
    result = JOBS[name](folder)
    (folder / "result").write_text(digest(result))


def start(name: str, folder: Path) -> subprocess.Popen:
    (folder / BEGUN).unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, __file__, "--work", name, "--folder", str(folder)],
        start_new_session=True,
        env=environment,
    )


def wait_for_work(process: subprocess.Popen, folder: Path) -> None:
    while process.poll() is None and not (folder / BEGUN).exists():
        time.sleep(0.005)


def strike(process: subprocess.Popen, name: str, draw: random.Random) -> bool:
    """Kill a job with all its processes, or one Dask worker of it; return whether one was killed."""
    if name != "worker":
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    workers = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # a process that ended
            number = int(place.name)
            if (
                os.getpgid(number) == process.pid
                and b"spawn_main" in (place / "cmdline").read_bytes()
            ):
                workers.append(number)
    if workers:
        os.kill(draw.choice(workers), signal.SIGKILL)
    return bool(workers)


def kill_often(name: str, kills: int, place: Path, draw: random.Random) -> tuple[int, int, bool]:
    """Kill jobs a number of times; return the kills, the ended jobs and the verdict."""
    whole = place / f"{name}-whole"
    began = start(name, whole)
    wait_for_work(began, whole)
    moment = time.monotonic()
    assert began.wait() == 0
    length = time.monotonic() - moment
    wanted = (whole / "result").read_text()
    killed = ended = attempt = 0
    same = True
    while killed < kills or not ended:
        folder = place / f"{name}-{attempt}"
        while True:
            process = start(name, folder)
            wait_for_work(process, folder)
            while killed < kills and process.poll() is None:
                try:
                    process.wait(draw.uniform(0.0, 0.6 * length))
                except subprocess.TimeoutExpired:
                    killed += strike(process, name, draw)
            if process.wait() == 0:
                break
            # A study whose task lost two workers fails for this task, and is resumed.
            if process.returncode != -signal.SIGKILL and name != "worker":
                print(f"  {name}: a resumed job failed with exit code {process.returncode}")
                return killed, ended, False
        same &= (folder / "result").read_text() == wanted
        ended, attempt = ended + 1, attempt + 1
    return killed, ended, same


def main(
    kills: int = 20,
    only: Sequence[str] = tuple(JOBS),
    seed: int = 0,
    work_: str | None = None,
    folder: Path | None = None,
) -> None:
    if work_:
        work(work_, folder)
        return
    print(machine())
    print(f"seed {seed}")
    draw = random.Random(seed)
    for name in only:
        with tempfile.TemporaryDirectory() as place:
            killed, ended, same = kill_often(name, kills, Path(place), draw)
        print(
            f"{name}: {killed} kills, {ended} jobs that were resumed to their end "
            f"{verdict(same, 'identical to the undisturbed job')}",
            flush=True,
        )


if __name__ == "__main__":
    run_script(main)
