"""Reader of the packets of Ouster's lidars, with the metadata of the sensor (JSON).

Source: Ouster's documentation, "Lidar data packet format" and "Sensor coordinate frames".
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from invtoolbox.core.checks import reading, require_keys
from invtoolbox.datasets.sweeps.packets import Datagram, read_datagrams
from invtoolbox.datasets.sweeps.sweep_files import Recording
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import Sweep

#: Layout of a channel by profile: number of bytes, mask of the range in its first word, bits by which
#: it is shifted to millimetres, and place of the reflectivity. Of two returns, the first is read.
_CHANNELS = {
    "LEGACY": (12, 0xFFFFF, 0, 4),
    "RNG19_RFL8_SIG16_NIR16": (12, 0x7FFFF, 0, 4),
    "RNG19_RFL8_SIG16_NIR16_DUAL": (16, 0x7FFFF, 0, 3),
    "RNG15_RFL8_NIR8": (4, 0x7FFF, 3, 2),
    "FUSA_RNG15_RFL8_NIR8_DUAL": (8, 0x7FFF, 3, 2),
}


class OusterMetadata:
    """Facts of a sensor that its packets do not hold, from its metadata file.

    Args:
        path: the JSON file that the sensor, ``ouster-cli`` or Ouster Studio wrote.

    Raises:
        InputError: a missing key, or a profile of packets that is not read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        with reading(path, "JSON") as file:
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            # Older files hold all but the format at the top; newer ones have a table per subject.
            for table in [table for table in content.values() if isinstance(table, dict)]:
                content.update(table)
            needed = ("beam_altitude_angles", "beam_azimuth_angles", "lidar_mode")
            places = ("lidar_to_sensor_transform", "lidar_origin_to_beam_origin_mm")
            require_keys(
                f"{file}: the metadata of an Ouster sensor lack",
                (*needed, *places),
                content,
                "save them from http://SENSOR/api/v1/sensor/metadata",
            )
            self.profile = content.get("udp_profile_lidar", "LEGACY")
            if self.profile not in _CHANNELS:
                raise InputError(
                    f"{file}: the packets have the profile {self.profile}, and {', '.join(_CHANNELS)} "
                    "are read; convert the recording by `ouster-cli source FILE.pcap save FILE.bag`"
                )
            self.altitude, self.azimuth = (
                np.radians(np.array(content[name], np.float64)) for name in needed[:2]
            )
            self.columns = int(
                content.get("columns_per_frame", content["lidar_mode"].split("x")[0])
            )
            self.port = content.get("udp_port_lidar")
            distance = float(content["lidar_origin_to_beam_origin_mm"])
            beam = np.diag([1.0, 1.0, 1.0, 1.0])
            beam[0, 3] = distance
            self.beam = np.array(content.get("beam_to_lidar_transform", beam)).reshape(4, 4)
            self.to_sensor = np.array(content[places[0]], np.float64).reshape(4, 4)
            self.packet = self._packet(int(content.get("columns_per_packet", 16)))
            if self.altitude.shape != self.azimuth.shape or not 0 < self.columns <= 4096:
                raise InputError(f"{file}: numbers of beams and columns do not fit; save it again")

    def _packet(self, count: int) -> np.dtype:
        """Return the type of a packet of a number of columns."""
        size, _, _, place = _CHANNELS[self.profile]
        channel = np.dtype(
            {
                "names": ["range", "reflectivity"],
                "formats": ["<u4", "u1"],
                "offsets": [0, place],
                "itemsize": size,
            }
        )
        head, tail = (16, 4) if self.profile == "LEGACY" else (12, 0)
        beams, length = len(self.altitude), head + size * len(self.altitude) + tail
        column = np.dtype(
            {
                "names": ["time", "number", "status", "channels"],
                "formats": ["<u8", "<u2", "<u2", (channel, beams)],
                # LEGACY has the status behind the channels, 0xFFFFFFFF if the column is valid.
                "offsets": [0, 8, length - 4 if tail else 10, head],
                "itemsize": length,
            }
        )
        # LEGACY has no header but a frame number in every column; FUSA's has 32 bits.
        frame, start, end = {"L": ("<u2", 0, 0), "F": ("<u4", 32, 32)}.get(
            self.profile[0], ("<u2", 32, 32)
        )
        at = {"L": 10, "F": 4}.get(self.profile[0], 2)
        return np.dtype(
            {
                "names": ["frame", "columns"],
                "formats": [frame, (column, count)],
                "offsets": [at, start],
                "itemsize": start + count * length + end,
            }
        )

    def points(self, millimetres: np.ndarray) -> np.ndarray:
        """Compute the points of ranges, float64 ``(beams, columns, 3)``, metres.

        With the range r, the offset n of the beam's origin, the angle e of the encoder and the
        angles a and f of the beam, a point of the lidar's frame is
        ``(r - n) (cos(e + a) cos f, sin(e + a) cos f, sin f) + (b cos e, b sin e, c)``.

        Args:
            millimetres: ranges ``(beams, columns)``; a range of 0 gives the point 0.
        """
        (b, c), n = self.beam[[0, 2], 3], float(np.hypot(*self.beam[[0, 2], 3]))
        encoder = 2 * np.pi * (1 - np.arange(self.columns) / self.columns)
        turn, rise = encoder - self.azimuth[:, None], self.altitude[:, None]
        sight = np.stack(
            np.broadcast_arrays(
                np.cos(turn) * np.cos(rise), np.sin(turn) * np.cos(rise), np.sin(rise)
            ),
            axis=2,
        )
        origin = np.stack([b * np.cos(encoder), b * np.sin(encoder), np.full(len(encoder), c)], 1)
        places = (millimetres - n)[..., None] * sight + origin
        places = places @ self.to_sensor[:3, :3].T + self.to_sensor[:3, 3]
        return np.where(millimetres[..., None] > 0, places / 1000, 0.0)


class OusterPackets(Recording):
    """Sweeps of a recording of an Ouster lidar, with one sweep per frame.

    Points are in the sensor's frame, x to its front (away from the connector), row by row of the
    image of the beams, so that the beam of the highest elevation comes first; a beam without return
    gives a zero. Every column has a time, and intensities are reflectivities.

    Args:
        path: the recording, pcap or pcapng.
        datagrams: datagrams of the recording.
        metadata: metadata of the sensor.
        poses: file of the sensor's poses, one per sweep.
    """

    def __init__(
        self,
        path: Path,
        datagrams: Sequence[Datagram],
        metadata: OusterMetadata,
        poses: str | os.PathLike[str] | None = None,
    ) -> None:
        self.metadata, size = metadata, metadata.packet.itemsize
        packets = [datagram for datagram in datagrams if datagram.size == size]
        streams = sorted({datagram.stream for datagram in packets})
        if len(streams) > 1:
            packets = [datagram for datagram in packets if datagram.stream[1] == metadata.port]
            if len({datagram.stream for datagram in packets}) != 1:
                raise InputError(
                    f"{path}: the recording holds packets of {len(streams)} sensors; write those of "
                    "one into a file of their own (tcpdump -r FILE.pcap -w ONE.pcap src host ADDRESS)"
                )
        # Only the number of the frame of each packet is read here; it may begin anew at 65536.
        file, numbers = np.memmap(path, np.uint8, "r"), []
        field = metadata.packet.fields["frame"]  # type: ignore[index]
        for datagram in packets:
            place = datagram.pieces[0][0] + field[1]
            numbers.append(int(file[place : place + field[0].itemsize].view(field[0])[0]))
        frames = np.unwrap(np.array(numbers, np.int64), period=65536)
        self.frames = [
            [packets[k] for k in np.flatnonzero(frames == frame)] for frame in np.unique(frames)
        ]
        super().__init__(path, len(self.frames), poses)

    def _read(self, index: int) -> Sweep:
        metadata = self.metadata
        packets = read_datagrams(self.file, self.frames[index]).view(metadata.packet)
        columns = packets["columns"].reshape(-1)
        columns = columns[(columns["status"] & 1 > 0) & (columns["number"] < metadata.columns)]
        _, mask, shift, _ = _CHANNELS[metadata.profile]
        shape, place = (len(metadata.altitude), metadata.columns), columns["number"]
        millimetres, reflectivity = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        times, start = np.zeros(shape, np.float32), int(columns["time"].min(initial=2**63))
        millimetres[:, place] = ((columns["channels"]["range"] & mask) << shift).T
        reflectivity[:, place] = columns["channels"]["reflectivity"].T
        times[:, place] = (columns["time"] - np.uint64(start)) / 1e9
        ring = torch.arange(shape[0]).repeat_interleave(shape[1])
        return self.sweep(
            index,
            torch.from_numpy(metadata.points(millimetres).reshape(-1, 3).astype(np.float32)),
            start / 1e9,
            time=torch.from_numpy(times.reshape(-1)),
            intensity=torch.from_numpy(reflectivity.reshape(-1)),
            ring=ring,
        )
