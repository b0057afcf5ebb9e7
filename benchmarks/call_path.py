"""Print the modules of the package on the Python stack when a solver takes its first step.

    python benchmarks/call_path.py [SCENE ...]

Each scene runs in a process of its own, as ``invtoolbox run SCENE``. The process stops at the first
call of the method ``step`` of a solver and prints the distinct modules of `invtoolbox` on the
stack, outermost first, without the module of the solver itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from types import FrameType

from common import verdict

#: Largest number of modules on the path of each scene.
BARS = {"ct-small": 6, "street-simulated": 9}


def modules_on(frame: FrameType | None) -> list[str]:
    """Return the distinct modules of the package on a stack, outermost first."""
    names = []
    while frame is not None:
        names.append(str(frame.f_globals.get("__name__", "")))
        frame = frame.f_back
    return list(dict.fromkeys(name for name in reversed(names) if name.startswith("invtoolbox.")))


def trace(scene: str) -> None:
    """Run a scene until a solver takes its first step, print the path, and end the process."""
    from invtoolbox.cli import main

    def stop_at_step(frame: FrameType, event: str, _: object) -> None:
        method = frame.f_code.co_qualname.endswith(".step") and event == "call"
        if method and frame.f_globals["__name__"].startswith("invtoolbox.solvers."):
            print(*modules_on(frame.f_back), sep="\n", flush=True)
            os._exit(0)

    with tempfile.TemporaryDirectory() as folder:
        sys.setprofile(stop_at_step)
        main(["run", scene, "--output", f"{folder}/results", "--quiet"])


def main() -> None:
    for scene in sys.argv[1:] or BARS:
        found = subprocess.run(
            [sys.executable, __file__, "--trace", scene], capture_output=True, text=True, check=True
        ).stdout.split()
        print(f"{scene}: {len(found)} modules", end="")
        print(
            f" {verdict(len(found) <= BARS[scene], f'at most {BARS[scene]}')}"
            if scene in BARS
            else ""
        )
        print(*(f"  {name}" for name in found), sep="\n")


if __name__ == "__main__":
    trace(sys.argv[2]) if sys.argv[1:2] == ["--trace"] else main()
