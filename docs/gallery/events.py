"""Events: the flow of the picture and the motion of the camera

A camera moves in front of a smooth surface with bright points. Their events smear over the
picture. Along the flow they meet again, and the flow that makes them meet is the answer.

The camera follows from the flow: a point of a static world moves on its epipolar line, whatever its
depth.
"""

import torch

import invtoolbox as it

truth = it.simulation.simulate_events(seed=8, count=6000, points=150)
found = it.event_flow(truth.events, truth.intrinsics, iterations=90)

wrong = (found.at_events() - truth.flow).norm(dim=1).mean()
print(f"error of the flow: {100 * float(wrong / truth.flow.norm(dim=1).mean()):.1f} %")
v = found.twist[0, 2, :3].double()
angle = torch.rad2deg(torch.arccos(v @ truth.twist[:3] / truth.twist[:3].norm()))
print(f"direction of the camera: {float(angle):.1f} degrees off")

still, warped = found.pictures()
figure = it.jobs.events.event_figure(still[0], warped[0], found.flow[0])
figure.savefig("events.png", dpi=90)
