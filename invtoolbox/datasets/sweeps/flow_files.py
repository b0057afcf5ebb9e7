"""Reader and writer of scene flow, one `.npz` per sweep.

A file is written completely or not at all, never in the folder of the source, and with the same
bytes for the same flow. It ends with the digest of its bytes.
"""

from __future__ import annotations

import hashlib
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

from invtoolbox.core.checks import open_arrays, reading, require_keys
from invtoolbox.datasets.output import write_bytes
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import check_motion, transform

_FORMAT = "invtoolbox scene flow 1"
#: Beginning of the comment of an archive. The SHA-256 of all bytes before the digest follows.
_DIGEST = b"sha256 "
#: Requirements of each array: its kinds of numbers, and its axes in addition to the axis of points.
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
    """Flow of the N points of one sweep, in the order of the sweep's file.

    Attributes:
        flow: flow to the next sweep in metres, float32 ``(N, 3)``, including the sensor's own
            motion; NaN for points that are not finite.
        residual: flow without the sensor's own motion, float32 ``(N, 3)``, in metres.
        ego_motion: motion of the standing world in the sensor's frame, ``p1 = E p0``, float64
            ``(4, 4)``.
        valid: boolean ``(N,)``, true for finite points that have a flow.
        dynamic: boolean ``(N,)``, true for points that move in the world.
        ground: boolean ``(N,)``, true for points on the ground.
        instance: number of the rigid cluster of each point, int32 ``(N,)``; -1 for none.
        method: method that computed the flow.
        names: names of the sweep and of the next sweep.
        about: plain facts that were written with the flow.
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

    The bytes depend only on the arguments, not on a clock or a duration. A run that was resumed
    therefore writes the same files as a run without interruption.

    Args:
        path: path of the file; it ends in ``.npz``.
        estimate: flow of the sweep, as `jobs.flow.estimate` returns it.
        points: points of the sweep, ``(N, 3)``, from which the flow of the sensor's motion is
            computed.
        names: names of the sweep and of the next sweep.
        overwrite: replace an existing file.
        about: facts that JSON can store, which are written with the flow.

    Raises:
        InputError: if the file exists and `overwrite` is false, if shapes do not fit, or if a valid
            point has no finite flow.

    >>> import tempfile
    >>> from types import SimpleNamespace
    >>> no = torch.tensor([False])
    >>> estimate = SimpleNamespace(flow=torch.ones(1, 3), ego_motion=torch.eye(4), dynamic=~no,
    ...                            ground=no, instance=torch.tensor([-1]), valid=~no, method="none")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_flow(folder + "/0.npz", estimate, torch.zeros(1, 3), names=("0", "1"))
    ...     read_flow(path).residual
    tensor([[1., 1., 1.]])
    """
    path = Path(path).expanduser()
    if path.suffix != ".npz":
        raise InputError(f"{path}: a flow is written as .npz; give a name that ends in .npz")
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
    """Read a file of `write_flow`.

    Raises:
        InputError: for a truncated or damaged file, a file with other contents, or arrays that do
            not fit together.
    """
    with reading(path, "npz") as path:
        with open_arrays(path) as archive:
            _check_digest(path)
            if "format" not in archive or str(archive["format"]) != _FORMAT:
                raise InputError(
                    f"{path}: the archive is not a flow of a sweep written by invtoolbox; give a "
                    "file of write_flow"
                )
            names = [f.name for f in fields(FlowFile)]
            require_keys(f"{path}: the archive lacks", names, archive, "write it again")
            arrays = {name: archive[name] for name in names}
        _check(path, arrays)
        check_motion(torch.from_numpy(arrays["ego_motion"]), "the motion of the sensor")
        if arrays["names"].shape != (2,):
            raise InputError(
                f"{path}: {arrays['names'].size} names of sweeps, expected two; write it again"
            )
        about = json.loads(str(arrays.pop("about")))
    method, (name, following) = str(arrays.pop("method")), arrays.pop("names").tolist()
    return FlowFile(
        **{key: torch.from_numpy(array) for key, array in arrays.items()},
        method=method,
        names=(name, following),
        about=about,
    )


def refuse_source(folder: str | os.PathLike[str], source: str | os.PathLike[str]) -> Path:
    """Return the resolved folder of results, or raise an error if it lies in the source.

    Results are never written into the folder of the measurements, or below it.

    Args:
        folder: folder of results.
        source: folder or file of the measurements.

    >>> refuse_source("results", "measured").name
    'results'
    """
    out, measured = Path(folder).expanduser().resolve(), Path(source).expanduser().resolve()
    inside = measured.parent if measured.is_file() else measured
    if out == inside or inside in out.parents:
        raise InputError(
            f"{folder}: results are never written into the source {source}; give another folder, "
            "outside of it (--output on the command line)"
        )
    return out


class Estimate(Protocol):
    """Estimate of the flow of every point of a sweep, with the attributes of a `FlowFile`."""

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
    """Subtract the sensor's own motion from a flow, ``flow - (E p - p)``, in float32: ``(N, 3)``.

    Args:
        flow: flow of every point, ``(N, 3)``, including the sensor's own motion.
        points: points ``(N, 3)``.
        ego_motion: motion of the standing world in the sensor's frame, ``p1 = E p0``, ``(4, 4)``.

    >>> residual_flow(torch.ones(1, 3), torch.zeros(1, 3), torch.eye(4))
    tensor([[1., 1., 1.]])
    """
    if flow.shape != points.shape or flow.ndim != 2 or flow.shape[1] != 3:
        raise InputError(
            f"the flow has shape {tuple(flow.shape)} for points of shape {tuple(points.shape)}; "
            "both must be (N, 3)"
        )
    exact = points.to(torch.float64)
    return (flow.to(exact) - (transform(ego_motion.to(exact), exact) - exact)).to(torch.float32)


def _check(path: Path, arrays: dict[str, Any]) -> None:
    count = len(arrays["flow"]) if arrays["flow"].ndim else 0
    for name, (kinds, axes) in _ARRAYS.items():
        array = arrays[name]
        if array.dtype.kind not in kinds or array.shape != (count, *axes):
            raise InputError(
                f"{path}: {name} is {array.dtype} of shape {array.shape}; expected one entry for "
                f"each of {count} points"
            )
    lost = int((arrays["valid"] & ~np.isfinite(arrays["flow"]).all(1)).sum())
    if lost:
        raise InputError(f"{path}: {lost} valid points have no finite flow; mark them as not valid")


def zip_entry(name: str) -> zipfile.ZipInfo:
    """Return the entry of a ZIP archive whose bytes do not depend on the clock."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def _archive(arrays: dict[str, np.ndarray]) -> bytes:
    """Return an .npz archive whose bytes do not depend on the clock."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            array = np.ascontiguousarray(arrays[name]) if arrays[name].ndim else arrays[name]
            np.save(member, array, allow_pickle=False)
            # The fastest level, because higher levels hardly compress flows better.
            archive.writestr(zip_entry(f"{name}.npy"), member.getvalue(), compresslevel=1)
        # The digest covers the length of the comment too, so the comment has its length already.
        archive.comment = _DIGEST + _digest(b"")
    content = stream.getvalue().removesuffix(_digest(b""))
    return content + _digest(content)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _check_digest(path: Path) -> None:
    """Raise an error if the bytes of a file are not those that were written.

    The checksums of a ZIP archive cover the arrays, but not every byte of its headers. An archive
    without a comment, of an earlier version or of `numpy.savez`, has these checksums alone.
    """
    content = path.read_bytes()
    body, mark, digest = content.rpartition(_DIGEST)
    if mark:
        is_whole = _digest(body + mark) == digest
    else:
        # The end record of an archive without a comment is its last 22 bytes.
        is_whole = content[-22:-18] == b"PK\5\6" and content.endswith(b"\0\0")
    if not is_whole:
        raise InputError(
            f"{path}: truncated or not a readable npz file (its digest is wrong); compute it again"
        )


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
