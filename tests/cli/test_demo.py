"""``invtoolbox demo``: a table and a page; the whole of it is slow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from invtoolbox import simulation
from invtoolbox.cli import demo
from invtoolbox.cli.demo import street_case
from invtoolbox.datasets.sweeps.flow_files import residual_flow
from invtoolbox.geometry.rigid import relative_motion, transform
from invtoolbox.metrics import evaluate
from invtoolbox.plotting import Case, FlowCase, FlowMethod, Method
from tests.command_line import Run


def test_the_demo_ends_with_a_table_and_the_path_of_the_page(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = torch.rand(1, 1, 20, 24)
    case = Case(
        "A case",
        "Words.",
        truth,
        truth,
        [Method("noisy", truth + 0.1, None), Method("good", truth + 0.01, 1.25)],
    )
    monkeypatch.setattr(demo, "ct_case", lambda say: case)
    monkeypatch.setattr(demo, "deblurring_case", lambda say: case)
    monkeypatch.setattr("invtoolbox.cli.demo.street_case", lambda say: street())
    for _ in range(2):  # its own earlier page is replaced
        ran = run("demo", "--output", tmp_path / "demo")
        assert ran.code == 0, ran.err
    assert re.search(r"good +\d\d\.\d\d +[01]\.\d{3} +1\.25", ran.out)
    assert re.search(r"nothing moves +\d\.\d{4} +0\.0000 .* 0\.50\n", ran.out)
    path = Path(ran.out.strip().splitlines()[-1].removeprefix("The pictures are in "))
    assert (
        path.is_absolute()
        and path.read_text().count("A case") == 2
        and path.read_text().count("A street") == 1
    )


def street() -> FlowCase:
    sweeps = simulation.street(sweeps=2, points=600)
    sweep, following = sweeps[0], sweeps[1].pose
    assert sweep.labels is not None and sweep.pose is not None and following is not None
    E = relative_motion(sweep.pose, following)
    flow = (transform(E, sweep.points.double()) - sweep.points).float()
    errors = evaluate(flow, sweep, ego_motion=E)
    return FlowCase(
        "A street",
        "Words.",
        sweep.points,
        residual_flow(sweep.labels.flow, sweep.points, E),
        [FlowMethod("nothing moves", torch.zeros_like(flow), errors, 0.5)],
    )


@pytest.mark.slow
def test_the_cases_are_worth_showing() -> None:
    def psnr(case: Case) -> dict[str, float]:
        return dict(zip((m.name for m in case.methods), case.figures()["PSNR [dB]"]))

    ct = psnr(demo.ct_case(lambda line: None))
    assert ct["tv"] > ct["FBP"] + 3 and ct["auto"] > ct["tv"] + 1
    photograph = psnr(demo.deblurring_case(lambda line: None))
    assert photograph["denoiser-natural"] > photograph["tv"] > photograph["Blurred"] + 2


@pytest.mark.slow
def test_the_default_flow_is_worth_showing() -> None:
    nothing, nsfp, default, window = (m.errors for m in street_case(lambda line: None).methods)
    assert (
        default.dynamic < 0.5 * nsfp.dynamic < 0.5 * nothing.dynamic
        and default.static < 0.2 * nsfp.static
        and window.dynamic < default.dynamic
    )
