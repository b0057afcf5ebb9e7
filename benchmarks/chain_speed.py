"""SK-ROCK against MYULA on a deblurring with total variation, at equal bias.

    python benchmarks/chain_speed.py [--size 128] [--pilot 1000] [--steps 2000] [--coupled 480]

The photograph of a cameraman with a box blur of 5 pixels (periodic) and noise of 0.5 %, the weight
0.6 / noise_std of total variation. Both chains have the density of one envelope, l = 1 / L. The slow
directions are the 20 leading principal components of a pilot chain of SK-ROCK with a longer step and
another seed: along them the posterior is widest. The Fourier modes that the blur passes least
are not slow, because total variation and its envelope determine them. The effective sample size of a
direction is that of its coefficient at every step. An application is one of A or of A^T.

MYULA has its default step t = 1 / (3 (L + 1 / l)). SK-ROCK has 5 stages and a step of 40 t, chosen
in closed form, on a Gaussian with curvatures of 0.006 to 0.013 of L + 1 / l (those of another pilot
chain), for variances within 0.7 % of those of MYULA. The closed form is printed for a step of MYULA
that is three times as long, too, the longest at which no direction changes its sign. (With 7 stages
and a step of 77 t, variances along directions of twice the curvature were 1.3 % apart.)

MYULA is too slow for its variances to be known to 1 %, so the bias is measured on coupled chains.
Both begin at one state of SK-ROCK; in each of its steps SK-ROCK takes the sum of the noise of 40 steps of
MYULA. Along the slow directions the two chains then follow each other, and the difference of their
mean squares has a much smaller error than each. The same difference of two Gaussian chains with the
same noise, whose mean is known in closed form, is its control variate; the error without it is
printed, too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from common import machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.objective.objective import Objective
from invtoolbox.posteriors.diagnostics import effective_sample_size, standard_error
from invtoolbox.solve import bind
from invtoolbox.solvers.moreau_yosida import chebyshev

#: Stages of SK-ROCK, and its step in steps of MYULA.
STAGES, RATIO = 5, 40


def main(
    size: int = 128, pilot: int = 1000, steps: int = 2000, coupled: int = 480, threads: int = 1
) -> None:
    """Print effective draws of both chains, their ratio, and how far their variances are apart.

    Args:
        size: number of rows and columns of the picture
        pilot: number of steps of the chain that shows the slow directions
        steps: number of steps of SK-ROCK alone
        coupled: number of steps of SK-ROCK next to MYULA
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    print(f"{machine()}; {size} x {size}, {threads} thread")
    truth = it.datasets.photograph("camera")
    corner = (truth.shape[-1] - size) // 2
    truth = truth[..., corner : corner + size, corner : corner + size]
    noise_std = 0.005
    A = it.operators.Blur(torch.ones(5, 5) / 25, (size, size), boundary="periodic")
    y = A.simulate(truth, noise=noise_std, seed=0)
    problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=noise_std))
    prior, weight = it.priors.TotalVariation(), 0.6 / noise_std
    start = it.solve(problem, prior, regularization=weight, progress=False).x
    largest = float(A.norm()) ** 2 / noise_std**2
    t = 1 / (6 * largest)
    settings = {"burn_in": 0, "tolerance": 0.0, "smoothing": 1 / largest}
    chain = Chain(problem, prior, weight, start)
    wide = it.solvers.SKROCK(step_size=135 * t, stages=6, **settings)
    directions = principal(chain.states(wide, pilot, seed=2)[pilot // 10 :])
    slow = it.solvers.MYULA(step_size=t, **settings)
    fast = it.solvers.SKROCK(step_size=RATIO * t, stages=STAGES, **settings)

    began = time.perf_counter()
    states = chain.states(fast, steps, seed=0)
    seconds = time.perf_counter() - began
    draws = states[steps // 4 :] @ directions.T
    fast_number = effective_sample_size(draws[None])
    # A step makes s + 1 gradients of two applications.
    fast_rate = fast_number / (len(draws) * 2 * (STAGES + 1))
    print(
        f"SK-ROCK alone: {steps} steps of {2 * (STAGES + 1)} applications, {seconds:.0f} s; "
        f"effective draws of the 20 directions: least {float(fast_number.min()):.0f}, median "
        f"{float(fast_number.median()):.0f}",
        flush=True,
    )
    centre, curvature = draws.mean(0), 1 / draws.var(0)
    objective, _, _ = bind(problem, prior.as_sum(), weight)
    began = time.perf_counter()
    pair = couple(
        objective,
        fast,
        slow,
        states[-1].view_as(start).float(),
        directions,
        centre,
        curvature,
        coupled,
    )
    seconds = time.perf_counter() - began
    slow_number = effective_sample_size(pair.slow[None])
    slow_rate = slow_number / (2 * len(pair.slow))
    print(
        f"MYULA, coupled to {coupled} steps of SK-ROCK: {len(pair.slow)} steps of 2 applications, "
        f"{seconds:.0f} s; effective draws: least {float(slow_number.min()):.1f}, median "
        f"{float(slow_number.median()):.1f}",
        flush=True,
    )
    report(pair, curvature, fast_rate, slow_rate, t)


def report(pair: Pair, curvature: Tensor, fast_rate: Tensor, slow_rate: Tensor, t: float) -> None:
    """Print the ratios of effective draws per application, and the differences of the variances."""
    ratio = float(fast_rate.min() / slow_rate.min())
    medians = float(fast_rate.median() / slow_rate.median())
    fast_variance = gaussian_variance(curvature, RATIO * t, STAGES)
    slow_variance = gaussian_variance(curvature, t, 0)
    expected = fast_variance - slow_variance
    total = slow_variance.mean()
    print(
        f"least effective draws per application: SK-ROCK {ratio:.1f} times those of MYULA, medians "
        f"{medians:.1f} times {verdict(ratio >= 5, 'at least 5')}"
    )
    for factor in (1, 3):
        gain = gaussian_rate(curvature, RATIO * t, STAGES).min()
        gain = float(gain / gaussian_rate(curvature, factor * t, 0).min())
        spread = float(
            fast_variance.mean() / gaussian_variance(curvature, factor * t, 0).mean() - 1
        )
        print(
            f"the same in closed form on a Gaussian with these variances, MYULA with {factor} times "
            f"its default step: {gain:.1f} times, variances {100 * spread:+.2f} % apart"
        )
    # Per step, the mean over the directions; the Gaussian difference is the control variate.
    difference = pair.squares.mean(1) / total
    control = (pair.controls - expected).mean(1) / total
    away = control - control.mean()
    reduced = difference - (difference @ away) / away.square().sum() * control
    bias = float(reduced.mean())
    error, plain = (float(standard_error(v[None, :, None])) for v in (reduced, difference))
    print(
        f"mean squares of the coefficients, SK-ROCK less MYULA: {100 * bias:+.2f} % of them, "
        f"Monte-Carlo error {100 * error:.2f} % ({100 * plain:.2f} % without the control variate) "
        f"{verdict(abs(bias) <= 0.01, 'at most 1 %')}"
    )
    print(
        f"deviation of a pixel: SK-ROCK {pair.deviations[0] / pair.deviations[1]:.3f} times that of MYULA"
    )


@dataclass(frozen=True)
class Chain:
    """The density of a problem, from which chains draw, and where they begin."""

    problem: it.Problem
    prior: it.priors.ExplicitPrior
    weight: float
    start: Tensor

    def states(self, solver: it.solvers.Solver, steps: int, seed: int) -> Tensor:
        """Return every state as a row in float64, ``(steps, n)``."""
        rows: list[Tensor] = []
        it.solve(
            self.problem,
            self.prior,
            solver,
            self.weight,
            initial=self.start,
            max_iterations=steps,
            seed=seed,
            progress=False,
            callbacks=[lambda progress: rows.append(progress.x.flatten().double())],
        )
        return torch.stack(rows)


def principal(states: Tensor, count: int = 20) -> Tensor:
    """Return the directions in which states vary most, ``(count, n)``, of norm 1."""
    away = states - states.mean(0)
    _, vectors = torch.linalg.eigh(away @ away.T)
    directions = vectors[:, -count:].T @ away
    return directions / directions.norm(dim=1, keepdim=True)


class Pair(NamedTuple):
    """Two coupled chains.

    Attributes:
        slow: coefficients of every state of MYULA, ``(n, 20)``.
        squares: squares about the centre, those of SK-ROCK less those of MYULA, per step of SK-ROCK.
        controls: the same of the two Gaussian chains.
        deviations: mean deviation of a pixel of SK-ROCK and of MYULA.
    """

    slow: Tensor
    squares: Tensor
    controls: Tensor
    deviations: tuple[float, float]


def couple(
    objective: Objective,
    fast: it.solvers.SKROCK,
    slow: it.solvers.MYULA,
    start: Tensor,
    directions: Tensor,
    centre: Tensor,
    curvature: Tensor,
    steps: int,
) -> Pair:
    """Run both chains from one state with the same noise, and two Gaussian chains next to them."""
    numbers = torch.Generator().manual_seed(1)
    fast_state, slow_state = fast.init(objective, start), slow.init(objective, start)
    x, t = start, float(slow_state.step_size)
    kick, pull = gaussian_step(curvature, RATIO * t, STAGES)
    slow_kick, slow_pull = gaussian_step(curvature, t, 0)
    control = slow_control = directions @ start.flatten().double() - centre
    values, squares, controls = [], [], []
    pictures: tuple[list[Tensor], list[Tensor]] = ([], [])
    for k in range(steps):
        total = torch.zeros_like(start)
        for _ in range(RATIO):
            noise = torch.randn(start.shape, generator=numbers)
            total += noise
            z = slow.advance(objective, slow_state.x, noise, slow_state)
            _, slope, _ = slow.potential(objective, z, slow_state.smoothing)
            slow_state = replace(slow_state, x=z, slope=slope.unsqueeze(1))
            values.append(directions @ z.flatten().double())
            slow_control = slow_pull * slow_control + slow_kick * (
                directions @ noise.flatten().double()
            )
        total /= RATIO**0.5
        x = fast.advance(objective, x, total, fast_state)
        control = pull * control + kick * (directions @ total.flatten().double())
        # The chains part from their common start within a few steps.
        if k < steps // 10:
            continue
        coefficients = directions @ x.flatten().double()
        squares.append((coefficients - centre).square() - (values[-1] - centre).square())
        controls.append(control.square() - slow_control.square())
        for images, image in zip(pictures, (x, slow_state.x)):
            images.append(image.flatten())
    deviations = tuple(float(torch.stack(images).std(0).mean()) for images in pictures)
    return Pair(
        torch.stack(values),
        torch.stack(squares),
        torch.stack(controls),
        (deviations[0], deviations[1]),
    )


def gaussian_step(curvature: Tensor, step_size: float, stages: int) -> tuple[Tensor, Tensor]:
    """Return the factors of noise and state of a step along directions of these curvatures.

    Args:
        curvature: curvatures c, ``(n,)``.
        step_size: t.
        stages: stages of SK-ROCK; 0 for MYULA, ``x <- (1 - t c) x + sqrt(2 t) n``.
    """
    z, one = step_size * curvature, torch.ones_like(curvature)
    if not stages:
        return (2 * step_size) ** 0.5 * one, 1 - z
    method = chebyshev(stages)
    # A stage is K = pull x + kick q.
    pulls, kicks = (
        [one, 1 - method.mu[0] * z],
        [0 * one, method.kappa - method.mu[0] * method.nu[0] * z],
    )
    for mu, nu in zip(method.mu[1:], method.nu[1:]):
        for factors in (pulls, kicks):
            factors.append((nu - mu * z) * factors[-1] + (1 - nu) * factors[-2])
    return (2 * step_size) ** 0.5 * kicks[-1], pulls[-1]


def gaussian_variance(curvature: Tensor, step_size: float, stages: int) -> Tensor:
    """Return the variance of the chain of `gaussian_step`."""
    kick, pull = gaussian_step(curvature, step_size, stages)
    return kick.square() / (1 - pull.square())


def gaussian_rate(curvature: Tensor, step_size: float, stages: int) -> Tensor:
    """Return the effective draws per application of the chain of `gaussian_step`."""
    _, pull = gaussian_step(curvature, step_size, stages)
    return (1 - pull) / (1 + pull) / (2 * (stages + 1))


if __name__ == "__main__":
    run_script(main)
