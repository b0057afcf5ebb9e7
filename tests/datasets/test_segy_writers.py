"""SEG-Y files that segyio wrote: formats, byte orders, unequal shots, stale headers, scalars, tables."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from invtoolbox import InputError, datasets

segyio: Any = pytest.importorskip("segyio")
Field: Any = segyio.TraceField

#: Number of traces of every shot, as on land, and samples of a trace.
COUNTS, SAMPLES = (10, 13, 26), 7
TRACES = sum(COUNTS)
SHOTS = np.repeat(np.arange(len(COUNTS)), COUNTS)
CHANNELS = np.concatenate([np.arange(count) for count in COUNTS])


def survey(
    path: Path,
    code: int = 5,
    endian: str = "big",
    fields: Mapping[int, Sequence[int] | int] | None = None,
    binary: Mapping[int, int] | None = None,
) -> np.ndarray:
    """Write three shots of different numbers of receivers; return the traces.

    Args:
        path: the file.
        code: format of the samples.
        endian: byte order.
        fields: fields of the headers of the traces, in addition to the places.
        binary: fields of the binary header.
    """
    spec = segyio.spec()
    spec.format, spec.samples, spec.endian = code, np.arange(SAMPLES) * 4.0, endian
    spec.tracecount = TRACES
    values = 100 * np.random.default_rng(3).standard_normal((TRACES, SAMPLES))
    values = values.astype({2: np.int32, 3: np.int16, 8: np.int8}.get(code, np.float32))
    headers: dict[int, Any] = {
        Field.FieldRecord: 100 + SHOTS,
        Field.SourceX: 500 * SHOTS,
        Field.GroupX: 25 * CHANNELS,
        Field.ReceiverGroupElevation: 300 + CHANNELS,
        Field.SourceSurfaceElevation: 310,
        Field.SourceDepth: 10,
        **(fields or {}),
    }
    with segyio.create(path, spec) as file:
        file.bin.update(
            {segyio.BinField.Interval: 4000, segyio.BinField.MeasurementSystem: 1, **(binary or {})}
        )
        for trace in range(TRACES):
            file.header[trace] = {
                key: int(np.broadcast_to(value, TRACES)[trace]) for key, value in headers.items()
            }
            file.trace[trace] = values[trace]
    return values


@pytest.mark.parametrize("endian", ["big", "little"])
@pytest.mark.parametrize("code", [1, 2, 3, 5, 8])
def test_formats_and_byte_orders(tmp_path: Path, code: int, endian: str) -> None:
    path = tmp_path / "line.sgy"
    survey(path, code, endian)
    with segyio.open(path, ignore_geometry=True, endian=endian) as file:
        expected = torch.from_numpy(np.stack([trace.copy() for trace in file.trace])).float()
    seismic = datasets.read_segy(path)
    assert seismic.records.shape == (3, 26, SAMPLES) and seismic.time_step == pytest.approx(4e-3)
    assert torch.equal(seismic.records[seismic.mask], expected)


def test_unequal_shots_have_a_mask(tmp_path: Path) -> None:
    path = tmp_path / "line.sgy"
    values = survey(path)
    seismic = datasets.read_segy(path)
    assert seismic.mask.sum(1).tolist() == list(COUNTS)
    assert not seismic.records[~seismic.mask].any()
    assert torch.equal(seismic.records[1, :13], torch.from_numpy(values[10:23]))
    # The surface of the first shot is highest; a missing receiver is at the place of the first.
    assert torch.equal(seismic.receivers[0, 9:11, 0], torch.tensor([16.0, 25.0]).double())
    assert torch.equal(seismic.receivers[0, 10:], seismic.receivers[0, :1].expand(16, -1))
    assert any("10 to 26 receivers" in note for note in seismic.notes)


def test_stale_headers_of_a_cropped_volume(tmp_path: Path) -> None:
    path = tmp_path / "line.sgy"
    values = survey(path, fields={Field.TRACE_SAMPLE_COUNT: 1500})
    seismic = datasets.read_segy(path)
    assert torch.equal(seismic.records[seismic.mask], torch.from_numpy(values))
    assert any(f"{TRACES} of {TRACES} headers of traces" in note for note in seismic.notes)
    # The other way round, the binary header is out of date.
    survey(path, fields={Field.TRACE_SAMPLE_COUNT: SAMPLES}, binary={segyio.BinField.Samples: 900})
    seismic = datasets.read_segy(path)
    assert torch.equal(seismic.records[seismic.mask], torch.from_numpy(values))
    assert any("the binary header states 900 samples" in note for note in seismic.notes)


@pytest.mark.parametrize(("scalar", "factor"), [(10, 10.0), (-100, 0.01), (0, 1.0), (1, 1.0)])
@pytest.mark.parametrize(("system", "metres"), [(1, 1.0), (2, 0.3048)])
def test_scalars_and_units(
    tmp_path: Path, scalar: int, factor: float, system: int, metres: float
) -> None:
    path = tmp_path / "line.sgy"
    fields = {Field.SourceGroupScalar: scalar, Field.ElevationScalar: -scalar}
    survey(path, fields=fields, binary={segyio.BinField.MeasurementSystem: system})
    seismic = datasets.read_segy(path)
    along = torch.tensor([0.0, 500.0, 1000.0], dtype=torch.float64) * factor * metres
    torch.testing.assert_close(seismic.shots[:, 1], along)
    # The highest receiver, of 325, lies above the surface of the shots, 310, and 10 above them.
    inverse = 1 / factor if scalar else 1.0
    depth = torch.full((3,), 25.0, dtype=torch.float64) * inverse * metres
    torch.testing.assert_close(seismic.shots[:, 0], depth)


def test_dead_and_auxiliary_traces_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "line.sgy"
    kinds = np.ones(TRACES, int)
    kinds[[0, 12, 48]] = 2, 6, 9
    values = survey(path, fields={Field.TraceIdentificationCode: kinds})
    seismic = datasets.read_segy(path)
    assert seismic.mask.sum(1).tolist() == [9, 12, 26]
    assert torch.equal(seismic.records[0, 0], torch.from_numpy(values[1]))
    assert any(note.startswith("2 traces are marked") for note in seismic.notes)
    survey(path, fields={Field.TraceIdentificationCode: 2})
    with pytest.raises(InputError, match="all its traces are marked"):
        datasets.read_segy(path)


TABLE = "shot,source_x,source_elevation,receiver_x,receiver_elevation\n"


def table(rows: int = TRACES) -> str:
    return TABLE + "".join(
        f"{SHOTS[k]},{50.0 * SHOTS[k]},12.5,{7.5 * CHANNELS[k]},{11 - 0.5 * CHANNELS[k]}\n"
        for k in range(rows)
    )


def test_places_of_a_table(tmp_path: Path) -> None:
    path, places = tmp_path / "line.sgy", tmp_path / "places.csv"
    nowhere = {Field.SourceX: 0, Field.GroupX: 0}
    values = survey(path, fields={**nowhere, Field.FieldRecord: 0, Field.CoordinateUnits: 2})
    with pytest.raises(InputError, match=r"are angles .* geometry="):
        datasets.read_segy(path)
    places.write_text(table())
    seismic = datasets.read_segy(path, geometry=places)
    assert torch.equal(seismic.records[seismic.mask], torch.from_numpy(values))
    shots, receivers = seismic.line()
    assert torch.allclose(shots, torch.tensor([[0.0, 0.0], [0.0, 50.0], [0.0, 100.0]]), atol=1e-4)
    assert torch.allclose(receivers[2, 4], torch.tensor([3.5, 30.0]), atol=1e-4)
    survey(path, fields=nowhere)
    with pytest.raises(InputError, match="at one place; .* --geometry of the command"):
        datasets.read_segy(path).line()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (table(30), "the table has 30 rows, and .*line.sgy has 49 traces; write one row per"),
        (TABLE, "no rows below its names"),
        (table().replace("receiver_x", "group_x"), "'group_x' is unknown; the columns"),
        ("source_x\n1\n", "there is no column 'receiver_x'"),
        ("source_x,receiver_x,source_x\n1,2,3\n", "a column is named twice"),
        (table().replace(",receiver_elevation", ",receiver_y"), "the elevation is stated of one"),
        ("source_x,receiver_x\n1,2,3\n", "row 2 has 3 values for 2 columns"),
        ("source_x,receiver_x\n1,2\nnan,3\n", "row 3 holds a value that is no finite number"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, content: str, message: str) -> None:
    path, places = tmp_path / "line.sgy", tmp_path / "places.csv"
    survey(path)
    places.write_text(content)
    with pytest.raises(InputError, match=message):
        datasets.read_segy(path, geometry=places)


def test_extensions_of_revision_2(tmp_path: Path) -> None:
    path = tmp_path / "line.sgy"
    values = survey(path, binary={segyio.BinField.SEGYRevision: 2})
    plain = path.read_bytes()

    def changed(place: int, kind: str, value: float) -> bytes:
        content = bytearray(plain)
        struct.pack_into(kind, content, place, value)
        return bytes(content)

    # Wider fields of the samples and of the time step, and text behind the traces.
    path.write_bytes(changed(3268, ">i", SAMPLES))
    assert datasets.read_segy(path).records.shape[-1] == SAMPLES
    path.write_bytes(changed(3272, ">d", 2500.5))
    assert datasets.read_segy(path).time_step == pytest.approx(2500.5e-6)
    path.write_bytes(changed(3328, ">i", 1) + bytes(3200))
    seismic = datasets.read_segy(path)
    assert torch.equal(seismic.records[seismic.mask], torch.from_numpy(values))
    path.write_bytes(changed(3506, ">i", 1))
    with pytest.raises(InputError, match="extension headers, which are not read"):
        datasets.read_segy(path)
    # Traces as long as their own headers state: cut two samples of the second one.
    survey(path, fields={Field.TRACE_SAMPLE_COUNT: [7, 5] + [7] * (TRACES - 2)})
    content = path.read_bytes()
    end = 3600 + 2 * (240 + 4 * SAMPLES)
    path.write_bytes(content[: end - 8] + content[end:])
    with pytest.raises(InputError, match="different lengths; cut them to one length"):
        datasets.read_segy(path)
    path.write_bytes(content[:-9])
    with pytest.raises(InputError, match="of 7 samples every 4000 .*48 traces fit, 259 bytes"):
        datasets.read_segy(path)
