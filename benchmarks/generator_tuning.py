"""A generator tuned around one picture of a face: other pictures, with and without locality.

    python benchmarks/generator_tuning.py [--people 35:40] [--steps 100] [--threads 1]

A gradient origin network with 32 latents and a decoder 32-256-256-1024 learns 300 pictures of 30
people (Olivetti faces, 32 x 32 pixels), 2,000 steps of Adam with 64 pictures. For every person of
``--people`` the latents of all pictures are found by `it.solve`. Then `priors.TunedGenerator` tunes
the weights around the first picture, 100 steps of Adam at 1e-3. The held-out pictures are the nine
other pictures of the person, views from other directions, and the pictures of the other people, all
with the latents that they had before. Printed: the squared error of the tuned picture and of the
held-out pictures, relative to their error before tuning.

The noise level of the fit is 0.05, and the weight of the locality 1 / 0.05^2. The radius of the
draws and their number were chosen on ``--people 30:35``. There, with a radius of 3 in place of 8, the
error of the held-out pictures rises as much as without locality.
"""

from __future__ import annotations

import torch
from common import data_folder, machine, run_script, verdict
from gradient_origin import Pictures, dense
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.priors import GradientOrigin, GradientOriginNetwork, TunedGenerator
from invtoolbox.training import L2, Stage, keep_freed_memory, train

LATENTS, NOISE = 32, 0.05


def read_faces() -> Tensor:
    """Return the faces, ``(40 people, 10 pictures, 1, 32, 32)`` in [0, 1]."""
    from scipy.io import loadmat

    values = loadmat(data_folder() / "olivetti_faces" / "olivettifaces.mat")["faces"]
    faces = torch.from_numpy(values.T.copy()).float().view(400, 1, 64, 64).transpose(2, 3) / 255
    return nn.functional.avg_pool2d(faces, 2).view(40, 10, 1, 32, 32)


def learn(pictures: Tensor) -> GradientOrigin:
    """Train the generator."""
    torch.manual_seed(0)
    decoder = nn.Sequential(*dense((LATENTS, 256, 256, 1024), nn.ELU), nn.Unflatten(1, (1, 32, 32)))
    network = GradientOriginNetwork(decoder, LATENTS)
    stage = Stage(L2(), 2000, 1e-3, 64, "last")
    trained = train(network, Pictures(pictures), [stage], seed=0, progress=False)
    assert isinstance(trained.network, GradientOriginNetwork)
    return GradientOrigin.fit(trained.network.requires_grad_(False), pictures)


def main(people: str = "35:40", steps: int = 100, threads: int = 1) -> None:
    """Run the benchmark.

    Args:
        people: first:last+1 of 30 to 39
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    print(machine(), flush=True)
    faces = read_faces()
    prior = learn(faces[:30].flatten(0, 1))
    first, last = map(int, people.split(":"))
    people = faces[first:last]
    count, every = len(people), people.flatten(0, 1)
    A, term = it.operators.Identity((1, 32, 32)), it.data_terms.LeastSquares(noise_std=NOISE)
    found = it.solve(
        it.Problem(every, A, term),
        prior,
        it.solvers.LBFGS(),
        initial=prior.encode(every),
        regularization=1.0,
        max_iterations=100,
        progress=False,
    )
    w = found.parameters["w"]

    def error(x: Tensor) -> Tensor:
        return (x - every).flatten(1).square().mean(1).view(count, 10)

    before = error(found.x)
    print(
        f"people {first + 1} to {last}; root mean square error of the generator "
        f"{before.mean().sqrt():.3f}"
    )
    rises = {}
    for name, locality in (("without locality", 0.0), ("with locality", 1 / NOISE**2)):
        tuned = TunedGenerator(prior, w.view(count, 10, -1)[:, 0], locality)
        solution = it.solve(
            it.Problem(people[:, 0], A, term),
            tuned,
            it.solvers.Adam(learning_rate=1e-3),
            regularization=1.0,
            max_iterations=steps,
            progress=False,
        )
        own, person, others, held = [], [], [], []
        for k in range(count):
            with torch.no_grad():
                after = error(tuned.tune(solution.parameters, k).decode({"w": w}))
            mine = torch.zeros(count, 10, dtype=torch.bool)
            mine[k] = True
            picture = torch.zeros_like(mine)
            picture[k, 0] = True
            for ratios, part in (
                (own, picture),
                (person, mine & ~picture),
                (others, ~mine),
                (held, ~picture),
            ):
                ratios.append(float(after[part].mean() / before[part].mean()))
        mean = [sum(r) / count for r in (own, person, others, held)]
        rises[name] = mean[3] - 1
        print(
            f"  {name:17} tuned picture {mean[0]:.3f} of its error; held-out pictures "
            f"{mean[3] - 1:+.1%}: other pictures of the person {mean[1] - 1:+.1%}, of other people "
            f"{mean[2] - 1:+.1%}; {solution.seconds:.0f} s",
            flush=True,
        )
    print(verdict(rises["without locality"] >= 0.2, "rises by 20 % without locality"))
    print(verdict(rises["with locality"] <= 0.05, "rises by at most 5 % with locality"))


if __name__ == "__main__":
    run_script(main)
