"""Check of the orientation of a blur kernel: transposed, mirrored, turned, or in the corner."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from invtoolbox.measurements.findings import Finding, Subject, register
from invtoolbox.operators.imaging.blur import Blur

#: Largest and least side of the part of the picture that is examined, and least ratio of the side to
#: the kernel's.
_SIDE, _LEAST, _ROOM = 192, 48, 2.0
#: Least difference of kernels that can be told apart, relative to their norm.
_DISTINCT = 0.2
#: Least gain of the logarithm of the spectrum, and its least evidence in standard errors.
_GAIN, _EVIDENCE = 0.004, 6.0
#: Largest share of the spectrum of the gradients in its largest entries, and the share of these.
_PERIODIC, _PEAKS = 0.6, 0.005
#: Weight of the gradients relative to the noise, iterations, and the evidence of the energy, in
#: standard errors, that shows half a turn, and that has to agree with the spectrum.
_WEIGHT, _ITERATIONS, _BELIEVED, _AGREED = 0.3, 15, 6.0, 4.0
#: Exponents and factors (logarithms) of the spectra of sharp pictures.
_EXPONENTS, _FACTORS = (1.0, 1.5, 2.0, 2.5, 3.0), 13
#: Words for a kernel whose parts lie in the corners.
_CORNERS = "with its middle in the middle: its parts lie in the corners"


@register(Blur)
def check_orientation(subject: Subject) -> Finding | None:
    """Find a kernel that explains the picture only if it is turned, mirrored or shifted.

    Kernels whose spectra have different moduli are compared by the spectrum of the picture, whose
    sharp original has a spectrum that falls with a power of the frequency. A kernel and the same
    turned by half a turn have spectra of one modulus; they are compared by the sparsity of the
    gradients of their deconvolutions.
    """
    y, A = subject.problem.y0.detach(), subject.operator
    assert isinstance(A, Blur)
    weights = getattr(subject.problem.data_term, "weights", None)
    if y.is_complex() or weights is not None or subject.noise_std is None:
        return None
    kernel = A.kernel[0, 0].detach().float().cpu()
    plane = y[0].mean(0).float()
    if subject.bad_pixels is not None:
        middle = functional.avg_pool2d(plane[None, None], 5, 1, 2)[0, 0]
        plane = torch.where(subject.bad_pixels[0].any(0), middle, plane)
    plane = _liveliest(plane).cpu()
    size = float(plane.std())
    if min(plane.shape) < max(_LEAST, _ROOM * max(kernel.shape)) or not size > 0:
        return None
    kernel, noise = kernel / kernel.sum(), float(subject.noise_std[0]) / size
    if not bool(kernel.isfinite().all()):
        return None
    plane = (plane - plane.mean()) / size
    names = _candidates(kernel)
    if _is_periodic(plane) or (len(names) == 1 and _is_close(kernel, kernel.flip(0, 1))):
        return None
    words = ""
    if len(names) > 1:
        errors = _spectral_errors(plane, list(names.values()), noise)
        gains = errors[0] - errors
        winner = max(range(len(names)), key=lambda c: _evidence(gains[c]))
        if float(gains[winner].mean()) > _GAIN and _evidence(gains[winner]) > _EVIDENCE:
            words = list(names)[winner]
    changed = names[words]
    energies = _energies(plane, [kernel, changed, changed.flip(0, 1)], noise)
    best = 2 if _evidence(energies[1] - energies[2]) > (0 if words else _BELIEVED) else 1
    if words and _evidence(energies[0] - energies[best]) < _AGREED:
        return None
    words = _TURNED[words] if best == 2 else words
    if not words:
        return None
    return Finding(
        "orientation",
        f"the picture fits the kernel better {words}",
    )


#: Changes of a kernel, and the same with half a turn.
_TURNED = {
    "": "if it is turned by half a turn, as a correlation has it; pass kernel.flip(-2, -1)",
    "if its rows and columns are exchanged; pass kernel.mT": (
        "if it is mirrored at the other diagonal; pass kernel.mT.flip(-2, -1)"
    ),
    "if its columns are mirrored; pass kernel.flip(-1)": (
        "if its rows are mirrored; pass kernel.flip(-2)"
    ),
    "if it is turned by a quarter; pass kernel.rot90(1)": (
        "if it is turned by a quarter; pass kernel.rot90(-1)"
    ),
    f"{_CORNERS}; pass torch.fft.fftshift(kernel)": (
        f"{_CORNERS}; pass torch.fft.fftshift(kernel).flip(-2, -1)"
    ),
}


def _candidates(kernel: Tensor) -> dict[str, Tensor]:
    """Return the kernel and the changes that differ from it and from its half turn, by words."""
    exchanged, mirrored, quarter, corners = list(_TURNED)[1:]
    changes = {
        "": kernel,
        exchanged: kernel.mT,
        mirrored: kernel.flip(-1),
        quarter: kernel.rot90(1),
        corners: torch.fft.fftshift(kernel),
    }
    distinct: dict[str, Tensor] = {}
    for words, changed in changes.items():
        if not any(
            _is_close(changed, k) or _is_close(changed, k.flip(0, 1)) for k in distinct.values()
        ):
            distinct[words] = changed
    return distinct


def _is_close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and float((a - b).norm()) < _DISTINCT * float(b.norm())


def _evidence(gains: Tensor) -> float:
    """Return the mean of differences in units of its standard error."""
    return float(gains.mean() / (gains.std() / math.sqrt(gains.numel())).clamp_min(1e-12))


def _liveliest(plane: Tensor) -> Tensor:
    """Return the part of a picture, of limited size, that varies most among nine."""
    rows, columns = (min(n, _SIDE) for n in plane.shape)
    parts = [
        plane[(plane.shape[0] - rows) * i // 2 :, (plane.shape[1] - columns) * j // 2 :][
            :rows, :columns
        ]
        for i, j in itertools.product(range(3), repeat=2)
    ]
    return max(parts, key=lambda part: float(part.diff(dim=0).abs().mean()))


def _spectrum(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Return the power of a picture in a window, and the frequencies, in cycles per pixel."""
    n, m = plane.shape
    window = torch.hann_window(n)[:, None] * torch.hann_window(m)
    power = torch.fft.rfft2(plane * window / window.norm()).abs().square()
    return power, torch.hypot(torch.fft.fftfreq(n)[:, None], torch.fft.rfftfreq(m)[None])


def _is_periodic(plane: Tensor) -> bool:
    """Return whether a few frequencies dominate: the spectrum of such a picture shows no kernel."""
    power, frequency = _spectrum(plane)
    slopes = (power * frequency.square())[(frequency > 0.08) & (frequency < 0.5)]
    largest = slopes.topk(max(9, int(_PEAKS * len(slopes)))).values
    return float(largest.sum()) > _PERIODIC * float(slopes.sum())


def _spectral_errors(plane: Tensor, candidates: list[Tensor], noise: float) -> Tensor:
    r"""Return the errors of the model ``c |K|^2 f^{-q} + noise^2`` of the spectrum, per frequency.

    The errors are Huber's of the logarithm, so that few periodic patterns do not count. Factor and
    exponent are the best of a grid, for every candidate.
    """
    n, m = plane.shape
    power, frequency = _spectrum(plane)
    used = (frequency > 2.5 / min(n, m)) & (frequency < 0.5)
    level = power[used].clamp_min(1e-20).log()
    transfers = []
    for kernel in candidates:
        # The window mixes neighbouring frequencies.
        full = torch.fft.fft2(kernel, s=(n, m)).abs().square()
        for axis in (0, 1):
            full = 0.5 * full + 0.25 * (full.roll(1, axis) + full.roll(-1, axis))
        transfers.append(full[:, : power.shape[1]][used])
    transfer = torch.stack(transfers)
    errors = []
    for exponent in _EXPONENTS:
        shape = transfer * frequency[used] ** -exponent
        usual = power[used].mean() / shape.mean(1, keepdim=True)
        for factor in torch.linspace(-4, 2, _FACTORS).exp():
            # The logarithm of exponentially distributed power has the mean -0.577.
            misfit = level - (factor * usual * shape + noise**2).log() + 0.577
            errors.append(functional.huber_loss(misfit, torch.zeros_like(misfit), reduction="none"))
    grid = torch.stack(errors)
    chosen = grid.mean(2).argmin(0)
    return torch.stack([grid[k, c] for c, k in enumerate(chosen)])


def _energies(plane: Tensor, candidates: list[Tensor], noise: float) -> Tensor:
    r"""Return the energies of deconvolutions, ``(kernel, block)``, over blocks of 8 by 8 pixels.

    ADMM minimizes ``1/2 |M K x - y|^2 + w |grad x|_1``, M the pixels of the picture, on a grid that
    reaches beyond it by the kernel, so that nothing is assumed there (Almeida & Figueiredo 2013). In the
    energy the gradients have the power 1/2, which is sparser.
    """
    rows, columns = (max(k.shape[axis] for k in candidates) - 1 for axis in (0, 1))
    size = (plane.shape[0] + rows, plane.shape[1] + columns)
    K = torch.stack([torch.fft.rfft2(kernel, s=size) for kernel in candidates])
    steps = torch.zeros(2, *size)
    steps[:, 0, 0] = -1
    steps[0, 0, -1] = steps[1, -1, 0] = 1
    G = torch.fft.rfft2(steps)
    weight = _WEIGHT * max(noise, 1e-3)
    rho = 10 * weight
    system = K.abs().square() + rho * G.abs().square().sum(0) + 1e-6
    y = functional.pad(plane, (columns, 0, rows, 0))
    inside = functional.pad(torch.ones_like(plane), (columns, 0, rows, 0)) > 0
    u = y.expand(len(K), *size)
    a = torch.zeros_like(u)
    d = b = torch.zeros(len(K), 2, *size)
    for _ in range(_ITERATIONS):
        pull = rho * (G.conj() * torch.fft.rfft2(d - b)).sum(1)
        X = (K.conj() * torch.fft.rfft2(u - a) + pull) / system
        prediction = torch.fft.irfft2(K * X, s=size)
        gradient = torch.fft.irfft2(G * X[:, None], s=size)
        v, w = prediction + a, gradient + b
        u = torch.where(inside, (y + v) / 2, v)
        a, d = v - u, functional.softshrink(w, weight / rho)
        b = w - d
    energy = (prediction - y).square() / 2 * inside + weight * gradient.abs().sqrt().sum(1)
    return functional.avg_pool2d(energy, 8).flatten(1)
