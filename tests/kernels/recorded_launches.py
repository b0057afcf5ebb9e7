"""Record the launches of an emulated device, with the contents of their tensors, to run them again."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from invtoolbox.kernels.native import Kernel
from tests.emulated_cuda import EmulatedTensor, launch_with_warp
from tests.kernels.generated_cuda import launch_alone, launch_on_grid

Variant = tuple[str, tuple[tuple[str, str | int], ...]]


def variant(kernel: Kernel) -> Variant:
    """Return the file of a kernel and its definitions."""
    return kernel.file, tuple(sorted(kernel.definitions.items()))


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Attributes:
        kernel: the kernel.
        tasks: number of tasks.
        arguments: arguments by their fields. Tensors lie on the CPU, as they were before the launch.
    """

    kernel: Kernel
    tasks: int
    arguments: dict[str, Any]

    @classmethod
    def of(cls, kernel: Kernel, tasks: int, arguments: Any) -> Launch:
        """Return a launch with copies of its tensors."""
        values = {name: getattr(arguments, name) for name in kernel.record.vars}
        return cls(kernel, tasks, {name: _copy(value) for name, value in values.items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of the tensors by their fields."""
        return {k: v.clone() for k, v in self.arguments.items() if isinstance(v, Tensor)}

    def pack(self, tensors: dict[str, Tensor]) -> Any:
        return self.kernel.pack(SimpleNamespace(**(self.arguments | tensors)))[0]

    def on_cpu(self) -> dict[str, Tensor]:
        """Return the tensors after the launch as Warp compiles it for the CPU."""
        tensors = self.tensors()
        launch_with_warp(self.kernel, self.tasks, self.pack(tensors), None)
        return tensors

    def on_grid(
        self, seed: int = 0, threads: int = 1, kind: str = "grid"
    ) -> tuple[dict[str, Tensor], int]:
        """Return the tensors after the launch of the CUDA source, and the number of float additions.

        The arguments are those of `launch_on_grid`.
        """
        tensors = self.tensors()
        if kind == "float64":
            tensors = {k: t.double() if t.dtype == torch.float32 else t for k, t in tensors.items()}
        packed = self.pack(tensors)
        return tensors, launch_on_grid(self.kernel, self.tasks, packed, seed, threads, kind)

    def alone(
        self,
        name: str,
        seed: int = 0,
        threads: int = 1,
        additions: str = "atomic",
        changed: dict[str, Tensor] | None = None,
    ) -> tuple[str, dict[str, Tensor]]:
        """Return the report of sanitizers about the launch, and the tensors after it.

        The arguments are those of `launch_alone`, and tensors to pass in place of the recorded ones.
        """
        tensors = self.tensors() | (changed or {})
        return launch_alone(
            self.kernel,
            self.tasks,
            self.pack(tensors),
            tensors,
            name,
            seed=seed,
            threads=threads,
            additions=additions,
        )


def _copy(value: Any) -> Any:
    if isinstance(value, EmulatedTensor):
        value = value.held
    return value.detach().clone() if isinstance(value, Tensor) else value


@dataclass
class Recorder:
    """Launcher of `emulate_cuda` that records the first launch of each variant.

    Attributes:
        launches: launches by their variants.
    """

    launches: dict[Variant, Launch] = field(default_factory=dict)

    def __call__(self, kernel: Kernel, tasks: int, packed: Any, arguments: Any) -> None:
        key = variant(kernel)
        if key not in self.launches:
            self.launches[key] = Launch.of(kernel, tasks, arguments)
        launch_with_warp(kernel, tasks, packed, arguments)


@dataclass(frozen=True)
class Comparison:
    """A launch of the generated CUDA source, compared with the CPU.

    Differences are the largest difference over the largest value, of the tensors that were written.

    Attributes:
        variant: the kernel.
        additions: number of atomic additions of floating-point numbers.
        host: whether the bits are those of the CPU's source, compiled by the same compiler.
        orders: whether a random order on two threads gives the same bits.
        cpu: difference from the CPU's answer, as Warp compiles it.
        order: difference between the two orders.
        sums: difference of the random order from sums in float64; None unless float32 is added.
        double: difference of the random order from the kernel in float64; None likewise, and unless
            it was asked for.
    """

    variant: Variant
    additions: int
    host: bool
    orders: bool
    cpu: float
    order: float
    sums: float | None
    double: float | None


def compare(launch: Launch, seed: int = 1, double: bool = False) -> Comparison:
    """Run a launch on the grid in order and in a random order, and compare the results.

    Args:
        launch: launch to run.
        seed: seed of the random order.
        double: whether to run kernels that add float32 numbers in float64 too.
    """
    before, on_cpu = launch.tensors(), launch.on_cpu()
    in_order, additions = launch.on_grid()
    shuffled, _ = launch.on_grid(seed, threads=2)
    host, _ = launch.on_grid(kind="host")
    adds_float32 = bool(additions) and launch.kernel.definitions["REAL"] == "float"

    def from_kind(kind: str) -> float:
        return difference(shuffled, launch.on_grid(kind=kind)[0], before)

    return Comparison(
        variant=variant(launch.kernel),
        additions=additions,
        host=same_bits(in_order, host),
        orders=same_bits(in_order, shuffled),
        cpu=difference(in_order, on_cpu, before),
        order=difference(shuffled, in_order, before),
        sums=from_kind("sums") if adds_float32 else None,
        double=from_kind("float64") if adds_float32 and double else None,
    )


def same_bits(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    """Return whether the tensors have the same bits."""
    return all(one[name].numpy().tobytes() == two[name].numpy().tobytes() for name in one)


def difference(
    results: dict[str, Tensor], reference: dict[str, Tensor], before: dict[str, Tensor]
) -> float:
    """Return the largest difference of a tensor over its largest value, among what was written."""
    worst = 0.0
    for name, tensor in results.items():
        values, right = tensor.double(), reference[name].double()
        # Memory that no task wrote to may hold any number.
        written = (values != before[name].double()) | (right != before[name].double())
        written &= ~(values == right) | values.isfinite()
        if bool(written.any()):
            distance = (values[written] - right[written]).abs().max()
            worst = max(worst, float(distance / right[written].abs().max()))
    return worst
