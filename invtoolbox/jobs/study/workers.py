"""Dask workers: spread independent tasks over processes on this machine or over a cluster."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

from invtoolbox.core.environment import optional_package
from invtoolbox.core.trust import is_trusting, trusting
from invtoolbox.errors import InputError

T = TypeVar("T")
#: Function of a function and its tasks that yields the number of a task and its result.
Perform = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[tuple[int, Any]]]
# Environment variables that set the number of threads of numerical libraries; a process reads them
# when it starts.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# After a second worker dies over the same task, the task is the cause.
_DEATHS = 1
_PATIENCE = "15s"
_NEED = "several workers need dask[distributed], which is not installed;"


def spread(
    function: Callable[[T], Any],
    tasks: Sequence[T],
    workers: int = 1,
    cluster: str | None = None,
    threads: int = 1,
) -> Iterator[tuple[int, Any]]:
    """Yield ``(k, function(tasks[k]))`` as tasks end.

    If a worker was lost, an exception is yielded in place of the result.

    Args:
        function: a plain function of a module is known to every worker; other callables travel by
            value.
        tasks: tasks, started in this order; at most one per thread of the workers runs at a time.
        workers: number of processes on this machine.
        cluster: address of a Dask scheduler, such as ``tcp://host:8786``; `workers` is then
            ignored.
        threads: number of threads per worker, for the arithmetic of one task.

    Raises:
        InputError: no scheduler answers, or it has no workers; a worker was lost while it started.
        MissingDependency: Dask is not installed.
    """
    with _client(min(workers, max(len(tasks), 1)), cluster, threads) as client:
        yield from _submit_all(client, partial(_call, function, is_trusting()), tasks)


@contextmanager
def pool(workers: int, cluster: str | None, threads: int) -> Iterator[Perform]:
    """Open workers that do several rounds of tasks, with the arguments and errors of `spread`.

    The errors of tasks are raised. With one worker and no cluster, this process does the tasks.

    >>> with pool(1, None, 1) as perform:
    ...     list(perform(abs, [-1, 2]))
    [(0, 1), (1, 2)]
    """
    if cluster is None and workers == 1:
        yield lambda function, tasks: enumerate(map(function, tasks))
        return
    with _client(workers, cluster, threads) as client:
        lost = optional_package("distributed", _NEED, "cluster").KilledWorker

        def perform(
            function: Callable[[Any], Any], tasks: Sequence[Any]
        ) -> Iterator[tuple[int, Any]]:
            call = partial(_call, function, is_trusting())
            for number, outcome in _submit_all(client, call, tasks):
                if isinstance(outcome, lost):
                    raise InputError(
                        "a worker was lost twice over the same task; give fewer workers or less memory"
                    ) from outcome
                if isinstance(outcome, BaseException):
                    raise outcome
                yield number, outcome

        yield perform


def _call(function: Callable[[T], Any], trusted: bool, task: T) -> Any:
    """Do a task in a worker, which does not know by itself which files are trusted."""
    with trusting(trusted):
        return function(task)


def _submit_all(
    client: Any, function: Callable[[T], Any], tasks: Iterable[T]
) -> Iterator[tuple[int, Any]]:
    capacity = sum(client.nthreads().values())
    waiting = iter(enumerate(tasks))
    numbers: dict[Any, int] = {}
    futures = optional_package("distributed", _NEED, "cluster").as_completed(loop=client.loop)

    def submit() -> None:
        for number, task in waiting:
            future = client.submit(function, task, pure=False)
            numbers[future] = number
            futures.add(future)
            return

    # Only as many as can run at once: Dask would take a task that waits at a dying worker for the
    # cause of its death.
    for _ in range(capacity):
        submit()
    for future in futures:
        number = numbers.pop(future)
        submit()
        yield number, future.result() if future.status == "finished" else future.exception()


@contextmanager
def _client(workers: int, cluster: str | None, threads: int) -> Iterator[Any]:
    dask, distributed = (optional_package(n, _NEED, "cluster") for n in ("dask", "distributed"))
    if cluster is not None:
        try:
            client = distributed.Client(cluster, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(
                f"no Dask scheduler answers at {cluster} ({' '.join(str(error).split())[:100]}); "
                "start one with `dask scheduler`, and workers with `dask worker ADDRESS "
                "--nthreads 1`"
            ) from error
        with client:
            if not client.nthreads():
                raise InputError(
                    f"the Dask scheduler at {cluster} has no workers; start some with `dask worker "
                    f"{cluster} --nthreads 1`"
                )
            yield client
        return
    # A step in compiled code may block a worker for long, which is no reason to give the worker up.
    settings = {
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(_THREADS, threads),
        "distributed.scheduler.worker-ttl": None,
        "distributed.scheduler.allowed-failures": _DEATHS,
        "distributed.admin.tick.limit": "1h",
    }
    with dask.config.set(settings), ExitStack() as opened:
        try:
            local = opened.enter_context(
                distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address=None,
                    memory_limit=None,
                    silence_logs="CRITICAL",
                )
            )
        except RuntimeError as error:
            raise InputError(
                f"a worker was lost while it started ({error}); a script calls this under `if "
                '__name__ == "__main__":`, as every worker imports it; else give fewer workers'
            ) from error
        client = opened.enter_context(distributed.Client(local, set_as_default=False))
        try:
            yield client
        except KeyboardInterrupt:
            # Dask would wait for the tasks, whose files are written whole or not at all.
            for process in multiprocessing.active_children():
                if process.name.startswith("Dask Worker"):
                    process.kill()
            raise
