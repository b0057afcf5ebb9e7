"""Small recordings of event cameras in every format, written as their documentation says."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from invtoolbox.geometry.events import Events

RNG = np.random.default_rng(3)
N = 60
X, Y = RNG.integers(0, 30, N), RNG.integers(0, 20, N)
T = np.sort(RNG.integers(1_000, 40_000, N))  # microseconds
P = RNG.integers(0, 2, N)
SIZE = (20, 30)


def events() -> Events:
    return Events.of(X, Y, T * 1e-6, P, SIZE)


def write_npz(path: Path) -> Path:
    from invtoolbox import datasets

    return datasets.write_events(path, events())


def write_text(path: Path) -> Path:
    lines = [f"{t * 1e-6:.6f} {x} {y} {p}" for t, x, y, p in zip(T, X, Y, P)]
    path.write_text("# t x y p\n" + "\n".join(lines) + "\n")
    return path


def write_dsec(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["t_offset"] = np.int64(5_000_000)
        for name, values in (("x", X), ("y", Y), ("t", T), ("p", P)):
            file.create_dataset(f"events/{name}", data=values.astype("u4"), compression="gzip")
    return path


def write_mvsec(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["davis/left/events"] = np.stack([X, Y, T * 1e-6, 2 * P - 1], 1).astype(float)
    return path


def write_dat(path: Path) -> Path:
    body = np.stack([T, X | Y << 14 | P << 28], 1).astype("<u4").tobytes()
    head = b"% Data file containing Event2D events.\n% Version 2\n% Height 20\n% Width 30\n"
    path.write_bytes(head + bytes((12, 8)) + body)
    return path


def write_evt3(path: Path) -> Path:
    """Words of single pixels, and of a vector of 12 and one of 8 pixels at the end."""
    words: list[int] = []
    for t, x, y, p in zip(T, X, Y, P):
        words += [0x8000 | t >> 12, 0x6000 | t & 0xFFF, y, 0x2000 | p << 11 | x]
    words += [0x3000 | 1 << 11 | 4, 0x4000 | 0b101, 0x5000 | 0b10]
    head = b"% evt 3.0\n% format EVT3;height=20;width=30\n% geometry 30x20\n% end\n"
    path.write_bytes(head + np.array(words, "<u2").tobytes())
    return path


def write_evt2(path: Path) -> Path:
    words: list[int] = []
    for t, x, y, p in zip(T, X, Y, P):
        words += [
            0x80000000 | int(t) >> 6,
            int(p) << 28 | (int(t) & 63) << 22 | int(x) << 11 | int(y),
        ]
    head = b"% evt 2.0\n% geometry 30x20\n% end\n"
    path.write_bytes(head + np.array(words, "<u4").tobytes())
    return path


def write_aedat4(path: Path) -> Path:
    """Two packets of events and one of another stream, as flatbuffers, without compression."""
    text = (
        b'<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/">'
        b'<node name="0" path="/mainloop/Recorder/outInfo/0/">'
        b'<attr key="typeIdentifier" type="string">EVTS</attr>'
        b'<node name="info" path="/mainloop/Recorder/outInfo/0/info/">'
        b'<attr key="sizeX" type="int">30</attr><attr key="sizeY" type="int">20</attr></node></node>'
        b'<node name="1" path="/mainloop/Recorder/outInfo/1/">'
        b'<attr key="typeIdentifier" type="string">IMUS</attr></node></node></dv>'
    )
    # Root offset, identifier, vtable (4 fields of 2 bytes, padded), table: vtable, string, position.
    vtable = struct.pack("<HHHHHH", 10, 20, 0, 12, 8, 0)
    table = struct.pack("<iiiq", 12, 0, 12, -1)
    header = struct.pack("<I4s", 20, b"IOHE") + vtable + table + struct.pack("<I", len(text)) + text
    packets = b""
    for part in (slice(0, 25), slice(25, N)):
        rows: Any = np.zeros(len(T[part]), [("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "<i4")])
        rows["t"], rows["x"], rows["y"], rows["p"] = T[part], X[part], Y[part], P[part]
        body = struct.pack("<I4s", 16, b"EVTS") + struct.pack("<HHHH", 6, 8, 4, 0)
        body += struct.pack("<iI", 8, 4) + struct.pack("<I", len(rows)) + rows.tobytes()
        packet = struct.pack("<I", len(body)) + body
        packets += struct.pack("<ii", 0, len(packet)) + packet
        packets += struct.pack("<ii", 1, 3) + b"imu"
    path.write_bytes(b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(header)) + header + packets)
    return path


#: A recording of every reader, and of its variants, with the reader's name.
SETS = {
    "events.aedat4": ("aedat4", write_aedat4),
    "events.dat": ("prophesee-dat", write_dat),
    "events.raw": ("prophesee-raw", write_evt3),
    "events evt2.raw": ("prophesee-raw", write_evt2),
    "dsec.h5": ("events-hdf5", write_dsec),
    "mvsec.h5": ("events-hdf5", write_mvsec),
    "events.npz": ("events-npz", write_npz),
    "events.txt": ("events-text", write_text),
}
