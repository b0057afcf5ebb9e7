"""The folder of a run: what in it must not be lost, and what a resumption may go on from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invtoolbox.core.environment import versions
from invtoolbox.datasets.output import write_bytes
from invtoolbox.errors import InputError

_SCENE = "scene.json"


def check_folder(
    folder: Path,
    settings: dict[str, Any],
    resume: bool,
    overwrite: bool,
    there: Sequence[Path],
    free: Sequence[str],
) -> None:
    """Refuse results that would be lost, and a resumption with other settings.

    Args:
        there: what lies there of what the run would write.
        free: keys and tables of the settings that may differ.
    """
    if resume and overwrite:
        raise InputError(
            "resume goes on from earlier results and overwrite replaces them; give one of them"
        )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"the output {folder} is a file; give a folder")
    if there and not resume and not overwrite:
        raise InputError(
            f"{folder} holds results already ({', '.join(path.name for path in there)}); give --resume to go on from them, "
            "--overwrite to replace them, or another --output"
        )
    if not (resume and (folder / _SCENE).exists()):
        return
    before = read_json(folder / _SCENE).get("scene", {})
    changed = [
        key
        for key in differences(before, settings)
        if key.split(".")[0] not in free and key not in free
    ]
    if changed:
        raise InputError(
            f"{folder} holds a run with another {', '.join(changed)}; resume it with the same settings, "
            "or give --overwrite to start anew"
        )


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder, and note what `check_folder` will compare with."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _SCENE, {"scene": settings, "versions": versions()})


def differences(before: Any, now: Any, key: str = "", within_lists: bool = True) -> list[str]:
    """The dotted keys whose values differ; of lists of one length their numbers too, where these say more than the list.

    >>> differences({"solver": {"name": "fista", "steps": [1, 2]}}, {"solver": {"name": "admm", "steps": [1, 3]}, "seed": 0})
    ['seed', 'solver.name', 'solver.steps.1']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = [
            (f"{key}.{name}" if key else name, before.get(name), now.get(name))
            for name in sorted({*before, *now})
        ]
    elif (
        within_lists
        and isinstance(before, list)
        and isinstance(now, list)
        and len(before) == len(now)
    ):
        pairs = [(f"{key}.{k}", a, b) for k, (a, b) in enumerate(zip(before, now))]
    else:
        return [] if before == now else [key]
    return [found for name, a, b in pairs for found in differences(a, b, name, within_lists)]


def read_json(path: Path) -> Any:
    """What an earlier run wrote there; an `InputError` where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); give --overwrite to start anew"
        ) from error


def write_json(path: Path, content: Any) -> None:
    """In place of what is there, whole or not at all."""
    write_bytes(path, json.dumps(content, indent=1).encode(), overwrite=True)
