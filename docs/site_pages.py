"""Generate pages of the site: start page, gallery, results of benchmarks, reference.

The start page comes from the README, the gallery from its scripts, the results from
`benchmarks/results`, the reference from the packages' lists of names, the command line from its own
help, and the scene files from the models that check them. MkDocs calls the functions `on_...` below.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
GALLERY = ROOT / "docs" / "gallery"
#: Pictures and printed lines, one folder per script. A folder is named after a digest of the script
#: and of the package, so that nothing is run again while neither changes.
BUILT = ROOT / "build" / "gallery"

BENCHMARKS = ROOT / "benchmarks"
#: Results of a script whose name differs from the script's.
RESULT_OF = {"euler_parts": "euler", "vble_steps": "vble"}

#: The scripts of the gallery, in the order of its first page.
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
    "bending_scene",
    "normal_map",
    "events",
    "inverted_network",
    "registration",
    "gated_ct",
    "bones",
    "waves",
)

#: Pages of the reference: their modules, titles and purposes.
PACKAGES = {
    "operators": (
        "Operators",
        "Forward models that map an image to measurements. `invtoolbox list operators` prints a "
        "table of them.",
    ),
    "data_terms": (
        "Data terms",
        "Measures of the misfit between prediction and measurements.",
    ),
    "priors": ("Priors", "Knowledge about the image before it is measured."),
    "solvers": (
        "Solvers",
        "Frozen records of settings, one algorithm each. The loop belongs to `it.solve`.",
    ),
    "parameter_choice": (
        "Weight of the prior",
        "Rules for `regularization=`, and the noise level of measurements.",
    ),
    "measurements": (
        "Checks of measurements",
        "Findings about measurements that do not fit their operator, before every solve.",
    ),
    "distributed": (
        "Several machines",
        "One volume over the ranks of a process group, in slabs.",
    ),
    "posteriors": (
        "Posteriors",
        "Probability distributions over images, and conformal intervals.",
    ),
    "networks": ("Networks", "Torch modules that priors, solvers and training share."),
    "geometry": (
        "Geometry",
        "Cameras, rigid motions, meshes, voxels, Gaussians, lidar sweeps and neighbor graphs.",
    ),
    "simulation": (
        "Simulation",
        "A street with traffic and a spinning lidar, an event camera, and a bar of Gaussians that "
        "bends, with exact labels; and wavelets of waves.",
    ),
    "jobs.flow": (
        "Scene flow",
        "Motion in lidar sweeps: preparation of pairs, methods, and whole sequences as a resumable "
        "study.",
    ),
    "jobs.photographs": (
        "Scenes from photographs",
        "Models of a scene, the stages of a reconstruction, and the choice of held-out "
        "photographs.",
    ),
    "jobs.study": (
        "Studies",
        "Slices of a volume and scenes of a study, on one machine or on Dask workers, resumable.",
    ),
    "datasets": ("Data sets", "One reader per format, geometry files, and writers of results."),
    "processing": (
        "Processing",
        "Conversion of counts to line integrals that fit an operator, and coils of MRI.",
    ),
    "metrics": ("Metrics", "Measures of quality, each per item: shape `(batch,)`."),
    "plotting": ("Plotting", "Figures and reports."),
    "training": (
        "Training",
        "Weights of a network as the unknown of a problem: stages, losses, pairs, recipes.",
    ),
    "unrolling": (
        "Solvers as networks",
        "A fixed number of steps of a solver, or its fixed point, with trainable parts.",
    ),
    "testing": (
        "Testing",
        "Checks of your own operators, priors, data terms and solvers against their contracts.",
    ),
}
#: Further public names of a package: base classes whose methods users call, and records of its
#: submodules.
MORE = {
    "operators": ("tomography.scan_2d.Scan2D", "tomography.scan_3d.Scan3D"),
    "geometry": (
        "sweeps.Sweep",
        "sweeps.FlowLabels",
        "sweeps.Boxes",
        "voxels.Voxels",
        "voxels.VoxelSpace",
        "rigid.relative_motion",
        "rigid.transform",
        "rigid.rotation",
    ),
    "simulation": (
        "world.Thing",
        "world.Part",
        "world.Route",
        "world.Track",
        "world.Speed",
    ),
    "jobs.flow": (
        "methods.Motion",
        "preparation.PreparedPair",
        "preparation.prepare_pair",
        "trajectories.FiledFlow",
        "trajectories.FlowStep",
        "trajectories.track",
        "accumulation.Accumulation",
        "accumulation.write_accumulated",
    ),
}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages and pictures to the files of the site."""
    pages = {
        "index.md": start_page((ROOT / "README.md").read_text()),
        "reference/command_line.md": command_line_page(),
        "reference/scene_files.md": scene_files_page(),
        "reference/index.md": top_page(),
        "benchmark_results.md": results_page(),
    }
    pages |= {f"reference/{name.replace('.', '_')}.md": package_page(name) for name in PACKAGES}
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
            "### "
            f"[{title}]({name}.md)\n\n[![{title}]({name}.png)]({name}.md)\n\n{prose.split(chr(10) * 2)[0]}\n"
        )
    pages["gallery/index.md"] = (
        "# Gallery\n\nEvery page is a script that runs in less than about 20 seconds on one core. "
        "Its data come with installed packages or are simulated. The pictures are drawn when the "
        "site is built.\n\n" + "\n".join(rows)
    )
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def start_page(readme: str) -> str:
    """Turn the README's links into links to pages, and links to other files into code."""
    readme = readme.replace("](docs/", "](")
    return re.sub(
        r"(?<!!)\[([^\]]+)\]\((?!https?:)([^)]*)\)",
        lambda link: (
            link[0] if link[2].endswith((".md", ".jpg")) and exists(link[2]) else f"`{link[1]}`"
        ),
        readme,
    )


def exists(page: str) -> bool:
    """Whether a page or picture of that path lies in the folder of the documentation."""
    return (ROOT / "docs" / page).is_file()


def parts(script: Path) -> tuple[str, str, str]:
    """Return title, prose and code of a script; the first two come from its docstring."""
    text = script.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    if docstring is None:
        raise PluginError(f"{script} has no docstring to make a page of")
    title, _, prose = docstring.partition("\n")
    code = text[text.index('"""', text.index('"""') + 3) + 3 :].strip()
    return title, prose.strip(), code


def run(name: str) -> tuple[str, list[Path]]:
    """Run a script and return its printed lines and its pictures.

    An earlier build is reused if neither the script nor the package has changed.
    """
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
    """Compute a digest of all modules of the package."""
    digest = hashlib.sha256()
    for source in sorted((ROOT / "invtoolbox").rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.digest()


def gallery_page(
    name: str, title: str, prose: str, code: str, printed: str, pictures: list[str]
) -> str:
    """Compose a page of the gallery: prose, pictures, code, and the printed lines."""
    shown = [f"{name}.png", *(p for p in pictures if p != f"{name}.png")]
    text = f"# {title}\n\n{prose}\n\n" + "\n\n".join(f"![{title}]({p})" for p in shown)
    text += f'\n\n```python title="docs/gallery/{name}.py"\n{code}\n```\n'
    return text + (f"\nIt prints:\n\n```text\n{printed.strip()}\n```\n" if printed.strip() else "")


def results_page() -> str:
    """Compose the page of benchmark results: one section per file, with the script's first line."""
    text = (
        "# Results of the benchmarks\n\nEvery file of `benchmarks/results`, as the script printed "
        "it. [Figures](benchmarks.md) has the most important ones in one table.\n"
    )
    for result in sorted(BENCHMARKS.joinpath("results").iterdir()):
        if result.suffix not in (".txt", ".md"):
            continue
        script = f"{RESULT_OF.get(result.stem, result.stem)}.py"
        title, _, _ = parts(BENCHMARKS / script)
        printed = result.read_text(encoding="utf-8").strip()
        body = printed if result.suffix == ".md" else f"```text\n{printed}\n```"
        text += f"\n## {result.stem}\n\n{title}\n\n`benchmarks/{script}`\n\n{body}\n"
    return text


def top_page() -> str:
    """Compose the page of the names in `invtoolbox` itself."""
    import invtoolbox

    objects = {name: getattr(invtoolbox, name) for name in invtoolbox.__all__}
    paths = [
        f"{value.__module__}.{name}"
        for name, value in objects.items()
        if inspect.isclass(value) or inspect.isfunction(value)
    ]
    return (
        "# Reference\n\nThe names of `invtoolbox` itself, `import invtoolbox as it`.\n\n"
        + "\n\n".join(f"::: {path}" for path in paths)
        + "\n"
    )


def package_page(package: str) -> str:
    """Compose the page of a package: a documented object for each of its public names."""
    title, purpose = PACKAGES[package]
    further = [f"invtoolbox.{package}.{name}" for name in MORE.get(package, ())]
    objects = "\n\n".join(f"::: {path}" for path in [*exported(package), *further])
    return f"# {title}\n\n{purpose} Import as `it.{package}`.\n\n{objects}\n"


def exported(package: str) -> list[str]:
    """Return the paths of a package's public classes, functions and modules, classes first.

    Public are the names in `__all__`; in a package without this list, the public classes that its
    modules define and document.
    """
    import importlib

    module = importlib.import_module(f"invtoolbox.{package}")
    if hasattr(module, "__all__"):
        objects = {name: getattr(module, name) for name in module.__all__}
    else:
        objects = {
            name: value
            for each in pkgutil.iter_modules(module.__path__)
            for name, value in vars(
                importlib.import_module(f"{module.__name__}.{each.name}")
            ).items()
            if inspect.isclass(value)
            and value.__module__ == f"{module.__name__}.{each.name}"
            and not name.startswith("_")
            and "__doc__" in vars(value)
            and value.__doc__
        }
    objects = {
        n: o
        for n, o in objects.items()
        if inspect.isclass(o) or inspect.isfunction(o) or inspect.ismodule(o)
    }
    names = sorted(objects, key=lambda n: (not inspect.isclass(objects[n]), n.lower()))
    # A name that a package loads lazily is not in its text, so it is documented by its own module.
    return [
        f"{module.__name__ if name in vars(module) else objects[name].__module__}.{name}"
        for name in names
    ]


def command_line_page() -> str:
    """Compose the page of the command line: the help of every command, as it prints it."""
    import argparse

    from invtoolbox.cli import parser

    os.environ["COLUMNS"] = "110"
    top = parser()
    text = f"# Command line\n\n{top.description}\n\n```text\n{top.format_help()}```\n"
    commands = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        text += f"\n## invtoolbox {name}\n\n```text\n{command.format_help()}```\n"
    return text


def scene_files_page() -> str:
    """Compose the page of the scene files: every table of every kind, and every key of a table.

    Tables that several kinds share are described once, at the end.
    """
    from collections import Counter

    from invtoolbox.jobs.images.tables import Scene
    from invtoolbox.jobs.kinds import KINDS

    kinds = {"measurements": ("images and scans", Scene)}
    kinds |= {name: (entry.noun, entry.load().tables) for name, entry in KINDS.items()}
    uses = Counter(table for _, scene in kinds.values() for table in set(tables_of(scene).values()))
    shared = {
        table: name for _, scene in kinds.values() for name, table in tables_of(scene).items()
    }
    shared = {table: name for table, name in shared.items() if uses[table] > 1}
    text = (
        "# Scene files\n\nA scene file is a TOML file that `invtoolbox run` and `it.run` take. The "
        "table that only one kind of scene has names the kind. `--set TABLE.KEY=VALUE` changes a "
        "key, and `--save-scene FILE` of a command writes the scene file of its options.\n"
    )
    for name, (noun, scene) in kinds.items():
        text += f"\n## Scenes of {noun}\n\nA scene of this kind has the table `[{name}]`.\n"
        text += key_table(scene)
        for key, table in tables_of(scene).items():
            if table not in shared:
                text += f"\n### `[{key}]` of {noun}\n\n{first_line(table)}\n{key_table(table)}"
    text += "\n## Tables of several kinds\n"
    for table, key in shared.items():
        text += f"\n### `[{key}]`: {table.__name__}\n\n{first_line(table)}\n{key_table(table)}"
    return text


def tables_of(model: Any, key: str = "") -> dict[str, Any]:
    """Return the models of the tables in a model, by their dotted names."""
    tables = {}
    for name, field in model.model_fields.items():
        for leaf in leaves(field.annotation):
            if is_table(leaf):
                tables[f"{key}{name}"] = leaf
                tables |= tables_of(leaf, f"{key}{name}.")
    return tables


def leaves(annotation: Any) -> list[Any]:
    """Return the types and literals in an annotation, without the marks of pydantic."""
    arguments = get_args(annotation)
    if hasattr(annotation, "__metadata__"):  # Annotated[type, mark]
        return [*leaves(arguments[0]), *annotation.__metadata__]
    if get_origin(annotation) is Literal or not arguments:
        return [annotation]
    return [leaf for argument in arguments for leaf in leaves(argument)]


def first_line(table: Any) -> str:
    """Return the first paragraph of a table's docstring, in one line."""
    return " ".join((inspect.getdoc(table) or "").split("\n\n")[0].split())


def key_table(model: Any) -> str:
    """Compose the table of the keys of a model: type, default and description."""
    rows = ["", "| key | type | default | description |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        default = plain_values(field.get_default(call_default_factory=True))
        words = "required"
        if not field.is_required():
            words = "" if default in (None, {}, [{}]) else f"`{json.dumps(default)}`"
        limits = [
            f"{sign} {getattr(mark, name)}"
            for mark in field.metadata
            for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
            if hasattr(mark, name)
        ]
        kind = ", ".join([type_words(field.annotation, field.metadata), *limits])
        tables = [leaf for leaf in leaves(field.annotation) if is_table(leaf)]
        description = field.description or (first_line(tables[0]) if tables else "")
        rows.append(f"| `{name}` | {kind} | {words} | {description} |")
    if model.model_config.get("extra") == "allow":
        rows.append("| further keys | | | settings of the class, by the names of its arguments |")
    return "\n".join(rows) + "\n"


def is_table(leaf: Any) -> bool:
    """Return whether a leaf of an annotation is the model of a table."""
    from pydantic import BaseModel

    return isinstance(leaf, type) and issubclass(leaf, BaseModel)


def plain_values(default: Any) -> Any:
    """Return a default as plain values; of a table, the keys that it sets."""
    if isinstance(default, (list, tuple)):
        return [plain_values(entry) for entry in default]
    return default.model_dump(exclude_unset=True) if is_table(type(default)) else default


def type_words(annotation: Any, marks: Any = ()) -> str:
    """Return a type in words: a number, a text, one of some words, a list of numbers."""
    from invtoolbox.catalogue.documents import FILE

    plain = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    if hasattr(annotation, "__metadata__"):
        return type_words(arguments[0], annotation.__metadata__)
    if annotation is str and FILE in marks:
        return "path"
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{json.dumps(word)}`" for word in arguments)
    if get_origin(annotation) is list:
        return f"list: {type_words(arguments[0])}"
    if get_origin(annotation) is tuple:
        return f"{len(arguments)} values: {type_words(arguments[0])}"
    if get_origin(annotation) is dict:
        return "table"
    if arguments:
        return " or ".join(type_words(argument, marks) for argument in arguments)
    if is_table(annotation):
        return "table"
    return plain.get(annotation, "any value")
