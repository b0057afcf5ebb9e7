"""Share of mutants of the numerical folders that the tests notice.

A mutant is a copy of the sources with one change, made by cosmic-ray: another arithmetic operator or
comparison, a number plus or minus 1, a negated condition, a loop that never runs, a missing sign or
decorator. A statement is drawn from all statements of the folders, every one with the same chance,
then a kind of change, then a change; changes of annotations are drawn again. A mutant is killed if
the doctest of its module or one of at most six test files fails: those that mention the names of
the module or of modules that import it, first in the mirrored folder. Slow tests are left out.
The first round runs two files per mutant, the second one the others for its survivors.

Usage: python benchmarks/mutants.py --count 400; a second call continues. The outcomes are in
results/mutants.json, with a reason, written by hand, for a survivor that no test should kill.
"""

from __future__ import annotations

import ast
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from difflib import unified_diff
from functools import cache, partial
from itertools import islice, product
from pathlib import Path
from random import Random
from typing import Any

from common import Kept, machine, run_script, verdict

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("solvers", "data_terms", "parameter_choice", "training")
#: Arithmetic of tensors; other replacements of an operator raise an error in most places.
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Pow", "Delete"}
#: Numbers of test files per mutant in the two rounds, and seconds after which they are stopped.
FILES, LIMIT = (2, 6), 300
Mutant = tuple[str, int, str, int]
#: Imported before a process per mutant is forked, which saves most of its start. Not Warp: the package
#: turns its messages off at the first import, and a doctest that prints them fails.
HEAVY = ("torch", "scipy.optimize", "deepinv", "hypothesis", "matplotlib.pyplot", "skimage")


@cache
def plain(source: str) -> str:
    """Return a module without annotations, which change nothing."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(0)
    return ast.dump(tree)


def first_lines(path: Path) -> list[int]:
    """Return the first lines of the statements of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return sorted({node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)})


@cache
def changes(path: Path) -> dict[int, dict[str, list[tuple[str, int]]]]:
    """Return the changes of a module by first line of the statement and by kind."""
    from cosmic_ray.ast import Visitor, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    source = path.read_text(encoding="utf-8")
    starts = first_lines(path)
    by_line: dict[int, dict[str, list[tuple[str, int]]]] = {
        line: defaultdict(list) for line in starts
    }
    operators = []
    for name in sorted(operator_names()):
        kind, _, replacement = name.partition("/")[2].rpartition("_")
        skipped = "BinaryOperator" in kind and replacement not in ARITHMETIC
        if not skipped and "Variable" not in name and "NoOp" not in name:
            operators.append((name, kind or name, get_operator(name)(), iter(range(1_000_000))))

    class Lines(Visitor):
        def visit(self, node: Any) -> Any:
            for name, kind, operator, occurrence in operators:
                for _ in operator.mutation_positions(node):
                    line = starts[max(0, bisect_right(starts, node.start_pos[0]) - 1)]
                    by_line[line][kind].append((name, next(occurrence)))
            return node

    Lines().walk(get_ast(source))
    return by_line


def mutate(path: Path, name: str, occurrence: int) -> str | None:
    """Return the changed source, or None if only annotations differ or it is no Python."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = path.read_text(encoding="utf-8")
    mutant = mutate_code(source, get_operator(name)(), occurrence)
    try:
        return None if mutant is None or plain(mutant) == plain(source) else mutant
    except SyntaxError:  # a star too few before the entries of a dictionary
        return None


def draw(tree: Path, seed: int) -> Iterator[Mutant]:
    """Yield mutants without end: path, line, operator and occurrence of its change."""
    random = Random(seed)
    paths = [p for folder in FOLDERS for p in sorted((tree / "invtoolbox" / folder).rglob("*.py"))]
    lines = [(path, line) for path in paths for line in first_lines(path)]
    drawn = set()
    while True:
        path, line = random.choice(lines)
        kinds = changes(path)[line]
        if kinds:
            name, occurrence = random.choice(kinds[random.choice(sorted(kinds))])
            mutant = (str(path.relative_to(tree)), line, name, occurrence)
            if mutant not in drawn and mutate(path, name, occurrence):
                drawn.add(mutant)
                yield mutant


def public_names(module: Path) -> list[str]:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return [name for name in names if not name.startswith("_")]


@cache
def tests_of(tree: Path, path: str) -> list[str]:
    """Return the module itself, for its doctests, and test files.

    First comes the file with the module's name, then those of the mirrored folder that mention
    public names of the module, then those that mention names of the modules of the folder that
    import it, then other files that mention its names; the most mentions come first.
    """
    module, dotted = tree / path, path.removesuffix(".py").replace("/", ".")
    importing = [
        name
        for other in sorted(module.parent.glob("[!_]*.py"))
        if f"from {dotted} import" in other.read_text(encoding="utf-8")
        for name in public_names(other)
    ]
    patterns = [
        re.compile(rf"\b({'|'.join(names or [module.stem])})\b")
        for names in (public_names(module), importing)
    ]

    def rank(test: Path) -> tuple[int, ...]:
        text = test.read_text(encoding="utf-8")
        own, theirs = (len(pattern.findall(text)) for pattern in patterns)
        near = test.parent == tree / "tests" / module.parent.name
        return near and test.stem == f"test_{module.stem}", near * own, near * theirs, own

    ranks = {test: rank(test) for test in sorted((tree / "tests").rglob("test_*.py"))}
    ranked = sorted(ranks, key=lambda test: ranks[test], reverse=True)
    chosen = [str(test.relative_to(tree)) for test in ranked if any(ranks[test])]
    return [path, *chosen[: FILES[-1]]]


def run_tests(tree: Path, tests: list[str]) -> None:
    """Run tests in a process of their own; its exit code is pytest's."""
    import pytest

    os.setsid()
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path.insert(0, str(tree))
    output = os.open(tree / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    marks = ["-m", "not slow and not gpu"]
    code = pytest.main(["-x", "-q", "--tb=line", "-rfE", *marks, *tests])
    sys.stdout.flush()
    os._exit(int(code))


def outcome(tree: Path, tests: list[str], limit: float | None = LIMIT) -> dict[str, Any]:
    """Return what tests of a tree end in, and the test that failed."""
    began = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(tree, tests))
    process.start()
    process.join(limit)
    seconds = round(time.monotonic() - began)
    if process.is_alive():
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        return {"outcome": "timeout", "seconds": seconds}
    text = (tree / "output.txt").read_text(encoding="utf-8", errors="replace")
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
    killed = "survived" if process.exitcode in (0, 5) else "killed"  # 5: no test in these files
    return {"outcome": killed, "test": failed[:1] or [text[-200:]] * bool(process.exitcode)} | {
        "seconds": seconds
    }


def judge(tree: Path, mutant: Mutant, files: int, before: dict[str, Any]) -> dict[str, Any]:
    """Return the outcome of a mutant, and its changed line, after that many of its test files."""
    path, _, name, occurrence = mutant
    tests = tests_of(tree, path)[before.get("files", 0) : 1 + files]
    if not tests:
        return before | {"files": 1 + files}
    file, source = tree / path, (tree / path).read_text(encoding="utf-8")
    changed = mutate(file, name, occurrence)
    assert changed is not None
    lines = list(unified_diff(source.splitlines(), changed.splitlines(), n=0))[3:]
    old, new = (" ".join(k[1:].strip() for k in lines if k[0] == sign) for sign in "-+")
    try:
        file.write_text(changed, encoding="utf-8")
        ended = outcome(tree, tests)
    finally:
        file.write_text(source, encoding="utf-8")
    seconds = ended["seconds"] + before.get("seconds", 0)
    return before | {"before": old, "after": new} | ended | {"files": 1 + files, "seconds": seconds}


def report(known: dict[str, Any], seed: int) -> None:
    """Print the share of killed mutants, whole, by 20 draws in their order, and by folder."""
    counts = Counter(entry["outcome"] for entry in known.values())
    reasons = sum("reason" in entry for entry in known.values())
    killed = counts["killed"] / len(known)
    print(
        f"{len(known)} mutants, seed {seed}: {counts['killed']} killed, {100 * killed:.1f} % "
        f"{verdict(killed >= 0.9, '90 % of the mutants')}; {counts['survived']} survived, "
        f"{reasons} of them with a reason; {counts['timeout']} stopped after {LIMIT} s"
    )
    outcomes = [entry["outcome"] for entry in known.values()]
    blocks = [outcomes[k : k + 20] for k in range(0, len(outcomes), 20)]
    print("  by 20 draws: " + ", ".join(f"{b.count('killed')} of {len(b)}" for b in blocks))
    for folder in FOLDERS:
        group = Counter(
            entry["outcome"] for key, entry in known.items() if f"/{folder}/" in f"/{key}"
        )
        print(f"  {folder}: {group['killed']} of {group.total()}")
    for key, entry in sorted(known.items()):
        if entry["outcome"] != "killed":
            print(f"{entry['outcome']}: {key.rpartition(' ')[0]}")
            print(f"    {entry['before']}\n    {entry['after']}")
            print(f"    {entry.get('reason', 'no reason yet')}")


def main(
    count: int = 400,
    seed: int = 0,
    hours: float = 24.0,
    revision: str = "HEAD",
    state: Path = ROOT / "benchmarks" / "results" / "mutants.json",
) -> None:
    """Draw mutants, run the tests of each, and print the share that they kill.

    Args:
        count: number of mutants.
        seed: seed of the draws.
        hours: time after which no further mutant is begun.
        revision: commit whose sources are changed, and whose tests run. The draws belong to it.
        state: file of the outcomes.
    """
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for name in HEAVY:
        __import__(name)
    end = time.monotonic() + 3600 * hours
    kept = Kept(state)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve()
        archive = subprocess.run(
            ["git", "archive", revision], cwd=ROOT, check=True, stdout=subprocess.PIPE
        )
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, check=True)
        mutants = list(islice(draw(tree, seed), count))
        for files, mutant in product(FILES, mutants):
            key = "{}:{} {} {}".format(*mutant)
            before = kept.known.get(key, {})
            open_ = before.get("outcome", "survived") == "survived" and "reason" not in before
            if open_ and before.get("files", 0) <= files and time.monotonic() < end:
                kept.known.pop(key, None)
                kept.result(key, partial(judge, tree, mutant, files, before))
        # A test that fails without a change kills nothing.
        tests = {test for entry in kept.known.values() for test in entry.get("test", ())}
        guards = sorted({test.partition("[")[0] for test in tests if ".py" in test})
        sound = outcome(tree, guards, None) if guards else {"outcome": "survived"}
    print(f"python benchmarks/mutants.py --count {count} --seed {seed} --revision {revision}")
    print(machine())
    print(f"the {len(guards)} tests that kill mutants, without a change: {json.dumps(sound)}")
    keys = ["{}:{} {} {}".format(*mutant) for mutant in mutants]
    report({key: kept.known[key] for key in keys if key in kept.known}, seed)


if __name__ == "__main__":
    run_script(main)
