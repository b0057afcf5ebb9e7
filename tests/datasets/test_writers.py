"""Every file is written by the one atomic writer, under a name of its own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import invtoolbox as it
from invtoolbox.datasets.output import file_names
from invtoolbox.errors import InputError
from invtoolbox.geometry.meshes import Mesh

PACKAGE = Path(it.__file__).parent
#: Calls that write a file themselves, and why that is right.
ALLOWED = {
    ("datasets/output.py", "open"): "the atomic writer itself",
    ("jobs/study/driver.py", "open"): "the lock of an item, an empty file",
    ("plotting/flow_viewer.py", "save"): "Rerun streams its recording",
}
WRITERS = {
    *("write_text", "write_bytes", "savefig", "tofile", "export", "savez", "savez_compressed"),
    *(
        "savetxt",
        "save",
        "save_file",
        "imwrite",
        "imsave",
        "to_csv",
        "copyfile",
        "copytree",
        "dump",
    ),
}
#: First arguments that are streams in memory or hidden files of the atomic writer.
STREAMS = {"buffer", "stream", "member", "file"}


def writes(call: ast.Call) -> str | None:
    """The name of the called writer, unless it writes into a stream."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "open":
        modes = [a.value for a in [*call.args, *(k.value for k in call.keywords)]
                 if isinstance(a, ast.Constant) and isinstance(a.value, str)]  # fmt: skip
        return (
            name
            if any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)
            else None
        )
    if not isinstance(call.func, ast.Attribute) or name not in WRITERS or not call.args:
        return None
    owner, first = ast.unparse(call.func.value), call.args[0]
    if owner in ("datasets", "invtoolbox.datasets") or (
        isinstance(first, ast.Name) and first.id in STREAMS
    ):
        return None
    if name == "save" and owner in ("solution", "journal", "self", "solution.model", "study"):
        return None
    return name


def test_nothing_is_written_around_the_atomic_writer() -> None:
    found = set()
    words = re.compile(rf"\b({'|'.join({*WRITERS, 'open'})})\(")
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if words.search(text) else ():
            if isinstance(node, ast.Call) and (name := writes(node)):
                found.add((path.relative_to(PACKAGE).as_posix(), name))
    assert found <= set(ALLOWED), sorted(found - set(ALLOWED))


@given(st.lists(st.text(alphabet="ab./\\ :\0Aß1-2", max_size=9), max_size=8))
def test_names_of_files_are_distinct_and_plain(names: list[str]) -> None:
    found = file_names(names)
    assert len(found) == len(names) == len({name.casefold() for name in found})
    for name in found:
        assert name and not set(name) & set("/\\\0:") and not name.startswith(".")


def test_names_of_one_folder_are_the_stems() -> None:
    assert file_names(["images/r_1.png", "images/r_2.png"]) == ["r_1", "r_2"]
    assert file_names(["left/1.png", "right/1.png"]) == ["left_1", "right_1"]
    assert file_names(["1.png", "1.jpg", "1-2.png"]) == ["1", "1-2", "1-2-2"]
    assert file_names([]) == []
    assert len(file_names(["x" * 400])[0]) <= 60


@pytest.mark.parametrize("suffix", [".obj", ".off", ".ply", ".gltf", ".glb", ".stl"])
def test_a_mesh_is_replaced_only_if_asked(tmp_path: Path, suffix: str) -> None:
    if suffix not in (".obj", ".off"):
        pytest.importorskip("trimesh")
    path, mesh = tmp_path / f"a{suffix}", Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    assert it.datasets.write_mesh(path, mesh).path == path
    content = path.read_bytes()
    with pytest.raises(InputError, match="already"):
        it.datasets.write_mesh(path, mesh)
    it.datasets.write_mesh(path, mesh, overwrite=True)
    assert path.read_bytes() == content and len(list(tmp_path.iterdir())) == 1
    torch.testing.assert_close(
        it.datasets.read_mesh(path).vertices.float(), mesh.vertices, atol=1e-6, rtol=0
    )
