"""With the n-th call of the file system failing, files are the old ones or the new ones, and no answer is lost."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.core.content import digest
from invtoolbox.datasets import output
from invtoolbox.errors import InputError
from invtoolbox.jobs.study import Item, run_study
from tests.datasets import fuzzing
from tests.faults import Faults, failing
from tests.random_jobs import KINDS


def image(value: float) -> torch.Tensor:
    return torch.linspace(0, value, 60).view(3, 4, 5)


def solution(value: float) -> it.Solution:
    problem = it.Problem(image(value)[None], it.operators.Identity((3, 4, 5)))
    return it.solve(problem, "tikhonov", regularization=1.0, progress=False)


def cameras() -> it.geometry.Cameras:
    return it.geometry.Cameras(torch.eye(4)[None], torch.eye(3)[None], (4, 5), names=("a.png",))


#: Writers of a file, or of a folder, at a path; the number changes the content.
WRITERS: dict[str, Callable[[Path, float], Any]] = {
    "a.bin": lambda p, v: output.write_bytes(p, str(v).encode() * 9000, overwrite=True),
    **{
        f"a{suffix}": lambda p, v: it.datasets.write(p, image(v), overwrite=True)
        for suffix in (".npy", ".h5", ".tif", ".nii", ".nii.gz", ".mha", ".mhd", ".raw")
    },
    "a.png": lambda p, v: it.datasets.write_png(p, image(1.0), (0, v), overwrite=True),
    "stack": lambda p, v: it.datasets.write_tiff_stack(p, image(v), overwrite=True),
    "a.obj": lambda p, v: it.datasets.write_mesh(
        p, (image(v)[0, :, :3], torch.tensor([[0, 1, 2]])), overwrite=True
    ),
    "solution.h5": lambda p, v: solution(v).save(p, overwrite=True),
    "report.html": lambda p, v: solution(v).report(p),
    "transforms.json": lambda p, v: it.datasets.write_transforms(
        p, cameras().scale(v), overwrite=True
    ),
}  # fmt: skip


#: Values and the file that describes them; a failed rename may cost the description.
DESCRIBED = {"a.mhd": "a.mhd", "a.raw": "a.toml"}


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_the_old_one_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write, folder = WRITERS[name], tmp_path / "results"

    def start() -> None:
        output.shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write(folder / name, 1.0)

    start()
    old = files(folder)
    counted = Faults(folder, None, False)
    with failing(counted, monkeypatch):
        write(folder / name, 2.0)
    new = files(folder)
    assert counted.count >= 3 and set(new) == set(old)
    if name != "report.html":  # which holds the seconds of the run
        assert new != old
    for first in range(counted.count):
        for persistent in (False, True):
            start()
            faults = Faults(folder, first, persistent, (errno.ENOSPC, errno.EIO)[first % 2])
            try:
                with failing(faults, monkeypatch):
                    write(folder / name, 2.0)
            except InputError as error:
                assert "\n" not in str(error)
            found = files(folder)
            output.remove_stale(folder)
            assert files(folder) == found, "something was left"
            if name in DESCRIBED:  # a description never belongs to other values
                if DESCRIBED[name] in found:
                    assert found in (old, new)
                else:
                    assert found["a.raw"] in (old["a.raw"], new["a.raw"])
                continue
            assert set(found) == set(new), "something was lost"
            if name == "report.html":
                assert found[name].endswith(b"</html>\n")
            elif name == "solution.h5":
                assert len(it.Solution.load(folder / name).x) == 1
            elif name == "stack":  # as a whole
                assert found in (old, new)
            else:
                assert all(found[file] in (old[file], new[file]) for file in new)


def run(path: Path, steps: int = 5) -> it.Solution:
    problem = it.Problem(image(1.0)[None], it.operators.Identity((3, 4, 5)))
    return it.solve(
        problem,
        "tikhonov",
        it.solvers.Adam(tolerance=0.0),
        regularization=0.1,
        max_iterations=steps,
        checkpoint=it.Checkpoint(path, every=0.0),
        progress=False,
    )


@pytest.mark.filterwarnings("ignore:iteration . could not be written")
def test_a_solve_returns_its_answer_whatever_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "results"
    whole = run(folder / "run")
    longer = run(tmp_path / "longer", 8)
    output.shutil.rmtree(folder)
    folder.mkdir()
    counted = Faults(folder, None, False)
    with failing(counted, monkeypatch):
        run(folder / "run")
    for first in range(0, counted.count, 3):
        for persistent in (False, True):
            output.shutil.rmtree(folder)
            folder.mkdir()
            with failing(Faults(folder, first, persistent), monkeypatch):
                solved = run(folder / "run")
            assert torch.equal(solved.x, whole.x) and solved.status == whole.status
            resumed = run(folder / "run", 8)
            assert torch.equal(resumed.x, longer.x)
            assert os.listdir(folder) == ["run"]


def work(k: int) -> np.ndarray:
    return np.full((1, 1, 2, 3), float(k))


@pytest.mark.parametrize("persistent", [False, True])
def test_a_study_is_resumed_to_the_same_files_whatever_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, persistent: bool
) -> None:
    items = [Item(f"item-{k}", (k,)) for k in range(2)]

    def study(folder: Path, resume: bool = False) -> Any:
        return run_study(work, items, folder, {"a": 1}, progress=False, resume=resume)

    whole = files(study(tmp_path / "whole").folder)
    counted = Faults(tmp_path / "counted", None, False)
    with failing(counted, monkeypatch):
        study(tmp_path / "counted")
    for first in range(counted.count):
        folder = tmp_path / str(first)
        try:
            with failing(Faults(folder, first, persistent), monkeypatch):
                for report in study(folder).failed:
                    assert report.error and "\n" not in report.error
        except InputError as error:
            assert "\n" not in str(error)
        again = study(folder, resume=True)
        assert not again.failed
        found = files(folder)
        assert {k: found[k] for k in found if k.endswith(".h5")} == {
            k: whole[k] for k in whole if k.endswith(".h5")
        }
        assert set(found) - {"study.log"} == set(whole) - {"study.log"}


def undisturbed(kind: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[str, int, str]:
    """Do a job; return the digest of its result, its number of calls, and the folder it writes to."""
    job = KINDS[kind]
    whole = digest(job.go(job.draw(0), folder / "whole", True))
    own = "out" if (folder / "whole" / "out").is_dir() else ""
    counted = Faults(folder / "counted" / own, None, False)
    with failing(counted, monkeypatch):
        job.go(job.draw(0), folder / "counted", True)
    assert counted.count >= 4
    return whole, counted.count, own


def fail_and_resume(
    kind: str, first: int, persistent: bool, whole: str, own: str, folder: Path, patch: Any
) -> None:
    job = KINDS[kind]
    run, faults = job.draw(0), Faults(folder / own, first, persistent, errno.ENOSPC)
    try:
        with failing(faults, patch):
            found = job.go(run, folder, True)
        assert digest(found) == whole, first
    except InputError as error:
        assert "\n" not in str(error)
    assert digest(job.go(run, folder, True)) == whole, first
    assert not list(folder.rglob(".*.tmp")), first


#: Jobs that write more than a checkpoint.
JOBS = ["training", "photographs", "flow sequence", "scene", "scene over items", "mesh scene"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", JOBS)
def test_a_job_loses_nothing_if_one_of_some_calls_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    whole, count, own = undisturbed(kind, monkeypatch, tmp_path)
    for first in range(0, count, max(1, count // 4)):
        folder = tmp_path / str(first)
        fail_and_resume(kind, first, first % 2 == 0, whole, own, folder, monkeypatch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("kind", JOBS)
def test_a_job_loses_nothing_whatever_call_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, persistent: bool
) -> None:
    whole, count, own = undisturbed(kind, monkeypatch, tmp_path)
    for first in range(count):
        folder = tmp_path / str(first)
        fail_and_resume(kind, first, persistent, whole, own, folder, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n, (r, _) in fuzzing.SEEDS.items() if r in fuzzing.FILE_READERS]
)
def test_a_failed_allocation_in_a_reader_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    reader, make = fuzzing.SEEDS[name]
    path = make(tmp_path / name)
    for module, function in ((np, "array"), (np, "asarray"), (torch, "from_numpy")):

        def fail(*_: Any, **__: Any) -> Any:
            raise MemoryError("Unable to allocate 3.00 GiB for an array")

        with monkeypatch.context() as patch:
            patch.setattr(module, function, fail)
            try:
                fuzzing.FILE_READERS[reader](path)
            except InputError as error:
                assert "\n" not in str(error)


def test_the_faults_are_injected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with failing(Faults(tmp_path, 0, True), monkeypatch):
        for call in (
            lambda: open(tmp_path / "a", "w"),  # noqa: SIM115
            lambda: (tmp_path / "a").write_bytes(b""),
            lambda: (tmp_path / "a").mkdir(),
            lambda: os.replace(tmp_path / "a", tmp_path / "b"),
        ):
            with pytest.raises(OSError, match="No space"):
                call()
        (tmp_path.parent / "elsewhere").touch()
    with warnings.catch_warnings():
        (tmp_path / "a").write_bytes(b"")
