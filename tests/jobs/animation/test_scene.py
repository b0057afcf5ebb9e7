"""Scenes of pictures that two scores move: simulated, from files, resumed, and their faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.cli import main
from invtoolbox.datasets.output import write_png
from invtoolbox.errors import InputError
from invtoolbox.simulation.beating_ring import simulate_ring


def test_the_difference_of_two_scores_moves_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    short = {"animation.max_iterations": 120}
    found: Any = it.run("animation-simulated", short, "out", progress=False)
    plain: Any = it.run(
        "animation-simulated", {**short, "preset": "plain"}, "plain", progress=False
    )
    assert found.metrics["psnr"] > found.metrics["psnr at rest"] + 2
    assert plain.metrics["psnr"] < found.metrics["psnr at rest"]
    assert found.metrics["folding"] == 0 < plain.metrics["folding"]
    names = {path.name for path in Path("out").iterdir()}
    assert names == {
        "scene.json",
        "metrics.json",
        "report.html",
        "motion.npz",
        "moved.npy",
        "animation.png",
    }
    for folder, words, tone in (("out", "dB better", "good"), ("plain", "dB worse", "bad")):
        page = Path(folder, "report.html").read_text()
        assert f"{words} than the picture at rest." in page and f"verdict {tone}" in page
    again: Any = it.run("animation-simulated", short, "out", resume=True, progress=False)
    assert again.solution is None and again.metrics == found.metrics
    ring = simulate_ring(1, 0.0, 32)
    for name, image in (("mine", simulate_ring(0, 0.0, 32).moving), ("a0", ring.moving)):
        np.save(f"{name}.npy", image[0, 0].numpy())
    np.save("a1.npy", ring.fixed[0, 0].numpy())
    Path("own.toml").write_text(
        '[animation]\npicture = "mine.npy"\nrest = ["a0.npy"]\nmoved = ["a1.npy"]\n'
        "max_iterations = 3\n"
    )
    assert main(["run", "own.toml", "--output", "own"]) == 0
    assert "moved" in capsys.readouterr().out
    with np.load("own/motion.npz") as file:
        assert file["displacement"].shape == (2, 32, 32)
    color = torch.stack([ring.moving[0, 0], ring.fixed[0, 0], ring.moving[0, 0]])
    write_png("color.png", color)
    shades = {"animation.picture": "color.png", "animation.rest": ["color.png"]}
    it.run("own.toml", {**shades, "animation.moved": ["color.png"]}, "color", progress=False)
    assert it.datasets.open_measurements("color/animation.png")[0].y.shape == (1, 3, 32, 64)
    np.save("small.npy", np.zeros((31, 32)))
    np.save("hole.npy", np.full((32, 32), np.nan))
    np.save("two.npy", np.zeros((2, 1, 32, 32)))
    for changes, message in (
        ({"animation.simulated": True}, "either a picture"),
        ({"animation.simulated": True, "animation.picture": None}, "makes its own pictures"),
        ({"animation.picture": "hole.npy"}, "hole.npy holds NaN"),
        ({"animation.picture": "two.npy"}, "is no picture"),
        ({"animation.moved": []}, "at rest and moved"),
        ({"animation.moved": ["small.npy"]}, "pictures of one size"),
        ({"animation.reference": "both"}, "reference"),
    ):
        with pytest.raises(InputError, match=message):
            it.run("own.toml", changes, "no", progress=False)


def test_the_pull_ends_at_the_difference_of_the_models() -> None:
    """With sharp scores the gradient is proportional to (x - x0) - (m1 - m0)."""
    draws = torch.rand(4, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    x, start, moved, rest = draws.double().unsqueeze(1)
    score, reference = (it.priors.GaussianScore(m[0], 0.0) for m in (moved, rest))
    pull = it.priors.ScoreDistillation(score, reference, origin=start)
    wanted = (x - start) - (moved - rest)
    for seed in range(2):
        found = pull.gradient(x, torch.Generator().manual_seed(seed))
        ratio = found / wanted
        assert torch.allclose(ratio, ratio.mean()) and float(ratio.mean()) > 0
    assert pull.gradient(start + moved - rest).abs().max() < 1e-12
    # Two pictures per item, and a subset of one of them.
    views = torch.stack([x, start], 2).expand(2, -1, -1, -1, -1)
    many = it.priors.ScoreDistillation(score, reference, origin=torch.stack([start, x], 2))
    assert torch.equal(many.gradient(views)[0], many.gradient(views)[1])
    assert many.subset(torch.tensor([1])).gradient(views[:, :, 1:]).shape == views[:, :, 1:].shape
    with pytest.raises(InputError, match="one item of the same shape"):
        many.gradient(x)
    with pytest.raises(InputError, match="give reference="):
        it.priors.ScoreDistillation(score, origin=start)
