"""The plumbing of `make gpu`: it says that there is no GPU, times every call, and writes a report."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.emulated_cuda import emulate_cuda

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so_and_fails(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(script.sys, "argv", ["gpu.py"])
    assert script.main() == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("make gpu needs a CUDA device, and ")


def test_make_has_the_command() -> None:
    assert "gpu: $(STAMP)" in (ROOT / "Makefile").read_text()
    assert "$(BIN)/python benchmarks/gpu.py" in (ROOT / "Makefile").read_text()


def test_every_benchmark_runs_on_the_device(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(device: str, size: int) -> dict[str, object]:
        return {"a peer": lambda: 1 / 0}

    small = {name: b for name, b in script.BENCHMARKS.items() if name != "jobs"}
    monkeypatch.setattr(script, "BENCHMARKS", {**small, "broken": (broken, 1)})
    monkeypatch.setattr(script, "find_spec", lambda name: None)  # without peers
    with emulate_cuda():
        figures, left_out = script.run_benchmarks("cuda", 60.0, small=True)
    assert not left_out and figures["broken"]["a peer"].startswith("failed: ZeroDivisionError")
    assert all(isinstance(t, float) for name in small for t in figures[name].values())
    assert {"project 2 images", "back-project 2 images"} <= set(next(iter(figures.values())))


def test_what_starts_too_late_is_left_out(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "find_spec", lambda name: None)  # without peers
    figures, left_out = script.run_benchmarks("cpu", -1.0, small=True)
    assert not any(figures.values())
    assert any("cone beam" in name for name in left_out)
    assert any("Gaussians that split" in name for name in left_out)


def test_a_report_has_card_and_figures(script: ModuleType, tmp_path: Path) -> None:
    report = {
        "card": "NVIDIA H100 80GB",
        "date": "2026-01-01",
        "machine": ["cores: 16"],
        "tests": "30 passed",
        "figures": {"cone": {"project": 0.25, "peer": "failed: ImportError"}},
        "left_out": ["jobs: voxels"],
    }
    text = script.write(tmp_path / "gpu", "NVIDIA H100 80GB", report).read_text()
    assert "NVIDIA H100 80GB" in text and "250.00 ms" in text and "failed: ImportError" in text
    assert "jobs: voxels" in text and "30 passed" in text
    assert json.loads((tmp_path / "gpu" / "nvidia-h100-80gb.json").read_text()) == report
