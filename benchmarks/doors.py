"""One problem through every door: are the decisions the same, and the bits?

    python benchmarks/doors.py [--seed N] [--only KIND ...]

Forty problems are drawn from the digest of the commit: scans (dead cells, gains, short arcs, objects
wider than the grid, complete), blurred, noisy, masked and small pictures, k-space, and large pictures.
Each is written to files in full precision and read again, so that all doors get the same numbers. The
doors: `it.reconstruct`, the command, a scene file, and `as_reconstructor(automatic="all")`. Commands and
scenes solve large pictures in tiles, and are compared with `deblur_in_tiles`, which is compared with
`it.reconstruct`. Compared are the records of the steps (step, item, outcome), all other records, the bits
of x, and the PSNR. `inpaint` and its scenes keep the known pixels unless a noise level is stated, so
their bits count in the gaps alone.

Then, for twelve of the problems with few iterations: `automatic="none"` of every door against
`it.solve`, and every word alone: is the step off, and are the decisions before it those of "all"?
Results: results/doors.txt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import subprocess
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import machine, run_script, verdict
from doors.problems import KINDS, Posed
from torch import Tensor

import invtoolbox as it
from invtoolbox.cli import main as run_command
from invtoolbox.jobs.images.decisions.order import STEPS
from invtoolbox.jobs.images.tiles import OFF_IN_TILES, deblur_in_tiles

#: Decibels that doors may differ by if they do not compute alike.
NEAR = 0.05
#: Iterations and problems of the second part, which compares many runs: number per kind, 1 if not named.
ITERATIONS, COUNTS = 10, {"scan, complete": 2, "picture, blurred": 2}


def by_python(posed: Posed, automatic: str, most: int | None = None) -> it.Solution:
    """Solve a problem by `it.reconstruct`."""
    return it.reconstruct(
        posed.y,
        posed.A,
        prior=posed.prior,
        noise_std=posed.noise_std,
        regularization=posed.weight,
        max_iterations=most or posed.max_iterations,
        progress=False,
        automatic=automatic,
    )


def by_module(posed: Posed, automatic: str, most: int | None = None) -> it.Solution:
    """Solve a problem by a model of deepinv, whose physics is the operator."""
    model = it.as_reconstructor(
        posed.prior_name,
        regularization=posed.weight,
        data_term=it.data_terms.LeastSquares(noise_std=posed.noise_std),
        max_iterations=most or posed.max_iterations,
        automatic=automatic,
    )
    solution: it.Solution = model.solve(posed.y, it.to_deepinv(posed.A))
    return solution


def by_command(posed: Posed, automatic: str, most: int | None = None) -> it.Solution:
    """Solve a problem by its command, and read the solution that it wrote.

    `mri` writes the image alone: the decisions are those of the scene that it saves.
    """
    is_mri = posed.command[0] == "mri"
    words = [*posed.command, "--prior", posed.prior, "--regularization", str(posed.weight)]
    if most := most or posed.max_iterations:
        words += ["--max-iterations", str(most)]
    if not is_mri:
        words += ["--automatic", automatic, "--set", 'output.formats=["h5"]']
        words += [] if posed.noise_std is None else ["--noise-std", repr(posed.noise_std)]
    output = ["x.npy", "--save-scene", "saved.toml"] if is_mri else ["by-command"]
    printed = io.StringIO()
    with contextlib.chdir(posed.folder), contextlib.redirect_stderr(printed):
        shared = ["--overwrite", "--quiet", "--threads", "1"]
        code = run_command([*words, "--output", *output, *shared])
    if code:
        raise SystemExit(f"{' '.join(words)}: {printed.getvalue()}")
    if not is_mri:
        return it.Solution.load(posed.folder / "by-command" / "solution.h5")
    place = posed.folder / "by-saved-scene"
    solution = it.run(posed.folder / "saved.toml", output=place, progress=False).solution
    return dataclasses.replace(solution, x=torch.from_numpy(np.load(posed.folder / "x.npy"))[None])


def by_scene(posed: Posed, automatic: str, most: int | None = None) -> it.Solution:
    """Solve a problem by a scene file."""
    heading, tables = "", posed.tables
    if posed.command[0] != "mri":
        weight = "" if posed.weight == "auto" else f"regularization = {posed.weight}\n"
        heading = f'prior = "{posed.prior}"\nautomatic = "{automatic}"\n{weight}'
        heading += '[output]\nformats = ["h5"]\n[solver]\ntile = "auto"\n'
        if most := most or posed.max_iterations:
            heading += f"max_iterations = {most}\n"
        if posed.noise_std is not None:
            stated = f"[measurements]\nnoise_std = {posed.noise_std!r}\n"
            tables = tables.replace("[measurements]\n", stated)
    path = posed.folder / "scene.toml"
    path.write_text(heading + tables)
    outcome = it.run(path, output=posed.folder / "by-scene", overwrite=True, progress=False)
    return outcome if isinstance(outcome, it.Solution) else outcome.solution


def by_tiles(posed: Posed, automatic: str, most: int | None = None) -> it.Solution:
    """Solve a large picture by `deblur_in_tiles`."""
    return deblur_in_tiles(
        posed.y,
        posed.A,
        posed.prior,
        regularization=posed.weight,
        max_iterations=most or posed.max_iterations,
        progress=False,
        automatic=automatic,
    )


Door = Callable[[Posed, str, int | None], it.Solution]
DOORS: dict[str, Door] = {"model": by_module, "command": by_command, "scene": by_scene}


# -- comparisons -----------------------------------------------------------------------------------


def records(solution: it.Solution, of_steps: bool = True) -> list[tuple[str, int | None, str]]:
    """Return step, item and outcome of the records of the steps, or of all other records."""
    return [
        (d.step, d.item, d.outcome) for d in solution.decisions if (d.step in STEPS) == of_steps
    ]


def keep_known(posed: Posed, x: Tensor) -> Tensor:
    """Return an answer with the known pixels of the picture, as `inpaint` writes it."""
    A = posed.A
    if not isinstance(A, it.operators.Inpainting) or posed.noise_std is not None:
        return x
    return torch.where(A.sampled > 0, posed.y, x)


@dataclass(frozen=True)
class Difference:
    """Difference of the answers of two doors.

    Attributes:
        decisions: records of the steps that one door alone has.
        others: other records that one door alone has.
        is_same: whether the bits of x are the same.
        is_same_in_gaps: whether they are the same next to the known pixels that a door keeps.
        decibels: difference of the PSNR.
        largest: largest difference of a pixel.
    """

    decisions: list[str]
    others: list[str]
    is_same: bool
    is_same_in_gaps: bool
    decibels: float
    largest: float


def unlike(first: Sequence[object], second: Sequence[object]) -> list[str]:
    """Return the records that one of two lists alone has, or that their order differs."""
    if list(first) == list(second):
        return []
    less, more = Counter(first) - Counter(second), Counter(second) - Counter(first)
    both = [f"-{r}" for r in less.elements()] + [f"+{r}" for r in more.elements()]
    return both or ["another order"]


def compare(posed: Posed, first: it.Solution, second: it.Solution, is_cut: bool) -> Difference:
    """Return the difference of two answers to a problem.

    Args:
        posed: the problem.
        first: the answer that the other one is compared with.
        second: the other answer.
        is_cut: whether the second one alone is made of tiles, so that most steps are off.
    """
    pairs = [records(s) for s in (first, second)]
    if is_cut:
        pairs = [[r for r in rows if r[0] not in OFF_IN_TILES] for rows in pairs]
    others = unlike(records(first, of_steps=False), records(second, of_steps=False))
    x, other = first.x, second.x
    return Difference(
        unlike(*pairs),
        others,
        torch.equal(x, other),
        torch.equal(keep_known(posed, x), keep_known(posed, other)),
        posed.quality(other) - posed.quality(x),
        float((x - other).abs().max()) if x.shape == other.shape else float("inf"),
    )


def through_doors(posed: Posed) -> dict[str, Difference]:
    """Return the difference of every door."""
    whole = by_python(posed, "all")
    if not posed.is_tiled:
        return {
            name: compare(posed, whole, door(posed, "all", None), is_cut=False)
            for name, door in DOORS.items()
        }
    tiles, model = by_tiles(posed, "all"), by_module(posed, "all")
    found = {"model": compare(posed, whole, model, is_cut=False)}
    for name in ("command", "scene"):
        found[name] = compare(posed, tiles, DOORS[name](posed, "all", None), is_cut=False)
    return {**found, "tiles": compare(posed, whole, tiles, is_cut=True)}


def without_steps(posed: Posed) -> dict[str, Difference]:
    """Return the difference of every door with ``automatic="none"`` from `it.solve`.

    Its decisions are the steps that are not off.
    """
    plain = it.solve(posed.problem, posed.prior_name, max_iterations=ITERATIONS, progress=False)
    doors: dict[str, Door] = {"Python": by_python, **DOORS}
    if posed.command[0] == "mri":  # its command takes no word
        doors = {"Python": by_python, "model": by_module}
    found = {}
    for name, door in doors.items():
        bare = door(posed, "none", ITERATIONS)
        is_on = [str(record) for record in records(bare) if record[2] != "off"]
        difference = compare(posed, plain, bare, is_cut=False)
        found[name] = dataclasses.replace(difference, decisions=is_on)
    return found


def words_alone(posed: Posed) -> tuple[int, list[str]]:
    """Return the number of words, and those that do not turn their step off or change an earlier one."""
    order, faults = list(STEPS), []
    whole = records(by_python(posed, "all", ITERATIONS))
    for place, name in enumerate(order):
        part = records(by_python(posed, f"-{name}", ITERATIONS))
        outcomes = {outcome for step, _, outcome in part if step == name}
        before = order[:place]
        earlier = [[r for r in rows if r[0] in before] for rows in (whole, part)]
        if outcomes != {"off"}:
            faults.append(f"-{name}: its outcome is {', '.join(sorted(outcomes))}")
        if changed := unlike(*earlier):
            faults.append(f"-{name}: earlier decisions change: {'; '.join(changed)}")
    return len(order), faults


# -- report ----------------------------------------------------------------------------------------


def describe(difference: Difference) -> str:
    """Return a line about a difference."""
    parts = [f"decisions {'; '.join(difference.decisions)}"] * bool(difference.decisions)
    parts += [f"other records {'; '.join(difference.others)}"] * bool(difference.others)
    if not difference.is_same:
        where = " in the known pixels alone" if difference.is_same_in_gaps else ""
        parts.append(
            f"bits{where}, at most {difference.largest:.1e}, {difference.decibels:+.4f} dB"
        )
    return ", ".join(parts)


def print_table(rows: dict[tuple[str, str], list[Difference]]) -> None:
    """Print the counts of every kind and door; the bits in gaps leave out known pixels."""
    print(f"{'':20}{'door':9}{'problems':>9}{'decisions':>11}{'bits':>6}{'in gaps':>9}{'dB':>9}")
    for (kind, door), found in rows.items():
        most = max((abs(d.decibels) for d in found), default=0.0)
        counts = (
            f"{len(found):9}{sum(not d.decisions for d in found):11}"
            f"{sum(d.is_same for d in found):6}{sum(d.is_same_in_gaps for d in found):9}"
        )
        print(f"{kind:20}{door:9}{counts}{most:9.4f}")


def digest() -> int:
    """Return the first eight hexadecimal digits of the commit as a number."""
    words = ["git", "rev-parse", "--short=8", "HEAD"]
    ran = subprocess.run(
        words, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    return int(ran.stdout.strip()[:8], 16)


def main(seed: int | None = None, only: Sequence[str] | None = None) -> None:
    """Print the table of the doors, every disagreement, and what the words do.

    Args:
        seed: seed of the problems; by default the first 8 digits of the commit
        only: beginnings of the kinds; by default all
    """
    warnings.simplefilter("ignore")
    seed, began = digest() if seed is None else seed, time.monotonic()
    print(f"{machine()}; seed {seed}")
    kinds = {k: v for k, v in KINDS.items() if only is None or k.startswith(tuple(only))}
    rows: dict[tuple[str, str], list[Difference]] = defaultdict(list)
    some: list[Posed] = []
    with tempfile.TemporaryDirectory() as folder:
        for place, (kind, (make, count)) in enumerate(kinds.items()):
            for number in range(count):
                where = Path(folder) / f"{place}-{number}"
                where.mkdir()
                index = [seed, list(KINDS).index(kind), number]
                posed = make(np.random.default_rng(index), where, kind)
                for door, found in through_doors(posed).items():
                    rows[kind, door].append(found)
                    if text := describe(found):
                        print(f"{kind} {number} ({posed.about}), {door}: {text}", flush=True)
                if number < COUNTS.get(kind, 1) and not posed.is_tiled:
                    some.append(posed)
        print_table(rows)
        print(f"{time.monotonic() - began:.0f} s")
        bare: dict[tuple[str, str], list[Difference]] = defaultdict(list)
        total, faults = 0, []
        for posed in some:
            for door, found in without_steps(posed).items():
                bare["none and solve", door].append(found)
                if found.decisions or not found.is_same_in_gaps:
                    print(f"{posed.kind} ({posed.about}), none, {door}: {describe(found)}")
            count, wrong = words_alone(posed)
            total += count
            faults += [f"{posed.kind} ({posed.about}): {fault}" for fault in wrong]
    print_table(bare)
    print(f"{total} words alone on {len(some)} problems", *faults, sep="\n")
    every = [d for (_, door), found in rows.items() for d in found if door != "tiles"]
    cut = [d for (_, door), found in rows.items() for d in found if door == "tiles"]
    print(verdict(all(not d.decisions for d in every + cut), "the same decisions"))
    print(verdict(all(d.is_same_in_gaps for d in every), "the same bits where doors compute alike"))
    print(verdict(all(abs(d.decibels) <= NEAR for d in every + cut), f"{NEAR} dB elsewhere"))
    alike = all(d.is_same_in_gaps and not d.decisions for found in bare.values() for d in found)
    print(verdict(alike, "none has the bits of solve"))
    print(verdict(not faults, "a word turns off its step, and changes none before"))
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    run_script(main)
