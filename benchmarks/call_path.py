"""Print the modules of the package on the Python stack when a scene takes its first step.

    python benchmarks/call_path.py; writes results/call_path.txt

Each scene runs in a process of its own, as ``invtoolbox run SCENE``. The process stops at the first
call of the function that takes a step, and prints the distinct modules of `invtoolbox` on the
stack, outermost first, without the module of the step itself. A scene without such a call is an
error.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType

from common import run_script, verdict

#: Per scene: the modules and the function of its first step, and the largest number of modules on
#: the path to it. The default flow of sweeps registers bodies with an iteration of its own.
SCENES = {
    "ct-small": ("invtoolbox.solvers.", "step", 6),
    "street-simulated": ("invtoolbox.jobs.flow.tracks", "__call__", 9),
}


def modules_on(frame: FrameType | None) -> list[str]:
    """Return the distinct modules of the package on a stack, outermost first."""
    names = []
    while frame is not None:
        names.append(str(frame.f_globals.get("__name__", "")))
        frame = frame.f_back
    return list(dict.fromkeys(name for name in reversed(names) if name.startswith("invtoolbox.")))


def trace(scene: str) -> None:
    """Run a scene until its first step, print the path, and end the process."""
    from invtoolbox.cli import main as run_command

    module, function, _ = SCENES[scene]

    def stop_at_step(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name == function:
            name = frame.f_globals["__name__"]
            if name.startswith(module):
                print(*(m for m in modules_on(frame.f_back) if m != name), sep="\n", flush=True)
                os._exit(0)

    with tempfile.TemporaryDirectory() as folder:
        sys.setprofile(stop_at_step)
        run_command(["run", scene, "--output", f"{folder}/results", "--quiet"])
    sys.exit(f"{scene} took no step: {function} of {module} was not called")


def path_of(scene: str) -> list[str]:
    """Return the modules before the first step of a scene."""
    command = [sys.executable, __file__, "--traced", scene]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


def main(traced: str = "") -> None:
    """Count the modules on the path of every scene.

    Args:
        traced: scene to run in this process until its first step
    """
    if traced:
        return trace(traced)
    lines = []
    for scene, (_, _, most) in SCENES.items():
        modules = path_of(scene)
        lines.append(
            f"{scene}: {len(modules)} modules {verdict(len(modules) <= most, f'at most {most}')}"
        )
        lines += [f"  {name}" for name in modules]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    (Path(__file__).parent / "results" / "call_path.txt").write_text(text)


if __name__ == "__main__":
    run_script(main)
