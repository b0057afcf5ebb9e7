"""``invtoolbox events``: flow and camera motion from a recording of an event camera."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from invtoolbox.errors import InputError
from invtoolbox.jobs import options


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "events",
        help="estimate flow and camera motion from events",
        description="Estimate the flow of the picture and the motion of the camera from a slice of "
        "a recording of an event camera:\nAEDAT4, Prophesee DAT and RAW (EVT2, EVT3), HDF5 of DSEC, "
        "MVSEC or Prophesee, .npz, or text with lines t x y polarity.",
        epilog="examples:\n"
        "  invtoolbox events recording.aedat4 --camera K.txt --start 1.5 --output flow.npz flow.png\n"
        "  invtoolbox events drive.h5 --camera K.txt --radial -0.09 0.05 --duration 0.02",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="the recording")
    parser.add_argument(
        "--camera",
        metavar="FILE",
        help="matrix of the intrinsics, three lines of three numbers, in pixels, with the centre "
        "of the first pixel at (0, 0)",
    )
    parser.add_argument(
        "--radial",
        nargs="+",
        type=float,
        default=[],
        metavar="K",
        help="coefficients k1, k2, ... of the distortion of the lens",
    )
    parser.add_argument(
        "--tangential",
        nargs=2,
        type=float,
        default=[0.0, 0.0],
        metavar="P",
        help="coefficients p1 and p2 of the distortion",
    )
    part = parser.add_argument_group("the slice")
    part.add_argument(
        "--start", type=float, metavar="T", help="seconds after the first event (default: 0)"
    )
    part.add_argument(
        "--duration", type=float, metavar="T", help="seconds (default: as --count gives)"
    )
    part.add_argument(
        "--count",
        type=int,
        default=30_000,
        metavar="N",
        help="largest number of events (default: 30,000)",
    )
    part.add_argument(
        "--reader", metavar="NAME", help="reader of the file, in place of the automatic choice"
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--iterations",
        type=int,
        default=240,
        metavar="N",
        help="number of iterations (default: 240)",
    )
    results.add_argument(
        "--output",
        "-o",
        nargs="+",
        metavar="FILE",
        help="flow and twist as .npz, pictures as .png (default: FILE_flow.npz and FILE_flow.png)",
    )
    results.add_argument("--overwrite", action="store_true", help="replace existing files")
    options.add_quiet(results)
    options.add_threads(results)
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    """Read the slice, estimate its flow, and write the results."""
    from invtoolbox import datasets
    from invtoolbox.jobs.events.event_flow import event_flow
    from invtoolbox.jobs.events.scene import undistort, write_event_flow, write_event_picture

    stem = Path(arguments.file).stem
    names = arguments.output or [f"{stem}_flow.npz", f"{stem}_flow.png"]
    outputs = [Path(name) for name in names]
    for file in outputs:
        if file.suffix.lower() not in (".npz", ".png"):
            raise InputError(f"{file}: the flow is written as .npz, and its picture as .png")
        if file.exists() and not arguments.overwrite:
            raise InputError(f"{file} exists; give --overwrite to replace it, or another --output")
    events = datasets.read_events(
        arguments.file, arguments.reader, arguments.start, arguments.duration, arguments.count
    )
    K = datasets.read_intrinsics(arguments.camera).double() if arguments.camera else None
    if K is not None:
        events = undistort(events, K, arguments.radial, arguments.tangential)
    found = event_flow(events, K, iterations=arguments.iterations, progress=not arguments.quiet)
    for file in outputs:
        write = write_event_flow if file.suffix.lower() == ".npz" else write_event_picture
        write(file, found, arguments.overwrite)
    if not arguments.quiet:
        for note in found.notes:
            print(f"note: {note}")
        v, w = found.twist[0, found.twist.shape[1] // 2].tolist()[:3], found.twist[0].mean(0)[3:]
        direction = f"({', '.join(f'{c:.2f}' for c in v)})" if any(v) else "unknown"
        print(
            f"{events!r}: contrast {float(found.gain[0]):.1f}-fold; median speed "
            f"{float(found.flow[0].norm(dim=-1).median()):.3g} pixels per second"
        )
        print(
            f"camera: direction {direction}, rotation "
            f"({', '.join(f'{c:.2f}' for c in w.tolist())}) radians per second"
        )
        print(
            f"{found.status[0]}, {found.solution.seconds:.1f} s; wrote {', '.join(map(str, outputs))}"
        )
    return 0
