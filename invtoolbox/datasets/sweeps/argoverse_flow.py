"""Reader and writers of the formats of results of the Argoverse 2 scene-flow challenges.

There are three versions, for the challenges of 2023 (version 1), 2024 (2) and 2026 (3):

- Version 1 has the points of the official mask as rows, and flow that includes the sensor's own
  motion. Its columns are ``flow_tx_m, flow_ty_m, flow_tz_m`` in float16 and ``is_dynamic``. Its
  files are ``LOG/TIMESTAMP.feather``.
- Version 2 has all points as rows, and flow without the sensor's own motion. Its columns are
  ``is_valid`` and ``flow_tx_m, flow_ty_m, flow_tz_m`` in float16. Its files are
  ``LOG/INDEX.feather`` for every fifth sweep, and ``metadata.json`` next to the logs.
- Version 3 has all points as rows, and flow without the sensor's own motion. Its columns are
  ``flow_tx_m, flow_ty_m, flow_tz_m`` in float16. Its files are ``LOG/TIMESTAMP.feather``.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import reading
from invtoolbox.core.guards import check_choice
from invtoolbox.core.trust import check_archive
from invtoolbox.datasets.output import make_folder, write_bytes, writing
from invtoolbox.datasets.sweeps.columns import pyarrow
from invtoolbox.datasets.sweeps.flow_files import Estimate, residual_flow, zip_entry
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import MOVES

Version = Literal[1, 2, 3]

#: The challenge of 2024 evaluates every fifth sweep of a log.
STRIDE = 5

_FLOW = ("flow_tx_m", "flow_ty_m", "flow_tz_m")
_COLUMNS: dict[int, tuple[str, ...]] = {
    1: (*_FLOW, "is_dynamic"),
    2: ("is_valid", *_FLOW),
    3: _FLOW,
}


@dataclass(frozen=True, eq=False)
class ArgoverseFlow:
    """Contents of a file of a challenge, with R rows.

    Attributes:
        version: version of the format: 1, 2 or 3.
        flow: flow in metres, float32 ``(R, 3)``, rounded to float16 (0.5 mm at 1 m). It includes
            the sensor's own motion only in version 1.
        dynamic: boolean ``(R,)`` in version 1, true for moving points; otherwise None.
        valid: boolean ``(R,)`` in version 2, true for points with a flow; otherwise None.
    """

    version: Version
    flow: Tensor
    dynamic: Tensor | None = None
    valid: Tensor | None = None


def write_argoverse(
    folder: str | os.PathLike[str],
    log: str,
    sweep: int,
    estimate: Estimate,
    points: Tensor,
    version: Version,
    mask: Tensor | None = None,
    ego_motion: Tensor | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the flow of one sweep in the format of a challenge, into ``FOLDER/LOG/``.

    The formats cannot express a missing flow. A point without a finite flow is written with the
    motion of the standing world (and ``is_valid`` false in version 2).

    Args:
        folder: folder of the results.
        log: name of the log, which becomes a folder.
        sweep: time stamp of the sweep in nanoseconds in versions 1 and 3; index of the sweep in the
            log, a multiple of 5, in version 2.
        estimate: flow of the sweep, as `jobs.flow.estimate` returns it.
        points: points of the sweep, ``(N, 3)``.
        version: version of the format, 1, 2 or 3, as described in the docstring of this module.
        mask: boolean ``(N,)``, true for the points of the challenge of 2023 (see `argoverse_mask`);
            needed in version 1, refused in the other versions.
        ego_motion: ego motion from the poses of the data set, which the challenge subtracts; by
            default the ego motion of the estimate.
        overwrite: replace an existing file.

    >>> import tempfile
    >>> from types import SimpleNamespace
    >>> estimate = SimpleNamespace(flow=torch.ones(2, 3), ego_motion=torch.eye(4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_argoverse(folder, "a-log", 5, estimate, torch.zeros(2, 3), version=2)
    ...     path.name, read_argoverse(path, 2).valid
    ('0000000005.feather', tensor([True, True]))
    """
    path = argoverse_path(folder, log, sweep, version)
    _check_mask(path, mask, points, version)
    E = estimate.ego_motion if ego_motion is None else ego_motion
    residual = residual_flow(estimate.flow, points, E)
    valid = residual.isfinite().all(1)
    residual = torch.where(valid[:, None], residual, torch.zeros_like(residual))
    flow = residual
    if version == 1:
        assert mask is not None
        standing = -residual_flow(torch.zeros_like(points), points, E)
        flow = torch.where(valid[:, None], estimate.flow.to(residual), standing)
        if not bool(flow[mask].isfinite().all()):
            raise InputError(
                f"{path}: the mask includes points that are not finite; give the mask of this sweep"
            )
        flow, residual = flow[mask], residual[mask]
    if flow.numel() and float(flow.abs().max()) > float(np.finfo(np.float16).max):
        raise InputError(
            f"{path}: a flow is longer than the 65,504 m that the format can hold; check the "
            "estimate"
        )
    halves = flow.cpu().numpy().astype(np.float16)
    columns: dict[str, np.ndarray] = {name: halves[:, k].copy() for k, name in enumerate(_FLOW)}
    columns["is_dynamic"] = (residual.norm(dim=1) >= MOVES).cpu().numpy()
    columns["is_valid"] = valid.cpu().numpy()
    make_folder(path.parent)
    table = pyarrow("lib").table({name: columns[name] for name in _COLUMNS[version]})
    stream = io.BytesIO()
    pyarrow("feather").write_feather(table, stream, compression="lz4")
    return write_bytes(path, stream.getvalue(), overwrite)


def read_argoverse(path: str | os.PathLike[str], version: Version) -> ArgoverseFlow:
    """Read a file of a challenge; a file that the challenge would refuse is an error.

    Args:
        path: path of the file.
        version: version of the format: 1, 2 or 3.

    Raises:
        InputError: if columns are missing, superfluous, of another type, or not finite.
    """
    with reading(path, "feather") as path:
        names = _columns(version)
        table = _read_feather(path)
        if tuple(table) != names:
            raise InputError(
                f"{path}: the columns are {', '.join(table) or 'none'}; version {version} has "
                f"{', '.join(names)}"
            )
        for name, array in table.items():
            kind = np.float16 if name in _FLOW else np.bool_
            if array.dtype != kind:
                raise InputError(
                    f"{path}: the column {name} is {array.dtype}; version {version} has "
                    f"{np.dtype(kind)}"
                )
        halves = np.stack([table[name] for name in _FLOW], axis=1)
        if not np.isfinite(halves).all():
            raise InputError(
                f"{path}: {int((~np.isfinite(halves)).any(1).sum())} flows are not finite; every "
                "row needs a finite flow"
            )
    marks = {name: torch.from_numpy(table[name].copy()) for name in names if name not in _FLOW}
    return ArgoverseFlow(
        version,
        torch.from_numpy(halves.astype(np.float32)),
        marks.get("is_dynamic"),
        marks.get("is_valid"),
    )


def argoverse_path(folder: str | os.PathLike[str], log: str, sweep: int, version: Version) -> Path:
    """Return the path of the flow of a sweep in the layout of a challenge.

    It is ``FOLDER/LOG/TIMESTAMP.feather`` in versions 1 and 3, and ``FOLDER/LOG/INDEX.feather`` in
    version 2.

    >>> str(argoverse_path("results", "a-log", 10, 2))
    'results/a-log/0000000010.feather'
    """
    _columns(version)
    path = Path(folder).expanduser() / log
    if not log or Path(log).name != log:
        raise InputError(
            f"{path}: {log!r} is not the name of a log; give the name of its folder without a path"
        )
    if sweep < 0 or (version == 2 and (sweep % STRIDE or sweep >= 10**10)):
        advice = f"an index in the log, a multiple of {STRIDE}"
        raise InputError(
            f"{path}: version {version} has no sweep {sweep}; give "
            f"{advice if version == 2 else 'its time stamp in nanoseconds'}"
        )
    return path / (f"{sweep:010d}.feather" if version == 2 else f"{sweep}.feather")


def argoverse_mask(masks: str | os.PathLike[str], log: str, timestamp: int) -> Tensor:
    """Read the mask of the points of a sweep in the challenge of 2023, boolean ``(N,)``.

    Args:
        masks: path of the archive of masks of the challenge (``.zip``).
        log: name of the log.
        timestamp: time stamp of the sweep in nanoseconds.
    """
    member = f"{log}/{timestamp}.feather"
    with reading(masks, "zip") as path, zipfile.ZipFile(path) as archive:
        check_archive(path, archive)
        if member not in archive.namelist():
            raise InputError(
                f"{path}: the archive has no mask {member}; the challenge does not evaluate this "
                "sweep"
            )
        table = _read_feather(io.BytesIO(archive.read(member)))
        if len(table) != 1:
            raise InputError(
                f"{path}: the mask {member} has the columns {', '.join(table)}; expected one column"
            )
        return torch.from_numpy(next(iter(table.values())).astype(bool))


def pack_argoverse(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    version: Version,
    supervised: bool = False,
    overwrite: bool = False,
) -> Path:
    """Check every file under ``FOLDER/LOG/`` and pack the files into the archive for submission.

    The same files give the same bytes.

    Args:
        folder: folder of the results.
        path: path of the archive.
        version: version of the format: 1, 2 or 3.
        supervised: whether labels were used to compute the flow, which version 2 stores in
            ``metadata.json``.
        overwrite: replace an existing archive.

    Raises:
        InputError: if the challenge would refuse a file, if the indices of version 2 have a gap, or
            if there is no file.
    """
    folder, path = Path(folder).expanduser(), Path(path).expanduser()
    files = sorted(folder.glob("*/*.feather"))
    if not files:
        raise InputError(f"{folder}: there is no flow to pack; expected LOG/*.feather")
    for log in {file.parent for file in files} if version == 2 else ():
        for k, name in enumerate(f.name for f in files if f.parent == log):
            due = f"{k * STRIDE:010d}.feather"
            if name != due:
                raise InputError(
                    f"{log}: {due} is missing before {name}; version 2 has every {STRIDE}th sweep"
                )
    with (
        writing(path, overwrite) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        if version == 2:
            archive.writestr(
                zip_entry("metadata.json"), json.dumps({"Is Supervised?": supervised}, indent=4)
            )
        for file in files:
            read_argoverse(file, version)
            archive.writestr(zip_entry(f"{file.parent.name}/{file.name}"), file.read_bytes())
    return path


def _columns(version: int) -> tuple[str, ...]:
    check_choice("the challenge's format", _COLUMNS, version=version)
    return _COLUMNS[version]


def _check_mask(path: Path, mask: Tensor | None, points: Tensor, version: int) -> None:
    if (mask is not None) != (version == 1):
        rows = "the rows of the official mask; give mask="
        raise InputError(
            f"{path}: version {version} has "
            f"{rows if version == 1 else 'all points as rows; leave mask out'}"
        )
    if mask is not None and (mask.shape != points.shape[:1] or mask.dtype != torch.bool):
        raise InputError(
            f"{path}: the mask is {mask.dtype} of shape {tuple(mask.shape)}; give one boolean per "
            "point"
        )


def _read_feather(source: Path | io.BytesIO) -> dict[str, np.ndarray]:
    table = pyarrow("feather").read_table(source, memory_map=False)
    return {name: table[name].to_numpy() for name in table.column_names}
