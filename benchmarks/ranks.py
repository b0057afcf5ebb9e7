"""One volume on two and four ranks against one process: answers, memory, seconds, and a killed rank.

    python benchmarks/ranks.py [--size 256] [--iterations 3] [--rounds 3] [--jobs fdk,tv,denoiser]
        [--peer-iterations 10] [--tile 64] [--killed-size 96] [--killed-iterations 80]

A cone beam of ``size`` voxels per axis, size / 2 views of a full turn, a panel of 5/4 size rows and
3/2 size columns, noise of 1 % of the largest reading. Jobs: FDK; FISTA with total variation and
positivity from the FDK; proximal gradient with a denoiser (two convolutions of 5^3 voxels, drawn at
random) by tiles of ``tile`` voxels from 0. Ranks are processes with one thread that exchange messages by
gloo on this machine. Answers: relative difference to the one process. Memory: peak of the resident
memory of a process during a job, measurements included, beyond imports, kernels and network
(Linux). Seconds: wall time, medians of alternating rounds, one process with two threads against two
ranks. deepinv: the denoiser's job by `deepinv.distributed`, eight operators of interleaved views
and the same tiles with an overlap of 4; answers are compared away from the border, where its padding
differs. Our solver also evaluates its certificate and checks its answer, which takes two products
with the operator and two with its adjoint once per run. Killed: ``ct`` on two processes, of which
one gets SIGKILL once checkpoints exist, resumed by three processes. Messages: from the division of
the scan alone.
"""

from __future__ import annotations

import ctypes
import gc
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from common import machine, run_script, verdict
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.distributed.slabs import divide

JOBS = ("fdk", "tv", "denoiser")
#: Radius of the receptive field of the denoiser.
_RADIUS = 4
_GROUPS = 8  # operators of deepinv's stack


def scan(size: int, views: int | None = None) -> it.operators.ConeBeam:
    """Create the cone beam of a volume of size^3 voxels of unit length."""
    count = views or size // 2
    return it.operators.ConeBeam(
        (size,) * 3,
        torch.arange(count, dtype=torch.float64) * 2 * math.pi / count,
        (size * 5 // 4, size * 3 // 2),
        source_origin=3.0 * size,
        source_detector=4.5 * size,
        detector_spacing=1.5,
    )


def phantom(size: int) -> Tensor:
    """Create balls of several densities in a box."""
    axis = torch.linspace(-1, 1, size)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume = ((z.abs() < 0.9) & (x.square() + y.square() < 0.6)).float()
    for place, radius, density in (
        ((-0.5, 0.2, 0.1), 0.25, 1.0),
        ((0.0, -0.3, 0.2), 0.3, -0.5),
        ((0.55, 0.1, -0.3), 0.2, 2.0),
    ):
        a, b, c = place
        ball = (z - a).square() + (y - b).square() + (x - c).square() < radius**2
        volume[ball] += density
    return volume[None, None] / size


class Smoother(nn.Module):
    """A denoiser of volumes: the image and a tenth of two convolutions of random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv3d(a, b, 5, padding=2, bias=False) for a, b in ((1, 8), (8, 1))
        )
        draw = torch.Generator().manual_seed(0)
        for layer in self.layers:
            weight = layer.weight
            weight.data = torch.randn(weight.shape, generator=draw) / weight[0].numel() ** 0.5
            weight.requires_grad_(False)

    def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
        first, last = self.layers
        return x - 0.1 * last(torch.relu(first(x)))


def step_of(size: int) -> float:
    """Return a step below ``1 / |A|^2``: ray lengths and sums over views bound the norm."""
    return 1 / (1.8 * size * (size // 2))


def compute(A: Any, y: Tensor, job: str, iterations: int, size: int, tile: int) -> Tensor:
    """Run a job on the scan, or on this rank's part of it."""
    if job == "fdk":
        return A.pseudo_inverse(y)
    problem, settings = it.Problem(y, A), {"max_iterations": iterations, "progress": False}
    if job == "tv":
        prior = it.priors.TotalVariation() + it.priors.NonNegative()
        return it.solve(
            problem, prior, "fista", regularization=0.02, tolerance=0.0, check=False, **settings
        ).x
    denoiser = it.priors.Denoiser(Smoother(), sigma=0.05, level="none")
    prior = it.priors.Tiled(denoiser, tile, _RADIUS)
    solver = it.solvers.ProximalGradient(step_size=step_of(size))
    zeros = torch.zeros(1, *A.domain_shape)
    return it.solve(
        problem,
        prior,
        solver,
        regularization=1.0,
        initial=zeros,
        tolerance=0.0,
        check=False,
        **settings,
    ).x


def worker(
    pipe: Connection,
    role: str,
    rank: int,
    count: int,
    file: str,
    meeting: str,
    size: int,
    tile: int,
) -> None:
    """Do the jobs that arrive on a pipe.

    Args:
        pipe: receives (job, iterations, what), and sends the answer of what.
        role: "one", "ranks" or "deepinv".
        rank: number of this process.
        count: number of processes of this role.
        file: file of the projections.
        meeting: file at which the ranks meet.
        size: number of voxels per axis.
        tile: number of voxels per axis that a tile of the denoiser determines.
    """
    torch.set_num_threads(2 if role == "one" else 1)
    if role != "one":
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=count
        )
    whole = np.load(file, mmap_mode="r")[None, None]
    result: Tensor | None = None

    def perform(job: str, iterations: int) -> Callable[[], Tensor]:
        if role == "deepinv":
            return peer(whole, size, iterations, tile)
        A: Any = scan(size) if role == "one" else it.distributed.Slabs(scan(size))
        y = torch.from_numpy(np.array(whole if role == "one" else A.share(whole)))
        return lambda: compute(A, y, job, iterations, size, tile)

    with torch.no_grad():
        while (task := pipe.recv()) is not None:
            job, iterations, what = task
            if what == "save":
                assert result is not None
                np.save(job, result[0, 0].numpy())
                pipe.send(None)
                continue
            result = None
            before = start_peak()
            run = perform(job, iterations)
            pipe.send("ready")
            pipe.recv()
            result = run()
            pipe.send(memory("VmHWM") - before)


def start_peak() -> int:
    """Return free memory to the system, forget the peak so far, and return the resident bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(field: str) -> int:
    """Return a field of the status of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def peer(whole: np.ndarray, size: int, iterations: int, tile: int) -> Callable[[], Tensor]:
    """Return the denoiser's job by `deepinv.distributed`."""
    from deepinv.distributed import DistributedContext, distribute
    from deepinv.optim.data_fidelity import L2

    context = DistributedContext(backend="gloo", device_mode="cpu").__enter__()
    A = scan(size)
    groups = [range(k, A.blocks, _GROUPS) for k in range(_GROUPS)]
    # Every rank reads the views of its own operators alone.
    local = context.local_indices(_GROUPS)
    y = [
        torch.from_numpy(np.array(whole[:, :, list(groups[k])])) if k in local else None
        for k in range(_GROUPS)
    ]

    def physics(index: int, device: Any, settings: Any) -> Any:
        return it.to_deepinv(A.subset(list(groups[index])))

    operators = distribute(physics, context, num_operators=_GROUPS, type_object="linear_physics")
    misfit = distribute(L2(), context)
    denoiser = distribute(
        Smoother(),
        context,
        type_object="denoiser",
        patch_size=(tile,) * 3,
        overlap=(_RADIUS,) * 3,
        tiling_dims=(2, 3, 4),
        max_batch_size=1,
    )

    def run() -> Tensor:
        x = torch.zeros(1, *A.domain_shape)
        for _ in range(iterations):
            x = denoiser(x - step_of(size) * misfit.grad(x, y, operators))
        return x

    return run


class Team:
    """Processes of one role, which wait for tasks."""

    def __init__(
        self, role: str, count: int, file: Path, folder: Path, size: int, tile: int
    ) -> None:
        self.folder, self.name = folder, f"{role}{count}"
        context = multiprocessing.get_context("spawn")
        meeting = str(folder / f"meeting_{self.name}")
        self.pipes, self.processes = [], []
        for rank in range(count):
            here, there = context.Pipe()
            process = context.Process(
                target=worker,
                args=(there, role, rank, count, str(file), meeting, size, tile),
                daemon=True,
            )
            process.start()
            self.pipes.append(here)
            self.processes.append(process)

    def ask(self, *task: Any) -> list[Any]:
        for pipe in self.pipes:
            pipe.send(task)
        return [pipe.recv() for pipe in self.pipes]

    def run(self, job: str, iterations: int) -> tuple[float, int]:
        """Return wall time and largest peak of a job; reading the measurements takes no time."""
        self.ask(job, iterations, "run")
        began = time.perf_counter()
        peaks = self.ask()
        return time.perf_counter() - began, max(peaks)

    def answer(self, job: str) -> np.ndarray:
        """Return the volume of the latest job."""
        files = [self.folder / f"{self.name}_{job}_{k}.npy" for k in range(len(self.pipes))]
        for pipe, file in zip(self.pipes, files):
            pipe.send((file, 0, "save"))
        for pipe in self.pipes:
            pipe.recv()
        return np.concatenate([np.load(file) for file in files])

    def end(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(30)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm((a - b).ravel()) / np.linalg.norm(b.ravel()))


def divided(
    size: int,
    iterations: int,
    rounds: int,
    jobs: Sequence[str],
    peer_iterations: int,
    file: Path,
    folder: Path,
    tile: int,
) -> None:
    """Print answers, memory and seconds of ranks, and of the peer."""
    one = Team("one", 1, file, folder, size, tile)
    answers: dict[str, np.ndarray] = {}
    peaks: dict[str, int] = {}
    for count, share in ((2, 0.6), (4, 0.35)) if jobs else ((2, 0.6),):
        team = Team("ranks", count, file, folder, size, tile)
        for first in (one, team):
            first.run("fdk", 1)  # loads kernels
        for job in jobs:
            is_timed = count == 2
            rows: dict[str, list[tuple[float, int]]] = {"ranks": [], "one": []}
            for _ in range(rounds if is_timed else 1):
                rows["ranks"].append(team.run(job, iterations))
                if is_timed:
                    rows["one"].append(one.run(job, iterations))
            if is_timed:
                answers[job], peaks[job] = one.answer(job), max(p for _, p in rows["one"])
            error = difference(team.answer(job), answers[job])
            largest = max(p for _, p in rows["ranks"]) / peaks[job]
            line = (
                f"{count} ranks  {job:<9}answer {error:.1e} {verdict(error <= 1e-5, '1e-5')}  "
                f"peak {largest:.0%} of {peaks[job] / 2**20:.0f} MiB "
                f"{verdict(largest <= share, f'{share:.0%}')}"
            )
            if is_timed:
                ours, seconds = (median(t for t, _ in rows[name]) for name in ("ranks", "one"))
                line += (
                    f"  {ours:.2f} s, one process of two threads {seconds:.2f} s: "
                    f"{ours / seconds:.2f} times {verdict(ours <= 1.2 * seconds, '1.2 times')}"
                )
            print(line, flush=True)
        if count == 2 and peer_iterations:
            against_peer(team, size, peer_iterations, rounds, file, folder, tile)
        team.end()
    one.end()


def against_peer(
    team: Team,
    size: int,
    iterations: int,
    rounds: int,
    file: Path,
    folder: Path,
    tile: int,
) -> None:
    """Print memory and seconds of two ranks of the peer at the denoiser's job, next to ours."""
    theirs = Team("deepinv", 2, file, folder, size, tile)
    rows = [
        (team.run("denoiser", iterations), theirs.run("denoiser", iterations))
        for _ in range(rounds)
    ]
    files = [folder / f"deepinv_{k}.npy" for k in range(2)]  # each holds the whole volume
    for pipe, path in zip(theirs.pipes, files):
        pipe.send((path, 0, "save"))
    for pipe in theirs.pipes:
        pipe.recv()
    inside = (slice(_RADIUS * iterations, -_RADIUS * iterations),) * 3
    error = difference(np.load(files[0])[inside], team.answer("denoiser")[inside])
    (ours, our_peak), (peers, their_peak) = (
        (median(row[k][0] for row in rows), max(row[k][1] for row in rows)) for k in (0, 1)
    )
    print(
        f"2 ranks  denoiser, {iterations} iterations, against deepinv.distributed: difference of the answers {error:.1e}; peak "
        f"{our_peak / 2**20:.0f} and {their_peak / 2**20:.0f} MiB "
        f"{verdict(our_peak < their_peak, 'less')}; {ours:.2f} and {peers:.2f} s: "
        f"{ours / peers:.2f} times {verdict(ours <= peers, 'not slower')}",
        flush=True,
    )
    theirs.end()


# -- a killed rank -------------------------------------------------------------------------------


def start_ct(folder: Path, count: int, options: Sequence[str]) -> list[subprocess.Popen[str]]:
    """Start ``invtoolbox ct`` as the ranks of torchrun would, without its agent."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "invtoolbox", "ct", "y.npy", "--geometry", "cone.toml"]
    return [
        subprocess.Popen(
            [*command, *options],
            cwd=folder,
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": str(count),
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def killed(size: int, iterations: int, folder: Path) -> None:
    """Print what the others say when a rank is killed, and the answer after a resumption."""
    write_scan(size, folder)
    options = ["--prior", "tv,nonnegative", "--regularization", "0.1", "--max-iterations"]
    options += [str(iterations), "--solver", "fista", "--set", "solver.tolerance=1e-9"]
    alone = start_ct(folder, 1, [*options, "--output", "one.mha"])
    ranks = start_ct(folder, 2, [*options, "--output", "two.mha"])
    state = folder / "two.mha.checkpoint"
    while not list(state.glob("loop.*of2")) and ranks[0].poll() is None:
        time.sleep(0.05)
    ranks[1].send_signal(signal.SIGKILL)
    began = time.perf_counter()
    sentence = ranks[0].communicate()[1].strip()
    ranks[1].communicate()
    waited = time.perf_counter() - began
    lines = [line for line in sentence.splitlines() if line]
    is_named = len(lines) == 1 and "another rank did" in sentence
    print(
        f"{size}^3, rank 1 killed: rank 0 stops after {waited:.1f} s with "
        f"{verdict(is_named and ranks[0].returncode == 2, 'one sentence')}: {sentence}"
    )
    left = sorted(path.name for path in state.glob("loop.*"))
    resumed = start_ct(folder, 3, [*options, "--output", "two.mha", "--resume"])
    for process in (*resumed, *alone):
        process.communicate()
    volumes = [
        it.datasets.open(folder / f"{name}.mha").volume().y.numpy() for name in ("two", "one")
    ]
    error = difference(*volumes)
    print(
        f"three ranks go on from {', '.join(left)}: answer {error:.1e} after {iterations} "
        f"iterations {verdict(error <= 1e-5, '1e-5')}"
    )


def write_scan(size: int, folder: Path) -> None:
    """Write projections and geometry of the scan for the command."""
    A = scan(size)
    np.save(folder / "y.npy", measure(A, size)[0, 0].numpy())
    rows, columns = A.detector_shape
    (folder / "cone.toml").write_text(
        f'kind = "cone"\nvolume_shape = [{size}, {size}, {size}]\nvoxel_size = 1.0\n'
        f"detector_shape = [{rows}, {columns}]\ndetector_spacing = 1.5\n"
        f"source_origin = {3.0 * size}\nsource_detector = {4.5 * size}\n"
        f'[angles]\nunit = "degrees"\nstart = 0.0\nstop = {360 - 360 / A.blocks}\n'
        f"count = {A.blocks}\n"
    )


def measure(A: it.operators.ConeBeam, size: int) -> Tensor:
    y = A(phantom(size))
    draw = torch.Generator().manual_seed(0)
    return y + 0.01 * y.max() * torch.randn(y.shape, generator=draw)


# -- messages ------------------------------------------------------------------------------------


def messages(size: int, counts: Sequence[int], views: int | None = None) -> None:
    """Print the bytes that the busiest rank sends, from the division alone."""
    A = scan(size, views)
    column = 4 * A.blocks * A.detector_shape[1]
    for count in counts:
        parts = divide(A, count)
        rows = max(
            (p.band.stop - p.band.start)
            - (min(p.band.stop, p.rows.stop) - max(p.band.start, p.rows.start))
            for p in parts
        )
        back = max(
            sum(
                max(0, min(q.band.stop, p.rows.stop) - max(q.band.start, p.rows.start))
                for q in parts
                if q is not p
            )
            for p in parts
        )
        slab = max(p.planes.stop - p.planes.start for p in parts)
        plane = 4 * size * size
        # Two planes per iteration of the prox, to one neighbour each.
        print(
            f"{size}^3, {A.blocks} views, {count} ranks: slabs of {slab} slices, {slab * plane / 1e9:.2f} "
            f"GB per volume; the busiest rank sends {rows} rows ({rows * column / 1e6:.0f} MB) per "
            f"projection, {back} ({back * column / 1e6:.0f} MB) per back-projection, and 2 planes "
            f"({2 * plane / 1e6:.1f} MB) per iteration of the prox of total variation; "
            f"{_RADIUS} planes per neighbour ({2 * _RADIUS * plane / 1e6:.1f} MB) per denoising"
        )


def main(
    size: int = 256,
    iterations: int = 3,
    rounds: int = 3,
    jobs: str = ",".join(JOBS),
    peer_iterations: int = 10,
    tile: int = 64,
    killed_size: int = 96,
    killed_iterations: int = 80,
) -> None:
    """Print the tables.

    Args:
        size: number of voxels per axis
        iterations: number of iterations of the solvers
        rounds: number of alternating rounds for seconds
        jobs: jobs that are divided, separated by commas
        peer_iterations: number of iterations of the comparison with deepinv; 0 for none
        tile: number of voxels per axis that a tile of the denoiser determines, at most size / 2
        killed_size: number of voxels per axis of the run that is killed; 0 for none
        killed_iterations: number of iterations of that run, of more than ten seconds in all
    """
    torch.set_num_threads(1)
    print(
        f"{machine()}; {size}^3, {iterations} iterations, {rounds} rounds, tiles of {tile}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        file = folder / "projections.npy"
        np.save(file, measure(scan(size), size)[0, 0].numpy())
        if jobs or peer_iterations:
            names = jobs.split(",") if jobs else []
            divided(
                size, iterations, rounds, names, peer_iterations, file, folder, min(tile, size // 2)
            )
        if killed_size:
            killed(killed_size, killed_iterations, folder)
    messages(size, (2, 4))
    messages(2048, (100,), 1024)
    print(f"load average at the end {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    run_script(main)
