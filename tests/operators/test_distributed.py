"""One volume over several processes, by deepinv's distributed physics: the answer of one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CODE = """
import warnings

import torch
from deepinv.distributed import DistributedContext, distribute

import invtoolbox as it

warnings.simplefilter("ignore")
torch.set_num_threads(1)
A = it.operators.ConeBeam((8, 8, 8), torch.linspace(0, 6, 12), (20, 20), 40.0, 60.0)
x = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
parts = [A.subset(torch.arange(k, 12, 4)) for k in range(4)]


def solve(operator):
    problem = it.Problem(
        operator(x), operator, it.data_terms.Stack(*[it.data_terms.LeastSquares()] * 4)
    )
    prior, solver = it.priors.TotalVariation(), it.solvers.ProximalGradient()
    how = dict(regularization=0.1, max_iterations=8, progress=False)
    return it.solve(problem, prior, solver, **how).x


with DistributedContext(device_mode="cpu", seed_offset=False) as context:
    physics = distribute(
        lambda k, device, _=None: it.to_deepinv(parts[k].to(device=device)),
        context,
        num_operators=4,
        type_object="linear_physics",
    )
    assert context.world_size == 2 and len(physics.local_physics) == 2
    together = it.as_operator(physics, domain_shape=A.domain_shape)
    alone = it.operators.stack(parts)
    torch.testing.assert_close(together.adjoint(together(x)), alone.adjoint(alone(x)))
    torch.testing.assert_close(solve(together), solve(alone), rtol=1e-4, atol=1e-5)
    print("agrees")
"""


@pytest.mark.slow
def test_two_processes_share_the_projections() -> None:
    pytest.importorskip("deepinv.distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    shared |= {"LOCAL_WORLD_SIZE": "2", "PYTHONPATH": str(ROOT), "INVTOOLBOX_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CODE],
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    assert all("agrees" in text for text in said)
