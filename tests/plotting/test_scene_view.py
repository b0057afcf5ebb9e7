"""The page of a scene that is served, and follows the scene."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import torch

from invtoolbox.metrics import psnr
from invtoolbox.operators import GaussianRenderer
from invtoolbox.plotting import SceneServer, view_scene
from tests.plotting.browser import screenshot
from tests.plotting.test_splat_viewer import SIDE, ball, cameras, content_of, splats


def read(address: str) -> bytes:
    content: bytes = urlopen(address, timeout=20).read()
    return content


@pytest.mark.parametrize("x", [splats(), ball()])
def test_a_scene_is_served_to_this_machine_alone(x: object) -> None:
    said: list[str] = []
    server = view_scene(x, cameras(), "A scene", port=0, report=said.append, wait=False)
    try:
        assert said == [f"the scene is shown at {server.address}"]
        assert server.address.startswith("http://127.0.0.1:")
        content = content_of(read(server.address))
        assert content["version"] == 1 and len(content["cameras"]) == 3
        with pytest.raises(HTTPError, match="404"):
            read(server.address + "/etc/passwd")
    finally:
        server.close()
    with pytest.raises(OSError):
        read(server.address)


def test_an_open_page_learns_of_the_next_scene() -> None:
    server = SceneServer("A scene", port=0, report=lambda sentence: None)
    try:
        assert b"being computed" in read(server.address)
        assert read(server.address + "/version") == b"0"
        x = splats()
        server.update(x, cameras())
        server.update(replace(x, opacities=torch.zeros_like(x.opacities)))  # nothing to see
        page = read(server.address)
        assert b"connect-src 'self'" in page and content_of(page)["count"] == 60
        server.update(ball())
        assert read(server.address + "/version") == b"2"
        assert content_of(read(server.address))["squashed"]
    finally:
        server.close()


def test_a_port_that_is_taken_is_replaced() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = SceneServer(port=taken.getsockname()[1], report=lambda sentence: None)
        assert read(server.address + "/version") == b"0"
        server.close()


def test_ctrl_c_ends_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("invtoolbox.plotting.scene_server.time.sleep", interrupt)
    server = view_scene(splats(), port=0, report=lambda sentence: None)
    with pytest.raises(OSError):
        read(server.address)


def test_a_browser_loads_the_next_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, views = splats(), splats(seed=1), cameras()
    server = SceneServer(port=0, report=lambda sentence: None)

    def follow(*_: object) -> None:  # while the first page is sent
        if server.version == 1:
            server.update(second, views)

    monkeypatch.setattr("invtoolbox.plotting.scene_server._Handler.log_message", follow)
    try:
        server.update(first, views)
        drawn = screenshot(server.address, "/#view=1&bare", SIDE, tmp_path / "drawn.png")
    finally:
        server.close()
    A = GaussianRenderer(views[1].scale(5), background=1.0)
    assert float(psnr(drawn[None], A(second)[0, :, 0].clamp(0, 1)[None])) > 33
    assert float(psnr(drawn[None], A(first)[0, :, 0].clamp(0, 1)[None])) < 22
