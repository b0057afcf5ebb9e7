"""Random runs of `it.solve` by their inputs, and ways to change one input; for the tests and for benchmarks/resume.py.

A run is a flat dict of inputs: tensors, numbers and names. `build` makes the arguments of `it.solve`
from it, always from copies. `changed` changes one input.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import invtoolbox as it

SIZE, ITEMS = 8, 2
Inputs = dict[str, Any]


class Power(it.priors.ExplicitPrior):
    """A user's prior whose repr does not show its setting."""

    def __init__(self, power: float, offset: Tensor) -> None:
        self.settings = {"power": power, "offset": offset}

    def energy(self, x: Tensor) -> Tensor:
        away = (x - self.settings["offset"]).square() + 1e-2
        return away.pow(self.settings["power"] / 2).flatten(1).sum(1)

    def __repr__(self) -> str:
        return "Power()"


class OtherPower(Power):
    """The same settings and the same repr, another energy."""

    def energy(self, x: Tensor) -> Tensor:
        return 2.0 * super().energy(x)


class Smoother(nn.Module):
    """A network with a parameter, a buffer and a setting."""

    shift: Tensor

    def __init__(self, kernel: Tensor, shift: Tensor, slope: float) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        self.layer.weight = nn.Parameter(kernel)
        self.register_buffer("shift", shift)
        self.slope = slope

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        away = nn.functional.leaky_relu(self.layer(x) + self.shift, self.slope) - x
        return x + sigma.view(-1, 1, 1, 1) * away


def scaled(gain: Tensor, squared: bool) -> Callable[[Tensor], Tensor]:
    """Return a nonlinear function that holds its gain in a closure."""
    if squared:
        return lambda x: gain * x + 0.1 * x * x
    return lambda x: gain * x + 0.1 * x.sin()


def random_run(number: int) -> Inputs:
    """Draw the inputs of a run."""
    draw, generator = random.Random(number), torch.Generator().manual_seed(number)

    def noise(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    image = (ITEMS, 1, SIZE, SIZE)
    kinds = "blur", "matrix", "scan", "mask", "function", "chain"
    run: Inputs = {
        "seed": draw.randrange(1000),
        "operator": draw.choice(kinds),
        "prior": draw.choice(("tv", "denoiser", "user", "image", "network", "sum")),
        "data term": "squares",
    }
    match run["operator"]:
        case "blur" | "chain":
            run |= {"kernel": noise(3, 3) / 4.5, "boundary": draw.choice(("reflect", "periodic"))}
            if run["operator"] == "chain":
                run["gain"] = 0.5 + noise(1)
        case "matrix":
            run["matrix"] = noise(12, SIZE * SIZE) / 8
        case "scan":
            run |= {"angles": 3.0 * noise(5), "shift": draw.uniform(-0.5, 0.5)}
        case "mask":
            run["mask"] = (noise(SIZE, SIZE) > 0.3).float()
        case "function":
            run |= {"gain": 0.5 + noise(1, SIZE, SIZE), "squared": draw.random() < 0.5}
    smooth = run["operator"] == "function"
    if smooth and run["prior"] in ("tv", "sum", "image"):
        run["prior"] = "user"
    match run["prior"]:
        case "tv":
            run["isotropic"] = draw.random() < 0.5
            run["solver"] = draw.choice(("PDHG", "ADMM", "FISTA"))
        case "denoiser":
            run |= {"network": noise(1, 1, 3, 3) / 9, "buffer": 0.1 * noise(1), "slope": 0.1}
            run |= {"level": draw.uniform(0.05, 0.1)}
            run["solver"] = "Adam" if smooth else draw.choice(("Adam", "ProximalGradient"))
        case "user":
            run |= {"power": draw.uniform(1.2, 2.0), "offset": noise(1), "class": "Power"}
            run["solver"] = draw.choice(("GradientDescent", "Adam"))
        case "image":
            run |= {"reference": noise(1, 1, SIZE, SIZE), "solver": "PDHG"}
        case "network":
            run |= {"features": draw.choice((4, 8)), "network seed": draw.randrange(100)}
            run["solver"] = "Adam"
        case "sum":
            run |= {
                "upper": draw.uniform(0.8, 1.0),
                "share": draw.uniform(0.5, 2),
                "solver": "PDHG",
            }
    measured = tuple(operator(run).range_shape)
    run["y"] = noise(ITEMS, *measured)
    if run["solver"] in ("GradientDescent", "Adam") and draw.random() < 0.4:
        run |= {"data term": "huber", "delta": draw.uniform(0.5, 2.0)}
    if draw.random() < 0.7:
        run["noise"] = draw.uniform(0.05, 0.2)
    if draw.random() < 0.6:
        run["weights"] = 0.5 + noise(ITEMS, *measured)
    if draw.random() < 0.4 and run["prior"] != "network":
        run["initial"] = noise(*image)
    if run["solver"] == "Adam":
        run["learning rate"] = draw.uniform(1e-3, 1e-2)
    run["tolerance"] = 1e-9 * draw.random()
    if run["prior"] in ("tv", "image") and "noise" in run and draw.random() < 0.3:
        run["tau"] = draw.uniform(1.0, 1.1)
    elif draw.random() < 0.5:
        run["regularization"] = 0.1 + noise(ITEMS)
    else:
        run["regularization"] = draw.uniform(0.1, 1.0)
    return run


def changed(run: Inputs, name: str, number: int = 0) -> Inputs:
    """Change one input: one entry of a tensor, a number, or a choice."""
    draw, value = random.Random(number), run[name]
    if name == "class":
        return {**run, name: "OtherPower"}
    if isinstance(value, Tensor):
        other = value.clone()
        place = draw.randrange(other.numel())
        if run["operator"] == "mask" and name in ("y", "weights"):  # a hidden pixel has no effect
            seen = run["mask"].expand_as(other).reshape(-1).nonzero().flatten().tolist()
            place = draw.choice(seen)
        entry = other.view(-1)[place]
        other.view(-1)[place] = 1 - entry if name == "mask" else 1.01 * entry + 1e-3
        return {**run, name: other}
    if isinstance(value, bool):
        return {**run, name: not value}
    if isinstance(value, (int, float)):
        return {**run, name: value + 1 if isinstance(value, int) else 1.01 * value + 1e-12}
    assert name == "boundary"
    return {**run, name: "periodic" if value == "reflect" else "reflect"}


def inputs_of(run: Inputs) -> list[str]:
    """Return the names of the inputs that `changed` can change."""
    return [name for name in run if name not in ("operator", "prior", "data term", "solver")]


def operator(run: Inputs) -> it.operators.Operator:
    shape = (1, SIZE, SIZE)
    match run["operator"]:
        case "blur":
            return it.operators.Blur(run["kernel"], shape[1:], run["boundary"])
        case "chain":
            blur = it.operators.Blur(run["kernel"], shape[1:], run["boundary"])
            return float(run["gain"]) * blur
        case "matrix":
            return it.operators.Matrix(run["matrix"], domain_shape=shape)
        case "scan":
            return it.operators.ParallelBeam(
                shape[1:], run["angles"], 12, detector_shift=run["shift"]
            )
        case "mask":
            return it.operators.Inpainting(run["mask"], shape[1:])
        case _:
            return it.as_operator(scaled(run["gain"], run["squared"]), shape, shape)


def prior(run: Inputs) -> it.priors.Prior:
    match run["prior"]:
        case "tv":
            return it.priors.TotalVariation(isotropic=run["isotropic"])
        case "denoiser":
            network = Smoother(run["network"], run["buffer"], run["slope"])
            return it.priors.Denoiser(network, run["level"])
        case "user":
            kind = OtherPower if run["class"] == "OtherPower" else Power
            return kind(run["power"], run["offset"])
        case "image":
            return it.priors.PriorImage(run["reference"], it.priors.TotalVariation())
        case "network":
            return it.priors.CoordinateNetwork(
                features=run["features"], width=8, depth=1, seed=run["network seed"]
            )
        case _:
            total: it.priors.Prior = run["share"] * it.priors.TotalVariation()
            return total + it.priors.Box(0.0, run["upper"])


def solve(run: Inputs, steps: int, checkpoint: Path | None = None) -> it.Solution:
    """Solve the problem of the inputs, from objects that no other run has seen."""
    run = {k: v.clone() if isinstance(v, Tensor) else v for k, v in run.items()}
    common = {"noise_std": run.get("noise"), "weights": run.get("weights")}
    terms = it.data_terms
    term: Any = (
        terms.Huber(run["delta"], **common)
        if run["data term"] == "huber"
        else terms.LeastSquares(**common)
    )
    more = {"learning_rate": run["learning rate"]} if "learning rate" in run else {}
    solver = getattr(it.solvers, run["solver"])(tolerance=run["tolerance"], **more)
    rule = it.parameter_choice.DiscrepancyPrinciple
    return it.solve(
        it.Problem(run["y"], operator(run), term),
        prior(run),
        solver,
        rule(tau=run["tau"]) if "tau" in run else run["regularization"],
        initial=run.get("initial"),
        seed=run["seed"],
        max_iterations=steps,
        checkpoint=None if checkpoint is None else it.Checkpoint(checkpoint, every=1e9),
        progress=False,
    )
