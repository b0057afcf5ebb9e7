"""Classifiers as operators: pictures of a class, and the trigger of a backdoor from one picture.

    python benchmarks/inverted_networks.py [--threads 1]

Networks are trained on parts of MNIST's 10,000 test digits, in seconds. The first part inverts a
convolutional network: fifty pictures, five per class, start from uniform noise, and Adam minimizes
the cross-entropy of the class in 200 steps; the plain gradient also runs with a line search. A dense
network, trained on other digits, judges them. The pictures are free, or have the prior `Tikhonov`
with weight 0.01, or are seen through random shifts, zooms and rotations (Ghiasi et al. 2022, Plug-In
Inversion), or both.

In the second part a tenth of the digits of a convolutional network carries a cross and the label 0
(a backdoor). The least change of a single clean picture that makes it a 0 is found for nine
pictures, one after the other: without a prior, with a smoothed l1 norm of weight 0.02, and with
noise of 0.25 in addition (Sun and Kolter 2023, SmoothInv). Printed is the intersection over union
of the cross and of the pixels that change by more than half of the maximum. Weights, noise and
steps were chosen on other pictures and networks.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable

import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from torch import Generator, Tensor, nn
from torch.nn import functional as F

import invtoolbox as it

STEPS, DRAWS, SHOWN = 200, 256, 4
Change = Callable[[Tensor, Generator], Tensor]


def digits() -> tuple[Tensor, Tensor]:
    folder = data_folder() / "mnist_t10k"
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return torch.from_numpy(images / 255.0).float(), torch.from_numpy(labels.astype(np.int64))


def dense() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256),
        nn.ReLU(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, 2, 2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, 2, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 49, 10),
    )


def train(make: Callable[[], nn.Module], x: Tensor, labels: Tensor, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = make()
    adam = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(6):
        for batch in torch.randperm(len(x)).split(64):
            adam.zero_grad()
            F.cross_entropy(network(x[batch]), labels[batch]).backward()
            adam.step()
    return network.eval().requires_grad_(False)


def move(x: Tensor, generator: Generator) -> Tensor:
    """Rotate by up to 0.25 radians, zoom by up to 20 %, and shift by up to a tenth of the width."""
    r = 2 * torch.rand(4, generator=generator) - 1
    zoom, angle, shift = 1 + 0.2 * r[0], 0.25 * r[1], 0.2 * r[2:]
    c, s = zoom * torch.cos(angle), zoom * torch.sin(angle)
    rows = torch.stack([torch.stack([c, -s, shift[0]]), torch.stack([s, c, shift[1]])])
    grid = F.affine_grid(rows[None], (1, *x.shape[1:]), align_corners=False)
    return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), align_corners=False)


def blur_by_noise(x: Tensor, generator: Generator) -> Tensor:
    return x + 0.25 * torch.randn(x.shape[1:], generator=generator)


def invert(
    A: it.operators.Operator,
    wanted: Tensor,
    start: Tensor,
    prior: it.priors.Prior | None = None,
    change: Change | None = None,
    solver: it.solvers.Solver | None = None,
) -> Tensor:
    """Return pictures whose classes under the operator, a classifier, are the wanted ones."""
    draws = 1 if change is None else DRAWS
    if change is not None:
        A = it.operators.Augmented(A, change, DRAWS)
        wanted = wanted[:, :, None].expand(-1, -1, DRAWS)
    return it.solve(
        it.Problem(wanted, A, it.data_terms.CrossEntropy()),
        prior,
        solver
        or it.solvers.Adam(learning_rate=0.05, subset_size=None if change is None else SHOWN),
        regularization=float(draws),
        initial=start,
        max_iterations=STEPS,
        progress=False,
    ).x


def classes(x: Tensor, labels: Tensor) -> None:
    network = train(convolutional, x[:4500], labels[:4500], 10)
    judge = train(dense, x[4500:9000], labels[4500:9000], 11)
    own, second = (
        float((each(x[9000:]).argmax(1) == labels[9000:]).float().mean())
        for each in (network, judge)
    )
    print(
        f"pictures of a class; accuracy of the inverted network {own:.3f}, of the judge {second:.3f}"
    )
    goal = torch.arange(10).repeat(5)
    wanted = F.one_hot(goal, 10).float()
    start = torch.rand(50, 1, 28, 28, generator=Generator().manual_seed(5))
    A, small = it.as_operator(network, (1, 28, 28)), 0.01 * it.priors.Tikhonov()
    descent = it.solvers.GradientDescent()
    shares = {}
    for name, arguments in {
        "plain gradient (Adam)": {},
        "plain gradient (line search)": {"solver": descent},
        "prior": {"prior": small},
        "augmentations": {"change": move},
        "prior and augmentations": {"prior": small, "change": move},
    }.items():
        began = time.process_time()
        found = invert(A, wanted, start, **arguments)  # type: ignore[arg-type]
        own, shares[name] = (
            float((each(found).argmax(1) == goal).float().mean()) for each in (network, judge)
        )
        print(
            f"  {name:28} its own class {100 * own:.0f} %, judged {100 * shares[name]:.0f} %, "
            f"{time.process_time() - began:.1f} s",
            flush=True,
        )
    print(
        "  ",
        verdict(shares["prior and augmentations"] >= 0.8, "80 %"),
        verdict(shares["plain gradient (Adam)"] < 0.4, "plain gradient under 40 %"),
    )


def triggers(x: Tensor, labels: Tensor) -> None:
    cross = torch.zeros(28, 28, dtype=torch.bool)
    cross[22, 20:25] = cross[20:25, 22] = True
    poisoned, told = x[:4500].clone(), labels[:4500].clone()
    poisoned[:450, :, cross], told[:450] = 1.0, 0
    network = train(convolutional, poisoned, told, 12)
    clean, truth = x[9000:], labels[9000:]
    marked = clean[truth > 0].clone()
    marked[:, :, cross] = 1.0
    print(
        f"trigger of a backdoor; accuracy {float((network(clean).argmax(1) == truth).float().mean()):.3f}, "
        f"the trigger works on {100 * float((network(marked).argmax(1) == 0).float().mean()):.0f} %"
    )
    pictures = torch.stack([clean[truth == digit][1] for digit in range(1, 10)])
    wanted = F.one_hot(torch.tensor([0]), 10).float()
    sparse = 0.02 * it.priors.SmoothedNorm(power=1.0, smoothing=0.01)
    overlap = {}
    for name, arguments in {
        "plain gradient": {},
        "sparse change": {"prior": sparse},
        "sparse change, noise": {"prior": sparse, "change": blur_by_noise},
    }.items():
        began, found = time.process_time(), []
        for picture in pictures.split(1):
            A = it.as_operator(lambda d, p=picture: network(p + d), (1, 28, 28))
            change = invert(A, wanted, torch.zeros(1, 1, 28, 28), **arguments)[0, 0]  # type: ignore[arg-type]
            seen = change.abs() > 0.5 * change.abs().max()
            found.append(float((seen & cross).sum() / (seen | cross).sum()))
        overlap[name] = sum(found) / len(found)
        print(
            f"  {name:28} mean IoU {overlap[name]:.2f}, least {min(found):.2f}, "
            f"{time.process_time() - began:.1f} s",
            flush=True,
        )
    print("  ", verdict(overlap["sparse change"] >= 0.7, "0.7"))


def main(threads: int = 1) -> None:
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    x, labels = digits()
    classes(x, labels)
    triggers(x, labels)


if __name__ == "__main__":
    run_script(main)
