"""The flow of a sequence: the same files for any number of workers, nothing lost or done twice, bad sweeps by name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import weakref
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invtoolbox import simulation
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import relative_motion, transform
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow.methods import Motion
from invtoolbox.jobs.flow.preparation import Preparation
from invtoolbox.jobs.flow.results import FlowStudy
from invtoolbox.jobs.flow.sequence import flow_sequence
from invtoolbox.jobs.flow.source import SequencePath
from tests.jobs.flow.recording import MeanOfWindow, record, standing

ROOT = Path(__file__).resolve().parents[3]
STREET = SequencePath.of("street", options={"sweeps": 4, "points": 1500})


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return record(tmp_path / "drive")


def flow(sweeps: Any, folder: str | Path, **how: Any) -> FlowStudy:
    return flow_sequence(sweeps, folder, **{"estimate": standing, "progress": False, **how})


def files(study: FlowStudy) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(study.folder.glob("*.npz"))}


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.iterdir())
    }


def test_every_sweep_but_the_last_has_a_file(recording: Path) -> None:
    before = content(recording)
    study = flow(recording, "out")
    assert sorted(files(study)) == [f"00000{k}.npz" for k in range(5)] and not study.failed
    sweeps = SequencePath.of(recording).open()
    first, second, found = sweeps[2], sweeps[3], study[2]
    assert first.pose is not None and second.pose is not None
    E = relative_motion(first.pose, second.pose)
    assert torch.allclose(found.ego_motion, E) and found.names == ("000002", "000003")
    assert torch.allclose(
        found.flow.double(), transform(E, first.points.double()) - first.points, atol=1e-5
    )
    assert study.errors() is None and study.seconds is not None
    assert content(recording) == before, "the recording was written to"


@pytest.mark.slow
def test_two_workers_and_resumed_runs_write_what_one_run_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result is a function of the sweeps of its window alone."""
    pytest.importorskip("distributed")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the workers unpickle the method by its name
    street = SequencePath.of("street", options={"sweeps": 7, "points": 800})

    def run(name: str, **how: Any) -> FlowStudy:
        how = {"window": 5, "progress": False, **how}
        return flow_sequence(street, tmp_path / name, MeanOfWindow(), **how)

    one, two = run("one"), run("two", workers=2)
    assert not two.failed and files(one) == files(two)
    run("resumed", items="2:4")
    assert files(run("resumed", resume=True)) == files(one)
    flows = [one[k].flow for k in range(6)]
    assert not flows[2].equal(run("pair", window=2, items="2")[0].flow)


@pytest.mark.parametrize("window", [2, 5])
def test_memory_holds_one_window_however_long_the_sequence(tmp_path: Path, window: int) -> None:
    still = simulation.street(sweeps=1, points=800)[0]

    class Counting:
        """Copies of one sweep; knows how many of them are held at once."""

        def __init__(self, count: int) -> None:
            self.names = [f"{k:03d}" for k in range(count)]
            self.read: list[weakref.ref[Tensor]] = []
            self.most = 0

        def __len__(self) -> int:
            return len(self.names)

        def __getitem__(self, index: int) -> Sweep:
            points = still.points.clone()
            self.read.append(weakref.ref(points))
            self.most = max(self.most, sum(one() is not None for one in self.read))
            return replace(still, points=points, timestamp=0.1 * index, labels=None)

    for count in (8, 24):
        sweeps, how = Counting(count), {"window": window, "progress": False}
        study = flow_sequence(sweeps, tmp_path / str(count), MeanOfWindow(), **how)  # type: ignore[arg-type]
        assert not study.failed and len(study) == count - 1
        # The last sweep of a pair lives until the next one is read.
        assert window <= sweeps.most <= window + 1, f"{sweeps.most} sweeps of {count} at once"
        sweeps.most, sweeps.read = 0, []
        flow_sequence(sweeps, tmp_path / str(count), MeanOfWindow(), resume=True, **how)  # type: ignore[arg-type]
        assert sweeps.most <= 2


def test_sweeps_that_are_open_and_simulated_ones(tmp_path: Path) -> None:
    study = flow(STREET, tmp_path / "path")
    errors = study.errors()
    assert (
        errors is not None
        and errors.static < 1e-5
        and errors.bucketed.mean().dynamic == pytest.approx(1.0, abs=1e-4)
    )
    opened = flow(simulation.street(sweeps=4, points=1500), tmp_path / "open")
    assert [study[k].flow.equal(opened[k].flow) for k in range(3)] == [True] * 3
    kept = flow(STREET, tmp_path / "path", resume=True)
    assert [r.outcome for r in kept.reports] == ["kept"] * 3 and kept.errors() is not None
    assert kept.errors().row() == errors.row()  # type: ignore[union-attr]
    longer = SequencePath.of("street", options={"sweeps": 6, "points": 1500})
    assert [r.outcome for r in flow(longer, tmp_path / "path", resume=True).reports] == [
        "kept"
    ] * 3 + ["done"] * 2


SCRIPT = """
import time
from invtoolbox.jobs.flow.sequence import flow_sequence
from tests.jobs.flow.recording import standing
def slowly(*pair):
    found = standing(*pair)
    time.sleep(0.05)
    return found
slowly.__qualname__ = "standing"
flow_sequence("drive", "killed", estimate=slowly, key="still", resume=True, progress=False)
"""


def events(folder: Path) -> list[tuple[str, str]]:
    path = folder / "study.log"
    return (
        [(line["item"], line["event"]) for line in map(json.loads, path.read_text().splitlines())]
        if path.exists()
        else []
    )


def test_killed_and_resumed_nothing_is_lost_or_done_twice(recording: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for wanted in (1, 3):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT], env=environment, start_new_session=True
        )
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if sum(e == "done" for _, e in events(Path("killed"))) >= wanted:
                break
            time.sleep(0.005)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert sum(e == "done" for _, e in events(Path("killed"))) < 5, "nothing was left to resume"
    Path("killed/.000004.npz.0123abcd.tmp").write_bytes(b"what a worker that was killed leaves")
    killed = flow(recording, "killed", resume=True, key="still")
    undisturbed = flow(recording, "whole", key="still")
    assert files(killed) == files(undisturbed)
    assert sorted(os.listdir("killed")) == sorted(os.listdir("whole")), "something was left behind"
    done = [name for name, event in events(Path("killed")) if event == "done"]
    assert sorted(done) == sorted(set(done)), "a sweep was done twice"


def change_byte(path: Path, into: int) -> None:
    """Change one byte of the array `flow` of a result.

    Args:
        path: the result.
        into: position of the byte in the record of the array, whose header is 38 bytes long.
    """
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("flow.npy").header_offset
    content = bytearray(path.read_bytes())
    content[start + into] ^= 255
    path.write_bytes(content)


def test_a_damaged_result_is_made_again(recording: Path) -> None:
    study = flow(recording, "out")
    before = files(study)
    study.file(0).write_bytes(before["000000.npz"][:-200])
    change_byte(study.file(1), 500)  # the flow itself
    change_byte(study.file(2), 10)  # the time in the header, which ZIP ignores
    study.file(3).write_bytes(before["000004.npz"])
    again = flow(recording, "out", resume=True)
    assert [r.outcome for r in again.reports] == ["done"] * 4 + ["kept"]
    assert files(again) == before


def test_a_result_of_an_earlier_version_is_kept_unless_its_arrays_are_damaged(
    recording: Path,
) -> None:
    study = flow(recording, "out")
    before = files(study)
    for k in (0, 1):  # without a digest
        with zipfile.ZipFile(study.file(k), "a") as archive:
            archive.comment = b""
    earlier = study.file(0).read_bytes()
    assert len(earlier) < len(before["000000.npz"])
    change_byte(study.file(1), 500)
    again = flow(recording, "out", resume=True)
    assert [r.outcome for r in again.reports] == ["kept", "done", "kept", "kept", "kept"]
    assert files(again) == {**before, "000000.npz": earlier}


def empty(file: Path) -> None:
    file.write_bytes(b"")


def not_a_number(file: Path) -> None:
    np.full((50, 4), np.nan, dtype="<f4").tofile(file)


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1001])


def without_pose(file: Path) -> None:
    lines = (file.parent / "poses.txt").read_text().splitlines()
    lines[3] = " ".join(["nan"] * 12)
    (file.parent / "poses.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("damage", [empty, not_a_number, truncated, without_pose])
def test_a_bad_sweep_is_named_and_the_rest_is_done(recording: Path, damage: Any) -> None:
    damage(recording / "000003.bin")
    study = flow(recording, "out")
    assert [r.outcome for r in study.reports] == ["done", "done", "failed", "failed", "done"]
    for report in study.failed:
        assert "000003.bin" in report.error and "\n" not in report.error
        assert not report.error.startswith(("RuntimeError", "ValueError", "TypeError")), (
            report.error
        )


def test_times_out_of_order(tmp_path: Path) -> None:
    class Backwards:
        names = ("a", "b", "c")

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            return simulation.street(sweeps=3, points=800)[(0, 2, 1)[index]]

    study = flow(Backwards(), tmp_path / "out")
    assert [r.outcome for r in study.reports] == [
        "done",
        "failed",
    ] and "sort the sweeps" in study.failed[0].error


def test_results_are_not_mixed_nor_written_into_the_recording(recording: Path) -> None:
    flow(recording, "out", items="0:2")
    with pytest.raises(InputError, match=r"2 of 2 results.*--resume.*--overwrite"):
        flow(recording, "out")
    different: tuple[tuple[dict[str, Any], str], ...] = (
        ({"seed": 1}, "seed"),
        ({"method": "nsfp"}, "method"),
        ({"preparation": Preparation(max_range=9.0)}, "preparation"),
    )
    for other, what in different:
        with pytest.raises(InputError, match=rf"another study \({what}"):
            flow(recording, "out", resume=True, **other)
    assert [r.outcome for r in flow(recording, "out", resume=True).reports] == [
        "kept",
        "kept",
        "done",
        "done",
        "done",
    ]
    for inside in (recording, recording / "results", recording / "deep" / "er", "drive/../drive"):
        with pytest.raises(InputError, match="never written into the source"):
            flow(recording, inside, overwrite=True)
    with pytest.raises(InputError, match=r"item 5 .* no successor"):
        flow(recording, "more", items="5")
    with pytest.raises(InputError, match="no such file or folder"):
        flow("nowhere", "more")


def test_other_sweeps_and_other_functions_are_told_apart(tmp_path: Path) -> None:
    def still(pair: Any, seed: int) -> Motion:
        return Motion(torch.zeros_like(pair.source), torch.full((len(pair.source),), -1))

    def ahead(pair: Any, seed: int) -> Motion:
        return Motion(torch.ones_like(pair.source), torch.full((len(pair.source),), -1))

    first, second = (simulation.street(sweeps=2, points=800, seed=seed) for seed in (1, 2))
    settings: dict[str, Any] = {"preparation": Preparation(ego_motion="poses"), "progress": False}
    assert repr(first) == repr(second)
    flow_sequence(first, tmp_path / "out", still, **settings)
    with pytest.raises(InputError, match="another study \\(method"):
        flow_sequence(first, tmp_path / "out", ahead, resume=True, **settings)
    with pytest.raises(InputError, match="another study \\(sequence"):
        flow_sequence(second, tmp_path / "out", still, resume=True, **settings)

    def moved(pair: Any, seed: int) -> Motion:
        return Motion(torch.ones_like(pair.source), torch.full((len(pair.source),), -1))

    moved.__qualname__ = still.__qualname__
    with pytest.raises(InputError, match="another study \\(method_content"):
        flow_sequence(first, tmp_path / "out", moved, resume=True, **settings)


def test_one_sweep_has_no_successor(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="from one sweep to the next"):
        flow(record(tmp_path / "one", sweeps=1), tmp_path / "out")
