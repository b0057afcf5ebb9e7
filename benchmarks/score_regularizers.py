"""Two regularizers of a diffusion prior on digits, each against plain score matching.

    python benchmarks/score_regularizers.py [--only separable,smooth] [--steps 1500]

A `DiffusionUNet` is trained on 8,000 digits of MNIST with the same draws for every row; the 2,000
others are the test. Every weight that was tried has a row. The verdicts take the best row on the
test digits, which favors the regularizer.

separable     Yun, Alçalar and Akçakaya, "No alignment needed for generation: learning linearly
              separable representations in diffusion models" (2025): a linear classifier of the
              middle features, averaged over a random window, is trained with the network. Its
              cross-entropy is weighted by ``s^2 / (s^2 + sigma^2)``, so that it counts where the
              digit is visible. Accuracy of such a classifier, fitted to the finished features at
              noise 0.5; Fréchet distance of 1,000 draws to the test digits in the features of a
              separate classifier.
smooth        Guo et al., "Smooth diffusion: crafting smooth latent spaces in diffusion models"
              (CVPR 2024), step-wise variation: ``(|v| - a)^2``, v the derivative with respect to
              the noise of ``<clean image, d>`` for a random direction d of length 1, a the mean
              of ``|v|``. In the paper a is one number for all levels. A variant divides ``|v|`` by
              ``sigma s^2 / (s^2 + sigma^2)``, its value for Gaussian pictures, first. Standard
              deviation of the changes along paths between two noises (lower is smoother), and
              PSNR of unseen digits after DDIM inversion and back.

Every row states the loss on unseen digits, the cost of the regularizer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from common import machine, run_script, verdict
from inverted_networks import dense, digits
from inverted_networks import train as train_classifier
from torch import Generator, Tensor, nn

import invtoolbox as it
from invtoolbox.networks.diffusion_unet import DiffusionUNet
from invtoolbox.training import L2, Loss, Pairs, ScoreMatching, Stage, train

LEVELS, SIGMA_DATA, TRAINED, WIDTH = (0.005, 10.0), 0.33, 8000, 48
PROBED = 0.5  # noise level at which a linear classifier judges the features


class LabelledNoise(Pairs):
    """Digits with noise of every level; the wanted output has the class as a second channel."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        index = torch.randint(len(self.images), (count,), generator=generator)
        clean = self.images[index]
        low, high = LEVELS
        share = torch.rand(count, 2, generator=generator).mean(1).view(-1, 1, 1, 1)
        level = (low * (high / low) ** share).expand_as(clean)
        shown = clean + level * torch.randn(clean.shape, generator=generator)
        label = self.labels[index].view(-1, 1, 1, 1).expand_as(clean)
        return torch.cat([shown, level], 1), torch.cat([clean, label], 1)


class Recorded(nn.Module):
    """A part of a network that keeps its last output."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.seen = part, torch.empty(0)

    def forward(self, *inputs: Tensor) -> Tensor:
        self.seen = self.part(*inputs)
        return self.seen


class Probed(nn.Module):
    """The network, and a linear classifier of its middle features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = DiffusionUNet(
            widths=(24, WIDTH), blocks=1, sigma_data=SIGMA_DATA, levels=LEVELS
        )
        self.classifier = nn.Linear(WIDTH, 10)
        self.network.middle = Recorded(self.network.middle)

    def forward(self, shown: Tensor) -> Tensor:
        clean: Tensor = self.network(shown)
        return clean


@dataclass(frozen=True)
class OfImages(Loss):
    """Score matching that ignores the class in the wanted output."""

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        return L2()(result, wanted[:, :1])

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        return ScoreMatching(SIGMA_DATA).of_network(network, shown, wanted[:, :1], generator)


@dataclass(frozen=True)
class Separable(OfImages):
    """Score matching and the weighted cross-entropy of the classifier of the middle features."""

    weight: float

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        judged = super().of_network(network, shown, wanted, generator)
        z = network.network.middle.seen
        row, column = (int(torch.randint(3, (), generator=generator)) for _ in range(2))
        window = z[..., row : row + z.shape[2] - 2, column : column + z.shape[3] - 2]
        answer = network.classifier(window.mean((2, 3)))
        level, label = shown[:, 1, 0, 0], wanted[:, 1, 0, 0].long()
        share = SIGMA_DATA**2 / (SIGMA_DATA**2 + level**2)
        return judged + self.weight * share * F.cross_entropy(answer, label, reduction="none")


@dataclass(frozen=True)
class Smooth(OfImages):
    """Score matching and the penalty of step-wise variation."""

    weight: float
    by_level: bool

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        with torch.enable_grad():
            shown = shown.detach().requires_grad_(True)
            clean = network(shown)
            d = torch.randn(clean.shape, generator=generator)
            d = d / d.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            (v,) = torch.autograd.grad((clean * d).sum(), shown, create_graph=True)
        judged = super().of_network(lambda _: clean, shown, wanted, generator)  # type: ignore[arg-type]
        level = shown[:, 1, 0, 0].detach()
        # The derivative with respect to the noise is sigma times the one for the noisy image.
        length = (level.square() * v[:, 0].flatten(1).square().sum(1) + 1e-12).sqrt()
        if self.by_level:
            length = length * (SIGMA_DATA**2 + level**2) / (level * SIGMA_DATA**2)
        return judged + self.weight * (length - length.mean().detach()).square()


def trained(loss: Loss, images: Tensor, labels: Tensor, steps: int) -> Probed:
    stage = Stage(loss, steps, 2e-3, 64, decay="linear")
    pairs = LabelledNoise(images, labels)
    # In evaluation the network takes the items of a batch one by one.
    return train(Probed(), pairs, [stage], seed=1, progress=False).network.train()


def unseen_loss(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    shown, wanted = LabelledNoise(images, labels).draw(4000, Generator().manual_seed(5))
    with torch.no_grad():
        return float(OfImages().of_network(network, shown, wanted, Generator()).mean())


def flow(network: Probed, w: Tensor, steps: int = 20) -> Tensor:
    """Return the images of noises by DDIM without fresh noise."""
    schedule = levels(steps)
    x = 0.5 + schedule[0] * w
    with torch.no_grad():
        for level, following in pairwise(schedule):
            clean = network.network(x, torch.tensor([level]))
            x = clean + following / level * (x - clean)
    return x


def inverted(network: Probed, x: Tensor, steps: int = 20) -> Tensor:
    """Return the noises of images by DDIM inversion, from the last positive level upward."""
    schedule = levels(steps)
    with torch.no_grad():
        for level, following in reversed(list(pairwise(schedule[:-1]))):
            clean = network.network(x, torch.tensor([following]))
            x = clean + level / following * (x - clean)
    return (x - 0.5) / schedule[0]


def levels(steps: int) -> list[float]:
    high, low = 5.0 ** (1 / 7), 0.01 ** (1 / 7)
    return [(high + k / (steps - 1) * (low - high)) ** 7 for k in range(steps)] + [0.0]


def frechet(a: Tensor, b: Tensor) -> float:
    """Return the Fréchet distance ``|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2))`` of features."""
    a, b = a.double(), b.double()
    mean = (a.mean(0) - b.mean(0)).square().sum()
    first, second = a.T.cov(), b.T.cov()
    together = torch.linalg.eigvals(first @ second).real.clamp_min(0).sqrt().sum()
    return float(mean + first.trace() + second.trace() - 2 * together)


def features(network: Probed, images: Tensor) -> Tensor:
    noise = PROBED * torch.randn(images.shape, generator=Generator().manual_seed(3))
    with torch.no_grad():
        network.network(images + noise, torch.tensor([PROBED]))
        return network.network.middle.seen.mean((2, 3))


def probe(network: Probed, known: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Fit a linear classifier to the middle features; return its accuracy on the test digits."""
    z, z_test = features(network, known[0]), features(network, test[0])
    centre, size = z.mean(0), z.std(0).clamp_min(1e-6)
    z, z_test = (z - centre) / size, (z_test - centre) / size
    torch.manual_seed(0)
    classifier = nn.Linear(z.shape[1], 10)
    optimizer = torch.optim.LBFGS(classifier.parameters(), max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(classifier(z), known[1])
        value.backward()
        return value

    optimizer.step(closure)
    return float((classifier(z_test).argmax(1) == test[1]).float().mean())


def separable(known: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], steps: int) -> None:
    network = train_classifier(dense, *known, seed=7)
    seen = network[:-1](test[0])
    accuracy = float((network(test[0]).argmax(1) == test[1]).float().mean())
    print(f"separable features; the separate classifier is right in {accuracy:.3f}", flush=True)
    found = {}
    w = torch.randn(1000, 1, 28, 28, generator=Generator().manual_seed(11))
    for weight in (0.0, 0.03, 0.3):
        model = trained(Separable(weight) if weight else OfImages(), *known, steps)
        loss, right = unseen_loss(model, *test), probe(model, known, test)
        away = frechet(network[:-1](flow(model, w)), seen)
        found[weight] = away
        print(
            f"  weight {weight:<5g} loss on unseen digits {loss:.4f}, linear classifier right in "
            f"{right:.3f}, Fréchet distance {away:.2f}",
            flush=True,
        )
    best = min(value for weight, value in found.items() if weight)
    print(f"  {best / found[0.0]:.2f} of the distance " + verdict(best <= 0.9 * found[0.0], "0.9"))


def smooth(known: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], steps: int) -> None:
    print("step-wise variation", flush=True)
    first, second = torch.randn(2, 64, 1, 28, 28, generator=Generator().manual_seed(12))
    angle = torch.linspace(0, torch.pi / 2, 9)
    w = torch.stack([a.cos() * first + a.sin() * second for a in angle])
    shown = test[0][:200]
    found = {}
    rows = [(0.0, False), (0.1, False), (1.0, False), (0.01, True), (0.1, True)]
    for weight, by_level in rows:
        loss = Smooth(weight, by_level) if weight else OfImages()
        model = trained(loss, *known, steps)
        unseen = unseen_loss(model, *test)
        x = flow(model, w.flatten(0, 1)).unflatten(0, w.shape[:2])
        change = (x[1:] - x[:-1]).flatten(2).norm(dim=2)
        uneven = float((change.std(0) / change.mean(0)).mean())
        again = flow(model, inverted(model, shown))
        psnr = float(it.metrics.psnr(again, shown).mean())
        found[weight, by_level] = (uneven, psnr)
        print(
            f"  weight {weight:<5g} {'relative to Gaussian' if by_level else 'one mean':20} loss on "
            f"unseen digits {unseen:.4f}, deviation of the changes {uneven:.3f} of their mean "
            f"(mean {float(change.mean()):.2f}), inversion and back {psnr:.2f} dB",
            flush=True,
        )
    plain = found.pop((0.0, False))
    uneven, psnr = min(v[0] for v in found.values()), max(v[1] for v in found.values())
    print(
        f"  {uneven / plain[0]:.2f} of the deviation {verdict(uneven <= 0.9 * plain[0], '0.9')}, "
        f"inversion {psnr - plain[1]:+.2f} dB {verdict(psnr >= plain[1] + 1, '1 dB')}",
        flush=True,
    )


def main(only: str = "separable,smooth", steps: int = 1500) -> None:
    rows = {"separable": separable, "smooth": smooth}
    torch.set_num_threads(1)
    print(f"# {machine()}")
    images, labels = digits()
    known, test = (images[:TRAINED], labels[:TRAINED]), (images[TRAINED:], labels[TRAINED:])
    for name in only.split(","):
        began = time.process_time()
        rows[name](known, test, steps)
        print(f"    {name}: {time.process_time() - began:.0f} s of processor time", flush=True)


if __name__ == "__main__":
    run_script(main)
