"""Check the mistakes and their twins, and print a table."""

from __future__ import annotations

import itertools
import re
import time
import warnings
from dataclasses import dataclass, field

from common import data_folder, machine

from mistakes import RECORDS
from mistakes.cases import findings, is_named
from mistakes.real import real_blurs, real_data, zoo_items


@dataclass
class Score:
    """Counts of a record over its seeds."""

    named: int = 0
    alarms: int = 0
    count: int = 0
    sentences: list[str] = field(default_factory=list)


def main(names: str = "", /, seeds: str = "100..109", real: bool = False) -> None:
    """Check the records and print a table.

    Args:
        names: pattern of the names of records.
        seeds: first and last seed.
        real: check the real data and the zoo (even items for low seeds, else odd) in place of the records.
    """
    warnings.simplefilter("ignore")
    print(machine())
    if real:
        alarms = count = 0
        half = int(seeds.startswith("1"))
        for name, case in itertools.chain(
            real_data(data_folder()), real_blurs(data_folder()), zoo_items(half)
        ):
            found, sentences = findings(case)
            alarms, count = alarms + bool(found), count + 1
            for text in sentences:
                print(f"  {name}: {text}")
        print(f"real data, and half {half} of the zoo: {alarms} false alarms in {count} cases")
        return
    first, last = map(int, seeds.split(".."))
    began = time.perf_counter()
    scores: dict[str, Score] = {}
    for record in RECORDS:
        if not re.search(names, record.name):
            continue
        score = scores[record.name] = Score()
        for seed in range(first, last + 1):
            wrong, right = record.make(seed)
            (found, texts), (alarm, alarms) = findings(wrong), findings(right)
            named = is_named(found, record.causes)
            score.count += 1
            score.named += named
            score.alarms += bool(alarm)
            score.sentences += [f"seed {seed}, not named: {'; '.join(texts)}"] if not named else []
            score.sentences += [f"seed {seed}, false alarm: {text}" for text in alarms]
        print(
            f"  {record.name:<60} named {score.named:>3} of {score.count}, "
            f"{score.alarms} false alarms"
        )
        for text in score.sentences[:4]:
            print(f"      {text}")
    total = sum(s.count for s in scores.values())
    print(
        f"{len(scores)} mistakes, seeds {seeds}: {sum(s.named for s in scores.values())} of {total} "
        f"named, {sum(s.alarms for s in scores.values())} false alarms on the right twins; "
        f"{sum(s.named > s.count / 2 for s in scores.values())} of {len(scores)} mistakes are named "
        f"in most draws; {time.perf_counter() - began:.0f} s"
    )
