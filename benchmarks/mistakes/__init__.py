"""Plausible mistakes in measurements, each with its right twin; `RECORDS` lists them.

A record is a mistake and its right twin, as functions of a seed: pictures, kernels, masks, coils and
noise vary with it. Thresholds were chosen on the seeds 0 to 49; seeds from 100 on are there to report,
and their natural pictures are cut from other photographs.
"""

from __future__ import annotations

from mistakes.blurs import BLURS
from mistakes.cases import Record
from mistakes.kspace import MRI
from mistakes.masks import MASKS, RANGES

RECORDS: list[Record] = [*MASKS, *MRI, *BLURS, *RANGES]
