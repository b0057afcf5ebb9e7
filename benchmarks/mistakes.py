"""Plausible mistakes in measurements, each with its right twin: is the cause named, and only then?

    python benchmarks/mistakes.py [NAMES] [--seeds 100..109] [--real] [--repair]

A mistake is named if a finding has one of its causes, or if the problem is refused in a sentence with
its words. A twin raises a false alarm if it has a finding that is no remark. ``--real`` checks the real
pictures, kernels and k-space of the data folder and the pictures of the zoo, which are right.
Results: results/mistakes.txt. The records are in benchmarks/mistakes/.
"""

from __future__ import annotations

from common import run_script
from mistakes.run import main

if __name__ == "__main__":
    run_script(main)
