"""What a card does with every job: time, peers, memory and errors, within ten minutes, on one page.

    make gpu                                              # or: python benchmarks/gpu.py

With a GPU it runs the tests marked `gpu`, then times every call and every job on the first one.
Printed per row: time, the times of the peers that are installed over ours (ASTRA's GPU projectors,
torch-radon, gsplat, deepinv, kornia), peak memory, and the error against the CPU's answer at a tenth
of the size. Written: ``benchmarks/results/gpu/CARD.json`` and ``CARD.txt``, a page to send back. A
row that would start after the time is used up is listed as left out.

Without a GPU the same rows run at a tenth of the size on an emulated device (tests/emulated_cuda.py),
whose kernels are the CUDA source compiled by g++ with the grid of CUDA, if g++ is installed. That
page, ``emulated.txt``, has no times and no memory, but launches, waits of the host, copies, and errors.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from common import run_script
from torch import Generator, Tensor

import invtoolbox as it
from invtoolbox.core.environment import machine, versions
from invtoolbox.geometry.splatting import rasterization

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "gpu"
SECONDS = 600.0
#: Share of the sizes at which errors are computed, and at which an emulated device runs.
SHARE = 0.1

#: Counts of an emulated device, and their words on the page.
COUNTS = {
    "kernels": "own kernels",
    "launches": "kernels of torch",
    "synchronizations": "waits",
    "copies": "copies",
}

sys.path.insert(0, str(ROOT))

Call = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        call: call of this package. It returns a tensor, or several, which do not depend on the
            device.
        peers: functions that prepare calls of other packages that do the same, by their names.
        draws: whether the result depends on numbers that CUDA draws in another way than a CPU.
    """

    call: Call
    peers: dict[str, Callable[[], Call]] = field(default_factory=dict)
    draws: bool = False


@dataclass
class Figures:
    """Figures of a row.

    Attributes:
        seconds: median time of the call.
        ratios: times of the peers over that time, by their names, or why a peer failed.
        mebibytes: peak of the memory that torch allocated.
        error: largest difference from the CPU's answer over its largest value.
        counts: kernels, waits of the host and copies of an emulated device.
        failure: why the row has no figures.
    """

    seconds: float | None = None
    ratios: dict[str, float | str] = field(default_factory=dict)
    mebibytes: float | None = None
    error: float | None = None
    counts: dict[str, int] = field(default_factory=dict)
    failure: str = ""

    def __str__(self) -> str:
        if self.failure:
            return self.failure
        words = [] if self.seconds is None else [f"{1e3 * self.seconds:.2f} ms"]
        for name, ratio in self.ratios.items():
            words.append(f"{name} {ratio if isinstance(ratio, str) else f'{ratio:.2f} times ours'}")
        words += [] if self.mebibytes is None else [f"{self.mebibytes:.0f} MiB"]
        words += [f"{number} {name}" for name, number in self.counts.items()]
        words += [] if self.error is None else [f"error {self.error:.1e}"]
        return ", ".join(words)


def no_gpu() -> str | None:
    """Return why no GPU can be used, in one sentence, or None if there is one."""
    if torch.cuda.is_available():
        return None
    why = "torch finds none" if torch.version.cuda else "this build of torch is for CPUs"
    return f"There is no CUDA device here: {why}; see `invtoolbox info`."


def measure(call: Call, device: str, repeats: int = 5) -> float:
    """Return the median seconds of a call, after one warm-up."""
    times = []
    for _ in range(repeats + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


# -- rows: calls of ours, and those of peers -------------------------------------------------------


def _random(device: str, *shape: int, seed: int = 0) -> Tensor:
    """Return the same random numbers on every device."""
    return torch.rand(*shape, generator=Generator().manual_seed(seed)).to(device)


def fan(device: str, share: float) -> dict[str, Row]:
    """Images of 256 x 256 pixels in 256 views, and a blur."""
    size, batch = round(256 * share), max(1, round(64 * share))
    angles = torch.linspace(0, 3.1, size)
    A = it.operators.ParallelBeam((size, size), angles, size).to(device=device)
    x, y = _random(device, batch, 1, size, size), _random(device, batch, 1, size, size, seed=1)
    blur = it.operators.Blur(torch.ones(9, 9) / 81, (size, size)).to(device=device)
    projectors: dict[str, Callable[[], Call]] = {}
    filters: dict[str, Callable[[], Call]] = {}
    if device == "cuda" and find_spec("torch_radon") is not None:
        projectors["torch-radon"] = lambda: _torch_radon(x, angles)
    if find_spec("deepinv") is not None:
        projectors["deepinv"] = lambda: _deepinv(x, len(angles))
    if find_spec("kornia") is not None:
        filters["kornia"] = lambda: _kornia(x)
    return {
        "project images": Row(lambda: A(x), projectors),
        "back-project images": Row(lambda: A.adjoint(y)),
        "blur, 9 x 9": Row(lambda: blur(x), filters),
    }


def _deepinv(x: Tensor, views: int) -> Call:
    from deepinv.physics import Tomography

    physics = Tomography(angles=views, img_width=x.shape[-1], device=x.device)
    return lambda: physics.A(x)


def _kornia(x: Tensor) -> Call:
    from kornia.filters import filter2d

    kernel = torch.ones(1, 9, 9).to(x.device) / 81
    return lambda: filter2d(x, kernel)


def _torch_radon(x: Tensor, angles: Tensor) -> Call:
    import torch_radon

    # Version 2 has ParallelBeam in place of Radon. Both take the number of cells and the angles.
    make = getattr(torch_radon, "ParallelBeam", None) or torch_radon.Radon
    radon = make(x.shape[-1], angles.numpy())
    return lambda: radon.forward(x)


def cone(device: str, share: float) -> dict[str, Row]:
    """A volume of 512^3 voxels in 360 views of 1024 x 1024 cells."""
    size, views = round(512 * share), round(360 * share)
    angles = torch.linspace(0, 6.28, views)
    A = it.operators.ConeBeam(
        (size, size, size), angles, (2 * size, 2 * size), 4.0 * size, 6.0 * size
    ).to(device=device)
    x = _random(device, 1, 1, size, size, size)
    y = _random(device, 1, 1, views, 2 * size, 2 * size, seed=1).reshape(1, *A.range_shape)
    projectors: dict[str, Callable[[], Call]] = {}
    if device == "cuda" and find_spec("astra") is not None:
        projectors["ASTRA"] = lambda: _astra_cone(size, angles)
    return {
        "project": Row(lambda: A(x), projectors),
        "back-project": Row(lambda: A.adjoint(y)),
    }


def _astra_cone(size: int, angles: Tensor) -> Call:
    import astra

    volume = astra.create_vol_geom(size, size, size)
    scan = astra.create_proj_geom(
        "cone", 1.0, 1.0, 2 * size, 2 * size, angles.numpy(), 4.0 * size, 2.0 * size
    )
    data = torch.rand(size, size, size).numpy()

    def project() -> None:
        identifier, _ = astra.create_sino3d_gpu(data, scan, volume)
        astra.data3d.delete(identifier)

    return project


def splats(device: str, share: float) -> dict[str, Row]:
    """200,000 Gaussians on 512 x 512 pixels, and 50 scenes of 1000."""
    size, count, scenes = round(512 * share), round(200_000 * share), round(50 * share)
    g = Generator().manual_seed(0)
    points = torch.rand(count, 3, generator=g) * 4 - torch.tensor([2.0, 2.0, -3.0])
    turn = torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=1)
    scene = (
        points,
        turn,
        # Unequal axes, so that rotations have a gradient.
        torch.tensor([0.014, 0.02, 0.028]).repeat(count, 1),
        torch.full((count,), 0.5),
        torch.rand(count, 3, generator=g),
    )
    K = torch.tensor([[[float(size), 0, size / 2], [0, float(size), size / 2], [0, 0, 1]]])
    free = [t.to(device).requires_grad_(True) for t in scene]
    view, K = torch.eye(4).to(device)[None], K.to(device)

    def train(render: Callable[..., Any]) -> Call:
        def call() -> tuple[Tensor, ...]:
            image = render(*free, view, K, size, size)[0]
            return image.detach(), *torch.autograd.grad(image.square().sum(), free)

        return call

    def by_gsplat() -> Call:
        from gsplat import rasterization as render

        return train(render)

    installed = device == "cuda" and find_spec("gsplat") is not None
    peers = {"gsplat": by_gsplat} if installed else {}
    many = [t.detach()[:1000].repeat(scenes, *[1] * t.ndim) for t in free]
    views = [t.expand(scenes, *t.shape).contiguous() for t in (view, K)]

    def one_by_one() -> Tensor:
        inputs = zip(*many, *views)
        return torch.stack([rasterization(*scene, size, size)[0] for scene in inputs])

    return {
        "forward and backward": Row(train(rasterization), peers),
        "scenes of 1000 in a batch": Row(lambda: rasterization(*many, *views, size, size)[0]),
        "scenes of 1000 one by one": Row(one_by_one),
    }


def jobs(device: str, share: float) -> dict[str, Row]:
    """50 steps of the jobs of tests/device_jobs.py, with pictures of 256 x 256 pixels."""
    from tests import device_jobs

    # Multiples of 8, because wavelets halve a picture several times.
    size, steps = int(256 * share) // 8 * 8, max(1, round(50 * share))

    def sized(job: device_jobs.Job) -> Call:
        def call() -> Tensor:
            device_jobs.SIZE = size
            return job(device, steps)

        return call

    return {
        name: Row(sized(job), draws=name in device_jobs.DRAWS)
        for name, job in device_jobs.JOBS.items()
    }


BENCHMARKS: dict[str, Callable[[str, float], dict[str, Row]]] = {
    "parallel beam, 64 images of 256^2 in 256 views": fan,
    "cone beam, 512^3 in 360 views": cone,
    "splatting, 200,000 Gaussians on 512^2": splats,
    "jobs, 50 steps at 256^2": jobs,
}


# -- figures ---------------------------------------------------------------------------------------


def difference(result: Any, reference: Any) -> float:
    """Return the largest difference over the largest value, over one tensor or several."""
    pairs = [(result, reference)] if isinstance(result, Tensor) else zip(result, reference)
    worst = 0.0
    for one, other in pairs:
        values, right = one.detach().cpu().double(), other.detach().cpu().double()
        scale = max(float(right.abs().max()), 1e-300) if right.numel() else 1.0
        worst = max(worst, float((values - right).abs().max()) / scale if right.numel() else 0.0)
    return worst


def time_row(row: Row, small: Row, reference: Row, device: str, repeats: int) -> Figures:
    """Measure a row on a card.

    Args:
        row: the row in its full size.
        small: the row at a tenth of the size.
        reference: the small row on the CPU.
        device: device of the first two.
        repeats: number of runs, of which the median counts.
    """
    figures = Figures(seconds=measure(row.call, device, repeats))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        row.call()
        figures.mebibytes = torch.cuda.max_memory_allocated() / 2**20
    for name, peer in row.peers.items():
        try:
            figures.ratios[name] = measure(peer(), device, repeats) / figures.seconds
        except Exception as error:  # a peer that fails does not hide our figures
            figures.ratios[name] = f"failed: {type(error).__name__}: {error}"
    if not row.draws:
        figures.error = difference(small.call(), reference.call())
    return figures


def run_benchmarks(
    device: str, seconds: float, share: float = 1.0
) -> tuple[dict[str, dict[str, Figures]], list[str]]:
    """Measure every row, and return the figures, and the names of the rows that were left out.

    Args:
        device: device of the calls.
        seconds: time after which no further row starts.
        share: share of the sizes, to test this script without a GPU.
    """
    began, pages, left_out = time.monotonic(), {}, []
    for title, make in BENCHMARKS.items():
        rows, small, reference = make(device, share), make(device, SHARE), make("cpu", SHARE)
        page: dict[str, Figures] = {}
        for name, row in rows.items():
            if time.monotonic() - began > seconds:
                left_out.append(f"{title}: {name}")
                continue
            try:
                repeats = 5 if share == 1 else 1
                page[name] = time_row(row, small[name], reference[name], device, repeats)
            except Exception as error:  # one job that fails does not hide the others
                page[name] = Figures(failure=f"failed: {type(error).__name__}: {error}")
            print(f"{title}: {name}: {page[name]}", flush=True)
        pages[title] = page
    return pages, left_out


def run_emulated(share: float = SHARE) -> tuple[dict[str, dict[str, Figures]], str]:
    """Run every row on an emulated device, and return the figures and what ran the kernels.

    Args:
        share: share of the sizes.
    """
    from tests.emulated_cuda import emulate_cuda
    from tests.kernels.generated_cuda import grid_launcher, why_not

    missing = why_not()
    launcher = None if missing else grid_launcher(1)
    about = (
        f"Kernels ran as Warp compiles them for the CPU, because {missing}."
        if missing
        else "Kernels ran as generated CUDA source, their threads in random order on two threads."
    )
    pages: dict[str, dict[str, Figures]] = {}
    for title, make in BENCHMARKS.items():
        page: dict[str, Figures] = {}
        for name, reference in make("cpu", share).items():
            try:
                answer = reference.call()
                with emulate_cuda(launcher) as tally:
                    row = make("cuda", share)[name]
                    tally.clear()
                    result = row.call()
                    counts = tally.totals()
                    values = [result] if isinstance(result, Tensor) else list(result)
                    values = [value.detach().cpu() for value in values]
                answers = [answer] if isinstance(answer, Tensor) else list(answer)
                shown = {word: counts[key] for key, word in COUNTS.items()}
                page[name] = Figures(counts=shown, error=difference(values, answers))
            except Exception as error:
                page[name] = Figures(failure=f"failed: {type(error).__name__}: {error}")
            print(f"{title}: {name}: {page[name]}", flush=True)
        pages[title] = page
    return pages, about


def run_tests(seconds: float) -> str:
    """Run the tests that need a GPU, and return the last line of their output."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    lines = done.stdout.strip().splitlines()
    print("\n".join(lines[-30:]))
    return lines[-1] if lines else done.stderr.strip()


def write(folder: Path, card: str, report: dict[str, Any]) -> Path:
    """Write a report of a card as JSON, and as a page of text, and return the path of the text."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(letter if letter.isalnum() else "-" for letter in card).strip("-").lower()
    pages = {t: {n: asdict(f) for n, f in page.items()} for t, page in report["figures"].items()}
    (folder / f"{name}.json").write_text(json.dumps({**report, "figures": pages}, indent=1) + "\n")
    lines = [f"{card}: {report['date']}", *report["machine"], *report["notes"]]
    for title, page in report["figures"].items():
        lines += ["", title, *(f"    {row:28s} {figures}" for row, figures in page.items())]
    if report["left_out"]:
        lines += ["", f"left out after {SECONDS:.0f} s: {', '.join(report['left_out'])}"]
    path = folder / f"{name}.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def main(folder: Path = RESULTS) -> None:
    """Print the rows, and write the page.

    Args:
        folder: folder of the page
    """
    warnings.simplefilter("ignore")
    began, missing = time.monotonic(), no_gpu()
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": [f"{name}: {value}" for name, value in {**machine(), **versions()}.items()],
        "left_out": [],
    }
    if missing is not None:
        print(f"{missing} The rows run at a tenth of the size on an emulated one, without times.")
        figures, about = run_emulated()
        card, tests = "emulated", ""
        notes = [
            missing,
            "Sizes: a tenth of those named below. Times mean nothing here. Counts are those of a whole",
            f"call or job, its preparation included. {about}",
        ]
    else:
        tests = run_tests(0.5 * SECONDS)
        left = 0.9 * SECONDS - (time.monotonic() - began)
        figures, report["left_out"] = run_benchmarks("cuda", left)
        card = torch.cuda.get_device_name(0)
        notes = [f"tests: {tests}", "errors: against the CPU's answer, at a tenth of the size"]
    report |= {"card": card, "notes": notes, "figures": figures}
    print(f"written: {write(folder, card, report)}")
    failed = [f for page in figures.values() for f in page.values() if f.failure]
    if failed or "failed" in tests or "error" in tests:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
