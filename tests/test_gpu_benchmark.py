"""`make gpu`: it measures every row, emulates a device if there is none, and writes a page."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.emulated_cuda import emulate_cuda

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # for benchmarks/common.py
    monkeypatch.setitem(sys.modules, "gpu_benchmark", module)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_runs_on_an_emulated_device_and_says_so(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def small(device: str, share: float) -> dict[str, Any]:
        x = torch.arange(6.0).to(device)
        return {"sums": script.Row(lambda: (x.cumsum(0), x.sum()))}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(script, "BENCHMARKS", {"small": small})
    script.main(tmp_path)
    output = capsys.readouterr().out
    assert output.startswith("There is no CUDA device here: ") and "a tenth of the size" in output
    page = (tmp_path / "emulated.txt").read_text()
    assert "2 kernels of torch, 0 waits, 0 copies, error 0.0e+00" in page
    assert "Times mean nothing here" in page and " ms" not in page and "MiB" not in page


def test_a_failure_on_the_emulated_device_is_listed_and_ends_with_1(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(device: str, share: float) -> dict[str, Any]:
        x, y = torch.ones(3).to(device), torch.ones(3)
        return {"two devices": script.Row(lambda: x + y)}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(script, "BENCHMARKS", {"broken": broken})
    with pytest.raises(SystemExit) as error:
        script.main(tmp_path)
    assert error.value.code == 1
    assert "failed: DeviceError: aten::add got tensors" in (tmp_path / "emulated.txt").read_text()


def test_make_has_the_command() -> None:
    assert "gpu: $(STAMP)" in (ROOT / "Makefile").read_text()
    assert "$(BIN)/python benchmarks/gpu.py" in (ROOT / "Makefile").read_text()


def test_every_benchmark_runs_on_the_device(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(device: str, share: float) -> dict[str, Any]:
        x = torch.ones(3).to(device)
        return {
            "ours fails": script.Row(lambda: 1 / 0),
            "a peer fails": script.Row(lambda: x, {"peer": lambda: lambda: 1 / 0}),
        }

    names = [name for name in script.BENCHMARKS if not name.startswith("jobs")]
    chosen = {name: script.BENCHMARKS[name] for name in names} | {"broken": broken}
    monkeypatch.setattr(script, "BENCHMARKS", chosen)
    monkeypatch.setattr(script, "SHARE", 0.05)
    monkeypatch.setattr(script, "find_spec", lambda name: None)  # without peers
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)
    with emulate_cuda():
        figures, left_out = script.run_benchmarks("cuda", 60.0, share=0.05)
    assert not left_out and figures["broken"]["ours fails"].failure.startswith("failed: Zero")
    peer = figures["broken"]["a peer fails"]
    assert peer.ratios["peer"].startswith("failed: ZeroDivisionError") and peer.error == 0.0
    for name in names:
        for row in figures[name].values():
            assert row.seconds > 0 and row.mebibytes == 3 and row.error < 1e-4, (name, row)
    assert {"project images", "back-project images"} <= set(figures[names[0]])


def test_an_error_is_the_largest_difference_over_the_largest_value(script: ModuleType) -> None:
    one, two = torch.tensor([1.0, 4.0]), torch.tensor([1.0, 5.0])
    assert script.difference(one, two) == pytest.approx(0.2)
    assert script.difference((two, one), (two, two)) == pytest.approx(0.2)
    assert script.difference(torch.zeros(0), torch.zeros(0)) == 0.0


def test_what_starts_too_late_is_left_out(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "find_spec", lambda name: None)  # without peers
    figures, left_out = script.run_benchmarks("cpu", -1.0, share=0.05)
    assert not any(figures.values())
    assert any("cone beam" in name for name in left_out)
    assert any("Gaussians that split" in name for name in left_out)


def test_a_report_has_card_and_figures(script: ModuleType, tmp_path: Path) -> None:
    fast = script.Figures(0.25, {"ASTRA": 1.5, "gsplat": "failed: ImportError"}, 120.0, 2e-6)
    report = {
        "card": "NVIDIA H100 80GB",
        "date": "2026-01-01",
        "machine": ["cores: 16"],
        "notes": ["tests: 30 passed"],
        "figures": {"cone": {"project": fast, "blur": script.Figures(failure="failed: Error")}},
        "left_out": ["jobs: voxels"],
    }
    text = script.write(tmp_path / "gpu", "NVIDIA H100 80GB", report).read_text()
    words = "250.00 ms, ASTRA 1.50 times ours, gsplat failed: ImportError, 120 MiB, error 2.0e-06"
    assert "NVIDIA H100 80GB" in text and words in text and "failed: Error" in text
    assert "jobs: voxels" in text and "30 passed" in text
    data = json.loads((tmp_path / "gpu" / "nvidia-h100-80gb.json").read_text())
    assert data["figures"]["cone"]["project"]["ratios"]["ASTRA"] == 1.5
