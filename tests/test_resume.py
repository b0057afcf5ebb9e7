"""A checkpoint is continued only with equal inputs: every change of content is refused, whatever the repr says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.errors import InputError
from tests.random_jobs import KINDS, attempt
from tests.random_runs import SIZE, OtherPower, Power, inputs_of, random_run

#: Number of random jobs of each kind; benchmarks/resume.py takes 1,000.
CASES = {"solve": 16, "any parts": 8}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_any_changed_input_of_a_random_job_is_refused(tmp_path: Path, kind: str) -> None:
    for number in range(CASES.get(kind, 2)):
        name, fault = attempt(kind, number, tmp_path / str(number))
        assert fault == "", (number, name)


@pytest.mark.parametrize("number", [0, 4, 9])
def test_every_input_of_a_run_is_refused_when_it_changes(tmp_path: Path, number: int) -> None:
    for name in inputs_of(random_run(number)):
        assert attempt("solve", number, tmp_path / name, name) == (name, "")


# -- the changes that a repr does not show ---------------------------------------------------------


def solve(path: Path | it.Checkpoint, steps: int = 3, **inputs: Any) -> it.Solution:
    y = torch.linspace(0, 1, SIZE * SIZE).view(1, 1, SIZE, SIZE)
    operator = inputs.pop("operator", it.operators.Blur(torch.ones(3, 3) / 9, (SIZE, SIZE)))
    problem = it.Problem(y, operator, inputs.pop("data_term", None))
    prior = inputs.pop("prior", it.priors.Tikhonov())
    solver = inputs.pop("solver", it.solvers.Adam(tolerance=0.0))
    return it.solve(
        problem,
        prior,
        solver,
        checkpoint=path,
        max_iterations=steps,
        progress=False,
        **{"regularization": 0.1, **inputs},
    )


class Network(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.register_buffer("mean", torch.tensor(0.1))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x * self.gain + self.mean


def ones(**entries: float) -> Tensor:
    weights = torch.ones(1, 1, SIZE, SIZE)
    for place, value in entries.items():
        weights.view(-1)[int(place.removeprefix("at"))] = value
    return weights


def gained(gain: float) -> it.operators.Operator:
    return it.as_operator(lambda x: gain * x, (1, SIZE, SIZE))


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "weights of the data term": (
        {"data_term": it.data_terms.LeastSquares(weights=ones())},
        {"data_term": it.data_terms.LeastSquares(weights=ones(at5=2.0))},
        "data term",
    ),
    "setting of a user's prior": (
        {"prior": Power(1.5, torch.zeros(1))},
        {"prior": Power(1.6, torch.zeros(1))},
        "prior",
    ),
    "code of a user's prior": (
        {"prior": Power(1.5, torch.zeros(1))},
        {"prior": OtherPower(1.5, torch.zeros(1))},
        "prior",
    ),
    "weights of a denoiser": (
        {"prior": it.priors.Denoiser(Network(0.9), 0.1)},
        {"prior": it.priors.Denoiser(Network(0.8), 0.1)},
        "prior",
    ),
    "entry of a tensor regularization": (
        {"regularization": torch.tensor([0.1])},
        {"regularization": torch.tensor([0.1001])},
        "regularization",
    ),
    "function operator by its closure": (
        {"operator": gained(0.5)},
        {"operator": gained(0.6)},
        "operator",
    ),
    "function operator by its code": (
        {"operator": it.as_operator(lambda x: 2 * x, (1, SIZE, SIZE))},
        {"operator": it.as_operator(lambda x: 3 * x, (1, SIZE, SIZE))},
        "operator",
    ),
    "prior image": (
        {"prior": it.priors.PriorImage(ones(), it.priors.Tikhonov())},
        {"prior": it.priors.PriorImage(ones(at0=0.0), it.priors.Tikhonov())},
        "prior",
    ),
    "solver setting": (
        {"solver": it.solvers.Adam(tolerance=0.0)},
        {"solver": it.solvers.Adam(tolerance=0.0, beta_mean=0.8)},
        "solver",
    ),
    "seed": ({"seed": 1}, {"seed": 2}, "seed"),
    "initial guess": ({"initial": ones()}, {"initial": ones(at3=0.5)}, "initial guess"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_refusal_names_what_changed(tmp_path: Path, name: str) -> None:
    before, after, part = CHANGES[name]
    path = tmp_path / "run.ckpt"
    solve(path, **before)
    content = path.read_bytes()
    with pytest.raises(InputError, match=rf"belongs to another .* \(changed: {part}\)"):
        solve(path, **after)
    assert path.read_bytes() == content
    assert int(solve(path, 5, **before).iterations[0]) == 5


def test_objects_that_were_used_before_are_accepted(tmp_path: Path) -> None:
    path, operator = tmp_path / "run.ckpt", gained(0.5)
    blur = it.operators.Blur(torch.ones(3, 3) / 9, (SIZE, SIZE))
    chain = blur @ it.operators.Blur(torch.ones(3, 3) / 9, (SIZE, SIZE), "periodic")
    scan = it.operators.ParallelBeam((SIZE, SIZE), torch.arange(3.0), 8)
    for A, y in ((operator, None), (chain, None), (scan, torch.ones(1, 1, 3, 8))):
        path.unlink(missing_ok=True)
        problem = it.Problem(ones() if y is None else y, A)
        run = dict(
            prior=it.priors.Tikhonov(), solver="adam", regularization=0.1, checkpoint=path,
            progress=False,
        )  # fmt: skip
        it.solve(problem, max_iterations=3, **run)
        A(ones())
        if isinstance(A, it.operators.LinearOperator):
            A.adjoint(A(ones()))
            A.norm()
        assert int(it.solve(problem, max_iterations=5, **run).iterations[0]) == 5


# -- what cannot be read, and other formats --------------------------------------------------------


class Reading(it.priors.ExplicitPrior):
    """A prior that holds an object without content."""

    def __init__(self, source: Any, weight: float = 1.0) -> None:
        self.source, self.weight = source, weight

    def energy(self, x: Tensor) -> Tensor:
        return self.weight * x.square().flatten(1).sum(1)


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    (tmp_path / "notes.txt").write_text("1 2 3")
    with open(tmp_path / "notes.txt") as file:
        yield {"file": file, "generator": (k for k in range(3))}.__getitem__


@pytest.mark.parametrize("kind", ["file", "generator"])
def test_what_cannot_be_read_is_refused_without_a_key(
    tmp_path: Path, sources: Callable[[str], Any], kind: str
) -> None:
    path, source = tmp_path / "run.ckpt", sources(kind)
    with pytest.raises(
        InputError, match=r"the content of the prior\S*\.source .*`Checkpoint\(path, key=\"...\"\)`"
    ) as refused:
        solve(path, prior=Reading(source))
    assert "\n" not in str(refused.value) and not path.exists()
    solve(it.Checkpoint(path, key="notes 1"), prior=Reading(source))
    solve(it.Checkpoint(path, key="notes 1"), 5, prior=Reading(source))
    with pytest.raises(InputError, match=r"changed: prior"):
        solve(it.Checkpoint(path, key="notes 2"), prior=Reading(source))
    # Everything else is compared as without a key.
    with pytest.raises(InputError, match=r"changed: prior"):
        solve(it.Checkpoint(path, key="notes 1"), prior=Reading(source, 2.0))


def test_a_checkpoint_of_an_earlier_format_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    solve(path)
    with safe_open(path, framework="pt") as file:
        meta = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    old = {**meta, "format": "invtoolbox checkpoint 1", "fingerprint": 64 * "0"}
    save_file(tensors, path, metadata=old)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"not a checkpoint of this version .*'.* checkpoint 1'"):
        solve(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("solver", ["admm", "pdhg", "gradient-descent"])
def test_checkpoints_without_todays_scales_open(tmp_path: Path, solver: str) -> None:
    A = it.operators.Blur(torch.ones(3, 3) / 9, (10, 10))
    problem = it.Problem(A.simulate(torch.rand(2, 1, 10, 10), 0.02, seed=0), A)
    path, prior = tmp_path / "run.ckpt", it.priors.HuberTV(0.05)
    settings: dict[str, Any] = {"regularization": 0.01, "progress": False, "checkpoint": path}
    it.solve(problem, prior, solver, max_iterations=12, **settings)
    with safe_open(path, framework="pt") as file:
        meta = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    scales = ("loop.travel.", "loop.state.floor", "loop.state.norms")
    left = {name: t for name, t in tensors.items() if not name.startswith(scales)}
    assert len(left) < len(tensors)
    save_file(left, path, metadata=meta)
    resumed = it.solve(problem, prior, solver, tolerance=1e-3, **settings)
    assert set(resumed.status) == {"converged"} and bool((resumed.iterations > 12).all())
