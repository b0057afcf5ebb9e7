"""Gradient origin networks on digits, compared with an autoencoder of twice the size.

After Bond-Taylor and Willcocks, "Gradient origin networks" (ICLR 2021): ahead of the autoencoder
early in training, level with it late, for any batch size. scikit-learn's digits (1797 pictures of 8
x 8 in [0, 1], 1500 for training, the rest for the test), a decoder 16-128-128-64, Adam at 1e-3 with
64 pictures per step, no averaging. Printed: the squared error of a test picture, summed over its
pixels, after 100, 300, 1000 and 3000 steps; the error of an autoencoder with a mirrored encoder;
the error of the same network without differentiation through the origin; the difference of a
picture's latents between batches of different sizes; and the posterior of noisy digits with two
missing rows under the trained prior.

    python benchmarks/gradient_origin.py [--seeds 1] [--steps 3000]
"""

from __future__ import annotations

import itertools

import torch
from common import machine, run_script, verdict
from torch import Generator, Tensor, nn

import invtoolbox as it
from invtoolbox.priors.implicit.latent_networks import GradientOriginNetwork
from invtoolbox.training import L2, Stage, keep_freed_memory, train
from invtoolbox.training.pairs import Pairs

AT = (100, 300, 1000, 3000)


class Pictures(Pairs):
    """Pairs of a picture and itself."""

    def __init__(self, images: Tensor, whole: bool = False) -> None:
        self.images, self.whole = images, whole

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        x = (
            self.images
            if self.whole
            else self.images[torch.randint(len(self.images), (count,), generator=generator)]
        )
        return x, x

    def __repr__(self) -> str:
        return f"Pictures({tuple(self.images.shape)})"


class Detached(GradientOriginNetwork):
    """A network whose origin counts as independent of the weights."""

    def origin(self, x: Tensor) -> Tensor:
        return super().origin(x).detach()


def dense(sizes: tuple[int, ...], activation: type[nn.Module]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for k, (n, m) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Linear(n, m), *([activation()] if k < len(sizes) - 2 else [])]
    return layers


def networks() -> dict[str, nn.Module]:
    def decoder(activation: type[nn.Module]) -> nn.Module:
        return nn.Sequential(*dense((16, 128, 128, 64), activation), nn.Unflatten(1, (1, 8, 8)))

    made: dict[str, nn.Module] = {}
    for activation in (nn.ELU, nn.ReLU, nn.SiLU):
        made[f"origin network, {activation.__name__}"] = GradientOriginNetwork(
            decoder(activation), 16
        )
    made["autoencoder, ELU"] = nn.Sequential(
        nn.Flatten(), *dense((64, 128, 128, 16), nn.ELU), decoder(nn.ELU)
    )
    made["origin network, ELU, origin detached"] = Detached(decoder(nn.ELU), 16)
    return made


def main(seeds: int = 1, steps: int = 3000) -> None:
    keep_freed_memory()
    from sklearn.datasets import load_digits

    digits = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 16
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    learned, held = digits[order[:1500]], digits[order[1500:]]
    at = [k for k in AT if k <= steps]
    print(
        f"# {machine()}\n# squared error of a test picture after {at} steps, mean of {seeds} seeds"
    )
    errors: dict[str, Tensor] = {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        for name, network in networks().items():
            trained = train(
                network,
                Pictures(learned),
                [Stage(L2(), steps, 1e-3, 64, "last")],
                seed=seed,
                progress=False,
                validation=Pictures(held, whole=True),
                validate_every=100,
            )
            curve = {int(step): 64 * loss for step, loss in trained.validation.tolist()}
            errors[name] = (
                errors.get(name, torch.zeros(len(at)))
                + torch.tensor([curve[k] for k in at]) / seeds
            )
            if seed == 0 and name == "origin network, ELU":
                kept = trained.network
    for name, network in networks().items():
        count = sum(p.numel() for p in network.parameters())
        print(
            f"{name:38s} {count / 1e3:5.1f}k weights  "
            + "  ".join(f"{float(e):.3f}" for e in errors[name]),
            flush=True,
        )
    own, other, cut = (
        errors["origin network, ELU"],
        errors["autoencoder, ELU"],
        errors["origin network, ELU, origin detached"],
    )
    print(
        verdict(
            bool((own[:2] < other[:2]).all()), "ahead of the autoencoder after 100 and 300 steps"
        )
    )
    if len(at) == 4:
        ratio = float(own[3] / other[3])
        print(
            verdict(
                ratio < 1.1,
                f"within 10 % of it after 3000, with half of the weights: {ratio:.3f} of its error",
            )
        )
        print(
            verdict(
                bool(cut[3] > 1.4 * own[3]),
                f"1.4 times better than with the origin detached, {float(cut[3] / own[3]):.2f}",
            )
        )
    assert isinstance(kept, GradientOriginNetwork)
    with torch.no_grad():
        whole = kept.origin(held[:64])
        lone = torch.cat([kept.origin(x) for x in held[:64].split(1)])
    away = float((whole - lone).norm() / whole.norm())
    print(
        verdict(
            away < 1e-5,
            f"latents of 64 pictures at once and one by one: relative difference {away:.1e}",
        )
    )
    _posterior(kept, learned, held)


def _posterior(network: GradientOriginNetwork, learned: Tensor, held: Tensor) -> None:
    """Compute the posterior of fifty digits with noise and two missing rows."""
    prior = it.priors.GradientOrigin.fit(network, learned)
    mask = torch.ones(1, 8, 8)
    mask[..., 3:5, :] = 0
    A = it.operators.Inpainting(mask, (1, 8, 8))
    truth, noise = held[:50], 0.2
    y = A.simulate(truth, noise, seed=list(range(len(truth))))
    solver = it.solvers.VariationalLatent(family="gaussian", learning_rate=0.05, max_iterations=600)
    solution = it.solve(
        it.Problem(y, A, it.data_terms.LeastSquares(noise_std=noise)), prior, solver, progress=False
    )
    mean = solution.posterior.mean
    for name, part, flat in (
        ("seen", mask, y),
        ("unseen", 1 - mask, learned.mean(0, keepdim=True).expand_as(truth)),
    ):
        error, other = (
            float(((x - truth) * part).square().sum() / (part.sum() * len(truth))) ** 0.5
            for x in (mean, flat)
        )
        spread = float((solution.posterior.std * part).sum() / (part.sum() * len(truth)))
        print(
            f"digits with noise {noise:g} and two rows missing, pixels {name}: error of the "
            f"posterior mean {error:.3f}, of the "
            f"{'measurement' if name == 'seen' else 'mean digit'} {other:.3f}, standard deviation "
            f"{spread:.3f}"
        )


if __name__ == "__main__":
    run_script(main)
