"""Server of the page of a scene, which follows the scene while it is computed."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from invtoolbox.geometry import Cameras, Splats
from invtoolbox.geometry.voxels import Voxels
from invtoolbox.plotting.web_viewer import show, viewer_page

_WAITING = b"<!doctype html><meta http-equiv=refresh content=1>The scene is being computed."


class SceneServer:
    """Server of the page of `write_viewer`.

    An open page loads the new scene after `update` and keeps its view. The page needs no package
    and is served to this machine alone, unless another host is given. Its address ends in a random
    word, without which every request is refused.

    Args:
        title: title of the page.
        background: color of the background, a number or red, green and blue, from 0 to 1.
        host: address at which the page is served; ``"0.0.0.0"`` serves all of the network.
        port: port of the page; a free one if it is taken.
        report: function that receives a sentence with the address of the page.

    >>> from urllib.request import urlopen
    >>> import torch
    >>> server = SceneServer("Ball", port=0, report=lambda sentence: None)
    >>> server.update(Splats.of_points(torch.zeros(1, 1, 3), torch.ones(1, 1, 3), 0.1, 0.9))
    >>> b"1 Gaussians" in urlopen(server.address).read()
    True
    >>> server.close()
    """

    def __init__(
        self,
        title: str = "Scene",
        background: float | Sequence[float] = 1.0,
        host: str = "127.0.0.1",
        port: int = 8080,
        report: Callable[[str], None] = print,
    ) -> None:
        self.title, self.background, self.report = title, background, report
        self.version, self.page = 0, _WAITING
        handler = type("Handler", (_Handler,), {"scene": self})
        try:
            self._server = ThreadingHTTPServer((host, port), handler)
        except OSError:  # the port is taken
            self._server = ThreadingHTTPServer((host, 0), handler)
        self.path = f"/{secrets.token_urlsafe(16)}"
        name = socket.gethostname() if host in ("", "0.0.0.0") else host
        self.address = f"http://{name}:{self._server.server_port}{self.path}"
        Thread(target=self._server.serve_forever, daemon=True).start()
        report(f"the scene is shown at {self.address}")

    def update(self, x: Splats | Voxels, cameras: Cameras | None = None) -> None:
        """Serve a scene in place of the one before; a scene without a visible part is left out.

        Args:
            x: a scene; of a batch, the first one.
            cameras: cameras of the photographs.
        """
        shown = show(x)
        if len(shown.places):
            version = self.version + 1
            self.page = viewer_page(shown, cameras, self.title, self.background, version)
            self.version = version

    def wait(self) -> None:
        """Serve the page until Ctrl-C."""
        self.report("Ctrl-C ends the page")
        try:
            while True:
                time.sleep(1)
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Answers to a browser: the page, and the number of its version."""

    scene: SceneServer

    def do_GET(self) -> None:
        word, _, rest = self.path[1:].partition("/")
        contents = {"": self.scene.page, "version": str(self.scene.version).encode()}
        content = contents.get(rest)
        is_allowed = secrets.compare_digest(f"/{word}".encode(), self.scene.path.encode())
        if content is None or not is_allowed:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        with suppress(ConnectionError):  # the browser left the page
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing about requests."""


def view_scene(
    x: Splats | Voxels,
    cameras: Cameras | None = None,
    title: str = "Scene",
    background: float | Sequence[float] = 1.0,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    report: Callable[[str], None] = print,
    wait: bool = True,
) -> SceneServer:
    """Show a scene and the cameras of its photographs in a browser, without any package.

    `write_viewer` writes the same page to a file.

    Args:
        x: a scene; of a batch, the first one.
        cameras: cameras of the photographs.
        title: title of the page.
        background: color of the background, a number or red, green and blue, from 0 to 1.
        host: address at which the page is served; ``"0.0.0.0"`` serves all of the network.
        port: port of the page; a free one if it is taken.
        report: function that receives a sentence with the address of the page.
        wait: serve the page until Ctrl-C; otherwise until `SceneServer.close`.
    """
    server = SceneServer(title, background, host, port, report)
    server.update(x, cameras)
    if wait:
        server.wait()
    return server
