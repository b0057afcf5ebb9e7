"""Sentences are rendered from records, and no code reads them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "invtoolbox"
#: Attributes that hold sentences for a user.
SENTENCES = {"notes", "weight_choice", "reason", "sentence"}
#: Methods of strings, tuples and regular expressions that read a text.
READING = {
    *("startswith", "endswith", "partition", "rpartition", "split", "rsplit", "splitlines"),
    *("find", "rfind", "index", "rindex", "count", "replace", "removeprefix", "removesuffix"),
    *("search", "match", "fullmatch", "findall", "finditer", "sub", "subn"),
}
#: Functions whose value is no text: of `len(solution.notes) == 1` nothing is read.
COUNTING = {"len", "bool", "isinstance", "type", "id"}
#: Methods that return sentences.
RENDERING = {"text"}
#: Functions that write sentences: items of records are numbered, errors of the command line are put in
#: one line, and name options in place of the keys of tables.
WRITERS = {
    ("core/decision.py", "_number"),
    ("cli/__init__.py", "_complain"),
    ("jobs/command.py", "_name_options"),
    ("jobs/images/command.py", "_name_options"),
}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def holds(node: ast.AST, names: set[str]) -> bool:
    """Return whether the value of an expression may be the text of a sentence."""
    if isinstance(node, ast.Attribute):
        return node.attr in SENTENCES
    if isinstance(node, ast.Name):
        return node.id in names
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        parts = [node.func.value, *node.args, *(word.value for word in node.keywords)]
        return node.func.attr in RENDERING or any(holds(part, names) for part in parts)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in COUNTING:
            return False
        if node.func.id == "getattr":
            words = {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
            return bool(words & SENTENCES)
    if isinstance(node, (ast.Compare, ast.FunctionDef)):
        return False
    return any(holds(child, names) for child in ast.iter_child_nodes(node))


def assignments(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Return the targets and the values of assignments, loops and comprehensions."""
    for child in ast.walk(node):
        if isinstance(child, ast.Assign):
            yield from ((target, child.value) for target in child.targets)
        elif isinstance(child, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and child.value:
            yield child.target, child.value
        elif isinstance(child, (ast.For, ast.comprehension)):
            yield child.target, child.iter


def sentence_names(scope: ast.AST) -> set[str]:
    """Return the variables of a function that hold a sentence."""
    names = {n.arg for n in ast.walk(scope) if isinstance(n, ast.arg)} & SENTENCES
    while True:
        before = len(names)
        for target, value in assignments(scope):
            if holds(value, names):
                names |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
        if len(names) == before:
            return names


def is_empty(node: ast.AST) -> bool:
    """Return whether an expression is an empty string or tuple, or None."""
    return (isinstance(node, ast.Constant) and node.value in ("", None)) or (
        isinstance(node, ast.Tuple) and not node.elts
    )


def reads(node: ast.AST, names: set[str]) -> bool:
    """Return whether an expression depends on the words of a sentence."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        is_of_text = any(isinstance(op, (ast.Eq, ast.NotEq, ast.In, ast.NotIn)) for op in node.ops)
        return is_of_text and any(holds(s, names) for s in sides) and not any(map(is_empty, sides))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr not in READING:
            return False
        pattern = isinstance(node.func.value, ast.Name) and node.func.value.id not in names
        return holds(node.func.value, names) or (
            pattern and any(holds(argument, names) for argument in node.args)
        )
    if isinstance(node, ast.Match):
        return holds(node.subject, names)
    return False


def scopes(tree: ast.Module) -> Iterator[ast.AST]:
    """Return the statements outside of functions, and every function after those around it."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef)):
            outside = [n for n in node.body if not isinstance(n, (*FUNCTIONS, ast.ClassDef))]
            yield ast.Module(outside, [])
        elif isinstance(node, FUNCTIONS):
            yield node


def offences(source: str) -> list[tuple[str, str]]:
    """Return the functions of a source text that read a sentence, and the lines that do."""
    found = {}
    for scope in scopes(ast.parse(source)):
        names = sentence_names(scope)
        for node in ast.walk(scope):
            if reads(node, names):
                function = getattr(scope, "name", "")
                found[node.lineno] = function, f"line {node.lineno}: {ast.unparse(node)}"
    return [entry for _, entry in sorted(found.items())]


def test_no_code_reads_a_sentence() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        source, module = path.read_text(), path.relative_to(PACKAGE).as_posix()
        if any(word in source for word in (*SENTENCES, *RENDERING)):
            lines = [line for name, line in offences(source) if (module, name) not in WRITERS]
            found += [f"{module}, {line}" for line in lines]
    assert not found, "read the record in place of its sentence:\n" + "\n".join(found)


def test_every_exception_is_needed() -> None:
    for module, name in WRITERS:
        assert name in {function for function, _ in offences((PACKAGE / module).read_text())}


@pytest.mark.parametrize(
    "code",
    [
        'any("x is the picture" in note for note in solution.notes)',
        'solution.weight_choice.startswith("no weight")',
        'solution.reason == "CGLS was asked for"',
        'findings[0].sentence.partition(";")[0]',
        'findings[0].sentence.split(";", 1)',
        're.search(r"prior is (.*)", " ".join(solution.notes))',
        "PATTERN.match(decision.sentence)",
        'decision.text(3).endswith("keeps the grid")',
        'solution.notes[0].lower().find("residual") >= 0',
        'getattr(solution, "notes")[0] != other',
        '[note for note in solution.notes if note.replace("a", "b") != note]',
        'dataclasses.replace(solution, x=x) if "mirror" in str(solution.notes) else solution',
    ],
)
def test_code_that_reads_a_sentence_is_found(code: str) -> None:
    assert offences(code) and offences(f"def choose(solution, findings):\n    return {code}\n")


def test_a_sentence_that_passes_through_variables_is_found() -> None:
    source = """
def choose(solution, remarks):
    notes = list(solution.notes)
    for k, note in enumerate(notes):
        first = note.strip()
        if first[:3] == "the":
            return k
"""
    assert [name for name, _ in offences(source)] == ["choose"]
    assert offences("def choose(notes):\n    return 'mirror' in notes[0]\n")


@pytest.mark.parametrize(
    "code",
    [
        'decision.step == "finer-grid" and decision.outcome == "taken"',
        "len(solution.notes) == 1 or decision.sentence != ''",
        '"; ".join(solution.notes)',
        "dataclasses.replace(solution, decisions=records)",
        'log.info("%s", decision.text(3))',
        "record.item == 3 and solution.status[0].startswith('conv')",
    ],
)
def test_code_that_reads_records_or_shows_sentences_is_right(code: str) -> None:
    assert not offences(f"def show(solution, decision):\n    return {code}\n")
