"""SEG-Y files: values, places, byte orders, and files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from invtoolbox import InputError, datasets


def write(
    path: Path, code: int = 5, order: str = ">", samples: int = 4, stated: bool = True
) -> Path:
    """A line of 2 shots and 3 receivers at a slope, every 2 ms a sample."""
    head = bytearray(3600)
    for place, value in ((3216, 2000), (3220, samples), (3224, code)):
        head[place : place + 2] = np.array([value], f"{order}u2").tobytes()
    if order == "<" and stated:
        head[3296:3300] = b"\x04\x03\x02\x01"
    content = bytes(head)
    for shot in range(2):
        for receiver in range(3):
            trace = bytearray(240)
            fields = {8: shot + 1, 40: 1000, 44: 1200, 48: 300}
            fields |= {72: 3000 * shot, 76: 4000 * shot, 80: 600 * receiver, 84: 800 * receiver}
            for place, value in fields.items():
                trace[place : place + 4] = np.array([value], f"{order}i4").tobytes()
            for place in (68, 70):
                trace[place : place + 2] = np.array([-100], f"{order}i2").tobytes()
            values = np.resize(np.float32([shot, receiver, -1.5, 118.625]), samples)
            if code == 1:
                words = np.array([ibm(float(v)) for v in values], f"{order}u4")
            else:
                words = values.astype({5: f"{order}f4", 3: f"{order}i2"}[code])
            content += bytes(trace) + words.tobytes()
    path.write_bytes(content)
    return path


def ibm(value: float) -> int:
    """A number as IBM's hexadecimal floating point."""
    if value == 0:
        return 0
    exponent, size = 64, abs(value)
    while size >= 1:
        size, exponent = size / 16, exponent + 1
    while size < 1 / 16:
        size, exponent = size * 16, exponent - 1
    return (int(value < 0) << 31) | (exponent << 24) | round(size * 2**24)


@pytest.mark.parametrize(
    ("code", "order", "stated"),
    [(5, ">", True), (5, "<", True), (5, "<", False), (1, ">", True), (3, ">", True)],
)
def test_values_and_places(tmp_path: Path, code: int, order: str, stated: bool) -> None:
    found = datasets.read_segy(write(tmp_path / "line.sgy", code, order, stated=stated))
    assert found.records.shape == (2, 3, 4) and found.time_step == pytest.approx(2e-3)
    last = [-1.0, 118.0] if code == 3 else [-1.5, 118.625]
    assert torch.equal(found.records[1, 2], torch.tensor([1.0, 2.0, *last]))
    # Surface at 12 m, receivers at 10 m, shots 3 m below the surface; lengths in centimetres.
    assert torch.allclose(found.shots.float(), torch.tensor([[3.0, 0.0, 0.0], [3.0, 30.0, 40.0]]))
    assert torch.allclose(found.receivers[0, 2].float(), torch.tensor([2.0, 12.0, 16.0]))
    shots, receivers = found.line()
    assert torch.allclose(shots, torch.tensor([[3.0, 0.0], [3.0, 50.0]]), atol=1e-4)
    assert torch.allclose(receivers[1, :, 1], torch.tensor([0.0, 10.0, 20.0]), atol=1e-4)


def test_map_coordinates_keep_their_centimetres(tmp_path: Path) -> None:
    path = write(tmp_path / "line.sgy")
    near, content = datasets.read_segy(path), bytearray(path.read_bytes())
    for trace in range(6):
        for place in (72, 76, 80, 84):  # centimetres
            at = slice(3600 + 256 * trace + place, 3604 + 256 * trace + place)
            value = int.from_bytes(content[at], "big") + 560_000_037
            content[at] = value.to_bytes(4, "big")
    path.write_bytes(content)
    for found, expected in zip(datasets.read_segy(path).line(), near.line()):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def patched(path: Path, place: int, value: int) -> bytes:
    """Return the content of a file of six traces with another field of two bytes in each."""
    content = bytearray(path.read_bytes())
    for trace in range(6):
        at = 3600 + 256 * trace + place
        content[at : at + 2] = value.to_bytes(2, "big", signed=True)
    return bytes(content)


def test_fields_of_the_traces_count(tmp_path: Path) -> None:
    path = write(tmp_path / "line.sgy")
    plain = datasets.read_segy(path).records
    path.write_bytes(patched(path, 108, 6))  # milliseconds, at 2 ms per sample
    late = datasets.read_segy(path).records
    assert late.shape == (2, 3, 7) and torch.equal(late[..., 3:], plain) and not late[..., :3].any()
    path.write_bytes(patched(path, 108, -2))
    assert torch.equal(datasets.read_segy(path).records, plain[..., 1:])
    path.write_bytes(patched(path, 108, 3))
    with pytest.raises(InputError, match="between samples"):
        datasets.read_segy(path)
    path.write_bytes(patched(path, 108, 0))
    for place, value in ((114, 4), (116, 2000)):
        path.write_bytes(patched(path, place, value))
    content = path.read_bytes()
    path.write_bytes(content[:3216] + bytes(6) + content[3222:])
    found = datasets.read_segy(path)
    assert found.time_step == pytest.approx(2e-3) and torch.equal(found.records, plain)


def test_a_file_without_places(tmp_path: Path) -> None:
    path = write(tmp_path / "line.sgy")
    content = bytearray(path.read_bytes())
    for trace in range(6):
        content[3600 + 256 * trace + 72 : 3600 + 256 * trace + 88] = bytes(16)
    path.write_bytes(content)
    with pytest.raises(InputError, match="at one place; write their coordinates"):
        datasets.read_segy(path).line()


def test_open_names_the_reader(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line.sgy: .*read_segy"):
        datasets.open(write(tmp_path / "line.sgy"))


def test_feet_become_metres(tmp_path: Path) -> None:
    path = write(tmp_path / "line.sgy")
    metres, content = datasets.read_segy(path), path.read_bytes()
    path.write_bytes(content[:3254] + b"\x00\x02" + content[3256:])
    feet = datasets.read_segy(path)
    torch.testing.assert_close(feet.shots, 0.3048 * metres.shots)
    torch.testing.assert_close(feet.receivers, 0.3048 * metres.receivers)


def test_files_that_are_none(tmp_path: Path) -> None:
    whole = write(tmp_path / "line.sgy").read_bytes()
    broken = tmp_path / "broken.sgy"
    for content, message in (
        (whole[:3700], "ends within its headers"),
        (whole[:-5], "truncated or damaged, traces of 4 samples every 2000"),
        (whole[:3224] + b"\x00\x04" + whole[3226:], "format code 4"),
        (whole[:3296] + b"\x02\x01\x04\x03" + whole[3300:], "swapped in pairs"),
        (whole[:3688] + b"\x00\x02" + whole[3690:], "coordinates are angles"),
    ):
        broken.write_bytes(content)
        with pytest.raises(InputError, match=message):
            datasets.read_segy(broken)
