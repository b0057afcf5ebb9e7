"""Build the parts of a checked scene: measurements, operator, data term, priors, solver, rule."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox import datasets
from invtoolbox.catalogue import shelves
from invtoolbox.catalogue.documents import CheckedScene, refuse_outside
from invtoolbox.catalogue.presets import build_network, prior_named, priors_named, solver_named
from invtoolbox.catalogue.registry import build, lookup
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.datasets.measurement import Measurement
from invtoolbox.datasets.scans.geometry_3d import Geometry3D
from invtoolbox.datasets.scans.geometry_file import geometry_from_mapping, read_geometry
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.volumes.pictures import Original
from invtoolbox.errors import InputError, check_name, match_name, nearest, suggest
from invtoolbox.geometry.grids import Grid
from invtoolbox.jobs.images.decisions.default_prior import DEFAULT, SCANS
from invtoolbox.jobs.images.kernels import SHAPES
from invtoolbox.jobs.images.masks import known_by_mask, known_by_picture, refuse_inverted
from invtoolbox.jobs.images.tables import Crop, SceneFile, Source
from invtoolbox.jobs.images.tables import Prior as PriorTable
from invtoolbox.jobs.images.tables import Solver as SolverTable
from invtoolbox.measurements import report_unused_pages
from invtoolbox.operators.base import Operator
from invtoolbox.operators.imaging.kernel_support import crop_kernel
from invtoolbox.operators.imaging.sampling import Inpainting
from invtoolbox.parameter_choice import rule_named
from invtoolbox.parameter_choice.base import WeightRule
from invtoolbox.priors.base import Prior
from invtoolbox.processing.attenuation import BeamHardening
from invtoolbox.processing.phase import retrieve_phase
from invtoolbox.processing.stripes import remove_stripes
from invtoolbox.solvers.base import Solver

_SCANS = {"parallel-beam": "parallel", "fan-beam": "fan"}
_SCANS_3D = {"cone-beam": "cone", "parallel-beam-3d": "parallel3d"}
#: Fields of 3D geometries by their counterparts in 2D, and back.
_COUNTERPARTS = {
    "image_shape": "volume_shape",
    "pixel_size": "voxel_size",
    "volume_shape": "image_shape",
    "voxel_size": "pixel_size",
}


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
        original: file of a measured picture, whose form the result takes; None for other data.
        grid: grid of the voxels of a volume; None for pictures.
        notes: notes for a reader of the result.
    """

    y: Tensor
    operator: Operator
    noise_std: float | None
    truth: Tensor | None
    segmentation: Tensor | None
    is_photograph: bool
    original: Original | None = None
    grid: Grid | None = None
    notes: tuple[str, ...] = ()


def read(
    file: SceneFile,
    source: Source,
    table: str,
    geometry: ScanGeometry | None = None,
    is_volume: bool = False,
) -> Measurement:
    """Read the item of a data set that a table of the scene names.

    Args:
        file: the scene.
        source: content of the table.
        table: dotted name of the table, for errors.
        geometry: geometry of the scan.
        is_volume: whether all items together are one volume, if they are slices.
    """
    opened, name = open_source(file, source, geometry), source.dataset or source.path
    if is_volume and opened[0].y.ndim == 4:
        if isinstance(opened, datasets.Volume):
            return opened.volume()
        slices = torch.stack([opened[k].y[0, 0] for k in range(len(opened))])
        return dataclasses.replace(opened[0], y=slices[None, None])
    if not -len(opened) <= source.item < len(opened):
        raise InputError(
            f"{file.path}: {table}.item {source.item}: {name} has {len(opened)} items, counted from 0"
        )
    if "item" not in source.model_fields_set:
        remedy = f"choose one by the key {table}.item, or with --item"
        report_unused_pages(opened, name, remedy)
    return opened[source.item]


def path_of(file: SceneFile, source: Source) -> Path:
    """Return the path of the data set that a table of the scene names."""
    if source.dataset is not None:
        path, name = datasets.find_file(source.dataset, source.file), source.file
        # Either a file of the data set, or the path that the scene gives.
        if name is not None and name not in file.given and path == Path(name).expanduser():
            refuse_outside(file.path, name, path)
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
        _check_keys(f"{file.path}: the reader {reader!r} has no option", source.options, taken)
        return cls(path, geometry, **source.options)
    return datasets.open_measurements(path, geometry, reader=reader)


def measure(file: SceneFile) -> Measured:
    """Read the measurements of a scene, or simulate them."""
    table, operator = file.scene.measurements, file.scene.operator
    if table.simulate is not None:
        return _simulate(file)
    name = None if operator is None else operator.name
    is_scan = name is None or name in _SCANS_3D
    scan = geometry_of(file) or _scan_of_operator(file)
    item = read(file, table, "measurements", scan, is_volume=name == "blur-3d")
    y, geometry, noise_std = item.y, item.geometry, item.noise_std
    notes: tuple[str, ...] = tuple(item.meta.get("notes", ()))
    if is_scan and item.meta.get("units") == "HU":
        raise InputError(
            f"{table.path or table.dataset} holds an image, not a sinogram, so there is nothing to "
            "reconstruct; `invtoolbox run ct-dicom` simulates a scan of such an image"
        )
    if table.crop is not None:
        if geometry is not None:
            raise InputError(
                f"{file.path}: a scan is not cropped; choose its views with views = {{ start, stop, step }}"
            )
        y = _crop(y, table.crop, f"{file.path}: [measurements.crop]")
    if isinstance(geometry, ScanGeometry) and is_scan:
        if operator is not None and name is None:
            geometry = change(geometry, operator.settings, file.path)
        if table.views is not None:
            chosen = slice(table.views.start, table.views.stop, table.views.step)
            if not range(geometry.view_count)[chosen]:
                raise InputError(
                    f"{file.path}: measurements.views leaves none of {geometry.view_count} views"
                )
            geometry, y = geometry.with_views(chosen), y[:, :, chosen]
        if table.stripes:
            y, dead = remove_stripes(y)
            notes += (f"stripes were removed, {int(dead.sum())} cells interpolated",)
        if table.phase is not None:
            y, noise_std = _filter_phase(file, y, geometry), None
        if table.beam_hardening is not None:
            y = BeamHardening(
                tuple(table.beam_hardening.coefficients), table.beam_hardening.largest
            ).apply(y)
        if table.center is not None:
            column = _axis_column(file, geometry, y)
            geometry = geometry.with_axis_column(column)
            if table.center == "auto":
                notes += (f"the axis of rotation is at column {column:.2f}",)
        built: Operator = geometry.operator()
    else:
        for key in ("beam_hardening", "stripes", "phase", "metal", "views", "center"):
            if getattr(table, key) not in (None, False):
                raise InputError(
                    f"{file.path}: measurements.{key} is for a scan; it has a meaning in a sinogram "
                    "whose geometry is known"
                )
        if isinstance(geometry, datasets.KSpace):
            raise InputError(
                f"{table.path or table.dataset} holds k-space of an MRI scanner, whose images are complex; "
                "reconstruct it by `invtoolbox mri`, or by a scene with [kspace]"
            )
        if name is None:
            raise InputError(
                f"{file.path}: the measurements do not say how they were made; give "
                "measurements.geometry, a geometry file (`invtoolbox ct --help` shows one), or add "
                "[operator] with a name"
            )
        built = _operator(file, item, y)
        if isinstance(built, Inpainting):
            y = torch.where(built.sampled > 0, y, 0)  # unknown pixels may hold anything, also NaN
    grid = item.meta.get("grid") if y.ndim == 5 else None
    return Measured(
        y,
        built,
        table.noise_std if table.noise_std is not None else noise_std,
        item.reference,
        item.segmentation,
        is_photograph=geometry is None and "black" in item.meta["units"],
        original=item.meta.get("original") if geometry is None and table.crop is None else None,
        grid=geometry.grid() if isinstance(geometry, Geometry3D) else grid,
        notes=notes,
    )


def _filter_phase(file: SceneFile, y: Tensor, geometry: ScanGeometry) -> Tensor:
    """Return line integrals whose fringes the filter of Paganin has removed."""
    table = file.scene.measurements.phase
    assert table is not None
    numbers = (table.delta_beta, table.energy, table.distance)
    filtered: Measurement = _in_table(
        f"{file.path}: [measurements.phase]", retrieve_phase, Measurement(y, geometry), *numbers
    )
    return filtered.y


def _axis_column(file: SceneFile, geometry: ScanGeometry, y: Tensor) -> float:
    """Return the detector column of the axis of rotation, as it is given or estimated."""
    center = file.scene.measurements.center
    if center == "auto":
        is_tilted = getattr(geometry, "tilt", 0.0) != 0
        if not geometry.kind.startswith("parallel") or not geometry.angles or is_tilted:
            raise InputError(
                f"{file.path}: measurements.center auto is for parallel beams across the axis; give "
                "the column"
            )
        # Of a panel, the row in the middle.
        sinogram = y[0, 0] if geometry.axes == 2 else y[0, 0, :, y.shape[3] // 2]
        return datasets.center_of_rotation(sinogram.numpy(), geometry.angles)
    column = float(center or 0.0)
    if not 0 <= column <= geometry.columns - 1:
        raise InputError(
            f"{file.path}: measurements.center {column:g}: the detector has columns 0 to "
            f"{geometry.columns - 1}"
        )
    return column


def _simulate(file: SceneFile) -> Measured:
    from invtoolbox.operators.noise import Gaussian, RelativeGaussian, simulate

    table, operator = file.scene.measurements.simulate, file.scene.operator
    assert table is not None
    if operator is None or operator.name is None:
        raise InputError(f"{file.path}: a simulation needs an operator; add [operator] with a name")
    item = read(file, table, "measurements.simulate")
    truth = (
        item.y
        if table.crop is None
        else _crop(item.y, table.crop, f"{file.path}: [measurements.simulate.crop]")
    )
    built = _operator(file, item, truth, is_measured=False)
    noise = (
        Gaussian(table.noise_std)
        if table.noise_std is not None
        else RelativeGaussian(table.relative_noise or 0.0)
    )
    clean = built(truth)
    y = simulate(built, truth, noise, table.seed)
    noise_std = (
        table.noise_std
        if table.noise_std is not None
        else float((y - clean).square().mean().sqrt())
    )
    grid = item.meta.get("grid") if truth.ndim == 5 else None
    if truth.ndim == 5 and grid is None:
        grid = Grid(getattr(built, "voxel_size", (1.0, 1.0, 1.0)))
    return Measured(
        y,
        built,
        noise_std or None,
        truth,
        item.segmentation,
        is_photograph="black" in item.meta["units"],
        grid=grid,
    )


def _operator(
    file: SceneFile, item: Measurement, image: Tensor, is_measured: bool = True
) -> Operator:
    """Return the operator of the scene.

    It takes images like ``image``, a part of an item, unless its settings give another shape, or
    ``image`` was measured and is smaller than the image.
    """
    table = file.scene.operator
    assert table is not None and table.name is not None
    name, settings = table.name, dict(table.settings)
    pixel_size, voxel_size = item.meta.get("pixel_size"), item.meta.get("voxel_size")
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
            f"{file.path}: [operator]",
            lambda: geometry_from_mapping(_located(file, {**fields, **settings})).operator(),
        )
    if name in _SCANS_3D:
        if image.ndim != 5:
            raise InputError(
                f"{file.path}: {name} takes a volume, and the data are {tuple(image.shape[1:])}; "
                "read all slices as one item "
                'with options = { items = "volume" } and the reader\'s name'
            )
        fields = {"volume_shape": list(image.shape[-3:])}
        if voxel_size is not None and not is_measured:
            fields["voxel_size"] = list(voxel_size)
        return _scan_3d(file, {**fields, **settings}, name).operator()
    original = item.meta.get("original")
    for key, value in settings.items():
        if value == {"missing": "transparent"}:
            settings[key] = known_by_picture(original, str(item.meta.get("source")))
        elif isinstance(value, dict):
            settings[key] = _array(file, key, value, image)
            if "missing" in value and original is not None:  # NaN is missing in any case
                settings[key] &= torch.as_tensor(original.known(alpha=False))
    space, kernel = list(image.shape[2:]), settings.get("kernel")
    if is_measured and isinstance(kernel, Tensor) and settings.get("boundary") == "valid":
        # The boundary "valid" keeps n - k + 1 of n pixels for a kernel of k pixels.
        if any(k > n for n, k in zip(space, kernel.shape)):
            raise InputError(
                f"the kernel of {' x '.join(map(str, kernel.shape))} pixels is larger than the image "
                f"of {' x '.join(map(str, space))} that was blurred; give a smaller one"
            )
        space = [n + k - 1 for n, k in zip(space, kernel.shape)]
    if is_measured and name == "downsampling" and settings.get("factor", 0) > 0:
        space = [n * settings["factor"] for n in space]
    # A blur treats all channels alike, so it is built for one.
    image_shape = (1 if name == "blur" else image.shape[1], *space)
    shapes = {"image_shape": image_shape, "shape": image_shape, "volume_shape": tuple(space)}
    taken = inspect.signature(lookup("operators", name)).parameters
    settings = {key: shapes[key] for key in shapes if key in taken} | settings
    built = _in_table(f"{file.path}: [operator]", build, "operators", name, settings)
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
    fields = _located(file, {"kind": _SCANS_3D[name], **fields})
    return _in_table(f"{file.path}: [operator]", geometry_from_mapping, fields)


def _located(file: SceneFile, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a geometry with the whole paths of the files that they name."""
    located, angles = dict(fields), fields.get("angles")
    if isinstance(fields.get("vectors"), str):
        located["vectors"] = str(file.locate(fields["vectors"]).absolute())
    if isinstance(angles, Mapping) and isinstance(angles.get("file"), str):
        located["angles"] = {**angles, "file": str(file.locate(angles["file"]).absolute())}
    return located


def _array(file: SceneFile, key: str, table: dict[str, Any], image: Tensor) -> Tensor:
    """Return an array that is a setting: a kernel of a shape, a random mask, or a file's content.

    A kernel of several channels is refused unless they are equal. With ``normalized = true`` the
    content of a file is divided by its sum, and nearly empty borders of a kernel are cropped.
    """
    where = f"{file.path}: operator.{key}"
    if len(table) == 1 and (shape := next(iter(table))) in SHAPES:
        return SHAPES[shape](table[shape], where)
    if set(table) <= {"keep", "seed"} and "keep" in table:
        keep = table["keep"]
        if not isinstance(keep, (int, float)) or not 0 < keep <= 1:
            raise InputError(
                f"{where}: keep is the share of pixels that are known, above 0 and at most 1, got "
                f"{keep!r}"
            )
        generator = torch.Generator().manual_seed(int(table.get("seed", 0)))
        return torch.rand(image.shape[-2:], generator=generator) < keep
    if "path" not in table and "dataset" not in table:
        raise InputError(
            f"{where} is {{ path = ... }}, {{ dataset = ..., file = ..., item = ... }}, {{ gaussian = width }}, "
            "{ disc = radius }, { motion = [length, angle] }, { keep = share, seed = 0 } or, for missing "
            f"pixels, {{ path = ..., missing = 'white' }}, got {table}"
        )
    _check_keys(f"{where} has no key", table, [*Source.model_fields, "normalized", "missing"])
    source = Source(**{name: table[name] for name in table if name in Source.model_fields})
    is_volume = key == "kernel" and image.ndim == 5
    array = read(file, source, f"operator.{key}", is_volume=is_volume).y[0]
    if "missing" in table:
        check_name(f"color of missing pixels in {where}", table["missing"], ("white",))
        place = str(source.path or source.dataset)
        is_known = known_by_mask(array, tuple(image.shape[2:]), place)
        return refuse_inverted(is_known, image, place)
    if key == "kernel" and not bool((array == array[:1]).all()):
        raise InputError(
            f"the kernel {source.path or source.dataset} has {len(array)} channels that differ, and "
            "a kernel is one channel; save it as a grey picture, or deblur every channel by "
            "itself, with a kernel of its own"
        )
    if not table.get("normalized"):
        return array[0]
    kernel = array.mean(0).double()
    total = float(kernel.sum())
    if not bool((kernel != 0).any()) or not abs(total) > 1e-12:
        raise InputError(
            f"the kernel {source.path or source.dataset} sums to {total:g}, so it blurs everything "
            "to black; give one that is positive somewhere"
        )
    kernel = (kernel / total).float()
    operator = file.scene.operator
    # The size of a kernel with the boundary "valid" is that of the border that was not measured.
    is_valid = operator is not None and operator.settings.get("boundary") == "valid"
    return kernel if is_valid or key != "kernel" else crop_kernel(kernel)


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
    return _in_table(f"{file.path}: [data_term]", build, "data_terms", table.name, settings)


def is_default(tables: Sequence[PriorTable]) -> bool:
    """Return whether tables ask for the default prior alone, which depends on the measurements."""
    return [(t.name, t.weight, t.settings) for t in tables] == [(DEFAULT, None, {})]


def scan_prior_of(file: SceneFile) -> Prior | None:
    """Return the priors of a scan whose measurements are not known as a whole."""
    return priors_named(SCANS) if is_default(file.scene.prior) else prior_of(file.scene.prior, file)


def prior_of(tables: Sequence[PriorTable], file: CheckedScene[Any]) -> Prior | None:
    """Return the sum of the priors that tables of a scene file describe."""
    priors: list[Prior] = []
    if any(table.name == DEFAULT for table in tables):
        raise InputError(
            f"{file.path}: prior 'default' is for images, and stands alone without weight and settings; "
            "name a prior"
        )
    for table in tables:
        settings = dict(table.settings)
        if isinstance(settings.get("network"), dict):
            weights = settings["network"].get("weights")
            settings["network"] = build_network(
                settings["network"], file.locate(weights) if weights else None
            )
        built: Prior = _in_table(f"{file.path}: [prior]", prior_named, table.name, settings)
        priors.append(table.weight * built if table.weight is not None else built)
    return sum(priors[1:], priors[0]) if priors else None


def solver_of(table: SolverTable, file: CheckedScene[Any]) -> Solver | None:
    """Return the solver that a table of a scene file describes, without the budgets."""
    if table.name is None:
        return None
    return _in_table(f"{file.path}: [solver]", solver_named, table.name, table.settings)


def rule(file: SceneFile) -> float | str | WeightRule:
    """Return the weight of the priors, or the rule for it."""
    table = file.scene.regularization
    if table.weight is not None:
        return table.weight
    if table.rule is None or table.rule == "auto":
        return "auto"
    usual = _in_table(f"{file.path}: [regularization]", rule_named, table.rule)
    names = [field.name for field in dataclasses.fields(usual)]
    _check_keys(f"{file.path}: the rule {table.rule!r} has no setting", table.settings, names)
    return dataclasses.replace(usual, **table.settings)


def geometry_of(file: SceneFile) -> ScanGeometry | None:
    """Return the geometry that a scene gives for its measurements."""
    table = file.scene.measurements.geometry
    if table is None:
        return None
    if isinstance(table, str):
        return read_geometry(file.locate(table))
    where = f"{file.path}: [measurements.geometry]"
    return _in_table(where, geometry_from_mapping, _located(file, table))


def change(geometry: ScanGeometry, settings: Mapping[str, Any], path: Path) -> ScanGeometry:
    """Return the geometry in the data with the fields of ``[operator]`` in place of its own.

    Args:
        geometry: the geometry.
        settings: fields and their values.
        path: path of the scene, for error messages.
    """
    fields = dataclasses.fields(geometry)  # type: ignore[arg-type]
    names = [field.name for field in fields if field.name not in ("angles", "vectors")]
    for key in settings:
        counterpart = _COUNTERPARTS.get(key)
        remedy = f", give operator.{counterpart}" if counterpart in names else ""
        place = f"{path}: operator.{key} changes the geometry of the data{remedy}: it has no field"
        _check_keys(place, [key], names)
    return _in_table(
        f"{path}: [operator]",
        lambda: dataclasses.replace(geometry, **settings),  # type: ignore[type-var]
    )


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


def _check_keys(complaint: str, keys: Iterable[str], names: Iterable[str]) -> None:
    """Refuse keys that are none of the names; the sentence begins with the complaint."""
    for key in keys:
        if key not in names:
            hint = suggest(nearest(key, names, 2))
            raise InputError(f"{complaint} {key!r}{hint} it has {', '.join(names) or 'none'}")


def _in_table(where: str, make: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of ``make``; its errors begin with the place in the scene file."""
    try:
        return make(*arguments)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
