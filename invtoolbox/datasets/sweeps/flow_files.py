"""Scene flow on disk, one `.npz` a sweep: whole or not at all, never in the folder of the source, and with the same bytes every time."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import decoding, require_file
from invtoolbox.datasets.output import write_bytes
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import check_motion, transform

_FORMAT = "invtoolbox scene flow 1"
#: What each array must be: its kinds of numbers, and the axes that it has besides that of the points.
_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "flow": ("f", (3,)),
    "residual": ("f", (3,)),
    "valid": ("b", ()),
    "dynamic": ("b", ()),
    "ground": ("b", ()),
    "instance": ("i", ()),
}


@dataclass(frozen=True, eq=False)
class FlowFile:
    """The flow of the N points of one sweep, in the order of the sweep's file.

    Attributes:
        flow: float32 ``(N, 3)``, metres to the next sweep, the sensor's own motion included; NaN where the point is not finite.
        residual: likewise, without the sensor's motion.
        ego_motion: float64 ``(4, 4)``, what the standing world does in the sensor's frame, ``p1 = E p0``.
        valid: ``(N,)`` the point is one, and has a flow.
        dynamic: ``(N,)`` it moves in the world.
        ground: ``(N,)`` it lies on the ground.
        instance: int32 ``(N,)``, the rigid cluster it is in; -1 for none.
        method: how the flow was found.
        names: of the sweep and of the next one.
        about: plain facts that were written with it.
    """

    flow: Tensor
    residual: Tensor
    ego_motion: Tensor
    valid: Tensor
    dynamic: Tensor
    ground: Tensor
    instance: Tensor
    method: str
    names: tuple[str, str]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.flow)


def write_flow(
    path: str | os.PathLike[str],
    estimate: Estimate,
    points: Tensor,
    names: tuple[str, str] = ("", ""),
    overwrite: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write the flow of one sweep as `.npz`, which NumPy reads without this package.

    The bytes depend on the arguments alone: no clock and no duration goes in, so that a run that was resumed leaves the same files as one
    that was not disturbed.

    Args:
        path: ends in ``.npz``.
        estimate: as `motion.estimate` gives it.
        points: of the sweep, ``(N, 3)``: with them the sensor's motion is taken off.
        names: of the sweep and of the next one.
        about: facts that JSON can hold, to be kept with it.

    Raises:
        InputError: where a file is there and `overwrite` is false, or shapes do not fit, or a valid point has no finite flow.

    >>> import tempfile
    >>> from types import SimpleNamespace
    >>> no = torch.tensor([False])
    >>> estimate = SimpleNamespace(flow=torch.ones(1, 3), ego_motion=torch.eye(4), dynamic=~no, ground=no, instance=torch.tensor([-1]),
    ...                            valid=~no, method="none")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_flow(write_flow(folder + "/000000.npz", estimate, torch.zeros(1, 3), ("000000", "000001"))).residual
    tensor([[1., 1., 1.]])
    """
    path = Path(path).expanduser()
    if path.suffix != ".npz":
        raise InputError(f"{path}: a flow is written as .npz; give a name that ends so")
    arrays: dict[str, Any] = {
        name: _numpy(getattr(estimate, name)) for name in _ARRAYS if name != "residual"
    }
    arrays["flow"] = arrays["flow"].astype(np.float32)
    arrays["instance"] = arrays["instance"].astype(np.int32)
    arrays["residual"] = _numpy(residual_flow(estimate.flow, points, estimate.ego_motion))
    arrays["ego_motion"] = _numpy(
        check_motion(estimate.ego_motion, f"{path}: the motion of the sensor")
    )
    _check(path, arrays)
    arrays |= {
        "method": np.array(str(estimate.method)),
        "names": np.array([str(n) for n in names]),
        "format": np.array(_FORMAT),
        "about": np.array(json.dumps(about or {}, sort_keys=True)),
    }
    return write_bytes(path, _archive(arrays), overwrite)


def read_flow(path: str | os.PathLike[str]) -> FlowFile:
    """Read what `write_flow` wrote.

    Raises:
        InputError: for a truncated file, one of something else, and arrays that do not belong together.
    """
    path = require_file(path)
    with decoding(path, "npz"):
        with np.load(path, allow_pickle=False) as archive:
            if "format" not in archive or str(archive["format"]) != _FORMAT:
                raise InputError(f"{path}: the archive is no flow of a sweep written by invtoolbox")
            wanted = [f.name for f in fields(FlowFile)]
            missing = [name for name in wanted if name not in archive]
            if missing:
                raise InputError(f"{path}: the archive lacks {', '.join(missing)}; write it again")
            arrays = {name: archive[name] for name in wanted}
        _check(path, arrays)
        check_motion(torch.from_numpy(arrays["ego_motion"]), "the motion of the sensor")
        if arrays["names"].shape != (2,):
            raise InputError(f"{path}: {arrays['names'].size} names of sweeps; there must be two")
        about = json.loads(str(arrays.pop("about")))
    method, (name, following) = str(arrays.pop("method")), arrays.pop("names").tolist()
    return FlowFile(
        **{key: torch.from_numpy(array) for key, array in arrays.items()},
        method=method,
        names=(name, following),
        about=about,
    )


def refuse_source(folder: str | os.PathLike[str], source: str | os.PathLike[str]) -> Path:
    """The folder of results, unless it is the source's own or lies in it: what was measured is never written to.

    >>> refuse_source("results", "measured").name
    'results'
    """
    out, measured = Path(folder).expanduser().resolve(), Path(source).expanduser().resolve()
    inside = measured.parent if measured.is_file() else measured
    if out == inside or inside in out.parents:
        raise InputError(
            f"{folder}: results are never written into the source {source}; choose a folder outside of it"
        )
    return out


class Estimate(Protocol):
    """What is written: the flow of every point of a sweep, N of them, and what was found on the way."""

    @property
    def flow(self) -> Tensor: ...
    @property
    def ego_motion(self) -> Tensor: ...
    @property
    def dynamic(self) -> Tensor: ...
    @property
    def ground(self) -> Tensor: ...
    @property
    def instance(self) -> Tensor: ...
    @property
    def valid(self) -> Tensor: ...
    @property
    def method(self) -> str: ...


def residual_flow(flow: Tensor, points: Tensor, ego_motion: Tensor) -> Tensor:
    """The flow without the sensor's own motion, ``flow - (E p - p)``, in float32: ``(N, 3)``.

    >>> residual_flow(torch.ones(1, 3), torch.zeros(1, 3), torch.eye(4))
    tensor([[1., 1., 1.]])
    """
    if flow.shape != points.shape or flow.ndim != 2 or flow.shape[1] != 3:
        raise InputError(
            f"the flow has shape {tuple(flow.shape)} for points of shape {tuple(points.shape)}; both are (N, 3)"
        )
    exact = points.to(torch.float64)
    return (flow.to(exact) - (transform(ego_motion.to(exact), exact) - exact)).to(torch.float32)


def _check(path: Path, arrays: dict[str, Any]) -> None:
    count = len(arrays["flow"]) if arrays["flow"].ndim else 0
    for name, (kinds, axes) in _ARRAYS.items():
        array = arrays[name]
        if array.dtype.kind not in kinds or array.shape != (count, *axes):
            raise InputError(
                f"{path}: {name} is {array.dtype} of shape {array.shape}; expected one for each of {count} points"
            )
    lost = int((arrays["valid"] & ~np.isfinite(arrays["flow"]).all(1)).sum())
    if lost:
        raise InputError(f"{path}: {lost} valid points have no finite flow")


def _archive(arrays: dict[str, np.ndarray]) -> bytes:
    """An .npz archive whose bytes do not depend on the clock."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            member = io.BytesIO()
            np.save(
                member,
                np.ascontiguousarray(arrays[name]) if arrays[name].ndim else arrays[name],
                allow_pickle=False,
            )
            # The fastest level: flows pack hardly better with more.
            archive.writestr(entry, member.getvalue(), compresslevel=1)
    return stream.getvalue()


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
