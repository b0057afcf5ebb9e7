"""Windows, colors, charts and figures: known answers."""

from __future__ import annotations

import base64
import io
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from invtoolbox.plotting.charts import line_chart
from invtoolbox.plotting.figures import solution_figure
from invtoolbox.plotting.pixels import (
    Window,
    data_uri,
    diverging,
    plane,
    symmetric_window,
    to_bytes,
    window_of,
)
from tests.plotting.test_report import solved


def test_planes() -> None:
    assert np.array_equal(plane(torch.arange(6.0).view(1, 2, 3)), [[0, 1, 2], [3, 4, 5]])  # type: ignore[arg-type]
    assert plane(torch.tensor([[[3 + 4j]]]))[0, 0] == 5  # type: ignore[index]
    volume = torch.arange(5.0).view(1, 5, 1, 1).expand(1, 5, 3, 4)
    assert np.all(plane(volume) == 2)  # the middle slice
    assert plane("text") is None


def test_photographs_keep_their_range_and_outliers_do_not_set_the_window() -> None:
    ramp = np.linspace(0.02, 0.99, 1000).reshape(20, 50)
    assert window_of(ramp) == (0.0, 1.0)
    other = np.linspace(-3, 5, 10_000).reshape(100, 100)
    other[0, 0] = 1e9
    low, high = window_of(other)
    assert -3 <= low < -2.9 and 4.9 < high < 5.1
    constant = window_of(np.full((3, 3), 7.0))
    assert constant.low <= 7 <= constant.high and constant.high > constant.low
    assert window_of(None) == (0.0, 1.0)


def test_black_white_and_signs() -> None:
    assert to_bytes(np.array([[-1.0, 0.0, 0.5, 1.0, 2.0, np.nan]]), Window(0, 1)).tolist() == [
        [0, 0, 128, 255, 255, 0]
    ]
    colors = diverging(np.array([[-1.0, 0.0, 1.0]]), Window(-1, 1))[0]
    assert (
        colors[0, 2] > colors[0, 0]
        and colors[2, 0] > colors[2, 2]
        and len(set(colors[1].tolist())) == 1
    )
    assert symmetric_window(np.zeros((2, 2))) == (-1.0, 1.0)


def test_a_png_in_a_page_is_the_picture() -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(6, 10)
    uri = data_uri(pixels)
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    assert np.array_equal(decoded, pixels)
    large = data_uri(np.repeat(np.repeat(pixels, 300, 0), 300, 1))
    shrunk = Image.open(io.BytesIO(base64.b64decode(large.split(",")[1])))
    assert max(shrunk.size) <= 1024


def test_few_colors_make_a_palette_of_the_same_picture() -> None:
    noise = np.random.default_rng(0).standard_normal((60, 70))
    pixels = diverging(noise, Window(-3, 3))
    data = base64.b64decode(data_uri(pixels).split(",")[1])
    image = Image.open(io.BytesIO(data))
    assert image.mode == "P" and np.array_equal(np.asarray(image.convert("RGB")), pixels)
    plain = io.BytesIO()
    Image.fromarray(pixels).save(plain, format="PNG", optimize=True)
    assert len(data) < 0.6 * len(plain.getvalue())
    photograph = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    image = Image.open(io.BytesIO(base64.b64decode(data_uri(photograph).split(",")[1])))
    assert image.mode == "RGB" and np.array_equal(np.asarray(image), photograph)


def points(svg: str) -> list[tuple[float, float]]:
    return [
        (float(x), float(y))
        for x, y in re.findall(r"([\d.]+),([\d.]+)", "".join(re.findall(r'points="([^"]+)"', svg)))
    ]


def test_a_chart_is_logarithmic_where_it_can_be() -> None:
    drawn = points(line_chart([np.array([1.0, 0.1, 0.01])], "x") or "")
    (_, first), (_, second), (_, third) = drawn
    assert second - first == pytest.approx(third - second, abs=0.2) and third > first
    linear = points(line_chart([np.array([-1.0, 0.0, 1.0])], "x") or "")
    assert linear[0][1] > linear[1][1] > linear[2][1]


def test_a_chart_of_what_is_not_there() -> None:
    assert line_chart([], "x") is None and line_chart([np.full(4, np.nan)], "x") is None
    broken = line_chart([np.array([1.0, 2.0, math.nan, 3.0, math.nan, 4.0, 5.0])], "x") or ""
    assert broken.count("<polyline") == 2 and broken.count("<circle") == 1
    assert "NaN" not in broken and "nan" not in broken
    assert "<polyline" in (line_chart([np.full(5, 3.0)], "x") or "")


def test_a_level_is_drawn() -> None:
    assert 'class="level"' in (
        line_chart([np.array([1.0, 0.1])], "x", level=0.05, level_name="tolerance") or ""
    )


def test_a_figure_leaves_pyplot_alone() -> None:
    import sys

    solution, truth = solved(2, 3)
    sys.modules.pop("matplotlib.pyplot", None)
    figure = solution_figure(solution, reference=truth, item=1)
    assert "matplotlib.pyplot" not in sys.modules
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == [
        "reconstruction",
        "reference",
        "error",
        "measurements",
        "residual",
        "convergence",
    ]
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=40)
    assert buffer.getvalue().startswith(b"\x89PNG")
    assert solution.plot() is not None
