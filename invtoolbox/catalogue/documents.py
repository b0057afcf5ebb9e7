"""TOML documents, such as scene files: find, change by dotted keys, check, and write.

A document is checked against a pydantic model whose tables list every key that the document may
have.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Self, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from invtoolbox.catalogue.shelves import entries, find, read_toml
from invtoolbox.core.checks import missing_path, near_paths
from invtoolbox.core.trust import is_inside, is_trusting
from invtoolbox.errors import InputError, match_name, nearest, suggest, unknown_name

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
S = TypeVar("S", bound="Table")


class Table(BaseModel):
    """Table that accepts only the keys it declares."""

    model_config = ConfigDict(extra="forbid", strict=False, arbitrary_types_allowed=True)


class Place(Table):
    """Location of data: a data set or a path, and the reader if the files do not determine it."""

    dataset: str | None = None
    path: str | None = None
    reader: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.dataset is None) == (self.path is None):
            raise ValueError("give either a dataset or a path")
        return self


class Named(BaseModel):
    """Table with a name, a few known keys, and settings of the named class."""

    model_config = ConfigDict(extra="allow")

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


#: Text that is the path of a file or folder; see `CheckedScene.locate`.
FILE = "path of a file"
FilePath = Annotated[str, FILE]

#: A table that may be given by its name alone, ``solver = "fista"``; and a list of such tables that
#: may be one of them, or names with commas between them.
Alone = Annotated[T, BeforeValidator(_named)]
Several = Annotated[
    list[T],
    BeforeValidator(lambda value: [_named(table) for table in _as_list(value)]),
]


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [name.strip() for name in value.split(",")]
    return value if isinstance(value, list) else [value]


@dataclass(frozen=True)
class CheckedScene(Generic[S]):
    """Scene whose tables were checked.

    Attributes:
        name: name of the scene.
        path: path of its file.
        scene: the tables.
        given: values that the user gave in place of values of the file; paths among them are
            trusted.
    """

    name: str
    path: Path
    scene: S
    given: frozenset[str] = frozenset()

    @classmethod
    def read(
        cls, tables: type[S], scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()
    ) -> Self:
        """Read and check a scene.

        Args:
            tables: model of the scene.
            scene: path of a file, or name in the catalogue.
            overrides: changed keys, ``{"solver.tolerance": 1e-4}`` or lines
                ``"solver.tolerance=1e-4"``.

        Raises:
            InputError: if the file does not exist or does not fit the model; the sentence names
                file and key.
        """
        changes = as_changes(overrides)
        path, content = content_of(scene, changes)
        return cls(path.stem, path, check(tables, path, content), frozenset(texts(changes)))

    def locate(self, path: str) -> Path:
        """Return the file of a path in the scene; see `locate`.

        Args:
            path: path as the scene file gives it.
        """
        return locate(self.path, path, self.given)


def content_of(
    scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> tuple[Path, dict[str, Any]]:
    """Return the path of a scene and its content with some keys changed, unchecked.

    A scene may contain sets of changes. ``preset = "short"`` applies the table ``[presets.short]``
    before the others::

        [presets.short]
        "solver.time_limit" = 10

    Args:
        scene: path of a file, or name in the catalogue.
        overrides: changed keys, as a mapping or as lines ``"key=value"``.
    """
    path = _find(scene)
    return path, change_content(path, read_toml(path), overrides)


def change_content(
    path: Path, content: dict[str, Any], overrides: Mapping[str, Any] | Iterable[str] = ()
) -> dict[str, Any]:
    """Change keys of the content of a scene, in place.

    Args:
        path: path of the file, for errors.
        content: content of the file.
        overrides: changed keys, as a mapping or as lines ``"key=value"``.
    """
    changes = as_changes(overrides)
    presets, chosen = content.pop("presets", {}), content.pop("preset", None)
    chosen = changes.pop("preset", chosen)
    if chosen is not None and chosen not in presets:
        raise unknown_name(f"preset in {path}", str(chosen), presets)
    for key, value in {**(presets[chosen] if chosen is not None else {}), **changes}.items():
        set_key(content, key, value)
    return content


def as_changes(overrides: Mapping[str, Any] | Iterable[str]) -> dict[str, Any]:
    """Return changed keys as a mapping.

    Args:
        overrides: changed keys, as a mapping or as lines ``"key=value"``.
    """
    if isinstance(overrides, Mapping):
        return dict(overrides)
    return dict(parse_override(line) for line in overrides)


def texts(value: Any) -> Iterator[str]:
    """Yield every text in a value of TOML.

    Args:
        value: a text, a table, a list or anything else.

    >>> list(texts({"data.paths": ["a.png", "b.png"], "seed": 1}))
    ['a.png', 'b.png']
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from texts(entry)


def check(model: type[M], path: Path, content: Mapping[str, Any]) -> M:
    """Check the content of a file against a model.

    Args:
        model: pydantic model.
        path: path of the file, for errors.
        content: content of the file.

    Raises:
        InputError: if the content does not fit; the sentence names file and key.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {_sentence(model, error)}") from None


def locate(scene: Path, path: str, given: Container[str] = ()) -> Path:
    """Find a file that a scene names.

    It lies in the folder of the scene file, in the current directory, or in the data folder. A
    scene file may come from elsewhere, so that other files are opened only if the user gave their
    path, or trusts the scene (`core.trust.trusting`).

    Args:
        scene: path of the scene file.
        path: path as the scene file gives it.
        given: paths that the user gave, which may lie anywhere.

    Raises:
        InputError: if it is in none of these places, or outside of these folders.
    """
    from invtoolbox.datasets import data_folder

    named = Path(path).expanduser()
    folders = (scene.parent, Path(), data_folder())
    places = [named] if named.is_absolute() else [folder / named for folder in folders]
    for place in places:
        if place.exists():
            if path not in given:
                refuse_outside(scene, path, place)
            return place
    near = [name for place in dict.fromkeys(places) for name in near_paths(place)][:2]
    looked = ", ".join(dict.fromkeys(map(str, places)))
    raise InputError(
        f"{scene}: there is no file {path}{suggest(near).rstrip(';')} (looked for {looked}; "
        "INVTOOLBOX_DATA names the data folder)"
    )


def refuse_outside(
    scene: Path, path: str, place: Path, folders: Iterable[Path] | None = None
) -> None:
    """Refuse a file outside of the folders that a scene may name, unless scenes are trusted.

    Args:
        scene: path of the scene file.
        path: path as the scene file gives it, for the error message.
        place: the file.
        folders: the folders; by default the folder of the scene, the current one, and that of data.

    Raises:
        InputError: if the file lies in none of the folders.
    """
    from invtoolbox.datasets import data_folder

    if folders is None:
        folders = (scene.parent, Path(), data_folder())
    if not is_trusting() and not any(is_inside(place, folder) for folder in folders):
        raise InputError(
            f"{scene}: it names {path[:120]!r}, which lies outside of its folder, of the current "
            "folder and of the data folder; if you trust the scene, give --trusted (trusted=True "
            "in Python), or give this path with --set"
        )


def parse_override(line: str) -> tuple[str, Any]:
    """Parse ``"key=value"`` into a dotted key and a TOML value; text that is not TOML is a string.

    Args:
        line: the text.

    >>> parse_override("solver.max_iterations=200"), parse_override("prior=tv")
    (('solver.max_iterations', 200), ('prior', 'tv'))
    """
    key, sign, text = line.partition("=")
    key, text = key.strip(), text.strip()
    if not sign or not key or not text:
        raise InputError(
            f"--set takes key=value, for example --set solver.max_iterations=200, got {line!r}"
        )
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text


def set_key(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in the content of a scene file, in place.

    Args:
        content: content of the file.
        key: dotted key; tables of a list are named by name or number.
        value: new value.
    """
    *parents, last = key.split(".")
    node: Any = content
    for depth, word in enumerate(parents):
        node = _child(node, word, ".".join(parents[: depth + 1]))
    if isinstance(node, list):
        node = _only(node, key)
    node[last] = value


def _child(node: Any, word: str, key: str) -> Any:
    if isinstance(node, list):
        if word.isdigit() and int(word) < len(node):
            return node[int(word)]
        named = [table for table in node if isinstance(table, dict) and table.get("name") == word]
        if named:
            return named[0]
        return _child(_only(node, key), word, key)
    child = node.get(word)
    if child is None:
        child = node[word] = {}
    elif isinstance(child, str):  # `prior = "tv"` abbreviates a table with a name
        child = node[word] = {"name": child}
    elif not isinstance(child, (dict, list)):
        raise InputError(f"--set: {key} is {child!r}, which has no keys of its own")
    return child


def _only(node: list[Any], key: str) -> Any:
    if len(node) != 1:
        names = ", ".join(str(table.get("name", k)) for k, table in enumerate(node))
        raise InputError(
            f"--set: {key} is ambiguous between {names}; put the name or the number after the "
            "first dot"
        )
    return node[0]


def _find(scene: str | Path) -> Path:
    path = Path(scene).expanduser()
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            if path.stem not in entries("scenes"):
                raise InputError(missing_path(scene))
            raise InputError(
                f"there is no scene file {path}; the catalogue has a scene {path.stem!r}, run it "
                "by that name"
            )
        return path
    word, names = str(scene), entries("scenes")
    is_path = bool(path.parts[1:]) or word.endswith("/") or word.startswith(("~", "."))
    if match_name(word, names) is None and (is_path or near_paths(path)):
        raise InputError(missing_path(word, "scene", names))
    return find("scenes", word).path


def _sentence(model: type[BaseModel], error: ValidationError) -> str:
    """Return the first error as a sentence, and the number of further errors."""
    faults = error.errors()
    fault = faults[0]
    where = _place(fault["loc"])
    if fault["type"] == "extra_forbidden":
        parent, key = fault["loc"][:-1], str(fault["loc"][-1])
        table = f"the table [{_place(parent)}]" if parent else "a scene"
        keys = list(_model_at(model, parent).model_fields)
        hint = suggest(nearest(key, keys, 2))
        text = f"{table} has no key {key!r}{hint} known: {', '.join(keys)}"
    elif fault["type"] == "missing":
        text = f"{where} is missing"
    elif fault["type"] == "value_error":
        text = f"{f'[{where}]: ' if where else ''}{fault['ctx']['error']}"
    else:
        text = f"{where} is {fault['input']!r}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"
    return text + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _place(location: tuple[Any, ...]) -> str:
    # pydantic names the member of a union after the key; a scene has no such key.
    return ".".join(
        str(key)
        for key in location
        if not (isinstance(key, str) and ("[" in key or key in ("str", "dict")))
    )


def _model_at(model: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel]:
    """Return the model of the table that a location lies in."""
    for key in location:
        if isinstance(key, str) and key in model.model_fields:
            model = next(iter(_models_in(model.model_fields[key].annotation)), model)
    return model


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in an annotation such as ``list[Prior]`` or ``Crop | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def as_toml(content: Mapping[str, Any], table: str = "") -> str:
    """Return values, tables and lists of tables as TOML; keys with the value None are left out.

    Args:
        content: the values; tables may hold further tables.
        table: dotted name of the table that holds them.

    >>> print(as_toml({"seed": 1, "stage": [{"loss": "l1"}], "data": {"crop": {"rows": 8}}}), end="")
    seed = 1
    <BLANKLINE>
    [[stage]]
    loss = "l1"
    <BLANKLINE>
    [data.crop]
    rows = 8
    """
    lines: list[str] = []
    tables: list[str] = []
    for key, value in content.items():
        name = f"{table}.{_key(key)}" if table else _key(key)
        if isinstance(value, Mapping):
            body = as_toml(value, name)
            # A table that holds tables alone needs no line of its own.
            header = "" if body.startswith("\n") else f"\n[{name}]\n"
            tables.append(header + body)
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            tables += [f"\n[[{name}]]\n{as_toml(entry, name)}" for entry in value]
        elif value is not None:
            lines.append(f"{_key(key)} = {json.dumps(value, ensure_ascii=False)}\n")
    text = "".join(lines + tables)
    return text if table or lines else text.removeprefix("\n")


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else json.dumps(name)
