"""The default weight of robust data terms, compared with the best weight and the measurements.

    python benchmarks/robust_weights.py [--pictures coffee,astronaut,brick]

Pictures of 64 x 64 pixels with outliers, total variation. Every row is the mean over the pictures
of the PSNR of the default weight, the best weight of 7 half decades (by the truth), and the simple
answer: the measurements, or the filtered back-projection. The last numbers are the losses
compared with the best weight, and the gain over the simple answer, over all rows and pictures.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from statistics import mean, median

import torch
from common import machine
from torch import Tensor

import invtoolbox as it
from invtoolbox.data_terms import L1, Huber, Student

SIDE = 64


def picture(name: str) -> Tensor:
    """Return the middle of a photograph, at half its size, in grey."""
    x = it.datasets.photograph(name).mean(1, keepdim=True)
    x = torch.nn.functional.avg_pool2d(x, 2)
    top, left = ((size - SIDE) // 2 for size in x.shape[2:])
    return x[..., top : top + SIDE, left : left + SIDE].contiguous()


def salt_and_pepper(y: Tensor, share: float, seed: int) -> Tensor:
    """Replace a share of the measurements by their least and their largest value."""
    draw = torch.rand(y.shape, generator=torch.Generator().manual_seed(seed))
    low, high = min(0.0, float(y.min())), max(1.0, float(y.max()))
    y = torch.where(draw < share / 2, low, y)
    return torch.where(draw > 1 - share / 2, high, y)


def cases(x: Tensor) -> Iterator[tuple[str, it.operators.Operator, Tensor, float | None]]:
    """Yield names, operators, measurements and noise levels."""
    shape = tuple(x.shape[1:])
    identity = it.operators.Identity(shape)
    for percent in (10, 30, 50):
        yield f"salt and pepper {percent} %", identity, salt_and_pepper(x, percent / 100, 1), None
    noisy = identity.simulate(x, 0.05, seed=2)
    yield "noise and 10 % outliers", identity, salt_and_pepper(noisy, 0.1, 3), 0.05
    blur = it.operators.Blur(torch.ones(5, 5) / 25, shape[1:])
    yield "blur, 20 % outliers", blur, salt_and_pepper(blur.simulate(x, 0.01, 4), 0.2, 5), 0.01
    mask = torch.rand(shape[1:], generator=torch.Generator().manual_seed(6)) < 0.6
    gaps = it.operators.Inpainting(mask, shape[1:])
    damaged = salt_and_pepper(gaps.simulate(x, 0.02, 7), 0.2, 8) * mask
    yield "40 % gaps, 20 % outliers", gaps, damaged, 0.02
    angles = torch.arange(60) * torch.pi / 60
    scan = it.operators.ParallelBeam(shape[1:], angles, 92)
    y = scan.simulate(x, 0.2, seed=9)
    y[:, :, torch.randperm(60, generator=torch.Generator().manual_seed(10))[:6]] *= 0.3
    yield "scan, 6 of 60 views too dark", scan, y, 0.2


def terms(std: float | None) -> Iterator[tuple[str, L1 | Huber | Student]]:
    """Yield data terms, without and with a noise level."""
    scale = 0.02 if std is None else std
    yield "L1", L1()
    yield "L1, level", L1(noise_std=scale)
    yield "Huber, delta", Huber(delta=2 * scale)
    yield "Huber, level", Huber(noise_std=scale)
    yield "Student, level", Student(noise_std=scale)


def compare(x: Tensor, rows: dict[str, list[tuple[float, float, float]]], only: str) -> None:
    """Add the PSNR of the default weight, the best weight and the simple answer to the rows."""
    for case, A, y, std in cases(x):
        simple = A.pseudo_inverse(y) if A.blocks else y
        for name, term in terms(std):
            if only not in f"{case}: {name}":
                continue
            default = it.reconstruct(y, A, "tv", data_term=term, progress=False)
            weights = default.regularization * 10 ** (torch.arange(-3, 4) / 2)
            n = len(weights)
            problem = it.Problem(y.expand(n, *y.shape[1:]).clone(), A, term)
            tv = it.priors.TotalVariation()
            others = it.solve(problem, tv, regularization=weights, progress=False).x
            best = max(float(it.metrics.psnr(image[None], x, data_range=1.0)) for image in others)
            answers = (float(it.metrics.psnr(z, x, data_range=1.0)) for z in (default.x, simple))
            own, measured = answers
            rows.setdefault(f"{case}: {name}", []).append((own, max(own, best), measured))
            print(f"  {case}: {name:20} {own:6.2f} {best:6.2f} {measured:6.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", default="coffee,astronaut,brick")
    parser.add_argument("--only", default="", help="a part of the names of the rows")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: dict[str, list[tuple[float, float, float]]] = {}
    print(machine())
    for name in arguments.pictures.split(","):
        compare(picture(name), rows, arguments.only)
    print("mean PSNR, dB: default / best weight / simple answer; largest loss, least gain")
    for name, numbers in rows.items():
        own, best, simple = (mean(column) for column in zip(*numbers))
        loss = max(b - a for a, b, _ in numbers)
        gain = min(a - c for a, _, c in numbers)
        print(
            f"  {name:42} {own:6.2f} {best:6.2f} {simple:6.2f}  {loss:6.2f} {gain:6.2f}", flush=True
        )
    numbers = [row for name in rows for row in rows[name]]
    losses, gains = [b - a for a, b, _ in numbers], [a - c for a, _, c in numbers]
    print(
        f"loss against the best weight: {median(losses):.2f} dB in the median, {max(losses):.2f} dB "
        f"at most; gain over the simple answer: {mean(gains):.2f} dB in the mean, {min(gains):.2f} dB "
        f"at least ({len(losses)} rows and pictures)"
    )


if __name__ == "__main__":
    main()
