"""Every named method of scene flow on simulated pairs of sweeps, next to its published figure.

    python benchmarks/flow_methods.py [--pairs 20] [--methods default,icp-flow,...] [--again]

Pairs are sweeps 8 and 20 of streets with the seeds 900 to 909, 60,000 points each, with true poses.
Errors are bucket-normalized dynamic errors over a disc of 35 m, without ground: 0 is perfect, and
zero flow has 1 in every class, so a method above 1 is worse than nothing. Published figures are
those of Argoverse 2 (test), for methods that also use two sweeps; they are the figures of other
data. Slow methods have few pairs, see `PAIRS`. Results are kept per pair in
``results/flow_methods.json``, from which a later call continues; `--again` measures the
methods of the call anew.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import Kept, machine, run_script, verdict

import invtoolbox as it
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow import estimate
from invtoolbox.jobs.flow.methods import METHODS, Method, Nsfp
from invtoolbox.metrics import evaluate
from invtoolbox.metrics.flow_scores import META_CLASSES, BucketedEPE

#: Published bucket-normalized dynamic errors, Argoverse 2 test, two sweeps.
PUBLISHED = {"icp-flow": 0.331, "nsfp": 0.422}
#: Number of pairs of slow methods, if `--pairs` does not ask for fewer.
PAIRS = {"nsfp": 5}
SEEDS, SOURCES = range(900, 910), (8, 20)
#: Methods whose settings differ from the named ones: NSFP of whole sweeps takes minutes.
SETTINGS: dict[str, Method] = {"nsfp": Nsfp(points=8192)}


def pair_of(seed: int, index: int) -> tuple[Sweep, Sweep]:
    """Simulate a pair of sweeps; the truth counts within a disc of 35 m."""
    street = it.simulation.street(sweeps=index + 2, seed=seed, points=60_000)
    source, target = street[index], street[index + 1]
    assert source.labels is not None
    near = source.points[:, :2].norm(dim=1) <= 35
    labels = replace(source.labels, valid=source.labels.valid & near)
    return replace(source, labels=labels), target


def measure(name: str, source: Sweep, target: Sweep) -> dict[str, Any]:
    """Return plain values: seconds, the static error, and the sums of every bucket with points."""
    began = time.process_time()
    found = estimate(source, target, SETTINGS.get(name, name))
    seconds = time.process_time() - began
    errors = evaluate(found, source, next_pose=target.pose)
    sums = errors.bucketed
    rows = [
        [*where, float(sums.errors[*where]), float(sums.speeds[*where]), int(sums.counts[*where])]
        for where in sums.counts.nonzero().tolist()
    ]
    static = errors.points - errors.dynamic_points
    return {"seconds": seconds, "static": [errors.static * static, static], "buckets": rows}


def add_up(results: list[dict[str, Any]]) -> BucketedEPE:
    total = BucketedEPE()
    for result in results:
        for kind, bucket, error, speed, count in result["buckets"]:
            total.errors[kind, bucket] += error
            total.speeds[kind, bucket] += speed
            total.counts[kind, bucket] += count
    return total


def main(
    pairs: int = len(SEEDS) * len(SOURCES),
    methods: str = ",".join(METHODS),
    again: bool = False,
) -> None:
    torch.set_num_threads(1)
    print(machine())
    path = Path(__file__).parent / "results" / "flow_methods.json"
    kept, methods = Kept(path), methods.split(",")
    if again:
        kept.known = {
            key: result for key, result in kept.known.items() if key.split(":")[0] not in methods
        }
        path.write_text(json.dumps(kept.known))
    known: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    for k in range(pairs):
        seed, index = SEEDS[k % len(SEEDS)], SOURCES[k // len(SEEDS)]
        wanted = {
            name: f"{name}: {seed}, sweep {index}" for name in methods if k < PAIRS.get(name, pairs)
        }
        missing = [name for name, key in wanted.items() if key not in kept.known]
        source, target = pair_of(seed, index) if missing else (None, None)
        for name in missing:
            assert source is not None and target is not None
            result = measure(name, source, target)
            # Another call may have measured another method meanwhile.
            kept.known |= Kept(path).known | {wanted[name]: result}
            path.write_text(json.dumps(kept.known))
        for name, key in wanted.items():
            known[name].append(kept.known[key])
    print(
        f"{'method':10}{'pairs':>6}{'seconds':>9}"
        + "".join(f"{name.lower():>16}" for name in META_CLASSES[1:])
        + f"{'mean':>8}{'published':>11}{'static [m]':>12}"
    )
    for name, results in known.items():
        errors = add_up(results)
        scores = [errors.by_class()[kind].dynamic for kind in META_CLASSES[1:]]
        seconds = sum(result["seconds"] for result in results) / len(results)
        static, count = (sum(result["static"][k] for result in results) for k in range(2))
        print(
            f"{name:10}{len(results):6}{seconds:9.1f}"
            + "".join(f"{score:16.3f}" for score in scores)
            + f"{errors.mean().dynamic:8.3f}{PUBLISHED.get(name, '-'):>11}{static / count:12.4f} "
            + verdict(errors.mean().dynamic <= 1, "mean at most 1")
        )


if __name__ == "__main__":
    run_script(main)
