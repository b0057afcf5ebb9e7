"""Travel times of first arrivals, and waveform inversion that starts from picked ones.

    python benchmarks/first_arrivals.py [--only times|picks|choice|layered|marmousi] [--iterations 10]
        [--starts first-arrivals,gradient] [--seed 5] [--count 5]

Times: three shots in a velocity of 1500 m/s + 0.8 / s times the depth against the closed form, at
500 random places above 1500 m and before 3000 m; fteikpy on the same grid, with the means of our
nodes as the velocities of its cells. Seconds: both in turn, median of three.
Choice: threshold and floor of the picks by their error against the travel times of the model, and the
roughness of the tomography, on random layered models 0 to 2, whose records are simulated,
picked and inverted for travel times. Layered: the same with the chosen roughness on models 5 to 9.
Marmousi: 50 x 156 cells of 60 m, 6 shots, 78 receivers, exact records of 4 Hz, in the bands up to 2, 3
and 4 Hz. The start is computed from the records alone: picks, a velocity linear in the depth,
tomography. The errors are root mean squares over all cells.
"""

from __future__ import annotations

import statistics
import time
from typing import Literal

import numpy as np
import torch
from common import alternating, data_folder, machine, run_script, verdict
from scipy.io import loadmat
from torch import Tensor

import invtoolbox as it
from invtoolbox.jobs.waves.first_arrivals import fit_gradient
from invtoolbox.operators import TravelTimes
from invtoolbox.simulation import ricker

#: Side of a cell in metres, seconds of a time step, main frequency, samples, and the grid.
CELL, STEP, FREQUENCY, SAMPLES, GRID = 60.0, 0.0044, 4.0, 1060, (50, 156)
VELOCITIES = (1450.0, 5700.0)
BANDS = (2.0, 3.0, 4.0)


def closed_form(shots: Tensor, places: Tensor, top: float, slope: float) -> Tensor:
    """Return the travel times in the velocity ``top + slope depth``, ``(shots, places)``."""
    square = (places - shots[:, None]).square().sum(-1)
    speeds = (top + slope * shots[:, None, 0]) * (top + slope * places[:, 0])
    return (1 + slope**2 * square / (2 * speeds)).acosh() / slope


def peer(velocity: Tensor, side: float, shots: Tensor, places: Tensor) -> Tensor:
    """Return fteikpy's travel times, ``(shots, places)``; its velocities lie between our nodes."""
    from fteikpy import Eikonal2D

    v = velocity[0, 0].double().numpy()
    cells = 0.25 * (v[1:, 1:] + v[:-1, 1:] + v[1:, :-1] + v[:-1, :-1])
    solver = Eikonal2D(cells, gridsize=(side, side))
    grids = solver.solve(shots.double().numpy(), nsweep=2)
    return torch.from_numpy(np.stack([grid(places.double().numpy()) for grid in grids]))


def travel_times() -> None:
    generator = torch.Generator().manual_seed(0)
    shots = torch.tensor([[0.0, 0.0], [40.0, 3000.0], [517.0, 1234.0]], dtype=torch.float64)
    places = torch.rand(500, 2, generator=generator, dtype=torch.float64) * 1500
    places[:, 1] *= 2
    truth = closed_form(shots, places, 1500.0, 0.8)
    for side in (40.0, 20.0, 10.0):
        grid = (round(3000 / side) + 1, round(6000 / side) + 1)
        depth = side * torch.arange(grid[0], dtype=torch.float64)
        x = (1500 + 0.8 * depth)[:, None].expand(grid)[None, None].contiguous()
        A = TravelTimes(grid, side, shots, places, (500.0, 8000.0))
        calls = {
            "ours": lambda A=A, x=x: A(x)[0, 0],
            "fteikpy": lambda x=x, side=side: peer(x, side, shots, places),
        }
        seconds = alternating(calls, repeats=3)
        errors = {name: (call() - truth).abs() for name, call in calls.items()}
        text = "; ".join(
            f"{name} {1e3 * float(error.mean()):.4f} ms in the mean, {1e3 * float(error.max()):.3f} at "
            "worst"
            for name, error in errors.items()
        )
        better = float(errors["ours"].mean() / errors["fteikpy"].mean())
        print(
            f"gradient, nodes every {side:g} m: {text}; ours over fteikpy {better:.2f}",
            verdict(better <= 1, "1"),
        )
        ratio = seconds["ours"] / seconds["fteikpy"]
        print(f"  seconds {seconds['ours']:.3f} and {seconds['fteikpy']:.3f}, ratio {ratio:.2f}")


def marmousi() -> Tensor:
    """Return velocities of Marmousi, means of 6 x 6 cells of 10 m, ``(1, 1, 50, 156)``."""
    velocity = loadmat(data_folder() / "marmousi_10m" / "marmousi_dz10.mat")["vel"]
    coarse = velocity[:300, :936].reshape(50, 6, 156, 6).mean((1, 3))
    return torch.from_numpy(coarse).float()[None, None]


def layered(seed: int) -> Tensor:
    """Return layers of random thickness and velocity, folded, dipping and cut by a fault."""
    random = np.random.default_rng(seed)
    along = np.arange(GRID[1]) / GRID[1]
    depth = CELL * np.arange(GRID[0])[:, None]
    shape = random.normal(0, 300) * (along - 0.5)
    for k in (1, 2, 3):
        shape = shape + random.normal(0, 120 / k) * np.sin(
            2 * np.pi * (k * along + random.random())
        )
    shape = shape + random.normal(0, 150) * (along > random.uniform(0.25, 0.75))
    edges = np.cumsum(random.uniform(80, 350, 40))
    which = np.searchsorted(edges, np.clip(depth + shape * np.clip(depth / 800, 0, 1), 0, None))
    speeds = 1600 + random.uniform(0.7, 1.0) * np.concatenate([[0.0], edges])
    speeds = np.clip(speeds + np.concatenate([[0.0], random.normal(0, 250, 40)]), 1500, 5500)
    velocity = np.where(depth < random.uniform(30, 120), 1500.0, speeds[which])
    return torch.from_numpy(velocity).float()[None, None]


def survey() -> it.operators.AcousticWaves:
    width = (GRID[1] - 1) * CELL
    across = torch.tensor([5.0, 34.0, 63.0, 92.0, 121.0, 150.0]) * CELL
    along = torch.arange(0, GRID[1], 2) * CELL
    assert float(along.max()) <= width
    return it.operators.AcousticWaves(
        GRID,
        CELL,
        torch.stack([torch.full_like(across, CELL), across], 1),
        torch.stack([torch.full_like(along, CELL), along], 1),
        ricker(FREQUENCY, STEP, 140),
        STEP,
        VELOCITIES,
        samples=SAMPLES,
    )


def error(x: Tensor, truth: Tensor) -> float:
    return float((x - truth).square().mean().sqrt())


def tomography(truth: Tensor, roughness: float | None) -> tuple[Tensor, Tensor, str]:
    """Return the start linear in the depth, that of the tomography, and its note."""
    A = survey()
    picks = it.pick_first_arrivals(A.simulate(truth), A)
    line = fit_gradient(picks, A.travel_times())
    settings = {} if roughness is None else {"roughness": roughness}
    solution = it.invert_first_arrivals(picks, A, progress=False, **settings)
    return line, solution.x, solution.notes[-1]


def picks() -> None:
    """Compare thresholds and floors of the picks on layered models."""
    A, errors = survey(), {}
    for seed in range(3):
        truth = layered(seed)
        y, times = A.simulate(truth), A.travel_times()(truth)
        y = y + 1e-4 * y.abs().amax() * torch.randn(
            y.shape, generator=torch.Generator().manual_seed(seed)
        )
        for threshold in (2.0, 4.0, 8.0):
            for floor in (0.003, 0.01, 0.03):
                late = it.pick_first_arrivals(y, A, threshold, floor) - times
                errors.setdefault((threshold, floor), []).append(late[late.isfinite()].abs())
    for (threshold, floor), values in errors.items():
        joined = 1e3 * torch.cat(values)
        print(
            f"picks with threshold {threshold:g} and floor {floor:g} on layered models 0 to 2, noise of "
            f"1e-4 of the largest sample: error {float(joined.mean()):.0f} ms in the mean, "
            f"{float(joined.quantile(0.95)):.0f} ms at 95 %",
            flush=True,
        )


def choice() -> None:
    picks()
    rows = {roughness: [] for roughness in (30.0, 100.0, 300.0)}
    for seed in range(3):
        truth = layered(seed)
        for roughness, ratios in rows.items():
            line, x, _ = tomography(truth, roughness)
            ratios.append(error(x, truth) / error(line, truth))
    for roughness, ratios in rows.items():
        print(
            f"roughness {roughness:g} m/s on layered models 0 to 2: error over that of the velocity "
            f"linear in the depth {statistics.mean(ratios):.3f} in the mean, {max(ratios):.3f} at "
            "worst",
            flush=True,
        )


def unseen(seed: int, count: int) -> None:
    ratios = []
    for number in range(seed, seed + count):
        truth = layered(number)
        line, x, _ = tomography(truth, None)
        ratios.append(error(x, truth) / error(line, truth))
    print(
        f"layered models {seed} to {seed + count - 1}: error of the tomography over that of the "
        f"velocity linear in the depth {statistics.mean(ratios):.3f} in the mean, {max(ratios):.3f} at "
        "worst",
        verdict(max(ratios) <= 1.0, "1 at worst"),
        flush=True,
    )


def inversion(iterations: int, starts: str) -> None:
    truth, A = marmousi(), survey()
    y = A.simulate(truth)
    line, start, note = tomography(truth, None)
    print(f"Marmousi, {iterations} iterations a band; {note}")
    models = {"first-arrivals": start, "gradient": line}
    for name in starts.split(","):
        x, began = models[name], time.process_time()
        first = error(x, truth)
        print(f"from {name}: {first:.0f} m/s at the start", flush=True)
        for band in BANDS:
            x = it.invert_waveforms(y, A, x, (band,), max_iterations=iterations, progress=False).x
            print(
                f"  up to {band:g} Hz: {error(x, truth):.0f} m/s, {time.process_time() - began:.0f} s",
                flush=True,
            )
        ratio = error(x, truth) / first
        bar = verdict(ratio <= 0.8, "0.8") if name == "first-arrivals" else "[for comparison]"
        print(f"  error {ratio:.3f} of the start's {bar}", flush=True)


def main(
    only: Literal["times", "picks", "choice", "layered", "marmousi"] | None = None,
    iterations: int = 10,
    starts: str = "first-arrivals,gradient",
    seed: int = 5,
    count: int = 5,
    threads: int = 1,
) -> None:
    """Print one row per comparison.

    Args:
        only: the part that is run
        iterations: number of iterations per band of the waveform inversion
        starts: starts of the waveform inversion, separated by commas
        seed: first of the layered models that are reported
        count: number of these models
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    print(machine())
    if only == "picks":
        picks()
    if only in (None, "choice"):
        choice()
    if only in (None, "layered"):
        unseen(seed, count)
    if only in (None, "marmousi"):
        inversion(iterations, starts)
    # At last, because the import of fteikpy slows deepwave down in the same process.
    if only in (None, "times"):
        travel_times()


if __name__ == "__main__":
    run_script(main)
