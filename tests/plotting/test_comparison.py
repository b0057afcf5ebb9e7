"""A report compares: the simple answer beside the result, in pictures of one size that move together."""

from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.core.decision import Decision
from invtoolbox.plotting import comparison, page
from invtoolbox.plotting.comparison import simple_answer, verdict
from tests.plotting.browser import evaluate
from tests.plotting.test_report import solved


def solve(y: torch.Tensor, A: Any, noise_std: float | None = None, weight: float = 0.1) -> Any:
    problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=noise_std))
    prior = it.priors.Tikhonov()
    return it.solve(problem, prior, regularization=weight, max_iterations=20, progress=False)


def scan() -> Any:
    return it.operators.ParallelBeam((16, 16), torch.arange(12) * math.pi / 12, 24)


def test_the_simple_answer_is_that_of_the_operator() -> None:
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    A = scan()
    name, images = simple_answer(solve(A(x), A), 1) or ("", x)
    assert name == "Filtered back-projection"
    assert torch.equal(images, A.pseudo_inverse(A(x)[:1]))
    noisy = x + 0.1
    name, images = simple_answer(solve(noisy, it.operators.Identity((1, 16, 16))), 2) or ("", x)
    assert name == "Measurements" and torch.equal(images, noisy)
    small = it.operators.Downsampling((16, 16), 2)
    name, images = simple_answer(solve(small(x), small), 2) or ("", x[:1])
    assert name == "Bicubic interpolation" and images.shape == x.shape
    both = small @ it.operators.Blur(torch.ones(3, 3) / 9, (16, 16))  # without a closed form
    assert simple_answer(solve(both(x), both), 2) is None


def test_a_large_matrix_is_not_inverted_for_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    A = it.operators.Matrix(torch.rand(40, 64), (1, 8, 8))
    solution = solve(A(torch.rand(1, 1, 8, 8)), A)
    assert simple_answer(solution, 1) is not None
    monkeypatch.setattr(comparison, "_LARGEST_MATRIX", 40 * 40 * 64 - 1)
    assert simple_answer(solution, 1) is None


def test_gaps_are_interpolated_and_have_no_residual(tmp_path: Path) -> None:
    x = torch.linspace(0, 1, 32).expand(2, 1, 32, 32).contiguous()
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(1, 1, 32, 32, generator=generator) < 0.25
    A = it.operators.Inpainting(mask, (32, 32))
    noise = 0.1 * torch.randn(x.shape, generator=generator)
    solution = dataclasses.replace(solve(A(x + noise), A, noise_std=0.1), x=x)
    name, images = simple_answer(solution, 1) or ("", x)
    assert name == "Interpolation" and images.shape == (1, 1, 32, 32)
    assert float((images - x[:1]).abs().mean()) < 0.15 < float((A(x) - x).abs().mean())
    text = solution.report(tmp_path / "r.html").read_text()
    ratios = [float(ratio) for ratio in re.findall(r"([0-9.]+) times the noise level", text)]
    assert len(ratios) == 2 and all(0.85 < ratio < 1.15 for ratio in ratios)


def test_a_blur_without_boundary_is_compared_where_it_was_measured(tmp_path: Path) -> None:
    kernel = torch.ones(3, 3) / 9
    A = it.operators.Blur(kernel, (18, 20), boundary="valid")
    truth = torch.rand(1, 3, 18, 20, generator=torch.Generator().manual_seed(0))
    solution = solve(A(truth), A, weight=1e-4)
    whole = Controls(solution.report(tmp_path / "w.html", reference=truth).read_text())
    text = solution.report(tmp_path / "r.html", reference=A.crop(truth)).read_text()
    assert whole.figures == Controls(text).figures != []  # both are of the measured part
    shapes = {image.size for image in pictures(text)}
    assert shapes == {(18, 16)}  # columns and rows under the measurements
    gain = psnr(A.crop(solution.x), A.crop(truth)) - psnr(A(truth), A.crop(truth))
    assert f"{abs(gain):.1f} dB {'better' if gain > 0 else 'worse'}" in text
    assert 'class="bar"' in text  # of the errors
    # No grey bar lies under a color photograph.
    assert "rgb(0,0,0),rgb(255,255,255)" not in text


def pictures(text: str) -> list[Any]:
    import base64
    import io

    from PIL import Image

    sources = re.findall(r"data:image/png;base64,([^\"]+)", text)
    return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]


def psnr(x: torch.Tensor, truth: torch.Tensor) -> float:
    return float(it.metrics.psnr(x, truth, data_range=truth.max() - truth.min()))


def test_the_verdict_states_gain_fit_and_status() -> None:
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    A = it.operators.Identity((1, 16, 16))
    solution = solve(x, A, noise_std=0.1)
    text = verdict(solution, 0, 0.1, 0.5, 30.0, ("Measurements", 28.0))
    assert "30.0 dB, 2.0 dB better than the simple answer." in text and "verdict good" in text
    assert "by 20 %, 1 times the noise level (0.1, stated)" in text
    text = verdict(solution, 0, 0.1, 0.5, 30.0, ("Measurements", 31.0))
    assert "1.0 dB worse" in text and "verdict bad" in text
    assert "like the simple answer" in verdict(solution, 0, 0.1, 0.5, 30.0, ("Measurements", 30.01))
    assert '<p class="verdict good"><b>Converged.</b>' in verdict(solution, 0, 0.1, 0.5)
    # A residual far from the noise level is no success, and no failure either.
    assert '<p class="verdict"><b>Converged.</b>' in verdict(solution, 0, 0.3, 0.5)
    diverged = dataclasses.replace(solution, status=("diverged",))
    assert "verdict bad" in verdict(diverged, 0, 0.1, 0.5, 30.0, ("Measurements", 28.0))
    taken = Decision(
        step="simple-answer", item=1, outcome="taken", evidence="error of held-out pixels"
    )
    several = (
        dataclasses.replace(taken, sentence="x{item} is the picture"),
        dataclasses.replace(taken, item=11, sentence="x{item} is the picture too"),
        dataclasses.replace(taken, outcome="kept", sentence="x{item} is kept"),
    )
    batch = dataclasses.replace(solve(x.expand(2, 1, 16, 16), A), decisions=several)
    words = verdict(batch, 1, 0.1, 0.5)
    assert "Note: x of item 1 is the picture." in words
    assert "picture too" not in words and "is kept" not in words
    assert "is the picture" not in verdict(batch, 0, 0.1, 0.5)
    limited = dataclasses.replace(solution, status=("limit",))
    assert "limit of iterations or time" in verdict(limited, 0, math.nan, 0.0)


def test_complex_images_are_compared_by_their_moduli(tmp_path: Path) -> None:
    mask = torch.zeros(16, 16)
    mask[:, ::2] = 1
    A = it.operators.CartesianMRI(mask, (16, 16))
    x = torch.randn(2, 1, 16, 16, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    solution = solve(A(x), A)
    text = solution.report(tmp_path / "r.html", reference=x).read_text()
    zero = A.pseudo_inverse(A(x)).abs()
    scores = [psnr(image[:1], x[:1].abs()) for image in (zero, solution.x.abs())]
    assert Controls(text).figures[:2] == [f"{score:.2f} dB" for score in scores]
    assert text.count("<b>Zero filling</b>") == 2


class Controls(HTMLParser):
    """Pictures without words, and controls without a name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.silent: list[str] = []
        self.figures = re.findall(r'class="figures">([^<]+)<', text)
        self._labels = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self._labels += tag == "label"
        if tag == "img" and not values.get("alt"):
            self.silent.append("img")
        if tag == "input" and not (values.get("aria-label") or self._labels):
            self.silent.append("input")

    def handle_endtag(self, tag: str) -> None:
        self._labels -= tag == "label"


def test_every_picture_has_words_and_every_control_a_name(tmp_path: Path) -> None:
    solution, truth = solved()
    text = solution.report(tmp_path / "r.html", reference=truth).read_text()
    assert not Controls(text).silent and text.count('class="swipe"') == 2
    assert re.search(r'alt="Reconstruction, \d+\.\d\d dB"', text)
    # Without scripting all pictures stay and the sliders are left out.
    assert ".swipe { display: none" in text.split("<noscript>")[1].split("</noscript>")[0]
    assert "<img hidden" not in text


def test_colors_are_readable_in_light_and_in_dark() -> None:
    style = files("invtoolbox.plotting").joinpath("page.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)

    def luminance(color: str) -> float:
        digits = color if len(color) == 6 else "".join(2 * c for c in color)
        values = np.array([int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)])
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    for scheme in (light, dark):
        colors = dict(re.findall(r"--(\w+): #(\w+)", scheme))
        for ink in ("ink", "soft", "good", "bad", "accent"):
            for ground in ("page", "card"):
                lights = sorted(luminance(colors[name]) for name in (ink, ground))
                # WCAG 2.1, contrast of text, level AA.
                assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5, (ink, ground)


LAYOUT = """
const row = document.querySelector('.row'), cards = [...row.children].map(c => c.getBoundingClientRect());
const frames = [...row.querySelectorAll('.frame')].map(f => f.getBoundingClientRect());
const first = cards.filter(c => c.top == cards[0].top);
const result = {columns: first.length, heights: new Set(first.map(c => c.height)).size,
  sizes: new Set(frames.map(f => `${f.width.toFixed(1)} ${f.height.toFixed(1)}`)).size,
  overflow: document.documentElement.scrollWidth - innerWidth, inner: innerWidth}
"""
USE = """
const row = document.querySelector('.row'), frames = [...row.querySelectorAll('.frame')];
const slider = row.querySelector('.swipe input'), frame = frames[1];
slider.value = 40; slider.dispatchEvent(new Event('input', {bubbles: true}));
const cut = frame.querySelector('.cut'), covered = getComputedStyle(cut).clipPath;
const result = {same: cut.firstChild.src == frames[0].querySelector('img').src, covered, others: document.querySelectorAll('.cut').length};
const key = name => frame.dispatchEvent(new KeyboardEvent('keydown', {key: name, bubbles: true, cancelable: true}));
key('ArrowLeft'); result.before = document.querySelectorAll('.zoomed').length;
key('Enter'); key('ArrowLeft'); key('ArrowUp');
result.zoomed = row.querySelectorAll('.zoomed').length; result.at = frames.map(f => f.style.getPropertyValue('--at'));
result.origin = getComputedStyle(frames[0].querySelector('img')).transform;
const box = frame.getBoundingClientRect();
frame.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + box.width / 4, clientY: box.top + box.height / 2, bubbles: true}));
result.moved = frames[2].style.getPropertyValue('--at').split(' ').map(v => Math.round(parseFloat(v)));
frame.click(); result.after = document.querySelectorAll('.zoomed').length
"""


def test_cards_and_pictures_have_one_size_on_a_screen_and_on_a_phone(tmp_path: Path) -> None:
    solution, truth = solved(1, 1, (20, 24))
    path = solution.report(tmp_path / "r.html", reference=truth)
    wide = evaluate(path, LAYOUT, 1200, tmp_path)
    assert wide["columns"] == 3 and wide["heights"] == 1
    narrow = evaluate(path, LAYOUT, 400, tmp_path)
    # Errors are among the pictures of the row, so they are no larger than the result.
    assert wide["sizes"] == narrow["sizes"] == 1 and narrow["columns"] == 2
    assert narrow["overflow"] <= 0 and narrow["heights"] == 1


def test_the_swipe_and_the_zoom_in_a_browser(tmp_path: Path) -> None:
    solution, truth = solved(1, 1, (20, 24))
    path = solution.report(tmp_path / "r.html", reference=truth)
    used = evaluate(path, USE, 1200, tmp_path)
    assert used["same"] and used["others"] == 1 and used["covered"] == "inset(0px 60% 0px 0px)"
    assert used["before"] == 0 and used["zoomed"] == 6 and used["after"] == 0
    assert used["at"] == ["40% 40%"] * 6 and used["origin"].startswith("matrix(4,")
    assert used["moved"] == [25, 50]


def test_a_row_of_pictures_of_two_shapes_zooms_those_of_one() -> None:
    tall, flat = np.zeros((9, 6), np.uint8), np.zeros((6, 9), np.uint8)
    text = page.row([page.picture(p, "a", "") for p in (tall, flat)])
    assert text.count('onclick="') == 1 and text.count('tabindex="0"') == 2
    assert len(re.findall(r"--shape:(\S+)\"", text)) == 2
