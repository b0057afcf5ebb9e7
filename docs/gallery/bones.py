"""Bones: a moving shape, its parts and a new pose

A tube bends at two places. Its vertices at six times are known. Bones find which parts move rigidly,
how the skin between them follows, and where the joints are.

Then the shape takes a pose that it never had: each joint turns by an angle of its own.
"""

import torch

import invtoolbox as it
from invtoolbox.plotting.figures import mesh_figure

turn = torch.arange(12) * (torch.pi / 6)
ring = 0.5 * torch.stack([0 * turn, turn.cos(), turn.sin()], 1)
along = torch.linspace(0, 9, 46)[:, None, None] * torch.tensor([1.0, 0.0, 0.0])
tube = (along + ring).flatten(0, 1)
i = torch.arange(12 * 45)
right = i // 12 * 12 + (i + 1) % 12
faces = torch.cat([torch.stack([i, right, i + 12], 1), torch.stack([right, right + 12, i + 12], 1)])
rest = it.geometry.Mesh(tube, faces)


def bend(points, joint, angle):
    """Turn what lies beyond a joint about the z axis, with a smooth share around it."""
    share = torch.sigmoid(4 * (tube[:, 0] - joint))
    c, s = torch.cos(angle * share), torch.sin(angle * share)
    x, y, z = points.unbind(1)
    return torch.stack([joint + c * (x - joint) - s * y, s * (x - joint) + c * y, z], 1)


times = torch.linspace(0, 1, 6)
frames = torch.stack([bend(bend(tube, 6.0, 0.9 * t), 3.0, -0.7 * t * t) for t in times])
solution = it.find_bones(rest, frames, count=3, max_iterations=100)
x = solution.x

moved = torch.cat([x.at(float(t))[0][None] for t in range(6)])
error = float((moved - frames).norm(dim=-1).mean())
print(f"error {error:.3f} of a length of 9; parents of the bones {x.skeleton().parents.tolist()}")

skeleton = x.skeleton()
children = (skeleton.parents >= 0).nonzero()[:, 0]
pose = skeleton.pose({int(child): (0.0, 1.0, 0.0) for child in children})
meshes = [rest, rest.with_vertices(frames[-1]), rest.with_vertices(x.at_pose(pose)[0])]
names = ["at rest", "the last time", "a new pose"]
mesh_figure(meshes, names, up=2).savefig("bones.png", dpi=90)
