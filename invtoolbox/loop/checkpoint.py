"""Write a run to disk between two steps, and continue it bitwise as if it had not stopped.

A checkpoint is one safetensors file (no pickle). It is written next to its final path and moved
there, so that a run killed at any moment leaves the last complete file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch

from invtoolbox.core.pytrees import tree_leaves, tree_restore
from invtoolbox.datasets.output import write_bytes
from invtoolbox.errors import InputError
from invtoolbox.loop.run import Loop
from invtoolbox.objective.objective import Layout

_FORMAT = "invtoolbox checkpoint 1"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Path and period of checkpoints.

    ``checkpoint="run.ckpt"`` in `solve` means ``Checkpoint("run.ckpt")``.

    If the file exists the run continues from it; a file of another problem is refused, never
    overwritten.

    Args:
        path: path of the file.
        every: seconds between two writes; 0 writes after every step.
    """

    path: str | Path
    every: float = 10.0


class Writer:
    """Writes the loop to its file with a given period."""

    def __init__(self, settings: Checkpoint, fingerprint: str) -> None:
        self.path, self.every, self.fingerprint = Path(settings.path), settings.every, fingerprint
        self.last = time.monotonic()

    def after_step(self, loop: Loop, last: bool) -> None:
        if last or time.monotonic() - self.last >= self.every:
            self.write(loop)
            self.last = time.monotonic()

    def write(self, loop: Loop) -> None:
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
            "fingerprint": self.fingerprint,
            "iteration": str(loop.iteration),
        }
        if loop.layout is not None:
            meta["layout"] = json.dumps(dict(zip(loop.layout.names, loop.layout.shapes)))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.path, save(tensors, metadata=meta), overwrite=True)

    def resume(self, loop: Loop) -> Loop:
        """Return the loop of the file, or ``loop`` if there is no file yet."""
        if not self.path.exists():
            return loop
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                meta = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"the checkpoint {self.path} cannot be read ({error}); delete it to start anew"
            ) from error
        if meta.get("format") != _FORMAT:
            raise InputError(
                f"{self.path} is not a checkpoint of this version; give another checkpoint path"
            )
        if meta.get("fingerprint") != self.fingerprint:
            raise InputError(
                f"the checkpoint {self.path} belongs to another problem, prior, solver or seed; "
                "give another path, or delete it to start anew"
            )
        history = tensors.pop("history", None)
        leaves = {name.removeprefix("loop."): t for name, t in tensors.items()}
        restored = tree_restore(_without_history(loop), leaves)
        restored.iteration = int(meta["iteration"])
        if loop.layout is not None and "layout" in meta:
            shapes = json.loads(meta["layout"])
            restored.layout = Layout(tuple(shapes), tuple(map(tuple, shapes.values())))
        restored.history = list(history.to(loop.x.device)) if history is not None else []
        return restored


def fingerprint(tensors: Any, *settings: Any) -> str:
    """Return a digest of everything that must be equal for a run to continue.

    These are measurements, start, the operator's parameters, and the names of the settings.
    """
    digest = hashlib.sha256()
    for _, part in tree_leaves(tensors):
        digest.update(str((part.dtype, tuple(part.shape))).encode())
        digest.update(
            part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    digest.update(json.dumps([repr(item) for item in settings]).encode())
    return digest.hexdigest()


def _without_history(loop: Loop) -> Loop:
    return dataclasses.replace(loop, history=[])
