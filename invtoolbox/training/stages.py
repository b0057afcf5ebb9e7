"""Training of a network in stages, each one call of `invtoolbox.solve`.

`train` runs a sequence of `Stage`, each with its own loss and learning rate. `NetworkWeights` is
the implicit prior that makes the weights of a network the unknown of a problem.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Generator, Tensor, nn

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.core.pytrees import items_together
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.datasets.output import write_bytes
from invtoolbox.errors import InputError, warn_user
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.loop.run import Progress
from invtoolbox.networks.convex_network import ConvexNetwork
from invtoolbox.operators.elementary import Identity
from invtoolbox.priors.base import ImplicitPrior
from invtoolbox.problem import Problem
from invtoolbox.solve import solve
from invtoolbox.solvers.adam import Adam
from invtoolbox.training.losses import L1, Loss, ProximalMatching
from invtoolbox.training.pairs import Pairs


def train(
    network: nn.Module,
    pairs: Pairs,
    stages: Sequence[Stage],
    *,
    validation: Pairs | None = None,
    validate_every: int = 500,
    seed: int = 0,
    folder: str | Path | None = None,
    write_every: float = 60.0,
    device: torch.device | str | None = None,
    mixed_precision: bool = False,
    progress: bool = True,
) -> Trained:
    """Train a network, and return a trained copy of it.

    The weights are the unknown of a problem, the loss its misfit and `Adam` its solver. The draws
    of a step are a function of the seed and the step. Parameters without ``requires_grad`` keep
    their values, unless all are without it, as in a network that `train` returned. A convex network
    is projected to the convex ones after every step. A network with a method ``remember(shown)``,
    such as `LocalField`, is given the inputs of one draw before the first step.

    On a CPU, calling `keep_freed_memory` before it makes many trainings faster by a fifth. It
    affects the whole process, so the caller decides.

    Args:
        network: module that is called with the inputs of the pairs.
        pairs: training pairs.
        stages: stages one after the other, each from the end of the previous one, with fresh
            moments.
        validation: pairs on which the loss is computed after every ``validate_every`` steps.
        validate_every: number of steps between two validations.
        seed: seed of all draws.
        folder: folder of the checkpoint of each stage; if a checkpoint exists, training continues
            from it.
        write_every: seconds between two checkpoints.
        device: device of the training; the copy comes back to the CPU.
        mixed_precision: see `NetworkWeights`.
        progress: whether to show a progress bar.

    Raises:
        InputError: The network has no weights, a loss is not finite, or the gradient is 0 so that no
            step is possible.

    >>> from invtoolbox.priors import ConvexDense
    >>> class Shrunk(Pairs):
    ...     def draw(self, count, generator):
    ...         x = torch.randn(count, 1, generator=generator)
    ...         return x, 0.5 * x
    >>> network, stages = ConvexDense(1, width=8, depth=1), [Stage(L1(), 300, 1e-2)]
    >>> trained = train(network, Shrunk(), stages, progress=False)
    >>> bool(trained.losses[-1] < 0.2 * trained.losses[0])
    True
    """
    if not any(True for _ in network.parameters()):
        raise InputError(f"{type(network).__name__} has no weights to train")
    check_range("train", "[1, inf)", validate_every=validate_every)
    result = copy.deepcopy(network).to(device).train()
    pairs = pairs.to(device=device)
    validation = validation.to(device=device) if validation is not None else None
    like = next(result.parameters()).detach()
    remember = getattr(result, "remember", None)
    if callable(remember) and stages:
        remember(pairs.draw(stages[0].count, torch.Generator(like.device).manual_seed(seed))[0])
    curves: list[Tensor] = []
    validated = _Validation(None if folder is None else Path(folder))
    seconds, before = 0.0, 0
    for number, stage in enumerate(stages):

        def validate(state: Progress, start: int = before) -> None:
            if validation is not None and state.iteration % validate_every == 0:
                validated.losses[start + state.iteration] = float(state.x.mean())
                validated.is_saved = False
            validated.save()

        weights = NetworkWeights(
            result,
            pairs,
            stage.loss,
            stage.count,
            validation,
            mixed_precision,
            decay_over=stage.steps if stage.decay == "linear" else None,
        )
        checkpoint = None
        if folder is not None:
            checkpoint = Checkpoint(Path(folder) / f"stage-{number}.safetensors", write_every)
        solver = Adam(
            max_iterations=stage.steps,
            learning_rate=stage.learning_rate,
            iterate=stage.iterate,
            clip=stage.clip,
        )
        with items_together():
            solution = solve(
                training_problem(stage.count, like),
                weights,
                solver,
                regularization=1.0,
                tolerance=0.0,
                seed=1009 * seed + number,
                callbacks=(validate,),
                checkpoint=checkpoint,
                progress=progress,
            )
        losses = solution.history["objective"][:, 0]
        _refuse_failure(number, stage, solution.status[0], losses)
        result.load_state_dict(
            {name: value[0] for name, value in solution.parameters.items()}, strict=False
        )
        validated.save()
        curves.append(losses)
        seconds, before = seconds + solution.seconds, before + stage.steps
    network = result.cpu().eval().requires_grad_(False)
    return Trained(
        network,
        torch.cat(curves) if curves else torch.zeros(0),
        validated.rows(before),
        seconds,
    )


def _refuse_failure(number: int, stage: Stage, status: str, losses: Tensor) -> None:
    """Raise an error for a stage that diverged, or that had no gradient to follow."""
    if status == "diverged" and not bool(losses[0].isfinite()):
        raise InputError(
            f"the first loss of stage {number} ({stage.loss!r}) is not finite; look for NaN in "
            "the pairs and in the weights of the network"
        )
    if status == "diverged":
        raise InputError(
            f"training diverged in stage {number} ({stage.loss!r}); "
            f"take a learning rate below {stage.learning_rate:g}"
        )
    if status == "converged":
        raise InputError(
            f"the gradient of {stage.loss!r} vanished in stage {number}; bring the network "
            "nearer first, by L1 or a larger gamma"
        )


def proximal_matching_stages(
    gamma: float = 0.08,
    steps: int = 40_000,
    count: int = 64,
    warm_rate: float = 1e-3,
    rate: float = 1e-4,
) -> tuple[Stage, ...]:
    """Return the schedule of Fang, Buchanan and Sulam for images.

    The l1 loss takes half of the steps, and proximal matching the rest, with gamma 8, 4, 2 and 1
    times its last value for an eighth each.

    Args:
        gamma: last value of gamma.
        steps: number of steps of all stages.
        count: number of pairs per step.
        warm_rate: learning rate of the l1 stage.
        rate: learning rate of the other stages.

    >>> [stage.steps for stage in proximal_matching_stages(steps=800)]
    [400, 100, 100, 100, 100]
    """
    warm = Stage(L1(), steps // 2, warm_rate, count)
    return (
        warm,
        *(
            Stage(ProximalMatching(gamma * factor), steps // 8, rate, count)
            for factor in (8, 4, 2, 1)
        ),
    )


@dataclass(frozen=True)
class Stage:
    """Stage of a training: a number of steps of Adam.

    Args:
        loss: loss that is minimized.
        steps: number of steps.
        learning_rate: learning rate of Adam.
        count: number of pairs per step.
        iterate: ``"average"`` ends a stage with the weighted mean of its steps, ``"last"`` with the
            last one, see `solvers.Adam`.
        clip: norm to which longer gradients are shortened, see `solvers.Adam`; it prevents jumps of
            a training whose pairs differ much.
        decay: ``"linear"`` lets the learning rate fall to 0 at the last step.
    """

    loss: Loss
    steps: int
    learning_rate: float = 1e-3
    count: int = 64
    iterate: Literal["average", "last"] = "average"
    clip: float | None = None
    decay: Literal["none", "linear"] = "none"

    def __post_init__(self) -> None:
        check_range(self, "[0, inf]", "steps")
        check_range(self, "(0, inf]", "learning_rate")
        check_range(self, "[1, inf]", "count")
        check_choice(self, ("average", "last"), "iterate")
        check_choice(self, ("none", "linear"), "decay")


@dataclass(frozen=True)
class Trained:
    """Result of a training.

    Attributes:
        network: trained copy in evaluation mode; the given network is unchanged.
        losses: loss of every step, ``(steps,)``; a stage with another loss starts on another scale.
        validation: rows ``(step, loss)`` on the validation pairs, ``(n, 2)``.
        seconds: duration of all stages in this run.
    """

    network: nn.Module
    losses: Tensor
    validation: Tensor
    seconds: float


class _Validation:
    """Losses on the validation pairs by their step, kept in the folder of the checkpoints."""

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else folder / "validation.json"
        self.losses: dict[int, float] = {}
        self.is_saved = True
        # Without a checkpoint, the file belongs to an earlier training.
        if self.path is None or not self.path.with_name("stage-0.safetensors").exists():
            return
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8"))
            self.losses = {int(step): float(loss) for step, loss in rows}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{self.path} cannot be read ({error}); delete {folder} to train anew"
            ) from error

    def save(self) -> None:
        """Write the losses; a failure is a warning, and the next call is another attempt."""
        if self.is_saved or self.path is None:
            return
        try:
            content = json.dumps(sorted(self.losses.items())).encode()
            write_bytes(self.path, content, overwrite=True)
            self.is_saved = True
        except InputError as error:
            warn_user(f"the validation could not be saved ({error}); the training goes on")

    def rows(self, steps: int) -> Tensor:
        """Return rows ``(step, loss)`` up to a step."""
        losses = [row for row in sorted(self.losses.items()) if row[0] <= steps]
        return torch.tensor(losses).reshape(-1, 2)


class NetworkWeights(ImplicitPrior):
    """Weights of a network as parameters, decoded to the losses of a draw of pairs, ``(1, count)``.

    The network itself is never written to. Without a generator, the draw is always the same one, of
    ``validation``.

    Args:
        network: a module without running statistics (batch normalization), which would be state in
            addition to the weights.
        pairs: training pairs.
        loss: loss of a pair.
        count: number of pairs of a draw.
        validation: validation pairs; the training pairs by default.
        mixed_precision: whether the network runs in bfloat16; weights and loss stay in float32.
        decay_over: number of steps after which the learning rate has fallen to 0 in a line; None or
            0 keeps it.
    """

    def __init__(
        self,
        network: nn.Module,
        pairs: Pairs,
        loss: Loss,
        count: int,
        validation: Pairs | None = None,
        mixed_precision: bool = False,
        decay_over: int | None = None,
    ) -> None:
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules()):
            raise InputError(
                f"{type(network).__name__} has batch normalization, whose running statistics are "
                "no weights; train it without"
            )
        check_range(self, "[1, inf)", count=count)
        self.network, self.pairs, self.loss, self.count = network, pairs, loss, count
        self.validation, self.mixed_precision = validation, mixed_precision
        self.decay_over, self.iteration = decay_over, 0

    def at(self, iteration: int) -> Self:
        if not self.decay_over:
            return self
        problem = copy.copy(self)
        problem.iteration = iteration
        return problem

    def learning_rates(self, parameters: dict[str, Tensor]) -> dict[str, float]:
        factor = 1 - self.iteration / self.decay_over if self.decay_over else 1.0
        return dict.fromkeys(parameters, max(factor, 0.0))

    def initial(self) -> dict[str, Tensor]:
        named = list(self.network.named_parameters())
        learned = [(name, value) for name, value in named if value.requires_grad]
        return {name: value.detach()[None] for name, value in learned or named}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        weights = {f"network.{name}": value[0] for name, value in parameters.items()}
        device = next(iter(weights.values())).device
        drawing = torch.Generator(device).manual_seed(0) if generator is None else generator
        pairs = self.pairs if generator is not None or self.validation is None else self.validation
        inputs, targets = pairs.draw(self.count, drawing)
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=self.mixed_precision),
            _seed_layers(self.network, drawing),
        ):
            losses: Tensor = torch.func.functional_call(
                _LossOfNetwork(self.network, self.loss), weights, (inputs, targets, drawing)
            )
        return losses[None]

    def project(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """Project the parameters of convex networks, alone or as parts of a larger one."""
        for prefix, module in self.network.named_modules():
            if isinstance(module, ConvexNetwork):
                place = f"{prefix}." if prefix else ""
                module_parameters = {
                    name.removeprefix(place): value
                    for name, value in parameters.items()
                    if name.startswith(place)
                }
                parameters = {
                    **parameters,
                    **{
                        place + name: value
                        for name, value in module.project(module_parameters).items()
                    },
                }
        return parameters

    @property
    def has_projection(self) -> bool:
        return any(isinstance(module, ConvexNetwork) for module in self.network.modules())

    def __repr__(self) -> str:
        shapes = ", ".join(str(tuple(p.shape)) for p in self.network.parameters())
        name = f"{type(self.network).__name__}({self.network.extra_repr()})"
        return f"NetworkWeights({name} {shapes}; {self.pairs!r}, {self.loss!r}, count={self.count})"


class MeanLoss(DataTerm):
    """Mean of predicted losses; the measurements, 0, are their ideal values."""

    def value(self, prediction: Any, y: Any) -> Tensor:
        return prediction.mean(1)

    def __repr__(self) -> str:
        return "MeanLoss()"


def training_problem(count: int, like: Tensor) -> Problem:
    """Return the problem whose unknown is the weights: ``count`` losses that should be 0."""
    return Problem(like.new_zeros(1, count), Identity((count,)), MeanLoss())


@contextmanager
def _seed_layers(network: nn.Module, generator: Generator) -> Iterator[None]:
    """Let dropout, which draws from torch's global state, draw from a seed."""
    if not any(isinstance(m, nn.modules.dropout._DropoutNd) for m in network.modules()):
        yield
        return
    device = generator.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(generator.initial_seed())
        yield


class _LossOfNetwork(nn.Module):
    """Network and loss as one module, so that the loss uses the weights that are being tried."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, inputs: Tensor, targets: Tensor, generator: Generator) -> Tensor:
        return self.loss.of_network(self.network, inputs, targets, generator)
