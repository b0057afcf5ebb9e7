"""A normal map: depth with its jumps

A slab rises in front of a plane, like a ramp whose side is a cliff. The normals do not show the
cliff, because they belong to the ramp on one side and to the plane on the other. The
ramp begins at the plane, so the height of the cliff is determined by the way around its end.

Least squares smooths the cliff and bends the plane. Bilateral normal integration lets each pixel
choose the neighbour to which it is connected. `invtoolbox run normals-simulated` does the same from a scene
file, which takes files of your own.
"""

import matplotlib.pyplot as plt
import torch

import invtoolbox as it
from invtoolbox.plotting.figures import mesh_figure

v, u = torch.meshgrid(torch.arange(70.0), torch.arange(96.0), indexing="ij")
ramp = -0.5 * (v - 30).clamp(0, 40)  # pixels; negative is towards the camera
on_ramp = (u > 30) & (u < 66)
truth = torch.where(on_ramp, ramp, 0.0)
down, across = torch.gradient(ramp)
normals = torch.stack([across, -down, torch.ones_like(u)], -1)
normals[~on_ramp] = torch.tensor([0.0, 0.0, 1.0])
normals = torch.nn.functional.normalize(normals, dim=-1)

surfaces = {
    "least squares, k = 0": it.surface_from_normals(normals, k=0.0),
    "bilateral, k = 2": it.surface_from_normals(normals),
}
figure, axes = plt.subplots(1, 4, figsize=(13, 3.2), layout="constrained")
axes[0].imshow((0.5 + 0.5 * normals).numpy())
axes[0].set_title("normals")
pictures = {"depth": truth}
for name, surface in surfaces.items():
    depth = surface.depth[0, 0]
    depth = depth + (truth - depth).median()
    error = float((depth - truth).abs().mean())
    print(f"{name}: mean error {error:.2f} pixels, {surface.solutions[0].seconds:.1f} s")
    pictures[f"{name}: error {error:.2f} pixels"] = depth
for ax, (name, picture) in zip(axes[1:], pictures.items()):
    ax.imshow(picture.numpy(), vmin=-20, vmax=2, cmap="viridis")
    ax.set_title(name)
for ax in axes:
    ax.axis("off")
figure.savefig("normal_map.png", dpi=90)

meshes = [surface.meshes(stretch=None)[0] for surface in surfaces.values()]
mesh_figure(meshes, list(surfaces), up=1, turn=150.0).savefig("normal_map_meshes.png", dpi=90)
