"""The tests and the jobs that need a GPU, within ten minutes, next to the peers that are installed.

    make gpu                                              # or: python benchmarks/gpu.py

Runs the tests marked `gpu`, then times every job on the first GPU. Peers are measured if they are
installed: ASTRA's GPU projectors, gsplat, deepinv and kornia. Written: card and figures, as
``benchmarks/results/gpu/CARD.json`` and ``CARD.txt``. Without a GPU it exits with code 1. A job
that would start after the time is used up is listed as left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import invtoolbox as it
from invtoolbox.core.environment import machine, versions
from invtoolbox.geometry.splatting import rasterization

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "gpu"
SECONDS = 600.0

Call = Callable[[], Any]


def no_gpu() -> str | None:
    """Return why no GPU can be used, in one sentence, or None if there is one."""
    if torch.cuda.is_available():
        return None
    why = "torch finds none" if torch.version.cuda else "this build of torch is for CPUs"
    return f"make gpu needs a CUDA device, and {why}; see `invtoolbox info`."


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


# -- jobs: each returns calls, ours and those of peers, by name ------------------------------------


def fan(device: str, size: int) -> dict[str, Call]:
    batch = 64 if size >= 256 else 2
    angles = torch.linspace(0, 3.1, size)
    A = it.operators.ParallelBeam((size, size), angles, size).to(device=device)
    x = torch.rand(batch, 1, size, size, device=device)
    y = A(x)
    calls: dict[str, Call] = {
        f"project {batch} images": lambda: A(x),
        f"back-project {batch} images": lambda: A.adjoint(y),
    }
    if find_spec("deepinv") is not None:
        from deepinv.physics import Tomography

        physics = Tomography(angles=len(angles), img_width=size, device=device)
        calls[f"deepinv: project {batch} images"] = lambda: physics.A(x)
    if find_spec("kornia") is not None:
        from kornia.filters import filter2d

        kernel = torch.ones(1, 9, 9, device=device) / 81
        blur = it.operators.Blur(kernel[0], (size, size)).to(device=device)
        calls["blur, 9 x 9"] = lambda: blur(x)
        calls["kornia: blur, 9 x 9"] = lambda: filter2d(x, kernel)
    return calls


def cone(device: str, size: int) -> dict[str, Call]:
    views = 360 if size >= 256 else 8
    angles = torch.linspace(0, 6.28, views)
    A = it.operators.ConeBeam(
        (size, size, size), angles, (2 * size, 2 * size), 4.0 * size, 6.0 * size
    ).to(device=device)
    x = torch.rand(1, 1, size, size, size, device=device)
    y = A(x)
    calls: dict[str, Call] = {
        f"project, {views} views": lambda: A(x),
        f"back-project, {views} views": lambda: A.adjoint(y),
    }
    if device == "cuda" and find_spec("astra") is not None:
        calls[f"ASTRA: project, {views} views"] = _astra_cone(size, angles)
    return calls


def _astra_cone(size: int, angles: torch.Tensor) -> Call:
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


def splats(device: str, size: int) -> dict[str, Call]:
    count = 200_000 if size >= 256 else 200
    g = torch.Generator().manual_seed(0)
    points = torch.rand(count, 3, generator=g) * 4 - torch.tensor([2.0, 2.0, -3.0])
    turn = torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=1)
    scene = (
        points,
        turn,
        torch.full((count, 3), 0.02),
        torch.full((count,), 0.5),
        torch.rand(count, 3, generator=g),
    )
    K = torch.tensor([[[float(size), 0, size / 2], [0, float(size), size / 2], [0, 0, 1]]])
    free = [t.to(device).requires_grad_(True) for t in scene]
    view, K = torch.eye(4, device=device)[None], K.to(device)

    def train(render: Callable[..., Any]) -> Call:
        def call() -> None:
            image = render(*free, view, K, size, size)[0]
            torch.autograd.grad(image.square().sum(), free)

        return call

    calls = {f"{count} Gaussians, forward and backward": train(rasterization)}
    if device == "cuda" and find_spec("gsplat") is not None:
        from gsplat import rasterization as by_gsplat

        calls["gsplat: the same"] = train(by_gsplat)
    many = [t.detach()[:1000].repeat(50, *[1] * t.ndim) for t in free]
    views = view.expand(50, 1, 4, 4).contiguous(), K.expand(50, 1, 3, 3).contiguous()
    if size >= 256:
        calls["50 scenes of 1000 in a batch"] = lambda: rasterization(*many, *views, size, size)
        calls["50 scenes of 1000 one by one"] = lambda: [
            rasterization(*(t[k] for t in many), *(t[k] for t in views), size, size)
            for k in range(50)
        ]
    return calls


def jobs(device: str, size: int) -> dict[str, Call]:
    """Return 50 steps of the jobs of tests/device_jobs.py, with larger pictures."""
    sys.path.insert(0, str(ROOT))
    from tests import device_jobs

    device_jobs.SIZE = min(size, 256)
    steps = 50 if size >= 256 else 1
    return {
        f"{steps} steps: {name}": (lambda job=job: job(device, steps))
        for name, job in device_jobs.JOBS.items()
    }


BENCHMARKS: dict[str, tuple[Callable[[str, int], dict[str, Call]], int]] = {
    "parallel beam, 256^2 x 256 views": (fan, 256),
    "cone beam, 512^3": (cone, 512),
    "splatting": (splats, 512),
    "jobs": (jobs, 256),
}


def run_benchmarks(
    device: str, seconds: float, small: bool = False
) -> tuple[dict[str, dict[str, float | str]], list[str]]:
    """Time every call, and return the seconds, and the names of the calls that were left out.

    Args:
        device: device of the calls.
        seconds: time after which no further call starts.
        small: whether to take tiny sizes, to test this script without a GPU.
    """
    began, figures, left_out = time.monotonic(), {}, []
    for title, (make, size) in BENCHMARKS.items():
        calls = make(device, 16 if small else size)
        found: dict[str, float | str] = {}
        for name, call in calls.items():
            if time.monotonic() - began > seconds:
                left_out.append(f"{title}: {name}")
                continue
            try:
                found[name] = measure(call, device, 1 if small else 5)
            except Exception as error:
                # One job or peer that fails does not hide the figures of the others.
                found[name] = f"failed: {type(error).__name__}: {error}"
            print(f"{title}: {name}: {found[name]}", flush=True)
        figures[title] = found
    return figures, left_out


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
    """Write a report of a card as JSON, and as text, and return the path of the text."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(letter if letter.isalnum() else "-" for letter in card).strip("-").lower()
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    lines = [f"{card}: {report['date']}", *report["machine"], f"tests: {report['tests']}"]
    for title, found in report["figures"].items():
        lines += ["", title]
        for call, value in found.items():
            shown = value if isinstance(value, str) else f"{1e3 * value:.2f} ms"
            lines.append(f"    {call:60s} {shown}")
    if report["left_out"]:
        lines += ["", f"left out after {SECONDS:.0f} s: {', '.join(report['left_out'])}"]
    path = folder / f"{name}.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    missing = no_gpu()
    if missing is not None:
        print(missing, file=sys.stderr)
        return 1
    warnings.simplefilter("ignore")
    began = time.monotonic()
    tests = run_tests(0.5 * SECONDS)
    figures, left_out = run_benchmarks("cuda", 0.9 * SECONDS - (time.monotonic() - began))
    card = torch.cuda.get_device_name(0)
    report = {
        "card": card,
        "date": time.strftime("%Y-%m-%d"),
        "machine": [f"{name}: {value}" for name, value in {**machine(), **versions()}.items()],
        "tests": tests,
        "figures": figures,
        "left_out": left_out,
    }
    print(f"written: {write(RESULTS, card, report)}")
    return 0 if "failed" not in tests and "error" not in tests else 1


if __name__ == "__main__":
    sys.exit(main())
