"""Packages that are imported are declared in pyproject.toml, and declared ones are imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = set(PROJECT["optional-dependencies"])
INSTALLED = packages_distributions()
#: Extras of those who work on the toolbox; the others are for users.
OURS = {"test", "docs", "peers"}
#: Names of modules of distributions that may be missing here, if they differ.
MODULES = {
    "astra-toolbox": {"astra"},
    "dask[distributed]": {"dask", "distributed"},
    "laspy[lazrs]": {"laspy", "lazrs"},
    "itk-rtk": {"itk"},
    "libigl": {"igl"},
    "pillow": {"PIL"},
    "rerun-sdk": {"rerun"},
    "scikit-image": {"skimage"},
    "scikit-learn": {"sklearn"},
    "warp-lang": {"warp"},
    "PyWavelets": {"pywt"},
}
#: Distributions that run as programs or as plug-ins.
PROGRAMS = {
    "pytest-xdist",
    "mypy",
    "ruff",
    "clang-format",
    "import-linter",
    "mkdocs-material",
    "mkdocstrings[python]",
    "nvidia-cuda-cuobjdump",
    "nvidia-cuda-nvdisasm",
}
#: Modules that no extra installs.
UNDECLARED = {
    "cil": "only conda has it",
    "tigre": "only conda and its sources have it",
    "bucketed_scene_flow_eval": "its pins contradict ours; golden figures stand for it",
    "ants": "its pins contradict ours; a benchmark runs it in an environment of its own",
    "ouster": "its pins contradict those of others; the test skips without it",
    "torch_radon": "it has no wheel; `make gpu` measures it if it is installed",
    "lazy_other": "a test writes it",
    "lazy_package": "a test writes it",
    "missing_module_of_nobody": "a test misses it",
}
#: Functions that take the name of a module.
IMPORTERS = {"optional_package", "import_module", "importorskip", "find_spec"}


def declared(extra: str | None = None) -> set[str]:
    """Return the distributions of the core or of an extra, with those of the extras it names."""
    lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    names = [re.match(r"[\w.-]+(\[.*\])?", line)[0] for line in lines]
    inner = [name[:-1].partition("[")[2] for name in names if name.startswith(PROJECT["name"])]
    rest = {name for name in names if not name.startswith(PROJECT["name"])}
    return rest.union(*(declared(name) for group in inner for name in group.split(",")))


def modules(distribution: str) -> set[str]:
    """Return the modules that a distribution installs."""
    name = distribution.lower()
    installed = {module for module, owners in INSTALLED.items() if name in map(str.lower, owners)}
    return MODULES.get(distribution, installed) or {name.replace("-", "_"), distribution}


@cache
def imports(folder: str) -> dict[str, set[str]]:
    """Return the files of a folder that import each module of another package."""
    ours = {folder, "invtoolbox", "tests", *(f.stem for f in (ROOT / "benchmarks").glob("*.py"))}
    places = defaultdict(set)
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for name in names_of(node):
                module = name.partition(".")[0]
                if module not in ours | sys.stdlib_module_names:
                    places[module].add(str(file.relative_to(ROOT)))
    return places


def names_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module
    elif isinstance(node, ast.Call) and node.args:
        first = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        if name in IMPORTERS and isinstance(first, ast.Constant):
            yield first.value


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("invtoolbox", EXTRAS - OURS), ("tests", EXTRAS), ("benchmarks", EXTRAS - {"docs"})],
)
def test_an_imported_package_is_declared(folder: str, extras: set[str]) -> None:
    allowed = set().union(*map(modules, declared().union(*map(declared, extras))))
    unknown = {k: v for k, v in imports(folder).items() if k not in allowed | set(UNDECLARED)}
    assert not unknown


def test_tests_need_no_package_outside_of_their_extra() -> None:
    """A test that needs another package skips without it."""
    certain = set().union(*map(modules, declared() | declared("test")))
    for module, files in imports("tests").items():
        for file in files if module not in certain | set(UNDECLARED) else ():
            text = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(rf"importorskip\(\"{module}|except ImportError", text), (file, module)


def test_the_package_imports_an_optional_package_where_it_can_be_missing() -> None:
    """By `optional_package`, which names the extra, or in a ``try``."""
    core = set().union(*map(modules, declared()))
    optional = set().union(*map(modules, set().union(*map(declared, EXTRAS - OURS)))) - core
    for file in (ROOT / "invtoolbox").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        tried = {k for t in nodes if isinstance(t, ast.Try) for n in t.body for k in ast.walk(n)}
        plain = [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
        for node in set(plain) - tried:
            assert not {name.partition(".")[0] for name in names_of(node)} & optional, file


def test_a_declared_package_is_imported_and_has_a_least_version() -> None:
    used = set().union(*map(imports, ("invtoolbox", "tests", "benchmarks")))
    names = declared().union(*map(declared, EXTRAS))
    assert {name for name in names if not modules(name) & used} == PROGRAMS
    assert set(UNDECLARED) <= used
    for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        assert all(">=" in line for line in lines if not line.startswith(PROJECT["name"]))
