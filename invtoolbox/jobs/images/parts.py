"""Build the parts of a checked scene: measurements, operator, data term, priors, solver, rule."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox import datasets
from invtoolbox.catalogue import shelves
from invtoolbox.catalogue.documents import CheckedScene, refuse_outside
from invtoolbox.catalogue.presets import build_network, load_preset, load_prior
from invtoolbox.catalogue.registry import build, lookup
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.datasets.measurement import Measurement
from invtoolbox.datasets.scans.geometry_3d import Geometry3D
from invtoolbox.datasets.scans.geometry_file import geometry_from_mapping, read_geometry
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.volumes.volume import Grid
from invtoolbox.errors import InputError, match_name
from invtoolbox.jobs.images.tables import Crop, SceneFile, Source
from invtoolbox.jobs.images.tables import Prior as PriorTable
from invtoolbox.jobs.images.tables import Solver as SolverTable
from invtoolbox.measurements import report_unused_pages
from invtoolbox.operators.base import Operator
from invtoolbox.parameter_choice import rule_named
from invtoolbox.parameter_choice.base import WeightRule
from invtoolbox.priors.base import Prior
from invtoolbox.processing.attenuation import BeamHardening
from invtoolbox.solvers.base import Solver

_SCANS = {"parallel-beam": "parallel", "fan-beam": "fan"}
_SCANS_3D = {"cone-beam": "cone", "parallel-beam-3d": "parallel3d"}


@dataclass(frozen=True)
class Measured:
    """Measurements of a scene and the known facts about them.

    Attributes:
        y: measurements, ``(1, *operator.range_shape)``.
        operator: forward operator.
        noise_std: standard deviation of the noise in ``y``; None if it is unknown.
        truth: image from which ``y`` was simulated, or the reference in the data.
        segmentation: labels in the data.
        is_photograph: whether values run from 0 to 1.
        grid: grid of the voxels of a volume; None for pictures.
    """

    y: Tensor
    operator: Operator
    noise_std: float | None
    truth: Tensor | None
    segmentation: Tensor | None
    is_photograph: bool
    grid: Grid | None = None


def read(file: SceneFile, source: Source, geometry: ScanGeometry | None = None) -> Measurement:
    """Read the item of a data set that a table of the scene names."""
    opened = open_source(file, source, geometry)
    if not -len(opened) <= source.item < len(opened):
        raise InputError(
            f"{file.path}: item {source.item} of {source.dataset or source.path} is asked for, and "
            f"it has {len(opened)}, counted from 0"
        )
    if "item" not in source.model_fields_set:
        where = source.dataset or source.path
        report_unused_pages(opened, where, f"choose one with item = ... in {file.path}")
    return opened[source.item]


def path_of(file: SceneFile, source: Source) -> Path:
    """Return the path of the data set that a table of the scene names."""
    if source.dataset is not None:
        path, given = datasets.find_file(source.dataset, source.file), source.file
        # Either a file of the data set, or the path that the scene gives.
        if given is not None and given not in file.given and path == Path(given).expanduser():
            refuse_outside(file.path, given, path)
        return path
    assert source.path is not None
    return file.locate(source.path)


def open_source(
    file: SceneFile, source: Source, geometry: ScanGeometry | None = None
) -> datasets.DataSet:
    """Open the data set that a table of the scene names."""
    reader = source.reader and (match_name(source.reader, datasets.READERS) or source.reader)
    path = path_of(file, source)
    if source.dataset is not None:
        settings = shelves.find("datasets", source.dataset).read()
        reader = reader or settings.get("readers", {}).get(source.file, settings["reader"])
    if source.options:
        if reader is None:
            raise InputError(
                f"{file.path}: options are those of a reader; name it with reader = ..., "
                f"one of {', '.join(datasets.READERS)}"
            )
        if reader in datasets.SWEEP_READERS:
            raise InputError(
                f"{file.path}: the reader {reader!r} reads lidar sweeps, and no measurements of an "
                "image"
            )
        cls = datasets.READERS.get(reader) or lookup("readers", reader)
        taken = [p for p in inspect.signature(cls).parameters if p not in ("path", "geometry")]
        for key in source.options:
            if key not in taken:
                raise InputError(
                    f"{file.path}: the reader {reader!r} has no option {key!r}; it has "
                    f"{', '.join(taken) or 'none'}"
                )
        return cls(path, geometry, **source.options)
    return datasets.open_measurements(path, geometry, reader=reader)


def measure(file: SceneFile) -> Measured:
    """Read the measurements of a scene, or simulate them."""
    wanted = file.scene.measurements
    if wanted.simulate is not None:
        return _simulate(file)
    item = read(file, wanted, geometry_of(file) or _scan_of_operator(file))
    y, geometry = item.y, item.geometry
    if wanted.crop is not None:
        if geometry is not None:
            raise InputError(
                f"{file.path}: a scan is not cropped; choose its views with views = {{ start, stop, step }}"
            )
        y = _crop(y, wanted.crop, f"{file.path}: [measurements.crop]")
    operator = file.scene.operator
    grid = (
        geometry.grid()
        if isinstance(geometry, Geometry3D)
        else item.meta.get("grid")
        if y.ndim == 5
        else None
    )
    if geometry is not None and (
        operator is None or operator.name is None or operator.name in _SCANS_3D
    ):
        if operator is not None and operator.name is None:
            geometry = _change(geometry, operator.settings, f"{file.path}: [operator]")
        if wanted.views is not None:
            chosen = slice(wanted.views.start, wanted.views.stop, wanted.views.step)
            geometry, y = geometry.with_views(chosen), y[:, :, chosen]
        if wanted.beam_hardening is not None:
            y = BeamHardening(
                tuple(wanted.beam_hardening.coefficients), wanted.beam_hardening.largest
            ).apply(y)
        built: Operator = geometry.operator()
    else:
        if wanted.beam_hardening is not None:
            raise InputError(
                f"{file.path}: beam hardening is corrected in a sinogram whose geometry is known"
            )
        if wanted.views is not None:
            raise InputError(f"{file.path}: views are chosen of a sinogram whose geometry is known")
        if operator is None or operator.name is None:
            raise InputError(
                f"{file.path}: the measurements do not say how they were made; add [operator] with "
                "a name, or the geometry of the scan"
            )
        built = _operator(file, y, item.meta.get("pixel_size"))
    noise_std = wanted.noise_std if wanted.noise_std is not None else item.noise_std
    if isinstance(geometry, Geometry3D):
        grid = geometry.grid()  # after the changes of [operator]
    return Measured(
        y,
        built,
        noise_std,
        item.reference,
        item.segmentation,
        geometry is None and "black" in item.meta["units"],
        grid,
    )


def _simulate(file: SceneFile) -> Measured:
    from invtoolbox.operators.noise import Gaussian, RelativeGaussian, simulate

    wanted = file.scene.measurements.simulate
    assert wanted is not None
    operator = file.scene.operator
    if operator is None or operator.name is None:
        raise InputError(f"{file.path}: a simulation needs an operator; add [operator] with a name")
    item = read(file, wanted)
    truth = (
        item.y
        if wanted.crop is None
        else _crop(item.y, wanted.crop, f"{file.path}: [measurements.simulate.crop]")
    )
    built = _operator(file, truth, item.meta.get("pixel_size"), item.meta.get("voxel_size"))
    noise = (
        Gaussian(wanted.noise_std)
        if wanted.noise_std is not None
        else RelativeGaussian(wanted.relative_noise or 0.0)
    )
    clean = built(truth)
    y = simulate(built, truth, noise, wanted.seed)
    noise_std = (
        wanted.noise_std
        if wanted.noise_std is not None
        else float((y - clean).square().mean().sqrt())
    )
    grid = item.meta.get("grid") if truth.ndim == 5 else None
    if truth.ndim == 5 and grid is None:
        grid = Grid(getattr(built, "voxel_size", (1.0, 1.0, 1.0)))
    return Measured(
        y, built, noise_std or None, truth, item.segmentation, "black" in item.meta["units"], grid
    )


def _operator(file: SceneFile, image: Tensor, pixel_size: Any, voxel_size: Any = None) -> Operator:
    """Return the operator of the scene.

    It takes images like ``image`` unless its settings give another shape.
    """
    table = file.scene.operator
    assert table is not None and table.name is not None
    name, settings = table.name, dict(table.settings)
    rows, columns = image.shape[-2:]
    if name in _SCANS:
        fields: dict[str, Any] = {"kind": _SCANS[name], "image_shape": [rows, columns]}
        if pixel_size is not None:
            if abs(pixel_size[0] - pixel_size[1]) > 1e-6 * pixel_size[0]:
                raise InputError(
                    f"{file.path}: pixels of {pixel_size[0]:g} by {pixel_size[1]:g} are not "
                    "square; give pixel_size"
                )
            fields["pixel_size"] = pixel_size[0]
        return _in_table(
            lambda: geometry_from_mapping({**fields, **settings}).operator(),
            f"{file.path}: [operator]",
        )
    if name in _SCANS_3D:
        if image.ndim != 5:
            raise InputError(
                f"{file.path}: {name} takes a volume, and the data are {tuple(image.shape[1:])}; "
                "read all slices as one item "
                'with options = { items = "volume" } and the reader\'s name'
            )
        fields = {"volume_shape": list(image.shape[-3:])}
        if voxel_size is not None:
            fields["voxel_size"] = list(voxel_size)
        return _scan_3d(file, {**fields, **settings}, name).operator()
    for key, value in settings.items():
        if isinstance(value, dict):
            settings[key] = _array(file, key, value, (rows, columns))
    taken = inspect.signature(lookup("operators", name)).parameters
    for shape in ("image_shape", "shape"):
        if shape in taken and shape not in settings:
            # A blur treats all channels alike, so it is built for one.
            settings[shape] = (1, *image.shape[2:]) if name == "blur" else tuple(image.shape[1:])
    built = _in_table(lambda: build("operators", name, settings), f"{file.path}: [operator]")
    if not isinstance(built, Operator):
        raise InputError(
            f"{file.path}: the plug-in {name!r} gave a {type(built).__name__}, not an operator"
        )
    return built


def _scan_of_operator(file: SceneFile) -> ScanGeometry | None:
    """Return the geometry in [operator] if it is a 3D scan of measured projections."""
    operator = file.scene.operator
    if operator is None or operator.name not in _SCANS_3D:
        return None
    return _scan_3d(file, operator.settings, operator.name)


def _scan_3d(file: SceneFile, fields: Mapping[str, Any], name: str) -> ScanGeometry:
    return _in_table(
        lambda: geometry_from_mapping({"kind": _SCANS_3D[name], **fields}, file.path.parent),
        f"{file.path}: [operator]",
    )


def _array(file: SceneFile, key: str, table: dict[str, Any], shape: tuple[int, int]) -> Tensor:
    """Return an array that is a setting: a Gaussian, a random mask, or the content of a file."""
    where = f"{file.path}: operator.{key}"
    if set(table) == {"gaussian"}:
        return gaussian_kernel(table["gaussian"], where)
    if set(table) <= {"keep", "seed"} and "keep" in table:
        keep = table["keep"]
        if not isinstance(keep, (int, float)) or not 0 < keep <= 1:
            raise InputError(
                f"{where}: keep is the share of pixels that are known, above 0 and at most 1, got "
                f"{keep!r}"
            )
        generator = torch.Generator().manual_seed(int(table.get("seed", 0)))
        return torch.rand(shape, generator=generator) < keep
    if "path" not in table and "dataset" not in table:
        raise InputError(
            f"{where} is {{ path = ... }}, {{ dataset = ..., file = ..., item = ... }}, {{ gaussian = width }} or "
            f"{{ keep = share, seed = 0 }}, got {table}"
        )
    known = [*Source.model_fields]
    for name in table:
        if name not in known:
            raise InputError(f"{where} has no key {name!r}; known: {', '.join(known)}")
    return read(file, Source(**table)).y[0, 0]


def gaussian_kernel(width: Any, where: str) -> Tensor:
    """Return a Gaussian kernel with the sum 1, cut off at four standard deviations.

    Args:
        width: standard deviation, pixels.
        where: place that the width was written in, the beginning of the error message.

    >>> gaussian_kernel(1.0, "kernel").shape
    torch.Size([9, 9])
    """
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width < 1000:
        raise InputError(
            f"{where}: the width of a Gaussian is a positive number of pixels, got {width!r}"
        )
    reach = max(1, round(4 * width))
    profile = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / width) ** 2)
    kernel = torch.outer(profile, profile)
    return (kernel / kernel.sum()).float()


def data_term(file: SceneFile, noise_std: float | None) -> DataTerm:
    """Return the data term of a scene.

    It gets the noise level if it takes one and the scene gives none.
    """
    table = file.scene.data_term
    settings = dict(table.settings)
    if (
        noise_std is not None
        and "noise_std" in inspect.signature(lookup("data_terms", table.name)).parameters
    ):
        settings.setdefault("noise_std", noise_std)
    term = _in_table(lambda: build("data_terms", table.name, settings), f"{file.path}: [data_term]")
    assert isinstance(term, DataTerm)
    return term


def prior(file: SceneFile) -> Prior | None:
    """Return the sum of the priors of a scene."""
    return prior_of(file.scene.prior, file)


def prior_of(tables: Sequence[PriorTable], file: CheckedScene[Any]) -> Prior | None:
    """Return the sum of the priors that tables of a scene file describe."""
    total: Prior | None = None
    for table in tables:
        settings = dict(table.settings)
        if isinstance(settings.get("network"), dict):
            weights = settings["network"].get("weights")
            settings["network"] = build_network(
                settings["network"], file.locate(weights) if weights else None
            )

        def make(name: str = table.name, settings: dict[str, Any] = settings) -> Any:
            return (
                load_prior(name, settings)
                if shelves.has_prior(name)
                else build("priors", name, settings)
            )

        built = _in_table(make, f"{file.path}: [prior]")
        if not isinstance(built, Prior):
            raise InputError(
                f"{file.path}: the plug-in {table.name!r} gave a {type(built).__name__}, not a "
                "prior"
            )
        part = table.weight * built if table.weight is not None else built
        total = part if total is None else total + part
    return total


def solver(file: SceneFile) -> Solver | None:
    """Return the solver of a scene with its settings, without the budgets."""
    return solver_of(file.scene.solver, file)


def solver_of(table: SolverTable, file: CheckedScene[Any]) -> Solver | None:
    """Return the solver that a table of a scene file describes."""
    if table.name is None:
        return None
    name, settings = table.name, dict(table.settings)

    def make() -> Any:
        return (
            load_preset(name, settings)
            if shelves.has_preset(name)
            else build("solvers", name, settings)
        )

    built = _in_table(make, f"{file.path}: [solver]")
    assert isinstance(built, Solver)
    return built


def rule(file: SceneFile) -> float | str | WeightRule:
    """Return the weight of the priors, or the rule for it."""
    table = file.scene.regularization
    if table.weight is not None:
        return table.weight
    if table.rule is None or table.rule == "auto":
        return "auto"
    chosen = _in_table(lambda: rule_named(str(table.rule)), f"{file.path}: [regularization]")
    taken = [field.name for field in dataclasses.fields(chosen)]
    for key in table.settings:
        if key not in taken:
            raise InputError(
                f"{file.path}: the rule {table.rule!r} has no setting {key!r}; it has "
                f"{', '.join(taken)}"
            )
    return dataclasses.replace(chosen, **table.settings)


def geometry_of(file: SceneFile) -> ScanGeometry | None:
    """Return the geometry that a scene gives for its measurements."""
    given = file.scene.measurements.geometry
    if given is None:
        return None
    if isinstance(given, str):
        return read_geometry(file.locate(given))
    return _in_table(
        lambda: geometry_from_mapping(given, file.path.parent),
        f"{file.path}: [measurements.geometry]",
    )


def _change(geometry: ScanGeometry, settings: Mapping[str, Any], where: str) -> ScanGeometry:
    fields = dataclasses.fields(geometry)  # type: ignore[arg-type]
    known = [field.name for field in fields if field.name not in ("angles", "vectors")]
    for key in settings:
        if key not in known:
            raise InputError(
                f"{where} changes the geometry of the data, which has no field {key!r}; known: "
                f"{', '.join(known)}"
            )
    changed: ScanGeometry = _in_table(lambda: dataclasses.replace(geometry, **settings), where)  # type: ignore[type-var]
    return changed


def _crop(y: Tensor, crop: Crop, where: str) -> Tensor:
    rows, columns = y.shape[-2:]
    if crop.top + crop.rows > rows or crop.left + crop.columns > columns:
        raise InputError(
            f"{where}: rows {crop.top} to {crop.top + crop.rows} and columns {crop.left} to "
            f"{crop.left + crop.columns} do not lie in a picture of {rows} by {columns}"
        )
    return y[
        ..., crop.top : crop.top + crop.rows, crop.left : crop.left + crop.columns
    ].contiguous()


def _in_table(make: Any, where: str) -> Any:
    """Return the result of ``make``; its errors begin with the place in the scene file."""
    try:
        return make()
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
