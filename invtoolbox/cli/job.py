"""What `ct` and `deblur` share: their options, one solve with a checkpoint, the picture, the report, the summary."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invtoolbox.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from invtoolbox.datasets.volumes.volume import Grid
    from invtoolbox.priors.base import Prior
    from invtoolbox.problem import Problem
    from invtoolbox.solution import Solution
    from invtoolbox.solvers.base import Solver

FORMATS = (".tif", ".tiff", ".png", ".h5", ".hdf5", ".npy")
#: Of volumes; without a suffix it is a folder with a TIFF file a slice.
VOLUME_FORMATS = (
    ".tif",
    ".tiff",
    ".nii",
    ".nii.gz",
    ".mha",
    ".mhd",
    ".raw",
    ".h5",
    ".hdf5",
    ".npy",
)


def add_options(parser: argparse.ArgumentParser, prior: str, output: str) -> None:
    """The options of a reconstruction."""
    method = parser.add_argument_group("method")
    method.add_argument(
        "--prior",
        default=prior,
        metavar="NAMES",
        help=f"priors, joined by commas; see `invtoolbox list priors` (default: {prior}; none for least squares)",
    )
    method.add_argument(
        "--solver",
        metavar="NAME",
        help="see `invtoolbox list solvers`; one that fits is chosen by default",
    )
    method.add_argument(
        "--regularization",
        default="auto",
        metavar="WEIGHT",
        help="the weight of the priors, or a rule for it (default: the discrepancy principle)",
    )
    method.add_argument(
        "--noise-std",
        type=float,
        metavar="STD",
        help="standard deviation of the noise, in the units of the measurements (default: estimated from them)",
    )
    method.add_argument(
        "--max-iterations", type=int, metavar="N", help="the solver's own by default"
    )
    method.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="stop after that long, with what is there",
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
        "--reference", metavar="FILE", help="the true image, to measure PSNR and SSIM against"
    )
    results.add_argument(
        "--resume",
        action="store_true",
        help="go on from the checkpoint that an interrupted run left",
    )
    results.add_argument("--overwrite", action="store_true", help="replace files that are there")
    results.add_argument(
        "--quiet", "-q", action="store_true", help="no progress bar and no summary"
    )


@dataclasses.dataclass(frozen=True)
class Paths:
    """Where a job writes; checked before anything is computed."""

    output: Path
    report: Path | None
    checkpoint: Path


def paths(arguments: argparse.Namespace, default: str, is_volume: bool = False) -> Paths:
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
    if checkpoint.exists() and not arguments.resume:
        if not arguments.overwrite:
            raise InputError(
                f"an interrupted run left {checkpoint}; give --resume to go on from it, or --overwrite to start anew"
            )
        checkpoint.unlink()
    return Paths(output, report, checkpoint)


def _check_format(output: Path, is_volume: bool) -> None:
    name = output.name.lower()
    suffix = ".nii.gz" if name.endswith(".nii.gz") else output.suffix.lower()
    if not is_volume:
        if suffix not in FORMATS:
            raise InputError(
                f"--output {output}: no format for the suffix {output.suffix!r}; use one of {', '.join(FORMATS)}"
            )
        return
    if suffix == ".png":
        raise InputError(
            f"--output {output}: a volume is not one picture; use one of {', '.join(VOLUME_FORMATS)}, or a folder for a TIFF "
            "file a slice (--report shows the middle slice)"
        )
    if suffix and suffix not in VOLUME_FORMATS:
        raise InputError(
            f"--output {output}: no format of volumes for the suffix {output.suffix!r}; use one of "
            f"{', '.join(VOLUME_FORMATS)}, or a folder for a TIFF file a slice"
        )
    if suffix.startswith(".nii"):
        from invtoolbox.datasets.volumes.nifti import check_available

        check_available()


def priors(names: str) -> Prior | None:
    """The sum of the priors whose names are joined by commas; ``none`` is none."""
    from invtoolbox.catalogue.presets import prior_named

    total: Prior | None = None
    for name in (n.strip() for n in names.split(",")):
        if name in ("", "none"):
            continue
        part = prior_named(name)
        total = part if total is None else total + part
    return total


def weight(text: str) -> float | str:
    """A number, or the name of a rule."""
    try:
        return float(text)
    except ValueError:
        return text


def solver(arguments: argparse.Namespace) -> Solver | None:
    from invtoolbox.catalogue.presets import solver_named

    return solver_named(arguments.solver) if arguments.solver else None


def solve(
    problem: Problem,
    arguments: argparse.Namespace,
    checkpoint: Any = None,
    progress: bool = False,
    start: Tensor | None = None,
) -> Solution:
    """Solve with the method that the options say, from ``start`` where it is given."""
    import invtoolbox
    from invtoolbox.core.environment import device_named

    solution: Solution = invtoolbox.solve(
        problem,
        prior=priors(arguments.prior),
        solver=solver(arguments),
        regularization=weight(arguments.regularization),
        initial=start,
        max_iterations=arguments.max_iterations,
        time_limit=arguments.time_limit,
        device=device_named(arguments.device),
        checkpoint=checkpoint,
        progress=progress,
    )
    return solution


def run(
    problem: Problem,
    arguments: argparse.Namespace,
    where: Paths,
    title: str,
    value_range: tuple[float, float] | None,
    start: Tensor | None = None,
    grid: Grid | None = None,
) -> int:
    """Solve, write the picture or the volume and the report, and say what was done.

    Args:
        value_range: the values that become black and white in a PNG; the least and the greatest where None.
        start: an image to start from.
        grid: where the voxels of a volume lie; None for pictures.
    """
    from invtoolbox.loop.checkpoint import Checkpoint

    reference = _reference(arguments, grid is not None)
    if reference is not None and tuple(reference.shape[1:]) != problem.image_shape:
        raise InputError(
            f"--reference {arguments.reference} has the shape {tuple(reference.shape[1:])}, and the reconstruction "
            f"{problem.image_shape}; give the true image of the same shape"
        )
    try:
        solution = solve(
            problem,
            arguments,
            Checkpoint(where.checkpoint),
            progress=not arguments.quiet,
            start=start,
        )
    except KeyboardInterrupt:
        if not where.checkpoint.exists():
            raise KeyboardInterrupt(
                "stopped before the first iteration; nothing was written"
            ) from None
        raise KeyboardInterrupt(
            f"stopped; the checkpoint {where.checkpoint} stays: the same command with --resume goes on "
            "from it"
        ) from None
    lines = _write(solution, arguments, where, title, value_range, reference, grid)
    where.checkpoint.unlink(missing_ok=True)
    if not arguments.quiet:
        print("\n".join(lines))
    if "diverged" in solution.status:
        print(
            "invtoolbox: the iteration diverged, and the last finite image was written; try another solver",
            file=sys.stderr,
        )
        return 1
    return 0


def _write(
    solution: Solution,
    arguments: argparse.Namespace,
    where: Paths,
    title: str,
    value_range: tuple[float, float] | None,
    reference: Tensor | None,
    grid: Grid | None,
) -> list[str]:
    from invtoolbox import datasets
    from invtoolbox.plotting.report import measure, write_report

    x = solution.x.detach().cpu()
    lines = [str(solution)]
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
        size = dict(
            zip(("voxel_size_slice", "voxel_size_row", "voxel_size_column"), grid.voxel_size)
        )
        return datasets.write_hdf5(
            output, {"volume": x[0, 0]}, {**size, "length_unit": grid.unit}, overwrite
        )
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

    # The slices of a volume in an array are its items; all of them are the reference of a 3D scan.
    return torch.stack([opened[k].y[0, 0] for k in range(len(opened))])[None, None]
