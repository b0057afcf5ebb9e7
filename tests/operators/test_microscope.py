"""Microscopes: the models against independent quadrature, derivatives, kinds, beads, refusals."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.operators import Microscope, psf_from_beads
from invtoolbox.operators.imaging.point_spread import Pupil, bessel_j, on_grid
from invtoolbox.testing import check_operator

#: Aperture, immersion and sample of an air, a water and an oil objective.
OBJECTIVES = {"air": (0.5, 1.0, 1.33), "water": (1.1, 1.333, 1.38), "oil": (1.4, 1.515, 1.47)}


def pupil(name: str, depth: float, vectorial: bool = False) -> Pupil:
    na, immersion, sample = OBJECTIVES[name]
    values = (torch.tensor(v, dtype=torch.float64) for v in (na, 0.5, immersion, sample, depth))
    return Pupil(*values, vectorial=vectorial)


def by_angle(name: str, depth: float, z: float, r: float, vectorial: bool) -> float:
    """Integrate over the angle in the immersion by adaptive quadrature."""
    na, ni, ns = OBJECTIVES[name]
    k, ng = 2 * math.pi / 0.5, 1.515

    def fields(theta: float) -> tuple[complex, ...]:
        sine = ni * math.sin(theta)
        media = [(n, np.sqrt(complex(1 - (sine / n) ** 2))) for n in (ni, ng, ns)]
        inside = media[2][1]
        # the designed thickness of the immersion cancels except for the move of the stage
        path = ni * (depth - z - ni * depth / ns) * math.cos(theta) + ns * depth * inside
        wave = np.exp(1j * k * path)
        x = k * r * sine
        if not vectorial:
            return (wave * scipy.special.j0(x) * math.sin(theta) * math.cos(theta),)
        s = p = 1.0
        for (n1, c1), (n2, c2) in itertools.pairwise(media):
            s = s * 2 * n1 * c1 / (n1 * c1 + n2 * c2)
            p = p * 2 * n1 * c1 / (n2 * c1 + n1 * c2)
        wave = wave * math.sqrt(math.cos(theta)) * math.sin(theta)
        return (
            wave * (s + p * inside) * scipy.special.j0(x),
            math.sqrt(2) * wave * p * sine / ns * scipy.special.j1(x),
            wave * (s - p * inside) * scipy.special.jv(2, x),
        )

    top = math.asin(na / ni)

    def integral(place: int, part: str) -> float:
        value, _ = scipy.integrate.quad(
            lambda angle: getattr(complex(fields(angle)[place]), part), 0, top,
            limit=400, epsabs=1e-11,
        )  # fmt: skip
        return float(value)

    count = len(fields(0.1))
    return sum(integral(j, part) ** 2 for j in range(count) for part in ("real", "imag"))


@pytest.mark.parametrize("vectorial", [False, True])
@pytest.mark.parametrize("depth", [0.0, 10.0])
@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_models_agree_with_adaptive_quadrature(name: str, depth: float, vectorial: bool) -> None:
    z, r = depth + torch.tensor([0.0, 0.7, -1.5]).double(), torch.tensor([0.0, 0.3, 1.2]).double()
    ours = pupil(name, depth, vectorial).intensity(z, r)
    theirs = torch.tensor(
        [[by_angle(name, depth, float(a), float(b), vectorial) for b in r] for a in z],
        dtype=torch.float64,
    )
    grid = on_grid(pupil(name, depth, vectorial), (41, 1, 1), (0.1, 1.0, 1.0))
    scale = ours[0, 0] / theirs[0, 0]
    assert float((ours - scale * theirs).abs().max() / grid.max()) < 1e-5


def test_the_focus_of_a_flat_pupil_is_the_airy_disc() -> None:
    r = torch.linspace(0, 2, 30).double()
    ours = pupil("air", 0.0).intensity(torch.zeros(1).double(), r)[0]
    x = 2 * np.pi / 0.5 * 0.5 * r.numpy()[1:]
    np.testing.assert_allclose((ours / ours[0])[1:], (2 * scipy.special.j1(x) / x) ** 2, atol=1e-10)


def test_bessel_functions_and_their_derivatives() -> None:
    x = torch.linspace(0, 90, 700, dtype=torch.float64)
    for order in range(3):
        value, slope = torch.func.jvp(lambda v: bessel_j(order, v), (x,), (torch.ones_like(x),))  # noqa: B023
        np.testing.assert_allclose(value, scipy.special.jv(order, x.numpy()), atol=1e-13)
        np.testing.assert_allclose(slope, scipy.special.jvp(order, x.numpy()), atol=1e-12)


def microscope(kind: Any = "widefield", **settings: Any) -> Microscope:
    settings = {"excitation": 0.9 if kind == "two-photon" else None, **settings}
    return Microscope((9, 16, 18), 1.1, 0.52, "water", (0.3, 0.12, 0.12), kind, **settings)


@pytest.mark.parametrize("kind", ["widefield", "confocal", "light-sheet", "two-photon"])
@pytest.mark.parametrize("model", ["scalar", "vectorial"])
def test_keeps_the_contract(kind: str, model: Any) -> None:
    A = microscope(kind, model=model)
    assert check_operator(A).ok
    assert float(A.kernel.sum()) == pytest.approx(1.0) and float(A.kernel.min()) >= 0
    middle = tuple(n // 2 for n in A.kernel.shape[-3:])
    assert A.kernel[0, 0].argmax() == np.ravel_multi_index(middle, A.kernel.shape[-3:])


def test_kinds_cut_the_light_outside_of_the_focus() -> None:
    def share(A: Microscope) -> float:
        planes = A.kernel[0, 0].sum((1, 2))
        return float(planes[len(planes) // 2])

    wide, sheet, confocal = (share(microscope(k)) for k in ("widefield", "light-sheet", "confocal"))
    assert wide < sheet and wide < confocal
    assert share(microscope("light-sheet", sheet_na=0.2)) > sheet  # a thinner sheet
    assert share(microscope("confocal", pinhole=0.0)) > confocal
    open_hole = microscope("confocal", pinhole=6.0).kernel  # the excitation alone is left
    both = microscope().kernel
    assert float((open_hole - both).abs().max() / both.max()) < 0.15


def test_numbers_of_the_objective_are_parameters() -> None:
    A = microscope(depth=torch.tensor([0.0, 5.0]))
    assert A.items == 2
    x = torch.rand(2, 1, 9, 16, 18, dtype=torch.float64)
    torch.testing.assert_close(A(x)[1:], microscope(depth=5.0)(x[1:]), rtol=0, atol=0)
    alone = A.select(torch.tensor([1]))
    torch.testing.assert_close(alone(x[1:]), A(x)[1:], rtol=0, atol=0)

    def image(na: Tensor, wavelength: Tensor, depth: Tensor) -> Tensor:
        changed = microscope().with_parameters(na=na, wavelength=wavelength, depth=depth)
        return changed(x[:1])[..., 4, 8, 8]

    start = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (1.05, 0.5, 3.0)]
    assert torch.autograd.gradcheck(image, start, atol=1e-6)


def test_an_unknown_depth_is_found() -> None:
    beads = torch.zeros(1, 1, 21, 16, 16, dtype=torch.float64)
    beads[0, 0, 10, 8, 8] = 100.0
    settings = {"voxel_size": (0.3, 0.1, 0.1), "kernel_shape": (21, 15, 15)}
    A = Microscope((21, 16, 16), 1.2, 0.52, "oil", depth=6.0, **settings)
    y = A(beads)
    guess = A.with_parameters(depth=torch.tensor([4.0], dtype=torch.float64))
    depth = torch.tensor([4.0], dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([depth], lr=0.2)
    for _ in range(60):
        adam.zero_grad()
        (guess.with_parameters(depth=depth)(beads) - y).square().sum().backward()
        adam.step()
    assert float(depth) == pytest.approx(6.0, abs=0.1)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(it.InputError, match="aperture of 1.4 needs an immersion"):
        Microscope((9, 16, 16), 1.4, 0.5, "air", (0.3, 0.1, 0.1))
    with pytest.raises(it.InputError, match="the immersion 'honey' is unknown"):
        Microscope((9, 16, 16), 1.4, 0.5, "honey", (0.3, 0.1, 0.1))
    with pytest.raises(it.InputError, match="needs the wavelength of the laser"):
        Microscope((9, 16, 16), 0.8, 0.5, "water", (0.3, 0.1, 0.1), "two-photon")
    with pytest.raises(it.InputError, match="three lengths in micrometres"):
        Microscope((9, 16, 16), 0.8, 0.5, "water", (0.1, 0.1))
    with pytest.raises(it.InputError, match="larger than the"):
        Microscope((9, 16, 16), 0.8, 0.5, "water", (0.3, 0.1, 0.1), kernel_shape=(11, 5, 5))


# -- beads -----------------------------------------------------------------------------------------


def beads(places: list[tuple[float, float, float]], noise: float = 0.0) -> Tensor:
    axes = [torch.arange(n).double() for n in (15, 64, 64)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    stack = torch.full((15, 64, 64), 20.0, dtype=torch.float64)
    for a, b, c in places:
        stack += 500 * torch.exp(-((z - a) ** 2 / 8 + ((y - b) ** 2 + (x - c) ** 2) / 4.5))
    return stack + noise * torch.randn(stack.shape, generator=torch.Generator().manual_seed(0))


PLACES = [(7.0, 12.3, 14.8), (7.4, 15.1, 44.2), (6.6, 44.7, 13.5), (7.1, 47.2, 47.9)]


def test_beads_are_centred_and_averaged() -> None:
    line = [torch.arange(-(n // 2), n // 2 + 1).double() for n in (9, 13, 13)]
    z, y, x = torch.meshgrid(*line, indexing="ij")
    truth = torch.exp(-(z**2 / 8 + (y**2 + x**2) / 4.5))
    truth /= truth.sum()
    psf = psf_from_beads(beads(PLACES, 10.0), (9, 13, 13))
    one = psf_from_beads(beads(PLACES[:1], 10.0), (9, 13, 13))
    errors = [float((found - truth).norm() / truth.norm()) for found in (psf, one)]
    assert errors[0] < 0.08 and errors[0] < errors[1]


def test_beads_that_mislead_are_left_out() -> None:
    near = [*PLACES, (7.0, 2.0, 30.0), (7.0, 30.0, 28.0), (7.0, 30.0, 35.0)]
    psf, clean = (psf_from_beads(beads(p), (9, 13, 13)) for p in (near, PLACES))
    assert float((psf - clean).norm() / clean.norm()) < 1e-3
    with pytest.raises(it.InputError, match="1 near the border"):
        psf_from_beads(beads([(7.0, 2.0, 30.0)]), (9, 13, 13))
    clipped = beads(PLACES).clamp_max(255).to(torch.uint8)
    with pytest.raises(it.InputError, match="saturated"):
        psf_from_beads(clipped, (9, 13, 13))
    with pytest.raises(it.InputError, match="three odd sizes"):
        psf_from_beads(beads(PLACES), (9, 12, 13))
