"""Open lidar sequences of every format; the content of a folder decides which reader reads it.

Recordings of network packets of every sensor are distinguished here, and formats that are known but
not read. A TOML file can describe a simulated street, which is opened in the same way.
"""

from __future__ import annotations

import inspect
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from invtoolbox import simulation
from invtoolbox.catalogue.registry import reader_named, require_settings
from invtoolbox.catalogue.shelves import read_toml
from invtoolbox.core.checks import require_file
from invtoolbox.core.trust import trusting
from invtoolbox.datasets.sweeps.argoverse import Argoverse2
from invtoolbox.datasets.sweeps.bags import Bag
from invtoolbox.datasets.sweeps.folder import (
    LidarFolder,
    OusterFrames,
    first_time,
    folder_of_sweeps,
)
from invtoolbox.datasets.sweeps.kitti import FIRST, KittiOdometry, KittiRaw, KittiSceneFlow
from invtoolbox.datasets.sweeps.nuscenes import NuScenes
from invtoolbox.datasets.sweeps.opensceneflow import OpenSceneFlow, holds_scenes
from invtoolbox.datasets.sweeps.ouster import OusterMetadata, OusterPackets
from invtoolbox.datasets.sweeps.packets import Datagram, list_datagrams, read_datagrams
from invtoolbox.datasets.sweeps.point_files import SUFFIXES
from invtoolbox.datasets.sweeps.sweep_files import SweepFiles, require_folder
from invtoolbox.datasets.sweeps.turns import TurnsOfFile, holds_turns
from invtoolbox.datasets.sweeps.velodyne import FLAG, SIZES, VelodynePackets
from invtoolbox.datasets.sweeps.waymo import Waymo
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import Sweeps
from invtoolbox.simulation.lidar import SimulatedSequence

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
#: Folders within a sequence that hold the sweeps alone, without times and poses.
_INNER = ("velodyne_points/data", "velodyne_points", "sensors/lidar", "sensors")
#: Readers of layouts that the names of their folders show, and largest number of folders that are
#: searched for them.
_LAYOUTS = ("argoverse2", "kitti-raw", "kitti-odometry", "nuscenes", "waymo")
_MOST_FOLDERS = 500
#: Nanoseconds of a second: a clock shows more, and times from each sweep are less.
_SECOND = 10**9
_WORDS = {bool: "true or false", int: "a whole number", float: "a number"}


def street_of_file(
    path: str | os.PathLike[str], changes: Mapping[str, Any] | None = None
) -> SimulatedSequence:
    r"""Simulate the street that a TOML file describes.

    Args:
        path: the file; its table ``[simulated]`` holds arguments of `invtoolbox.simulation.street`.
        changes: settings that replace the settings in the file.

    Raises:
        InputError: the file has no such table, or a setting that a street does not have.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
    ...     written = file.write("[simulated]\nsweeps = 3\npoints = 2000")
    ...     file.flush()
    ...     len(street_of_file(file.name))
    3
    """
    return simulation.street(**street_settings(path, changes))


def street_settings(
    path: str | os.PathLike[str], changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the checked settings in the file of a street.

    Args:
        path: the file.
        changes: settings that replace the settings in the file.
    """
    path = Path(path).expanduser()
    settings = read_toml(path).get("simulated")
    taken = inspect.signature(simulation.street).parameters
    if not isinstance(settings, dict):
        raise InputError(
            f"{path}: a simulated street needs a table [simulated] with some of {', '.join(taken)}"
        )
    settings = {**settings, **(changes or {})}
    require_settings(f"{path}: a simulated street", settings, taken)
    for name, value in settings.items():
        kind = type(taken[name].default)
        # An integer is accepted as a float; a Boolean is not.
        if type(value) is not kind and not (type(value) is int and kind is float):
            raise InputError(f"{path}: {name} must be {_WORDS[kind]}, got {value!r}")
    return settings


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


#: Readers of lidar sweeps by name: ``SWEEP_READERS[name](path, ...)`` is a sequence of sweeps;
#: "kitti-scene-flow" is a sequence of pairs. Plug-ins register readers under the entry point
#: ``invtoolbox.readers``.
SWEEP_READERS: dict[str, Callable[..., Any]] = {
    "argoverse2": Argoverse2,
    "kitti-odometry": KittiOdometry,
    "kitti-raw": KittiRaw,
    "kitti-scene-flow": KittiSceneFlow,
    "nuscenes": NuScenes,
    "waymo": Waymo,
    "opensceneflow": OpenSceneFlow,
    "ouster": OusterFrames,
    "pcap": open_packets,
    "bag": Bag,
    "lidar-folder": LidarFolder,
    "turns": TurnsOfFile,
    "street": street_of_file,
}
#: Types of the sequences that these readers return.
SWEEP_TYPES = (SweepFiles, SimulatedSequence, KittiSceneFlow)
#: Options of readers that are paths.
SWEEP_PATHS = ("poses", "calibration", "times")


def open_sweeps(
    path: str | os.PathLike[str],
    reader: str | None = None,
    poses: str | os.PathLike[str] | None = None,
    calibration: str | os.PathLike[str] | None = None,
    times: str | os.PathLike[str] | None = None,
    rate: float | None = None,
    columns: int | Sequence[str] | None = None,
    labels: str | None = None,
    scene: str | None = None,
    trusted: bool = False,
    topic: str | None = None,
    clock: str | None = None,
) -> Sweeps:
    """Open a sequence of lidar sweeps, each of which is read when it is indexed.

    Args:
        path: folder of an Argoverse 2 log, a KITTI odometry sequence or raw drive, a nuScenes set,
            a Waymo segment, Ouster frames, a ROS 2 bag, or `.bin`, `.las`, `.laz`, `.pcd`, `.ply`,
            `.npy` or `.npz` files, which may be one folder down; its content decides. Or an `.h5`
            scene of OpenSceneFlow, or a folder of them. Or one such file of points, which is cut
            where the azimuth begins anew. Or a recording: `.pcap` of Ouster or of a
            VLP-16, `.bag` of ROS 1, `.mcap`. Or a TOML file that describes a simulated street.
        reader: name of a reader in `SWEEP_READERS` or of a plug-in, in place of the automatic
            choice.
        poses: file of the poses, for readers that take one; ``"none"`` reads no poses.
        calibration: file of the calibration, for readers that take one.
        times: file of the times, for readers that take one.
        rate: sweeps per second, for readers that take it.
        columns: number or names of the columns, for readers that take them.
        labels: setting of the labels, for readers that take it.
        scene: name of the scene, for readers that take it. None leaves each of these settings to
            the reader.
        trusted: whether the tables of the sequence may name files outside of its folder.
        topic: name of the topic of the clouds, for recordings of ROS and MCAP.
        clock: unit of the times of the points ("s", "ms", "us", "ns"), or "none" to leave them out,
            for folders of point files and recordings of ROS and MCAP.

    Raises:
        InputError: the path is no sequence of sweeps, or the reader does not have a setting.

    >>> import tempfile, numpy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for k in range(2):
    ...         numpy.ones((5, 4), "<f4").tofile(f"{folder}/{k}.bin")
    ...     sweeps = open_sweeps(folder)
    ...     len(sweeps), sweeps.names, len(sweeps[1])
    (2, ['0', '1'], 5)
    """
    if reader is None:
        path, reader = locate(path)
    make = reader_named("reader of lidar sweeps", reader, SWEEP_READERS)
    settings = {
        "poses": poses,
        "calibration": calibration,
        "times": times,
        "rate": rate,
        "columns": columns,
        "labels": labels,
        "scene": scene,
        "topic": topic,
        "clock": clock,
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    taken = list(inspect.signature(make).parameters)[1:]
    require_settings(f"the reader {reader!r}", settings, taken)
    with trusting(trusted):
        opened = make(path, **settings)
    if isinstance(opened, KittiSceneFlow):
        raise InputError(
            f"{path}: these are pairs, each by itself, and no sequence; read pair(k) of "
            f"it.datasets.open(path, reader={reader!r})"
        )
    if not (hasattr(opened, "names") and hasattr(opened, "__len__")):
        raise InputError(
            f"{path}: the reader {reader!r} reads no lidar sweeps; known are "
            f"{', '.join(SWEEP_READERS)}"
        )
    return opened


def locate(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """Return the path of a sequence and the name of its reader, or raise an `InputError`.

    The path differs from the argument if the folder holds one recording.

    Args:
        path: a file or a folder, in the user's words.
    """
    place = Path(path).expanduser()
    if not place.is_dir():
        reader = reader_of_file(place)
        if place.suffix.lower() in SUFFIXES and place.is_file():
            reader = reader or "turns"
    else:
        reader = reader_of_folder(place)
    around = (
        _sequence_around(place)
        if place.is_dir() and reader in (None, "lidar-folder", "turns")
        else None
    )
    if around is not None:
        return around
    if reader is not None:
        return place, reader
    place = require_folder(path, "a lidar sequence")
    within = _sequences_within(place)
    if len(within) == 1:
        return within[0]
    if within:
        names = ", ".join(str(folder.relative_to(place)) for folder, _ in within[:4])
        raise InputError(
            f"{path}: the folder holds {len(within)} sequences ({names}{', ...' * (len(within) > 4)}); "
            "give one of them"
        )
    inside = [file for file in sorted(place.iterdir()) if file.suffix.lower() in RECORDINGS]
    if len(inside) == 1:
        return inside[0], RECORDINGS[inside[0].suffix.lower()]
    refuse_others(file for file in sorted((*place.glob("*"), *place.glob("*/*"))))
    fault = f"the folder is no lidar sequence that is known ({', '.join(SWEEP_READERS)})"
    if inside:
        fault = f"the folder holds {len(inside)} recordings ({inside[0].name}, ...)"
    raise InputError(f"{path}: {fault}; give the folder of the sweeps, or one recording")


def reader_of_file(file: Path) -> str | None:
    """Return the name of the reader of a file of sweeps by its suffix; None for other files.

    Raises:
        InputError: a format of sweeps that is known but not read.
    """
    refuse_others([file])
    return {".toml": "street", ".h5": "opensceneflow", **RECORDINGS}.get(file.suffix.lower())


def reader_of_folder(folder: Path) -> str | None:
    """Return the name of the reader that fits the names in a folder.

    None if the folder holds no lidar data.
    """
    if (folder / "sensors" / "lidar").is_dir() or any(
        (log / "sensors" / "lidar").is_dir() for log in folder.iterdir() if log.is_dir()
    ):
        return "argoverse2"
    if (folder / "velodyne_points").is_dir():
        return "kitti-raw"
    if (folder / "velodyne").is_dir():
        return "kitti-odometry"
    if any(
        (tables / "sample_data.json").is_file() for tables in folder.iterdir() if tables.is_dir()
    ):
        return "nuscenes"
    if (folder / "lidar").is_dir() and any((folder / "lidar").glob("*.parquet")):
        return "waymo"
    if holds_scenes(folder):
        return "opensceneflow"
    suffixes = {
        file.suffix.lower()
        for file in folder.iterdir()
        if file.is_file() and not file.name.startswith(".")
    }
    if ".npz" in suffixes and not suffixes & {".bin", ".pcd", ".ply"}:
        return _reader_of_archives(folder)
    if (folder / "metadata.yaml").is_file() and suffixes & {".db3", ".mcap", ".zstd"}:
        return "bag"
    if holds_turns(folder):
        return "turns"
    return "lidar-folder" if folder_of_sweeps(folder) is not None else None


def _sequence_around(folder: Path) -> tuple[Path, str] | None:
    """Return the sequence whose files lie in a folder, for layouts with a folder of their own."""
    for inner in _INNER:
        parts = inner.split("/")
        if folder.resolve().parts[-len(parts) :] == tuple(parts):
            place = Path(*folder.resolve().parts[: -len(parts)])
            reader = reader_of_folder(place)
            return None if reader is None else (place, reader)
    return None


def _sequences_within(folder: Path) -> list[tuple[Path, str]]:
    """Return the sequences in the folders within a folder, up to three levels down."""
    level = [folder]
    for _ in range(3):
        level = [
            inner
            for place in level[:_MOST_FOLDERS]
            for inner in sorted(place.iterdir())
            if inner.is_dir() and not inner.name.startswith(".")
        ]
        readers = [(place, reader_of_folder(place)) for place in level[:_MOST_FOLDERS]]
        sequences = [(place, reader) for place, reader in readers if reader in _LAYOUTS]
        if sequences:
            return sequences
    return []


def _reader_of_archives(folder: Path) -> str:
    files = sorted(folder.glob("*.npz"))
    for file in files:
        try:
            with zipfile.ZipFile(file) as archive:
                names = {name.removesuffix(".npy") for name in archive.namelist()}
        except (OSError, NotImplementedError, zipfile.BadZipFile):
            continue
        if names & set(FIRST) and "xyz" not in names:
            return "kitti-scene-flow"
        # Ouster's times are whole nanoseconds of a clock; others may count from each sweep.
        starts = [start for f in files[:2] if (start := first_time(f)) is not None]
        is_clock = any(start >= _SECOND for start in starts)
        return "ouster" if {"xyz", "t_ns"} <= names and is_clock else "lidar-folder"
    return "lidar-folder"


def refuse_others(files: Iterable[Path]) -> None:
    """Raise an `InputError` that names the converter if a file is of a known format that is not read.

    Args:
        files: the files.
    """
    for file in files:
        for suffix, way in _OTHERS.items():
            if file.name.lower().endswith(suffix):
                raise InputError(f"{file}: this is {way}")
