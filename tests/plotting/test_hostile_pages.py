"""Names and titles are data: no page runs or loads what they contain."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.geometry.gaussians import Splats
from invtoolbox.plotting import charts, page
from invtoolbox.plotting.web_viewer import viewer_page

HOSTILE = [
    "<!--<script>",
    "</script><script>alert(1)</script>",
    "@SCENE@ @TITLE@ @POLICY@",
    "<img src=x onerror=alert(1)>",
    "\"' onclick=alert(1) x='",
    "]]> & <b> \u2028",
]


class Elements(HTMLParser):
    """Tags, event attributes and words of a page as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.handlers: set[str] = set()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words, self.policy, self._script = "", "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attributes)
        self.handlers |= {value or "" for name, value in attributes if name.startswith("on")}
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""
        self._script = tag == "script"
        if self._script:
            self.scripts.append((given, ""))
        for name in ("src", "href"):
            assert (given.get(name) or "data:").startswith("data:")

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if self._script:
            given, before = self.scripts[-1]
            self.scripts[-1] = (given, before + data)
        else:
            self.words += data


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def assert_policy_allows(found: Elements) -> None:
    scripts = re.search(r"script-src ([^;]*)", found.policy)
    assert scripts is not None and "default-src 'none'" in found.policy
    allowed = scripts[1].split()
    assert "'unsafe-inline'" not in allowed
    assert all(digest(text) in allowed for text in found.handlers)
    for given, text in found.scripts:
        assert given.get("type") == "application/json" or digest(text) in allowed


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_stays_a_name_in_a_page(name: str) -> None:
    pixels = np.zeros((4, 5), dtype=np.uint8)
    window = page.Window(0.0, 1.0)
    body = [
        page.heading(name, name),
        page.section(name, name),
        page.picture(pixels, name, name, name, bar=page.color_bar(window, unit=name), swipe=name),
        page.verdict(name, name),
        page.folded(name, page.row([page.picture(pixels, name, name)])),
        page.slider([pixels, pixels], name, name),
        page.player([pixels, pixels], name, name),
        page.facts({name: name}),
        page.numbers([name, name], [(name, [name])]),
        page.chart(
            charts.line_chart(
                [np.ones(3), np.ones(3)], name, [name, name], level=2.0, level_name=name
            )
            or "",
            name,
            name,
        ),
    ]
    plain = Elements(page.page("a", body).decode().replace(html.escape(name), "a"))
    found = Elements(page.page(name, body).decode())
    assert found.tags == plain.tags and found.handlers == plain.handlers and not found.scripts
    assert found.words.count(name) >= 15
    assert_policy_allows(found)


def test_a_report_of_a_prior_with_a_hostile_name_runs_nothing(tmp_path: Path) -> None:
    class Hostile(it.priors.Tikhonov):
        def __repr__(self) -> str:
            return HOSTILE[0] + HOSTILE[3]

    problem = it.Problem(torch.rand(1, 1, 8, 8), it.operators.Identity((1, 8, 8)))
    solution = it.solve(problem, Hostile(), regularization=0.1, progress=False)
    found = Elements(solution.report(tmp_path / "r.html", title=HOSTILE[1]).read_text())
    assert not found.scripts and HOSTILE[0] + HOSTILE[3] in found.words
    assert_policy_allows(found)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_stays_a_name_in_the_viewer(name: str) -> None:
    x = Splats.of_points(torch.zeros(1, 1, 3), torch.ones(1, 1, 3), 0.1, 0.9)
    pose = torch.eye(4)[None]
    K = torch.tensor([[[8.0, 0, 4], [0, 8.0, 4], [0, 0, 1]]])
    cameras = it.geometry.Cameras(pose, K, (8, 8), names=(name,))
    found = Elements(viewer_page(x, cameras, name).decode())
    (data, content), (own, script) = found.scripts
    assert data["type"] == "application/json" and not own
    template = files("invtoolbox.plotting").joinpath("splat_viewer.html").read_text()
    assert script == template.rpartition("<script>")[2].partition("</script>")[0]
    assert not set(content) & set("<>&") and "@SCENE@" not in script
    scene = json.loads(content)
    assert scene["cameras"][0]["name"] == Path(name).stem
    assert found.words.count(name) == 2
    # The script reads no number that the page does not hold.
    assert set(re.findall(r"\bscene\.(\w+)", script)) <= set(scene)
    assert_policy_allows(found)
