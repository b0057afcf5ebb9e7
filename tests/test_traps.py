"""Traps of paths, links, names, imports and sockets: each is refused, and nothing is harmed.

A row of a table is a trap: what a user or a file from elsewhere does, and the words of the refusal.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import invtoolbox as it
from invtoolbox.datasets.output import locking
from invtoolbox.errors import InputError
from tests.command_line import Run, here, one_sentence, run
from tests.jobs.test_commands import LINES, files

__all__ = ["files", "here", "run"]

CT = "ct sinogram.npy --geometry geometry.toml --max-iterations 2 --overwrite"
DEBLUR = "deblur photo.png --kernel kernel.png --max-iterations 2 --overwrite"

#: Command lines whose results would replace what they are computed from; `here` has the files, and
#: links to them. "@" stands for the folder.
OVER_INPUTS = {
    "the same name": f"{CT} -o sinogram.npy",
    "a relative name": f"{CT} -o ./deep/../sinogram.npy",
    "an absolute name": f"{CT} -o @/sinogram.npy",
    "a link to the file": f"{CT} -o link.npy",
    "a hard link": f"{CT} -o hard.npy",
    "through a linked folder": f"{CT} -o same/sinogram.npy",
    "the input by a link": f"{CT.replace('sinogram', 'link')} -o sinogram.npy",
    "the second output": f"{CT} -o slice.tif sinogram.npy",
    "the reference": f"{CT} --reference truth.npy -o truth.npy",
    "the description of the values": f"{CT} -o geometry.raw",
    "the saved scene": f"{CT} -o slice.tif --save-scene geometry.toml",
    "without iterations": "ct sinogram.npy --geometry geometry.toml --fbp --overwrite -o sinogram.npy",
    "slices of a study": f"{CT} --items all -o sinogram.npy",
    "a picture": f"{DEBLUR} -o photo.png",
    "the kernel": f"{DEBLUR} -o kernel.png",
    "the report": f"{DEBLUR} -o out.png --report page.html",
    "a picture of the folder": f"{DEBLUR.replace('photo.png', 'stack')} -o stack/0.png",
    "the folder itself": f"{DEBLUR.replace('photo.png', 'stack')} -o stack",
    "a study of the folder": f"{DEBLUR.replace('photo.png', 'stack')} --items all -o stack",
    "a scene of its results": "run earlier.toml --output earlier --overwrite",
    "a scene of its own folder": "run inside.toml --overwrite",
    "sweeps": "flow sweeps --out sweeps --overwrite",
    "below the sweeps": "flow sweeps --out sweeps/flow --overwrite",
    "a report among the sweeps": "flow sweeps --out flow --report sweeps/0.html --overwrite",
    "photographs": "reconstruct stack --out stack --overwrite",
    "held-out photographs": "reconstruct capture/held-out --out capture --overwrite",
    "the recipe with changes": "train priors/mine/recipe.toml --set seed=3 --overwrite",
    "a picture of the recipe": "train curve.toml --output stack --overwrite",
}

RECIPE = """name = "mine"
[network]
name = "convex-convolution"
widths = [4]
strides = [1]
[prior]
name = "learned-proximal"
sigma = 0.1
[data]
DATA
noise_std = 0.1
crop = 8
[[stage]]
loss = "l1"
steps = 2
"""


@pytest.fixture
def linked(here: Path) -> Path:
    """The user's folder with links, a stack, sweeps, earlier results and recipes."""
    for folder in ("deep", "stack", "sweeps", "earlier", "capture/held-out", "priors/mine"):
        Path(folder).mkdir(parents=True)
    os.symlink("sinogram.npy", "link.npy")
    os.link("sinogram.npy", "hard.npy")
    os.symlink(here, "same", target_is_directory=True)
    for k, place in enumerate(("stack/0", "stack/1", "capture/held-out/0", "capture/held-out/1")):
        picture = np.random.default_rng(k).random((16, 16))
        it.datasets.write_png(f"{place}.png", picture, (0.0, 1.0))
        points = np.random.default_rng(k).normal(size=(100, 4)).astype("<f4")
        points.tofile(f"sweeps/{k}.bin")
    os.link("photo.png", "page.html")
    os.link("photo.png", "earlier/reconstruction.png")
    scene = (
        '[measurements]\npath = "earlier/reconstruction.png"\n[operator]\nname = "blur"\n'
        'kernel = { path = "kernel.png", normalized = true }\n[solver]\nmax_iterations = 2\n'
    )
    Path("earlier.toml").write_text(scene)
    Path("inside.toml").write_text(f'{scene}[output]\nfolder = "earlier"\n')
    Path("priors/mine/recipe.toml").write_text(RECIPE.replace("DATA", 'photographs = ["coins"]'))
    Path("curve.toml").write_text(RECIPE.replace("DATA", 'paths = ["stack"]'))
    return here


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by its path."""
    names = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in names}


@pytest.mark.parametrize("trap", OVER_INPUTS)
def test_results_never_replace_an_input(run: Run, linked: Path, trap: str) -> None:
    before = contents(linked)
    sentence = one_sentence(run(*OVER_INPUTS[trap].replace("@", str(linked)).split()))
    assert "never written into the source" in sentence
    assert contents(linked) == before


@pytest.mark.parametrize("command", LINES)
def test_no_command_replaces_its_input(run: Run, files: Path, command: str) -> None:
    words = LINES[command].split()
    for number, name in enumerate(word for word in words[:3] if Path(word).is_file()):
        os.link(name, f"result{number}.json")
        before = contents(files)
        ran = run(command, *words, "--output", f"result{number}.json", "--overwrite")
        assert "never written into the source" in one_sentence(ran)
        assert contents(files) == before


def test_an_input_that_is_not_replaced_is_none_of_this(run: Run, linked: Path) -> None:
    before = Path("sinogram.npy").read_bytes()
    assert run(*CT.split(), "-o", "slice.npy", "-q").code == 0
    assert run(*CT.split(), "-o", "slice.npy", "-q").code == 0
    assert run(*["run", "earlier.toml", "--output", "other", "-q"]).code == 0
    assert Path("sinogram.npy").read_bytes() == before and not list(linked.rglob("*.lock"))


#: Runs that write to a place while another run does: the place that is locked, and the second run.
AT_ONCE = {
    "files": ("slice.tif", f"{CT} -o slice.tif"),
    "the second file": ("slice.npy", f"{CT} -o slice.tif slice.npy"),
    "a file by a link": ("deep/slice.tif", f"{CT} -o same/deep/slice.tif"),
    "a folder": ("out", f"{DEBLUR} -o out"),
    "a scene": ("out", "run earlier.toml --output out --overwrite"),
    "its resumption": ("out", "run earlier.toml --output out --resume"),
    "a study": ("out", f"{DEBLUR.replace('photo.png', 'stack')} --items all -o out"),
    "flow": ("out", "flow sweeps --out out --overwrite"),
    "a training": ("out", "train curve.toml --output out --overwrite"),
}


@pytest.mark.parametrize("trap", AT_ONCE)
def test_two_runs_never_write_to_one_place(run: Run, linked: Path, trap: str) -> None:
    place, line = AT_ONCE[trap]
    with locking(place):
        before = contents(linked)
        assert "another run writes there" in one_sentence(run(*line.split()))
        assert contents(linked) == before
    assert not list(linked.rglob(".*.lock"))


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import sys, time; from invtoolbox.datasets.output import locking\n"
        "with locking(sys.argv[1]): print('locked', flush=True); time.sleep(60)"
    )
    place = tmp_path / "out"
    words = [sys.executable, "-c", code, str(place)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="another run writes there"), locking(place):
            pass
        first.send_signal(signal.SIGKILL)
    assert (tmp_path / ".out.lock").exists()
    with locking(place):
        pass
    assert not (tmp_path / ".out.lock").exists()
