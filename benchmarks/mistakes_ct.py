"""Plausible mistakes in CT and counts, each with its right twin: is the cause named, and only then?

    python benchmarks/mistakes_ct.py [NAMES] [--seeds 100..109] [--real] [--faults]

Records, twins and scores are those of `mistakes.py`. A draw has a geometry (parallel, half a turn or
a turn; fan, flat or curved, of a turn or a short scan; cone), 90 to 160 views, 96 to 144 cells, an
object (ellipses, a CT slice, a smooth body, discs about the axis) and noise of 0.3 to 2 %, or of
photons. Thresholds were chosen on the seeds 0 to 11; the figures are those of seeds from 110 on, with other
CT slices. ``--real`` checks the real scans of the data folder, which are right. ``--faults`` reconstructs
with one fault of the detector, nothing chosen: the loss against the answer to the data without it.
Writes results/mistakes_ct.txt.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from measurement_checks import right_data
from mistakes import run
from mistakes.cases import Case, Record, findings
from torch import Tensor
from zoo.items import draws

import invtoolbox as it
from invtoolbox.jobs.images.decisions.bad_readings import BadReadings
from invtoolbox.jobs.images.decisions.case import Case as DecidedCase
from invtoolbox.jobs.images.decisions.order import ask
from invtoolbox.measurements.findings import Subject
from invtoolbox.operators import ConeBeam, FanBeam, ParallelBeam

SIDE = 80
KINDS = ("ellipses", "slice", "smooth", "discs")


@functools.cache
def slices() -> Tensor:
    """Return real CT slices as shares of water, ``(slice, 1, SIDE, SIDE)``."""
    path = data_folder() / "ct_slices" / "ct_hu_256.npz"
    hu = torch.from_numpy(np.load(path)["hu"].astype(np.float32))
    small = torch.nn.functional.interpolate(hu[:, None], (SIDE, SIDE), mode="area")
    return (small / 1000 + 1).clamp_min(0)


def body(draw: Any, kind: str, half: int) -> Tensor:
    """Return an object inside the image's disc, ``(1, 1, SIDE, SIDE)``, with a largest path of 1 to 4."""
    row, column = torch.meshgrid(*[torch.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    x = torch.zeros(SIDE, SIDE)
    if kind == "slice":
        every = slices()
        x = every[half + 2 * int(draw.integers(len(every) // 2)), 0].clone()
    elif kind == "smooth":
        y, z = draw.uniform(-0.15, 0.15, 2)
        a, b = draw.uniform(0.1, 0.25, 2)
        x = torch.exp(-((row - y) ** 2) / a - (column - z) ** 2 / b)
    elif kind == "discs":
        for radius in draw.uniform(0.3, 0.8, 2):
            x = x + float(draw.uniform(0.3, 1)) * (row**2 + column**2 < radius**2)
        y, z = draw.uniform(-0.3, 0.3, 2)
        x = x + ((row - y) ** 2 + (column - z) ** 2 < 0.02)
    else:
        x = x + (row**2 / draw.uniform(0.4, 0.7) + column**2 / draw.uniform(0.3, 0.6) < 1)
        for _ in range(5):
            y, z = draw.uniform(-0.4, 0.4, 2)
            a, b = draw.uniform(0.05, 0.3, 2)
            inside = ((row - y) / a) ** 2 + ((column - z) / b) ** 2 < 1
            x = x + float(draw.uniform(-0.5, 1.0)) * inside
        x = x.clamp_min(0)
    x = x * (row**2 + column**2 < 0.85)
    largest = float(ParallelBeam((SIDE, SIDE), torch.zeros(1), 2 * SIDE)(x[None, None]).max())
    return (x * float(draw.uniform(1, 4)) / largest)[None, None].float()


@dataclass(frozen=True)
class Scanned:
    """A scan: the object, the geometry's maker, and right measurements."""

    draw: Any
    x: Tensor
    make: Callable[..., Any]
    views: int
    noise: float

    @functools.cached_property
    def A(self) -> Any:
        return self.make()

    @functools.cached_property
    def clean(self) -> Tensor:
        return self.A(self.x)

    @functools.cached_property
    def y(self) -> Tensor:
        return self.noisy(self.clean)

    def noisy(self, clean: Tensor) -> Tensor:
        level = self.noise * float(clean.abs().max())
        return clean + level * torch.from_numpy(self.draw.standard_normal(clean.shape)).float()

    def measured(self, **changes: Any) -> Tensor:
        """Return measurements of the object in another geometry."""
        return self.noisy(self.make(**changes)(self.x))

    @functools.cached_property
    def counts(self) -> Tensor:
        """Counts of photons, `I0` without an object."""
        return self.poisson(self.I0 * torch.exp(-self.clean)).clamp_min(1)

    def poisson(self, mean: Tensor) -> Tensor:
        return torch.from_numpy(self.draw.poisson(mean.clamp_min(0).double())).float()

    @functools.cached_property
    def I0(self) -> float:
        return float(10 ** self.draw.uniform(3.3, 4.3))


def scan(name: str, seed: int, geometry: str, kinds: tuple[str, ...] = KINDS) -> Scanned:
    """Return a scan of a geometry: parallel, turn, fan, curved, short or cone."""
    draw = draws(name, seed)
    x = body(draw, kinds[seed % len(kinds)], int(seed >= 100))
    views, cells = int(draw.integers(90, 161)), 2 * int(draw.integers(60, 76))
    origin, spacing = (
        float(draw.uniform(150, 250)),
        float(draw.uniform(0.9, 1.1)) * 1.1 * SIDE / cells,
    )
    detector = origin * float(draw.uniform(1.3, 1.8))
    arc = {"parallel": math.pi, "short": 1.3 * math.pi}.get(geometry, 2 * math.pi)
    noise = float(10 ** draw.uniform(-2.5, -1.7))

    def make(**changes: Any) -> Any:
        kind = changes.pop("kind", geometry)
        count = changes.pop("views", views)
        angles = changes.pop("angles", torch.arange(count, dtype=torch.float64) * (arc / count))
        settings = {
            "detector_spacing": spacing
            * (1 if kind in ("parallel", "turn") else detector / origin * 1.15)
        }
        settings |= changes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind in ("parallel", "turn"):
                return ParallelBeam((SIDE, SIDE), angles, cells, **settings)
            source = (
                settings.pop("source_origin", origin),
                settings.pop("source_detector", detector),
            )
            if kind == "cone":
                return ConeBeam((6, SIDE, SIDE), angles, (6, cells), *source, 1.0, **settings)
            return FanBeam(
                (SIDE, SIDE), angles, cells, *source, curved=kind == "curved", **settings
            )

    if geometry == "cone":
        x = x[:, :, None].expand(1, 1, 6, SIDE, SIDE).contiguous()
    return Scanned(draw, x, make, views, noise)


#: A mistake as a function of a scan: (measurements, operator, data term) as handed over, and the twin.
Handed = tuple[Tensor, Any, Any]


def record(
    name: str,
    causes: tuple[str, ...],
    geometry: str,
    wrong: Callable[[Scanned], Handed],
    right: Callable[[Scanned], Handed] = lambda s: (s.y, s.A, None),
    kinds: tuple[str, ...] = KINDS,
) -> Record:
    def make(seed: int) -> tuple[Case, Case]:
        s = scan(f"{name}, {geometry}", seed, geometry, kinds)
        return tuple(Case(y, A, term=term) for y, A, term in (wrong(s), right(s)))  # type: ignore[return-value]

    return Record(f"{name}, {geometry}", causes, make)


def with_fault(s: Scanned, fault: str, y: Tensor | None = None) -> Tensor:
    """Return measurements of a detector with a fault."""
    y = (s.y if y is None else y).clone()
    cells, draw = y.shape[-1], s.draw
    if fault == "dead":
        y[..., int(draw.integers(cells // 3, 2 * cells // 3))] = 0
    elif fault == "pair":
        k = int(draw.integers(cells // 3, 2 * cells // 3))
        y[..., k : k + 2] = 0
    elif fault == "saturated cell":
        y[..., int(draw.integers(cells // 3, 2 * cells // 3))] = 1.3 * float(y.max())
    elif fault == "hot":
        hot = torch.from_numpy(draw.uniform(size=y.shape) < 0.01)
        y[hot] = float(y.max()) * torch.from_numpy(draw.uniform(1.2, 3, int(hot.sum()))).float()
    elif fault == "one hot":
        place = tuple(int(draw.integers(1, n - 1)) if n > 2 else 0 for n in y.shape)
        y[place] = 5 * float(y.max())
    elif fault == "zeros":
        # Zeros in place of readings behind the object.
        zero = torch.from_numpy(draw.uniform(size=y.shape) < 0.01) & (y > 0.3 * float(y.max()))
        y[zero] = 0.0
    elif fault == "clipped":
        y = y.clamp_max(float(np.quantile(y, 0.98)))
    elif fault == "gains":
        y = y - torch.from_numpy(np.log1p(0.05 * draw.standard_normal(cells))).float()
    elif fault == "factors":
        y = y * torch.from_numpy(1 + 0.05 * draw.standard_normal(cells)).float()
    return y


def of_counts(s: Scanned) -> Handed:
    return -(s.counts / s.I0).log(), s.A, None


def closed(arc: float, views: int) -> Tensor:
    return torch.linspace(0, arc, views, dtype=torch.float64)


P = it.data_terms
TEXTURED = ("ellipses", "slice")


def emission(s: Scanned, background: float, scale: float = 1.0) -> Tensor:
    """Return counts of an emission scan with 200 counts in the brightest place, and a background."""
    return scale * s.poisson(200 * s.clean.clamp_min(0) / float(s.clean.max()) + background)


def records() -> Iterator[Record]:
    for g in ("parallel", "turn", "fan", "short", "cone"):
        yield record("-log not negated", ("sign",), g, lambda s: (-s.y, s.A, None))
    for g in ("parallel", "fan", "cone"):
        yield record(
            "intensities", ("counts",), g, lambda s: (s.counts / s.I0, s.A, None), of_counts
        )
        yield record("counts", ("counts",), g, lambda s: (s.counts, s.A, None), of_counts)
    for g in ("parallel", "turn", "fan", "curved"):
        yield record(
            "logarithm to base 10",
            ("base",),
            g,
            lambda s: (-(s.counts / s.I0).log10(), s.A, None),
            of_counts,
        )
    for g in ("turn", "parallel"):
        yield record(
            "fan given as parallel",
            ("beam",),
            g,
            lambda s: (s.measured(kind="fan"), s.A, None),
            kinds=TEXTURED,
        )
    for g in ("fan", "curved", "short"):
        yield record(
            "parallel given as a fan",
            ("beam",),
            g,
            lambda s: (s.measured(kind="parallel"), s.A, None),
            kinds=TEXTURED,
        )
    for g, factor in (("fan", 1.1), ("fan", 1 / 1.1), ("curved", 1.1), ("cone", 1.1), ("fan", 1.5)):
        yield record(
            f"source distance times {factor:.2f}",
            ("spacing",),
            g,
            lambda s, factor=factor: (
                s.y,
                s.make(source_detector=factor * _distance(s.A)),
                None,
            ),
            kinds=TEXTURED,
        )
    for g in ("fan", "curved", "short", "cone"):
        yield record(
            "views reversed", ("reversed",), g, lambda s: (s.y.flip(2), s.A, None), kinds=TEXTURED
        )
    for g in ("fan", "short", "cone"):
        yield record(
            "detector reversed",
            ("reversed",),
            g,
            lambda s: (s.y.flip(-1), s.A, None),
            kinds=TEXTURED,
        )
    for g in ("parallel", "fan"):
        arc = math.pi if g == "parallel" else 2 * math.pi
        yield record(
            "both ends of the angles",
            ("end",),
            g,
            lambda s, arc=arc: (s.y, s.make(angles=closed(arc, s.views)), None),
            kinds=TEXTURED,
        )
        yield record(
            "the last view repeats the first",
            ("end",),
            g,
            lambda s, arc=arc: (s.measured(angles=closed(arc, s.views)), s.A, None),
            kinds=TEXTURED,
        )
    for g in ("parallel", "turn", "fan", "cone"):
        yield record(
            "axis off by 3 cells",
            ("axis",),
            g,
            lambda s, g=g: (
                s.measured(
                    detector_shift=(3.0 * _spacing(s.A), 0.0)
                    if g == "cone"
                    else 3.0 * _spacing(s.A)
                ),
                s.A,
                None,
            ),
        )
        yield record(
            "a constant was added", ("offset",), g, lambda s: (s.y + 0.1 * s.y.max(), s.A, None)
        )
    for g in ("parallel", "fan"):
        yield record(
            "I0 too large by a fifth",
            ("offset",),
            g,
            lambda s: (-(s.counts / (1.2 * s.I0)).log(), s.A, None),
            of_counts,
        )
    for fault, causes in (
        ("dead", ("dead",)),
        ("pair", ("dead",)),
        ("saturated cell", ("dead",)),
        ("hot", ("hot",)),
        ("one hot", ("hot",)),
        ("zeros", ("hot",)),
        ("clipped", ("clipped",)),
        ("gains", ("gains",)),
        ("factors", ("gains",)),
    ):
        for g in (
            ("parallel", "fan", "cone")
            if fault in ("dead", "hot", "gains")
            else ("parallel", "fan")
        ):
            yield record(fault, causes, g, lambda s, fault=fault: (with_fault(s, fault), s.A, None))
    for g in ("parallel", "fan"):
        yield record(
            "a Poisson background left out",
            ("background",),
            g,
            lambda s: (emission(s, 20.0), s.A, P.Poisson()),
            lambda s: (emission(s, 20.0), s.A, P.Poisson(20.0)),
        )
        yield record(
            "counts divided by their time",
            ("scaled",),
            g,
            lambda s: (emission(s, 5.0, 0.05), s.A, P.Poisson(0.25)),
            lambda s: (emission(s, 5.0), s.A, P.Poisson(5.0)),
        )
        yield record(
            "negative counts",
            ("not negative",),
            g,
            lambda s: (emission(s, 5.0) - 5.0, s.A, P.Poisson()),
            lambda s: (emission(s, 5.0), s.A, P.Poisson(5.0)),
        )
        yield record(
            "transmitted counts that were scaled",
            ("scaled",),
            g,
            lambda s: (s.counts / 50, s.A, P.PoissonTransmission(s.I0 / 50)),
            lambda s: (s.counts, s.A, P.PoissonTransmission(s.I0)),
        )


def _distance(A: Any) -> float:
    return float(A.source_detector)


def _spacing(A: Any) -> float:
    spacing = A.detector_spacing
    return float(spacing[1] if isinstance(spacing, tuple) else spacing)


def real_scans(folder: Path) -> Iterator[tuple[str, Case]]:
    """Yield the scans of the data folder, as they are and in parts."""
    for name, y, A, noise_std in right_data(folder):
        if isinstance(A, it.operators.Operator) and hasattr(A, "angles"):
            yield name, Case(y, A, noise_std=noise_std)


def plates(seeds: str) -> None:
    """Print how many readings along thin plates are left out by default: they are true."""
    first, last = map(int, seeds.split(".."))
    n, doubted, left = 128, 0, 0
    row, column = (torch.arange(n) - (n - 1) / 2).view(-1, 1), (torch.arange(n) - (n - 1) / 2)
    for seed in range(first, last + 1):
        draw = np.random.default_rng(seed)
        views = (60, 90, 120, 180, 240)[seed % 5]
        if seed % 2:
            A: Any = it.operators.ParallelBeam((n, n), torch.arange(views) * math.pi / views, 192)
        else:
            turn = torch.arange(views) * 2 * math.pi / views
            A = it.operators.FanBeam((n, n), turn, 220, 400.0, 800.0, detector_spacing=1.6)
        x = 0.02 * ((column / (0.4 * n)) ** 2 + (row / (0.35 * n)) ** 2 < 1).float()
        for _ in range(4):
            # Along the axes of the image and along views, 1 to 2.4 pixels thick.
            angle = float(draw.choice([0.0, math.pi / 2, float(draw.choice(A.angles.numpy()))]))
            at = draw.uniform(-0.2, 0.2, 2) * n
            length, half = draw.uniform(0.15, 0.35) * n, draw.uniform(0.5, 1.2)
            u = (column - at[0]) * math.cos(angle) + (row - at[1]) * math.sin(angle)
            v = (row - at[1]) * math.cos(angle) - (column - at[0]) * math.sin(angle)
            x = x + float(draw.uniform(0.1, 0.5)) * ((u.abs() < half) & (v.abs() < length))
        y = A.simulate(x[None, None], float(draw.uniform(0.005, 0.05)), seed=seed)
        readings = Subject(it.Problem(y, A)).bad_readings
        assert readings is not None
        doubted += int((readings[0] | readings[1] | readings[2]).sum())
        weights = leave_out_certain(it.Problem(y, A)).data_term.weights  # type: ignore[attr-defined]
        left += 0 if weights is None else int((weights == 0).sum())
    print(
        f"thin plates, seeds {seeds}: {doubted} readings are taken for faults by the check, and {left} "
        f"are left out by default {verdict(left == 0, 'none')}",
        flush=True,
    )


def leave_out_certain(problem: it.Problem) -> it.Problem:
    """Return the problem of one item that the step for bad readings leaves."""
    (case,) = ask(BadReadings(), DecidedCase.of(problem, None, None, {}), {})
    return case.problem


def left_out(seeds: str) -> None:
    """Print the shares of the faulty and of the right readings that are left out by default."""
    first, last = map(int, seeds.split(".."))
    counts: dict[str, list[tuple[int, int, int]]] = {}
    for seed in range(first, last + 1):
        s = scan("losses", seed, ("fan", "parallel", "turn")[seed % 3], ("slice", "ellipses"))
        for fault in ("none", "dead", "hot", "one hot", "clipped", "gains"):
            y = with_fault(s, fault)
            faulty = y != s.y
            weights = leave_out_certain(it.Problem(y, s.A)).data_term.weights  # type: ignore[attr-defined]
            left = torch.zeros_like(faulty) if weights is None else weights == 0
            pair = int(faulty.sum()), int((left & faulty).sum()), int((left & ~faulty).sum())
            counts.setdefault(fault, []).append(pair)
    for fault, rows in counts.items():
        faulty, gone, right = np.sum(rows, 0)
        print(
            f"  {fault}, seeds {seeds}: {gone} of {faulty} faulty readings are left out, and {right} "
            f"right ones {verdict(int(right) == 0, 'no right reading')}",
            flush=True,
        )


def losses(seeds: str) -> None:
    """Print how much worse the answer is with one fault of the detector, by default and with repair=True."""
    first, last = map(int, seeds.split(".."))
    losses: dict[str, list[tuple[float, float]]] = {}
    for seed in range(first, last + 1):
        geometry = ("fan", "parallel", "turn")[seed % 3]
        s = scan("losses", seed, geometry, ("slice", "ellipses"))

        def quality(y: Tensor, repair: bool | None = None, s: Scanned = s) -> float:
            x = it.reconstruct(y, s.A, repair=repair, progress=False).x
            return float(it.metrics.psnr(x, s.x, data_range=float(s.x.max())))

        clean = quality(s.y)
        for fault in ("dead", "hot", "clipped", "gains"):
            y = with_fault(s, fault)
            ignored, default = quality(y, False), quality(y)
            losses.setdefault(fault, []).append((clean - ignored, clean - default))
            print(
                f"    {fault}, seed {seed}, {geometry}: {clean:.2f} dB, with the fault {default:.2f} dB "
                f"by default, {ignored:.2f} dB with repair=False",
                flush=True,
            )
    for fault, pairs in losses.items():
        ignored, default = np.transpose(pairs)
        print(
            f"  {fault}: mean loss {default.mean():.2f} dB, worst {default.max():.2f} dB by default, "
            f"{ignored.mean():.2f} and {ignored.max():.2f} dB with repair=False "
            f"{verdict(float(default.max()) <= 1.5, 'at most 1.5')}"
        )


def main(
    names: str = "",
    /,
    seeds: str = "100..109",
    real: bool = False,
    faults: bool = False,
    certain: bool = False,
) -> None:
    """Check the records and print a table.

    Args:
        names: pattern of the names of records.
        seeds: first and last seed.
        real: check the real scans in place of the records.
        faults: reconstruct with faults of the detector in place of the records.
        certain: with ``--faults``, count what is left out by default, and do not reconstruct.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if faults:
        print(machine())
        plates("500..599")
        left_out(seeds)
        if not certain:
            losses(seeds)
    elif real:
        alarms = count = 0
        for name, case in real_scans(data_folder()):
            found, sentences = findings(case)
            alarms, count = alarms + bool(found), count + 1
            for text in sentences:
                print(f"  {name}: {text}")
        print(f"real scans: {alarms} false alarms in {count} cases")
    else:
        run.RECORDS[:] = records()
        run.main(names, seeds=seeds)


if __name__ == "__main__":
    run_script(main)
