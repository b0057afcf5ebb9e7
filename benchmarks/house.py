"""Figures of the source: statements, calls by position, long functions, names, circles, options.

Usage: python benchmarks/house.py; writes results/house.txt.
"""

from __future__ import annotations

import ast
import gc
import importlib
import inspect
import io
import pkgutil
import re
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "invtoolbox"
#: Names that say nothing about their content.
EMPTY_WORDS = frozenset(
    ("found", "own", "part", "other", "moved", "known", "seen", "given", "kept", "wanted")
)
#: Folders of numerical code, in which comments name equations.
NUMERIC = ("solvers", "kernels", "geometry", "jobs/flow", "priors/images")
#: Number of positional arguments from which on a call is counted, and ends of the names of
#: functions of torch that take no names.
MANY = 7
NAMELESS = ("Sequential", "super().__init__", ".apply", ".save_for_backward")
#: Number of lines above which a function is long.
LONG = 100
#: Texts in which users, tests and pages name options.
PLACES = ("tests/**/*.py", "benchmarks/*.py", "docs/**/*.md", "docs/**/*.py", "README.md")
SHELF = ("scenes/*.toml", "solvers/*.toml", "priors/*/*.toml")
#: How a text names an option: as a keyword or key, in quotes, as a table, or on the command line.
NAMING = re.compile(r"""(\w+)\s*=|["'`.](\w+)["'`]|^\[+([\w.]+)|--([\w-]+)""", re.M)


def sources(folder: str = "") -> Iterator[tuple[Path, str]]:
    """Yield the path, relative to the package, and the text of every module of a folder."""
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        yield path.relative_to(PACKAGE), path.read_text(encoding="utf-8")


def trees() -> tuple[tuple[Path, ast.Module], ...]:
    """Parse every module of the package, once for all counts."""
    return _trees(PACKAGE)


@cache
def _trees(package: Path) -> tuple[tuple[Path, ast.Module], ...]:
    # The garbage collector would visit a million nodes that stay, again and again.
    gc.disable()
    try:
        return tuple((path, ast.parse(text)) for path, text in sources())
    finally:
        gc.freeze()
        gc.enable()


def statements(folder: str = "") -> int:
    """Count logical lines, the NEWLINE tokens of `tokenize`."""
    return sum(_tokens(text)[0] for _, text in sources(folder))


def comment_share(folder: str) -> float:
    """Return the number of comments per line of code; docstrings are no code."""
    comments = lines = 0
    for _, text in sources(folder):
        _, count, code = _tokens(text)
        comments, lines = comments + count, lines + code
    return comments / lines


def calls_by_position() -> list[str]:
    """List the calls with many positional arguments.

    Starred arguments do not count, nor do the functions `NAMELESS`.
    """
    places = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            count = sum(not isinstance(argument, ast.Starred) for argument in node.args)
            if count >= MANY and not (name := ast.unparse(node.func)).endswith(NAMELESS):
                places.append(f"{path}:{node.lineno} {name}({count})")
    return places


def long_functions() -> list[tuple[int, int, str]]:
    """List the functions of more than `LONG` lines: lines without the docstring, lines, place."""
    rows = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                code = node.end_lineno - body[0].lineno + 1 if body else 0
                if lines > LONG:
                    rows.append((code, lines, f"{path}:{node.lineno} {node.name}"))
    return sorted(rows, reverse=True)


def assigned_names() -> Counter[str]:
    """Count the names that are assigned, also by loops and comprehensions."""
    return Counter(
        node.id
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )


def circles() -> list[list[str]]:
    """Return the sets of modules that import each other, directly or not.

    Imports inside of functions count, those for types alone do not.
    """
    arrows: dict[str, set[str]] = {_module(path): set() for path, _ in sources()}
    for path, tree in trees():
        typing = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If)
            and isinstance(node.test, ast.Name)
            and node.test.id == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and id(node) not in typing:
                named = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                arrows[_module(path)] |= {name for name in named if name in arrows}
    return [sorted(group) for group in _components(arrows) if len(group) > 1]


def options() -> set[tuple[str, str]]:
    """Return owner and name of the options: arguments with a default value, and keys of scenes.

    Owners are the classes, with their methods, and the functions of the public packages.
    """
    import invtoolbox
    from invtoolbox.catalogue.documents import Table

    modules = pkgutil.iter_modules(invtoolbox.__path__)
    names = [module.name for module in modules if module.ispkg and module.name != "cli"]
    spaces = [invtoolbox, *(importlib.import_module(f"invtoolbox.{name}") for name in names)]
    pairs = {
        (function.__qualname__.removesuffix(".__init__"), argument.name)
        for owner in {getattr(space, name) for space in spaces for name in _exports(space)}
        for function in _functions(owner)
        for argument in inspect.signature(function).parameters.values()
        if argument.default is not argument.empty
    }
    for module in pkgutil.walk_packages(invtoolbox.__path__, "invtoolbox."):
        if module.name.startswith(("invtoolbox.jobs.", "invtoolbox.training.")):
            importlib.import_module(module.name)
    return pairs | {(f"[{t.__name__}]", key) for t in _descendants(Table) for key in t.model_fields}


def unnamed_options() -> list[str]:
    """List the options that no test, example, page, scene, recipe or benchmark names."""
    texts = [path.read_text() for place in (*PLACES, *SHELF) for path in ROOT.glob(place)]
    for _, text in sources():
        texts += re.findall(r"^\s*(?:>>>|\.\.\.) (.*)", text, re.M)
    written = " ".join(word for text in texts for match in NAMING.findall(text) for word in match)
    named = set(written.replace("-", "_").replace(".", " ").split())
    return sorted(f"{owner} {name}" for owner, name in options() if name not in named)


def _exports(package: Any) -> list[str]:
    names = getattr(package, "__all__", None) or dir(package)
    return [n for n in names if not n.startswith("_") and callable(getattr(package, n, None))]


def _functions(owner: Any) -> Iterator[Any]:
    """Yield a function; of a class, its constructor and its public methods."""
    if not getattr(owner, "__module__", "").startswith("invtoolbox"):
        return
    if not inspect.isclass(owner):
        yield owner
        return
    for name, member in vars(owner).items():
        member = getattr(member, "__func__", member)
        if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_")):
            yield member


def _descendants(kind: type) -> Iterator[Any]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


def _module(path: Path) -> str:
    return ".".join(("invtoolbox", *path.with_suffix("").parts)).removesuffix(".__init__")


def _components(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected components (Kosaraju's two passes)."""
    backwards = defaultdict(set)
    for start, ends in arrows.items():
        for end in ends:
            backwards[end].add(start)
    order: list[str] = []
    _visit(list(arrows), arrows, order)
    groups: list[set[str]] = []
    reached: set[str] = set()
    for name in reversed(order):
        group: list[str] = []
        _visit([name], backwards, group, reached)
        if group:
            groups.append(set(group))
    return groups


def _visit(
    names: list[str], arrows: dict[str, set[str]], order: list[str], reached: set[str] | None = None
) -> None:
    """Append the names that are reached to ``order``, each after those that it leads to."""
    reached = set() if reached is None else reached
    for name in names:
        stack = [] if name in reached else [(name, iter(arrows[name]))]
        reached.add(name)
        while stack:
            ends = stack[-1][1]
            following = next((end for end in ends if end not in reached), None)
            if following is None:
                order.append(stack.pop()[0])
            else:
                reached.add(following)
                stack.append((following, iter(arrows[following])))


def _tokens(text: str) -> tuple[int, int, int]:
    """Return the numbers of statements, of comments, and of lines of code."""
    newlines = comments = 0
    lines: set[int] = set()
    docstring = True  # a text at the beginning of a line is a docstring
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        newlines += token.type == tokenize.NEWLINE
        comments += token.type == tokenize.COMMENT
        if token.type in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            docstring = docstring or token.type == tokenize.NEWLINE
        elif token.type not in (tokenize.COMMENT, tokenize.ENDMARKER):
            if not (docstring and token.type == tokenize.STRING):
                lines.update(range(token.start[0], token.end[0] + 1))
            docstring = False
    return newlines, comments, len(lines)


def report() -> str:
    """Return all figures as text."""
    names = assigned_names()
    calls = calls_by_position()
    functions = long_functions()
    rings = circles()
    unnamed = unnamed_options()
    lines = [
        f"statements: {statements():,}, of them jobs and cli {statements('jobs') + statements('cli'):,}, "
        f"the automatic choices of images {statements('jobs/images/decisions'):,}",
        f"calls with {MANY} or more arguments by position: {len(calls)}",
        *(f"  {call}" for call in calls),
        f"functions of more than {LONG} lines: {len(functions)}, without their docstrings "
        f"{sum(code > LONG for code, _, _ in functions)}",
        *(f"  {place} {lines}, without docstring {code}" for code, lines, place in functions),
        f"assignments to empty words: {sum(names[word] for word in EMPTY_WORDS)}",
        "most frequent names: " + ", ".join(f"{n} {k}" for n, k in names.most_common(10)),
        "comments per line of code: "
        + ", ".join(f"{folder} {100 * comment_share(folder):.1f} %" for folder in NUMERIC),
        f"circles of imports: {len(rings)}",
        *(f"  {', '.join(name.removeprefix('invtoolbox.') for name in ring)}" for ring in rings),
        f"options that no test, example, page, scene, recipe or benchmark names: {len(unnamed)}",
        *(f"  {option}" for option in unnamed),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = report()
    print(text, end="")
    (ROOT / "benchmarks" / "results" / "house.txt").write_text(text)
