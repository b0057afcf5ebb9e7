"""Overlapping tiles of pictures and volumes, and large pictures that are restored by them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.decision import Decision
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.geometry.tiles import Tile, cut
from invtoolbox.jobs.images.decisions.case import Case
from invtoolbox.jobs.images.decisions.default_prior import choose_priors
from invtoolbox.jobs.images.decisions.order import STEPS, decide, off_words
from invtoolbox.measurements import report_findings
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.elementary import Identity
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.operators.imaging.downsampling import Downsampling
from invtoolbox.operators.imaging.sampling import Inpainting
from invtoolbox.parameter_choice.noise import estimate_noise_std
from invtoolbox.priors.base import Prior
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers.base import Solver
from invtoolbox.solvers.binding import Regularization

#: Pixels of a picture above which the commands use tiles.
LARGE = 2_000_000
#: Operators of pictures that may be cut into tiles.
TILED = (Blur, Identity, Inpainting, Downsampling)
#: Tiles from which the weight is chosen, by the rank of their contrast.
_RANKS = (0.25, 0.5, 0.75)
#: Steps that need the picture as a whole.
OFF_IN_TILES = {
    name: "the picture is solved in tiles"
    for name in STEPS
    if name not in ("kernel-width", "smooth-noise")
}
_WORST = ("invalid", "diverged", "stopped", "limit", "early_stopping", "converged")


def deblur_in_tiles(
    y: Tensor,
    A: LinearOperator,
    prior: Prior | str = "tv",
    solver: Solver | str | None = None,
    regularization: Regularization = "auto",
    *,
    noise_std: float | None = None,
    tile: int = 512,
    margin: int | None = None,
    max_iterations: int | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = True,
    automatic: str = "all",
) -> Solution:
    """Restore one picture by overlapping tiles; memory and time are linear in its pixels.

    Every tile is solved together with a margin of its neighbours, and only its inner part is kept.
    The influence of a pixel decreases with the distance, so the tiles fit each other: their
    difference to the solution of the whole picture decreases with the margin and the tolerance
    (`tests/jobs/images/test_tiles.py`). One weight serves all tiles. A rule chooses it on three tiles, of
    low, medium and high contrast, and the median of the three is used.

    Args:
        y: blurred, noisy, small or masked picture, ``(1, channel, row, column)``.
        A: blur with the boundary "reflect" or "valid" and one kernel, or one of `TILED`. A tile
            without a missing pixel is kept as it is, unless ``noise_std`` is given; one with gaps
            is compared with their interpolation.
        prior: prior or its name; the prior must be local, as total variation is.
        solver: solver or its name, as in `solve`.
        regularization: weight or rule, as in `solve`.
        noise_std: standard deviation of the noise; estimated on each of the three tiles by default,
            and for a denoiser on the whole picture.
        tile: rows and columns of the inner part of a tile.
        margin: width of the margin; by default 48 pixels and the size of the kernel.
        max_iterations: largest number of iterations per tile, as in `solve`.
        tolerance: bound on the certificate of every tile, as in `solve`.
        seed: seed of random draws.
        device: device on which every tile is solved; the picture stays where it is.
        dtype: type of the numbers of every tile, as in `solve`.
        automatic: steps that are decided automatically, as in `reconstruct`; most of them need the picture
            as a whole, and are off.
        progress: show a bar with the number of tiles and the remaining time on a terminal.

    Returns:
        The picture; its status is the worst status of a tile, and its iterations are the largest.
        The history is empty.

    Raises:
        InputError: for another boundary, several kernels or several pictures, and in the cases of
            `solve`.

    >>> A = Blur(torch.ones(3, 3) / 9, (40, 50))
    >>> y = A(torch.rand(1, 1, 40, 50))
    >>> x = deblur_in_tiles(y, A, regularization=0.01, tile=32, margin=8, progress=False).x
    >>> x.shape
    torch.Size([1, 1, 40, 50])
    """
    _check_operator(y, A)
    problem = Problem(y, A, LeastSquares(noise_std))
    settings: dict[str, Any] = {
        "regularization": regularization,
        "max_iterations": max_iterations,
        "tolerance": tolerance,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "progress": progress,
    }
    priors, names = choose_priors(prior, problem)
    case = Case.of(problem, priors, solver, settings, names)
    case = dataclasses.replace(case, method=InTiles(tile, margin))
    return decide(case, {**off_words(automatic), **OFF_IN_TILES})


@dataclass(frozen=True)
class InTiles:
    """Method that solves one picture by overlapping tiles.

    Attributes:
        tile: rows and columns of the inner part of a tile.
        margin: width of the margin; by default 48 pixels and the size of the kernel.
    """

    tile: int
    margin: int | None = None

    def __call__(self, case: Case) -> Solution:
        """Solve a case.

        Args:
            case: one picture.
        """
        problem, A, y = case.problem, case.problem.operator, case.problem.y0
        assert isinstance(A, LinearOperator) and isinstance(problem.data_term, LeastSquares)
        boundary, kernel = _check_operator(y, A)
        settings = dict(case.settings)
        progress, check = settings.pop("progress", True), settings.pop("check", True)
        priors, regularization = case.sum_of_priors, settings.pop("regularization", "auto")
        level = problem.data_term.noise_std
        noise_std = None if level is None else float(level)
        keeps_known = isinstance(A, Inpainting) and noise_std is None
        if noise_std is None and any("energy" not in t.prior.offers for t in priors.as_sum().terms):
            # Tiles with levels of their own would not fit each other.
            noise_std = float(estimate_noise_std(y, A))
        width = max(kernel.shape) + 48 if self.margin is None else self.margin
        shape, factor = (A.domain_shape[-2], A.domain_shape[-1]), getattr(A, "factor", 1)
        extent = tuple(kernel.shape[2:]) if boundary == "valid" else (1, 1)
        tiles = list(cut(shape, self.tile, width, extent, factor))
        if keeps_known and isinstance(A, Inpainting) and A.sampled is not None:
            tiles = [t for t in tiles if not _is_known(A.sampled, t)] or tiles[:1]

        def attempt(piece: Tile, weight: Regularization) -> Solution:
            cutout = y[:, :, *piece.seen].contiguous()
            small = Problem(cutout, _operator(A, piece), LeastSquares(noise_std))
            # The picture was checked as a whole.
            some = {**settings, "regularization": weight, "progress": False, "check": False}
            if isinstance(A, Inpainting):
                return decide(
                    Case.of(small, priors, case.solver, some), off_words("+simple-answer")
                )
            return solve(small, priors, case.solver, **some)

        chosen = regularization
        records: list[Decision] = []
        if check:
            stated = problem.with_data_term(LeastSquares(noise_std))
            records += report_findings(stated, priors)
        if not isinstance(regularization, (int, float)) and not isinstance(A, Inpainting):
            sample = at_ranks(tiles, lambda t: float(y[:, :, *t.seen].std()), _RANKS)
            weights = sorted(float(attempt(t, regularization).regularization) for t in sample)
            chosen = weights[len(weights) // 2]
            sentence = f"the weight {chosen:.4g} is the median of {len(weights)} tiles"
            records.append(Decision(step="weight", sentence=sentence))
        x = y.clone() if keeps_known else y.new_empty(1, y.shape[1], *shape)
        statuses, most, last = [], 0, None
        for piece in with_bar(tiles, progress):
            last = attempt(piece, chosen)
            x[:, :, *piece.kept] = last.x[:, :, *piece.inner].to(x)
            statuses.append(last.status[0])
            most = max(most, int(last.iterations.max()))
        assert last is not None
        sentence = f"{len(tiles)} tiles of {self.tile} pixels with a margin of {width}"
        reason = Decision(step="solver", sentence=last.reason)
        return dataclasses.replace(
            last,
            x=x,
            status=(min(statuses, key=_WORST.index),),
            iterations=torch.tensor([most]),
            history={name: rows[:0] for name, rows in last.history.items()},
            data_term=repr(problem.data_term),
            decisions=(reason, Decision(step="run", sentence=sentence), *records),
            problem=problem,
            posterior=None,
            weight_search=None,
        )


def _is_known(sampled: Tensor, piece: Tile) -> bool:
    """Return whether a tile has no gap."""
    rows, columns = piece.kept
    return bool(sampled[..., rows, columns].all())


def _check_operator(y: Tensor, A: LinearOperator) -> tuple[str, Tensor]:
    """Return the boundary and the kernel of an operator that works in tiles."""
    boundary = getattr(A, "boundary", "reflect")
    kernel = A.kernel if isinstance(A, Blur) else torch.ones(1, 1, 1, 1)
    is_single = kernel.shape[:2].numel() == 1 and len(y) == 1
    if not isinstance(A, TILED) or boundary not in ("reflect", "valid") or not is_single:
        raise InputError(
            "tiles take one picture and one kernel, with the boundary reflect or valid; "
            f"got {len(y)} pictures and {A!r}"
        )
    return boundary, kernel


def _operator(A: Any, piece: Tile) -> LinearOperator:
    """Return the operator of a tile."""
    if isinstance(A, Blur):
        return Blur(A.kernel[0, 0], piece.shape, boundary=A.boundary)
    if isinstance(A, Downsampling):
        return Downsampling(piece.shape, A.factor, A.filter, A.boundary)
    shape = (A.domain_shape[0], *piece.shape)
    if isinstance(A, Identity):
        return Identity(shape)
    mask = A.mask[..., *piece.seen]
    if not bool(mask.any()):
        raise InputError(
            f"a gap is larger than the tile of {piece.shape[0]} x {piece.shape[1]} pixels; give a "
            "larger solver.tile, or 0 for the picture as a whole"
        )
    return Inpainting(mask, shape)


def at_ranks(
    tiles: Sequence[Tile], contrast: Callable[[Tile], float], ranks: Sequence[float]
) -> list[Tile]:
    """Return tiles by the rank of their contrast, from 0, the lowest, to 1.

    Args:
        tiles: all tiles.
        contrast: contrast of a tile.
        ranks: the ranks.
    """
    order = sorted(tiles, key=contrast)
    return [order[int(rank * (len(order) - 1) + 0.5)] for rank in ranks]


def with_bar(tiles: Sequence[Any], progress: bool) -> Any:
    """Return the tiles behind a bar with the remaining time on a terminal."""
    if not progress:
        return tiles
    from tqdm.auto import tqdm

    return tqdm(tiles, desc="tiles", unit="tile", leave=False, disable=None)
