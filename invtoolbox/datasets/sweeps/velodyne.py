"""Reader of the packets of Velodyne's lidars of 16 lasers: VLP-16, Puck Hi-Res and VLI-16.

Source: Velodyne's VLP-16 User Manual, 63-9243, chapter 9 (angles, corrections, times).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from invtoolbox.datasets.sweeps.packets import Datagram, read_datagrams
from invtoolbox.datasets.sweeps.sweep_files import Recording
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import Sweep

#: Sizes of a data packet (VLP-16, VLI-16), and the flag of its first block.
SIZES, FLAG = (1206, 1212), b"\xff\xee"
#: Models by their number in the packet. Those of 16 lasers are read.
_MODELS = {0x21: "HDL-32E", 0x22: "VLP-16", 0x24: "Puck Hi-Res", 0x10: "VLI-16"}
_MODELS |= {0x28: "VLP-32C", 0xA1: "VLS-128"}
#: Elevation of every laser in the order of firing, degrees, and its height above the origin of the
#: sensor, millimetres. Those of Puck Hi-Res follow by the second numbers.
_ELEVATION = np.stack([np.arange(-15, 0, 2), np.arange(1, 16, 2)], axis=1).reshape(-1)
_HEIGHTS = {
    0x22: (11.2, 9.7, 8.1, 6.6, 5.1, 3.7, 2.2, 0.7),
    0x24: (7.4, 6.5, 5.5, 4.6, 3.7, 2.7, 1.8, 0.9),
}
#: Microseconds from block to block, from the first to the second firing of a block, from laser to laser.
_BLOCK, _FIRING, _LASER = 110.592, 55.296, 2.304
_HOUR = 3600e6
_DUAL = 0x39
#: Hundredths of a degree by which an azimuth falls if a new turn begins.
_WRAP = 1000
#: Share of the usual number of blocks below which the first and the last turn are left out.
_WHOLE = 0.9


def _packet(size: int) -> np.dtype:
    channel = np.dtype([("distance", "<u2"), ("reflectivity", "u1")])
    block = np.dtype([("flag", "<u2"), ("azimuth", "<u2"), ("returns", channel, (2, 16))])
    return np.dtype(
        {
            "names": ["blocks", "time", "mode", "model"],
            "formats": [(block, 12), "<u4", "u1", "u1"],
            "offsets": [0, size - 6, size - 2, size - 1],
            "itemsize": size,
        }
    )


class VelodynePackets(Recording):
    """Sweeps of a recording of a Velodyne lidar of 16 lasers, with one sweep per turn.

    A turn begins if the azimuth passes 0. An incomplete first or last turn is left out if there are
    others. Points have x to the front (azimuth 0) and y to the left, in the order of time; rings
    are numbered from the lowest one. Both returns of dual mode are kept.

    Args:
        path: the recording, pcap or pcapng.
        packets: data packets of the recording.
        poses: file of the sensor's poses, one per sweep.

    Raises:
        InputError: another model of Velodyne.
    """

    def __init__(
        self,
        path: Path,
        packets: Sequence[Datagram],
        poses: str | os.PathLike[str] | None = None,
    ) -> None:
        self.packets, self.packet = packets, _packet(packets[0].size)
        azimuths, times = [], []
        for k in range(0, len(packets), 4096):
            content = read_datagrams(path, packets[k : k + 4096]).view(self.packet)[:, 0]
            azimuths.append(content["blocks"]["azimuth"].reshape(-1).astype(np.int64))
            times.append(content["time"].astype(np.float64))
        self.mode, self.model = int(content["mode"][-1]), int(content["model"][-1])
        if self.model not in (0x10, *_HEIGHTS):
            model = _MODELS.get(self.model, f"model {self.model:#x}")
            raise InputError(
                f"{path}: the packets are of a Velodyne {model}, and those of the VLP-16 are read; "
                "convert the recording to .pcd or .las with VeloView"
            )
        # The clock of the sensor counts the microseconds of an hour.
        self.times = np.unwrap(np.concatenate(times), period=_HOUR)
        azimuth = np.concatenate(azimuths)
        cuts = [0, *(np.flatnonzero(np.diff(azimuth) < -_WRAP) + 1), len(azimuth)]
        turns = list(itertools.pairwise(cuts))
        usual = _WHOLE * float(np.median([stop - start for start, stop in turns]))
        for end in (0, -1):
            if len(turns) > 1 and turns[end][1] - turns[end][0] < usual:
                del turns[end]
        self.turns = turns
        super().__init__(path, len(turns), poses)

    def _read(self, index: int) -> Sweep:
        start, stop = self.turns[index]
        first, last = start // 12, -(-stop // 12)
        content = read_datagrams(self.file, self.packets[first:last]).view(self.packet)[:, 0]
        blocks = content["blocks"].reshape(-1)[start - 12 * first : stop - 12 * first]
        # In dual mode two blocks of one azimuth hold the last and the strongest return.
        step = 2 if self.mode == _DUAL else 1
        sequence = (np.arange(12) // step) * _BLOCK
        block_times = (self.times[first:last, None] + sequence).reshape(-1)
        block_times = block_times[start - 12 * first : stop - 12 * first]
        since = _FIRING * np.arange(2)[:, None] + _LASER * np.arange(16)
        azimuth = blocks["azimuth"].astype(np.float64)
        # 9.5: the azimuth advances evenly from block to block; of lost blocks, as it usually does.
        gap = np.diff(azimuth, append=azimuth[-1:]) if step == 1 else azimuth * 0
        if step == 2:
            gap[:-2] = azimuth[2:] - azimuth[:-2]
        gap %= 36000
        usual = float(np.median(gap[gap > 0])) if (gap > 0).any() else 0.0
        gap[(gap == 0) | (gap > 2 * usual)] = usual
        turn = np.radians((azimuth[:, None, None] + gap[:, None, None] * since / _BLOCK) / 100)
        metres = 0.002 * blocks["returns"]["distance"]
        heights = np.array(_HEIGHTS.get(self.model, _HEIGHTS[0x22]))
        scale = 2 / 3 if self.model == 0x24 else 1.0
        rise = np.radians(scale * _ELEVATION)
        # 9.2, with the manual's y (front) and x (right) as x and -y.
        places = np.stack(
            [
                metres * np.cos(rise) * np.cos(turn),
                -metres * np.cos(rise) * np.sin(turn),
                metres * np.sin(rise) + np.stack([heights, -heights[::-1]], 1).reshape(-1) / 1000,
            ],
            axis=3,
        )
        places[metres == 0] = 0
        ring = np.where(_ELEVATION < 0, np.arange(16) // 2, 8 + np.arange(16) // 2)
        times = (block_times - block_times[0])[:, None, None] + since
        return self.sweep(
            index,
            torch.from_numpy(places.reshape(-1, 3).astype(np.float32)),
            float(block_times[0]) / 1e6,
            time=torch.from_numpy((times / 1e6).reshape(-1).astype(np.float32)),
            intensity=torch.from_numpy(
                blocks["returns"]["reflectivity"].reshape(-1).astype(np.float32)
            ),
            ring=torch.from_numpy(np.broadcast_to(ring, metres.shape).reshape(-1).copy()),
        )
