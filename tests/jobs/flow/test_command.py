"""``invtoolbox flow``: files, summary, exit codes, and what is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import invtoolbox as it
from invtoolbox.catalogue import shelves as catalogue
from invtoolbox.catalogue.documents import content_of
from invtoolbox.errors import InputError
from invtoolbox.jobs.flow.results import FlowStudy
from invtoolbox.jobs.flow.scene import FlowJob, read_flow_scene
from tests.command_line import Run, one_sentence
from tests.datasets.sweep_sets import write_opensceneflow
from tests.jobs.flow.recording import record, standing_pair

SMALL = ("--option", "sweeps=3", "--option", "points=1500")
SCENES = [name for name in sorted(catalogue.entries("scenes")) if "sweeps" in content_of(name)[1]]


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recording in the current directory, and the flow that costs nothing in place of the default method."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("invtoolbox.jobs.flow.sweep_window.estimate_prepared", standing_pair)
    return record(tmp_path / "drive", sweeps=4)


def test_a_folder_of_sweeps(run: Run, drive: Path) -> None:
    ran = run("flow", "drive", "--out", "out", "--report", "flow.html", "--pictures")
    assert ran.code == 0, ran.err
    assert (
        "3 sweeps: 3 done" in ran.out
        and "s per sweep" in ran.out
        and "against labels" not in ran.out
    )
    assert sorted(p.name for p in Path("out").glob("*.npz")) == [
        "000000.npz",
        "000001.npz",
        "000002.npz",
    ]
    assert np.load("out/000001.npz")["flow"].shape[1] == 3
    assert (
        len(list(Path("out/pictures").glob("*.png"))) == 3
        and "Sweep 000000" in Path("flow.html").read_text()
    )
    assert "--resume" in one_sentence(run("flow", "drive", "--out", "out"))
    again = run("flow", "drive", "--out", "out", "--resume")
    assert again.code == 0 and "3 sweeps: 3 kept" in again.out
    assert "max_range differs" in one_sentence(
        run("flow", "drive", "--out", "out", "--resume", "--max-range", "30")
    )
    assert run("flow", "drive", "--out", "out", "--overwrite", "--max-range", "30", "--quiet") == (
        0,
        "",
        "",
    )


def test_a_bad_sweep_gives_exit_code_1(run: Run, drive: Path) -> None:
    (drive / "000002.bin").write_bytes(b"")
    ran = run("flow", "drive", "--out", "out", "--report", "flow.html")
    assert ran.code == 1 and "3 sweeps: 1 done, 2 failed" in ran.out
    told = ran.err.strip().splitlines()
    assert len(told) == 2 and all(
        "000002.bin" in line and line.startswith("invtoolbox: ") for line in told
    )
    assert "000002.bin" in Path("flow.html").read_text()


def test_one_dense_cloud(run: Run, drive: Path) -> None:
    ran = run("flow", "drive", "--out", "out", "--cloud")
    assert ran.code == 0 and "cloud.ply" in ran.out, ran.err
    cloud = it.datasets.read_ply("out/cloud.ply")
    assert len(cloud["x"]) > 100 and set(cloud) >= {"x", "y", "z", "red", "moving"}
    assert "whole sequence" in one_sentence(
        run("flow", "drive", "--out", "some", "--cloud", "--items", "0:2")
    )
    (drive / "000002.bin").write_bytes(b"")
    ran = run("flow", "drive", "--out", "gap", "--cloud")
    assert (
        ran.code == 1 and "no cloud was written" in ran.err and not Path("gap/cloud.ply").exists()
    )


def test_two_sweeps_that_are_the_same_are_said_to_be(run: Run, tmp_path: Path) -> None:
    folder = record(tmp_path / "twice", sweeps=2)
    (folder / "000001.bin").write_bytes((folder / "000000.bin").read_bytes())
    ran = run("flow", folder, "--out", tmp_path / "out", "--ego-motion", "none")
    assert (
        ran.code == 0
        and "000000.bin and" in ran.out
        and "000001.bin hold the same points" in ran.out
    )


def test_the_street_is_measured_against_its_labels(run: Run, drive: Path) -> None:
    ran = run("flow", "street", *SMALL, "--out", "out", "--ego-motion", "poses", "--items", "0")
    assert ran.code == 0, ran.err
    assert (
        "1 sweep: 1 done" in ran.out
        and "static EPE 0.000 m" in ran.out
        and "bucket-normalized dynamic error 1.000" in ran.out
        and "by class: car 1.000" in ran.out
    )
    assert (
        json.loads(Path("out/study.json").read_text())["description"]["sequence"]["street"][
            "points"
        ]
        == 1500
    )


def test_the_default_method_gives_the_same_bytes_twice(run: Run, tmp_path: Path) -> None:
    for name in ("one", "two"):
        ran = run(
            "flow",
            "street",
            "--option",
            "sweeps=2",
            "--option",
            "points=4000",
            "--out",
            tmp_path / name,
            "--ego-motion",
            "poses",
        )
        assert ran.code == 0 and "against labels" in ran.out, ran.err
    one, two = (tmp_path / name / "000000.npz" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_argoverse_formats(run: Run, drive: Path) -> None:
    pytest.importorskip("pyarrow")
    assert run("flow", "drive", "--out", "three", "--format", "av2-v3").code == 0
    assert [p.name for p in sorted(Path("three/av2-v3/drive").iterdir())] == [
        "0.feather",
        "1.feather",
        "2.feather",
    ]
    assert run("flow", "drive", "--out", "two", "--format", "av2-v2").code == 0
    (one,) = Path("two/av2-v2/drive").iterdir()
    found = it.datasets.read_argoverse(one, 2)
    assert (
        one.name == "0000000000.feather"
        and found.valid is not None
        and float(found.flow.abs().max()) == 0.0
    )
    assert "--masks" in one_sentence(run("flow", "drive", "--out", "one", "--format", "av2-v1"))
    scene = write_opensceneflow(drive.parent / "scenes") / "log.h5"
    ran = run("flow", scene, "--out", "h5", "--format", "av2-v3")
    assert ran.code == 0 and "by class: car" in ran.out, ran.err
    assert [p.name for p in sorted(Path("h5/av2-v3/log").iterdir())] == [
        "315966265259836000.feather",
        "315966265359836000.feather",
    ]
    assert "recorded sweeps" in one_sentence(
        run("flow", "street", *SMALL, "--out", "one", "--format", "av2-v3")
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("drive", "--out", "drive/flow"), "never written into the source"),
        (("drive", "--out", "drive"), "never written into the source"),
        (("drive", "--out", "out", "--report", "drive/flow.html"), "never written into the source"),
        (("nowhere", "--out", "out"), "nowhere: there is no such file or folder"),
        (("drive", "--out", "out", "--items", "7"), "counted from 0"),
        (("drive", "--out", "out", "--option", "rat=2"), "'rat'"),
        (("drive", "--out", "out", "--option", "rate"), "KEY=VALUE"),
        (("drive", "--out", "out", "--reader", "tv"), "'tv'"),
        (("drive", "--out", "out", "--poses", "missing.txt"), "missing.txt"),
        (("drive", "--out", "out", "--max-range", "-3"), "--max-range is -3.0"),
        (("drive", "--out", "out", "--ground", "yes"), "--ground"),
        (("drive", "--out", "out", "--window", "14"), "--window is 14"),
        (("drive", "--out", "out", "--set", "flow.windows=3"), "did you mean 'window'"),
        (("drive", "--out", "out", "--cluster", "tcp://127.0.0.1:1"), "no Dask scheduler"),
    ],
)
def test_wrong_use_gives_exit_code_2(
    run: Run, drive: Path, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invtoolbox.jobs.study.workers._PATIENCE", "1s")
    assert words in one_sentence(run("flow", *arguments))
    assert not list(drive.glob("*.npz")) and not (drive / "flow").exists()


SCENE = """title = "A drive"
[sweeps]
path = "drive"
items = "0:2"
[flow.preparation]
max_range = 40.0
[output]
formats = ["html"]
"""


def test_a_saved_scene_gives_the_files_of_its_command(run: Run, drive: Path) -> None:
    np.savetxt("poses.txt", np.tile(np.eye(4)[:3].reshape(1, -1), (4, 1)))
    words = ("flow", "drive", "--items", "0:2", "--max-range", "30", "--poses", "poses.txt")
    words = (*words, "--set", "flow.window=3", "--seed", "2")
    Path("scenes").mkdir()
    for scene in ("saved.toml", "scenes/saved.toml"):
        ran = run(*words, "--out", "first", "--overwrite", "--save-scene", scene, "-q")
        assert ran == (0, "", "")
        assert run("run", scene, "--output", "second", "--overwrite", "-q").code == 0
        for name in ("000000.npz", "000001.npz", "metrics.json"):
            assert Path("first", name).read_bytes() == Path("second", name).read_bytes()
    assert 'path = "drive"' in Path("saved.toml").read_text()
    assert "saved.toml: there is a file" in one_sentence(
        run(*words, "--out", "third", "--save-scene", "saved.toml")
    )
    # A saved scene is one that the command takes, and an option replaces its setting.
    assert run("flow", "saved.toml", "--items", "1", "--out", "third").code == 0
    assert [path.name for path in Path("third").glob("*.npz")] == ["000001.npz"]
    assert Path("third/000001.npz").read_bytes() == Path("first/000001.npz").read_bytes()


def test_a_scene_of_the_catalogue_takes_options(run: Run, drive: Path) -> None:
    words = ("flow", "street-simulated", *SMALL, "--items", "0", "--out", "out")
    assert run(*words, "--save-scene", "street.toml").code == 0
    measures = json.loads(Path("out/metrics.json").read_text())
    assert measures["sweeps"] == 1 and measures["failed"] == 0 and measures["static"] < 1e-3
    assert measures["bucketed_dynamic"] == pytest.approx(1)
    assert measures["bucketed_dynamic_car"] == pytest.approx(1)
    assert run("run", "street.toml", "--output", "again").code == 0
    assert Path("again/000000.npz").read_bytes() == Path("out/000000.npz").read_bytes()
    assert "1 kept" in run(*words, "--resume").out
    assert json.loads(Path("out/metrics.json").read_text()) == measures


def test_a_scene_of_sweeps(run: Run, drive: Path) -> None:
    Path("mine.toml").write_text(SCENE)
    ran = run("run", "mine.toml")
    assert (
        ran.code == 0
        and "2 sweeps: 2 done" in ran.out
        and "A drive" in Path("results/mine/report.html").read_text()
    )
    study = it.run("mine.toml", {"sweeps.items": "1"}, "other", progress=False)
    assert (
        isinstance(study, FlowStudy)
        and study.file(0).read_bytes() == Path("results/mine/000001.npz").read_bytes()
    )
    assert run("flow", "mine.toml", "--out", "third", "--items", "1").code == 0
    assert Path("third/000001.npz").read_bytes() == study.file(0).read_bytes()
    assert "by itself" in one_sentence(run("run", "mine.toml", "ct-small"))
    assert "'maxrange'" in one_sentence(
        run("run", "mine.toml", "--set", "flow.preparation.maxrange=3", "--output", "x")
    )
    assert "did you mean 'flow'" in one_sentence(
        run("run", "mine.toml", "--set", "flo.method=nsfp", "--output", "x")
    )
    with pytest.raises(InputError, match="either a dataset or a path"):
        read_flow_scene("mine.toml", {"sweeps.dataset": "street"})


@pytest.mark.parametrize("name", SCENES)
def test_scenes_of_sweeps_of_the_catalogue_read(name: str) -> None:
    file = read_flow_scene(name)
    assert file.scene.title and file.scene.sweeps.dataset in catalogue.entries("datasets")


def test_there_are_four_scenes_of_sweeps() -> None:
    assert SCENES == ["av2-pair", "kitti-odometry", "ouster", "street-simulated"]
    assert isinstance(read_flow_scene("street-simulated").job(), FlowJob)


@pytest.mark.data
@pytest.mark.parametrize("name", ["av2-pair", "kitti-odometry", "ouster"])
def test_scenes_on_real_data(name: str, data_dir: Path, drive: Path) -> None:
    study = it.run(name, {"sweeps.items": "0", "output.formats": []}, "out", progress=False)
    assert isinstance(study, FlowStudy) and not study.failed, study.failed
    assert study[0].flow.shape[0] > 90_000 and (study.errors() is not None) == (name == "av2-pair")


def test_a_folder_without_sweeps_is_named_in_the_users_words(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for word in (".", "photos"):
        sentence = one_sentence(run("flow", word))
        assert sentence.startswith(f"invtoolbox: {word}: the folder is no lidar sequence")
        assert str(tmp_path) not in sentence
    assert "no data set has this name; did you mean 'photos'" in one_sentence(run("flow", "foto"))
