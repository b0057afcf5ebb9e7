"""Lidar recordings of other writers, with known clocks: right, asked in one sentence, or silent.

    python benchmarks/recordings.py [--count 60] [--seed SEED] [--show]

Each recording is four turns of a lidar of 16 lasers, written by rosbags, mcap, laspy, NumPy, and, if
they are installed, pypcd4 and Open3D, or as the bytes of the Point Cloud Library. Container, rate,
unit, zero and type of the clock, name of the field, invalid rows and order of the messages are drawn
from the seed; by default it is the digest of the commit, which did not exist when the readers were
written. A recording is right if order, points, timestamps (1 ms) and times of the points (1 ms) are
those that were written; times that are left out with a note count as right if the timestamps are. It is
asked if the reader refuses it with one sentence that asks for an option, and noted if a wrong answer
is named as assumed in a note. All else is silent.
"""

from __future__ import annotations

import importlib
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import laspy
import numpy as np
from common import machine, run_script, verdict
from mcap.writer import Writer as McapWriter
from rosbags import rosbag1, rosbag2
from rosbags.typesys import Stores, get_typestore
from scipy.spatial import cKDTree

import invtoolbox as it
from invtoolbox.errors import InputError

CLOUD = "sensor_msgs/msg/PointCloud2"
RESULTS = Path(__file__).parent / "results" / "recordings.txt"
SWEEPS, RINGS, COLUMNS = 4, 16, 360
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
ZEROS = ("1970", "boot", "week", "start", "end")
INVALID = ("none", "NaN and time 0", "NaN and time NaN", "zero and time 0")
#: Numbers of the types in `sensor_msgs/PointField`.
FIELD = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
BAGS = ("ros1", "ros2", "mcap")
FILES = ("las", "laz", "npy", "table", "npz", "pcl", "pcl-misdeclared", "one-las", "one-npy")
#: Nanoseconds of 2023, and of a GPS week.
START, WEEK = 1_700_000_000_123_456_789, 604800 * 10**9


@dataclass(frozen=True)
class Case:
    """Choices of a recording."""

    container: str
    rate: int
    unit: str
    zero: str
    type: str
    name: str
    invalid: str
    shuffled: bool
    names: str
    listed: bool
    seed: int

    def __str__(self) -> str:
        order = ", shuffled" if self.shuffled else ""
        times = ", times.txt" if self.listed else ""
        named = "" if self.container in BAGS else f", {self.names}"
        return (
            f"{self.container} {self.rate} Hz {self.name}:{self.type} {self.unit} from {self.zero}, "
            f"invalid {self.invalid}{order}{named}{times}"
        )


@dataclass
class Truth:
    """Points, times in nanoseconds of a clock of 1970, rings and validity of each sweep."""

    points: list[np.ndarray]
    times: list[np.ndarray]
    rings: list[np.ndarray]
    valid: list[np.ndarray]


def draw(draws: np.random.Generator, containers: tuple[str, ...]) -> Case:
    """Draw a recording that its container can hold."""
    container = str(draws.choice(containers))
    unit, zero = str(draws.choice([*UNITS])), str(draws.choice(ZEROS))
    types = ["f8", "f4"] if zero in ("start", "end") else ["f8", "f8", "f8", "f4"]
    if unit in ("us", "ns") and zero != "end" and container != "table":
        # Numbers of 32 bits hold what is below 2^32 ticks; a clock since boot begins anew.
        types += ["u4"] if zero in ("start", "boot") else []
        types += ["u8"] if container not in BAGS else []
    kind = str(draws.choice(types))
    bare = ("time", "timestamp", "t", "time_stamp", "timestamps")
    name = str(draws.choice([*bare, *bare, f"time_{unit}", f"t_{unit}"]))
    invalid = str(draws.choice(INVALID if kind[0] == "f" else (*INVALID[:2], INVALID[3])))
    if container in ("las", "laz", "one-las"):
        invalid = "none"  # whole steps hold no NaN
        name = "gps_time" if kind == "f8" and unit == "s" and draws.random() < 0.7 else name
    if container == "table":
        kind, name = "f8", "time"
    is_bag = container in BAGS
    return Case(
        container,
        int(draws.choice([5, 10, 20])),
        unit,
        zero,
        kind,
        name,
        invalid,
        is_bag and bool(draws.random() < 0.5),
        str(draws.choice(["numbers", "numbers", "stamps"])),
        not is_bag and not container.startswith("one") and bool(draws.random() < 0.2),
        int(draws.integers(2**31)),
    )


def turn_lidar(case: Case) -> tuple[Truth, list[np.ndarray]]:
    """Return the truth of a recording, and the ticks that its clock shows."""
    draws = np.random.default_rng(case.seed)
    sense, begin = draws.choice([-1, 1]), draws.uniform(-np.pi, np.pi)
    boot = int(draws.uniform(1, 5000) * 1e9)
    truth, ticks = Truth([], [], [], []), []
    period = 10**9 // case.rate
    for k in range(SWEEPS):
        first = START + k * period
        column = np.arange(COLUMNS).repeat(RINGS)
        ring = np.tile(np.arange(RINGS), COLUMNS)
        since = column * period // COLUMNS + ring * 500
        # Lasers look to several sides, as those of a spinning sensor do.
        aside = np.radians(2.0) * (ring % 4 - 1.5)
        azimuth = begin + sense * 2 * np.pi * since / period + aside
        rise = np.radians(-15 + 2.0 * ring)
        distance = 12 + 6 * np.sin(3 * azimuth) + 0.05 * draws.normal(size=len(ring))
        points = distance[:, None] * np.stack(
            [np.cos(azimuth) * np.cos(rise), np.sin(azimuth) * np.cos(rise), np.sin(rise)], 1
        )
        zero = {"1970": 0, "boot": START - boot, "week": START - START % WEEK, "start": first}
        zero["end"] = first + period
        shown = (first + since - zero[case.zero]) / 1e9 * UNITS[case.unit]
        if case.type[0] == "u":
            whole = (first + since - zero[case.zero]) // (10**9 // UNITS[case.unit])
            shown = whole % 2**32 if case.type == "u4" else whole
        valid = np.ones(len(ring), bool)
        if case.invalid != "none":
            valid = draws.random(len(ring)) > 0.15
            points[~valid] = 0 if case.invalid.startswith("zero") else np.nan
            shown = np.where(valid, shown, np.nan if "NaN and time NaN" in case.invalid else 0)
        order = np.argsort(ring, kind="stable") if draws.random() < 0.5 else np.arange(len(ring))
        truth.points.append(points[order].astype(np.float32))
        truth.times.append((first + since)[order])
        truth.rings.append(ring[order])
        truth.valid.append(valid[order])
        ticks.append(shown[order].astype(case.type))
    return truth, ticks


def rows_of(case: Case, points: np.ndarray, ring: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Return the points of a sweep as a structured array in the memory of PCL."""
    formats = ["<f4"] * 4 + [f"<{case.type}", "<u2"]
    size = np.dtype(case.type).itemsize
    offsets = [0, 4, 8, 16, 24 if size == 8 else 20, 32 if size == 8 else 24]
    names = ["x", "y", "z", "intensity", case.name, "ring"]
    kind = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": 48})
    rows = np.zeros(len(points), kind)
    for axis, values in zip("xyz", points.T):
        rows[axis] = values
    rows["intensity"] = np.linspace(1, 200, len(points))
    rows[case.name], rows["ring"] = shown, ring
    return rows


def message(store: Any, rows: np.ndarray, stamp: int, is_ros1: bool) -> Any:
    """Return a message of a cloud."""
    types = store.types
    time = types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
    header = types["std_msgs/msg/Header"](*((0,) if is_ros1 else ()), time, "lidar")
    names = rows.dtype.fields
    fields = [
        types["sensor_msgs/msg/PointField"](
            name=name, offset=names[name][1], datatype=FIELD[names[name][0].str[1:]], count=1
        )
        for name in rows.dtype.names
    ]
    step, content = rows.dtype.itemsize, np.frombuffer(rows.tobytes(), np.uint8)
    size = len(rows) * step
    return types[CLOUD](header, 1, len(rows), fields, False, step, size, content, True)


def write_bag(case: Case, folder: Path, truth: Truth, ticks: list[np.ndarray]) -> Path:
    """Write the messages; shuffled ones arrive late in the log."""
    store = get_typestore(Stores.ROS1_NOETIC if case.container == "ros1" else Stores.LATEST)
    order, draws = np.arange(SWEEPS), np.random.default_rng(case.seed)
    if case.shuffled:
        order = draws.permutation(SWEEPS)
    sent = []
    for n, k in enumerate(order):
        # The stamp is the beginning of the sweep, or its end.
        stamp = int(
            truth.times[k][0] if case.zero != "end" else START + (k + 1) * 10**9 // case.rate
        )
        stamp = START + int(k) * (10**9 // case.rate) if case.zero != "end" else stamp
        rows = rows_of(case, truth.points[k], truth.rings[k], ticks[k])
        logged = START + n * 10**9 // case.rate + 30_000_000
        sent.append((logged, message(store, rows, stamp, case.container == "ros1")))
    if case.container == "mcap":
        with (folder / "drive.mcap").open("wb") as stream:
            writer = McapWriter(stream)
            writer.start()
            schema = writer.register_schema(CLOUD, "ros2msg", b"")
            channel = writer.register_channel("/points", "cdr", schema)
            for time, one in sent:
                writer.add_message(channel, time, bytes(store.serialize_cdr(one, CLOUD)), time)
            writer.finish()
        return folder / "drive.mcap"
    if case.container == "ros1":
        with rosbag1.Writer(folder / "drive.bag") as bag:
            connection = bag.add_connection("/points", CLOUD, typestore=store)
            for time, one in sent:
                bag.write(connection, time, store.serialize_ros1(one, CLOUD))
        return folder / "drive.bag"
    latest = getattr(rosbag2.Writer, "VERSION_LATEST", None)
    with rosbag2.Writer(folder / "drive", **({} if latest is None else {"version": latest})) as bag:
        connection = bag.add_connection("/points", CLOUD, typestore=store)
        for time, one in sent:
            bag.write(connection, time, store.serialize_cdr(one, CLOUD))
    return folder / "drive"


def write_las(file: Path, rows: np.ndarray, name: str) -> None:
    header = laspy.LasHeader(point_format=6, version="1.4")
    header.scales = [0.0001] * 3
    for extra in {"ring", name} - {"gps_time"}:
        header.add_extra_dim(laspy.ExtraBytesParams(extra, rows[extra].dtype))
    las = laspy.LasData(header)
    las.x, las.y, las.z = (rows[axis].astype(np.float64) for axis in "xyz")
    las.intensity = rows["intensity"].astype(np.uint16)
    for extra in ("ring", name):
        las[extra] = rows[extra]
    las.write(file)


def write_pcl(file: Path, rows: np.ndarray, misdeclared: bool) -> None:
    """Write the bytes of the Point Cloud Library; it declares padding as fields named "_"."""
    words: list[tuple[str, int, str, int]] = []
    end = 0
    for name in rows.dtype.names or ():
        form, at = rows.dtype.fields[name][:2]  # type: ignore[index]
        gap = at - end
        if gap:
            # Some writers count the padding before the time for the ring.
            words.append(("_", 1, "U", gap if not misdeclared or name == "intensity" else 0))
        words.append((name, form.itemsize, {"f": "F", "u": "U", "i": "I"}[form.kind], 1))
        end = at + form.itemsize
    stated = sum(size * count for _, size, _, count in words)
    words.append(("_", 1, "U", rows.dtype.itemsize - stated))
    head = "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
    for key, column in zip(("FIELDS", "SIZE", "TYPE", "COUNT"), zip(*words)):
        head += f"{key} {' '.join(map(str, column))}\n"
    head += (
        f"WIDTH {len(rows)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(rows)}\nDATA binary\n"
    )
    file.write_bytes(head.encode() + rows.tobytes())


def write_pypcd4(file: Path, rows: np.ndarray) -> None:
    from pypcd4 import PointCloud

    names = rows.dtype.names or ()
    kinds = tuple(rows.dtype.fields[name][0].newbyteorder("=").type for name in names)  # type: ignore[index]
    PointCloud.from_points([rows[name] for name in names], names, kinds).save(file)


def write_open3d(file: Path, rows: np.ndarray) -> None:
    import open3d

    cloud = open3d.t.geometry.PointCloud()
    cloud.point.positions = np.stack([rows[axis] for axis in "xyz"], 1)
    for name in (rows.dtype.names or ())[3:]:
        # Its PLY has no unsigned numbers of 32 or 64 bits.
        is_long = rows[name].dtype.kind == "u" and name != "ring"
        values = rows[name].astype(np.float64 if is_long else rows[name].dtype)
        cloud.point[name] = np.ascontiguousarray(values)[:, None]
    open3d.t.io.write_point_cloud(str(file), cloud)


def write_files(case: Case, folder: Path, truth: Truth, ticks: list[np.ndarray]) -> Path:
    """Write one file per sweep, or one file of all sweeps."""
    place = folder / "lidar"
    place.mkdir()
    sweeps = [rows_of(case, *s, t) for *s, t in zip(truth.points, truth.rings, ticks)]
    if case.container == "one-las":
        write_las(folder / "drive.las", np.concatenate(sweeps), case.name)
        return folder / "drive.las"
    if case.container == "one-npy":
        np.save(folder / "drive.npy", np.concatenate(sweeps))
        return folder / "drive.npy"
    unit = 1 + case.seed % 2
    for k, rows in enumerate(sweeps):
        stamp = START + k * (10**9 // case.rate)
        name = {"numbers": f"{k}", "stamps": str(stamp // 1000 if unit == 1 else stamp)}[case.names]
        file = place / name
        if case.container in ("las", "laz"):
            write_las(file.with_name(f"{name}.{case.container}"), rows, case.name)
        elif case.container == "npy":
            np.save(file.with_name(f"{name}.npy"), rows)
        elif case.container == "table":
            columns = ("x", "y", "z", "intensity", "ring", case.name)
            np.save(f"{file}.npy", np.stack([rows[c].astype(np.float64) for c in columns], 1))
        elif case.container == "npz":
            xyz = np.stack([rows[axis] for axis in "xyz"], 1)
            np.savez(f"{file}.npz", xyz=xyz, ring=rows["ring"], **{case.name: rows[case.name]})
        elif case.container == "pypcd4":
            write_pypcd4(file.with_name(f"{name}.pcd"), rows)
        elif case.container == "open3d":
            write_open3d(file.with_name(f"{name}.ply"), rows)
        else:
            write_pcl(file.with_name(f"{name}.pcd"), rows, case.container != "pcl")
    if case.listed:
        times = [f"{1 + k / case.rate:.6f}" for k in range(SWEEPS)]
        (place / "times.txt").write_text("\n".join(times))
    return place


def judge(case: Case, path: Path, truth: Truth) -> tuple[str, str]:
    """Return right, asked, noted or silent, and the reason."""
    try:
        opened = it.datasets.open_sweeps(path)
        sweeps = [opened[k] for k in range(len(opened))]
    except InputError as error:
        asks = "give " in str(error) and "\n" not in str(error)
        return ("asked" if asks else "refused"), str(error)
    notes = tuple(sweeps[0].meta.get("notes", ()))
    faults = []
    if len(sweeps) != SWEEPS:
        return "silent", f"{len(sweeps)} sweeps"
    one = case.container.startswith("one")
    if one:
        return judge_turns(case, sweeps, truth, notes)
    zeros = []
    for k in range(SWEEPS):
        sweep, valid = sweeps[k], truth.valid[k]
        finite = sweep.finite.numpy()
        points, times, rings = truth.points[k][valid], truth.times[k][valid], truth.rings[k][valid]
        found = sweep.points.numpy()[finite]
        clock = None if sweep.time is None else sweep.time.numpy()[finite]
        ring = None if sweep.ring is None else sweep.ring.numpy()[finite]
        if len(found) != len(points):
            return "silent", f"{len(found)} valid points of {len(points)}"
        if np.abs(found - points).max() > 2e-4:
            faults.append(f"points of sweep {k}")
        if ring is None or (ring != rings).any():
            faults.append(f"rings of sweep {k}")
        if clock is not None:
            error = sweep.timestamp + clock.astype(np.float64) - (times - START) / 1e9
            zeros.append(float(np.median(error)))
            if not np.abs(error - np.median(error)).max() < 1e-3:
                faults.append(
                    f"times of sweep {k} by {np.abs(error - np.median(error)).max():.3g} s"
                )
    steps = np.diff([sweep.timestamp for sweep in sweeps])
    if np.abs(steps - 1 / case.rate).max() > 1e-3:
        faults.append(f"sweeps {steps.round(4).tolist()} s apart")
    elif zeros and np.ptp(zeros) > 1e-3:
        faults.append("times of points and sweeps differ")
    left_out = [note for note in notes if "left out" in note]
    if sweeps[0].time is None and not left_out:
        faults.append("no times")
    if not faults:
        return "right", "; ".join(left_out)
    assumed = any("assumed" in note or "because a turn" in note for note in notes)
    return ("noted" if assumed else "silent"), ", ".join(faults[:3]) + " | " + "; ".join(notes)


def judge_turns(
    case: Case, sweeps: list[Any], truth: Truth, notes: tuple[str, ...]
) -> tuple[str, str]:
    """Judge a file that was cut: every turn has its points but for half a percent, and their times."""
    faults, zeros = [], []
    for k, sweep in enumerate(sweeps):
        finite = sweep.finite.numpy()
        valid = truth.valid[k]
        tree = cKDTree(truth.points[k][valid])
        away, row = tree.query(sweep.points.numpy()[finite])
        times = np.where(away < 2e-4, truth.times[k][valid][row], -1)
        share = (times >= 0).sum() / max(int(valid.sum()), len(times))
        if share < 0.995:
            faults.append(f"{share:.1%} of the points of turn {k}")
        if sweep.time is not None:
            clock = sweep.timestamp + sweep.time.numpy()[finite].astype(np.float64)
            error = (clock - (times - START) / 1e9)[times >= 0]
            # A point of the next turn may lie where one of this turn lies.
            zeros += np.quantile(error, [0.001, 0.999]).tolist()
    steps = np.diff([sweep.timestamp for sweep in sweeps])
    if np.abs(steps - 1 / case.rate).max() > 1e-3:
        faults.append(f"turns {steps.round(4).tolist()} s apart")
    if zeros and max(zeros) - min(zeros) > 1e-3:
        faults.append(f"times differ by {max(zeros) - min(zeros):.3g} s")
    assumed = any("assumed" in note for note in notes)
    if not faults:
        return "right", ""
    return ("noted" if assumed else "silent"), ", ".join(faults[:3]) + " | " + "; ".join(notes)


def is_installed(name: str) -> bool:
    """Return whether a package can be imported; Open3D needs libraries of the system."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError):
        return False
    return True


def commit_seed() -> int:
    """Return the number of the commit."""
    head = ["git", "rev-parse", "--short=8", "HEAD"]
    return int(subprocess.run(head, capture_output=True, text=True, check=True).stdout, 16)


def main(count: int = 60, seed: int = -1, show: bool = False) -> None:
    """Judge recordings of drawn layouts.

    Args:
        count: number of recordings.
        seed: seed of the draws; by default the digest of the commit.
        show: print every recording, and write no results.
    """
    seed = commit_seed() if seed < 0 else seed
    peers = tuple(name for name in ("pypcd4", "open3d") if is_installed(name))
    draws = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    lines = []
    for _ in range(count):
        case = draw(draws, (*BAGS, *FILES, *peers))
        write: Callable[..., Path] = write_bag if case.container in BAGS else write_files
        with tempfile.TemporaryDirectory() as folder:
            truth, ticks = turn_lidar(case)
            outcome, reason = judge(case, write(case, Path(folder), truth, ticks), truth)
            reason = reason.replace(folder, "")
        counts[outcome] += 1
        if outcome != "right" or show:
            lines.append(
                f"{outcome:7} {case}\n          {reason}" if reason else f"{outcome:7} {case}"
            )
    fine = counts["right"] + counts["asked"]
    kinds = ("right", "asked", "refused", "noted", "silent")
    head = [
        f"recordings of other writers, seed {seed}, {count} drawn; other writers installed: "
        f"rosbags, mcap, laspy{''.join(f', {name}' for name in peers)}",
        "  ".join(f"{kind} {counts[kind]}" for kind in kinds),
        verdict(fine == count, f"{count} right or asked in one sentence, 0 silent"),
        machine(),
    ]
    text = "\n".join([*head, "", *lines])
    print(text)
    if not show:
        RESULTS.write_text(text + "\n")


if __name__ == "__main__":
    run_script(main)
