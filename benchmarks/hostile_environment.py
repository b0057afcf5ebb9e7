"""Run the toolbox in hostile environments: it works, or ends in one sentence.

    python benchmarks/hostile_environment.py

As root, the runs with a read-only HOME and working folder belong to the user 65534, who owns nothing;
this needs a Python that this user can read. Otherwise they belong to the caller, with folders that
deny writing. Every run is a process of its own and compiles its kernels, unless stated otherwise.

Files of another user that cannot be read are given to every reader, and those that cannot be written to
commands. The clock is set back, by libfaketime if FAKETIME names the library, else by a patch of
`time.time`: at the start to 1970, and in the middle of a run by a day.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, verdict

ROOT = Path(__file__).resolve().parents[1]
NOBODY = 65534

PROJECT = """
import torch, invtoolbox as it
A = it.operators.ParallelBeam((8, 8), torch.arange(4.0), 12)
print(round(float(A(torch.ones(1, 1, 8, 8)).sum())))
"""
#: Opens the files of a list, and prints the names of those that end in no sentence.
READ = """
import json, sys
from pathlib import Path
from tests.datasets import fuzzing
for name, reader, path in json.loads(Path("list.json").read_text()):
    try:
        words = fuzzing.outcome(Path(path), reader)
    except BaseException as error:
        words = None
        print(f"{name}: {type(error).__name__}: {error}")
    if words is not None and not isinstance(words, str):
        print(f"{name}: was read")
"""
#: A study of two workers, whose clock is set back by a day in the middle.
STUDY = """
import os, time, torch, invtoolbox as it
from pathlib import Path
real, began = time.time, time.monotonic()
if "FAKETIME" not in os.environ:
    time.time = lambda: real() - (86400 if time.monotonic() > began + SECONDS else 0)
def half(item):
    time.sleep(0.1)
    if float(item.y.min()) == 24 and "FAKETIME_TIMESTAMP_FILE" in os.environ:
        Path(os.environ["FAKETIME_TIMESTAMP_FILE"]).write_text("-1d")
    return item.y / 2
data = it.datasets.VolumeInMemory(torch.arange(72.0).view(1, 6, 3, 4), it.datasets.Grid())
study = it.map_slices(data, half, "out", workers=2, resume=True, key="half", progress=False)
again = it.map_slices(data, half, "out", workers=2, resume=True, key="half", progress=False)
x = torch.as_tensor(study.stack())
assert torch.equal(x.flatten(), torch.arange(72.0) / 2), x
assert [report.outcome for report in again.reports] == ["kept"] * 6, again.reports
"""
#: A solve with a limit and a checkpoint while the clock goes back at every call.
SOLVE = """
import time, torch, invtoolbox as it
calls = iter(range(10**9))
time.time = lambda: 1e9 - 3600.0 * next(calls)
problem = it.Problem(torch.rand(1, 1, 8, 8), it.operators.Identity((1, 8, 8)))
for _ in range(2):
    found = it.solve(
        problem, "tv", regularization=0.1, max_iterations=20, tolerance=0.0, time_limit=60.0,
        checkpoint=it.Checkpoint("run.safetensors", every=0.0), progress=False,
    )
assert found.iterations.tolist() == [20] and 0 <= found.seconds < 60
"""
#: Command lines of the toolbox, in a folder with the picture.
PROJECTION = [sys.executable, "-c", PROJECT]
DOCTOR = [sys.executable, "-m", "invtoolbox", "doctor"]
DEBLUR = [
    *(sys.executable, "-m", "invtoolbox", "deblur", "bild-ä.png", "--kernel", "gaussian:1"),
    *("--prior", "tikhonov", "--regularization", "0.1", "--max-iterations", "3", "--quiet"),
]


class Place:
    """Folders of the runs, in which another user can read.

    Attributes:
        home: a HOME that can be written.
        sealed: a folder that cannot be written, with the picture.
        open: a folder that can be written, with the picture.
    """

    def __init__(self, folder: Path) -> None:
        import torch

        from invtoolbox.datasets import write_png

        folder.chmod(0o755)
        self.user = NOBODY if os.getuid() == 0 and _is_readable_by_others() else os.getuid()
        self.home, self.sealed, self.open = (folder / n for n in ("home", "sealed", "open"))
        for each in (self.home, self.sealed, self.open):
            each.mkdir(mode=0o755)
            write_png(each / "bild-ä.png", torch.from_numpy(np.linspace(0, 1, 144).reshape(12, 12)))
        for each in (self.home, self.open):
            os.chown(each, self.user, -1)
        self.sealed.chmod(0o555)

    def start(self, command: Sequence[str], cwd: Path, **environment: str | None) -> Any:
        """Start a command as the user, with changed variables of the environment."""
        kept = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "HOME": str(self.home),
            **environment,
        }
        return subprocess.Popen(
            command,
            cwd=cwd,
            env={name: value for name, value in kept.items() if value is not None},
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user != os.getuid() else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )


def _is_readable_by_others() -> bool:
    tried = [sys.executable, "-c", "import torch"]
    try:
        ran = subprocess.run(
            tried, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, cwd="/"
        )
    except OSError:
        return False
    return ran.returncode == 0


def outcome(process: Any) -> tuple[bool, str]:
    """Return whether a run worked or ended in one sentence, and its last line."""
    out, err = process.communicate()
    said = [line for line in err.splitlines() if line.strip()]
    if process.returncode == 0:
        warned = next((line.strip() for line in said if "Warning: " in line), "")
        return True, "works" + (f", and warns: {warned[:160]}" if warned else "")
    trace = any(line.startswith("Traceback") for line in said)
    # `doctor` prints its findings, and a script ends in the exception of one sentence.
    last = said[-1] if said else (out.splitlines() or [""])[-1]
    fine = "InputError: " in last if trace else len(said) <= 2
    return fine, f"exit code {process.returncode}: {last[:200]}"


def foreign_files(place: Place) -> Iterator[tuple[str, Any]]:
    """Yield runs on files of another user, which cannot be read or written."""
    if place.user == os.getuid():
        print("files of another user: not tried, because there is one user alone")
        return
    sys.path.insert(0, str(ROOT))
    from tests.datasets import fuzzing

    folder, entries = place.open / "seeds", []
    folder.mkdir(mode=0o755)
    for name, (reader, make) in fuzzing.SEEDS.items():
        path = make(folder / name)
        entries.append((name, reader if reader in fuzzing.FILE_READERS else None, str(path)))
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0)
    (place.open / "list.json").write_text(json.dumps(entries))
    run = place.start([sys.executable, "-c", READ], place.open)
    out, err = run.communicate()
    print(
        f"{len(entries)} files of every format that another user owns: {verdict(not out and not err, 'refused in one sentence each')}"
    )
    print(textwrap.indent(out + err, "    "), end="")
    for name in ("secret.png", "other.png"):
        shutil.copyfile(place.open / "bild-ä.png", place.open / name)
    (place.open / "secret.png").chmod(0)
    (place.open / "scene.toml").write_text('[measurements]\npath = "bild-ä.png"\n')
    (place.open / "scene.toml").chmod(0)
    (place.open / ".locked.png.lock").touch(mode=0o600)
    owned = place.open / "owned"
    owned.mkdir(mode=0o700)
    rest = ["--max-iterations", "3", "--quiet"]
    for name, command in {
        "a picture that cannot be read": [*DEBLUR[:4], "secret.png", *DEBLUR[5:]],
        "a kernel that cannot be read": [*DEBLUR[:6], "secret.png", *rest],
        "a scene file that cannot be read": [*DEBLUR[:3], "run", "scene.toml"],
        "an output folder of another user": [*DEBLUR, "--output", "owned/x.png"],
        "an output of another user that is replaced": [
            *DEBLUR,
            "--output",
            "other.png",
            "--overwrite",
        ],
        "a lock of another user": [*DEBLUR, "--output", "locked.png"],
    }.items():
        yield name, place.start(command, place.open)


def clocks(place: Place) -> Iterator[tuple[str, Any]]:
    """Yield runs whose clock is wrong, or set back."""
    library, shift = os.environ.get("FAKETIME"), place.open / "shift"
    shift.write_text("+0")
    os.chown(shift, place.user, -1)
    fake = {} if library is None else {"LD_PRELOAD": library, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    print(f"the clock is changed by {'a patch of time.time' if library is None else 'libfaketime'}")
    if library is not None:
        old = {**fake, "FAKETIME": "@1970-01-02 00:00:00"}
        yield "a clock in 1970: deblur", place.start([*DEBLUR, "--overwrite"], place.open, **old)
        fake |= {"FAKETIME_TIMESTAMP_FILE": str(shift), "FAKETIME_NO_CACHE": "1", "FAKETIME": "+0"}
    for seconds in (0, 3):
        study = STUDY.replace("SECONDS", str(seconds))
        name = f"a clock that is set back by a day after {seconds} s: study of two workers"
        shutil.rmtree(place.open / "out", ignore_errors=True)
        shift.write_text("+0")
        yield name, place.start([sys.executable, "-c", study], place.open, **fake)
    yield (
        "a clock that goes back at every call: solve",
        place.start([sys.executable, "-c", SOLVE], place.open),
    )


def main() -> None:
    print(machine())
    place = Place(Path(tempfile.mkdtemp(prefix="hostile_")))
    print(f"user {place.user}, Python {sys.version.split()[0]}")
    sealed = str(place.sealed)
    runs: dict[str, list[Any]] = {
        "HOME and working folder read-only: projection": [
            PROJECTION,
            place.sealed,
            {"HOME": sealed},
        ],
        "HOME and working folder read-only: doctor": [DOCTOR, place.sealed, {"HOME": sealed}],
        "HOME and working folder read-only: deblur": [DEBLUR, place.sealed, {"HOME": sealed}],
        "HOME, working and temporary folder read-only": [
            PROJECTION,
            place.sealed,
            {"HOME": sealed, "TMPDIR": sealed, "WARP_CACHE_PATH": f"{sealed}/cache"},
        ],
        "no HOME at all": [PROJECTION, place.open, {"HOME": None}],
        "LC_ALL=C, and a name with an umlaut": [DEBLUR, place.open, {"LC_ALL": "C", "LANG": "C"}],
        "LC_ALL=POSIX without UTF-8 mode": [
            [*DEBLUR, "--overwrite"],
            place.open,
            {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        ],
    }
    good = True
    for name, (command, cwd, environment) in runs.items():
        fine, words = outcome(place.start(command, cwd, **environment))
        good &= fine
        words = words.replace(sealed, "FOLDER")
        print(f"{name}: {words} {verdict(fine, 'works or one sentence')}", flush=True)
    for name, process in itertools.chain(foreign_files(place), clocks(place)):
        fine, words = outcome(process)
        fine &= not name.startswith("a clock") or words.startswith("works")
        good &= fine
        print(f"{name}: {words} {verdict(fine, 'works or one sentence')}", flush=True)
    cache = place.open / "cache"
    both = [place.start(PROJECTION, place.open, WARP_CACHE_PATH=str(cache)) for _ in range(2)]
    for process in both:
        fine, words = outcome(process)
        good &= fine and words.startswith("works")
        print(f"two first runs at once: {words} {verdict(fine, 'both work')}", flush=True)
    same = [
        *DEBLUR[:-5],
        "--max-iterations",
        "3000",
        "--quiet",
        "--output",
        "one.png",
        "--overwrite",
    ]
    ends = [outcome(process) for process in [place.start(same, place.open) for _ in range(2)]]
    fine = all(f for f, _ in ends) and any(words.startswith("works") for _, words in ends)
    good &= fine
    print(f"two runs to one output: {'; '.join(w for _, w in ends)} {verdict(fine, 'one works')}")
    print(f"all environments {verdict(good, 'work, or end in one sentence')}")
    shutil.rmtree(place.home.parent, ignore_errors=True)


if __name__ == "__main__":
    main()
