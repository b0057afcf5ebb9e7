"""Studies: the same files whatever the number of workers, nothing lost or done twice, failures by name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.jobs.study import Interrupted, Study, read_result
from tests.command_line import Run, here, one_sentence, run

__all__ = ["here", "run"]

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("volume.npy", np.random.default_rng(0).random((5, 12, 10), dtype=np.float32))
    return tmp_path / "volume.npy"


def smooth(item: it.datasets.Measurement) -> it.Solution:
    A = it.operators.Blur(torch.ones(3, 3) / 9, (12, 10))
    return it.reconstruct(
        item.y, A, "tv", noise_std=0.05, regularization=1.0, max_iterations=15, progress=False
    )


def events(folder: Path) -> list[tuple[str, str]]:
    return [
        (line["item"], line["event"])
        for line in map(json.loads, (folder / "study.log").read_text().splitlines())
    ]


def files(study: Study) -> list[bytes]:
    return [study.file(k).read_bytes() for k in range(len(study))]


def test_two_workers_write_what_one_writes(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setenv(
        "PYTHONPATH", str(ROOT)
    )  # the workers unpickle a function of this module by its name
    one = it.map_slices(volume, smooth, "one", progress=False)
    two = it.map_slices(volume, smooth, "two", workers=2, progress=False)
    assert files(one) == files(two) and not two.failed
    assert sorted(events(two.folder)) == sorted(
        (f"slice-{k:04d}", e) for k in range(5) for e in ("begun", "done")
    )
    assert two.stack().shape == (5, 1, 12, 10) and two[3].facts["status"]
    assert torch.equal(torch.as_tensor(two[3].arrays["x"]), smooth(it.datasets.open(volume)[3]).x)
    assert it.datasets.open(two.file(2))[0].y.shape == (1, 1, 12, 10)


@pytest.mark.slow
def test_a_worker_that_dies_over_an_item_takes_nothing_else_with_it(volume: Path) -> None:
    pytest.importorskip("distributed")

    def deadly(item: it.datasets.Measurement) -> torch.Tensor:
        if item.meta["item"] == 1:
            os._exit(7)
        return item.y

    study = it.map_slices(
        it.datasets.open(volume), deadly, "deadly", slices=[0, 1, 2], workers=2, progress=False
    )
    # A neighbour may have been done by the worker that died before it could say so; then it is
    # found to be there.
    assert [r.outcome == "failed" for r in study.reports] == [
        False,
        True,
        False,
    ] and "worker was lost" in study.failed[0].error
    assert all(study.file(k).exists() for k in (0, 2))


def test_a_worker_that_is_lost_at_the_start_is_one_sentence(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")

    def lost(**settings: Any) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(distributed, "LocalCluster", lost)
    with pytest.raises(it.InputError, match="lost while it started .Nanny failed"):
        it.map_slices(volume, smooth, "out", workers=2, progress=False)


def test_one_worker_needs_no_dask(volume: Path) -> None:
    code = (
        "import sys; sys.modules['distributed'] = sys.modules['dask'] = None\n"
        "import invtoolbox as it\n"
        "print(len(it.map_slices('volume.npy', lambda item: item.y, 'out', progress=False)))\n"
        "try: it.map_slices('volume.npy', lambda item: item.y, 'more', workers=2, progress=False)\n"
        "except ImportError as error: print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stderr
    count, sentence = ran.stdout.splitlines()
    assert count == "5" and "dask[distributed]" in sentence and "[cluster]" in sentence


def test_a_failed_item_is_named_and_the_rest_goes_on(volume: Path) -> None:
    broken = [True]

    def work(item: it.datasets.Measurement) -> torch.Tensor:
        if broken[0] and item.meta["item"] in (1, 3):
            raise RuntimeError("no\nluck")
        return item.y

    study = it.map_slices(volume, work, "out", progress=False, key="mine")
    assert [(r.name, r.error) for r in study.failed] == [
        (f"slice-000{k}", "RuntimeError: no luck") for k in (1, 3)
    ]
    assert "no\nluck" in study.failed[0].trace
    with pytest.raises(it.InputError, match="slice-0001 has no result, because it failed: Runtime"):
        study.stack()
    broken[0] = False
    study = it.map_slices(volume, work, "out", resume=True, progress=False, key="mine")
    assert [r.outcome for r in study.reports] == ["kept", "done", "kept", "done", "kept"]


def test_what_is_not_whole_is_done_again(volume: Path) -> None:
    study = it.map_slices(volume, lambda item: item.y, "out", progress=False)
    before = files(study)
    content = bytearray(before[1])
    content[content.find(np.asarray(study[1].arrays["x"]).tobytes()) + 40] ^= 255
    study.file(0).write_bytes(before[0][:-100])
    study.file(1).write_bytes(content)
    study.file(2).write_bytes(b"")
    study.file(3).write_bytes(before[4])
    again = it.map_slices(volume, lambda item: item.y, "out", resume=True, progress=False)
    outcomes = [r.outcome for r in again.reports]
    assert outcomes == ["done"] * 4 + ["kept"]
    assert files(again) == before


def test_results_of_others_are_kept_and_not_mixed(volume: Path) -> None:
    it.map_slices(volume, lambda item: item.y, "out", settings={"weight": 1}, progress=False)
    with pytest.raises(InputError, match=r"5 of 5 results.*--resume.*--overwrite"):
        it.map_slices(volume, lambda item: item.y, "out", settings={"weight": 1}, progress=False)
    with pytest.raises(InputError, match=r"another study \(settings.weight differs\)"):
        it.map_slices(
            volume, lambda item: item.y, "out", settings={"weight": 2}, resume=True, progress=False
        )
    np.save(volume, np.zeros((5, 12, 10)))
    with pytest.raises(InputError, match=r"another study \(stamp differs\)"):
        it.map_slices(
            volume, lambda item: item.y, "out", settings={"weight": 1}, resume=True, progress=False
        )
    study = it.map_slices(
        volume, lambda item: item.y, "out", settings={"weight": 2}, overwrite=True, progress=False
    )
    assert float(study.stack().abs().max()) == 0
    Path("mine").mkdir()
    Path("mine/slice-0002.h5").write_bytes(b"precious")
    with pytest.raises(InputError, match="slice-0002"):
        it.map_slices(volume, lambda item: item.y, "mine", progress=False)
    assert Path("mine/slice-0002.h5").read_bytes() == b"precious"


def test_another_function_of_the_same_name_is_another_study(volume: Path) -> None:
    def times(
        factor: float, table: Any = None
    ) -> Callable[[it.datasets.Measurement], torch.Tensor]:
        def work(item: it.datasets.Measurement) -> torch.Tensor:
            return factor * item.y if table is None else table

        return work

    def other() -> Callable[[it.datasets.Measurement], torch.Tensor]:
        def work(item: it.datasets.Measurement) -> torch.Tensor:
            return item.y + 1

        work.__qualname__ = times(1.0).__qualname__
        return work

    def run(work: Any, **more: Any) -> list[str]:
        study = it.map_slices(volume, work, "out", resume=True, progress=False, **more)
        return [r.outcome for r in study.reports]

    assert run(times(2.0)) == ["done"] * 5
    assert run(times(2.0)) == ["kept"] * 5
    for work in (times(3.0), other()):
        with pytest.raises(InputError, match=r"another study \(work.content differs\)"):
            run(work)
    with (
        open(volume, "rb") as file,
        pytest.raises(InputError, match=r"variable table of the function .*map_slices\(..., key="),
    ):
        run(times(2.0, file))


def test_a_data_set_counts_with_the_content_of_its_items(volume: Path) -> None:
    class Mine:
        def __init__(self, *values: float) -> None:
            self.values = values

        def __len__(self) -> int:
            return len(self.values)

        def __getitem__(self, k: int) -> it.datasets.Measurement:
            return it.datasets.Measurement(torch.full((1, 1, 2, 2), self.values[k]))

    def double(item: it.datasets.Measurement) -> torch.Tensor:
        return 2 * item.y

    def run(data: Any, **more: Any) -> list[str]:
        study = it.map_slices(data, double, "out", resume=True, progress=False, **more)
        return [r.outcome for r in study.reports]

    assert run(Mine(1.0, 2.0, 3.0), slices=[0, 2]) == ["done", "done"]
    assert run(Mine(1.0, 2.0, 3.0)) == ["kept", "done", "kept"]
    with pytest.raises(InputError, match=r"another study \(data differs\)"):
        run(Mine(1.0, 2.5, 3.0))
    opened = it.datasets.open(volume)
    study = it.map_slices(opened, double, "two", key="one", progress=False)
    np.save(volume, np.zeros((5, 12, 10)))
    again = it.map_slices(
        it.datasets.open(volume), double, "two", key="one", resume=True, progress=False
    )
    assert [r.outcome for r in again.reports] == ["kept"] * len(study.reports)


def test_ctrl_c_leaves_what_is_done(volume: Path) -> None:
    def work(item: it.datasets.Measurement) -> torch.Tensor:
        if item.meta["item"] == 2 and not Path("went").exists():
            Path("went").touch()
            raise KeyboardInterrupt
        return item.y

    with pytest.raises(Interrupted, match=r"2 of 5 results"):
        it.map_slices(volume, work, "out", progress=False)
    study = it.map_slices(volume, work, "out", resume=True, progress=False)
    assert [r.outcome for r in study.reports] == ["kept", "kept", "done", "done", "done"]


SCRIPT = """
import time, invtoolbox as it
def work(item):
    time.sleep(0.05)
    return item.y
it.map_slices("volume.npy", work, "out", slices=list(range(5)), resume=True, progress=False)
"""


def killed(command: list[str], folder: Path, wanted: int) -> None:
    """Start a study and kill it when so many items are done."""
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if (folder / "study.log").exists() and sum(
            e == "done" for _, e in events(folder)
        ) >= wanted:
            break
        time.sleep(0.005)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_and_resumed_nothing_is_lost_or_done_twice(volume: Path) -> None:
    killed([sys.executable, "-c", SCRIPT], Path("out"), 2)
    done = [name for name, event in events(Path("out")) if event == "done"]
    subprocess.run(
        [sys.executable, "-c", SCRIPT],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=100,
    )
    seen: set[str] = set()
    for name, event in events(Path("out")):
        assert name not in seen, f"{name} was {event} after it had been done"
        seen |= {name} if event == "done" else set()
    assert len(done) >= 2 and all(
        read_result(f"out/slice-{k:04d}.h5").arrays["x"].shape == (1, 1, 12, 10) for k in range(5)
    )


SCENE = """[measurements.simulate]
path = "volume.npy"
noise_std = 0.01
[operator]
name = "blur"
kernel = { gaussian = 0.6 }
[prior]
name = "tikhonov"
weight = 100.0
[solver]
name = "gradient-descent"
max_iterations = 4
[evaluation]
metrics = ["psnr"]
"""


@pytest.fixture
def scene(volume: Path) -> Iterator[str]:
    Path("many.toml").write_text(SCENE)
    yield "many.toml"


def test_a_scene_over_the_items_of_its_data(scene: str, run: Run) -> None:
    ran = run("run", scene, "--items", "0:4:2", "--output", "out")
    assert ran.code == 0 and "2 items: 2 done" in ran.out
    assert sorted(os.listdir("out")) == ["many-0000.h5", "many-0002.h5", "study.json", "study.log"]
    solution = it.run(scene, {"measurements.simulate.item": 2}, "single", progress=False)
    answer = read_result("out/many-0002.h5")
    assert (
        torch.equal(torch.as_tensor(answer.arrays["x"]), solution.x)
        and answer.facts["metrics"]["psnr"]
    )
    assert "--resume" in one_sentence(run("run", scene, "--items", "0:4:2", "--output", "out"))
    more = run("run", scene, "--workers", "1", "--output", "out", "--resume")
    assert more.code == 0 and "5 items: 3 done, 2 kept" in more.out
    assert "counted from 0" in one_sentence(run("run", scene, "--items", "7", "--output", "other"))


def test_several_scenes_leave_their_own_results(scene: str, run: Run) -> None:
    Path("other.toml").write_text(SCENE.replace("0.6", "0.9"))
    Path("bad.toml").write_text(SCENE.replace("volume.npy", "gone.npy"))
    ran = run("run", scene, "other.toml", "--output", "out", "--set", 'output.formats=["npy"]')
    assert (
        ran.code == 0
        and Path("out/many/reconstruction.npy").exists()
        and Path("out/other.h5").exists()
    )
    study: Any = it.run([scene, "other.toml"], {"output.formats": ["npy"]}, "again", progress=False)
    assert [r.name for r in study.reports] == ["many", "other"]
    assert study.file(1).read_bytes() == Path("out/other.h5").read_bytes()
    ran = run("run", "bad.toml", scene, "--output", "broken")
    assert (
        ran.code == 1
        and "bad failed" in ran.err
        and "gone.npy" in ran.err
        and Path("broken/many.h5").exists()
    )


def test_ct_joins_slices_to_a_volume(run: Run, here: Path) -> None:
    one = np.load("sinogram.npy")
    np.save("scan.npy", np.stack([one, 2 * one, one[::-1]]))
    options = (
        "--geometry",
        "geometry.toml",
        "--prior",
        "tikhonov",
        "--regularization",
        "0.1",
        "--max-iterations",
        "3",
        "--quiet",
    )
    assert run("ct", "scan.npy", *options, "--items", "all", "--output", "volume.mha").code == 0
    volume = it.datasets.open("volume.mha")
    assert (
        isinstance(volume, it.datasets.MetaImage)
        and volume.shape == (3, 16, 16)
        and not Path("volume.mha.items").exists()
    )
    assert run("ct", "scan.npy", *options, "--item", "1", "--output", "one.npy").code == 0
    assert np.array_equal(volume.slices(1, 2)[0], np.load("one.npy")[0])
    assert "--reference" in one_sentence(
        run("ct", "scan.npy", *options, "--items", "all", "--reference", "truth.npy")
    )


def test_deblur_a_folder(run: Run, here: Path) -> None:
    Path("photos").mkdir()
    for name in ("a.png", "b.png"):
        Path("photos", name).write_bytes(Path("photo.png").read_bytes())
    ran = run(
        "deblur",
        "photos",
        "--kernel",
        "kernel.png",
        "--items",
        "all",
        "--max-iterations",
        "3",
        "--regularization",
        "0.01",
        "-o",
        "out",
    )
    assert ran.code == 0, ran.err
    assert Path("out/a.png").exists() and Path("out/b.png").exists()
