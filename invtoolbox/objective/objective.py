"""The objective of a solver, ``D(A(x), y) + regularization * sum_i w_i R_i(x) + S(z)``.

``x = g(z)`` is the image.

The loop binds a problem, the prepared priors and the weight of each item into one `Objective`.
Solvers of images work on ``x``. If there is an implicit prior, or if parameters of the operator are
unknown, solvers work on parameters packed into one vector per item: the parameters of the implicit
prior (or the image), and the unknowns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Generator, Tensor

from invtoolbox.core.interrupts import check_time
from invtoolbox.core.pytrees import join_items, select_items, tree_map
from invtoolbox.objective.unknowns import Unknowns
from invtoolbox.operators.base import LinearOperator, Operator, expand, item_norm
from invtoolbox.priors.adaptive import AdaptivePrior, Intermediate
from invtoolbox.priors.base import ExplicitPrior, PriorSum
from invtoolbox.problem import Problem

S = TypeVar("S")
T = TypeVar("T")


class Evaluation(NamedTuple):
    """An objective at a point; ``value`` is NaN if some prior has no energy."""

    value: Tensor  # (batch,)
    gradient: Tensor  # like the variable
    discrepancy: Tensor  # (batch,)


class Decoded(NamedTuple):
    """Image, parameters and operator of a variable."""

    x: Any
    parameters: dict[str, Tensor]  # empty if the variable is the image
    operator: Operator
    energy: Tensor | None = None  # S(z) of the implicit prior, (batch,)


@dataclass(frozen=True)
class Layout:
    """The order of parameters in one vector per item."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def pack(self, parameters: dict[str, Tensor]) -> Tensor:
        return torch.cat(
            [parameters[name].reshape(len(parameters[name]), -1) for name in self.names], dim=1
        )

    def unpack(self, vector: Tensor) -> dict[str, Tensor]:
        sizes = [torch.Size(shape).numel() for shape in self.shapes]
        parts = torch.split(vector, sizes, dim=1)
        return {
            n: columns.unflatten(1, shape) if shape else columns.squeeze(1)
            for n, columns, shape in zip(self.names, parts, self.shapes)
        }


@dataclass(frozen=True)
class Objective:
    """A problem, its prepared priors, and the weight of each item.

    Attributes:
        problem: measurements, operator and data term.
        prior: the prepared priors.
        regularization: the weight of the explicit priors, ``(batch,)``.
        has_rule: whether a rule changes the weight between steps.
        discrepancy_target: function that returns the discrepancy to meet, ``(batch,)``, if that
            rule is the discrepancy principle; a solver may then find the weight itself.
        layout: layout of the parameters, if there is an implicit prior or an unknown.
        image_channels: number of the variable's channels that are the image, if others are
            auxiliary (see `with_auxiliaries`).
        unknowns: parameters of the operator that are found with the image.
        seed, iteration: random draws are a function of these two.
        share: share of the measurements that the problem holds; everything except the misfit is
            scaled by it.
    """

    problem: Problem
    prior: PriorSum
    regularization: Tensor
    has_rule: bool = False
    discrepancy_target: Callable[[Objective], Tensor] | None = None
    layout: Layout | None = None
    unknowns: Unknowns | None = None
    seed: int = 0
    iteration: int = 0
    share: float = 1.0
    image_channels: int | None = None

    # -- parts that solvers look at ----------------------------------------------------------------

    @cached_property
    def terms(self) -> tuple[tuple[Tensor, ExplicitPrior], ...]:
        """Every explicit prior with its whole weight ``regularization * w_i``, ``(batch,)``."""
        weight = self.share * self.regularization
        return tuple(
            (
                weight * (t.weight.to(weight) if isinstance(t.weight, Tensor) else t.weight),
                t.prior,
            )
            for t in self.prior.terms
        )

    @property
    def explicit_priors(self) -> tuple[ExplicitPrior, ...]:
        """Explicit priors of the image and of unknown parameters."""
        unknown_priors = self.unknowns.priors.values() if self.unknowns is not None else ()
        return tuple(term.prior for sum_ in (self.prior, *unknown_priors) for term in sum_.terms)

    @cached_property
    def adaptive_prior(self) -> AdaptivePrior | None:
        """The implicit prior if its parameters change in number, else None."""
        implicit = self.prior.implicit
        return implicit if isinstance(implicit, AdaptivePrior) and implicit.is_adaptive else None

    @property
    def linear_operator(self) -> LinearOperator:
        """The operator of a linear problem, for solvers that have checked that it is linear."""
        return cast(LinearOperator, self.problem.operator)

    @property
    def has_value(self) -> bool:
        return all("energy" in prior.offers for prior in self.explicit_priors)

    @property
    def batch(self) -> int:
        return self.problem.batch

    def nan(self) -> Tensor:
        return torch.full_like(self.regularization, float("nan"))

    def generator(self, device: torch.device | str | None = None) -> Generator:
        """Return the generator of this iteration's draws, by default on the problem's device.

        It is the same for every batch, and after a resume.
        """
        return torch.Generator(self.problem.y0.device if device is None else device).manual_seed(
            (self.seed * 1_000_003 + self.iteration) % (1 << 62)
        )

    # -- the data part -----------------------------------------------------------------------------

    def data(self, x: Tensor) -> Evaluation:
        """Return ``D(A(x), y)``, its gradient ``A^T D'`` and the discrepancy.

        They take one forward and one adjoint product.
        """
        A, D, y = self.problem.operator, self.problem.data_term, self.problem.y
        if isinstance(A, LinearOperator):
            prediction = A(x)
            value, slope = D.value_and_grad(prediction, y)
            gradient = A.adjoint(slope)
        else:
            # A caller may differentiate the gradient in turn.
            keeps_graph = torch.is_grad_enabled() and x.requires_grad
            with torch.enable_grad():
                free = x if keeps_graph else x.detach().requires_grad_(True)
                tracked = A(free)
                prediction = tracked if keeps_graph else tree_map(Tensor.detach, tracked)
                with torch.set_grad_enabled(keeps_graph):
                    value, slope = D.value_and_grad(prediction, y)
                (gradient,) = torch.autograd.grad(tracked, free, slope, create_graph=keeps_graph)
        return Evaluation(value, gradient, D.discrepancy_of(value, prediction, y))

    def data_gradient_at_zero(self) -> Tensor:
        """Return the gradient of the misfit at the image 0, ``A^T D'(0, y)`` if A is linear."""
        A, D, y = self.problem.operator, self.problem.data_term, self.problem.y
        if not isinstance(A, LinearOperator):
            return self.data(self.problem.zeros()).gradient
        # A 0 = 0 takes no product.
        zeros = tree_map(lambda m: m.new_zeros(self.batch, *m.shape[1:]), y)
        return A.adjoint(D.grad(zeros, y))

    def value_at(self, x: Tensor, prediction: Any) -> tuple[Tensor, Tensor]:
        """Return value and discrepancy at the image x, given ``prediction = A(x)``.

        Both have the shape ``(batch,)``.
        """
        D, y = self.problem.data_term, self.problem.y
        return D.value(prediction, y) + self.prior_value(x), D.discrepancy(prediction, y)

    def prior_value(self, x: Tensor) -> Tensor:
        """Return ``regularization * sum_i w_i R_i(x)``, NaN if some prior has no energy."""
        if not self.has_value:
            return self.nan()
        total = torch.zeros_like(self.regularization)
        for weight, prior in self.terms:
            total = total + weight * prior.energy(x)
        return total

    def slope_of_counts(self) -> Tensor | None:
        """Return the norm of the misfit's gradient at half of the prediction that fits, ``(batch,)``.

        It is the scale of gradients of counts, which have none at 0. None for other measurements.
        """
        A, D, y = self.problem.operator, self.problem.data_term, self.problem.y
        fit = D.fitting_prediction(y) if D.is_for_nonnegative else None
        if fit is None or not isinstance(A, LinearOperator):
            return None
        return item_norm(A.adjoint(D.grad(fit / 2, y)))

    # -- the whole, for solvers that follow gradients ----------------------------------------------

    def evaluate(self, variable: Tensor) -> Evaluation:
        """Return value and gradient in the variable.

        It is ``x``, or the packed parameters of the implicit prior.
        """
        check_time()
        if self.layout is not None:
            return self.evaluate_parameters(variable)[0]
        value, gradient, discrepancy = self.data(variable)
        if not self.has_value:
            value = self.nan()
        generator = self.generator()
        for weight, prior in self.terms:
            energy, slope = prior.energy_and_gradient(variable, generator)
            gradient = torch.addcmul(gradient, slope, expand(weight, slope))
            if energy is not None:
                value = value + weight * energy
        return Evaluation(value, gradient, discrepancy)

    def value(self, variable: Tensor) -> Tensor:
        """Return the objective alone, ``(batch,)``; for line searches."""
        check_time()
        if self.layout is None:
            misfit = self.problem.data_term.value(self.problem.operator(variable), self.problem.y)
            return misfit + self.prior_value(variable)
        with torch.no_grad():
            decoded = self.decode_parameters(variable)
            misfit = self.problem.data_term.value(decoded.operator(decoded.x), self.problem.y)
            return misfit + self.prior_value(decoded.x) + self.parameter_energy(decoded)

    def evaluate_parameters(self, vector: Tensor) -> tuple[Evaluation, dict[str, Intermediate]]:
        """Return `evaluate` of packed parameters, and the operator's intermediates.

        The latter are empty unless the prior is an `AdaptivePrior`.
        """
        D, y = self.problem.data_term, self.problem.y
        with torch.enable_grad():
            free = vector.detach().requires_grad_(True)
            decoded = self.decode_parameters(free)
            x, A = decoded.x, decoded.operator
            prediction, info = (A(x), {}) if self.adaptive_prior is None else A.with_info(x)
            misfit = D.value(prediction, y)
            value = misfit + self.parameter_energy(decoded)
            # Priors without an energy act through their gradient only.
            pull = torch.zeros_like(value)
            for weight, prior in self.terms:
                if "energy" in prior.offers:
                    value = value + weight * prior.energy(x)
                else:
                    pull = pull + weight * prior.pull(x, self.generator())
            watched = {name: tensor for name, tensor in info.items() if tensor.requires_grad}
            gradient, *slopes = torch.autograd.grad(
                (value + pull).sum(), [free, *watched.values()], allow_unused=bool(watched)
            )
            gradients = dict(zip(watched, slopes))
            intermediates = {
                name: Intermediate(tensor.detach(), gradients.get(name))
                for name, tensor in info.items()
            }
        with torch.no_grad():
            fixed = tree_map(Tensor.detach, prediction)
            discrepancy = D.discrepancy_of(misfit.detach(), fixed, y)
            return Evaluation(
                value.detach() if self.has_value else self.nan(), gradient, discrepancy
            ), intermediates

    def decode_parameters(self, variable: Tensor) -> Decoded:
        """Return the image, and the operator that predicts from it, for a variable."""
        if self.layout is None:
            return Decoded(variable, {}, self.problem.operator)
        parameters = self.layout.unpack(variable)
        implicit, unknowns = self.prior.implicit, self.unknowns
        x, energy = (
            (parameters["x"], None)
            if implicit is None
            else implicit.decode_and_energy(parameters, self.generator())
        )
        operator = (
            self.problem.operator
            if unknowns is None
            else unknowns.operator(self.problem.operator, parameters)
        )
        return Decoded(x, parameters, operator, energy)

    def project(self, variable: Tensor) -> Tensor:
        """Return the nearest variable that the implicit prior allows."""
        implicit = self.prior.implicit
        if self.layout is None or implicit is None or not implicit.has_projection:
            return variable
        parameters = self.layout.unpack(variable)
        return self.layout.pack({**parameters, **implicit.project(parameters)})

    def perturb(self, variable: Tensor, rate: float) -> Tensor:
        """Return the variable with the noise of an `AdaptivePrior` for a step of this length."""
        if self.layout is None or self.adaptive_prior is None:
            return variable
        parameters = self.layout.unpack(variable)
        perturbed = self.adaptive_prior.perturb(parameters, rate, self.generator())
        return (
            variable if perturbed is parameters else self.layout.pack({**parameters, **perturbed})
        )

    def parameter_energy(self, decoded: Decoded) -> Tensor:
        """Return ``S(z)`` and the priors of the unknowns, ``(batch,)``."""
        total = torch.zeros_like(self.regularization)
        if decoded.energy is not None:
            total = total + decoded.energy
        return self.share * (
            total if self.unknowns is None else total + self.unknowns.energy(decoded.parameters)
        )

    def decode(self, variable: Tensor) -> Any:
        """Return the image of a variable, without draws."""
        if self.image_channels is not None:
            return variable[:, : self.image_channels].contiguous()
        if self.layout is None:
            return variable
        with torch.no_grad():
            parameters = self.layout.unpack(variable)
            return (
                parameters["x"]
                if self.prior.implicit is None
                else self.prior.implicit.decode(parameters)
            )

    # -- the loop's changes ------------------------------------------------------------------------

    def at(self, iteration: int) -> Objective:
        """Return the objective of an iteration, with the schedules of data term and priors."""
        before, term = self.problem, self.problem.data_term.at(iteration)
        problem = before if term is before.data_term else before.with_data_term(term)
        return dataclasses.replace(
            self, problem=problem, prior=self.prior.at(iteration), iteration=iteration
        )

    def subset(self, count: int) -> Objective:
        """Return the objective of ``count`` blocks of the measurements, drawn per iteration.

        The terms other than the misfit are scaled by the same share.
        """
        blocks = self.problem.operator.blocks
        assert blocks is not None
        return dataclasses.replace(
            self,
            problem=self.problem.subset(count, self.generator()),
            share=self.share * count / blocks,
        )

    def adapt(
        self, variable: Tensor, statistics: dict[str, Tensor]
    ) -> tuple[Objective, Tensor, Callable[[Tensor], Tensor]]:
        """Adapt the parameters of the implicit prior.

        Returns the objective of the new variable, the new variable, and the function that maps
        tensors of the old shape to the new one.
        """
        prior, layout = self.adaptive_prior, self.layout
        assert prior is not None and layout is not None
        old = layout.unpack(variable)
        prior_parameters = {
            name: leaf
            for name, leaf in old.items()
            if self.unknowns is None or name not in self.unknowns.starts
        }
        new, transfer = prior.adapt(prior_parameters, statistics, self.iteration, self.generator())
        after = Layout(
            layout.names, tuple(tuple(new.get(name, old[name]).shape[1:]) for name in layout.names)
        )

        def move(vector: Tensor) -> Tensor:
            return after.pack(
                {
                    name: transfer(name, leaf) if name in new else leaf
                    for name, leaf in layout.unpack(vector).items()
                }
            )

        return dataclasses.replace(self, layout=after), after.pack({**old, **new}), move

    def resize(self, variable: Tensor, layout: Layout) -> Tensor:
        """Return a variable of this objective in a larger layout, with the same decoded image."""
        prior = self.adaptive_prior
        assert prior is not None and self.layout is not None
        old = self.layout.unpack(variable)
        theirs = () if self.unknowns is None else self.unknowns.starts
        shapes = {
            name: shape for name, shape in zip(layout.names, layout.shapes) if name not in theirs
        }
        return layout.pack({**old, **prior.resize({name: old[name] for name in shapes}, shapes)})

    def each_alone(self, function: Callable[[Objective, T], S], value: T) -> S:
        """Apply a function to the objective of every item by itself, and join the results.

        Products of stacked matrices round differently in a batch of another size. Where a method
        amplifies such differences (a Newton step in the weights of a network), this keeps the
        answer of an item the same whatever its neighbours are.

        Args:
            function: function of an objective and of a pytree of its items.
            value: pytree of all items.
        """
        if self.batch == 1:
            return function(self, value)
        places = torch.arange(self.batch, device=self.regularization.device).split(1)
        return join_items([function(self.select(k), select_items(value, k)) for k in places])

    def with_regularization(self, regularization: Tensor) -> Objective:
        return dataclasses.replace(self, regularization=regularization)

    def select(self, index: Tensor) -> Objective:
        return dataclasses.replace(
            self,
            problem=self.problem.select(index),
            prior=self.prior.select(index),
            regularization=self.regularization.index_select(0, index),
            unknowns=None if self.unknowns is None else self.unknowns.select(index),
        )
