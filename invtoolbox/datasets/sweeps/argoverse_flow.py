"""The formats that the Argoverse 2 scene-flow challenges of 2023 (1), 2024 (2) and 2026 (3) take results in.

| version | rows | the sensor's own motion | columns | file |
|---|---|---|---|---|
| 1 | those of the official mask | included | ``flow_tx_m, flow_ty_m, flow_tz_m`` float16, ``is_dynamic`` | ``LOG/TIMESTAMP.feather`` |
| 2 | all points | removed | ``is_valid``, the same three | ``LOG/INDEX.feather``, every fifth sweep; ``metadata.json`` beside the logs |
| 3 | all points | removed | the same three | ``LOG/TIMESTAMP.feather`` |
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

from invtoolbox.core.checks import decoding, require_file
from invtoolbox.datasets.output import write_bytes, writing
from invtoolbox.datasets.sweeps.feather import pyarrow
from invtoolbox.datasets.sweeps.flow_files import Estimate, residual_flow
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import MOVES

Version = Literal[1, 2, 3]

#: The challenge of 2024 looks at every fifth sweep of a log.
STRIDE = 5

_FLOW = ("flow_tx_m", "flow_ty_m", "flow_tz_m")
_COLUMNS: dict[int, tuple[str, ...]] = {
    1: (*_FLOW, "is_dynamic"),
    2: ("is_valid", *_FLOW),
    3: _FLOW,
}


@dataclass(frozen=True, eq=False)
class ArgoverseFlow:
    """What a file of the challenge holds, R rows.

    Attributes:
        version: 1, 2 or 3.
        flow: float32 ``(R, 3)``, metres, rounded to float16 (0.5 mm at 1 m); with the sensor's own motion in version 1 alone.
        dynamic: ``(R,)`` in version 1, else None.
        valid: ``(R,)`` in version 2, else None.
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
    """Write the flow of one sweep as a challenge takes it, into ``FOLDER/LOG/``.

    A point without a finite flow gets the motion of the standing world (and ``is_valid`` false in version 2): the formats have no word for
    "none".

    Args:
        log: the name of the log, which becomes a folder.
        sweep: its time stamp in nanoseconds in versions 1 and 3, its index in the log, a multiple of 5, in version 2.
        estimate: as `motion.estimate` gives it.
        points: of the sweep, ``(N, 3)``.
        version: 1, 2 or 3; the table above says what differs.
        mask: ``(N,)`` the points that the challenge of 2023 asks for (see `argoverse_mask`); needed in version 1, refused in the others.
        ego_motion: the motion that the poses of the data set tell, which is what the challenge takes off; by default the estimate's.

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
    known = residual.isfinite().all(1)
    residual = torch.where(known[:, None], residual, torch.zeros_like(residual))
    shown = residual
    if version == 1:
        assert mask is not None
        standing = -residual_flow(torch.zeros_like(points), points, E)
        shown = torch.where(known[:, None], estimate.flow.to(residual), standing)
        if not bool(shown[mask].isfinite().all()):
            raise InputError(
                f"{path}: the mask asks for points that are not finite; it belongs to another sweep"
            )
        shown, residual = shown[mask], residual[mask]
    if shown.numel() and float(shown.abs().max()) > float(np.finfo(np.float16).max):
        raise InputError(
            f"{path}: a flow is longer than the 65,504 m that the format can hold; it is no flow"
        )
    halves = shown.cpu().numpy().astype(np.float16)
    columns: dict[str, np.ndarray] = {name: halves[:, k].copy() for k, name in enumerate(_FLOW)}
    columns["is_dynamic"] = (residual.norm(dim=1) >= MOVES).cpu().numpy()
    columns["is_valid"] = known.cpu().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_bytes(
        path, _feather({name: columns[name] for name in _COLUMNS[version]}), overwrite
    )


def read_argoverse(path: str | os.PathLike[str], version: Version) -> ArgoverseFlow:
    """Read a file of a challenge, and refuse one that the challenge would.

    Raises:
        InputError: columns that are missing or too many, of another type, or not finite.
    """
    path = require_file(path)
    wanted = _columns(version)
    pyarrow("feather")  # before `decoding`, which would blame the file
    with decoding(path, "feather"):
        table = _read_feather(path)
        if tuple(table) != wanted:
            raise InputError(
                f"{path}: the columns are {', '.join(table) or 'none'}; version {version} has {', '.join(wanted)}"
            )
        for name, array in table.items():
            kind = np.float16 if name in _FLOW else np.bool_
            if array.dtype != kind:
                raise InputError(
                    f"{path}: the column {name} is {array.dtype}; version {version} has {np.dtype(kind)}"
                )
        halves = np.stack([table[name] for name in _FLOW], axis=1)
        if not np.isfinite(halves).all():
            raise InputError(
                f"{path}: {int((~np.isfinite(halves)).any(1).sum())} flows are not finite; every row needs one"
            )
    marks = {name: torch.from_numpy(table[name].copy()) for name in wanted if name not in _FLOW}
    return ArgoverseFlow(
        version,
        torch.from_numpy(halves.astype(np.float32)),
        marks.get("is_dynamic"),
        marks.get("is_valid"),
    )


def argoverse_path(folder: str | os.PathLike[str], log: str, sweep: int, version: Version) -> Path:
    """Where a challenge looks for the flow of a sweep: ``FOLDER/LOG/TIMESTAMP.feather``, and ``INDEX.feather`` in version 2.

    >>> str(argoverse_path("results", "a-log", 10, 2))
    'results/a-log/0000000010.feather'
    """
    _columns(version)
    path = Path(folder).expanduser() / log
    if not log or Path(log).name != log:
        raise InputError(f"{path}: {log!r} is no name of a log; give the name of its folder alone")
    if sweep < 0 or (version == 2 and (sweep % STRIDE or sweep >= 10**10)):
        raise InputError(
            f"{path}: version {version} has no sweep {sweep}; "
            + (
                f"give an index in the log, a multiple of {STRIDE}"
                if version == 2
                else "give its time stamp in nanoseconds"
            )
        )
    return path / (f"{sweep:010d}.feather" if version == 2 else f"{sweep}.feather")


def argoverse_mask(masks: str | os.PathLike[str], log: str, timestamp: int) -> Tensor:
    """The points of a sweep that the challenge of 2023 asks for, boolean ``(N,)``, from its archive of masks (``.zip``)."""
    path, member = require_file(masks), f"{log}/{timestamp}.feather"
    pyarrow("feather")
    with decoding(path, "zip"), zipfile.ZipFile(path) as archive:
        if member not in archive.namelist():
            raise InputError(
                f"{path}: the archive has no mask {member}; that sweep is not asked for"
            )
        table = _read_feather(io.BytesIO(archive.read(member)))
        if len(table) != 1:
            raise InputError(
                f"{path}: the mask {member} has the columns {', '.join(table)}; expected one"
            )
        return torch.from_numpy(next(iter(table.values())).astype(bool))


def pack_argoverse(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    version: Version,
    supervised: bool = False,
    overwrite: bool = False,
) -> Path:
    """Check every file under ``FOLDER/LOG/`` and put them into the archive that is handed in; the same files give the same bytes.

    Args:
        supervised: whether labels were used to make the flow, which version 2 says in ``metadata.json``.

    Raises:
        InputError: a file that the challenge would refuse, a gap in the indices of version 2, or nothing to pack.
    """
    folder, path = Path(folder).expanduser(), Path(path).expanduser()
    files = sorted(folder.glob("*/*.feather"))
    if not files:
        raise InputError(f"{folder}: there is no flow to pack; expected LOG/*.feather")
    for log in {file.parent for file in files} if version == 2 else ():
        found, due = [f.name for f in files if f.parent == log], 0
        for name in found:
            if name != f"{due:010d}.feather":
                raise InputError(
                    f"{log}: {due:010d}.feather is missing before {name}; version 2 has every {STRIDE}th sweep"
                )
            due += STRIDE
    with (
        writing(path, overwrite) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        if version == 2:
            archive.writestr(
                _entry("metadata.json"), json.dumps({"Is Supervised?": supervised}, indent=4)
            )
        for file in files:
            read_argoverse(file, version)
            archive.writestr(_entry(f"{file.parent.name}/{file.name}"), file.read_bytes())
    return path


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def _columns(version: int) -> tuple[str, ...]:
    if version not in _COLUMNS:
        raise InputError(f"there is no version {version} of the challenge's format; give 1, 2 or 3")
    return _COLUMNS[version]


def _check_mask(path: Path, mask: Tensor | None, points: Tensor, version: int) -> None:
    if (mask is not None) != (version == 1):
        raise InputError(
            f"{path}: "
            + (
                "version 1 has the rows of the official mask; give mask="
                if version == 1
                else f"version {version} has all points; leave mask out"
            )
        )
    if mask is not None and (mask.shape != points.shape[:1] or mask.dtype != torch.bool):
        raise InputError(
            f"{path}: the mask is {mask.dtype} of shape {tuple(mask.shape)}; give one boolean a point"
        )


def _feather(columns: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    pyarrow("feather").write_feather(pyarrow("lib").table(columns), stream, compression="lz4")
    return stream.getvalue()


def _read_feather(source: Path | io.BytesIO) -> dict[str, np.ndarray]:
    table = pyarrow("feather").read_table(source, memory_map=False)
    return {name: table[name].to_numpy() for name in table.column_names}
