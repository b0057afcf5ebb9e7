"""Scene files of images and scans: a whole problem in TOML, checked before anything is read.

The tables, in the order of the work::

    title, seed, device, dtype, automatic
    [measurements]            measured: dataset or path, file, item, geometry, views, center, crop,
                              beam_hardening, stripes, phase, metal, noise_std
    [measurements.simulate]   or simulated: dataset or path of the truth, and the noise
    [operator]                needed unless the measurements contain it
    [data_term]               least squares by default
    [[prior]]                 one or several: name, weight, settings
    [solver]                  name, settings, budgets, initial guess, tiles; chosen by default
    [regularization]          weight, or rule and its settings
    [output]                  folder, formats, window
    [evaluation]              metrics, reference, border, mask

`invtoolbox.jobs.images.run.ImageJob` runs a scene. ``--set key=value`` changes a key by its dotted
name: ``prior.weight=0.1``, ``solver.name="fista"``, ``measurements.views.step=2``. Of several
priors, ``prior.tv.weight`` or ``prior.0.weight`` names one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from invtoolbox.catalogue import registry
from invtoolbox.catalogue.documents import Alone, CheckedScene, FilePath, Named, Several, Table
from invtoolbox.errors import InputError, match_name, nearest, suggest


class Source(Table):
    """Source of an array: a data set of the catalogue, or a path."""

    dataset: str | None = Field(
        None, description="name of a data set; see `invtoolbox list datasets`"
    )
    path: FilePath | None = Field(
        None,
        description="a file, or a folder of files; `invtoolbox list readers` lists the formats",
    )
    file: str | None = Field(None, description="file of the data set")
    item: int = Field(0, description="number of the item in the file, counted from 0")
    reader: str | None = Field(
        None, description="name of the reader; by default, the first bytes of the file decide"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="options of the reader")

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if self.dataset is not None and self.path is not None:
            raise ValueError("give either a dataset or a path, not both")
        if self.file is not None and self.dataset is None:
            raise ValueError(
                "file names a file of a dataset; without one, write the whole path into path"
            )
        return self

    @property
    def is_given(self) -> bool:
        return self.dataset is not None or self.path is not None


class Crop(Table):
    """Rectangle of a picture, in pixels."""

    top: int = Field(0, ge=0, description="first row")
    left: int = Field(0, ge=0, description="first column")
    rows: int = Field(ge=1, description="number of rows")
    columns: int = Field(ge=1, description="number of columns")


class Views(Table):
    """Choice of the views of a scan as a slice of Python, a table or the text "START:STOP:STEP".

    Views are counted from 0, negative numbers from the end; ``stop`` is not included.
    """

    start: int = Field(0, description="first view")
    stop: int | None = Field(None, description="view behind the last one")
    step: int = Field(1, ge=1, description="distance of the views")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, table: Any) -> Any:
        if not isinstance(table, str):
            return table
        if not re.fullmatch(r"-?\d*:-?\d*(:-?\d*)?", table):
            raise ValueError(
                f"takes START:STOP or START:STOP:STEP, for example 0:360:2 or ::4, got {table!r}"
            )
        return {key: n for key, n in zip(("start", "stop", "step"), table.split(":")) if n}


class Hardening(Table):
    """Polynomial against beam hardening.

    `invtoolbox.processing.fit_beam_hardening` fits it to a homogeneous object.
    """

    coefficients: list[float] = Field(
        min_length=1, description="coefficients of the powers 1, 2, ... of a line integral"
    )
    largest: float = Field(
        gt=0, description="largest line integral of the fit; beyond it, the tangent goes on"
    )


class Phase(Table):
    """Filter of Paganin against the fringes of a nearly transparent object.

    `invtoolbox.processing.retrieve_phase` describes it.
    """

    delta_beta: float | None = Field(
        None,
        title="DELTA_BETA",
        description="filter the fringes of a nearly transparent object by its ratio delta / beta",
    )
    energy: float | None = Field(
        None, title="KEV", description="mean energy of the photons in keV, of the filter of fringes"
    )
    distance: float | None = Field(
        None,
        title="LENGTH",
        description="distance from the object to the detector, of the filter of fringes; of parallel "
        "beams only",
    )

    @model_validator(mode="after")
    def _complete(self) -> Phase:
        for name, value, unit in (
            ("delta_beta", self.delta_beta, "the ratio delta / beta of the material"),
            ("energy", self.energy, "the mean energy of the photons in keV"),
        ):
            if value is None:
                raise ValueError(f"a filter of fringes needs {name}, {unit}")
        return self


class Simulate(Source):
    """Simulated measurements: the operator applied to a true image, and noise."""

    relative_noise: float | None = Field(
        None, ge=0, description="norm of the noise as a share of the norm of the measurements"
    )
    noise_std: float | None = Field(None, ge=0, description="standard deviation of the noise")
    seed: int = Field(0, description="seed of the noise")
    crop: Crop | None = Field(None, description="rectangle of the true picture")

    @model_validator(mode="after")
    def _one_noise(self) -> Simulate:
        if not self.is_given:
            raise ValueError("give the dataset or the path of the true image")
        if (self.relative_noise is None) == (self.noise_std is None):
            raise ValueError(
                "give relative_noise, as a share of the norm of the measurements, or noise_std, in "
                "their units; one of them"
            )
        return self


class Measurements(Source):
    """Measurements that are read, or simulated."""

    geometry: FilePath | dict[str, Any] | None = Field(
        None, description="a geometry file; it replaces the geometry in the data"
    )
    noise_std: float | None = Field(
        None,
        gt=0,
        description="standard deviation of the noise, in the units of the measurements; estimated "
        "from them by default",
    )
    views: Views | None = Field(
        None, title="START:STOP:STEP", description="choice of views, as a slice of Python"
    )
    center: float | str | None = Field(
        None,
        title="COLUMN",
        description="detector column onto which the axis of rotation projects, counted from 0 at the "
        "centre of the first column; auto estimates it (parallel beam)",
    )
    crop: Crop | None = Field(None, description="rectangle of a picture")
    beam_hardening: Hardening | None = Field(None, description="correction of beam hardening")
    metal: bool | float = Field(
        False,
        description="leave out the rays of a scan that meet metal; true, or the attenuation above which a "
        "pixel is metal",
    )
    stripes: bool = Field(
        False,
        description="remove stripes of every kind from a sinogram, which cause rings, before all else",
    )
    phase: Phase | None = Field(None, description="filter of fringes, before the reconstruction")
    repair: bool | None = Field(
        None,
        description="word of earlier versions: true is automatic +repairs, and false turns off every "
        "step that mends measurements",
    )
    simulate: Simulate | None = Field(None, description="simulation in place of measurements")

    @field_validator("metal")
    @classmethod
    def _attenuation(cls, metal: bool | float) -> bool | float:
        if not isinstance(metal, bool) and not metal > 0:
            raise ValueError(f"takes true, or an attenuation above 0, got {metal:g}")
        return metal

    @field_validator("center")
    @classmethod
    def _column(cls, center: float | str | None) -> float | str | None:
        if isinstance(center, str) and center != "auto":
            raise ValueError(f"takes a detector column or auto, got {center!r}")
        return center

    @model_validator(mode="after")
    def _measured_or_simulated(self) -> Measurements:
        if self.is_given == (self.simulate is not None):
            raise ValueError(
                "give measurements by dataset or path, or the table [measurements.simulate]; one "
                "of them"
            )
        return self


class Operator(Named):
    """Forward operator and its settings; without a name, changes to the geometry in the data."""

    name: str | None = Field(
        None, description="name of an operator; see `invtoolbox list operators`"
    )

    @field_validator("name")
    @classmethod
    def _registered(cls, name: str | None) -> str | None:
        """Write a name of any case as it is registered, because scans are read by name."""
        return name and (match_name(name, registry.names("operators")) or name)


class DataTerm(Named):
    """Data term by its name in ``invtoolbox list data_terms``, and its settings."""

    name: str = Field(
        "least-squares", description="name of a data term; see `invtoolbox list data_terms`"
    )


class Prior(Named):
    """Prior by its name in ``invtoolbox list priors``, its weight and its settings."""

    name: str = Field(description="name of a prior; see `invtoolbox list priors`")
    weight: float | None = Field(None, ge=0, description="weight relative to the other priors")

    @field_validator("name")
    @classmethod
    def _registered(cls, name: str) -> str:
        """Write a name of any spelling as it is registered; some defaults depend on it."""
        return registry.registered_name("priors", name) or name


class Solver(Named):
    """Solver or preset by its name, its settings, and the budgets of the run."""

    name: str | None = Field(
        None,
        description="name of a solver; see `invtoolbox list solvers`; by default, a solver that fits "
        "the problem",
    )
    max_iterations: int | None = Field(
        None,
        ge=0,
        description="maximum number of iterations of the solve; the solver's own by default",
    )
    tolerance: float | None = Field(None, ge=0, description="bound of the solver's certificate")
    time_limit: float | None = Field(
        None,
        gt=0,
        description="maximum number of seconds of the whole run, or of each item of a study, from reading "
        "to the comparison with a simple answer; the current iterate is then the result",
    )

    @model_validator(mode="after")
    def _settings_of_whom(self) -> Solver:
        if self.name is None and self.settings:
            key = next(iter(self.settings))
            if near := nearest(key, type(self).model_fields, 2, 0.7):
                raise ValueError(f"a solver without a name has no setting {key!r}{suggest(near)}")
            raise ValueError(
                f"{key} is a setting of some solver; give its name too (max_iterations, tolerance "
                "and time_limit need none)"
            )
        return self


class ImageSolver(Solver):
    """Solver of an image or a scan, its initial guess, and tiles for large pictures."""

    initial: Literal["fbp"] | None = Field(
        None,
        description="initial guess: fbp is the filtered back-projection, of a cone beam the method of "
        "Feldkamp, Davis and Kress",
    )
    tile: int | Literal["auto"] | None = Field(
        None,
        title="PIXELS",
        description="rows and columns of overlapping tiles, which bound the memory of deblurring; 0 "
        "for none; auto is 512 above 2 megapixels if the boundary is reflect or valid, without a "
        "time limit",
    )

    memory: str | None = Field(
        None,
        title="SIZE",
        description="memory of every process, such as 1GB: the filtered back-projection, or the solver "
        "sirt, goes by slabs from disk to disk",
    )

    @field_validator("memory")
    @classmethod
    def _size(cls, size: str | None) -> str | None:
        if size is not None and not re.fullmatch(r"\d+(\.\d+)? ?[MGT]B", size):
            raise ValueError(f"takes a number and MB, GB or TB, for example 1GB, got {size!r}")
        return size

    @model_validator(mode="after")
    def _no_time_limit_per_tile(self) -> ImageSolver:
        if self.tile not in (None, 0, "auto") and self.time_limit is not None:
            raise ValueError("solver.time_limit is for a picture as a whole; leave solver.tile out")
        return self


class Regularization(Named):
    """Weight of the priors: a number, or a rule and its settings."""

    weight: float | None = Field(None, ge=0, description="weight of the priors")
    rule: str | None = Field(None, description="name of a rule for the weight")

    @model_validator(mode="after")
    def _weight_or_rule(self) -> Regularization:
        if self.weight is not None and (self.rule is not None or self.settings):
            raise ValueError("give either a weight or a rule, not both")
        if self.settings and self.rule is None:
            key = next(iter(self.settings))
            if near := nearest(key, type(self).model_fields, 2, 0.7):
                raise ValueError(f"it has no setting {key!r}{suggest(near)}")
            raise ValueError(f"{key} is a setting of some rule; give its name as rule")
        return self


class Output(Table):
    """Folder and formats of the results.

    h5 is the whole solution, html the report, png of a volume its middle slice.
    """

    folder: str | None = Field(None, description="folder of the results")
    formats: list[Literal["h5", "png", "tif", "nii", "npy", "html"]] = Field(
        ["h5", "png", "html"], description="formats of the results"
    )
    dtype: Literal["float32", "uint16"] = Field(
        "float32",
        description="type of the values of a volume; uint16 needs range, and the file states slope and "
        "intercept (with solver.memory)",
    )
    range: tuple[float, float] | None = Field(
        None,
        title="LOW HIGH",
        description="values that become 0 and 65535 in uint16; values outside are clipped",
    )
    window: tuple[float, float] | None = Field(
        None, description="values that become black and white in a PNG"
    )
    crop: bool = Field(
        False,
        description="leave out what lies beyond the blurred picture, which the boundary valid finds",
    )

    @model_validator(mode="after")
    def _range_of_whole_numbers(self) -> Output:
        if (self.dtype == "uint16") != (self.range is not None):
            raise ValueError("uint16 and range belong together; give both of them, or none")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range must rise from LOW to HIGH, got {self.range}")
        return self


class Evaluation(Table):
    """Metrics against a reference.

    The default is the truth of a simulation, or the reference in the data.
    """

    metrics: (
        list[Literal["psnr", "ssim", "rmse", "mae", "relative_error", "correlation", "matthews"]]
        | None
    ) = Field(
        None,
        min_length=1,
        description="names of metrics; PSNR, RMSE, and SSIM of pictures by default",
    )
    reference: Source | None = Field(None, description="true image")
    data_range: float | None = Field(
        None, gt=0, description="range of values of PSNR and SSIM; that of the reference by default"
    )
    border: int = Field(0, ge=0, description="number of pixels at the border that do not count")


class Scene(Table):
    """Scene file of an image or a scan."""

    title: str | None = Field(None, description="title of the report")
    measurements: Measurements = Field(description="what was measured, or is simulated")
    operator: Alone[Operator | None] = Field(
        None, description="forward operator, or changes of the geometry in the data"
    )
    data_term: Alone[DataTerm] = Field(DataTerm(), description="misfit of the prediction")
    prior: Several[Prior] = Field(
        [],
        title="NAMES",
        description="names of priors with commas between them, or none for least squares; see "
        "`invtoolbox list priors`",
    )
    solver: Alone[ImageSolver] = Field(ImageSolver(), description="solver and its budgets")
    regularization: Regularization = Field(
        Regularization(),
        title="WEIGHT",
        description="weight of the priors, or name of a rule for it; by default validation, which "
        "predicts measurements that were held out",
    )
    output: Output = Field(Output(), description="results")
    evaluation: Evaluation | None = Field(None, description="metrics against a reference")
    automatic: str = Field(
        "all",
        title="STEPS",
        description="steps that are decided automatically: all, none, or names with a sign and commas, "
        "such as -finer-grid,-gains, which starts from all, or +metal, which starts from none; see "
        "`invtoolbox list decisions`",
    )
    seed: int = Field(0, description="seed of random draws")
    device: str | None = Field(None, title="DEVICE", description="cpu (default), cuda or cuda:1")
    dtype: Literal["float32", "float64"] | None = Field(None, description="type of the numbers")

    @field_validator("automatic")
    @classmethod
    def _steps(cls, automatic: str) -> str:
        # The steps import solvers, which a scene that is only checked does not need.
        from invtoolbox.jobs.images.decisions.order import off_words

        try:
            off_words(automatic)
        except InputError as error:
            raise ValueError(str(error)) from None
        return automatic

    @field_validator("regularization", mode="before")
    @classmethod
    def _weight_or_rule_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"rule": value}
        return (
            {"weight": value}
            if isinstance(value, (int, float)) and not isinstance(value, bool)
            else value
        )


class SceneFile(CheckedScene[Scene]):
    """Checked scene of an image or a scan."""


def read_scene(scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()) -> SceneFile:
    """Read and check a scene file.

    Args:
        scene: path of a TOML file, or name of a scene of the catalogue.
        overrides: keys to change, ``{"prior.weight": 0.1}``, or lines ``"prior.weight=0.1"`` as in
            ``--set``.

    Raises:
        InputError: the file is missing or no TOML, a key is unknown, or a value does not fit. The
            sentence names file and key, and the nearest known keys.

    >>> read_scene("deblur-camera", {"prior.weight": 0.1}).scene.prior[0].weight
    0.1
    """
    return SceneFile.read(Scene, scene, overrides)
