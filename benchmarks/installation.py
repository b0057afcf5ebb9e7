"""Install the wheel into an empty environment: download of torch, seconds, space on the disk, first use.

The first use runs outside of the repository, with an empty home: it imports the package, denoises a
picture by total variation and lists the commands. It shows that the wheel holds every file it needs.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from benchmarks.common import run_script

ROOT = Path(__file__).parents[1]

FIRST_USE = """
import torch
import invtoolbox as it

truth = torch.zeros(1, 1, 32, 32)
truth[..., 8:24, 8:24] = 1
A = it.operators.Identity((1, 32, 32))
noisy = A.simulate(truth, noise=0.1, seed=0)
solution = it.reconstruct(noisy, A, prior="tv")
print(f"{it.metrics.psnr(noisy, truth).item():.1f} to {it.metrics.psnr(solution.x, truth).item():.1f} dB")
"""


def main(torch_wheels: str = "") -> None:
    """Install the wheel and print what it took.

    Args:
        torch_wheels: folder with torch's wheel; without it pip finds torch where it is set to look
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "HOME": str(folder / "home"), "PIP_NO_CACHE_DIR": "1"}
        environment.pop("PYTHONPATH", None)
        (folder / "home").mkdir()

        def run(*command: str | Path) -> str:
            done = subprocess.run(
                [str(word) for word in command],
                cwd=folder,
                env=environment,
                text=True,
                capture_output=True,
                check=False,
            )
            if done.returncode:
                raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
            return done.stdout.strip()

        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
        links = ("--find-links", torch_wheels) if torch_wheels else ()
        run(*pip, "download", "-q", "--no-deps", *links, "--dest", folder / "torch", "torch>=2.6")
        run(*pip, "wheel", "-q", "--no-deps", "--wheel-dir", folder / "ours", ROOT)
        torch_wheel = next((folder / "torch").iterdir())
        ours = next((folder / "ours").iterdir())

        run(sys.executable, "-m", "venv", folder / "empty")
        python = folder / "empty" / "bin" / "python"
        start = time.perf_counter()
        run(python, "-m", "pip", "install", "-q", "--find-links", folder / "torch", ours)
        seconds = time.perf_counter() - start
        size = sum(
            file.stat().st_size for file in (folder / "empty").rglob("*") if not file.is_symlink()
        )
        for file in (folder / "home").iterdir():
            file.unlink() if file.is_file() else shutil.rmtree(file)  # pip asks rustc, which writes
        denoised = run(python, "-c", FIRST_USE)
        commands = run(folder / "empty" / "bin" / "invtoolbox", "--help")
        home = sorted(file.name for file in (folder / "home").iterdir())

        print(
            f"{date.today()}, pip install {ours.name} in an empty environment, Python "
            f"{platform.python_version()}, {platform.system()} {platform.machine()}, "
            f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.2f}\n"
            f"{torch_wheel.name}, on the local disk: {torch_wheel.stat().st_size / 1e6:.0f} MB\n"
            f"our wheel: {ours.stat().st_size / 1e6:.1f} MB\n"
            f"the installation, downloads of the other packages included: {seconds:.0f} s, one run\n"
            f"files of the environment afterwards: {size / 1e9:.1f} GB\n"
            f"first use outside of the repository: a square denoised by tv, {denoised}; "
            f"invtoolbox --help prints {len(commands.splitlines())} lines\n"
            f"written into the home folder by this use: {', '.join(home) or 'nothing'}",
        )


if __name__ == "__main__":
    run_script(main)
