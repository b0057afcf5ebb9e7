"""``invtoolbox demo``: a table and a page; the whole of it is slow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from invtoolbox.cli import demo
from invtoolbox.plotting import Case, Method
from tests.cli.conftest import Run


def test_the_demo_ends_with_a_table_and_the_path_of_the_page(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = torch.rand(1, 1, 20, 24)
    case = Case("A case", "Words.", truth, truth, [Method("noisy", truth + 0.1, None), Method("good", truth + 0.01, 1.25)])
    monkeypatch.setattr(demo, "ct_case", lambda say: case)
    monkeypatch.setattr(demo, "deblurring_case", lambda say: case)
    for _ in range(2):  # its own earlier page is replaced
        ran = run("demo", "--output", tmp_path / "demo")
        assert ran.code == 0, ran.err
    assert re.search(r"good +\d\d\.\d\d +[01]\.\d{3} +1\.25", ran.out)
    path = Path(ran.out.strip().splitlines()[-1].removeprefix("The pictures are in "))
    assert path.is_absolute() and path.read_text().count("A case") == 2


@pytest.mark.slow
def test_the_cases_are_worth_showing() -> None:
    def psnr(case: Case) -> dict[str, float]:
        return dict(zip((m.name for m in case.methods), case.figures()["PSNR [dB]"]))

    ct = psnr(demo.ct_case(lambda line: None))
    assert ct["TV"] > ct["FBP"] + 3 and ct["graphLa+TV"] > ct["TV"] - 0.2
    photograph = psnr(demo.deblurring_case(lambda line: None))
    assert photograph["graphLa+TV"] > photograph["TV"] > photograph["Tikhonov"] > photograph["Blurred"]
