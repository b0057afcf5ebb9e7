"""Write a run to disk between two steps, and continue it bitwise as if it had not stopped.

A checkpoint is one safetensors file (no pickle). It is written next to its final path and moved
there, so that a run killed at any moment leaves the last complete file.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.content import digest
from invtoolbox.core.interrupts import GRACE
from invtoolbox.core.memory import is_out_of_memory
from invtoolbox.core.pytrees import select_items, tree_leaves, tree_restore
from invtoolbox.datasets.output import make_folder, remove_stale, write_bytes
from invtoolbox.errors import InputError, warn_user
from invtoolbox.loop.run import Loop
from invtoolbox.objective.objective import Layout

_FORMAT = "invtoolbox checkpoint 2"
#: Tensors that files of earlier versions may lack; their values are then the values at the start.
_ADDED = (
    "travel.",
    "state.floor",
    "state.norms",
    "state.curvatures",
    "state.least",
    "state.stalled",
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Path and period of checkpoints.

    ``checkpoint="run.ckpt"`` in `solve` means ``Checkpoint("run.ckpt")``.

    If the file exists the run continues from it. A file of another run is refused, never
    overwritten: the content of problem, prior, solver, weight, initial guess and seed must be
    equal, down to the bytes of tensors and the code of a user's functions and classes
    (`invtoolbox.core.content`). Budgets, ``max_iterations`` and ``tolerance`` of `solve`, may
    differ.

    A write that fails, on a full disk for example, is a warning: the run goes on, and the next
    write is another attempt.

    Args:
        path: path of the file.
        every: seconds between two writes; 0 writes after every step. Steps of more than half a
            second, which Ctrl-C may cut, are written more often.
        key: text that stands for objects whose content cannot be read, such as an open file.
            Without it, such an object is refused. Give another key whenever the object changes.
    """

    path: str | Path
    every: float = 10.0
    key: str | None = None

    def threads(self) -> int | None:
        """Return the number of threads of the run in the file; None without a file.

        Sums depend on it in the last bit.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                return int((file.metadata() or {})["threads"])
        except (SafetensorError, OSError, KeyError):
            return None  # `Writer.resume` raises the error


class Writer:
    """Writes the loop to its file with a given period.

    Attributes:
        failure: sentence about the last write, if it failed; empty otherwise.
        writes_when_interrupted: whether Ctrl-C writes the last step.
    """

    writes_when_interrupted = True

    def __init__(self, settings: Checkpoint, fingerprint: Mapping[str, str]) -> None:
        self.path = Path(settings.path).expanduser()
        self.every, self.fingerprint = settings.every, fingerprint
        self.last, self.failure = time.monotonic(), ""
        self._stepped, self._cost = self.last, 0.0
        make_folder(self.path.parent)
        remove_stale(self.path.parent, self.path.name)

    def after_step(self, loop: Loop, last: bool) -> None:
        now = time.monotonic()
        since = now - self.last
        # A signal cuts a step of this length, so the one before it is written too, for at most 5 %
        # of the time.
        is_long = now - self._stepped >= GRACE and since >= 20 * self._cost
        if self._is_due(loop, last or is_long or since >= self.every):
            self.write(loop)
            self.last = time.monotonic()
            self._cost = self.last - now
        self._stepped = time.monotonic()

    def _is_due(self, loop: Loop, due: bool) -> bool:
        return due

    def write(self, loop: Loop) -> None:
        """Write the loop; a failure is a warning, and the earlier file stays."""
        try:
            self._write(loop)
        except (InputError, OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            warn_user(
                f"iteration {loop.iteration} could not be written to the checkpoint {self.path} "
                f"({reason}); the run goes on and tries again"
            )
            self.failure = f"the checkpoint {self.path} is not of the last iteration ({reason})"
        else:
            self.failure = ""

    def _write(self, loop: Loop) -> None:
        from safetensors.torch import save

        tensors = {
            f"loop.{name}": t.detach().contiguous()
            for name, t in tree_leaves(_without_history(loop))
        }
        if loop.history:
            tensors["history"] = torch.stack(loop.history)
        # safetensors refuses tensors that share memory, as an iterate and its average may at the
        # start.
        tensors = {name: t.clone() for name, t in tensors.items()}
        meta = {
            "format": _FORMAT,
            "fingerprint": json.dumps(self.fingerprint),
            "iteration": str(loop.iteration),
            "threads": str(torch.get_num_threads()),
        }
        if loop.layout is not None:
            meta["layout"] = json.dumps(dict(zip(loop.layout.names, loop.layout.shapes)))
        self._save(loop, save(tensors, metadata=meta))

    def _save(self, loop: Loop, content: bytes) -> None:
        write_bytes(self.path, content, overwrite=True)

    def _read(self) -> tuple[dict[str, str], dict[str, Tensor]] | None:
        """Return text and tensors of the file; None if there is no file yet."""
        from safetensors import safe_open

        if not self.path.exists():
            return None
        with safe_open(self.path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return file.metadata() or {}, tensors

    def resume(self, loop: Loop) -> Loop:
        """Return the loop of the file, or ``loop`` if there is no file yet."""
        from safetensors import SafetensorError

        try:
            content = self._read()
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"the checkpoint {self.path} cannot be read ({error}); delete it to start anew"
            ) from error
        if content is None:
            return loop
        meta, tensors = content
        if meta.get("format") != _FORMAT:
            raise InputError(
                f"{self.path} is not a checkpoint of this version ({_FORMAT!r}), but "
                f"{meta.get('format', 'another file')!r}; give another checkpoint path"
            )
        written = json.loads(meta["fingerprint"])
        changed = [name for name in self.fingerprint if written.get(name) != self.fingerprint[name]]
        if changed:
            raise InputError(
                f"the checkpoint {self.path} belongs to another problem, prior, solver or seed "
                f"(changed: {', '.join(changed)}); give another path, or delete it to start anew"
            )
        history = tensors.pop("history", None)
        leaves = {name.removeprefix("loop."): t for name, t in tensors.items()}
        for name, t in tree_leaves(_without_history(loop)):
            if name.startswith(_ADDED):
                leaves.setdefault(name, select_items(t, leaves["active"].to(t.device)))
        restored = tree_restore(_without_history(loop), leaves)
        restored.iteration = int(meta["iteration"])
        if loop.layout is not None and "layout" in meta:
            shapes = json.loads(meta["layout"])
            restored.layout = Layout(tuple(shapes), tuple(map(tuple, shapes.values())))
        restored.history = list(history.to(loop.x.device)) if history is not None else []
        return restored


def fingerprint(parts: Mapping[str, Any], key: str | None = None) -> dict[str, str]:
    """Return the digest of every part that must be equal for a run to continue.

    Args:
        parts: measurements, operator and all other parts by name.
        key: text that stands for objects whose content cannot be read.

    Raises:
        InputError: if the content of an object cannot be read, and there is no key.
    """
    remedy = 'give `Checkpoint(path, key="...")` with a key that changes whenever it changes'
    return {name: digest(content, f"the {name}", key, remedy) for name, content in parts.items()}


def _without_history(loop: Loop) -> Loop:
    return dataclasses.replace(loop, history=[])
