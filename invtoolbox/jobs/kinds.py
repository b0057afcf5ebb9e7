"""Kinds of scene files by the table that only they have, and their commands.

A package adds a kind by the entry point ``invtoolbox.jobs``: its name is the table, and its value
the `invtoolbox.jobs.kind.Kind`. The table is also the name of its command. No module of a kind is
imported before it is used.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from invtoolbox.catalogue.registry import load_plugin
from invtoolbox.errors import InputError


@dataclass(frozen=True)
class Entry:
    """Kind that is loaded at first use.

    Attributes:
        place: module and name of the kind, ``"package.module:KIND"``.
        noun: noun phrase for messages.
        command: name of its command, or None.
        summary: what the command does, for the list of commands.
        plugin: entry point of a plug-in, or None for a kind of the toolbox.
    """

    place: str
    noun: str
    command: str | None = None
    summary: str = ""
    plugin: EntryPoint | None = None

    def load(self) -> Any:
        """Return the kind.

        Raises:
            InputError: a plug-in cannot be imported, or is no kind with a command.
        """
        if self.plugin is None:
            module, _, name = self.place.partition(":")
            return getattr(import_module(module), name)
        kind = load_plugin(self.plugin)
        if not hasattr(kind, "prepare"):
            raise InputError(
                f"the plug-in {self.plugin.name!r} ({self.place}) is a {type(kind).__name__}; an "
                "entry point of invtoolbox.jobs is an invtoolbox.jobs.kind.Kind"
            )
        return kind

    def fill(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of the command to its parser."""
        kind = self.load()
        if kind.command is None:
            raise InputError(
                f"{self.place} has no command; give its Kind command=SceneCommand(...), or run its "
                "scene files by `invtoolbox run`"
            )
        kind.command.fill(parser, kind)
        parser.set_defaults(command=self.run)

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the command."""
        kind = self.load()
        return int(kind.command.run(arguments, kind, self.command))


_JOBS = "invtoolbox.jobs"
#: Commands whose scenes are of images and scans, which have no table of their own.
IMAGES = (
    Entry(
        f"{_JOBS}.images.ct_command:KIND",
        "a scan",
        "ct",
        "reconstruct a sinogram, or the projections of a 3D scan",
    ),
    Entry(
        f"{_JOBS}.images.deblur_command:KIND",
        "a blurred picture",
        "deblur",
        "deblur photographs or a stack with a known kernel",
    ),
    Entry(
        f"{_JOBS}.images.picture_commands:DENOISE",
        "a noisy picture",
        "denoise",
        "remove the noise of photographs",
    ),
    Entry(
        f"{_JOBS}.images.picture_commands:SUPERRESOLVE",
        "a small picture",
        "superresolve",
        "enlarge photographs",
    ),
    Entry(
        f"{_JOBS}.images.picture_commands:INPAINT",
        "a picture with gaps",
        "inpaint",
        "fill in missing pixels of photographs",
    ),
)
#: Kinds of the toolbox. All other scenes are of images and scans.
KINDS = {
    "sweeps": Entry(
        f"{_JOBS}.flow.scene:KIND",
        "sweeps",
        "flow",
        "estimate the motion of every point of a lidar sequence",
    ),
    "views": Entry(
        f"{_JOBS}.photographs.run:KIND",
        "photographs",
        "reconstruct",
        "find a 3D scene from photographs",
    ),
    "mesh": Entry(f"{_JOBS}.shapes.meshes:KIND", "a mesh", "deform", "deform a mesh by handles"),
    "bones": Entry(
        f"{_JOBS}.shapes.bones:KIND",
        "a shape with bones",
        "bones",
        "find the bones of a shape that moves",
    ),
    "motion": Entry(f"{_JOBS}.shapes.moving:KIND", "a moving object"),
    "normals": Entry(
        f"{_JOBS}.normals.scene:KIND",
        "a normal map",
        "normals",
        "integrate a normal map to a depth map and a mesh",
    ),
    "registration": Entry(
        f"{_JOBS}.registration.scene:KIND",
        "two images",
        "register",
        "register two images or volumes",
    ),
    "warp": Entry(
        f"{_JOBS}.warp.scene:KIND",
        "an image and transforms",
        "warp",
        "apply transforms to an image, labels, points or a mesh",
    ),
    "events": Entry(
        f"{_JOBS}.events.scene:KIND",
        "events",
        "events",
        "estimate flow and camera motion from events",
    ),
    "video": Entry(
        f"{_JOBS}.video_depths.scene:KIND",
        "the depths of a video",
        "depths",
        "align the depth maps of a video with its cameras",
    ),
    "animation": Entry(
        f"{_JOBS}.animation.scene:KIND",
        "a picture that moves",
        "animate",
        "move a picture as examples of a motion move",
    ),
    "stack": Entry(
        f"{_JOBS}.images.deconvolve_command:KIND",
        "a stack of a microscope",
        "deconvolve",
        "deconvolve a stack of a microscope",
    ),
    "survey": Entry(
        f"{_JOBS}.waves.scene:KIND", "a survey", "waves", "invert the records of a seismic survey"
    ),
    "kspace": Entry(
        f"{_JOBS}.mri.scene:KIND", "k-space", "mri", "reconstruct the raw data of an MRI scanner"
    ),
}


def kinds() -> dict[str, Entry]:
    """Return the kinds of the toolbox and of plug-ins, by their tables."""
    plugins = {
        point.name: Entry(
            point.value, f"[{point.name}]", point.name, f"plug-in {point.value}", point
        )
        for point in entry_points(group="invtoolbox.jobs")
    }
    return plugins | KINDS


def commands() -> dict[str, Entry]:
    """Return the entries that have a command, by the command.

    A plug-in cannot replace a command of the toolbox.
    """
    built_in = {entry.command: entry for entry in (*IMAGES, *KINDS.values()) if entry.command}
    return built_in | {
        entry.command: entry
        for entry in kinds().values()
        if entry.plugin is not None and entry.command and entry.command not in built_in
    }
