"""Scenes: whole runnable problems, as TOML files of the catalogue or as the user's own."""

from invtoolbox.study.scenes import run

__all__ = ["run"]
