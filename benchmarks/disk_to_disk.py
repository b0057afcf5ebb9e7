"""FDK or SIRT from disk to disk by `invtoolbox ct --memory`: peak memory, seconds, and kills with SIGKILL.

    python benchmarks/disk_to_disk.py [--side 256] [--views 720] [--memory 800MB] [--kills 10] [--folder FOLDER]
    python benchmarks/disk_to_disk.py --side 192 --views 360 --iterations 5    # SIRT

A Nikon scan of closed-form ellipsoids is written by the tests' own writer, and reconstructed by a process of its
own. The peak is that of the whole process, imports included. The kills come at random moments of a second run, which
is resumed each time; its volume is compared with that of the undisturbed run, bit by bit. So is that of a run with
two Dask workers. A last run has a quarter more memory, so that its slabs differ. SIRT is also compared with
`it.solve` in memory.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import machine, run_script, verdict

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
#: The peak is read by the process itself: that of its children would count the pages of this one.
COMMAND = """
import resource, sys
from invtoolbox.cli import main
if __name__ == "__main__":
    code = main()
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
    print("workers:", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    sys.exit(code)
"""


def command(scan: Path, output: Path, memory: str, *options: str) -> list[str]:
    return [
        sys.executable,
        "-c",
        COMMAND,
        "ct",
        str(scan),
        "--memory",
        memory,
        "-o",
        str(output),
        *options,
    ]


#: SIRT in memory, as the same volume.
IN_MEMORY = """
import sys, invtoolbox as it
item = it.datasets.open(sys.argv[1])[0]
problem = it.Problem(item.y, item.geometry.operator(), it.data_terms.LeastSquares())
x = it.solve(problem, it.priors.NonNegative(), it.solvers.SIRT(), max_iterations=int(sys.argv[3]), progress=False).x
it.datasets.write(sys.argv[2], it.datasets.VolumeInMemory(x[0], item.geometry.grid()), overwrite=True)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def values(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    return np.fromfile(path, "<f4", offset=path.stat().st_size - 4 * int(np.prod(shape))).reshape(
        shape
    )


def main(
    side: int = 256,
    views: int = 720,
    memory: str = "800MB",
    kills: int = 10,
    seed: int = 0,
    iterations: int = 0,
    folder: Path | None = None,
) -> None:
    """Run the benchmark."""
    from tests.datasets import scanner_sets as sets

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        cell = 28.0 / side
        setup = sets.Setup(panel=(side, side), cell=cell, views=views, radius=4.6)
        scan = place / "scan" / "bone.xtekct"
        if not scan.exists():
            sets.write_nikon(place / "scan", setup)
        print(machine())
        print(
            f"{f'SIRT, {iterations} iterations' if iterations else 'FDK'}: {views} views of {side} x {side} cells, "
            f"volume {side} x {side} x {side}, --memory {memory}, seed {seed}"
        )
        method = f"--solver sirt --prior nonnegative --max-iterations {iterations}".split()
        options = method if iterations else []
        outputs = [place / name for name in ("a.mha", "b.mha", "c.mha", "d.mha")]
        for path in outputs:
            path.unlink(missing_ok=True)
        began = time.perf_counter()
        ran = subprocess.run(
            command(scan, outputs[0], memory, *options),
            env=environment,
            capture_output=True,
            text=True,
        )
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = time.perf_counter() - began
        print(ran.stdout.splitlines()[0] if ran.returncode == 0 else ran.stderr)
        limit = float(memory[:-2]) * {"MB": 1e6, "GB": 1e9}[memory[-2:]]
        peak = 1024 * int(ran.stdout.split("VmHWM:")[1].split()[0])
        print(
            f"peak {peak / 1e9:.2f} GB {verdict(peak <= limit, 'within the stated memory')}, "
            f"{usage.ru_utime + usage.ru_stime:.0f} s of processor time, {seconds:.0f} s in all"
        )
        chance, count = random.Random(seed), 0
        while True:
            # A kill after the removal of the slabs leaves nothing to resume.
            begun = (place / "b.mha.checkpoint").exists()
            with subprocess.Popen(
                command(scan, outputs[1], memory, *options, "--resume" if begun else "--overwrite"),
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as process:
                try:
                    # After the last kill, the run goes on to its end.
                    process.wait(chance.uniform(0.1, 0.5) * seconds if count < kills else None)
                    if count >= kills:
                        break
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    count += 1
        same = outputs[0].read_bytes() == outputs[1].read_bytes()
        print(f"{count} kills: {verdict(same, 'the same bits as the undisturbed run')}")
        ran = subprocess.run(
            command(scan, outputs[3], memory, *options, "--workers", "2"),
            env=environment,
            capture_output=True,
            text=True,
        )
        same = outputs[0].read_bytes() == outputs[3].read_bytes()
        peak = 1024 * int(ran.stdout.split("workers:")[1].split()[0])
        print(
            f"2 workers: {verdict(same, 'the same bits')}, peak of one worker {peak / 1e9:.2f} GB "
            f"{verdict(peak <= limit, 'within the stated memory')}"
        )
        more = f"{1.25 * limit / 1e6:.0f}MB"
        subprocess.run(
            command(scan, outputs[2], more, *options), env=environment, capture_output=True
        )
        shape = (side, side, side)
        one, other = values(outputs[0], shape), values(outputs[2], shape)
        print(
            f"--memory {more}: largest difference {np.abs(one - other).max() / np.abs(one).max():.1e} of the largest value"
        )
        if iterations:
            arguments = ["-c", IN_MEMORY, str(scan), str(outputs[2]), str(iterations)]
            ran = subprocess.run(
                [sys.executable, *arguments], env=environment, capture_output=True, text=True
            )
            other = values(outputs[2], shape)
            print(
                f"in memory: peak {1024 * int(ran.stdout.split('VmHWM:')[1].split()[0]) / 1e9:.2f} GB, "
                f"largest difference {np.abs(one - other).max() / np.abs(other).max():.1e} of the largest value"
            )
        truth = sets.truth((2, side, side), setup.voxel, setup.radius)
        one = one[side // 2 - 1 : side // 2 + 1]
        print(
            f"correlation with the truth in the two middle slices {np.corrcoef(one.ravel(), truth.ravel())[0, 1]:.3f}"
        )


if __name__ == "__main__":
    run_script(main)
