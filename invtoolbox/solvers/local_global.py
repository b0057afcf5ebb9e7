"""Local and global steps in turn, down the quadratic above every prior.

The matrix of the quadratic is factorized once, by a sparse Cholesky factorization.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.constants import is_equal
from invtoolbox.core.pytrees import map_items
from invtoolbox.core.rare_branches import is_any
from invtoolbox.core.sparse_graph import connected_components
from invtoolbox.data_terms.least_squares import Exact
from invtoolbox.errors import InputError
from invtoolbox.geometry.displacements import as_points, like_points
from invtoolbox.objective.objective import Evaluation, Objective
from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.priors.majorizer import Springs
from invtoolbox.solvers.base import Solver, State, implicit_reason
from invtoolbox.solvers.gradient_descent import gradient_scale


@dataclass(frozen=True, eq=False)
class Graph:
    """A symmetric system ``(M v)_i = d_i v_i + sum_e c_e (v_i - v_j)`` of N points.

    Some points are held at 0.

    Attributes:
        diagonal: the d, ``(N,)``.
        edges: edges of each part of the sum, ``(2, E)``; an edge from i to j acts on both.
        strengths: the c of each part, ``(E,)``.
        free: which points are not held, ``(N,)``.
    """

    diagonal: Tensor
    edges: tuple[Tensor, ...]
    strengths: tuple[Tensor, ...]
    free: Tensor

    def same_as(self, other: Graph) -> bool:
        return (
            torch.equal(self.diagonal, other.diagonal)
            and torch.equal(self.free, other.free)
            and all(a is b or torch.equal(a, b) for a, b in zip(self.edges, other.edges))
            and all(a is b or torch.equal(a, b) for a, b in zip(self.strengths, other.strengths))
        )


#: Largest size in bytes of the inverses on a GPU, 4,000 points of one system, and the number of solves
#: with the same factors before they are computed: an inverse costs as much as a solve per point.
_LARGEST_INVERSE, _FEW = 8 * 4000**2, 10


class Factors:
    """Sparse LU factors on the CPU.

    SuperLU factorizes in the order of the least degree, without pivoting, because the systems are
    positive definite. This is not a tensor: each item of a batch has the number of its factor,
    ``which`` in `solve`.

    For tensors on a GPU, a solve on the CPU costs two copies, for which the GPU waits. If all inverses
    together take at most 128 MB (4,000 points of one system), they are computed after ten solves, and
    the GPU multiplies by them.
    """

    def __init__(self, systems: list[Graph]) -> None:
        self._factors = [_factorize(system) for system in systems]
        self._like = systems[0].diagonal
        self._solves = 0
        self._inverses: Tensor | None = None

    def _known_inverses(self) -> Tensor | None:
        """Return the inverses of the systems, or None on a CPU, and before they pay."""
        self._solves += 1
        size = 8 * len(self._factors) * len(self._like) ** 2
        is_worth_it = self._solves > _FEW and size <= _LARGEST_INVERSE
        if self._inverses is None and is_worth_it and self._like.device.type != "cpu":
            every = range(len(self._factors))
            self._inverses = torch.stack([self._invert(k, self._like) for k in every])
        return self._inverses

    def _invert(self, number: int, like: Tensor) -> Tensor:
        """Return the inverse of a system in float64, with zeros for the points that are held."""
        factor, free = self._factors[number]
        inverse = torch.zeros(len(like), len(like), dtype=torch.float64)
        index = free.cpu()
        # Symmetric up to rounding, and made symmetric.
        columns = torch.from_numpy(factor.solve(np.eye(len(index))))
        inverse[index[:, None], index] = 0.5 * (columns + columns.T)
        return inverse.to(like.device)

    def solve(self, right: Tensor, which: Tensor) -> Tensor:
        """Return ``M^-1 right`` for right-hand sides ``(batch, N, c)``, 0 at held points."""
        inverses = self._known_inverses()
        if inverses is not None and len(inverses) == 1:
            return (inverses @ right.double()).to(right.dtype)
        if inverses is not None and 8 * len(right) * right.shape[1] ** 2 <= _LARGEST_INVERSE:
            return (inverses[which] @ right.double()).to(right.dtype)
        out = torch.zeros_like(right)
        numbers = which.tolist()
        for number in dict.fromkeys(numbers):
            factor, free = self._factors[number]
            items = [k for k, factor_number in enumerate(numbers) if factor_number == number]
            is_shared = len(items) == len(numbers)
            free_right = (right if is_shared else right[items]).index_select(1, free)
            # One column per item and coordinate.
            columns = free_right.transpose(0, 1).flatten(1).double().cpu().numpy()
            # Column by column, the rounding of an item does not depend on the batch.
            solved = (
                torch.from_numpy(factor.solve(np.asfortranarray(columns)))
                .to(right)
                .unflatten(1, (len(items), -1))
                .transpose(0, 1)
            )
            if is_shared:
                out.index_copy_(1, free, solved)
            else:
                out[items] = torch.zeros_like(out[items]).index_copy_(1, free, solved)
        return out


def group_equal(systems: list[Graph]) -> tuple[list[Graph], list[int]]:
    """Return the distinct systems, and for each system the number of its equal among them."""
    different: list[Graph] = []
    which = []
    for system in systems:
        number = next(
            (k for k, graph in enumerate(different) if graph is system or graph.same_as(system)),
            len(different),
        )
        if number == len(different):
            different.append(system)
        which.append(number)
    return different, which


def _factorize(system: Graph) -> tuple[Any, Tensor]:
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import splu

    n = len(system.diagonal)
    ends = torch.cat(system.edges, 1)
    i, j = ends.cpu().numpy().astype(np.int32)  # SciPy 1.11 factorizes no others
    c = np.concatenate([s.double().cpu().numpy() for s in system.strengths])
    free, diagonal = system.free.cpu().numpy(), system.diagonal.double().cpu().numpy()
    # M_ii = d_i + sum of the c of its edges, M_ij = -c.
    entries = diagonal + np.bincount(i, c, n) + np.bincount(j, c, n)
    # Parts without a connection to an observation are not determined. A little stiffness, which
    # only slows them, makes the system definite.
    label = connected_components(ends.cpu(), n).numpy()
    held = np.bincount(label[(diagonal > 0) | ~free], minlength=n) > 0
    entries += np.where(held[label], 0.0, 1e-8 * (np.abs(entries).mean() or 1.0))
    place = np.arange(n, dtype=np.int32)
    rows, columns = np.concatenate([place, i, j]), np.concatenate([place, j, i])
    matrix = coo_array((np.concatenate([entries, -c, -c]), (rows, columns)), shape=(n, n)).tocsr()
    # Held points are 0, so their rows and columns are left out.
    inside = matrix[free][:, free].tocsc()
    # Minimum degree on A^T + A and no pivoting: SuperLU as a sparse Cholesky factorization.
    factor = splu(
        inside, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    return factor, system.free.nonzero()[:, 0]


#: Shares of a step of L-BFGS that are tried in turn.
_SHARES = (1.0, 0.5, 0.25)


@dataclass(kw_only=True)
class LocalGlobalState(State):
    """Gradient, factors of M, and the pairs of the L-BFGS metric."""

    gradient: Tensor
    target: Tensor  # (batch, n) M^-1 gradient
    moves: Tensor  # (batch, memory, n) the last steps s, the latest last; 0 in an empty place
    changes: Tensor  # (batch, memory, n) the changes y of the gradient along them
    solved: Tensor  # (batch, memory, n) M^-1 y
    scale: Tensor  # (batch,) scale of the gradient norm
    rounding: Tensor  # (batch,) size of the rounding errors of the gradient
    free: Tensor  # (batch, N) the points that are not held
    which: Tensor  # (batch,) the factor of an item
    factored: Tensor  # (batch,) the weight of the priors in it
    steps: Tensor  # (batch,)
    factors: Factors


@dataclass(frozen=True)
class LocalGlobal(Solver):
    r"""Local-global optimization of displacements of points: ``x <- x - M^-1 grad F(x)``, M sparse.

    Every prior is a minimum over rotations (or directions) of a quadratic,
    `ExplicitPrior.majorizer`. Finding the rotations at x is the local step. The global step goes to
    the minimum of misfit and quadratics, a sparse system M in the points that is the same at every
    step and is factorized once. Since the quadratics lie above the priors and touch them, **the
    objective never increases** (majorization-minimization); with ``memory=0`` this is the algorithm
    of Sorkine and Alexa (SGP 2007), iterate by iterate.

    It is slow near the end. By default M is therefore, after ``plain_steps``, the first metric of
    L-BFGS (Liu, Bouaziz and Kavan, "Quasi-Newton methods for real-time simulation of hyperelastic
    materials", 2017). A step that does not decrease the objective is halved, twice at most, and
    then replaced by the plain one, so that the promise holds, and a tenth of the steps is
    needed. The plain steps come first because
    they decide into which of several minima a large motion falls, and long steps from a bad start
    may choose another. Measurements that are `data_terms.Exact` hold exactly: handles.

    Takes a quadratic misfit, or `data_terms.Exact`, of an operator that picks points or voxels
    (`ObservedPoints`, `Sampling`, `Inpainting`, `Identity`), and priors with a ``majorizer`` of
    springs (`ARAP`, `Isometry`, ...). If a majorizer is not fixed, M is factorized at every step.
    Converges to a stationary point if the quadratics are bounded along the way. Certificate:
    ``|grad F|`` over the points that are free, relative to its value at the start or at 0, the
    larger; 0 if it is not larger than rounding errors, as at rest. The factors live on the CPU; a GPU
    multiplies by the inverses of M if they take at most 128 MB together, 4,000 points of one M.

    Args:
        memory: number of pairs kept per item; 0 for plain steps only.
        plain_steps: number of steps before the memory is used.
        sufficient_decrease: the constant of Armijo's condition.

    >>> import invtoolbox as it
    >>> p = torch.rand(1, 30, 3, generator=torch.Generator().manual_seed(0))
    >>> A = it.operators.ObservedPoints(p, torch.tensor([0, 1, 2, 3]))
    >>> problem = it.Problem(
    ...     torch.ones(1, 4, 3), A, it.data_terms.Exact()
    ... )  # four points are moved by (1, 1, 1)
    >>> x = it.solve(problem, it.priors.ARAP(neighbours=6), LocalGlobal(), progress=False).x
    >>> bool((x - 1).abs().max() < 1e-3)
    True
    """

    max_iterations: int = 500
    tolerance: float = 1e-5
    memory: int = 8
    plain_steps: int = 10
    sufficient_decrease: float = 1e-4

    certificate_name: ClassVar[str] = "relative gradient norm of the free points"

    def unsupported_reason(self, objective: Objective) -> str | None:
        if reason := implicit_reason(objective, "LocalGlobal"):
            return reason
        problem = objective.problem
        if not problem.is_linear or not objective.linear_operator.normal_is_diagonal:
            return (
                "LocalGlobal needs an operator that picks points or voxels, such as "
                f"ObservedPoints, and {problem.operator} does not"
            )
        if not (
            (problem.data_term.is_quadratic and "weighted" in problem.data_term.offers)
            or isinstance(problem.data_term, Exact)
        ):
            return (
                "LocalGlobal needs a quadratic data term or data_terms.Exact, and "
                f"{problem.data_term!r} is neither"
            )
        if not objective.terms:
            return "LocalGlobal needs a prior, and there is none"
        for _, prior in objective.terms:
            if "majorizer" not in prior.offers or not isinstance(
                prior.majorizer(problem.zeros()), Springs
            ):
                return (
                    f"LocalGlobal needs a majorizer of springs of every prior, and {prior!r} has "
                    "none"
                )
        return None

    def init(self, objective: Objective, start: Tensor) -> LocalGlobalState:
        A, y = objective.linear_operator, objective.problem.y
        points = as_points(start)
        free = torch.ones(points.shape[:2], dtype=torch.bool, device=start.device)
        if isinstance(objective.problem.data_term, Exact):
            # A^T 1 is 0 at the points that are not measured; the others are held at their
            # measurement.
            is_measured = as_points(A.adjoint(torch.ones_like(y))) != 0
            free = ~_one_for_all(is_measured, objective).expand_as(free)
            start = torch.where(_mask(free, start), start, A.pseudo_inverse(y))
        new = self._evaluate(objective, start, free)
        norm = item_norm(new.gradient)
        scale = gradient_scale(objective, norm)
        factors, which = _factors(objective, start, free)
        rounding = torch.zeros_like(scale)
        for weight, prior in objective.terms:
            rounding = rounding + weight * cast(Springs, prior.majorizer(start)).rounding()
        pairs = start.new_zeros(len(start), self.memory, start[0].numel())
        return LocalGlobalState(
            x=start,
            value=new.value,
            discrepancy=new.discrepancy,
            certificate=_certificate(norm, scale, rounding),
            gradient=new.gradient,
            target=_solve(factors, which, new.gradient),
            moves=pairs,
            changes=pairs.clone(),
            solved=pairs.clone(),
            scale=scale,
            rounding=rounding,
            free=free,
            which=which,
            factored=objective.regularization,
            steps=torch.zeros_like(which),
            factors=factors,
        )

    def step(self, objective: Objective, state: LocalGlobalState) -> LocalGlobalState:
        value, gradient, target = state.value, state.gradient, state.target
        factors, which = state.factors, state.which
        moves, changes, solved = state.moves, state.changes, state.solved
        changed = not is_equal(objective.regularization, state.factored)
        if changed:
            value, gradient, _ = self._evaluate(objective, state.x, state.free)
        if changed or not all(prior.majorizer_is_fixed for _, prior in objective.terms):
            factors, which = _factors(objective, state.x, state.free)
            target = _solve(factors, which, gradient)
            # The pairs belong to another quadratic.
            moves, changes, solved = (torch.zeros_like(t) for t in (moves, changes, solved))
        # The global step x <- x - M^-1 grad F(x); at first, and for memory 0, it is taken as it is.
        plain = -target.view_as(state.x)
        if self.memory == 0 or is_any(state.steps < self.plain_steps):
            x = state.x + plain
            new = self._evaluate(objective, x, state.free)
        else:
            metric = map_items(_metric, gradient.flatten(1), target, moves, changes, solved)
            direction = -metric.view_as(state.x)
            x, new = self._search(objective, state, value, gradient, direction, plain)
        after = _solve(factors, which, new.gradient)
        if self.memory:
            # Pairs s, y = change of the gradient, and z = M^-1 y, if their curvature is positive
            # enough.
            s, y, z = (x - state.x).flatten(1), (new.gradient - gradient).flatten(1), after - target
            good = inner(s, y) > 1e-8 * item_norm(s) * item_norm(y)
            moves, changes, solved = (
                _append(old, latest, good)
                for old, latest in ((moves, s), (changes, y), (solved, z))
            )
        return replace(
            state,
            x=x,
            value=new.value,
            discrepancy=new.discrepancy,
            certificate=_certificate(item_norm(new.gradient), state.scale, state.rounding),
            gradient=new.gradient,
            target=after,
            moves=moves,
            changes=changes,
            solved=solved,
            which=which,
            factored=objective.regularization,
            steps=state.steps + 1,
            factors=factors,
        )

    def _search(
        self,
        objective: Objective,
        state: LocalGlobalState,
        value: Tensor,
        gradient: Tensor,
        direction: Tensor,
        plain: Tensor,
    ) -> tuple[Tensor, Evaluation]:
        """Step along the direction by the first of `_SHARES` that decreases the objective.

        An item that none of them serves takes the plain step.
        """
        slope = self.sufficient_decrease * inner(gradient, direction).clamp_max(0)
        share = torch.full_like(value, _SHARES[0])
        for shorter in (*_SHARES[1:], 0.0, 0.0):
            # Armijo's condition along the direction; a share of 0 stands for the plain step, which
            # needs no test.
            factor = expand(share, plain)
            x = state.x + torch.where(factor > 0, factor * direction, plain)
            new = self._evaluate(objective, x, state.free)
            worse = (share > 0) & ~(new.value < value + share * slope)
            if not is_any(worse):
                break
            share = torch.where(worse, torch.full_like(share, shorter), share)
        return x, new

    def _evaluate(self, objective: Objective, x: Tensor, free: Tensor) -> Evaluation:
        """Return value and gradient; the gradient is 0 at the points that are held."""
        if not isinstance(objective.problem.data_term, Exact):
            return objective.evaluate(x)
        value, gradient = torch.zeros_like(objective.regularization), torch.zeros_like(x)
        for weight, prior in objective.terms:
            energy, slope = prior.energy_and_gradient(x)
            gradient = torch.addcmul(gradient, slope, expand(weight, slope))
            value = value + weight * cast(Tensor, energy)
        # Exact measurements hold from the start.
        return Evaluation(value, gradient * _mask(free, x), torch.zeros_like(value))


def _certificate(norm: Tensor, scale: Tensor, rounding: Tensor) -> Tensor:
    """Return the gradient norm relative to its scale, 0 if it is not larger than its rounding."""
    return torch.where(norm > rounding, norm / scale, 0.0)


def _append(pairs: Tensor, latest: Tensor, good: Tensor) -> Tensor:
    """Return pairs ``(batch, memory, n)`` with a new last one, and without the first, if good."""
    # An item whose pair is not good keeps its pairs.
    longer = torch.cat([pairs[:, 1:], latest[:, None]], 1)
    if good.device.type == "cpu" and bool(good.all()):
        return longer
    return torch.where(good[:, None, None], longer, pairs)


def _metric(
    gradient: Tensor, target: Tensor, moves: Tensor, changes: Tensor, solved: Tensor
) -> Tensor:
    """Return the inverse Hessian of L-BFGS times the gradient, from products of all pairs at once.

    Byrd, Nocedal and Schnabel, Math. Program. 63, 1994, theorem 2.2.
    """
    # With S and Y the steps and changes, R = triu(S^T Y) and D = diag(S^T Y), the product is
    # H_0 g + S R^-T ((D + Y^T H_0 Y) R^-1 S^T g - Y^T H_0 g) - H_0 Y R^-1 S^T g, where H_0 = M^-1.
    products = moves @ changes.transpose(1, 2)
    curvatures = products.diagonal(dim1=1, dim2=2)
    # An empty place has no influence.
    upper = products.triu() + torch.diag_embed((curvatures == 0).to(curvatures.dtype))
    first = torch.linalg.solve_triangular(upper, moves @ gradient[..., None], upper=True)
    middle = torch.diag_embed(curvatures) + changes @ solved.transpose(1, 2)
    last = torch.linalg.solve_triangular(
        upper.transpose(1, 2), middle @ first - solved @ gradient[..., None], upper=False
    )
    return target + (moves.transpose(1, 2) @ last - solved.transpose(1, 2) @ first).squeeze(2)


def _solve(factors: Factors, which: Tensor, gradient: Tensor) -> Tensor:
    """Return ``M^-1 gradient``, ``(batch, n)``."""
    return like_points(factors.solve(as_points(gradient), which), gradient).flatten(1)


def _mask(points: Tensor, x: Tensor) -> Tensor:
    """Return booleans ``(batch, N)`` of points in the shape of displacements x."""
    return like_points(points[..., None].expand(*points.shape, 3), x)


def _one_for_all(values: Tensor, objective: Objective) -> Tensor:
    """Return ``(batch, N)`` of values ``(batch, N, 3)`` that are equal in all coordinates."""
    if not torch.equal(values, values[..., :1].expand_as(values)):
        raise InputError(
            f"LocalGlobal moves points as a whole, and {objective.problem.operator} with "
            f"{objective.problem.data_term!r} tells their coordinates apart; use L-BFGS"
        )
    return values[..., 0]


def _factors(objective: Objective, x: Tensor, free: Tensor) -> tuple[Factors, Tensor]:
    """Return the factorized M of every item, and the number of each item's factor."""
    # M = diag(A^T W A) + sum of the springs c_e (v_i - v_j), which is the same for x, y and z.
    problem, batch = objective.problem, len(x)
    diagonal = torch.zeros(1, free.shape[1], dtype=x.dtype, device=x.device)
    if not isinstance(problem.data_term, Exact):
        A = objective.linear_operator
        diagonal = _one_for_all(
            as_points(A.adjoint(problem.data_term.weighted(A(torch.ones_like(x))))), objective
        )
    springs = [(weight, cast(Springs, prior.majorizer(x))) for weight, prior in objective.terms]
    # A batch whose items share everything is factorized once, without a look at every item.
    same = all(s.is_shared and bool((weight == weight[0]).all()) for weight, s in springs)
    same = same and bool((diagonal == diagonal[:1]).all()) and bool((free == free[:1]).all())

    def system(k: int) -> Graph:
        weighted = [(s.item(k), float(weight[k])) for weight, s in springs]
        return Graph(
            diagonal[k if len(diagonal) > 1 else 0],
            tuple(edges for (edges, _), _ in weighted),
            tuple(strengths * w for (_, strengths), w in weighted),
            free[k],
        )

    different, which = group_equal(
        [system(0)] * batch if same else [system(k) for k in range(batch)]
    )
    return Factors(different), torch.tensor(which, device=x.device)
