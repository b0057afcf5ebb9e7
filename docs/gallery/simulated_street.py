"""A simulated street with exact scene flow

A spinning lidar drives through a town where cars, people and cyclists drive, turn, brake and stand.
Each sweep has noise, drop-out and rolling shutter, and exact labels: the flow of every point, its
category, its object, and whether it moves.

The flow contains the sensor's own motion; after its removal, static points have no flow. On the
left a sweep as the sensor measures it, colored by height; on the right its residual flow, colored
by direction and speed.
"""

import matplotlib.pyplot as plt
import torch

import invtoolbox as it
from invtoolbox.geometry.rigid import relative_motion, transform
from invtoolbox.plotting.birds_eye import birds_eye_pixels

sequence = it.simulation.street(sweeps=20, seed=5, points=60_000)
sweep, after = sequence[5], sequence[6]
labels = sweep.labels
print(f"{len(sweep)} points, {len(sweep.boxes)} objects, {int(labels.dynamic.sum())} points move")

E = relative_motion(
    sweep.pose, after.pose
)  # static points move from p to E p in the sensor's frame
residual = labels.flow - (transform(E, sweep.points) - sweep.points)
standing = ~labels.dynamic & (labels.instance < 0)
print(f"what stands: residual flow up to {float(residual[standing].norm(dim=1).max()):.0e} m")
for number, name in enumerate(labels.categories):
    moving = labels.dynamic & (labels.category == number)
    if moving.any():
        print(
            f"{name}: {int(moving.sum())} moving points at "
            f"{10 * float(residual[moving].norm(dim=1).mean()):.1f} m/s"
        )

# Points moved by their flow lie on the same objects in the next sweep.
for name, points in (("without", sweep.points), ("with", sweep.points + labels.flow)):
    nearest = torch.cdist(points[labels.dynamic], after.points).amin(1)
    print(f"from moving points to the next sweep, {name} flow: {float(nearest.median()):.2f} m")

figure, axes = plt.subplots(1, 2, figsize=(14, 7), layout="constrained")
near = sweep.points[sweep.points.abs()[:, :2].amax(1) < 40].numpy()
axes[0].scatter(
    -near[:, 1],
    near[:, 0],
    s=0.4,
    c=near[:, 2],
    cmap="viridis",
    vmin=-2,
    vmax=4,
)
axes[0].set(xlim=(-40, 40), ylim=(-40, 40), aspect="equal", title="one sweep, forward is up")
axes[1].imshow(birds_eye_pixels(sweep.points, residual, labels.dynamic, radius=40.0))
axes[1].set_title("flow without the sensor's own motion")
for ax in axes:
    ax.axis("off")
figure.savefig("simulated_street.png", dpi=80)
