"""View of a scene in a browser while it is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from invtoolbox.errors import MissingDependency
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.plotting.viewers import show_splats, view_scene
from invtoolbox.plotting.web_viewer import shown_splats, shown_voxels


class LiveView:
    """Server of a page that shows the current state of a scene, with viser.

    The page stays open, with its view, while `update` replaces the scene.

    Args:
        port: port of the page.
        report: function that receives a sentence with the address of the page.

    Raises:
        MissingDependency: if viser is not installed.
    """

    def __init__(self, port: int = 8080, report: Callable[[str], None] = print) -> None:
        try:
            import viser  # noqa: F401
        except ImportError as error:
            from invtoolbox.core.environment import how_to_get

            raise MissingDependency(
                f"the live view needs viser, which is not installed; {how_to_get('view')}"
            ) from error
        self.port, self.report = port, report
        self.server: Any = None

    def update(self, x: Any, cameras: Cameras | None = None) -> None:
        """Show a scene in place of the one before; the first call starts the server.

        Args:
            x: a scene; of a batch, the first one.
            cameras: cameras of the photographs.
        """
        if self.server is None:
            self.server = view_scene(
                x, cameras, viewer="viser", port=self.port, report=self.report, wait=False
            )
            return
        shown = shown_splats(x) if hasattr(x, "means") else shown_voxels(x)
        if len(shown.places):
            show_splats(self.server, shown)

    def close(self) -> None:
        """Stop the server."""
        if self.server is not None:
            self.server.stop()
            self.server = None
