"""A trained generator whose weights are tuned around one image (`TunedGenerator`)."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor
from torch.func import functional_call

from invtoolbox.core.guards import check_range
from invtoolbox.core.reductions import sum_items
from invtoolbox.errors import InputError
from invtoolbox.priors.base import ImplicitPrior, Problem
from invtoolbox.priors.implicit.latent_networks import GaussianLatents
from invtoolbox.priors.settings import replace


class TunedGenerator(ImplicitPrior):
    r"""Image ``x = g_v(w)`` of a trained generator at fixed latents w; the weights v are unknown.

    A generator with few latents misses the details of an image. Its weights can learn them, and
    then forget all other images. The locality term keeps the images of latents nearby as they were
    with the weights ``v_0`` of the training:

    .. math:: S(v) = \frac{\lambda}{2} \, \mathrm{mean}_n \, | g_v(w_n) - g_{v_0}(w_n) |^2, \qquad
              w_n = w + \alpha \frac{\xi_n - w}{|\xi_n - w|}, \quad \xi_n \sim N(0, 1).

    The draws are new in every iteration, and the same for all items. Find w first:
    ``it.solve(problem, prior)``, and give its parameters. Every item has weights of its own.

    Source: Roich, Mokady, Bermano and Cohen-Or, "Pivotal tuning for latent-based editing of real
    images", ACM TOG 2022; for generators of 3D scenes Yin et al., "NeRFInvertor", CVPR 2023, whose
    term on densities along rays is left out.

    Args:
        prior: trained generator.
        w: latents of the image in units of their standard deviations, ``(1 or batch, latents)``:
            ``solution.parameters["w"]``.
        locality: the weight :math:`\lambda`; 0 leaves the term out. A value of ``1 / noise_std**2``
            counts a changed pixel like an equal misfit of ``LeastSquares(noise_std)``.
        radius: the distance :math:`\alpha` of the draws; by default the root of twice the number of
            latents, the usual distance of two images. Much nearer draws leave the other images free.
        neighbours: number of draws per iteration.
        seed: seed of the draws.

    Raises:
        InputError: if the latents do not fit the generator or the number of items, or a setting is
            out of range.

    >>> import invtoolbox as it
    >>> decoder = torch.nn.Sequential(torch.nn.Linear(2, 12), torch.nn.Unflatten(1, (1, 3, 4)))
    >>> prior = GaussianLatents(decoder, torch.zeros(2))
    >>> problem = it.Problem(torch.rand(1, 1, 3, 4), it.operators.Identity((1, 3, 4)))
    >>> first = it.solve(problem, prior, it.solvers.LBFGS(), regularization=1e-3, progress=False)
    >>> tuned = TunedGenerator(prior, first.parameters["w"])
    >>> adam = it.solvers.Adam(learning_rate=1e-2)
    >>> second = it.solve(problem, tuned, adam, regularization=1.0, max_iterations=50, progress=False)
    >>> bool((second.x - problem.y).norm() < 0.8 * (first.x - problem.y).norm())
    True
    >>> tuned.tune(second.parameters).sample(3).shape
    torch.Size([3, 1, 3, 4])
    """

    item_fields: ClassVar[tuple[str, ...]] = ("w",)

    def __init__(
        self,
        prior: GaussianLatents,
        w: Tensor,
        locality: float = 1.0,
        radius: float | None = None,
        neighbours: int = 16,
        seed: int = 0,
    ) -> None:
        if not isinstance(prior, GaussianLatents):
            raise InputError(
                "TunedGenerator takes a generator such as priors.GradientOrigin or "
                f"VariationalAutoencoder, got {type(prior).__name__}"
            )
        size = len(prior.mean)
        if w.ndim != 2 or w.shape[1] != size or not bool(w.isfinite().all()):
            raise InputError(
                f"the latents of {prior!r} are finite and (batch, {size}), got {tuple(w.shape)}"
            )
        radius = (2 * size) ** 0.5 if radius is None else float(radius)
        check_range(self, "[0, inf]", locality=locality)
        check_range(self, "(0, inf]", radius=radius)
        check_range(self, "[1, inf)", neighbours=neighbours)
        self.prior, self.w = prior, w.detach().to(prior.mean)
        self.locality, self.radius = float(locality), radius
        self.neighbours, self.seed, self.iteration = int(neighbours), int(seed), 0

    def prepare(self, problem: Problem, solve: Any) -> Self:
        if len(self.w) not in (1, problem.batch):
            raise InputError(
                f"TunedGenerator has the latents of {len(self.w)} images, and the problem has "
                f"{problem.batch}; give the latents of each, or of one image"
            )
        return self

    def at(self, iteration: int) -> Self:
        return replace(self, iteration=iteration)

    def initial(self) -> dict[str, Tensor]:
        """Return the weights of the training, ``(batch, ...)`` each."""
        weights = self.prior.decoder.named_parameters()
        return {n: v.detach().expand(len(self.w), *v.shape).clone() for n, v in weights}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        return torch.cat([self._image(weights, w[None]) for weights, w in self._items(parameters)])

    def energy(self, parameters: dict[str, Tensor], x: Tensor | None) -> Tensor:
        first = next(iter(parameters.values()))
        if self.locality == 0:
            return first.new_zeros(len(first))
        draws = Generator().manual_seed((self.seed * 1_000_003 + self.iteration) % (1 << 62))
        drawn = torch.randn(self.neighbours, len(self.prior.mean), generator=draws).to(self.w)
        energies = []
        for weights, w in self._items(parameters):
            away = drawn - w
            near = w + self.radius * away / away.norm(dim=1, keepdim=True)
            with torch.no_grad():
                before = self._image({}, near)
            change = sum_items((self._image(weights, near) - before).square()).mean()
            energies.append(0.5 * self.locality * change)
        return torch.stack(energies)

    def tune(self, parameters: dict[str, Tensor], item: int = 0) -> GaussianLatents:
        """Return the generator with the weights of an item, as a prior of other images.

        Args:
            parameters: ``solution.parameters``.
            item: number of the item.
        """
        decoder = copy.deepcopy(self.prior.decoder)
        decoder.load_state_dict({n: v[item] for n, v in parameters.items()}, strict=False)
        root = self.prior.root
        return GaussianLatents(decoder, self.prior.mean, root @ root.T)

    def _items(self, parameters: dict[str, Tensor]) -> list[tuple[dict[str, Tensor], Tensor]]:
        """Return the weights and the latents of every item."""
        batch = len(next(iter(parameters.values())))
        pivots = self.w.expand(batch, -1)
        return [({n: v[k] for n, v in parameters.items()}, pivots[k]) for k in range(batch)]

    def _image(self, weights: dict[str, Tensor], w: Tensor) -> Tensor:
        z = self.prior.mean + w @ self.prior.root.T
        return functional_call(self.prior.decoder, weights, (z,))

    def __repr__(self) -> str:
        return f"TunedGenerator({self.prior!r}, locality={self.locality:g})"
