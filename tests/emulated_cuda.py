"""Emulate CUDA on a machine without a GPU: find device mistakes, and count waits and copies.

Inside of `emulate_cuda`, ``device="cuda"`` is valid: a tensor there reports ``cuda:0``, while the
CPU computes its values. An operation on tensors of two devices raises an error, as on a GPU. The
values are computed on the CPU, so that a result can be compared. Times mean nothing.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from invtoolbox.kernels import native as launching

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

#: Operations whose result, or whose test for errors, the host has to wait for.
_WAITS = {
    "aten::_linalg_check_errors",
    "aten::_linalg_eigh",
    "aten::_linalg_eigvals",
    "aten::_linalg_svd",
    "aten::_local_scalar_dense",
    "aten::_unique",
    "aten::_unique2",
    "aten::allclose",
    "aten::bincount",
    "aten::cholesky",
    "aten::equal",
    "aten::linalg_eig",
    "aten::linalg_lstsq",
    "aten::linalg_matrix_exp",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave",
    "aten::unique_consecutive",
    "aten::unique_dim",
}
#: Operations that PyTorch does not have on CUDA.
_MISSING = {"aten::histogram", "aten::_histogramdd_bin_edges", "aten::_histogramdd_from_bin_cts"}
_INDEXING = {
    "aten::index",
    "aten::_unsafe_index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
}
#: Operations other than views that start no kernel.
_IDLE = {
    "aten::_reshape_alias",
    "aten::_unsafe_view",
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::lift_fresh",
    "aten::new_empty",
    "aten::new_empty_strided",
    "aten::set_",
}
_EAGER = {
    "aten::_conj": torch.ops.aten.conj_physical.default,
    "aten::_neg_view": torch.ops.aten.neg.default,
}
_HERE = Path(__file__)
_PACKAGE = str(Path(launching.__file__).parents[1])
_ENGINE = str(Path(torch.autograd.__file__).parent / "graph.py")
_TORCH = str(Path(torch.__file__).parent)


class DeviceError(RuntimeError):
    """An operation that fails on a GPU."""


@dataclass
class Tally:
    """Counts of the work of a GPU and its host, by the line of code that caused it.

    Attributes:
        synchronizations: operations that make the host wait for the GPU, apart from copies.
        copies: copies between host and GPU, each of which makes the host wait as well.
        hidden_copies: copies that no line requests, caused by an index or a value on the CPU.
        launches: kernels of PyTorch.
        kernels: kernels of this package, by their file, and the number of tasks of each launch.
    """

    synchronizations: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    hidden_copies: Counter[str] = field(default_factory=Counter)
    launches: Counter[str] = field(default_factory=Counter)
    kernels: list[tuple[launching.Kernel, int]] = field(default_factory=list)

    def clear(self) -> None:
        """Forget everything."""
        for counts in (self.synchronizations, self.copies, self.hidden_copies, self.launches):
            counts.clear()
        self.kernels.clear()

    def totals(self) -> dict[str, int]:
        """Return the numbers of synchronizations, copies, hidden copies, launches and kernels."""
        counters = ("synchronizations", "copies", "hidden_copies", "launches")
        return {name: getattr(self, name).total() for name in counters} | {
            "kernels": len(self.kernels)
        }

    def __str__(self) -> str:
        lines = [", ".join(f"{count} {name}" for name, count in self.totals().items())]
        for name in ("synchronizations", "copies"):
            lines += [f"  {n} {name}: {place}" for place, n in getattr(self, name).most_common()]
        return "\n".join(lines)


class EmulatedTensor(Tensor):
    """Tensor that reports ``cuda:0`` and holds its values on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> EmulatedTensor:
        made: EmulatedTensor = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CPU,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        return _current().run(operation, arguments, named or {})

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def get_device(self) -> int:
        return 0

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def cpu(self, memory_format: Any = torch.preserve_format) -> Tensor:
        return self.to("cpu")

    def tolist(self) -> Any:
        _current().count("synchronizations", "tolist")
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.to("cpu").detach().numpy()
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"{self.held!r}, emulated on {CUDA}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        return torch.nn.Parameter(copied) if isinstance(self, torch.nn.Parameter) else copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return EmulatedTensor, (self.held.detach().clone(),)

    # PyTorch's bindings would ask the C++ tensor for its device, which is the CPU.
    def new_zeros(self, *size: Any, device: Any = CUDA, **how: Any) -> Tensor:
        return torch.zeros(*size, device=device, **{"dtype": self.dtype, **how})

    def new_ones(self, *size: Any, device: Any = CUDA, **how: Any) -> Tensor:
        return torch.ones(*size, device=device, **{"dtype": self.dtype, **how})

    def new_empty(self, *size: Any, device: Any = CUDA, **how: Any) -> Tensor:
        return torch.empty(*size, device=device, **{"dtype": self.dtype, **how})

    def new_full(  # type: ignore[override]
        self, size: Any, value: Any, *, device: Any = CUDA, **how: Any
    ) -> Tensor:
        return torch.full(size, value, device=device, **{"dtype": self.dtype, **how})

    def new_tensor(  # type: ignore[override]
        self, data: Any, *, device: Any = CUDA, **how: Any
    ) -> Tensor:
        return torch.tensor(data, device=device, **{"dtype": self.dtype, **how})


class _EmulatedRows:
    """Sparse matrix by rows, which a wrapper of tensors cannot be."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def __matmul__(self, x: Tensor) -> Tensor:
        if not isinstance(x, EmulatedTensor):
            raise DeviceError("a sparse matrix on cuda:0 got a tensor on the CPU")
        return _current().run_whole("aten::_sparse_mm", lambda: self.matrix @ x.held)


def _sparse_rows(*parts: Any, device: Any = None, **how: Any) -> Any:
    on_cuda = [isinstance(p, EmulatedTensor) for p in parts]
    if not any(on_cuda) and not _is_cuda(device):
        return _PLAIN_SPARSE_ROWS(*parts, device=device, **how)
    if not all(on_cuda):
        raise DeviceError("a sparse matrix got parts on cuda:0 and on the CPU")
    return _EmulatedRows(_PLAIN_SPARSE_ROWS(*(p.held for p in parts), **how))


_PLAIN_SPARSE_ROWS = torch.sparse_csr_tensor


def _map(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply a function to every tensor among the arguments or results of an operation."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        return type(value)([_map(function, element) for element in value])
    if isinstance(value, dict):
        return {name: _map(function, element) for name, element in value.items()}
    return value


def _is_emulated(tensor: Any) -> bool:
    return isinstance(tensor, EmulatedTensor)


def _held(tensor: Any) -> Any:
    return tensor.held if isinstance(tensor, EmulatedTensor) else tensor


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


class _Emulation(TorchDispatchMode):
    """Mode that runs every operation of PyTorch on the CPU, after the checks of a GPU."""

    def __init__(self, launcher: Launcher) -> None:
        super().__init__()
        self.tally = Tally()
        self.launcher = launcher
        self.arguments: Any = None  # of the kernel that is launched next
        self.graph: EmulatedGraph | None = None  # that is being recorded

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        return self.run(operation, arguments, named or {})

    def count(self, kind: str, name: str) -> None:
        if self.graph is not None:
            raise DeviceError(
                f"the host waits for {name} during the recording of a graph, {_place()}"
            )
        getattr(self.tally, kind)[f"{name}, {_place()}"] += 1

    def run_whole(self, name: str, compute: Callable[[], Tensor]) -> EmulatedTensor:
        """Run an operation that reaches the CPU as a whole."""
        self.tally.launches[name] += 1
        result = EmulatedTensor(compute())
        if self.graph is not None:
            self.graph.add_result(compute, [result.held])
        return result

    def run(self, operation: Any, arguments: Any, named: dict[str, Any]) -> Any:
        result = self._run(operation, arguments, named)
        if self.graph is not None:
            self.graph.add(operation, arguments, named, result)
        return result

    def _run(self, operation: Any, arguments: Any, named: dict[str, Any]) -> Any:
        name = operation._schema.name
        tensors: list[Tensor] = []
        _map(tensors.append, (arguments, named))
        emulated = any(map(_is_emulated, tensors))
        device = named.get("device")
        if not emulated and not _is_cuda(device):
            return self._on_cpu(operation, arguments, named, tensors)
        if name == "aten::_to_copy":
            return self._copy(operation, arguments[0], named)
        if name == "aten::copy_":
            target, source = arguments[:2]
            same = _is_emulated(target) == _is_emulated(source)
            if not same and not _called_by_engine():
                if source.ndim:
                    self.count("hidden_copies", "copy_")
                self.count("copies", "copy_")
            else:
                self.tally.launches[name] += 1
            _held(target).copy_(_held(source))
            return target
        in_engine = _called_by_engine()
        if not in_engine:
            self._check(operation, name, arguments, named, tensors)
        self._count_waits(name, arguments, named)
        inner, inner_named = _map(_held, (arguments, named))
        if device is not None:
            inner_named["device"] = CPU
        # Below this level PyTorch no longer resolves lazy conjugates and negatives.
        result = _EAGER.get(name, operation)(*inner, **inner_named)
        if not operation.is_view and name not in _IDLE:
            self.tally.launches[name] += 1
        written = [
            (named[a.name] if a.name in named else arguments[k])
            for k, a in enumerate(operation._schema.arguments)
            if a.alias_info is not None and a.alias_info.is_write
            if a.name in named or k < len(arguments)
        ]
        if written:
            return written[0] if isinstance(result, Tensor) else result and tuple(written)
        if device is not None and not _is_cuda(device) and not in_engine:
            return result  # such as torch.zeros_like(x, device="cpu")
        return _map(EmulatedTensor, result)

    def _on_cpu(
        self, operation: Any, arguments: Any, named: dict[str, Any], tensors: list[Tensor]
    ) -> Any:
        generator = named.get("generator")
        if generator is not None and _is_of_cuda(generator):
            raise DeviceError("a generator of cuda:0 was given for numbers on the CPU")
        result = operation(*arguments, **named)
        # Zeros that the C++ code of a derivative makes: it takes an emulated tensor for one of the
        # CPU.
        made = not tensors and _called_by_engine()
        if made or (tensors and all(hasattr(t, "_from_engine") for t in tensors)):
            _map(lambda t: setattr(t, "_from_engine", True), result)
        return result

    def _copy(self, operation: Any, source: Tensor, named: dict[str, Any]) -> Tensor:
        device = named.get("device")
        # C++ derivatives name the device of the C++ tensor; `_Move` is the only copy between devices.
        unnamed = device is None or _called_by_engine()
        target = _is_emulated(source) if unnamed else _is_cuda(device)
        how = {k: v for k, v in named.items() if k not in ("device", "non_blocking")}
        copied: Tensor = operation(_held(source), **how)
        if _is_emulated(source) == target:
            self.tally.launches["aten::_to_copy"] += 1
        else:
            self.count("copies", "to")
        return EmulatedTensor(copied) if target else copied

    def _check(
        self,
        operation: Any,
        name: str,
        arguments: Any,
        named: dict[str, Any],
        tensors: list[Tensor],
    ) -> None:
        """Raise an error if CUDA would not accept the arguments."""
        if name in _MISSING or (name == "aten::linalg_lstsq" and named.get("driver") != "gels"):
            raise DeviceError(f"{name} does not exist on CUDA")
        generator = named.get("generator")
        if generator is not None and not _is_of_cuda(generator):
            raise DeviceError(f"{name} got a generator of the CPU for numbers on cuda:0")
        indexing = name in _INDEXING
        scalars = indexing or torch.Tag.pointwise in operation.tags or name == "aten::where"
        fill = name in ("aten::fill_", "aten::fill", "aten::masked_fill", "aten::masked_fill_")
        foreign = [
            t
            for t in tensors
            if not _is_emulated(t)
            if not ((scalars or fill) and t.ndim == 0)
            if not hasattr(t, "_from_engine")
        ]
        if foreign and indexing and _is_emulated(arguments[0]):
            # PyTorch uploads an index; a value it refuses.
            places = {id(t) for t in arguments[1] if t is not None}
            if all(id(t) in places for t in foreign):
                self.count("copies", "index")
                self.count("hidden_copies", "index")
                return
        if foreign:
            raise DeviceError(f"{name} got tensors on cuda:0 and on the CPU")

    def _count_waits(self, name: str, arguments: Any, named: dict[str, Any]) -> None:
        waits = name in _WAITS
        if name == "aten::repeat_interleave":
            waits = named.get("output_size") is None
        elif name in _INDEXING:
            masks = [
                t for t in arguments[1] if t is not None and t.dtype in (torch.bool, torch.uint8)
            ]
            # One value fills a mask without its list of places.
            waits = bool(masks) and not ("put" in name and arguments[2].numel() == 1)
        if waits:
            self.count("synchronizations", name.removeprefix("aten::"))


class EmulatedGraph:
    """Operations and kernels of a recording, which `replay` runs again on the same memory.

    As on a GPU, results of the recording have no values before the first replay, numbers of the
    host stay those of the recording, and a wait, a copy or a draw during it is an error.
    """

    def __init__(self) -> None:
        self._again: list[Callable[[], Any]] = []
        self._results: list[Tensor] = []

    def add(self, operation: Any, arguments: Any, named: dict[str, Any], result: Any) -> None:
        """Record an operation of PyTorch."""
        results: list[Tensor] = []
        _map(lambda t: results.append(t.held) if _is_emulated(t) else None, result)
        if not results or operation.is_view:
            return  # numbers of the CPU, or other names of the same memory
        if torch.Tag.nondeterministic_seeded in operation.tags:
            raise DeviceError(f"{operation._schema.name} draws during the recording of a graph")
        inner, inner_named = _map(_held, (arguments, named))
        if inner_named.get("device") is not None:
            inner_named["device"] = CPU
        call = _EAGER.get(operation._schema.name, operation)
        writes = any(
            a.alias_info is not None and a.alias_info.is_write for a in operation._schema.arguments
        )

        compute = partial(call, *inner, **inner_named)
        if writes:
            self.add_launch(compute)
        else:
            self.add_result(compute, results)

    def add_result(self, compute: Callable[[], Any], results: list[Tensor]) -> None:
        """Record a computation of tensors, which a replay writes over ``results``."""

        def again() -> None:
            fresh: list[Tensor] = []
            _map(fresh.append, compute())
            for old, new in zip(results, fresh, strict=True):
                old.copy_(new)

        self._again.append(again)
        self._results += results

    def add_launch(self, again: Callable[[], Any]) -> None:
        """Record a kernel of this package, or an operation that writes to its arguments."""
        self._again.append(again)

    def end(self) -> None:
        for tensor in self._results:
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))
        self._results.clear()

    def replay(self) -> None:
        _current().tally.launches["graph"] += 1
        with torch.utils._python_dispatch._disable_current_modes():
            for again in self._again:
                again()


@contextmanager
def _record_graph(graph: EmulatedGraph) -> Iterator[None]:
    mode = _current()
    mode.graph = graph
    try:
        yield
    finally:
        mode.graph = None
    with torch.utils._python_dispatch._disable_current_modes():
        graph.end()


_RUNNING: list[_Emulation] = []


def _current() -> _Emulation:
    if not _RUNNING:
        raise DeviceError("this tensor is of an emulation of CUDA that has ended; copy it before")
    return _RUNNING[-1]


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename != str(_HERE):
            yield frame
        frame = frame.f_back


def _called_by_engine() -> bool:
    """Return whether C++ code of the autograd engine, and no Python code, calls an operation."""
    for frame in _frames():
        file = frame.f_code.co_filename
        if not file.startswith(_TORCH) or file == _ENGINE:
            return file == _ENGINE
    return False


def _place() -> str:
    """Return file and line in the package, or else in the first file outside of PyTorch."""
    outside = ""
    for frame in _frames():
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE):
            return f"{file.removeprefix(_PACKAGE + '/')}:{frame.f_lineno}"
        if not outside and not file.startswith(_TORCH):
            outside = f"{Path(file).name}:{frame.f_lineno}"
    return outside


class _Move(torch.autograd.Function):
    """Copy between the devices; C++ would take both for the CPU."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        ctx.back = tensor.device, tensor.dtype
        _current().count("copies", "to")
        copied = _held(tensor).detach().resolve_conj().resolve_neg().to(dtype, copy=True)
        return EmulatedTensor(copied) if device.type == "cuda" else copied

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        return slope.to(*ctx.back), None, None


_PLAIN_TO, _PLAIN_TENSOR = Tensor.to, torch.tensor
_PLAIN_GENERATOR = torch.Generator


def _to(tensor: Tensor, *arguments: Any, **named: Any) -> Tensor:
    device, dtype = named.get("device"), named.get("dtype")
    for value in arguments:
        if isinstance(value, Tensor):
            device, dtype = value.device, value.dtype
        elif isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, (str, torch.device, int)) and not isinstance(value, bool):
            device = torch.device(value)
    if "other" in named:
        device, dtype = named["other"].device, named["other"].dtype
    device = tensor.device if device is None else torch.device(device)
    dtype = tensor.dtype if dtype is None else dtype
    if device.type != tensor.device.type:
        copied: Tensor = _Move.apply(tensor, device, dtype)
        return copied
    keep = {k: v for k, v in named.items() if k in ("copy", "memory_format")}
    return _PLAIN_TO(tensor, dtype, **keep)


def _tensor(data: Any, *, device: Any = None, requires_grad: bool = False, **how: Any) -> Tensor:
    how.pop("pin_memory", None)
    if isinstance(data, EmulatedTensor):
        made = data.detach().clone().to(device=device, dtype=how.get("dtype"))
        return made.requires_grad_(requires_grad)
    # PyTorch reads tensors within a list one by one.
    read = _map(lambda t: t.tolist() if _is_emulated(t) else t, data)
    made = _PLAIN_TENSOR(read, **how)
    return (made.to(device) if _is_cuda(device) else made).requires_grad_(requires_grad)


def _as_tensor(data: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    made = data if isinstance(data, Tensor) else _PLAIN_AS_TENSOR(data, dtype=dtype)
    return made.to(device=device, dtype=dtype)


_PLAIN_AS_TENSOR = torch.as_tensor


def _quantile(tensor: Tensor, q: Any, *arguments: Any, **named: Any) -> Tensor:
    if not isinstance(tensor, EmulatedTensor) or tensor.requires_grad:
        return _PLAIN_QUANTILE(tensor, q, *arguments, **named)
    # PyTorch makes ranks in C++, and would take them for the CPU's.
    return _current().run_whole(
        "aten::quantile", lambda: _PLAIN_QUANTILE(tensor.held, _held(q), *arguments, **named)
    )


_PLAIN_QUANTILE = Tensor.quantile


class _Generator(torch.Generator):
    """Generator that may report ``cuda:0``.

    An operation receives another Python object of the same generator, so that a bit of the seed
    marks it. The numbers of the CPU do not depend on this bit.
    """

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls, "cpu")  # type: ignore[call-arg]

    def __init__(self, device: Any = "cpu") -> None:
        self._of = CUDA if _is_cuda(device) else CPU
        self.manual_seed(super().initial_seed())

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._of

    def manual_seed(self, seed: int) -> _Generator:
        super().manual_seed(seed | _MARK if self._of is CUDA else seed)
        return self

    def initial_seed(self) -> int:
        return super().initial_seed() & ~_MARK


_MARK = 1 << 62


def _is_of_cuda(generator: torch.Generator) -> bool:
    return bool(_PLAIN_GENERATOR.initial_seed(generator) & _MARK)


#: Function that runs a launch: the kernel, the number of tasks, the struct of the arguments, and the
#: arguments themselves.
Launcher = Callable[[launching.Kernel, int, Any, Any], Any]


def launch_with_warp(kernel: launching.Kernel, tasks: int, packed: Any, arguments: Any) -> None:
    """Run a launch as Warp compiles it for the CPU, in the order of the tasks.

    Tasks that cooperate run as fibers, or by g++ if this version of Warp has none.
    """
    if kernel.block > 1 and hasattr(launching.warp().config, "enable_cpu_blocks"):
        launching.launch_blocks(kernel, tasks, packed)
        return
    if kernel.block > 1:
        from tests.kernels.generated_cuda import launch_on_grid

        launch_on_grid(kernel, tasks, packed)
        return
    launching.warp().launch(kernel.entry, dim=tasks, inputs=[packed, 0], device="cpu")


#: The launcher of `emulate_cuda`; the option ``--grid`` of pytest changes it.
default_launcher: Launcher = launch_with_warp


def _pack(kernel: launching.Kernel, arguments: Any) -> tuple[Any, torch.device]:
    tensors = [
        t for name in kernel.record.vars if isinstance(t := getattr(arguments, name), Tensor)
    ]
    if len({t.device for t in tensors if t.numel()}) > 1:
        raise DeviceError(f"the kernel {kernel.file} got tensors on cuda:0 and on the CPU")
    _current().arguments = arguments
    return _PLAIN_PACK(kernel, arguments)


_PLAIN_PACK = launching.Kernel.pack


def _launch(kernel: launching.Kernel, tasks: int, packed: Any, device: torch.device) -> None:
    mode = _current()
    mode.tally.kernels.append((kernel, tasks))
    run = partial(mode.launcher, kernel, tasks, packed, mode.arguments)
    run()
    if mode.graph is not None:
        mode.graph.add_launch(run)


def _wait(*_: Any) -> None:
    _current().count("synchronizations", "torch.cuda.synchronize")


@contextmanager
def emulate_cuda(launcher: Launcher | None = None) -> Iterator[Tally]:
    """Emulate a CUDA device ``cuda:0`` for the operations inside of the block.

    Tensors move there by ``.to("cuda")``, and ``solve(..., device="cuda")`` works. The block yields
    a `Tally` of the synchronizations, copies and launches that a GPU would have seen. The kernels
    of this package run in the variants that CUDA takes. Tensors of the block cannot be used after
    it. A graph of `torch.cuda.graph` is recorded and replayed
    operation by operation. Streams, memory and automatic mixed precision are not emulated. Functions of PyTorch
    that make tensors in C++, such as ``pad_sequence`` and ``one_hot``, are taken for the CPU's.

    Args:
        launcher: function that runs the kernels of this package; by default `default_launcher`.

    Raises:
        DeviceError: inside of the block, if an operation would fail on a GPU: tensors on two
            devices, a generator of another device, or an operation that CUDA does not have.

    >>> with emulate_cuda() as tally:
    ...     x = torch.arange(4.0, device="cuda")
    ...     positive = bool((x > 0).any())
    >>> tally.totals()["synchronizations"], tally.totals()["copies"]
    (1, 0)
    """
    mode = _Emulation(default_launcher if launcher is None else launcher)
    replaced: list[tuple[Any, str, Callable[..., Any]]] = [
        (Tensor, "to", _to),
        (Tensor, "cuda", lambda tensor, *_, **__: tensor.to("cuda")),
        (torch, "tensor", _tensor),
        (torch, "as_tensor", _as_tensor),
        (Tensor, "quantile", _quantile),
        (torch, "sparse_csr_tensor", _sparse_rows),
        (torch, "Generator", _Generator),
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "device_count", lambda: 1),
        (torch.cuda, "current_device", lambda: 0),
        (torch.cuda, "_lazy_init", lambda: None),
        (torch.cuda, "synchronize", _wait),
        (torch.cuda, "empty_cache", lambda: None),
        (torch.cuda, "CUDAGraph", EmulatedGraph),
        (torch.cuda, "graph", _record_graph),
        (torch.cuda, "mem_get_info", lambda *_: (1 << 36, 1 << 36)),
        (launching.Kernel, "pack", _pack),
        (launching, "_launch_on_cuda", _launch),
    ]
    for name, module in list(sys.modules.items()):
        # Modules that import the class by its name.
        if name.startswith("invtoolbox.") and getattr(module, "Generator", 0) is _PLAIN_GENERATOR:
            replaced.append((module, "Generator", _Generator))
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(patch.object(owner, name, value))
        overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(mode)
        _RUNNING.append(mode)
        stack.callback(_RUNNING.pop)
        yield mode.tally
