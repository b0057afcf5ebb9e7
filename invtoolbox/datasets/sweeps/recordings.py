"""Recordings of network packets of every sensor, and formats that are known but not read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from invtoolbox.core.checks import require_file
from invtoolbox.datasets.sweeps.ouster import OusterMetadata, OusterPackets
from invtoolbox.datasets.sweeps.packets import Datagram, list_datagrams, read_datagrams
from invtoolbox.datasets.sweeps.velodyne import FLAG, SIZES, VelodynePackets
from invtoolbox.errors import InputError

#: Readers of recordings by the suffix of the file.
RECORDINGS = {
    **{".pcap": "pcap", ".pcapng": "pcap", ".cap": "pcap"},
    **{".bag": "bag", ".mcap": "bag"},
}
#: Formats that are not read, by the end of the name of the file, and the way to one that is.
_OTHERS = {
    ".osf": "Ouster's recording; write it as a bag by `ouster-cli source FILE.osf save FILE.bag`",
    ".pkl.gz": "a pickle (PandaSet), which can run any program when it is read; write each sweep as "
    ".npy with PandaSet's devkit: numpy.save(name, "
    "geometry.lidar_points_to_ego(sweep.to_numpy()[:, :3], pose))",
    ".tfrecord": "Waymo's version 1; fetch version 2 (.parquet) of the Perception Dataset",
    ".db3": "the messages of a ROS 2 bag; give its folder, which `ros2 bag reindex FOLDER` completes",
    ".active": "a ROS 1 bag that was not closed; mend it by `rosbag reindex FILE.bag.active`",
    ".lvx": "Livox's recording; write it as .las or .pcd with Livox Viewer",
    ".lvx2": "Livox's recording; write it as .las or .pcd with Livox Viewer 2",
    ".e57": "a scan of a tripod; write it as .laz by `pdal translate FILE.e57 FILE.laz`",
    ".rxp": "RIEGL's recording; write it as .laz with RiSCAN PRO",
    ".rdbx": "RIEGL's database; write it as .laz by `rdbconvert`",
    ".rosbag": "named in no known way; name a ROS 1 bag .bag, and give a ROS 2 bag as its folder",
    ".xyz": "text; write it as .npy: numpy.save(name, numpy.loadtxt(file))",
    ".pts": "text; write it as .npy: numpy.save(name, numpy.loadtxt(file, skiprows=1))",
    ".csv": "text; write its columns x, y, z, intensity as .npy by numpy.loadtxt and numpy.save",
}


def refuse_others(files: Iterable[Path]) -> None:
    """Raise an `InputError` that names the converter if a file is of a known format that is not read.

    Args:
        files: the files.
    """
    for file in files:
        for suffix, way in _OTHERS.items():
            if file.name.lower().endswith(suffix):
                raise InputError(f"{file}: this is {way}")


def open_packets(
    path: str | os.PathLike[str],
    calibration: str | os.PathLike[str] | None = None,
    poses: str | os.PathLike[str] | None = None,
) -> OusterPackets | VelodynePackets:
    """Open a recording of the packets of an Ouster lidar, or of a Velodyne VLP-16.

    Args:
        path: path of a pcap or pcapng file.
        calibration: JSON file of the metadata of the Ouster sensor; by default the file of the same
            name next to the recording, or the only one whose name begins or ends alike.
        poses: file of the sensor's poses, one per sweep (see `read_poses`).

    Raises:
        InputError: no known packet; missing metadata; a damaged recording.
    """
    file = require_file(path)
    datagrams = list_datagrams(file)
    packets = [d for d in datagrams if d.size in SIZES and _head(file, d)[:2] == FLAG]
    if packets:
        streams = {datagram.stream for datagram in packets}
        if len(streams) > 1 or len({datagram.size for datagram in packets}) > 1:
            raise InputError(
                f"{file}: the recording holds packets of {len(streams)} Velodyne sensors; write those "
                "of one into a file of their own (tcpdump -r FILE.pcap -w ONE.pcap src host ADDRESS)"
            )
        return VelodynePackets(file, packets, poses)
    metadata = calibration if calibration is not None else _metadata_of(file)
    largest = max(datagrams, key=lambda datagram: datagram.size)
    if metadata is None:
        head = _head(file, largest)
        others = {b"\xee\xff": "Hesai", b"\x55\xaa": "RoboSense"}
        if head[:2] in others:
            maker = others[head[:2]]
            way = f"these are packets of a {maker} lidar; record the clouds of its ROS driver"
        else:
            way = (
                "no JSON file of the metadata of an Ouster sensor lies next to the recording; give it "
                "with calibration= (it comes from http://SENSOR/api/v1/sensor/metadata), or, of another "
                "sensor, record the clouds of its ROS driver"
            )
        raise InputError(f"{file}: {way}")
    sensor = OusterMetadata(metadata)
    size = sensor.packet.itemsize
    if all(datagram.size != size for datagram in datagrams):
        raise InputError(
            f"{file}: by {metadata}, packets of the lidar have {size:,} bytes, and the largest ones "
            f"have {largest.size:,}; give the metadata of this sensor with calibration="
        )
    return OusterPackets(file, datagrams, sensor, poses)


def _head(file: Path, datagram: Datagram) -> bytes:
    place, length = datagram.pieces[0]
    beginning = Datagram(datagram.stream, min(length, 4), ((place, min(length, 4)),))
    return read_datagrams(file, [beginning]).tobytes() if length else b""


def _metadata_of(file: Path) -> Path | None:
    exact = file.with_suffix(".json")
    near = [
        json_file
        for json_file in sorted(file.parent.glob("*.json"))
        if json_file.stem.startswith(file.stem) or file.stem.startswith(json_file.stem)
    ]
    return exact if exact.is_file() else near[0] if len(near) == 1 else None
