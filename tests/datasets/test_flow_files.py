"""Flow on disk: what is written comes back, the bytes are the same every time, and what is wrong is refused in one sentence."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from invtoolbox.datasets.sweeps.argoverse_flow import (
    argoverse_mask,
    argoverse_path,
    pack_argoverse,
    read_argoverse,
    write_argoverse,
)
from invtoolbox.datasets.sweeps.flow_files import (
    read_flow,
    refuse_source,
    residual_flow,
    write_flow,
)
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import rigid, rotation, transform


@dataclass(frozen=True, eq=False)
class Estimate:
    flow: Tensor
    ego_motion: Tensor
    dynamic: Tensor
    ground: Tensor
    instance: Tensor
    valid: Tensor
    method: str = "toy"


def toy(points: int = 50) -> tuple[Estimate, Tensor, Tensor]:
    """An estimate whose point 3 is no measurement, the points, and the flow without the sensor's motion."""
    generator = torch.Generator().manual_seed(0)
    where = 100 * torch.rand(points, 3, generator=generator) - 50
    where[3] = torch.nan
    E = rigid(
        rotation(torch.tensor([0.0, 0.01, 0.05], dtype=torch.float64)),
        torch.tensor([-1.5, 0.2, 0.0], dtype=torch.float64),
    )
    residual = torch.zeros(points, 3)
    residual[:10, 1] = torch.linspace(0.03, 1.0, 10)
    flow = (transform(E, where.double()) - where.double() + residual).float()
    valid = torch.arange(points) != 3
    instance = torch.where(torch.arange(points) < 10, 7, -1)
    return (
        Estimate(flow, E, residual.norm(dim=1) > 0.05, where[:, 2] < -40, instance, valid),
        where,
        residual,
    )


def test_an_npz_gives_back_what_was_written(tmp_path: Path) -> None:
    estimate, points, residual = toy()
    path = write_flow(tmp_path / "000004.npz", estimate, points, ("000004", "000005"))
    back = read_flow(path)
    assert back.names == ("000004", "000005") and back.method == "toy" and len(back) == 50
    for name in ("flow", "ego_motion", "dynamic", "ground", "valid"):
        torch.testing.assert_close(
            getattr(back, name), getattr(estimate, name), rtol=0, atol=0, equal_nan=True
        )
    assert torch.equal(back.instance, estimate.instance.to(torch.int32))
    assert back.ego_motion.dtype == torch.float64 and back.flow.dtype == torch.float32
    known = estimate.valid
    assert (back.residual[known] - residual[known]).abs().max() < 1e-5 and back.residual[
        3
    ].isnan().all()
    with np.load(path) as plain:  # without this package
        assert plain["flow"].shape == (50, 3) and str(plain["method"]) == "toy"


def test_the_bytes_are_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimate, points, _ = toy()
    first = write_flow(tmp_path / "a.npz", estimate, points).read_bytes()
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert write_flow(tmp_path / "b.npz", estimate, points).read_bytes() == first
    with pytest.raises(InputError, match=r"a\.npz: there is a file"):
        write_flow(tmp_path / "a.npz", estimate, points)
    assert not list(tmp_path.glob(".*"))


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    estimate, points, _ = toy()
    path = write_flow(tmp_path / "a.npz", estimate, points)
    whole = path.read_bytes()
    # A seventh of the bytes, and all of the end record with its comment, for every kind of header.
    for place in {*range(0, len(whole), 7), *range(len(whole) - 100, len(whole))}:
        damaged = bytearray(whole)
        damaged[place] ^= 255
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.npz"):
            read_flow(path)
    path.write_bytes(whole)
    assert len(read_flow(path)) == len(points)


def test_what_is_no_flow_is_not_written(tmp_path: Path) -> None:
    estimate, points, _ = toy()
    with pytest.raises(InputError, match="a flow is written as .npz"):
        write_flow(tmp_path / "a.npy", estimate, points)
    with pytest.raises(InputError, match=r"ground is torch|ground is bool of shape \(49,\)"):
        write_flow(
            tmp_path / "a.npz", dataclasses.replace(estimate, ground=estimate.ground[1:]), points
        )
    with pytest.raises(InputError, match="1 valid points have no finite flow"):
        write_flow(
            tmp_path / "a.npz",
            dataclasses.replace(estimate, valid=torch.ones(50, dtype=torch.bool)),
            points,
        )
    with pytest.raises(InputError, match="rotate and translate only"):
        write_flow(
            tmp_path / "a.npz",
            dataclasses.replace(estimate, ego_motion=2 * estimate.ego_motion),
            points,
        )
    with pytest.raises(InputError, match=r"for points of shape \(49, 3\)"):
        write_flow(tmp_path / "a.npz", estimate, points[1:])
    assert not list(tmp_path.iterdir())


def test_what_is_no_flow_is_not_read(tmp_path: Path) -> None:
    estimate, points, _ = toy()
    path = write_flow(tmp_path / "a.npz", estimate, points)
    whole = path.read_bytes()
    for size in (10, 200, len(whole) // 2, len(whole) - 5):
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut\.npz: truncated or not a readable npz file"):
            read_flow(tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", flow=np.zeros((2, 3)))
    with pytest.raises(InputError, match=r"other\.npz: the archive is not a flow"):
        read_flow(tmp_path / "other.npz")
    with np.load(path) as archive:
        arrays = dict(archive)
    for change, words in (
        ({"dynamic": arrays["dynamic"][1:]}, "dynamic is bool of shape"),
        ({"names": np.array(["a"])}, "expected two"),
        ({"ego_motion": np.zeros((4, 4))}, "rotate and translate"),
        ({"flow": np.zeros((50, 3), dtype=int)}, "flow is int64"),
    ):
        np.savez(tmp_path / "wrong.npz", **{**arrays, **change})
        with pytest.raises(InputError, match=f"wrong.npz: .*{words}"):
            read_flow(tmp_path / "wrong.npz")
    arrays.pop("valid")
    np.savez(tmp_path / "lacks.npz", **arrays)
    with pytest.raises(InputError, match=r"lacks\.npz: the archive lacks valid"):
        read_flow(tmp_path / "lacks.npz")


def test_damaged_files_are_refused_or_read_whole(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    estimate, points, _ = toy()
    npz = write_flow(tmp_path / "a.npz", estimate, points).read_bytes()
    table = write_argoverse(tmp_path, "log", 5, estimate, points, 2).read_bytes()
    random = np.random.default_rng(4)
    for whole, read in ((npz, read_flow), (table, lambda path: read_argoverse(path, 2))):
        refused = 0
        for _ in range(150):
            damaged = bytearray(whole)
            for place in random.integers(0, len(whole), random.integers(1, 6)):
                damaged[place] ^= int(random.integers(1, 256))
            (tmp_path / "damaged").write_bytes(damaged)
            try:
                read(tmp_path / "damaged")  # type: ignore[operator]
            except InputError as error:
                refused += 1
                assert "damaged" in str(error)
        assert refused > 10  # a table has no checksums, an archive has


def test_the_source_is_not_written_to(tmp_path: Path) -> None:
    source = tmp_path / "log" / "sweeps"
    source.mkdir(parents=True)
    (source / "0.bin").write_bytes(b"x")
    for inside in (source, source / "flow", source / ".." / "sweeps" / "x"):
        with pytest.raises(InputError, match="never written into the source"):
            refuse_source(inside, source)
    with pytest.raises(InputError, match="never written"):
        refuse_source(source / "flow", source / "0.bin")
    assert refuse_source(tmp_path / "out", source) == tmp_path / "out"
    assert refuse_source(tmp_path / "log", source) == tmp_path / "log"


def test_argoverse_versions_differ_in_rows_motion_and_columns(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    estimate, points, residual = toy()
    mask = torch.arange(50) < 20
    mask[3] = False
    one = read_argoverse(
        write_argoverse(tmp_path / "1", "log", 315966265259836000, estimate, points, 1, mask), 1
    )
    assert len(one.flow) == 19 and one.valid is None
    torch.testing.assert_close(
        one.flow, estimate.flow[mask].half().float(), rtol=0, atol=0
    )  # with the sensor's own motion
    assert (
        one.dynamic is not None
        and torch.equal(one.dynamic, residual[mask].norm(dim=1) >= 0.05)
        and int(one.dynamic.sum()) == 8
    )
    two = read_argoverse(write_argoverse(tmp_path / "2", "log", 10, estimate, points, 2), 2)
    assert (
        len(two.flow) == 50
        and two.valid is not None
        and two.valid.logical_not().nonzero().flatten().tolist() == [3]
    )
    three = read_argoverse(
        write_argoverse(tmp_path / "3", "log", 315966265259836000, estimate, points, 3), 3
    )
    assert three.valid is None and three.dynamic is None
    wanted = residual.clone()
    wanted[3] = 0
    for back in (two, three):  # without it: what stands is near zero
        assert (back.flow - wanted).abs().max() < 1e-3 and back.flow[10:].abs().max() < 1e-4
    assert {p.name for p in tmp_path.glob("*/log/*")} == {
        "315966265259836000.feather",
        "0000000010.feather",
    }


def test_argoverse_takes_the_motion_of_the_data_set_off(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    estimate, points, residual = toy()
    wrong = dataclasses.replace(estimate, ego_motion=torch.eye(4, dtype=torch.float64))
    back = read_argoverse(
        write_argoverse(tmp_path, "log", 0, wrong, points, 3, ego_motion=estimate.ego_motion), 3
    )
    known = estimate.valid
    assert (back.flow[known] - residual[known]).abs().max() < 1e-3


def test_a_point_without_a_flow_moves_with_the_standing_world(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    estimate, points, residual = toy()
    estimate.flow[5] = torch.nan
    mask = estimate.valid
    one = read_argoverse(write_argoverse(tmp_path, "log", 1, estimate, points, 1, mask), 1)
    standing = (estimate.flow - residual)[4]  # nearly the same there
    assert one.flow[4].isfinite().all() and one.dynamic is not None and not one.dynamic[4]
    at = torch.tensor(5)
    wanted = (transform(estimate.ego_motion, points[at][None].double()) - points[at].double())[
        0
    ].float()
    assert (one.flow[4] - wanted).abs().max() < 2e-3 and standing.isfinite().all()


def test_argoverse_refuses(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow as arrow
    from pyarrow import feather

    estimate, points, _ = toy()
    every = torch.ones(50, dtype=torch.bool)
    for version, sweep, mask, words in (
        (1, 1, None, "give mask="),
        (3, 1, every, "leave mask out"),
        (2, 7, None, "a multiple of 5"),
        (4, 0, None, "must be 1, 2 or 3, got 4"),
        (1, 1, every[1:], "one boolean per point"),
        (1, 1, every, "points that are not finite"),
        (3, -1, None, "time stamp in nanoseconds"),
    ):
        with pytest.raises(InputError, match=words):
            write_argoverse(tmp_path, "log", sweep, estimate, points, version, mask)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not the name of a log"):
        argoverse_path(tmp_path, "a/b", 0, 3)
    with pytest.raises(InputError, match="longer than"):
        write_argoverse(
            tmp_path,
            "log",
            0,
            dataclasses.replace(estimate, flow=1e6 * torch.ones(50, 3)),
            points,
            3,
        )
    path = write_argoverse(tmp_path, "log", 5, estimate, points, 2)
    with pytest.raises(InputError, match="version 3 has flow_tx_m"):
        read_argoverse(path, 3)
    full = {name: np.zeros(3, np.float32) for name in ("flow_tx_m", "flow_ty_m", "flow_tz_m")}
    feather.write_feather(arrow.table(full), tmp_path / "full.feather")
    with pytest.raises(InputError, match="the column flow_tx_m is float32; version 3 has float16"):
        read_argoverse(tmp_path / "full.feather", 3)
    nan = {name: np.full(3, np.nan, np.float16) for name in full}
    feather.write_feather(arrow.table(nan), tmp_path / "nan.feather")
    with pytest.raises(InputError, match="3 flows are not finite"):
        read_argoverse(tmp_path / "nan.feather", 3)
    (tmp_path / "cut.feather").write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"cut\.feather: truncated or not a readable feather"):
        read_argoverse(tmp_path / "cut.feather", 2)


def test_packing_checks_and_names(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    estimate, points, _ = toy()
    for index in (0, 5, 10):
        write_argoverse(tmp_path / "two", "log", index, estimate, points, 2)
    first = pack_argoverse(tmp_path / "two", tmp_path / "two.zip", 2)
    with zipfile.ZipFile(first) as archive:
        assert sorted(archive.namelist()) == [
            "log/0000000000.feather",
            "log/0000000005.feather",
            "log/0000000010.feather",
            "metadata.json",
        ]
        assert json.loads(archive.read("metadata.json")) == {"Is Supervised?": False}
        assert (
            archive.read("log/0000000005.feather")
            == (tmp_path / "two/log/0000000005.feather").read_bytes()
        )
    assert (
        pack_argoverse(tmp_path / "two", tmp_path / "again.zip", 2).read_bytes()
        == first.read_bytes()
    )
    with pytest.raises(InputError, match="the columns are"):
        pack_argoverse(tmp_path / "two", tmp_path / "three.zip", 3)
    (tmp_path / "two/log/0000000005.feather").unlink()
    with pytest.raises(InputError, match=r"0000000005\.feather is missing before"):
        pack_argoverse(tmp_path / "two", tmp_path / "gap.zip", 2)
    with pytest.raises(InputError, match="no flow to pack"):
        pack_argoverse(tmp_path / "empty", tmp_path / "e.zip", 3)
    assert {p.name for p in tmp_path.glob("*.zip")} == {"two.zip", "again.zip"}


def test_the_official_mask(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow as arrow
    from pyarrow import feather

    feather.write_feather(
        arrow.table({"mask": np.array([True, False, True])}), tmp_path / "m.feather"
    )
    with zipfile.ZipFile(tmp_path / "masks.zip", "w") as archive:
        archive.write(tmp_path / "m.feather", "log/12.feather")
    assert argoverse_mask(tmp_path / "masks.zip", "log", 12).tolist() == [True, False, True]
    with pytest.raises(InputError, match=r"no mask log/13\.feather"):
        argoverse_mask(tmp_path / "masks.zip", "log", 13)
    (tmp_path / "cut.zip").write_bytes((tmp_path / "masks.zip").read_bytes()[:50])
    with pytest.raises(InputError, match=r"cut\.zip: truncated"):
        argoverse_mask(tmp_path / "cut.zip", "log", 12)


def test_residual_in_double_precision_far_from_the_sensor() -> None:
    E = rigid(
        rotation(torch.tensor([0.0, 0.0, 0.3], dtype=torch.float64)),
        torch.tensor([5.0, 0.0, 0.0], dtype=torch.float64),
    )
    points = torch.tensor([[200.0, 150.0, 2.0]])
    flow = (transform(E, points.double()) - points.double()).float()
    assert residual_flow(flow, points, E).abs().max() < 1e-5
