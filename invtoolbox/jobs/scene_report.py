"""Report of a scene of any kind: its pictures, measures, notes, settings and versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invtoolbox.catalogue.documents import CheckedScene
from invtoolbox.core.environment import machine, versions
from invtoolbox.datasets.output import write_bytes
from invtoolbox.plotting import page


def write_scene_report(
    path: Path, file: CheckedScene[Any], outcome: Any, units: Mapping[str, str]
) -> Path:
    """Write a page about the result of a scene; it contains its pictures, so it can be mailed.

    Args:
        path: the file; it is replaced.
        file: the scene.
        outcome: its `SceneOutcome`; the PNG files among its files are shown.
        units: units of the metrics, by their names.
    """
    from skimage.io import imread

    scene, solution = file.scene, outcome.solution
    lead = "" if solution is None else f"{solution.status[0]}, {solution.seconds:.1f} s"
    body = [page.heading(scene.title or file.name, lead)]
    pictures = [name for name in outcome.files if name.suffix == ".png" and name.exists()]
    if pictures:
        figures = [page.picture(imread(name), name.stem, "", light=True) for name in pictures]
        body.append(page.row(figures, "large"))
    if outcome.metrics:
        rows = {name: f"{v:.4g} {units.get(name, '')}" for name, v in outcome.metrics.items()}
        body += ["<h2>Measures</h2>", page.facts(rows)]
    if outcome.notes:
        body += [page.section("Notes", " ".join(outcome.notes))]
    settings = _flatten(scene.model_dump(mode="json", exclude={"title", "output"}))
    body += ["<h2>Settings</h2>", page.facts({"scene": str(file.path), **settings})]
    body += ["<h2>Versions and machine</h2>", page.facts({**versions(), **machine()})]
    return write_bytes(path, page.page(scene.title or file.name, body), overwrite=True)


def _flatten(value: Any, key: str = "") -> dict[str, str]:
    """Return the values of nested tables by their dotted keys, without those that are not given."""
    if isinstance(value, dict):
        pairs = [(f"{key}.{name}".strip("."), inner) for name, inner in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        pairs = [(f"{key}.{k}", inner) for k, inner in enumerate(value)]
    else:
        return {} if value is None else {key: str(value)}
    return {name: text for k, inner in pairs for name, text in _flatten(inner, k).items()}
