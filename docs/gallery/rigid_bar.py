"""A bar, bent and twisted by its ends

Both ends of a bar are handles, and one of them is turned by 90 degrees about the length and by 60
degrees about the side. The vertices in between follow as rigidly as possible: every neighbourhood
of the mesh turns as a whole, and stretches as little as possible.

The middle picture shows the same handles under the linear energy, in which neighbourhoods do not
turn: the twisted part of the bar collapses.
"""

import torch

import invtoolbox as it
from invtoolbox.geometry import Mesh
from invtoolbox.geometry.rigid import rotation
from invtoolbox.jobs.shapes.deformation import deformation
from invtoolbox.plotting.figures import mesh_figure

# A tube with a square cross-section: rings of 16 vertices along z.
around, along = 16, 40
corner = torch.arange(around, dtype=torch.float64) / around * 4
side = corner.floor()
step = 2 * (corner - side) - 1
ring = torch.stack(
    [torch.where(side % 2 == 0, step, 1.0), torch.where(side % 2 == 0, -1.0, step)], 1
)
ring = torch.where(side[:, None] < 2, ring, -ring)
vertices = torch.cat(
    [
        torch.cat([ring, torch.full((around, 1), 0.25 * k, dtype=torch.float64)], 1)
        for k in range(along)
    ]
)
i = torch.arange(around * (along - 1))
right = i // around * around + (i + 1) % around
faces = torch.cat(
    [torch.stack([i, right, i + around], 1), torch.stack([right, right + around, i + around], 1)]
)
bar = Mesh(vertices, faces)

low, high = torch.arange(2 * around), torch.arange(around * (along - 2), around * along)
about_side, about_length = (
    torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.5]], dtype=torch.float64) * torch.pi / 3
)
turn = rotation(about_side) @ rotation(about_length)
centre = vertices[high].mean(0)
goal = torch.cat(
    [vertices[low], (vertices[high] - centre) @ turn.T + centre + torch.tensor([0.0, -3.0, -1.0])]
)
handles = (torch.cat([low, high]), goal)

linear = it.deform(
    bar, handles, solver=it.solvers.LocalGlobal(memory=0), max_iterations=1
)  # no neighbourhood has turned yet
solution = deformation(bar, handles, tolerance=1e-4)
rigid = bar.with_vertices(vertices + solution.x[0])


def strain(moved):
    """Compute the mean relative change of length of the edges at each vertex."""
    graph = it.geometry.NeighbourGraph.of_mesh(vertices, faces, "uniform")
    a, b = graph.edges
    change = (
        (moved.vertices[a] - moved.vertices[b]).norm(dim=1) / graph.vectors.norm(dim=1) - 1
    ).abs()
    return torch.zeros(len(vertices), dtype=torch.float64).index_add(0, a, change) / torch.bincount(
        a
    )


for name, mesh in (("linear", linear), ("as rigid as possible", rigid)):
    print(
        f"{name}: edges change their length by {100 * float(strain(mesh).mean()):.0f} % in the mean"
    )
energy = solution.history["objective"][:, 0]
print(
    f"{int(solution.iterations[0])} iterations, energy {float(energy[0]):.3f} to "
    f"{float(energy[-1]):.3f}, never up: {bool((energy.diff() <= 1e-12).all())}"
)

colors = [(strain(mesh) / 0.5).clamp(0, 1) for mesh in (bar, linear, rigid)]
figure = mesh_figure(
    [bar, linear, rigid],
    ["at rest", "linear", "as rigid as possible"],
    up=2,
    turn=70.0,
    colors=colors,
)
figure.savefig("rigid_bar.png", dpi=90)
