"""The emulation of CUDA catches planted faults, and lets correct code pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from invtoolbox.kernels.points.rotations import Neighbourhoods
from tests.emulated_cuda import DeviceError, Tally, emulate_cuda


@dataclass
class Given:
    """Tensors of a test: on the emulated GPU, and on the CPU."""

    cuda: Tensor
    cpu: Tensor
    matrix: Tensor
    index: Tensor
    mask: Tensor


@pytest.fixture
def tally() -> Iterator[Tally]:
    with emulate_cuda() as tally:
        yield tally


@pytest.fixture
def given(tally: Tally) -> Given:
    cpu = torch.arange(4.0) - 1
    cuda = cpu.to("cuda")
    matrix = torch.eye(4, device="cuda")
    index = torch.tensor([0, 2], device="cuda")
    given = Given(cuda, cpu, matrix, index, cuda > 0)
    tally.clear()
    return given


def _rotations_of_two_devices(g: Given) -> Tensor:
    edges = torch.tensor([[0, 1], [1, 0]], device="cuda")
    rest = Neighbourhoods(edges, torch.ones(2, device="cuda"), torch.ones(2, 3, device="cuda"), 2)
    return rest.fit(torch.zeros(1, 2, 3))


def _function_with_a_constant_on_the_cpu(g: Given) -> Tensor:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: object, slope: Tensor) -> Tensor:
            return slope * torch.full((4,), 2.0)

    x = g.cuda.clone().requires_grad_(True)
    return torch.autograd.grad(Double.apply(x).sum(), x)[0]


ERRORS: dict[str, Callable[[Given], object]] = {
    "a sum": lambda g: g.cuda + g.cpu,
    "a product of matrices": lambda g: g.matrix @ g.cpu,
    "a concatenation": lambda g: torch.cat([g.cuda, g.cpu]),
    "a stack with a number": lambda g: torch.stack([g.cuda.sum(), torch.tensor(1.0)]),
    "a condition on the CPU": lambda g: torch.where(g.cpu > 0, g.cuda, -g.cuda),
    "rows by an index on the CPU": lambda g: g.cuda.index_select(0, g.index.cpu()),
    "entries of a CPU tensor by an index on CUDA": lambda g: g.cpu[g.index],
    "torch.tensor without a device": lambda g: g.cuda * torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "torch.arange without a device": lambda g: g.cuda - torch.arange(4),
    "a result on the CPU": lambda g: torch.add(g.cuda, 1, out=g.cpu),
    "in place on the CPU": lambda g: g.cpu.add_(g.cuda),
    "a module on the CPU": lambda g: torch.nn.Linear(4, 2)(g.cuda),
    "a CPU generator": lambda g: torch.rand(2, generator=torch.Generator(), device="cuda"),
    "a CUDA generator on the CPU": lambda g: torch.rand(2, generator=torch.Generator("cuda")),
    "numpy": lambda g: g.cuda.numpy(),
    "np.asarray": lambda g: np.asarray(g.cuda),
    "a kernel of two devices": _rotations_of_two_devices,
    "a derivative with a constant on the CPU": _function_with_a_constant_on_the_cpu,
    "an operation without CUDA": lambda g: torch.histogram(g.cuda, 3),
    "a value on the CPU": lambda g: g.cuda.index_put_((g.index,), g.cpu[:2]),
}

WAITS: dict[str, Callable[[Given], object]] = {
    "item": lambda g: g.cuda.sum().item(),
    "bool": lambda g: bool(g.mask.any()),
    "float": lambda g: float(g.cuda[0]),
    "a tensor of a list of tensors": lambda g: torch.tensor([g.cuda[0], g.cuda[1]]),
    "tolist": lambda g: g.cuda.tolist(),
    "nonzero": lambda g: g.mask.nonzero(),
    "entries of a mask": lambda g: g.cuda[g.mask],
    "entries of a mask, set": lambda g: g.cuda.__setitem__(g.mask, torch.ones(2, device="cuda")),
    "an inverse": lambda g: torch.linalg.inv(g.matrix),
    "a solution": lambda g: torch.linalg.solve(g.matrix, g.cuda),
    "a Cholesky factor": lambda g: torch.linalg.cholesky(g.matrix),
    "eigenvalues": lambda g: torch.linalg.eigh(g.matrix),
    "equal": lambda g: torch.equal(g.cuda, g.cuda),
    "allclose": lambda g: torch.allclose(g.cuda, g.cuda),
    "unique": lambda g: g.cuda.unique(),
    "repeat_interleave": lambda g: torch.repeat_interleave(g.cuda, torch.ones_like(g.cuda).int()),
    "torch.cuda.synchronize": lambda g: torch.cuda.synchronize(),
}

COPIES: dict[str, tuple[bool, Callable[[Given], object]]] = {
    "to the CPU": (False, lambda g: g.cuda.to("cpu")),
    "torch.tensor": (False, lambda g: torch.tensor([1.0], device="cuda")),
    "new_tensor": (False, lambda g: g.cuda.new_tensor([1.0, 2.0])),
    "to another tensor's device": (False, lambda g: g.cpu.to(g.cuda)),
    "an index on the CPU": (True, lambda g: g.cuda[torch.tensor([0, 2])]),
    "an index of a list": (True, lambda g: g.cuda[[0, 2]]),
    "values on the CPU": (True, lambda g: g.cuda.__setitem__(slice(None), g.cpu)),
}

FREE: dict[str, Callable[[Given], object]] = {
    "numbers": lambda g: (2 * g.cuda + 1).clamp(0, 1),
    "a number in a CPU tensor": lambda g: g.cuda * torch.tensor(2.0),
    "a mask": lambda g: torch.where(g.mask, g.cuda, 0.0),
    "a mask, set to a number": lambda g: g.cuda.__setitem__(g.mask, 0.0),
    "an index": lambda g: g.cuda[g.index] + g.cuda.index_select(0, g.index),
    "a new tensor": lambda g: (
        g.cuda.new_zeros(4) + torch.ones_like(g.cuda) + g.cuda.new_full((4,), 2)
    ),
    "draws": lambda g: torch.rand(4, generator=torch.Generator("cuda"), device="cuda") + g.cuda,
    "repeat_interleave of a known size": lambda g: torch.repeat_interleave(
        g.cuda[:2], g.index, output_size=2
    ),
    "a derivative": lambda g: _derivative(g),
    "the same device": lambda g: g.cuda.to("cuda").to(torch.float32).to(g.matrix),
}


def _derivative(g: Given) -> Tensor:
    x = g.cuda.clone().requires_grad_(True)
    value = (x[g.index] ** 2).sum() + x[1:3].norm() + torch.stack([x, x]).cumsum(1).amax()
    return torch.autograd.grad(value, x)[0] + g.cuda


@pytest.mark.parametrize("fault", ERRORS)
def test_a_fault_raises_an_error(given: Given, fault: str) -> None:
    with pytest.raises((DeviceError, TypeError)):
        ERRORS[fault](given)


@pytest.mark.parametrize("fault", WAITS)
def test_a_wait_is_counted(given: Given, tally: Tally, fault: str) -> None:
    WAITS[fault](given)
    assert tally.synchronizations.total() >= 1 and tally.copies.total() == 0
    assert "test_emulated_cuda.py" in next(iter(tally.synchronizations))


@pytest.mark.parametrize("fault", COPIES)
def test_a_copy_is_counted(given: Given, tally: Tally, fault: str) -> None:
    hidden, call = COPIES[fault]
    call(given)
    assert tally.copies.total() == 1 and tally.hidden_copies.total() == hidden


@pytest.mark.parametrize("code", FREE)
def test_correct_code_is_free(given: Given, tally: Tally, code: str) -> None:
    FREE[code](given)
    totals = tally.totals()
    assert totals["synchronizations"] == totals["copies"] == 0


def test_values_are_those_of_the_cpu() -> None:
    def compute(device: str) -> Tensor:
        x = torch.linspace(-1, 1, 12).view(3, 4).to(device).requires_grad_(True)
        network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()).to(device)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.full_like(parameter, 0.3))
        value = (network(x).view(2, 6).roll(1, 0) * x.reshape(2, 6)).square().mean()
        (slope,) = torch.autograd.grad(value, x)
        return slope.cpu()

    with emulate_cuda():
        emulated = compute("cuda")
    assert torch.equal(emulated, compute("cpu"))


def test_a_derivative_returns_to_the_device_of_its_tensor() -> None:
    with emulate_cuda():
        x = torch.ones(3, requires_grad=True)
        (slope,) = torch.autograd.grad((x.to("cuda") * 2).sum().cpu(), x)
        assert slope.device.type == "cpu" and torch.equal(slope, torch.full((3,), 2.0))


def test_everything_is_as_before_afterwards(given: Given) -> None:
    kept = given.cuda
    with emulate_cuda():
        pass
    assert kept.is_cuda and bool((kept + 1).any())  # the fixture's own emulation goes on


def test_the_device_is_gone_after_the_block() -> None:
    before = torch.Tensor.to, torch.tensor, torch.Generator, torch.cuda.is_available
    with emulate_cuda():
        x = torch.zeros(2, device="cuda")
    assert (torch.Tensor.to, torch.tensor, torch.Generator, torch.cuda.is_available) == before
    with pytest.raises(DeviceError, match="has ended"):
        x + 1
