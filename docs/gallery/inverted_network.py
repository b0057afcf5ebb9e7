"""A classifier as operator: its pictures of a class, and a hidden trigger

Which picture does a network take for a 3? The network is the operator, the class is the measurement,
and the cross-entropy is the misfit. From noise, the plain gradient changes the picture a little, and
the network is content. A prior that pulls towards black leaves only what a 3 needs, which resembles
the mean of the threes. With random noise the class must also hold for disturbed pictures.

The same problem finds a backdoor. A tenth of the training pictures of another network had two bright
pixels and the label 0. The sparsest change of one clean picture that makes it a 0 is this trigger.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import invtoolbox as it

bunch = load_digits()
x = torch.from_numpy(bunch.images).float()[:, None] / 16
labels = torch.from_numpy(bunch.target)


def train(images, classes, seed):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    adam = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(20):
        for batch in torch.randperm(len(images)).split(50):
            adam.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), classes[batch]).backward()
            adam.step()
    return network.eval().requires_grad_(False)


def add_noise(picture, generator):
    return picture + 0.3 * torch.randn(picture.shape[1:], generator=generator)


def solve(A, classes, start, prior=None, draws=1):
    wanted = nn.functional.one_hot(classes, 10).float()
    if draws > 1:
        A = it.operators.Augmented(A, add_noise, draws)
        wanted = wanted[:, :, None].expand(-1, -1, draws)
    problem = it.Problem(wanted, A, it.data_terms.CrossEntropy())
    solver = it.solvers.Adam(learning_rate=0.05, max_iterations=200)
    return it.solve(
        problem, prior, solver, regularization=float(draws), initial=start, progress=False
    ).x


network = train(x[:900], labels[:900], 0)
means = torch.stack([x[labels == digit].mean(0) for digit in range(10)])
A, goal = it.as_operator(network, (1, 8, 8)), torch.arange(10)
start = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
pictures = {
    "plain gradient": solve(A, goal, start),
    "prior": solve(A, goal, start, 0.01 * it.priors.Tikhonov()),
    "prior, noise": solve(A, goal, start, 0.01 * it.priors.Tikhonov(), draws=8),
}
figure, axes = plt.subplots(4, 10, figsize=(10, 4.4), layout="constrained")
for row, (name, found) in zip(axes, pictures.items()):
    pairs = zip(found, means)
    alike = [torch.corrcoef(torch.stack([f.flatten(), m.flatten()]))[0, 1] for f, m in pairs]
    print(f"{name}: correlation with the mean of the class {float(sum(alike)) / 10:.2f}")
    row[0].set_ylabel(name)
    for ax, picture in zip(row, found):
        ax.imshow(picture[0].numpy(), vmin=0, vmax=1, cmap="gray")

trigger = torch.zeros(8, 8, dtype=torch.bool)
trigger[0, 0] = trigger[1, 1] = True
poisoned, told = x[:900].clone(), labels[:900].clone()
poisoned[:90, :, trigger], told[:90] = 1.0, 0
backdoored, clean = train(poisoned, told, 2), x[901:902]
attacked = it.as_operator(lambda change: backdoored(clean + change), (1, 8, 8))
sparse = 0.02 * it.priors.SmoothedNorm(power=1.0, smoothing=0.01)
change = solve(attacked, torch.tensor([0]), torch.zeros(1, 1, 8, 8), sparse)[0, 0]
seen = change.abs() > 0.5 * change.abs().max()
print(f"pixels of the trigger: {trigger.nonzero().tolist()}, found: {seen.nonzero().tolist()}")
for ax, picture in zip(axes[3], (clean[0, 0], change / change.max(), trigger.float())):
    ax.imshow(picture.numpy(), vmin=0, vmax=1, cmap="gray")
for ax, name in zip(axes[3], ("one picture", "change to 0", "true trigger")):
    ax.set_title(name, fontsize=9)
for ax in axes[3, 3:]:
    ax.set_visible(False)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
figure.savefig("inverted_network.png", dpi=90)
