"""Shared part of `ct` and `deblur`: options, one solve or a study of many, and results."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.core.kernel_cache import require_writable
from invtoolbox.errors import InputError
from invtoolbox.jobs import options

if TYPE_CHECKING:
    from torch import Tensor

    from invtoolbox.datasets.volumes.volume import Grid
    from invtoolbox.priors.base import Prior
    from invtoolbox.problem import Problem
    from invtoolbox.solution import Solution

_ARRAYS = (".h5", ".hdf5", ".npy")
#: Suffixes of an image.
FORMATS = (".tif", ".tiff", ".png", *_ARRAYS)
#: Suffixes of a volume; an output without a suffix is a folder with one TIFF file per slice.
VOLUME_FORMATS = (".tif", ".tiff", ".nii", ".nii.gz", ".mha", ".mhd", ".raw", *_ARRAYS)
# Options that do not change what is computed.
_FREE = (
    "command",
    "output",
    "overwrite",
    "resume",
    "quiet",
    "workers",
    "cluster",
    "threads",
    "items",
    "item",
    "report",
    "reference",
)


def add_options(parser: argparse.ArgumentParser, prior: str, output: str) -> None:
    """Add the options of a reconstruction.

    Args:
        parser: parser of the command.
        prior: names of the default priors.
        output: default output, in words.
    """
    method = parser.add_argument_group("method")
    method.add_argument(
        "--prior",
        default=prior,
        metavar="NAMES",
        help="names of priors, separated by commas; see `invtoolbox list priors` (default: "
        f"{prior}; none for least squares)",
    )
    method.add_argument(
        "--solver",
        metavar="NAME",
        help="name of a solver; see `invtoolbox list solvers` (default: a solver that fits the "
        "problem)",
    )
    method.add_argument(
        "--regularization",
        default="auto",
        metavar="WEIGHT",
        help="weight of the priors, or name of a rule for it (default: validation, which predicts "
        "measurements that were held out)",
    )
    method.add_argument(
        "--noise-std",
        type=float,
        metavar="STD",
        help="standard deviation of the noise, in the units of the measurements (default: "
        "estimated from them)",
    )
    method.add_argument(
        "--max-iterations",
        type=int,
        metavar="N",
        help="maximum number of iterations (default: the solver's own)",
    )
    method.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="maximum number of seconds; the current iterate is then the result",
    )
    method.add_argument("--device", metavar="DEVICE", help="cpu, cuda or cuda:1 (default: cpu)")
    results = parser.add_argument_group("results")
    results.add_argument(
        "--output", "-o", metavar="FILE", help=f"{', '.join(FORMATS)} (default: {output})"
    )
    results.add_argument(
        "--report", metavar="FILE", help="also write an HTML page with pictures and convergence"
    )
    results.add_argument(
        "--reference", metavar="FILE", help="true image, from which PSNR and SSIM are computed"
    )
    results.add_argument(
        "--resume",
        action="store_true",
        help="continue from the checkpoint of an interrupted run",
    )
    results.add_argument("--overwrite", action="store_true", help="replace existing files")
    options.add_quiet(results)


@dataclasses.dataclass(frozen=True)
class Paths:
    """Files that a job writes; they are checked before anything is computed."""

    output: Path
    report: Path | None
    checkpoint: Path


def choose_paths(arguments: argparse.Namespace, default: str, is_volume: bool = False) -> Paths:
    """Return the files that a job writes.

    Raises:
        InputError: a format that does not fit, a file that exists, a folder that does not exist, or
            a checkpoint of an interrupted run without ``--resume``.
    """
    output = Path(arguments.output or default)
    report = Path(arguments.report) if arguments.report else None
    checkpoint = output.with_name(output.name + ".checkpoint")
    _check_format(output, is_volume)
    for path in (output, report):
        if path is None:
            continue
        if path.exists() and not arguments.overwrite:
            raise InputError(f"{path} exists; give --overwrite to replace it, or another name")
        if not path.parent.is_dir():
            raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
        try:
            require_writable(path.parent)
        except OSError as error:
            raise InputError(
                f"{path}: the folder {path.parent} cannot be written "
                f"({error.strerror or error}); choose another"
            ) from error
    if checkpoint.exists() and not arguments.resume:
        if not arguments.overwrite:
            raise InputError(
                f"an interrupted run left {checkpoint}; give --resume to go on from it, or "
                "--overwrite to start anew"
            )
        checkpoint.unlink()
    return Paths(output, report, checkpoint)


def _check_format(output: Path, is_volume: bool) -> None:
    name = output.name.lower()
    suffix = ".nii.gz" if name.endswith(".nii.gz") else output.suffix.lower()
    if not is_volume:
        if suffix not in FORMATS:
            raise InputError(
                f"--output {output}: no format for the suffix {output.suffix!r}; use one of "
                f"{', '.join(FORMATS)}"
            )
        return
    choice = f"use one of {', '.join(VOLUME_FORMATS)}, or a folder for one TIFF file per slice"
    if suffix == ".png":
        raise InputError(
            f"--output {output}: a volume is not one picture; {choice} (--report shows the middle "
            "slice)"
        )
    if suffix and suffix not in VOLUME_FORMATS:
        raise InputError(
            f"--output {output}: no format of volumes for the suffix {output.suffix!r}; {choice}"
        )
    if suffix.startswith(".nii"):
        from invtoolbox.datasets.volumes.nifti import check_available

        check_available()


def sum_of_priors(names: str) -> Prior | None:
    """Return the sum of priors, given by names with commas between them; None for ``none``."""
    from invtoolbox.catalogue.presets import prior_named

    total: Prior | None = None
    for name in (n.strip() for n in names.split(",")):
        if name in ("", "none"):
            continue
        part = prior_named(name)
        total = part if total is None else total + part
    return total


def weight(text: str) -> float | str:
    """Return a number, or the name of a rule."""
    try:
        return float(text)
    except ValueError:
        return text


def solve(
    problem: Problem,
    arguments: argparse.Namespace,
    checkpoint: Any = None,
    progress: bool = False,
    start: Tensor | None = None,
) -> Solution:
    """Solve with the method of the options.

    Args:
        problem: the problem.
        arguments: parsed options of `add_options`.
        checkpoint: a `Checkpoint`.
        progress: whether to show a bar.
        start: initial guess.
    """
    import invtoolbox
    from invtoolbox.catalogue.presets import solver_named
    from invtoolbox.core.environment import device_named

    return invtoolbox.solve(
        problem,
        prior=sum_of_priors(arguments.prior),
        solver=solver_named(arguments.solver) if arguments.solver else None,
        regularization=weight(arguments.regularization),
        initial=start,
        max_iterations=arguments.max_iterations,
        time_limit=arguments.time_limit,
        device=device_named(arguments.device),
        checkpoint=checkpoint,
        progress=progress,
    )


def run(
    problem: Problem,
    arguments: argparse.Namespace,
    where: Paths,
    title: str,
    value_range: tuple[float, float] | None,
    start: Tensor | None = None,
    grid: Grid | None = None,
    summary: Callable[[Solution], str] = str,
    work: Callable[[], Solution] | None = None,
) -> int:
    """Solve one problem, write the picture or the volume and the report, and print a summary.

    Args:
        problem: the problem.
        arguments: parsed options of `add_options`.
        where: files to write.
        title: title of the report.
        value_range: values that become black and white in a PNG; the least and the greatest if
            None.
        start: initial guess.
        grid: grid of the voxels of a volume; None for pictures.
        summary: function that returns the first lines of the summary.
        work: function that solves the problem in place of `solve`, without a checkpoint.

    Returns:
        The exit code.
    """
    from invtoolbox.jobs.reports import report_divergence
    from invtoolbox.loop.checkpoint import Checkpoint

    reference = _reference(arguments, grid is not None)
    if reference is not None and tuple(reference.shape[1:]) != problem.image_shape:
        raise InputError(
            f"--reference {arguments.reference} has the shape {tuple(reference.shape[1:])}, and "
            f"the reconstruction {problem.image_shape}; give the true image of the same shape"
        )
    try:
        solution = (
            solve(problem, arguments, Checkpoint(where.checkpoint), not arguments.quiet, start)
            if work is None
            else work()
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; the checkpoint {where.checkpoint} stays: the same command with --resume "
            "goes on from it"
            if where.checkpoint.exists()
            else "stopped before the first iteration; nothing was written"
            if work is None
            else "stopped; nothing was written"
        ) from None
    lines = [summary(solution)]
    lines += _write(solution, arguments, where, title, value_range, reference, grid)
    where.checkpoint.unlink(missing_ok=True)
    if not arguments.quiet:
        print("\n".join(lines))
    return report_divergence(solution)


def run_many(arguments: argparse.Namespace, path: str, work: Callable[..., Any], count: int) -> int:
    """Do the items of a file.

    The output is a folder, or a volume that is made once all items are done.

    Args:
        arguments: parsed options of `add_options` and `options.add_study`.
        path: path of the data.
        work: function of the arguments and the number of an item.
        count: number of items in the data.

    Returns:
        The exit code.
    """
    from invtoolbox.core.content import digest
    from invtoolbox.jobs.reports import report_study
    from invtoolbox.jobs.study import run_study
    from invtoolbox.jobs.study.driver import Items, parse_items
    from invtoolbox.jobs.study.slices import stamp

    for option in ("report", "reference"):
        if getattr(arguments, option):
            raise InputError(f"--{option} is for one item; leave it out, or choose one with --item")
    source = Path(path).expanduser().resolve()
    output = Path(arguments.output or f"{source.name.split('.')[0]}_reconstruction")
    is_volume = output.name.lower().endswith(VOLUME_FORMATS)
    if not is_volume and output.suffix.lower() in (".png", ".jpg", ".jpeg"):
        raise InputError(
            f"--output {output}: many items go to a folder, or to a volume "
            f"({', '.join(VOLUME_FORMATS)})"
        )
    if is_volume and output.exists() and not arguments.overwrite:
        raise InputError(f"{output} exists; give --overwrite to replace it, or another name")
    folder = output.with_name(output.name + ".items") if is_volume else output
    chosen = parse_items(arguments.items or "all", count, path)
    description = {
        "work": digest(work, "work"),
        "settings": {k: value for k, value in sorted(vars(arguments).items()) if k not in _FREE},
        "data": str(source),
        "stamp": stamp(source),
    }
    items = Items([f"item-{k:04d}" for k in chosen], lambda n: (arguments, chosen[n]))
    study = run_study(
        work,
        items,
        folder,
        description,
        arguments.workers or 1,
        arguments.cluster,
        arguments.threads or 1,
        arguments.resume,
        arguments.overwrite,
        not arguments.quiet,
    )
    code = report_study(study, arguments.quiet)
    if is_volume and not study.failed:
        from invtoolbox import datasets

        written = datasets.write(output, study.volume(), overwrite=arguments.overwrite)
        shutil.rmtree(study.folder, ignore_errors=True)
        if not arguments.quiet:
            print(f"written: {written}")
    return code


def resolve_paths(arguments: argparse.Namespace, names: Sequence[str]) -> argparse.Namespace:
    """Return the options with absolute paths, which are the same in every process."""
    resolved = {
        name: str(Path(value).expanduser().resolve())
        for name in names
        if (value := getattr(arguments, name))
    }
    return argparse.Namespace(**{**vars(arguments), **resolved})


def _write(
    solution: Solution,
    arguments: argparse.Namespace,
    where: Paths,
    title: str,
    value_range: tuple[float, float] | None,
    reference: Tensor | None,
    grid: Grid | None,
) -> list[str]:
    """Write the result and the report, and return lines about them."""
    from invtoolbox import datasets
    from invtoolbox.plotting.report import measure, write_report

    x = solution.x.detach().cpu()
    datasets.remove_stale(where.output.parent, where.output.name)
    lines: list[str] = []
    written: Any
    if grid is not None:
        written = _write_volume(x, where.output, grid, arguments.overwrite)
    elif where.output.suffix.lower() == ".png":
        written = datasets.write_png(where.output, x[0], value_range, overwrite=arguments.overwrite)
    else:
        written = datasets.write(where.output, x[0], overwrite=arguments.overwrite)
    if reference is not None:
        found = measure(x, reference)
        lines.append("  " + ", ".join(f"{name} {values[0]:.4g}" for name, values in found.items()))
    lines.append(f"written: {written}")
    if where.report is not None:
        write_report(solution, where.report, reference, title, overwrite=arguments.overwrite)
        lines.append(f"report: {where.report}")
    return lines


def _write_volume(x: Tensor, output: Path, grid: Grid, overwrite: bool) -> Any:
    from invtoolbox import datasets

    if not output.suffix:
        return datasets.write_tiff_stack(output, x[0], overwrite=overwrite)
    if output.suffix.lower() in (".h5", ".hdf5"):
        axes = ("voxel_size_slice", "voxel_size_row", "voxel_size_column")
        attributes: dict[str, Any] = {**dict(zip(axes, grid.voxel_size)), "length_unit": grid.unit}
        return datasets.write_hdf5(output, {"volume": x[0, 0]}, attributes, overwrite)
    if output.suffix.lower() == ".npy":
        return datasets.write_npy(output, x[0, 0], overwrite)
    return datasets.write(output, datasets.VolumeInMemory(x, grid), overwrite=overwrite)


def _reference(arguments: argparse.Namespace, is_volume: bool) -> Any:
    if not arguments.reference:
        return None
    from invtoolbox import datasets

    opened = datasets.open_measurements(arguments.reference)
    first = opened[0].y
    if not is_volume or first.ndim != 4:
        return first
    if isinstance(opened, datasets.Volume):
        return opened.volume().y
    import torch

    # An array's slices are its items; together they are the reference of a 3D scan.
    return torch.stack([opened[k].y[0, 0] for k in range(len(opened))])[None, None]
