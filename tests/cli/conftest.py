"""Fixtures of the command line: files of a user, and one way to run a command."""

from tests.command_line import cone, here, run

__all__ = ["cone", "here", "run"]
