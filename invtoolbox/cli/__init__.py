"""The command line ``invtoolbox COMMAND``.

The commands of the kinds of scenes are listed in `invtoolbox.jobs.kinds`, all others in `COMMANDS`.
A user's error ends with one sentence and exit code 2, Ctrl-C and SIGTERM with exit code 130. With
``INVTOOLBOX_DEBUG=1`` a traceback is shown instead.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

from invtoolbox.core.environment import optional_package
from invtoolbox.core.interrupts import end_without_return, terminate_as_interrupt
from invtoolbox.core.trust import trusting
from invtoolbox.errors import (
    ARGUMENTS,
    InputError,
    MissingDependency,
    RankLost,
    nearest,
    spell,
    suggest,
)
from invtoolbox.jobs.kinds import commands

#: Function that adds description, options and examples to the parser of a command.
OptionAdder = Callable[[argparse.ArgumentParser], None]
#: Commands that belong to no kind of scene: the module of `invtoolbox.cli`, and what they do.
COMMANDS = {
    "demo": ("demo", "compare methods on a CT slice, a photograph and a street, in a minute"),
    "run": ("run", "run a scene file"),
    "list": ("listing", "list priors, solvers, data sets, scenes and other names"),
    "data": ("data", "show which files a data set has, and take them from a folder"),
    "train": ("train", "train a prior from a recipe"),
    "benchmark": ("benchmark", "measure methods, and your own, on a standard table"),
    "info": ("info", "show versions, devices, threads and missing extras"),
    "doctor": ("doctor", "check home, kernel cache, compiler, memory, disk, versions and GPU"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        arguments: words after ``invtoolbox``; by default the arguments of the process.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by the caller, such as a service
            setattr(sys, stream, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    debug = os.environ.get("INVTOOLBOX_DEBUG", "") not in ("", "0")
    warnings.showwarning = _note
    try:
        parsed = parser().parse_args(arguments)
        trusted = getattr(parsed, "trusted", False)
        with (
            end_without_return(),
            terminate_as_interrupt(),
            _threads(parsed),
            trusting(trusted),
        ):
            code = parsed.command(parsed)
        sys.stdout.flush()
        return int(code or 0)
    except (InputError, MissingDependency, RankLost) as error:
        if debug:
            raise
        return _complain(str(error))
    except BrokenPipeError:  # `invtoolbox list | head`
        _drop_output()
        return 0
    except OSError as error:
        if debug:
            raise
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return _complain(_describe(error))
    except (MemoryError, RuntimeError) as error:
        from invtoolbox.core.memory import is_out_of_memory, memory_error

        if "home directory" in str(error) and not debug:  # of Path.expanduser
            return _complain(
                "a path begins with ~, and this user has no home folder; give the whole path"
            )
        if debug or not is_out_of_memory(error):
            raise
        return _complain(str(memory_error(error)))
    except KeyboardInterrupt as error:
        if debug:
            raise
        _complain(str(error) or "stopped")
        if arguments is None:
            # Torch and Warp take up to a second of processor time to leave memory to the system.
            sys.stdout.flush()
            os._exit(130)
        return 130


class Parser(argparse.ArgumentParser):
    """Parser whose errors are one sentence, like all errors of the command line."""

    def error(self, message: str) -> NoReturn:
        end = "" if message.endswith("?") else ";"
        self.exit(2, f"invtoolbox: {message}{end} see {self.prog} --help\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as refusal:
            near = suggest(nearest(str(value), map(str, action.choices or ())))
            if isinstance(action, argparse._SubParsersAction):
                self.error(f"there is no command {value!r}{near}".rstrip(";"))
            raise argparse.ArgumentError(action, f"{refusal.message}{near}".rstrip(";")) from None


class LazyParser(Parser):
    """Parser of a command, whose modules are imported when the parser is used for the first time.

    Attributes:
        add_options: function that adds description, options and examples to a parser.
    """

    add_options: OptionAdder | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.fill()
        if "-" in (args or ()):
            self.error(
                "- is no path: files are not read from or written to pipes; give their paths"
            )
        parsed, rest = super().parse_known_args(args, namespace)
        for option in (word.partition("=")[0] for word in rest if word.startswith("--")):
            meant = f"--{ARGUMENTS.get(spell(option), '').replace('_', '-')}"
            options = self._option_string_actions
            if near := [meant] if meant in options else nearest(option, options, 2, 0.6):
                self.error(f"there is no option {option}{suggest(near)}")
        if rest and all(os.path.exists(word) for word in rest):
            self.error(
                f"{', '.join(rest)}: one path too many; put files that belong together into one "
                "folder, and give the folder"
            )
        return parsed, rest

    def format_help(self) -> str:
        self.fill()
        return super().format_help()

    def fill(self) -> None:
        """Add the options."""
        add_options, self.add_options = self.add_options, None
        if add_options is not None:
            add_options(self)


class Completion(argparse.Action):
    """Option that prints the script of a shell that completes command lines."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        shtab: Any = optional_package(
            "shtab", "--completion needs shtab; install it with", "completion"
        )
        for command in parser._subparsers._group_actions[0].choices.values():
            command.fill()
            for action in command._actions:
                if action.nargs != 0 and not action.choices:
                    action.complete = shtab.FILE
        print(shtab.complete(parser, shell=values))
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    from invtoolbox import __version__

    top = Parser(
        prog="invtoolbox",
        description="Solve inverse problems from the command line: one command per kind of "
        "measurements, and scene files for studies.",
        epilog="examples:\n"
        "  invtoolbox demo\n  invtoolbox ct sinogram.npy --geometry geometry.toml --output slice.tif\n  invtoolbox "
        "deblur photo.png --kernel kernel.png\n  invtoolbox flow folder-of-sweeps --output "
        "results/flow\n  invtoolbox run ct-small --set prior.tv.weight=0.01\n  invtoolbox list "
        "priors\n\n`invtoolbox COMMAND --help` describes a command. INVTOOLBOX_DEBUG=1 shows the "
        "traceback of an error.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"invtoolbox {__version__}")
    top.add_argument(
        "--completion",
        action=Completion,
        choices=("bash", "zsh", "tcsh"),
        help="print a script that completes commands and options, and exit",
    )
    parsers = top.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=LazyParser
    )
    adders: dict[str, tuple[str, OptionAdder]] = {
        name: (entry.summary, entry.fill) for name, entry in commands().items()
    }
    # A command of a plug-in does not replace one of these.
    adders |= {
        name: (summary, partial(_fill, module)) for name, (module, summary) in COMMANDS.items()
    }
    for name, (summary, add_options) in adders.items():
        command = parsers.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.add_options = add_options
    return top


def _fill(module: str, parser: argparse.ArgumentParser) -> None:
    loaded = import_module(f"invtoolbox.cli.{module}")
    loaded.fill(parser)
    parser.set_defaults(command=loaded.command)


def _threads(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    """Return the context of a command that computes: its number of threads."""
    if not hasattr(arguments, "threads"):
        return nullcontext()
    from invtoolbox.core.threads import choose_threads, limit_torch_threads

    return limit_torch_threads(choose_threads(arguments.threads))


def _drop_output() -> None:
    """Discard the output that is still buffered.

    It would fail again when Python ends, and change the exit code.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(sentence: str) -> int:
    print(f"invtoolbox: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


def _describe(error: OSError) -> str:
    name = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{name}no room left on the disk; free some or choose another folder"
    return f"{name}{error.strerror or error}"


def _note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        print(f"invtoolbox: note: {' '.join(str(message).split())}", file=sys.stderr)
