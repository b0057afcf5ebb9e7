"""A scene of Gaussians that bends, filmed by three cameras

A bar of 256 Gaussians is known at rest, and three cameras film it while it bends. Every Gaussian
moves independently of the others, so pictures alone leave open the motion of those inside and of
those behind. As-rigid-as-possible motion joins the neighbours: the views of a fourth camera, which
took no part, become right.

The times are solved one after the other, each from the result of the one before. Local rigidity,
isometry and as-isometric-as-possible motion are compared in `benchmarks/bending_scene.py`.
"""

import matplotlib.pyplot as plt
import torch

import invtoolbox as it
from invtoolbox.geometry import Moving, NeighbourGraph, Splats, look_at
from invtoolbox.operators import GaussianRenderer, OverTime
from invtoolbox.priors import ARAP, Deformation, PointMotion

steps = [(torch.arange(n) + 0.5) / n - 0.5 for n in (16, 4, 4)]
points = torch.cartesian_prod(*steps) * torch.tensor([4.0, 0.8, 0.8])
colors = torch.rand(len(points), 3, generator=torch.Generator().manual_seed(0))
bar = Splats.of_points(points[None], colors[None], 0.11, 0.9)


def bend(share):
    """Compute the displacements of a bar that bends to a share of 100 degrees."""
    radius = 4.0 / (1.75 * share)
    angle, out = points[:, 0] / radius, radius - points[:, 1]
    place = torch.stack([angle.sin() * out, radius - angle.cos() * out, points[:, 2]], 1)
    return Moving((place - points)[None, None], None, bar)


places = torch.tensor([[2.3, -2.0, -5.5], [3.6, -2.0, 4.8], [-5.9, -2.0, 0.7], [0.0, -3.5, -5.0]])
cameras = look_at(places, size=(40, 48), field_of_view=55.0)
A, unseen = (OverTime([GaussianRenderer(cameras[k])]) for k in (slice(0, 3), [3]))
motion = Deformation(bar, PointMotion(times=1))
rigid = motion + 1.0 * ARAP(graph=NeighbourGraph.of_points(points, 10))

pictures = {"true": unseen(bend(1.0))}
for name, prior in (("no prior", motion), ("as rigid as possible", rigid)):
    parameters, quality = None, []
    for time in range(1, 7):
        truth = bend(time / 6)
        y = A(truth)
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(time))
        solution = it.solve(
            it.Problem(y + 0.02 * noise, A, it.data_terms.Photometric(similarity=0.0)),
            prior,
            it.solvers.Adam(learning_rate=3e-3, epsilon=1e-15),
            regularization=1.0,
            initial=parameters,
            max_iterations=60,
            tolerance=0.0,
            progress=False,
        )
        parameters = solution.parameters
        seen = unseen(solution.x)
        quality.append(float(it.metrics.psnr(seen[:, :, 0], unseen(truth)[:, :, 0])))
    pictures[name] = seen
    off = (solution.x.displacements - truth.displacements).norm(dim=-1).mean()
    print(
        f"{name}: {sum(quality) / 6:.1f} dB of a camera that took no part; at the end the Gaussians "
        f"are {100 * float(off) / 4:.1f} % of the length away"
    )

figure, axes = plt.subplots(1, 3, figsize=(9, 2.8))
for axis, (name, picture) in zip(axes, pictures.items()):
    axis.imshow(picture[0, :, 0].permute(1, 2, 0).detach().clamp(0, 1))
    axis.set_title(name)
    axis.axis("off")
figure.tight_layout()
figure.savefig("bending_scene.png", dpi=90)
