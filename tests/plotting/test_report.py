"""Reports and comparisons: one file that needs nothing from outside, for every kind of solution."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.plotting import Case, Method, write_comparison, write_report


def solved(
    batch: int = 1, channels: int = 1, size: tuple[int, ...] = (14, 18)
) -> tuple[it.Solution, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(batch, channels, *size, generator=generator)
    y = truth + 0.05 * torch.randn(truth.shape, generator=generator)
    problem = it.Problem(y, it.operators.Identity((channels, *size)))
    solution = it.solve(
        problem,
        it.priors.Tikhonov(),
        "gradient-descent",
        regularization=0.1,
        max_iterations=6,
        progress=False,
    )
    return solution, truth


class Page(HTMLParser):
    """What a browser would fetch, and whether every tag is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]
        assert tag not in ("script", "link", "iframe")
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in ("line", "polyline", "circle")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def assert_self_contained(page: Page) -> None:
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?://|url\(|@import", page.text)


@pytest.mark.parametrize(
    ("batch", "channels", "size"),
    [(1, 1, (14, 18)), (1, 3, (14, 18)), (6, 1, (12, 12)), (1, 2, (5, 12, 12)), (2, 1, (20,))],
)
def test_a_report_of_every_kind_of_image(
    tmp_path: Path, batch: int, channels: int, size: tuple[int, ...]
) -> None:
    solution, truth = solved(batch, channels, size)
    path = solution.report(tmp_path / "report.html", reference=truth, title="A <title> & more")
    page = Page(path)
    assert_self_contained(page)
    assert (
        "A &lt;title&gt; &amp; more" in page.text
        and "PSNR" in page.text
        and "Tikhonov" in page.text
    )
    assert torch.__version__ in page.text and "GradientDescent" in page.text
    shown = min(batch, 4)
    # Measurements, reconstruction, reference, two errors and the residual.
    assert len(page.sources) == (6 * shown if len(size) > 1 else 0)
    assert ("of 6 items are shown" in page.text) == (batch == 6)
    assert page.text.count("<polyline") >= 2 * shown


def with_posterior(batch: int) -> tuple[it.Solution, torch.Tensor]:
    truth = torch.rand(batch, 1, 10, 12, generator=torch.Generator().manual_seed(0))
    A = it.operators.Identity((1, 10, 12))
    problem = it.Problem(A.simulate(truth, 0.1), A, it.data_terms.LeastSquares(noise_std=0.1))
    return it.solve(
        problem, it.priors.Tikhonov("gradient"), regularization=5.0, progress=False
    ), truth


@pytest.mark.parametrize("batch", [1, 2])
def test_a_posterior_is_shown_by_mean_deviation_samples_error_and_curves(
    tmp_path: Path, batch: int
) -> None:
    solution, truth = with_posterior(batch)
    calibration = it.calibrate_posteriors(
        [solution.posterior] * 10, [truth] * 10, 0.8, unit="pixel"
    )
    page = Page(solution.report(tmp_path / "r.html", reference=truth, calibration=calibration))
    assert_self_contained(page)
    # Six pictures as ever, then mean, deviation, error and four samples, and sixteen samples
    # behind the slider.
    assert len(page.sources) == batch * (6 + 7 + 16)
    assert (
        page.text.count("<b>Standard deviation</b>") == batch
        and page.text.count('type="range" min="0" max="15"') == batch
    )
    assert (
        page.text.count(" hidden>") == 15 * batch
    )  # one sample is seen until the slider moves, and without scripting
    assert "the interval says" in page.text and "once it is calibrated" in page.text
    held = float(solution.posterior.coverage(truth, 0.95).mean())
    assert f"{100 * held:.1f} % lie within" in page.text
    without = Page(solution.report(tmp_path / "w.html"))
    assert len(without.sources) == batch * (3 + 6 + 16) and "the interval says" not in without.text


def test_the_slider_shows_the_sample_of_its_number(tmp_path: Path) -> None:
    """What the handler does, by Node where it is there: the page is the same for every browser."""
    import shutil
    import subprocess

    if shutil.which("node") is None:
        pytest.skip("node is not installed, so no handler can be run")
    solution, _ = with_posterior(1)
    text = solution.report(tmp_path / "r.html").read_text()
    handler = re.search(r'oninput="(this.closest\(\'figure\'\).querySelectorAll[^"]+)"', text)
    assert handler is not None
    script = (
        "const images = Array.from({length: 16}, () => ({hidden: true})); const label = {}; "
        "const slider = {value: '3', nextElementSibling: label, closest: s => ({querySelectorAll: t => images})}; "
        f"(function () {{ {handler[1]} }}).call(slider); console.log(images.map(i => +i.hidden).join('') + ' ' + label.textContent)"
    )
    ran = subprocess.run(["node", "-e", script], capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "1110111111111111 4", ran.stderr


def test_pictures_that_are_compared_have_one_window(tmp_path: Path) -> None:
    solution, truth = solved()
    text = solution.report(tmp_path / "r.html", reference=truth, unit="1/mm").read_text()
    low, high = (float(truth.min()), float(truth.max()))
    bars = re.findall(r'<div class="bar">([^<]+)<i style="([^"]+)"></i>([^<]+)</div>', text)
    assert len(bars) == 6  # measurements, reconstruction, reference, two errors, residual
    assert bars[0] == bars[1] == bars[2] and bars[3] == bars[4] and bars[0][2].endswith(" 1/mm")
    assert low - 0.1 <= float(bars[0][0]) < float(bars[0][2].split()[0]) <= high + 0.1
    assert bars[3][0] == "-" + bars[3][2].split()[0] and "247,247,247" in bars[3][1]


def test_the_metrics_are_those_of_the_toolbox(tmp_path: Path) -> None:
    solution, truth = solved()
    text = solution.report(tmp_path / "r.html", reference=truth).read_text()
    expected = float(it.metrics.psnr(solution.x, truth, data_range=truth.max() - truth.min()))
    assert f">{expected:.4g}<" in text


def test_a_loaded_solution_gives_the_same_page(tmp_path: Path) -> None:
    solution, truth = solved(2)
    solution.save(tmp_path / "s.h5")
    now = Page(solution.report(tmp_path / "a.html", reference=truth))
    later = Page(it.Solution.load(tmp_path / "s.h5").report(tmp_path / "b.html", reference=truth))
    assert now.sources == later.sources and "Measurements" in later.text


def test_no_reference_no_error(tmp_path: Path) -> None:
    solution, _ = solved()
    page = Page(solution.report(tmp_path / "r.html"))
    assert "PSNR" not in page.text and "Error" not in page.text and len(page.sources) == 3


def test_measurements_in_parts_and_complex_ones(tmp_path: Path) -> None:
    A = it.operators.Identity((1, 8, 9))
    y = (torch.rand(1, 1, 8, 9), torch.rand(1, 1, 8, 9))
    term = it.data_terms.Stack(it.data_terms.LeastSquares(), it.data_terms.LeastSquares())
    both = it.Problem(y, it.operators.stack([A, 2 * A]), term)
    solution = it.solve(
        both,
        it.priors.Tikhonov(),
        "gradient-descent",
        regularization=1.0,
        max_iterations=2,
        progress=False,
    )
    assert "Residual 2" in Page(solution.report(tmp_path / "r.html")).text
    spectrum = it.Problem(torch.randn(1, 1, 8, 9, dtype=torch.complex64), A)
    solution = it.solve(
        spectrum,
        it.priors.Tikhonov(),
        "gradient-descent",
        regularization=1.0,
        max_iterations=2,
        progress=False,
    )
    assert len(Page(solution.report(tmp_path / "c.html")).sources) == 3


def test_a_diverged_item_is_shown_as_such(tmp_path: Path) -> None:
    solution = dataclasses.replace(solved(2)[0], status=("converged", "diverged"))
    text = Page(solution.report(tmp_path / "r.html")).text
    assert "1 converged, 1 diverged" in text and "Item 1: diverged" in text


def test_files_and_references_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    solution, truth = solved()
    path = tmp_path / "r.html"
    path.write_text("mine")
    with pytest.raises(InputError, match=r"r\.html"):
        write_report(solution, path, overwrite=False)
    assert path.read_text() == "mine"
    with pytest.raises(
        InputError, match=r"the reference has shape \(1, 1, 18, 14\), expected \(1, 1, 14, 18\)"
    ):
        solution.report(path, reference=truth.transpose(2, 3))
    with pytest.raises(InputError, match="gone"):
        solution.report(tmp_path / "gone" / "r.html")


def test_large_pictures_do_not_make_large_pages(tmp_path: Path) -> None:
    x = torch.rand(1, 1, 2000, 3000)
    problem = it.Problem(x, it.operators.Identity((1, 2000, 3000)))
    solution = it.solve(
        problem,
        it.priors.Tikhonov(),
        "gradient-descent",
        regularization=1.0,
        max_iterations=0,
        progress=False,
    )
    assert solution.report(tmp_path / "r.html").stat().st_size < 8_000_000


def case(**changes: Any) -> Case:
    torch.manual_seed(0)
    truth = torch.rand(1, 1, 20, 24)
    methods = [
        Method("noisy", truth + 0.2 * torch.randn_like(truth), None, "as it came"),
        Method("good", truth + 0.01 * torch.randn_like(truth), 1.25),
    ]
    settings: dict[str, Any] = {
        "title": "A case",
        "text": "Some words.",
        "reference": truth,
        "measurements": truth,
        "methods": methods,
    }
    return Case(**{**settings, **changes})


def test_a_comparison_sets_methods_side_by_side(tmp_path: Path) -> None:
    one = case(detail=(2, 3, 10, 12))
    page = Page(
        write_comparison(tmp_path / "c.html", "Methods", "Compared.", [one, case(title="Another")])
    )
    assert_self_contained(page)
    # Two methods, the truth and two errors; three details; and the measurements, which are no method.
    assert len(page.sources) == (5 + 3 + 1) + (5 + 1)
    assert page.text.index('alt="good') < page.text.index('alt="Truth')  # the truth is last
    assert re.search(
        r'class="verdict good"><b>good: \d+\.\d dB, \d+\.\d dB better than noisy\.</b>', page.text
    )
    best = re.findall(r'class="number best">([^<]+)<', page.text)
    figures = one.figures()
    assert (
        f"{figures['PSNR [dB]'][1]:.4g}" in best
        and f"{figures['RMSE'][1]:.4g}" in best
        and "1.25" in page.text
    )


def test_measurements_that_are_a_method_are_shown_once(tmp_path: Path) -> None:
    y = torch.rand(1, 1, 20, 24)
    one = case(measurements=y, methods=[Method("blurred", y)])
    assert len(Page(write_comparison(tmp_path / "c.html", "Methods", "", [one])).sources) == 3


def test_a_comparison_is_not_written_over_unasked(tmp_path: Path) -> None:
    path = tmp_path / "c.html"
    path.write_text("mine")
    with pytest.raises(InputError, match=r"c\.html"):
        write_comparison(path, "Methods", "", [case()], overwrite=False)
    assert path.read_text() == "mine"


def test_a_report_draws_the_edges_of_a_short_arc(tmp_path: Path) -> None:
    def page_of(degrees: float) -> str:
        angles = torch.deg2rad(torch.linspace(0, degrees, 31))
        A = it.operators.ParallelBeam((16, 16), angles, 24)
        x = torch.zeros(1, 1, 16, 16)
        x[..., 3:12, 5:11] = 1  # a square would look alike from many angles
        problem = it.Problem(A(x), A)
        prior = 0.1 * it.priors.TotalVariation()
        solution = it.solve(problem, prior, max_iterations=3, progress=False)
        return solution.report(tmp_path / "page.html").read_text()

    assert "Edges that the views determine" in page_of(60)
    assert "Edges that the views determine" not in page_of(174)
