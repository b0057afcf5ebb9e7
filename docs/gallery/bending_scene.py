"""A scene of Gaussians that bends, filmed by three cameras

A bar of 256 Gaussians is known at rest, and three cameras film it while it bends, twists and shifts.
Every Gaussian moves independently of the others, so pictures alone leave open the motion of those
inside and of those behind. As-rigid-as-possible motion joins the neighbours: the views of six
cameras that took no part become right.

The scene file is `scenes/bending-bar.toml`; `invtoolbox run bending-bar` runs it. Its presets choose
no prior, local rigidity, isometry, or as-isometric-as-possible motion, which are compared in
`benchmarks/bending_scene.py`. The same file takes pictures of your own: a folder of photographs per
time, and the Gaussians of `invtoolbox reconstruct` at rest.
"""

import matplotlib.pyplot as plt

import invtoolbox as it

presets = {"no prior": "none", "as rigid as possible": None}
figure, axes = plt.subplots(len(presets), 1, figsize=(9, 7))
for axis, (name, preset) in zip(axes, presets.items()):
    outcome = it.run(
        "bending-bar",
        {"motion.simulate.times": 5} | ({"preset": preset} if preset else {}),
        output=f"bending-bar/{name}",
        progress=False,
    )
    quality, error = outcome.mean("psnr"), outcome.mean("error")
    print(
        f"{name}: {quality:.1f} dB of cameras that took no part; the Gaussians are {error:.1f} % of "
        "the diagonal away"
    )
    axis.imshow(plt.imread(outcome.folder / "motion.png"))
    axis.set_title(f"{name}: {quality:.1f} dB; true views above, estimated views below")
    axis.axis("off")
figure.tight_layout()
figure.savefig("bending_scene.png", dpi=90)
