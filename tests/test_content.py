"""Digests of content: what counts, what does not, and independence of order, memory and process."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.core.content import digest
from invtoolbox.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass
class Record:
    a: int = 1
    b: list[float] = dataclasses.field(default_factory=list)


class Slots:
    __slots__ = ("a", "b")

    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b = a, b


class Lazy:
    cache_fields = ("_known",)

    def __init__(self, x: float) -> None:
        self.x = x

    @functools.cached_property
    def double(self) -> float:
        return 2 * self.x

    def known(self) -> float:
        self._known = self.x
        return self._known


SCALE = 2.0


def scaled(x: float, y: float = 1.0) -> float:
    return SCALE * x + y


def through(x: float) -> float:
    return scaled(x)


def closure(value: Any) -> Callable[[], Any]:
    return lambda: value


DIFFERENT: dict[str, list[Any]] = {
    "numbers": [0, 0.0, -0.0, False, None, 1, 1.0, True, 1j, "1", b"1", float("inf"), float("nan")],
    "containers": [[1, 2], (1, 2), {1, 2}, {1: 2}, [2, 1], [[1], 2], [[1, 2]], []],
    "tensors": [
        torch.zeros(2, 3),
        torch.zeros(3, 2),
        torch.zeros(6),
        torch.zeros(6, dtype=torch.float64),
        torch.zeros(6, dtype=torch.bfloat16),
        torch.eye(3),
        torch.eye(3).to_sparse(),
        torch.eye(3).to_sparse_csr(),
        np.eye(3),
        np.eye(3, dtype=np.float32),
        scipy.sparse.eye(3, format="csr"),
        scipy.sparse.eye(3, format="csr") * 2,
    ],
    "objects": [Record(), Record(2), Record(1, [0.0]), Slots(1, 2), Slots(2, 1), Lazy(1.0)],
    "functions": [
        lambda x: x + 1,
        lambda x: x + 2,
        lambda x: x - 1,
        lambda x, y=1: x + 1,
        lambda x, y=2: x + 1,
        lambda x: (lambda z: z + 3)(x),
        lambda x: (lambda z: z + 4)(x),
        closure(1),
        closure(torch.ones(2)),
        torch.relu,
        torch.sigmoid,
        np.sum,
        np.add,
        np.multiply,
        functools.partial(scaled, 1),
        functools.partial(scaled, 2),
        Lazy(1.0).known,
        Lazy(2.0).known,
        Record,
        Lazy,
        it.operators.Blur,
    ],
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_different_contents_have_different_digests(kind: str) -> None:
    found = [digest(value) for value in DIFFERENT[kind]]
    assert len(set(found)) == len(found)
    assert found == [digest(value) for value in DIFFERENT[kind]]


def test_order_strides_and_sharing_make_no_difference() -> None:
    x = torch.rand(4, 6)
    assert digest(x) == digest(x.T.contiguous().T) == digest(torch.cat([x, x])[4:])
    assert digest(x + 1j).__eq__(digest((x - 1j).conj()))
    assert digest(nn.Parameter(x)) == digest(x)
    assert digest(np.asfortranarray(x.numpy())) == digest(x.numpy()) == digest(x.numpy()[:, :])
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"x", "y", ("z", 1)}) == digest({("z", 1), "y", "x"})
    record = Record()
    assert digest([record, record]) == digest([Record(), Record()])
    assert digest(torch.device("cpu")) == digest(torch.device("cuda"))


def test_cycles_are_read() -> None:
    def ring(values: list[float]) -> list[Any]:
        nodes: list[list[Any]] = [[value] for value in values]
        for k, node in enumerate(nodes):
            node += [nodes[k - 1], nodes[(k + 1) % len(nodes)], nodes]
        return nodes[0]

    assert digest(ring([1, 2, 3])) == digest(ring([1, 2, 3])) != digest(ring([1, 2, 4]))
    assert len(digest(ring(list(range(100))))) == 64
    even, odd = Slots(1, None), Slots(2, None)
    even.b, odd.b = odd, even
    assert digest(even) != digest(odd)


def test_deep_nesting_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(InputError, match=r"the content of value .* is nested too deeply"):
        digest(nested)
    while nested:  # Python frees deeply nested lists recursively
        nested = nested.pop()


def test_what_a_function_reads_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(through)
    for _ in range(100):
        through(1.0)  # specialised byte code is not content
    assert digest(through) == before
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert digest(through) != before


def test_modules_that_a_body_imports_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the module is imported, afterwards, and if a function that it calls changes."""
    (tmp_path / "lazy_package").mkdir()
    (tmp_path / "lazy_package" / "__init__.py").write_text("FACTOR = 2.0")
    (tmp_path / "lazy_package" / "parts.py").write_text("def inner(x): return 2 * x")
    (tmp_path / "lazy_other.py").write_text(
        "def scale(x):\n    from lazy_package.parts import inner\n    return inner(x)"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def first(x: float) -> float:
        import lazy_other

        return lazy_other.scale(x)

    def second(x: float) -> float:
        from lazy_package import FACTOR as factor
        from lazy_package import parts

        return factor * parts.inner(x)

    def third(x: float) -> float:
        import missing_module_of_nobody
        import scipy.special

        return scipy.special.gamma(x) + missing_module_of_nobody.y

    before = digest(first), digest(second)
    assert first(1.0) == 2.0 and second(1.0) == 4.0
    assert (digest(first), digest(second)) == before and digest(third) == digest(third)
    monkeypatch.setattr(sys.modules["lazy_package"], "FACTOR", 3.0)
    assert digest(first) == before[0] and digest(second) != before[1]
    monkeypatch.setattr(sys.modules["lazy_package.parts"], "inner", lambda x: 3 * x)
    assert digest(first) != before[0]
    for name in ("lazy_other", "lazy_package", "lazy_package.parts"):
        monkeypatch.delitem(sys.modules, name)


def test_caches_do_not_count() -> None:
    lazy = Lazy(1.0)
    before = digest(lazy)
    assert lazy.double + lazy.known() == 3.0
    assert digest(lazy) == before

    network = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU())
    before = digest(network)
    network.compile(backend="eager")
    assert digest(network) == before
    assert digest(torch.compile(network, backend="eager")) == before
    assert digest(torch.compile(scaled, backend="eager")) == digest(scaled)


def test_networks_count_with_parameters_buffers_and_settings() -> None:
    def network(**changes: float) -> nn.Module:
        torch.manual_seed(0)
        made = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LeakyReLU(0.1))
        made.eval()
        if "weight" in changes:
            made[0].weight.data[0, 0, 0, 0] = changes["weight"]
        if "mean" in changes:
            made[1].running_mean[1] = changes["mean"]
        if "slope" in changes:
            made[2].negative_slope = changes["slope"]
        return made

    made = [network(), network(weight=0.0), network(mean=1.0), network(slope=0.2)]
    made.append(network().train())
    hooked = network()
    hooked.register_forward_hook(lambda module, args, output: 2 * output)
    assert len({digest(each) for each in [*made, hooked]}) == 6
    called = network()
    called(torch.ones(1, 1, 5, 5))
    assert digest(called) == digest(network())


def test_objects_without_content_are_named() -> None:
    def reads(lock: Any) -> Callable[[], Any]:
        return lambda: lock

    with pytest.raises(InputError, match=r"^the content of x\['a'\]\[1\], variable lock of the .*"):
        digest({"a": [1, reads(threading.Lock())]}, "x")
    with pytest.raises(InputError, match=r"^the content of x.b \(a Tensor\) cannot be read"):
        digest(Slots(1, torch.empty(3, device="meta")), "x")
    lock = threading.Lock()
    assert digest([lock], key="1") == digest([lock], key="1") != digest([lock], key="2")


SCRIPT = """
    import torch
    import invtoolbox as it
    from invtoolbox.core.content import digest
    class Mine(it.priors.ExplicitPrior):
        names = {"a", "b", "c"}
        def energy(self, x):
            return x.abs().flatten(1).sum(1) if x.dtype in {torch.float32, "a", "b"} else help(x)
    def help(x): return Mine().energy(x)
    print(digest([Mine(), {"a", "b", ("c", 1)}, it.priors.TotalVariation(), help]))
"""


def test_another_process_finds_the_same_digest(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        ran = subprocess.run(
            [sys.executable, str(script)], env=environment, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        found.add(ran.stdout)
    assert len(found) == 1


def test_a_call_of_an_operator_changes_no_digest() -> None:
    x: Tensor = torch.rand(1, 1, 8, 8)
    operators = it.operators
    for A in (
        operators.Blur(torch.ones(3, 3) / 9, (8, 8)),
        operators.ParallelBeam((8, 8), torch.arange(3.0), 12),
        operators.FanBeam((8, 8), torch.arange(3.0), 12, source_origin=30.0, source_detector=45.0),
        operators.Downsampling((8, 8), 2),
        operators.Inpainting(torch.ones(8, 8), (8, 8)),
        it.as_operator(scipy.sparse.random(5, 64, 0.2, random_state=0), (1, 8, 8)),
    ):
        before = digest(A)
        A.adjoint(A(x))
        A.norm()
        assert digest(A) == before, A


def test_a_class_that_moved_keeps_its_digest() -> None:
    """Runs that an older version began hold this digest; its module was `invtoolbox.views`."""
    model = it.jobs.photographs.VoxelModel((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert digest(model) == ("8ccca9ad8309771e4703ff54a39d30ea1cf79908dd5127ce7db8ffa6995076f3")
