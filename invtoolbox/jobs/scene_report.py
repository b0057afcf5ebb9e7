"""Report of a scene of any kind: its pictures, measures, notes, settings and versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from invtoolbox.catalogue.documents import CheckedScene
from invtoolbox.plotting import page
from invtoolbox.plotting.comparison import HEADS, side_by_side
from invtoolbox.plotting.pixels import plane


@dataclass(frozen=True, eq=False)
class Compared:
    """Result of a scene beside the simple answer and the truth.

    Attributes:
        images: images ``(channel, *space)`` of one shape by name, the simple answer first; empty if
            the result is no image.
        shown: name of the result.
        truth: name of the truth, the last of the images; empty without one.
        unit: unit of the values.
        words: what a reader must see first, such as the errors of both answers; empty for nothing.
        is_good: whether the result is better than the simple answer; None if it is not known.
    """

    images: Mapping[str, Tensor]
    shown: str
    truth: str = ""
    unit: str = ""
    words: str = ""
    is_good: bool | None = None


def write_scene_report(
    path: Path,
    file: CheckedScene[Any],
    outcome: Any,
    units: Mapping[str, str],
    compared: Compared | None = None,
) -> Path:
    """Write a page about the result of a scene; it contains its pictures, so it can be mailed.

    Args:
        path: the file; it is replaced.
        file: the scene.
        outcome: its `SceneOutcome`; the PNG files among its files are shown.
        units: units of the metrics, by their names.
        compared: pictures of the result and of the simple answer.
    """
    from skimage.io import imread

    scene = file.scene
    title = scene.title or file.name
    body = [_verdict(outcome, compared)]
    if compared is not None and compared.images:
        planes = {name: plane(image) for name, image in compared.images.items()}
        pictures = {name: picture for name, picture in planes.items() if picture is not None}
        figures = side_by_side(pictures, compared.shown, compared.truth, compared.unit)
        body.append(page.row(figures, len(pictures)))
    files = [name for name in outcome.files if name.suffix == ".png" and name.exists()]
    if files:
        figures = [page.picture(imread(name), name.stem, "", light=True) for name in files]
        shown = page.row(figures, 1)
        is_first = compared is None or not compared.images
        body.append(shown if is_first else page.folded("More pictures", shown))
    if outcome.metrics:
        rows = {name: f"{v:.4g} {units.get(name, '')}" for name, v in outcome.metrics.items()}
        body += ["<h2>Measures</h2>", page.facts(rows)]
    if outcome.notes:
        body += ["<h2>Notes</h2>", *(f"<p>{page.escape(note)}</p>" for note in outcome.notes)]
    settings = _flatten(scene.model_dump(mode="json", exclude={"title", "output"}))
    settings = {"scene": str(file.path), **settings}
    return page.write_page(path, title, f"{page.date()}.", body, settings)


def _verdict(outcome: Any, compared: Compared | None) -> str:
    """Return how the run ended, and whether the result is better than the simple answer."""
    solution, words = outcome.solution, "" if compared is None else compared.words
    is_good = None if compared is None else compared.is_good
    ending = ""
    if solution is not None:
        ending = HEADS.get(solution.status[0], f"{solution.status[0]}.")
        if solution.status[0] in ("diverged", "invalid"):
            is_good = False
        ending += f" It took {int(solution.iterations[0])} iterations and {solution.seconds:.3g} s."
    notes = len(outcome.notes)
    if notes:
        ending += f" {notes} note{'s' if notes > 1 else ''} below."
    head, _, rest = (f"{words} {ending}" if words else ending).partition(". ")
    return page.verdict(f"{head.rstrip('.')}." if head else "Done.", rest, is_good)


def _flatten(value: Any, key: str = "") -> dict[str, str]:
    """Return the values of nested tables by their dotted keys, without those that are not given."""
    if isinstance(value, dict):
        pairs = [(f"{key}.{name}".strip("."), inner) for name, inner in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        pairs = [(f"{key}.{k}", inner) for k, inner in enumerate(value)]
    else:
        return {} if value is None else {key: str(value)}
    return {name: text for k, inner in pairs for name, text in _flatten(inner, k).items()}
