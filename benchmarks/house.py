"""Figures of the source itself: statements, calls by position, names, comments, circles of imports.

Usage: python benchmarks/house.py; writes results/house.txt.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "invtoolbox"
#: Names that say nothing about their content.
EMPTY_WORDS = frozenset(
    ("found", "own", "part", "other", "moved", "known", "seen", "given", "kept", "wanted")
)
#: Folders of numerical code, in which comments name equations.
NUMERIC = ("solvers", "kernels", "geometry", "jobs/flow", "priors/images")
#: Number of positional arguments from which on a call is counted.
MANY = 7


def sources(folder: str = "") -> Iterator[tuple[Path, str]]:
    """Yield the path, relative to the package, and the text of every module of a folder."""
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        yield path.relative_to(PACKAGE), path.read_text(encoding="utf-8")


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

    Starred arguments do not count, nor do ``Sequential`` and ``super().__init__``.
    """
    places = []
    for path, text in sources():
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            count = sum(not isinstance(argument, ast.Starred) for argument in node.args)
            if count >= MANY and "Sequential" not in name and name != "super().__init__":
                places.append(f"{path}:{node.lineno} {name}({count})")
    return places


def assigned_names() -> Counter[str]:
    """Count the names that are assigned, also by loops and comprehensions."""
    return Counter(
        node.id
        for _, text in sources()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )


def circles() -> list[list[str]]:
    """Return the sets of modules that import each other, directly or not.

    Imports inside of functions count, those for types alone do not.
    """
    arrows: dict[str, set[str]] = {_module(path): set() for path, _ in sources()}
    for path, text in sources():
        tree = ast.parse(text)
        typing = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and id(node) not in typing:
                named = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                arrows[_module(path)] |= {name for name in named if name in arrows}
    return [sorted(group) for group in _components(arrows) if len(group) > 1]


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
    rings = circles()
    lines = [
        f"statements: {statements():,}, of them jobs and cli {statements('jobs') + statements('cli'):,}",
        f"calls with {MANY} or more arguments by position: {len(calls)}",
        *(f"  {call}" for call in calls),
        f"assignments to empty words: {sum(names[word] for word in EMPTY_WORDS)}",
        "most frequent names: " + ", ".join(f"{n} {k}" for n, k in names.most_common(10)),
        "comments per line of code: "
        + ", ".join(f"{folder} {100 * comment_share(folder):.1f} %" for folder in NUMERIC),
        f"circles of imports: {len(rings)}",
        *(f"  {', '.join(name.removeprefix('invtoolbox.') for name in ring)}" for ring in rings),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = report()
    print(text, end="")
    (ROOT / "benchmarks" / "results" / "house.txt").write_text(text)
