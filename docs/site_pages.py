"""Pages of the site that are made from what is there: the start page from the README, the gallery from its scripts, the reference from
the packages' lists of names, and the command line from its own help. MkDocs calls the functions `on_...` below."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
GALLERY = ROOT / "docs" / "gallery"
#: Pictures and printed lines, one folder a script, named after its text and the package's: nothing is run again while neither changes.
BUILT = ROOT / "build" / "gallery"

#: In the order of the gallery's first page.
SCRIPTS = (
    "ct_slice",
    "limited_angle",
    "cone_beam",
    "calibration",
    "deblurring",
    "blind_deblurring",
    "mri",
    "own_prior",
    "posterior",
    "choosing_the_weight",
    "batch",
    "simulated_street",
    "rigid_bar",
)

#: Reference pages: the module, the page's title, what it is for.
PACKAGES = {
    "operators": (
        "Operators",
        "What maps an image to measurements. A table of them is in `invtoolbox list operators`.",
    ),
    "data_terms": ("Data terms", "How misfit between prediction and measurements is measured."),
    "priors": ("Priors", "What is known about the image before it is measured."),
    "solvers": (
        "Solvers",
        "Frozen records of settings, one algorithm each. The loop belongs to `it.solve`.",
    ),
    "parameter_choice": (
        "Weight of the prior",
        "Rules for `regularization=`, and the noise level of measurements.",
    ),
    "datasets": ("Data sets", "Readers, one a format, geometry files, and what writes results."),
    "processing": ("Processing", "From counts to line integrals that an operator explains."),
    "metrics": ("Metrics", "Measures of quality, each per item: shape `(batch,)`."),
    "plotting": ("Plotting", "Figures and reports."),
    "training": (
        "Training",
        "Weights of a network as the unknown of a problem: stages, losses, pairs, recipes.",
    ),
    "unrolling": (
        "Solvers as networks",
        "So many steps of a solver, or its fixed point, with what is learned.",
    ),
    "testing": ("Testing", "Is my operator, prior, data term or solver what it says it is?"),
    "scenes": ("Scenes", "Scene files, lidar sweeps, and a simulated street with exact labels."),
    "views": (
        "Scenes from photographs",
        "What represents a scene, the stages in which it is found, and which photographs are held out.",
    ),
    "study": (
        "Studies",
        "Slices of a volume and scenes of a study, on one machine or on Dask workers, resumable.",
    ),
}
#: Bases of public classes that hold what users call, but are no public names themselves.
BASES = {
    "operators": ("scan_2d.Scan2D", "scan_3d.Scan3D"),
    "scenes": (
        "sweep.Sweep",
        "sweep.FlowLabels",
        "sweep.Boxes",
        "street.Thing",
        "street.Part",
        "routes.Route",
        "routes.Track",
        "routes.Speed",
    ),
}
#: What stands in `invtoolbox` itself.
TOP = (
    "Problem",
    "solve",
    "Solution",
    "reconstruct",
    "map_slices",
    "exact_posterior",
    "MeanFieldPosterior",
    "calibrate_posteriors",
    "as_operator",
    "to_deepinv",
    "Checkpoint",
    "Progress",
    "InputError",
)


def on_files(files: Files, config: Any) -> Files:
    pages = {
        "index.md": start_page((ROOT / "README.md").read_text()),
        "reference/command_line.md": command_line_page(),
        "reference/index.md": top_page(),
    }
    pages |= {f"reference/{name}.md": package_page(name) for name in PACKAGES}
    rows = []
    for name in SCRIPTS:
        title, prose, code = parts(GALLERY / f"{name}.py")
        printed, pictures = run(name)
        pages[f"gallery/{name}.md"] = gallery_page(
            name, title, prose, code, printed, [p.name for p in pictures]
        )
        for picture in pictures:
            files.append(
                File.generated(config, f"gallery/{picture.name}", abs_src_path=str(picture))
            )
        rows.append(
            f"### [{title}]({name}.md)\n\n[![{title}]({name}.png)]({name}.md)\n\n{prose.split(chr(10) * 2)[0]}\n"
        )
    pages["gallery/index.md"] = (
        "# Gallery\n\nEvery page is a script that runs in less than about 20 seconds on one core, with data that "
        "come with installed packages or are simulated. The pictures are made when the site is built.\n\n"
        + "\n".join(rows)
    )
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def start_page(readme: str) -> str:
    """The README with its links turned to pages of the site; links to files that are not pages become plain text."""
    readme = readme.replace("](docs/", "](")
    return re.sub(
        r"\[([^\]]+)\]\((?!https?:|architecture\.md|conventions\.md)[^)]*\)", r"`\1`", readme
    )


def parts(script: Path) -> tuple[str, str, str]:
    """Title, prose and code of a script: first line and rest of its docstring, and what comes after."""
    text = script.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    if docstring is None:
        raise PluginError(f"{script} has no docstring to make a page of")
    title, _, prose = docstring.partition("\n")
    code = text[text.index('"""', text.index('"""') + 3) + 3 :].strip()
    return title, prose.strip(), code


def run(name: str) -> tuple[str, list[Path]]:
    """What a script prints, and its pictures; from an earlier build where neither the script nor the package has changed."""
    script = GALLERY / f"{name}.py"
    folder = (
        BUILT / f"{name}-{hashlib.sha256(script.read_bytes() + package_digest()).hexdigest()[:12]}"
    )
    if not (folder / "printed.txt").exists():
        for old in BUILT.glob(f"{name}-*"):
            shutil.rmtree(old)
        folder.mkdir(parents=True)
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "MPLBACKEND": "agg"},
        )
        if done.returncode:
            shutil.rmtree(folder)
            raise PluginError(f"{script} ended with code {done.returncode}:\n{done.stderr}")
        (folder / "printed.txt").write_text(done.stdout)
    pictures = sorted(folder.glob("*.png"))
    if not (folder / f"{name}.png").exists():
        raise PluginError(f"{script} made no {name}.png")
    return (folder / "printed.txt").read_text(), pictures


@cache
def package_digest() -> bytes:
    digest = hashlib.sha256()
    for source in sorted((ROOT / "invtoolbox").rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.digest()


def gallery_page(
    name: str, title: str, prose: str, code: str, printed: str, pictures: list[str]
) -> str:
    shown = [f"{name}.png", *(p for p in pictures if p != f"{name}.png")]
    text = f"# {title}\n\n{prose}\n\n" + "\n\n".join(f"![{title}]({p})" for p in shown)
    text += f'\n\n```python title="docs/gallery/{name}.py"\n{code}\n```\n'
    return text + (f"\nIt prints:\n\n```text\n{printed.strip()}\n```\n" if printed.strip() else "")


def top_page() -> str:
    return (
        "# Reference\n\nWhat stands in `invtoolbox` itself, `import invtoolbox as it`.\n\n"
        + "\n\n".join(f"::: invtoolbox.{target(name)}" for name in TOP)
        + "\n"
    )


def target(name: str) -> str:
    """Where a name of `invtoolbox` stands; `invtoolbox.solve` is also a module."""
    from invtoolbox import _NAMES

    return (
        "solve.solve" if name == "solve" else f"{_NAMES[name].removeprefix('invtoolbox.')}.{name}"
    )


def package_page(package: str) -> str:
    """A heading and a documented object for every public name of a package, from its own list of them."""
    title, what = PACKAGES[package]
    paths = [
        *exported(package),
        *(f"invtoolbox.{package}.{name}" for name in BASES.get(package, ())),
    ]
    return (
        f"# {title}\n\n{what} Import as `it.{package}`.\n\n"
        + "\n\n".join(f"::: {path}" for path in paths)
        + "\n"
    )


def exported(package: str) -> list[str]:
    """The classes, functions and modules in a package's `__all__`, classes first: the paths to document them by."""
    import importlib
    import inspect

    module = importlib.import_module(f"invtoolbox.{package}")
    objects = {name: getattr(module, name) for name in module.__all__}
    objects = {
        n: o
        for n, o in objects.items()
        if inspect.isclass(o) or inspect.isfunction(o) or inspect.ismodule(o)
    }
    names = sorted(objects, key=lambda n: (not inspect.isclass(objects[n]), n.lower()))
    # What a package loads when it is first used is not in its text: it is documented by the module that it stands in.
    return [
        f"{module.__name__ if name in vars(module) else objects[name].__module__}.{name}"
        for name in names
    ]


def command_line_page() -> str:
    """The help of every command, as the command line prints it."""
    import argparse

    from invtoolbox.cli import parser

    os.environ["COLUMNS"] = "110"
    top = parser()
    text = f"# Command line\n\n{top.description}\n\n```text\n{top.format_help()}```\n"
    commands = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        text += f"\n## invtoolbox {name}\n\n```text\n{command.format_help()}```\n"
    return text
