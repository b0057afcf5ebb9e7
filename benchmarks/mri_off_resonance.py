"""Off-resonance of MRI: segments against the exact sum, field map of two echoes, corrected spiral.

    python benchmarks/mri_off_resonance.py [--tuning]

* exact sum: four spirals of 20 ms of a measured head (magnitude and field map of ``mri_fieldmap``,
  -41 to 128 Hz, 128 x 128) against the sum over all pixels, for complex128 and a kernel of 10 cells,
  so that the error is that of the segments; and the dot tests. A Hann window of the radius of the
  spirals takes the frequencies away that no spiral measures.
* field map: two echoes of the same head with noise; root mean square of the error in the object.
* spiral: least squares (15 iterations of conjugate gradients) with the field map of two echoes,
  with the true one and with none, from measurements by the exact sum with 1 % noise; relative error
  of the image.

With ``--tuning`` the smoothness of the field map is compared on maps of smooth bumps, on which its
default was chosen.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.operators import NonUniformFourier, spiral_trajectory
from invtoolbox.operators.mri.fourier import centred_fft, centred_ifft

READOUT, SIZE, INTERLEAVES = 0.02, 128, 4
OBJECT = 0.1


def main(tuning: bool = False, threads: int = 1) -> None:
    """Print the rows.

    Args:
        tuning: compare values of the smoothness instead
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    print(machine())
    if tuning:
        compare_smoothness()
        return
    field, magnitude = read("fieldmap128"), read("mag128")
    magnitude = magnitude / magnitude.max()
    estimate = field_maps(field, magnitude)
    phantom = low_frequencies(magnitude)
    spirals(field, phantom, exact_sum(field, phantom), estimate)


def read(name: str) -> Tensor:
    """Return an image of an AVS field file: a text header, two form feeds, big-endian numbers."""
    content = (data_folder() / "mri_fieldmap" / f"{name}.fld").read_bytes()
    values = np.frombuffer(content.split(b"\f\f", 1)[1], ">f4").reshape(SIZE, SIZE)
    return torch.from_numpy(values.astype(np.float32))


def low_frequencies(image: Tensor) -> Tensor:
    """Return an image times a Hann window in k-space, complex."""
    place = 2 * (torch.arange(SIZE) - SIZE // 2) / SIZE
    radius = torch.hypot(place[:, None], place).clamp(max=1)
    window = 0.5 + 0.5 * torch.cos(math.pi * radius)
    return centred_ifft(centred_fft(image.to(torch.complex64), 2) * window, 2)


def spiral(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return the trajectory and the times of its samples."""
    k = spiral_trajectory(SIZE, INTERLEAVES)
    return k.to(dtype), torch.linspace(0, READOUT, k.shape[1], dtype=dtype)


def exact_sum(field: Tensor, phantom: Tensor) -> Tensor:
    """Print the error of the segments; return the exact measurements of the phantom."""
    k, t = spiral(torch.float64)
    A = NonUniformFourier(k, (SIZE, SIZE), width=10, field_map=field, times=t)
    x = phantom.to(torch.complex128)
    place = (torch.arange(SIZE, dtype=torch.float64) - SIZE // 2) / SIZE
    parts = []
    for points, times in zip(
        k.reshape(-1, 2).split(512), t.expand(k.shape[:2]).reshape(-1).split(512)
    ):
        shift = torch.stack(
            torch.meshgrid(place, place, indexing="ij"),
        ).flatten(1)
        phase = -points @ shift + times[:, None] * field.double().flatten()
        parts.append(torch.polar(torch.ones_like(phase), 2 * math.pi * phase) @ x.flatten() / SIZE)
    exact = torch.cat(parts).view(1, 1, *k.shape[:2])
    error = float((A(x[None, None]) - exact).norm() / exact.norm())
    low, high = float(field.min()), float(field.max())
    segments = A.segments.count if A.segments else 0
    print(
        f"exact sum, {low:.0f} to {high:.0f} Hz, {1e3 * READOUT:.0f} ms, {k.numel() // 2} samples: "
        f"{segments} segments, relative error {error:.1e} "
        + verdict(error <= 1e-4 and segments <= 12, "1e-4 with at most 12 segments")
    )
    draw = torch.Generator().manual_seed(0)
    for dtype, bound in ((torch.complex64, 1e-5), (torch.complex128, 1e-12)):
        u = torch.randn(A.domain_shape, dtype=dtype, generator=draw)[None]
        v = torch.randn(A.range_shape, dtype=dtype, generator=draw)[None]
        one, two = (
            torch.vdot(v.flatten(), A(u).flatten()),
            torch.vdot(A.adjoint(v).flatten(), u.flatten()),
        )
        gap = float((one - two).abs() / (A(u).norm() * v.norm()))
        print(f"dot test, {dtype}: {gap:.1e} " + verdict(gap <= bound, f"{bound:g}"))
    return exact.to(torch.complex64)


def field_maps(field: Tensor, magnitude: Tensor) -> Tensor:
    """Print the errors of field maps of two echoes; return the map of the last case."""
    is_object = magnitude > OBJECT * magnitude.max()
    chosen = field
    for apart, snr in ((0.0025, 50), (0.005, 30), (0.01, 50)):
        estimate, raw = map_of_echoes(field, magnitude, apart, snr, seed=1)
        error, of_raw = (rms((f - field)[is_object]) for f in (estimate, raw))
        print(
            f"field map, echoes {1e3 * apart:g} ms apart, mean signal {snr} times the noise: "
            f"{error:.2f} Hz RMS, phase difference without unwrapping and prior {of_raw:.2f} "
            + verdict(error <= 2, "2 Hz RMS")
        )
        chosen = estimate
    return chosen


def map_of_echoes(
    field: Tensor, magnitude: Tensor, apart: float, snr: float, seed: int, smoothness: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Return the field map of two simulated echoes, and their phase difference in Hz."""
    draw = torch.Generator().manual_seed(seed)
    level = float(magnitude[magnitude > OBJECT * magnitude.max()].mean()) / snr
    times, echoes = (0.005, 0.005 + apart), []
    for t in times:
        noise = torch.randn((2, *field.shape), generator=draw) * level
        clean = torch.polar(magnitude, 2 * math.pi * field * t)
        echoes.append(clean + torch.complex(noise[0], noise[1]))
    estimate = it.estimate_field_map(echoes[0], echoes[1], times, smoothness)[0, 0]
    return estimate, (echoes[0].conj() * echoes[1]).angle() / (2 * math.pi * apart)


def spirals(field: Tensor, phantom: Tensor, y: Tensor, estimate: Tensor) -> None:
    """Print the errors of images of the spiral with and without correction."""
    k, t = spiral()
    draw = torch.Generator().manual_seed(2)
    level = 0.01 * float(y.abs().square().mean().sqrt())
    noise = torch.randn((2, *y.shape), generator=draw) * level
    y = y + torch.complex(noise[0], noise[1])
    errors = {}
    for name, map_ in (("none", None), ("of two echoes", estimate), ("true", field)):
        times = None if map_ is None else t
        A = NonUniformFourier(k, (SIZE, SIZE), field_map=map_, times=times)
        x = it.solve(it.Problem(y, A), solver=it.solvers.CGLS(max_iterations=15), progress=False).x[
            0, 0
        ]
        errors[name] = float((x - phantom).norm() / phantom.norm())
    for name in ("of two echoes", "true"):
        ratio = errors[name] / errors["none"]
        print(
            f"spiral, {INTERLEAVES} interleaves of {1e3 * READOUT:.0f} ms, field map {name}: "
            f"relative error {errors[name]:.3f}, without correction {errors['none']:.3f}, ratio "
            f"{ratio:.2f} " + verdict(ratio <= 0.3, "0.3")
        )


def compare_smoothness() -> None:
    """Print the errors of field maps of smooth bumps for several values of the smoothness."""
    v = torch.linspace(-1, 1, 96)
    for smoothness in (0.1, 0.5, 2.0, 8.0):
        errors = []
        for seed in range(3):
            draw = torch.Generator().manual_seed(seed)
            field = torch.zeros(96, 96)
            for _ in range(6):
                y, x, height, width = torch.rand(4, generator=draw).tolist()
                radius = (v[:, None] - 2 * y + 1) ** 2 + (v - 2 * x + 1) ** 2
                field += 300 * (height - 0.4) * torch.exp(-radius / (0.05 + 0.4 * width) ** 2)
            radius = torch.hypot(v[:, None] / 0.8, v / 0.7)
            magnitude = (radius < 1) * (1 + 0.5 * torch.cos(9 * v[:, None]) * torch.cos(7 * v))
            for apart, snr in ((0.0025, 50), (0.005, 30), (0.01, 20)):
                estimate, _ = map_of_echoes(field, magnitude, apart, snr, seed, smoothness)
                errors.append(rms((estimate - field)[radius < 1]))
        mean = sum(errors) / len(errors)
        print(f"smoothness {smoothness:g}: {mean:.2f} Hz in the mean, {max(errors):.2f} at worst")


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


if __name__ == "__main__":
    run_script(main)
