"""Scenes in viewers that may be installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.plotting import view_scene
from tests.plotting.test_splat_viewer import ball, cameras, splats


def test_a_scene_is_recorded_for_rerun(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="the extra [view] is not installed")
    for k, x in enumerate((splats(), ball())):
        view_scene(x, cameras(), save=tmp_path / f"{k}.rrd")
        assert (tmp_path / f"{k}.rrd").stat().st_size > 1000
    with pytest.raises(InputError, match=r"ends in \.rrd"):
        view_scene(splats(), save=tmp_path / "scene.txt")


def test_viser_serves_a_scene() -> None:
    pytest.importorskip("viser", reason="viser is not installed")
    from urllib.request import urlopen

    told: list[str] = []
    server = view_scene(splats(), cameras(), port=8765, report=told.append, wait=False)
    try:
        address = told[0].split()[2].rstrip(";")
        assert urlopen(address, timeout=20).status == 200
    finally:
        server.stop()


def test_a_viewer_that_is_missing_or_unknown_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingDependency, match="Rerun is not installed"):
        view_scene(splats())
    with pytest.raises(MissingDependency, match="viser is not installed"):
        view_scene(splats(), viewer="viser")
    with pytest.raises(InputError, match="viewer of view_scene must be None, 'viser' or 'rerun'"):
        view_scene(splats(), viewer="meshlab")
