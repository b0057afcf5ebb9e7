"""Flow from recordings of events whose slice is chosen by the motion, with the exact truth.

    python benchmarks/event_slices.py [--planes 5] [--surfaces 5] [--seed 5] [--pictures FOLDER]

planes    slanted textured planes at 240 x 180 pixels (`it.simulation.simulate_textured_plane`), one
          seed and one texture each, of a path of 40 pixels, from which a slice is chosen. Events lie
          on whole pixels.
surfaces  points on smooth surfaces (`it.simulation.simulate_events`), 12,000 events at 64, 96 and 128
          pixels, the same seeds for each size.
open      parallel edges, and events at random: the motion is not determined, the status says so, and
          the flow is at most as wrong as no flow.

The flow error is the mean length of the error at the events of the slice over the mean length of the
true flow, which is the error of no flow. Settings were chosen on the seeds 100 to 106, with the
textures clouds and patches and the photographs camera, brick and grass; runs on the seeds 0 to 4
prompted some of these choices. There is no peer in this run.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from common import machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.geometry import Events
from invtoolbox.jobs.events.event_flow import EventFlow
from invtoolbox.simulation import SimulatedEvents, simulate_events, simulate_textured_plane

#: Textures of the planes by seed; the last two kinds are drawn, the others are photographs.
TEXTURES = ("coins", "gravel", "text", "clouds", "patches")
SIZES = (64, 96, 128)


def main(
    planes: int = 5,
    surfaces: int = 5,
    seed: int = 5,
    threads: int = 1,
    pictures: Path | None = None,
) -> None:
    """Print one row per recording, and whether the bars hold.

    Args:
        planes: number of textured planes
        surfaces: number of surfaces per size
        seed: first seed
        threads: number of torch's threads
        pictures: folder for the picture of the worst plane
    """
    torch.set_num_threads(threads)
    print(f"Slices of events by motion; {machine()}")
    rows = [
        measure(f"plane {k} {texture_of(k)}", plane(k), pictures)
        for k in range(seed, seed + planes)
    ]
    report("textured planes, 240 x 180", rows)
    flat = list(rows)
    for size in SIZES:
        rows = [
            measure(f"surface {k} at {size}", surface(k, size), None)
            for k in range(seed, seed + surfaces)
        ]
        report(f"surfaces, {size} x {size}", rows)
        flat += rows
    report("all", flat)
    undetermined(seed)


def texture_of(seed: int) -> str:
    return TEXTURES[seed % len(TEXTURES)]


def plane(seed: int) -> SimulatedEvents:
    """Simulate a plane with the texture of its seed."""
    name = texture_of(seed)
    return simulate_textured_plane(
        seed, name if name in TEXTURES[3:] else photograph(name), travel=40.0
    )


def photograph(name: str) -> Tensor:
    """Return a grey photograph of scikit-image, from 0 to 1."""
    from skimage import data

    return torch.from_numpy(getattr(data, name)() / 255.0)


def surface(seed: int, size: int) -> SimulatedEvents:
    """Simulate a surface that fills the same angle at every size."""
    return simulate_events(seed, size=(size, size), focal=60.0 * size / 64)


def measure(
    name: str, simulated: SimulatedEvents, pictures: Path | None
) -> tuple[float, float, str]:
    """Print the error of a recording, and return it, the seconds of the processor, and the name."""
    began, wall = time.process_time(), time.perf_counter()
    answer = it.event_flow(simulated.events, simulated.intrinsics)
    seconds, wall = time.process_time() - began, time.perf_counter() - wall
    error, length = flow_error(answer, simulated.flow)
    print(
        f"  {name}: {100 * error:.1f} %, path of {length:.1f} pixels in {len(answer.slices[0]):,} of "
        f"{len(simulated.events):,} events, gain {float(answer.gain):.2f}, {answer.status[0]}, "
        f"{seconds:.1f} s of processor, {wall:.1f} s",
        flush=True,
    )
    if pictures is not None:
        still, warped = answer.pictures()
        figure = it.jobs.events.event_figure(still[0], warped[0], answer.flow[0])
        pictures.mkdir(exist_ok=True)
        figure.savefig(pictures / f"{name.replace(' ', '_')}.png", dpi=60)
    return error, seconds, name


def flow_error(answer: EventFlow, truth: Tensor) -> tuple[float, float]:
    """Return the error over the flow at the events of the slice, and the length of the true path."""
    used = len(answer.slices[0])
    wrong = (answer.at_events()[:used] - truth[:used]).norm(dim=1).mean()
    speed = truth[:used].norm(dim=1).mean()
    return float(wrong / speed), float(speed) * answer.durations[0]


def report(name: str, rows: list[tuple[float, float, str]]) -> None:
    """Print mean and worst error, and the longest time."""
    errors, seconds = [row[0] for row in rows], [row[1] for row in rows]
    mean, worst, longest = sum(errors) / len(errors), max(errors), max(seconds)
    print(
        f"{name}: {100 * mean:.2f} % in the mean, {100 * worst:.1f} % at worst "
        f"({rows[errors.index(worst)][2]}), {longest:.1f} s of processor at most "
        f"{verdict(mean <= 0.06, '6 %')} {verdict(worst <= 0.12, '12 %')} "
        f"{verdict(longest <= 10, '10 s')}",
        flush=True,
    )


def undetermined(seed: int) -> None:
    """Print the errors of motions that the events leave open."""
    for k in range(seed, seed + 2):
        simulated = simulate_textured_plane(k, "stripes", travel=20.0)
        answer = it.event_flow(simulated.events, simulated.intrinsics)
        error, _ = flow_error(answer, simulated.flow)
        held = answer.status[0] == "undetermined" and error <= 1
        print(f"parallel edges, seed {k}: {100 * error:.0f} %, {answer.status[0]}", end=" ")
        print(verdict(held, "undetermined, at most 100 %"), flush=True)
    generator = torch.Generator().manual_seed(seed)
    x, y, t = torch.rand(3, 60_000, generator=generator).double()
    events = Events.of(x * 239, y * 179, t.sort()[0], size=(180, 240))
    answer = it.event_flow(events, simulated.intrinsics)
    print(f"events at random: largest flow {float(answer.flow.abs().max()):g}, ", end="")
    held = answer.status[0] == "undetermined" and not bool(answer.flow.any())
    print(answer.status[0], verdict(held, "undetermined, no flow"))


if __name__ == "__main__":
    run_script(main)
