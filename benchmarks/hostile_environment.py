"""Run the toolbox in hostile environments: it works, or ends in one sentence.

    python benchmarks/hostile_environment.py

As root, the runs with a read-only HOME and working folder belong to the user 65534, who owns nothing;
this needs a Python that this user can read. Otherwise they belong to the caller, with folders that
deny writing. Every run is a process of its own and compiles its kernels, unless stated otherwise.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
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
            "PYTHONPATH": str(ROOT),
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
    cache = place.open / "cache"
    both = [place.start(PROJECTION, place.open, WARP_CACHE_PATH=str(cache)) for _ in range(2)]
    for process in both:
        fine, words = outcome(process)
        good &= fine and words.startswith("works")
        print(f"two first runs at once: {words} {verdict(fine, 'both work')}", flush=True)
    print(f"all environments {verdict(good, 'work, or end in one sentence')}")
    shutil.rmtree(place.home.parent, ignore_errors=True)


if __name__ == "__main__":
    main()
