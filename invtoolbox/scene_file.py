"""The scene file: a whole runnable problem in TOML, checked before anything is read or computed.

The tables, in the order of the work::

    title, seed, device, dtype
    [measurements]            measured: dataset or path, file, item, geometry, views, crop, beam_hardening, noise_std
    [measurements.simulate]   or simulated: dataset or path of the truth, and the noise
    [operator]                needed where the measurements do not bring it
    [data_term]               least squares by default
    [[prior]]                 one or several: name, weight, settings
    [solver]                  chosen where not given: name, settings, budgets
    [regularization]          weight, or rule and its settings
    [output]                  folder, formats, window
    [evaluation]              metrics, reference, border, mask

`scene_run` runs it. ``--set key=value`` changes a key by its dotted name: ``prior.weight=0.1``, ``solver.name="fista"``,
``measurements.views.step=2``; of several priors, ``prior.tv.weight`` or ``prior.0.weight`` says which.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from invtoolbox import catalogue
from invtoolbox.errors import InputError


class _Table(BaseModel):
    """A table whose keys are all known."""

    model_config = ConfigDict(extra="forbid", strict=False, arbitrary_types_allowed=True)


class _Named(BaseModel):
    """A table with a name, a few known keys, and the settings of what is named."""

    model_config = ConfigDict(extra="allow")

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Source(_Table):
    """Where an array is read from: a data set of the catalogue, or a path."""

    dataset: str | None = None
    path: str | None = None
    file: str | None = None
    item: int = 0
    reader: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if self.dataset is not None and self.path is not None:
            raise ValueError("give either a dataset or a path, not both")
        if self.file is not None and self.dataset is None:
            raise ValueError("file names a file of a dataset; without one, write the whole path into path")
        return self

    @property
    def is_given(self) -> bool:
        return self.dataset is not None or self.path is not None


class Crop(_Table):
    """A rectangle of a picture, in pixels."""

    top: int = Field(0, ge=0)
    left: int = Field(0, ge=0)
    rows: int = Field(ge=1)
    columns: int = Field(ge=1)


class Views(_Table):
    """Which views of a scan are used; counted from 0, ``stop`` is not included."""

    start: int = Field(0, ge=0)
    stop: int | None = Field(None, ge=1)
    step: int = Field(1, ge=1)


class Hardening(_Table):
    """The polynomial against beam hardening; `invtoolbox.processing.fit_beam_hardening` finds it from a homogeneous object."""

    coefficients: list[float] = Field(min_length=1)
    largest: float = Field(gt=0)


class Simulate(Source):
    """Measurements made from a true image: the operator is applied, and noise added."""

    noise: float | None = Field(None, ge=0)
    noise_std: float | None = Field(None, ge=0)
    seed: int = 0
    crop: Crop | None = None

    @model_validator(mode="after")
    def _one_noise(self) -> Simulate:
        if not self.is_given:
            raise ValueError("give the dataset or the path of the true image")
        if (self.noise is None) == (self.noise_std is None):
            raise ValueError("give the noise, as a share of the measurements, or noise_std, in their units; one of them")
        return self


class Measurements(Source):
    """What was measured, or how it is simulated."""

    geometry: str | dict[str, Any] | None = None
    noise_std: float | None = Field(None, gt=0)
    views: Views | None = None
    crop: Crop | None = None
    beam_hardening: Hardening | None = None
    simulate: Simulate | None = None

    @model_validator(mode="after")
    def _measured_or_simulated(self) -> Measurements:
        if self.is_given == (self.simulate is not None):
            raise ValueError("give measurements by dataset or path, or the table [measurements.simulate]; one of them")
        return self


class Operator(_Named):
    """The forward operator and its settings; without a name, changes to the geometry that the data bring."""

    name: str | None = None


class DataTerm(_Named):
    name: str = "least-squares"


class Prior(_Named):
    """A prior by its name in ``invtoolbox list priors``, its weight and its settings."""

    name: str
    weight: float | None = Field(None, ge=0)


class Solver(_Named):
    """A solver or a preset by name, its settings, and the budgets of the run."""

    name: str | None = None
    max_iterations: int | None = Field(None, ge=0)
    tolerance: float | None = Field(None, ge=0)
    time_limit: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _settings_of_whom(self) -> Solver:
        if self.name is None and self.settings:
            key = next(iter(self.settings))
            raise ValueError(f"{key} is a setting of some solver; give its name too (max_iterations, tolerance and time_limit "
                             "need none)")
        return self


class Regularization(_Named):
    """The weight of the priors: a number, or a rule and its settings."""

    weight: float | None = Field(None, ge=0)
    rule: str | None = None

    @model_validator(mode="after")
    def _weight_or_rule(self) -> Regularization:
        if self.weight is not None and (self.rule is not None or self.settings):
            raise ValueError("give either a weight or a rule, not both")
        if self.settings and self.rule is None:
            raise ValueError(f"{next(iter(self.settings))} is a setting of some rule; give its name as rule")
        return self


class Output(_Table):
    """Where results go, and in which formats; h5 is the whole solution, html the report."""

    folder: str | None = None
    formats: list[Literal["h5", "png", "tif", "npy", "html"]] = ["h5", "png", "html"]
    window: tuple[float, float] | None = None


class Evaluation(_Table):
    """How the result is measured against a reference: the truth, or what comes with the data, by default."""

    metrics: list[Literal["psnr", "ssim", "rmse", "mae", "relative_error", "correlation", "matthews"]] = Field(min_length=1)
    reference: Source | None = None
    data_range: float | None = Field(None, gt=0)
    border: int = Field(0, ge=0)


class Scene(_Table):
    """A scene file."""

    title: str | None = None
    measurements: Measurements
    operator: Operator | None = None
    data_term: DataTerm = DataTerm()
    prior: list[Prior] = []
    solver: Solver = Solver()
    regularization: Regularization = Regularization()
    output: Output = Output()
    evaluation: Evaluation | None = None
    seed: int = 0
    device: str | None = None
    dtype: Literal["float32", "float64"] | None = None

    @field_validator("operator", "data_term", "solver", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("prior", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        several = value if isinstance(value, list) else [value]
        return [{"name": one} if isinstance(one, str) else one for one in several]

    @field_validator("regularization", mode="before")
    @classmethod
    def _weight_or_rule_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"rule": value}
        return {"weight": value} if isinstance(value, (int, float)) and not isinstance(value, bool) else value


@dataclass(frozen=True)
class SceneFile:
    """A checked scene, its name, and where it was read from."""

    name: str
    path: Path
    scene: Scene

    def locate(self, path: str) -> Path:
        """A path as a scene writes it: beside the scene file, in the current directory, or in the data folder."""
        from invtoolbox.datasets import data_folder

        given = Path(path).expanduser()
        places = [given] if given.is_absolute() else [self.path.parent / given, given, data_folder() / given]
        for place in places:
            if place.exists():
                return place
        tried = ", ".join(str(p) for p in places)
        raise InputError(f"{self.path}: there is no file {path} (looked for {tried})")


def read_scene(scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()) -> SceneFile:
    """Read and check a scene file.

    Args:
        scene: the path of a TOML file, or the name of a scene of the catalogue.
        overrides: ``{"prior.weight": 0.1}``, or lines ``"prior.weight=0.1"`` as ``--set`` takes them.

    Raises:
        InputError: where the file is missing or not TOML, a key is unknown (with the nearest known ones), or a value
            does not fit; in one sentence that names file and key.

    >>> read_scene("deblur-camera", {"prior.weight": 0.1}).scene.prior[0].weight
    0.1
    """
    path = _find(scene)
    content = catalogue.read_toml(path)
    changes = overrides if isinstance(overrides, Mapping) else dict(parse_override(line) for line in overrides)
    for key, value in changes.items():
        set_key(content, key, value)
    try:
        checked = Scene.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {_sentence(error)}") from None
    return SceneFile(path.stem, path, checked)


def parse_override(line: str) -> tuple[str, Any]:
    """``"key=value"`` as a dotted key and a TOML value; what is not TOML is a string.

    >>> parse_override("solver.max_iterations=200"), parse_override("prior=tv")
    (('solver.max_iterations', 200), ('prior', 'tv'))
    """
    key, sign, text = line.partition("=")
    key, text = key.strip(), text.strip()
    if not sign or not key or not text:
        raise InputError(f"--set takes key=value, for example --set solver.max_iterations=200, got {line!r}")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text


def set_key(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in the content of a scene file, in place."""
    *parents, last = key.split(".")
    node: Any = content
    for depth, part in enumerate(parents):
        node = _child(node, part, ".".join(parents[:depth + 1]))
    if isinstance(node, list):
        node = _only(node, key)
    node[last] = value


def _child(node: Any, part: str, key: str) -> Any:
    if isinstance(node, list):
        if part.isdigit() and int(part) < len(node):
            return node[int(part)]
        named = [one for one in node if isinstance(one, dict) and one.get("name") == part]
        if named:
            return named[0]
        return _child(_only(node, key), part, key)
    found = node.get(part)
    if found is None:
        found = node[part] = {}
    elif isinstance(found, str):  # `prior = "tv"` is short for a table with a name
        found = node[part] = {"name": found}
    elif not isinstance(found, (dict, list)):
        raise InputError(f"--set: {key} is {found!r}, which has no keys of its own")
    return found


def _only(node: list[Any], key: str) -> Any:
    if len(node) != 1:
        names = ", ".join(str(one.get("name", k)) for k, one in enumerate(node))
        raise InputError(f"--set: {key} does not say which of {names} is meant; put its name or its number after the first dot")
    return node[0]


def _find(scene: str | Path) -> Path:
    path = Path(scene).expanduser()
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            known = catalogue.entries("scenes")
            hint = f"; the catalogue has a scene {path.stem!r}, run it by that name" if path.stem in known else ""
            raise InputError(f"there is no scene file {path}{hint}")
        return path
    return catalogue.find("scenes", str(scene)).path


def _sentence(error: ValidationError) -> str:
    """The first fault in words, and how many more there are."""
    faults = error.errors()
    fault = faults[0]
    where = _place(fault["loc"])
    if fault["type"] == "extra_forbidden":
        parent, key = fault["loc"][:-1], str(fault["loc"][-1])
        table = f"the table [{_place(parent)}]" if parent else "a scene"
        known = list(_model_at(parent).model_fields)
        near = difflib.get_close_matches(key, known, n=2, cutoff=0.5)
        hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ";"
        text = f"{table} has no key {key!r}{hint} known: {', '.join(known)}"
    elif fault["type"] == "missing":
        text = f"{where} is missing"
    elif fault["type"] == "value_error":
        text = f"{f'[{where}]: ' if where else ''}{fault['ctx']['error']}"
    else:
        text = f"{where} is {fault['input']!r}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"
    return text + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _place(location: tuple[Any, ...]) -> str:
    # pydantic names the member of a union after the key; a scene has no such key.
    return ".".join(str(part) for part in location if not (isinstance(part, str) and ("[" in part or part in ("str", "dict"))))


def _model_at(location: tuple[Any, ...]) -> type[BaseModel]:
    """The table that a location lies in."""
    models: dict[str, type[BaseModel]] = {
        "measurements": Measurements, "simulate": Simulate, "views": Views, "crop": Crop, "output": Output,
        "evaluation": Evaluation, "reference": Source, "operator": Operator, "data_term": DataTerm, "prior": Prior,
        "solver": Solver, "regularization": Regularization,
    }
    names = [part for part in location if part in models]
    return models[names[-1]] if names else Scene
