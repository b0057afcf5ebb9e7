"""Steps of a solver as a CUDA graph: recorded once, and replayed by one launch per step.

A graph repeats the kernels of the recorded step at the same addresses, with the same numbers of the
host. So it serves steps that depend on their state alone: no draws, no schedule, no decision by the
number of the iteration, and no wait of the host. Branches that are rarely taken are guessed
(`invtoolbox.core.rare_branches`); if one is taken, the step is made without the graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from invtoolbox.core.pytrees import tree_leaves, tree_map
from invtoolbox.core.rare_branches import RareBranches, counts_so_far, is_any
from invtoolbox.kernels.rendering.pair_buffer import PairBuffers
from invtoolbox.objective.objective import Objective
from invtoolbox.solvers.base import Solver

#: Number of steps before the recording. They compile kernels and store constants on the device.
_WARM_UP = 3

#: Number of the replay that is compared with the step, and the largest difference over the largest
#: value; sums by atomic additions differ by less than a hundredth of it.
_COMPARED, _TOLERANCE = 2, 1e-4

Step = Callable[[Objective, Any], Any]


class _UsesIteration(Exception):
    """The step uses the number of the iteration."""


class _NoNumber:
    """Stands for the number of the iteration during the recording; every use raises an error."""

    def _refuse(self, *_: Any) -> NoReturn:
        raise _UsesIteration

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _refuse
    __pow__ = __rpow__ = __neg__ = __abs__ = __round__ = __and__ = __rand__ = _refuse
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __hash__ = _refuse  # type: ignore[assignment]
    __int__ = __float__ = __index__ = __bool__ = __str__ = __repr__ = __format__ = _refuse  # type: ignore[assignment]


class _RecordedObjective(Objective):
    """Objective without an iteration, whose generators cannot draw while a step is recorded.

    Priors are passed a generator whether they draw or not. CUDA refuses draws of a generator that
    the graph does not own.
    """

    @classmethod
    def of(cls, objective: Objective) -> _RecordedObjective:
        parts = {part.name: getattr(objective, part.name) for part in dataclasses.fields(objective)}
        return cls(**parts | {"iteration": _NoNumber()})

    def generator(self, device: torch.device | str | None = None) -> torch.Generator:
        recorded = self.problem.y0.device
        if device is not None and torch.device(device) != recorded:
            raise _UsesIteration
        return torch.Generator(recorded)


class CapturedSteps:
    """The steps of a solver, by a graph if they allow one.

    The state is copied into the buffers of the graph before it runs, and out of them afterwards, so
    that no tensor outside shares their memory. If weights, measurements or shapes change, as when
    items are done, the graph is recorded anew.

    Attributes:
        solver: the solver.
        reason: why there is no graph, in one sentence; None if a graph is possible.
        recordings: number of graphs that were recorded.
    """

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self.reason: str | None = None
        self.recordings = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._replays = 0  # of the graph
        self._steps = 0  # since the last change of what a graph is bound to
        self._bound: tuple[Any, ...] = ()
        self._sizes: tuple[Any, ...] = ()
        self._inputs: Any = None
        self._outputs: Any = None
        self._flag: Tensor | None = None  # whether a branch of the recorded step must be taken

    def __call__(self, objective: Objective, state: Any) -> Any:
        """Return the state after a step, as `Solver.step` does."""
        if self.reason is not None:
            return self.solver.step(objective, state)
        bound, sizes = _binding(objective), _sizes(state)
        if sizes != self._sizes or not _are_same(bound, self._bound):
            self._bound, self._sizes, self._graph, self._steps = bound, sizes, None, 0
        if self._graph is None:
            self._steps += 1
            if self._steps > _WARM_UP:
                self._record(objective, state)
        if self._graph is None:
            return self.solver.step(objective, state)
        for (_, buffer), (_, leaf) in zip(tree_leaves(self._inputs), tree_leaves(state)):
            buffer.copy_(leaf)
        self._graph.replay()
        self._replays += 1
        if self._flag is not None and is_any(self._flag):
            return self.solver.step(objective, state)
        after = tree_map(Tensor.clone, self._outputs)
        if self._replays != _COMPARED:
            return after
        # The host waits once per graph: a number of the host that changes would be wrong by now.
        expected = self.solver.step(objective, state)
        if not _agree(after, expected):
            self._graph = None
            self.reason = (
                f"capture=True had no effect: a step of {type(self.solver).__name__} depends on "
                "more than its state, because a graph of one step gives another result for the next"
            )
        return expected

    def addresses(self) -> tuple[int, ...]:
        """Return the addresses of the buffers of the state; empty without a graph."""
        if self._graph is None:
            return ()
        both = (self._inputs, self._outputs)
        return tuple(leaf.data_ptr() for _, leaf in tree_leaves(both))

    def _record(self, objective: Objective, state: Any) -> None:
        """Record a step, or state the reason why there is no graph."""
        name = type(self.solver).__name__
        free = _RecordedObjective.of(objective)
        inputs, branches = tree_map(Tensor.clone, state), RareBranches.for_recording()
        graph = torch.cuda.CUDAGraph()
        try:
            # Buffers of pairs that guess nothing: their size is a number of the host.
            with PairBuffers().open(), branches.open(), torch.cuda.graph(graph):
                outputs = self.solver.step(free, inputs)
                flag = branches.take_flag()
        except _UsesIteration:
            self.reason = (
                f"capture=True had no effect: a step of {name} depends on the number of the "
                "iteration, by draws or by a schedule, and a graph repeats one step"
            )
            return
        except RuntimeError as error:
            self.reason = (
                f"capture=True had no effect: a step of {name} cannot be recorded: "
                f"{str(error).splitlines()[0]}"
            )
            return
        if _host_part(outputs) != _host_part(inputs):
            self.reason = (
                f"capture=True had no effect: the state of {name} holds numbers of the host that "
                "change, and a graph repeats one step"
            )
            return
        self._graph, self._inputs, self._outputs, self._flag = graph, inputs, outputs, flag
        self._replays = 0
        self.recordings += 1


def _binding(objective: Objective) -> tuple[Any, ...]:
    """Return what a graph is bound to."""
    problem = objective.problem
    parts = problem.operator, problem.data_term, problem.y0, objective.regularization
    return *parts, objective.layout, objective.prior.implicit, *objective.explicit_priors


def _sizes(state: Any) -> tuple[Any, ...]:
    """Return the numbers that a graph is bound to: shapes, and iterations within a step."""
    return *(leaf.shape for _, leaf in tree_leaves(state)), *counts_so_far()


def _are_same(one: tuple[Any, ...], two: tuple[Any, ...]) -> bool:
    return len(one) == len(two) and all(a is b for a, b in zip(one, two))


def _agree(one: Any, two: Any) -> bool:
    """Return whether two states have the same numbers up to rounding."""
    for (_, a), (_, b) in zip(tree_leaves(one), tree_leaves(two)):
        if a.dtype == torch.bool:
            a, b = a.int(), b.int()
        difference, size = (a - b).abs(), b.abs()
        if difference.is_floating_point():  # NaN and infinity may differ from themselves
            difference, size = (t.nan_to_num(0.0, 0.0, 0.0) for t in (difference, size))
        if a.numel() and bool(difference.max() > _TOLERANCE * size.max()):
            return False
    return True


def _host_part(state: Any) -> str:
    """Return the parts of a state that are no tensors, as text."""
    return repr(tree_map(lambda leaf: 0, state))
