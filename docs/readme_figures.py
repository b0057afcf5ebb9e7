"""Draw the README's three pictures from the data of `make demo`.

    python docs/readme_figures.py

A CT slice, a deblurred photograph and the scene flow of a simulated street, each below 100 kB, in
`docs/figures`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import hsv_to_rgb
from torch import Tensor

from invtoolbox.cli.demo import ct_case, deblurring_case, street_case

FOLDER = Path(__file__).resolve().parent / "figures"
#: Largest size of a picture in bytes.
LIMIT = 100_000
#: Half the side of the part of the street that is drawn, in metres.
RADIUS = 30.0


def write(figure: Any, name: str) -> None:
    """Write a figure as JPEG to the folder of figures and check its size."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / name
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 85, "optimize": True})
    if path.stat().st_size > LIMIT:
        raise SystemExit(f"{path} has {path.stat().st_size} bytes; at most {LIMIT} are allowed")


def side_by_side(pictures: dict[str, Any], name: str, deviation: str = "", **options: Any) -> None:
    """Draw titled pictures in one row; the picture of the title ``deviation`` in colors of its own."""
    rows, columns = next(iter(pictures.values())).shape[:2]
    height = 9 / len(pictures) * rows / columns + 0.25  # inches, with the titles
    figure, axes = plt.subplots(1, len(pictures), figsize=(9, height), layout="constrained")
    for ax, (title, picture) in zip(axes, pictures.items()):
        ax.imshow(picture.numpy(), **({"cmap": "inferno"} if title == deviation else options))
        ax.set_title(title, fontsize=10)
        ax.axis("off")
    write(figure, name)


def from_above(ax: Any, points: Tensor, flow: Tensor, title: str) -> None:
    """Draw a sweep from above, ahead to the right; moving points have colors and arrows."""
    moves = flow.norm(dim=1) > 0.05  # metres per sweep
    ax.scatter(*points[:, :2].T.numpy(), s=0.6, c="0.72", linewidths=0)
    where, step = points[moves], flow[moves]
    hue = (torch.atan2(step[:, 1], step[:, 0]) / (2 * torch.pi)) % 1
    color = hsv_to_rgb(torch.stack([hue, 0 * hue + 1, 0 * hue + 0.8], 1).numpy())
    ax.scatter(*where[:, :2].T.numpy(), s=5, c=color, linewidths=0)
    some = slice(None, None, 12)
    ends = dict(angles="xy", scale_units="xy", scale=0.15, width=0.004)  # flow over 0.7 s
    ax.quiver(*where[some, :2].T.numpy(), *step[some, :2].T.numpy(), color=color[some], **ends)
    ax.plot(0, 0, "k>", markersize=6)
    ax.set(xlim=(-RADIUS, RADIUS), ylim=(-0.6 * RADIUS, 0.6 * RADIUS), aspect="equal")
    ax.set_title(title, fontsize=10)
    ax.set(xticks=[], yticks=[])


def main() -> None:
    """Solve the three cases of the demonstration and draw them."""
    ct = ct_case(print)
    shown = ("FBP", "tv", "auto")
    pictures = {
        f"{method.name}, {value:.1f} dB": method.x[0, 0]
        for method, value in zip(ct.methods, ct.figures()["PSNR [dB]"])
        if method.name in shown
    }
    pictures["true slice"] = ct.reference[0, 0]
    assert ct.deviation is not None
    title = "how sure: deviation"
    pictures[title] = ct.deviation[2][0, 0]
    side_by_side(pictures, "ct_slice.jpg", title, cmap="gray", vmin=0, vmax=0.03)

    photograph = deblurring_case(print)
    part = (0, slice(None), slice(30, 160), slice(30, 190))
    shown = ("Blurred", "tv", "denoiser-natural")
    pictures = {
        f"{method.name}, {value:.1f} dB": method.x[part].permute(1, 2, 0).clamp(0, 1)
        for method, value in zip(photograph.methods, photograph.figures()["PSNR [dB]"])
        if method.name in shown
    }
    pictures["true photograph"] = photograph.reference[part].permute(1, 2, 0)
    side_by_side(pictures, "deblurring.jpg")

    street = street_case(print)
    found = street.methods[-1]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    from_above(
        axes[0], street.points, found.residual, "scene flow found in a window of five sweeps"
    )
    from_above(axes[1], street.points, street.truth, "true scene flow")
    write(figure, "scene_flow.jpg")


if __name__ == "__main__":
    main()
