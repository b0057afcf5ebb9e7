"""Independent pieces of work: one after another in this process, or spread over Dask workers.

What a worker does with one item of a study: claim it, do it, write its result file, note it in the log.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.runs.study.results import ResultFormat

T = TypeVar("T")
# Environment variables that tell numerical libraries how many threads to start; they are read when a process begins.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# A worker that dies twice over the same piece of work died of it.
_DEATHS = 1
_PATIENCE = "15s"


def spread(
    function: Callable[[T], Any],
    tasks: Sequence[T],
    workers: int = 1,
    cluster: str | None = None,
    threads: int = 1,
) -> Iterator[tuple[int, Any]]:
    """Yield ``(k, function(tasks[k]))`` as pieces of work are done; where a worker was lost over one, the exception instead.

    Args:
        function: as a plain function of a module it is known to every worker; other callables travel by value.
        tasks: begun in this order, at most as many at once as there are threads of workers.
        workers: with 1 and no cluster the work is done in this process, and Dask is not needed.
        cluster: the address of a Dask scheduler, such as ``tcp://host:8786``; `workers` plays no part then.
        threads: of each worker, for the arithmetic of one piece.

    Raises:
        InputError: no scheduler answers, or it has no workers.
        MissingDependency: Dask is asked for and not installed.
    """
    if workers < 1 or threads < 1:
        raise InputError(
            f"{workers} workers of {threads} threads are asked for; give at least one of each"
        )
    if cluster is None and workers == 1:
        with limit_threads(threads):
            for number, task in enumerate(tasks):
                yield number, function(task)
        return
    with _client(min(workers, max(len(tasks), 1)), cluster, threads) as client:
        yield from _on(client, function, tasks)


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """So many threads for torch and for NumPy in this block: sums depend on their number in the last bit."""
    import torch

    before = torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError):
            from threadpoolctl import threadpool_limits

            stack.enter_context(threadpool_limits(threads))
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _on(client: Any, function: Callable[[T], Any], tasks: Iterable[T]) -> Iterator[tuple[int, Any]]:
    from distributed import as_completed

    capacity = sum(client.nthreads().values())
    waiting = iter(enumerate(tasks))
    numbers: dict[Any, int] = {}
    futures = as_completed(loop=client.loop)

    def submit() -> None:
        for number, task in waiting:
            future = client.submit(function, task, pure=False)
            numbers[future] = number
            futures.add(future)
            return

    # No more than can run at once: what waits at a worker would be taken for a cause of its death.
    for _ in range(capacity):
        submit()
    for future in futures:
        number = numbers.pop(future)
        submit()
        yield number, future.result() if future.status == "finished" else future.exception()


@contextmanager
def _client(workers: int, cluster: str | None, threads: int) -> Iterator[Any]:
    try:
        import dask
        import distributed
    except ImportError as error:
        from invtoolbox.core.environment import how_to_get

        raise MissingDependency(
            f"several workers need dask[distributed], which is not installed; {how_to_get('cluster')}"
        ) from error
    if cluster is not None:
        try:
            client = distributed.Client(cluster, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(
                f"no Dask scheduler answers at {cluster} ({' '.join(str(error).split())[:100]}); start one with "
                "`dask scheduler`, and workers with `dask worker ADDRESS --nthreads 1`"
            ) from error
        with client:
            if not client.nthreads():
                raise InputError(
                    f"the Dask scheduler at {cluster} has no workers; start some with `dask worker {cluster} "
                    "--nthreads 1`"
                )
            yield client
        return
    environment = dict.fromkeys(_THREADS, threads)
    # A step in compiled code may keep a worker from answering for long, which is no reason to give it up.
    settings = {
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.scheduler.worker-ttl": None,
        "distributed.scheduler.allowed-failures": _DEATHS,
        "distributed.admin.tick.limit": "1h",
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            memory_limit=None,
            silence_logs="CRITICAL",
        ) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        yield client


#: The folder of claims inside that of the results.
LOCKS = ".locks"


@dataclass(frozen=True)
class Item:
    """One piece of a study: its name, which is that of its result file, and the arguments of the work."""

    name: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Report:
    """How one item ended: ``done``, ``kept`` (it was there already) or ``failed``, with the reason."""

    name: str
    outcome: str
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    trace: str = ""


@dataclass(frozen=True)
class Task:
    """What a worker is told: the item, where its result goes, and with how many threads it is computed."""

    item: Item
    work: Callable[..., Any]
    folder: Path
    fingerprint: str
    threads: int
    results: ResultFormat


def perform(task: Task) -> Report:
    """Do one item and write its result file; what goes wrong is reported, not raised."""
    name, path = task.item.name, task.folder / f"{task.item.name}{task.results.suffix}"
    began = time.monotonic()
    with _claimed(task.folder / LOCKS / name), limit_threads(task.threads):
        # Another driver's worker, whose driver was killed, may have finished it in the meantime.
        with contextlib.suppress(InputError):
            return Report(name, "kept", facts=task.results.facts(path, task.fingerprint))
        _log(task.folder, name, "begun")
        try:
            facts = task.results.write(
                path, task.work(*task.item.arguments), name, task.fingerprint
            )
        except (
            Exception
        ) as error:  # a user's function may raise anything; the item's report carries it
            _log(task.folder, name, "failed")
            sentence = " ".join(str(error).split()) or type(error).__name__
            if not isinstance(error, InputError):
                sentence = f"{type(error).__name__}: {sentence}"
            return Report(
                name,
                "failed",
                time.monotonic() - began,
                error=sentence,
                trace=traceback.format_exc(),
            )
        _log(task.folder, name, "done")
    return Report(name, "done", time.monotonic() - began, facts)


@contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Only one process at a time holds an item; a process that dies lets it go."""
    try:
        import fcntl
    except ImportError:  # not a Unix system
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _log(folder: Path, name: str, event: str) -> None:
    line = (
        json.dumps(
            {"item": name, "event": event, "time": round(time.time(), 3), "process": os.getpid()}
        )
        + "\n"
    )
    # One write at the end of the file: lines of several workers do not mix.
    handle = os.open(folder / "study.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)
