"""Fields of the tables of scenes: the arguments of a command made from them, and paths in them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from invtoolbox import datasets
from invtoolbox.catalogue.documents import FILE, CheckedScene, parse_override
from invtoolbox.errors import InputError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

#: Keys of paths among settings that no table declares, such as settings of a prior or of a reader.
_PATHS = ("path", "points", "poses", "calibration", "times", "weights")


def field_at(model: type[BaseModel], key: str) -> FieldInfo:
    """Return the field of a dotted key.

    Args:
        model: model of a scene.
        key: dotted key, for example ``"integration.k"``.
    """
    *tables, last = key.split(".")
    for name in tables:
        leaves = _leaves(model.model_fields[name].annotation)
        model = next(leaf for leaf in leaves if _is_model(leaf))
    return model.model_fields[last]


def argument_of(described: FieldInfo) -> dict[str, Any]:
    """Return the settings of an argument of argparse for a field: type, choices, metavar and help.

    A field without a description or with a default of its own shows its default in the help. Absent
    options are None, so that the defaults of the tables hold.

    Args:
        described: field of a table.
    """
    default = described.get_default(call_default_factory=True)
    words = described.description or ""
    is_shown = isinstance(default, (int, float, str, tuple)) and default not in ("", ())
    if is_shown and not isinstance(default, bool):
        text = " ".join(map(str, default)) if isinstance(default, tuple) else default
        words += f" (default: {text})"
    leaves = [*_leaves(described.annotation), *described.metadata]
    settings: dict[str, Any] = {"help": words.replace("%", "%%")}
    if bool in leaves:
        return settings | {"action": "store_true", "default": None}
    count, has_scalar = shape_of(described)
    if count is not None:
        settings["nargs"] = "+" if has_scalar else count
    choices = next((get_args(leaf) for leaf in leaves if get_origin(leaf) is Literal), None)
    has_table = any(map(_is_model, leaves))
    is_mixed = {str, float} <= {*leaves} or (choices and {int, float} & {*leaves})
    kind: Any = next((kind for kind in (str, float, int) if kind in leaves), str)
    metavar = {int: "N", float: "NUMBER", str: "FILE" if FILE in leaves else "NAME"}[kind]
    if has_table and count == "+":  # a list of tables is one text, such as "tv,nonnegative"
        del settings["nargs"]
        kind = _names
    elif has_table or is_mixed:
        kind = _number_or_word
    elif choices is not None:
        return settings | {"choices": choices}
    metavar = described.title or ("VALUE" if count and has_scalar else metavar)
    names = tuple(metavar.split())  # argparse takes a name per value
    return settings | {"type": kind, "metavar": names if len(names) == count else metavar}


def shape_of(described: FieldInfo) -> tuple[int | str | None, bool]:
    """Return the number of values of a field, None if it is one, and whether it may be a single one."""
    annotation = described.annotation
    is_union = get_origin(annotation) in (Union, UnionType)
    members = [member for member in get_args(annotation) if member is not type(None)]
    members = members if is_union else [annotation]
    rows = [member for member in members if get_origin(member) in (list, tuple)]
    if not rows or str in members:  # a text such as "0:10:2" stands for several numbers
        return None, True
    count = "+" if get_origin(rows[0]) is list else len(get_args(rows[0]))
    return count, len(rows) < len(members)


def move_paths(
    tables: type[BaseModel],
    content: Mapping[str, Any],
    parent: Path | None = None,
    find: Callable[[str], Path] = Path,
) -> dict[str, Any]:
    """Return the content of a scene with absolute paths of the files that exist.

    Args:
        tables: model of the scene, which tells which values are paths. In a table that it does not
            declare, the values of the keys ``path``, ``points``, ``poses``, ``calibration``,
            ``times`` and ``weights`` are paths.
        content: the content.
        parent: folder; paths in it become relative to it.
        find: function that returns the file of a path as it is written.
    """

    def place(value: Any) -> Any:
        if isinstance(value, list):
            return [place(entry) for entry in value]
        if (
            not isinstance(value, str)
            or not (named := find(value).expanduser().absolute()).exists()
        ):
            return value
        if parent is not None and named.is_relative_to(parent):
            return str(named.relative_to(parent))
        return str(named)

    def move(model: type[BaseModel], table: Mapping[str, Any]) -> dict[str, Any]:
        contents = dict(table)
        for key, value in table.items():
            described = model.model_fields.get(key)
            leaves = [*_leaves(described.annotation), *described.metadata] if described else []
            inner = next(filter(_is_model, leaves), BaseModel)
            if FILE in leaves or (described is None and key in _PATHS):
                contents[key] = place(value)
            elif isinstance(value, Mapping):
                contents[key] = move(inner, value)
            elif isinstance(value, list):
                contents[key] = [move(inner, v) if isinstance(v, Mapping) else v for v in value]
        return contents

    return move(tables, content)


def input_files(file: CheckedScene[Any]) -> list[Path]:
    """Return the files and folders that a scene reads and that exist, with its own file.

    Args:
        file: the scene.
    """
    places = [file.path] if file.path.is_file() else []

    def find(path: str) -> Path:
        with contextlib.suppress(InputError):  # a word such as "none", or a file that is missing
            places.append(file.locate(path))
        return Path(path)

    content = file.scene.model_dump(mode="json")
    move_paths(type(file.scene), content, find=find)
    for table in _tables(content):
        if isinstance(table.get("dataset"), str):
            with contextlib.suppress(InputError):
                places.append(datasets.find_file(table["dataset"], table.get("file")))
    return places


def _tables(content: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every table in the content of a scene."""
    if isinstance(content, Mapping):
        yield content
    for inner in content.values() if isinstance(content, Mapping) else content:
        if isinstance(inner, (Mapping, list)):
            yield from _tables(inner)


def _leaves(annotation: Any) -> list[Any]:
    """Return the types, literals and marks in an annotation such as ``list[FilePath] | None``."""
    if get_origin(annotation) is Literal:
        return [annotation]
    arguments = get_args(annotation)
    if hasattr(annotation, "__metadata__"):  # Annotated[type, mark]
        return [*_leaves(arguments[0]), *annotation.__metadata__]
    return [leaf for inner in arguments for leaf in _leaves(inner)] if arguments else [annotation]


def _is_model(leaf: Any) -> bool:
    return isinstance(leaf, type) and issubclass(leaf, BaseModel)


def _names(text: str) -> list[dict[str, str]]:
    """Return the tables of names with commas between them; the word none is no table."""
    names = (name.strip() for name in text.split(","))
    return [{"name": name} for name in names if name not in ("", "none")]


def _number_or_word(text: str) -> Any:
    return parse_override(f"value={text}")[1]
