"""Plausible mistakes in measurements, each with its right twin: is the cause named, and only then?

    python benchmarks/mistakes.py [NAMES] [--seeds 100..109] [--real]

A record is a mistake and its right twin, as functions of a seed: pictures, kernels, masks, coils and
noise vary with it. A mistake is named if a finding has one of its causes, or if the problem is refused
in a sentence with its words. A twin raises a false alarm if it has a finding that is no remark.
Thresholds were chosen on the seeds 0 to 49; the figures are those of seeds from 100 on, whose natural
pictures are cut from other photographs. ``--real`` checks the real pictures, kernels and k-space of
the data folder, which are right. Writes results/mistakes.txt.
"""

from __future__ import annotations

import functools
import itertools
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import data_folder, kernels, machine, run_script
from torch import Tensor
from zoo.images import JOBS, _coils, _gaps, _places, kernel
from zoo.items import draws, log_uniform, tensor
from zoo.pictures import KINDS, picture

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.measurements import check_measurements
from invtoolbox.operators import Blur, CartesianMRI, Fourier, Inpainting, Operator


@dataclass(frozen=True)
class Case:
    """What a user hands over.

    Attributes:
        y: measurements.
        A: the operator; a function if its creation may be refused.
        prior: prior of the solve.
        noise_std: stated noise level.
    """

    y: Tensor
    A: Operator | Callable[[], Operator]
    prior: Any = None
    noise_std: float | None = None


@dataclass(frozen=True)
class Record:
    """A mistake and its right twin.

    Attributes:
        name: the mistake in words.
        causes: names of the findings that name it; words of the sentence if it is refused.
        make: function of a seed that returns the mistaken case and the right one.
    """

    name: str
    causes: tuple[str, ...]
    make: Callable[[int], tuple[Case, Case]]


@dataclass
class Score:
    """Counts of a record over its seeds."""

    named: int = 0
    alarms: int = 0
    count: int = 0
    sentences: list[str] = field(default_factory=list)


def findings(case: Case) -> tuple[set[str], list[str]]:
    """Return the names of the findings, or the sentence of a refusal, and all sentences."""
    try:
        A = case.A if isinstance(case.A, Operator) else case.A()
        problem = it.Problem(case.y, A, it.data_terms.LeastSquares(noise_std=case.noise_std))
        found = [f for f in check_measurements(problem, case.prior) if not f.is_remark]
    except InputError as error:
        return {f"refused: {error}"}, [str(error)]
    return {f.name for f in found}, [f.sentence for f in found]


def is_named(names: set[str], causes: tuple[str, ...]) -> bool:
    refusals = [name for name in names if name.startswith("refused")]
    return any(c in names or any(c in refusal for refusal in refusals) for c in causes)


# -- pictures --------------------------------------------------------------------------------------


def scene(name: str, seed: int, shape: tuple[int, int] = (96, 96)) -> tuple[Any, Tensor]:
    """Return random numbers and a picture ``(1, 1, *shape)`` in [0, 1]."""
    draw = draws(name, seed)
    half = 0 if seed < 100 else 1
    return draw, tensor(picture(draw, KINDS[seed % len(KINDS)], shape, half))[None]


def noisy(draw: Any, clean: Tensor, level: float) -> Tensor:
    return clean + level * tensor(draw.standard_normal(tuple(clean.shape)))


# -- masks -----------------------------------------------------------------------------------------


def gap_case(seed: int, kind: str) -> tuple[Tensor, Tensor]:
    """Return masked measurements and their mask."""
    draw, x = scene(f"gaps {kind}", seed)
    mask = tensor(_gaps(draw, kind, (96, 96), draw.uniform(0.3, 0.7))).bool()
    return noisy(draw, x, log_uniform(draw, 1e-3, 0.05)) * mask, mask


def mask_record(
    name: str, causes: tuple[str, ...], kind: str, change: Callable[[Tensor, Tensor], Any]
) -> Record:
    """Return the record of a mistake that `change` makes of measurements and their mask."""

    def make(seed: int) -> tuple[Case, Case]:
        y, mask = gap_case(seed, kind)
        wrong_y, wrong = change(y, mask)
        right = Inpainting(mask, (96, 96))
        return Case(wrong_y, lambda: Inpainting(wrong, (96, 96))), Case(y, right)

    return Record(f"{name}, {kind}", causes, make)


def at_gaps(y: Tensor, mask: Tensor, value: float) -> Tensor:
    return torch.where(mask, y, value)


def nan_among_known(seed: int) -> tuple[Case, Case]:
    y, mask = gap_case(seed, "pixels")
    places = mask & (torch.rand(96, 96, generator=torch.Generator().manual_seed(seed)) < 0.01)
    right = Inpainting(mask & ~places, (96, 96))
    broken = torch.where(places, torch.nan, y)
    return Case(broken, Inpainting(mask, (96, 96))), Case(broken, right)


MASKS = [
    record
    for kind in ("pixels", "lines", "blocks")
    for record in (
        mask_record("mask inverted", ("inverted",), kind, lambda y, m: (y, ~m)),
        mask_record(
            "mask of 0 and 255", ("mask",), kind, lambda y, m: (y, 255 * m.to(torch.uint8))
        ),
        mask_record("mask transposed", ("exchanged",), kind, lambda y, m: (y, m.mT)),
    )
] + [
    mask_record("mask of 0 and 65535", ("mask",), "pixels", lambda y, m: (y, 65535.0 * m)),
    mask_record("mask upside down", ("reversed",), "pixels", lambda y, m: (y, m.flip(-2))),
    mask_record("mask mirrored", ("reversed",), "blocks", lambda y, m: (y, m.flip(-1))),
    mask_record(
        "mask inverted, NaN at the gaps",
        ("inverted",),
        "blocks",
        lambda y, m: (at_gaps(y, m, torch.nan), ~m),
    ),
    mask_record(
        "mask of another shape",
        ("does not broadcast",),
        "pixels",
        lambda y, m: (y, m[:, :64]),
    ),
    Record("NaN at known pixels", ("NaN",), nan_among_known),
]


# -- k-space ---------------------------------------------------------------------------------------

SIDES = (96, 80)


@dataclass(frozen=True)
class Kspace:
    """A right measurement of k-space: image, mask, coils and samples."""

    x: Tensor
    mask: Tensor
    maps: Tensor | None
    y: Tensor

    def case(self, y: Tensor, mask: Tensor | None = None, maps: Tensor | None = None) -> Case:
        mask, maps = self.mask if mask is None else mask, self.maps if maps is None else maps
        return Case(y, lambda: CartesianMRI(mask, SIDES, maps))


def kspace(seed: int, coils: bool, sampling: str) -> Kspace:
    draw, modulus = scene(f"mri {coils} {sampling}", seed, SIDES)
    v, u = _places(SIDES)
    window = np.clip(1.6 - 1.6 * np.hypot(u, v), 0, 1)
    a, b, c = draw.uniform(-1.5, 1.5, 3)
    x = modulus * tensor(window * np.exp(1j * (a + b * u + c * u * v)))
    share, middle = draw.uniform(0.25, 0.5), draw.uniform(0.08, 0.15)
    if sampling == "lines":
        k = abs(np.arange(SIDES[0]) - SIDES[0] // 2) / SIDES[0]
        taken = (draw.uniform(size=k.shape) < share) | (k <= middle / 2)
        mask = np.broadcast_to(taken[:, None], SIDES)
    elif sampling == "points":
        mask = (draw.uniform(size=SIDES) < share) | (np.hypot(v, u) <= 2 * middle)
    else:
        mask = np.ones(SIDES)
    maps = tensor(_coils(draw)(v, u)) if coils else None
    A = CartesianMRI(tensor(mask.astype(float)), SIDES, maps)
    clean, level = A(x), log_uniform(draw, 1e-3, 0.05)
    parts = level * draw.standard_normal((2, *clean.shape))
    return Kspace(x, A.mask, maps, (clean + tensor(parts[0] + 1j * parts[1])) * A.sampled)


def mri_record(
    name: str, causes: tuple[str, ...], coils: bool, sampling: str, change: Callable[[Kspace], Case]
) -> Record:
    def make(seed: int) -> tuple[Case, Case]:
        k = kspace(seed, coils, sampling)
        return change(k), k.case(k.y)

    return Record(f"{name}, {sampling}, {4 if coils else 1} coils", causes, make)


def alternating(*axes: int) -> Tensor:
    row, column = torch.meshgrid(*(torch.arange(n) for n in SIDES), indexing="ij")
    return (-1.0) ** sum((row, column)[axis + 2] for axis in axes)


def shifted(y: Tensor, *axes: int) -> Tensor:
    return torch.fft.ifftshift(y, dim=axes)


def no_shifts(k: Kspace) -> Case:
    """Return the k-space of a plain fft2 of the coil images."""
    images = k.x if k.maps is None else k.maps * k.x
    return k.case(torch.fft.fft2(images, norm="ortho"))


def few_missing_lines(k: Kspace) -> Case:
    y = k.y.clone()
    y[..., 11, :] = y[..., 70, :] = 0
    return k.case(y)


def zero_filled(k: Kspace) -> Case:
    return k.case(k.y, torch.ones(1, 1))


MRI = [
    record
    for coils in (False, True)
    for record in (
        mri_record(
            "frequency zero in the corner", ("centre",), coils, "all",
            lambda k: k.case(shifted(k.y, -2, -1)),
        ),
        mri_record(
            "frequency zero at the first row", ("centre",), coils, "all",
            lambda k: k.case(shifted(k.y, -2)),
        ),
        mri_record(
            "frequency zero in the corner, with its mask", ("centre",), coils, "points",
            lambda k: k.case(shifted(k.y, -2, -1), shifted(k.mask, -2, -1)),
        ),
        mri_record(
            "frequency zero in the corner, mask in the middle", ("middle",), coils, "lines",
            lambda k: k.case(k.y, shifted(k.mask, -2)),
        ),
        mri_record("plain fft2", ("centre",), coils, "all", no_shifts),
        mri_record(
            "alternating signs", ("signs",), coils, "all",
            lambda k: k.case(k.y * alternating(-2, -1)),
        ),
        mri_record(
            "alternating signs along the rows", ("signs",), coils, "lines",
            lambda k: k.case(k.y * alternating(-1)),
        ),
        mri_record(
            "magnitudes", ("magnitudes",), coils, "all", lambda k: k.case(k.y.abs())
        ),
        mri_record(
            "magnitudes, complex numbers", ("magnitudes",), coils, "points",
            lambda k: k.case(k.y.abs().to(torch.complex64)),
        ),
        mri_record("zero-filled, full mask", ("zeros",), coils, "lines", zero_filled),
        mri_record("zero-filled, full mask", ("zeros",), coils, "points", zero_filled),
        mri_record("two lines missing", ("zeros",), coils, "all", few_missing_lines),
        mri_record(
            "mask inverted", ("inverted",), coils, "lines", lambda k: k.case(k.y, 1 - k.mask)
        ),
        mri_record(
            "mask inverted", ("inverted",), coils, "points", lambda k: k.case(k.y, 1 - k.mask)
        ),
        mri_record(
            "mask of 0 and 255", ("mask",), coils, "points", lambda k: k.case(k.y, 255 * k.mask)
        ),
        mri_record(
            "the image in place of k-space", ("image",), coils, "all",
            lambda k: k.case(k.x if k.maps is None else k.maps * k.x),
        ),
    )
] + [
    mri_record("conjugated", ("coils",), True, "all", lambda k: k.case(k.y.conj())),
    mri_record("conjugated", ("coils",), True, "lines", lambda k: k.case(k.y.conj())),
    mri_record(
        "conjugated maps", ("coils",), True, "points",
        lambda k: k.case(k.y, maps=k.maps.conj()),
    ),
    mri_record(
        "coils in reversed order", ("coils",), True, "all", lambda k: k.case(k.y.flip(1))
    ),
]  # fmt: skip


# -- blur ------------------------------------------------------------------------------------------

SIDE = 96


@dataclass(frozen=True)
class Blurred:
    """A right blur: kernel, picture in [0, 1] with a margin, and its noise level."""

    kernel: Tensor
    entire: Tensor
    noise: Tensor
    draw: Any

    def case(self, y: Tensor, taps: Tensor | None = None, **settings: Any) -> Case:
        taps = self.kernel if taps is None else taps
        return Case(y, lambda: Blur(taps, (y.shape[-2], y.shape[-1])), **settings)

    def clean(self, taps: Tensor | None = None) -> Tensor:
        """Return the picture blurred with a kernel, by default the right one."""
        taps, margin = self.kernel if taps is None else taps, max(self.kernel.shape)
        size = (self.entire.shape[-2], self.entire.shape[-1])
        y = Blur(taps, size, boundary="periodic")(self.entire)
        return y[..., margin:-margin, margin:-margin]

    @property
    def y(self) -> Tensor:
        return self.clean() + self.noise


@functools.cache
def levin(number: int) -> Tensor:
    taps = kernels(data_folder(), [number])[0]
    return taps / taps.sum()


def blurred(seed: int, family: str, kinds: tuple[str, ...] = KINDS, inner: int = SIDE) -> Blurred:
    """Return a picture and a kernel of a family: drawn ones, those of them without symmetry, or Levin's."""
    draw = draws(f"blur {family}", seed)
    if family == "shaking hand":
        taps = levin(1 + seed % 8)
    else:
        taps = tensor(kernel(draw)(1.0)[1])
        while family == "skew" and not is_skew(taps):
            taps = tensor(kernel(draw)(1.0)[1])
    side = inner + 2 * max(taps.shape)
    half = 0 if seed < 100 else 1
    entire = tensor(picture(draw, kinds[seed % len(kinds)], (side, side), half))[None]
    level = log_uniform(draw, 1e-3, 0.03)
    noise = level * tensor(draw.standard_normal((1, 1, inner, inner)))
    return Blurred(taps, entire, noise, draw)


def is_skew(taps: Tensor) -> bool:
    """Return whether a kernel differs from its turned and mirrored ones."""
    turned = (taps.flip(0, 1), taps.flip(1), taps.flip(0), taps.mT, taps.mT.flip(0, 1))
    return min(float((taps - t).norm() / taps.norm()) for t in turned) > 0.4


def blur_record(
    name: str,
    causes: tuple[str, ...],
    family: str,
    change: Callable[[Blurred], Case],
    right: Callable[[Blurred], Case] = lambda b: b.case(b.y),
    kinds: tuple[str, ...] = KINDS,
    inner: int = SIDE,
) -> Record:
    def make(seed: int) -> tuple[Case, Case]:
        b = blurred(seed, family, kinds, inner)
        return change(b), right(b)

    return Record(f"{name}, {family}", causes, make)


def scattered(b: Blurred, value: float) -> Case:
    """Return a picture in which 1 % of the pixels have one value."""
    share = tensor(np.random.default_rng(int(1e6 * b.noise.std())).uniform(size=(SIDE, SIDE)))
    return b.case(torch.where(share < 0.01, value, b.y))


def hot(b: Blurred) -> Case:
    """Return a picture in which 1 % of the pixels are brighter by random amounts."""
    random = np.random.default_rng(int(1e6 * b.noise.std()))
    share, size = random.uniform(size=(2, SIDE, SIDE))
    return b.case(torch.where(tensor(share) < 0.01, b.y + 0.3 + tensor(size), b.y))


def dead_line(b: Blurred, axis: int) -> Case:
    y = b.y.clone()
    y.select(axis, 40).fill_(0)
    return b.case(y)


def clipped(b: Blurred, low: float, high: float) -> Case:
    """Return a picture that is cut off at quantiles of its values."""
    y = b.y
    return b.case(y.clamp(y.quantile(low), y.quantile(high)))


def in_corner(taps: Tensor) -> Tensor:
    """Return the kernel in the corner of a frame of twice its size."""
    return torch.nn.functional.pad(taps, (0, taps.shape[1], 0, taps.shape[0]))


BLURS = [
    record
    for family in ("drawn", "shaking hand")
    for record in (
        blur_record("kernel sums to 10", ("sum",), family, lambda b: b.case(b.y, 10 * b.kernel)),
        blur_record(
            "kernel is a picture of 0 to 255", ("sum",), family,
            lambda b: b.case(b.y, (255 * b.kernel / b.kernel.max()).round()),
        ),
        blur_record("kernel sums to -1", ("sum",), family, lambda b: b.case(b.y, -b.kernel)),
        blur_record(
            "kernel sums to 10, twin with its factor", ("sum",), family,
            lambda b: b.case(b.y, 10 * b.kernel), lambda b: b.case(10 * b.y, 10 * b.kernel),
        ),
        blur_record("clipped highlights", ("clipped",), family, lambda b: clipped(b, 0, 0.98)),
        blur_record("clipped shadows", ("clipped",), family, lambda b: clipped(b, 0.05, 1)),
        blur_record(
            "clipped highlights, 8 bits", ("clipped",), family,
            lambda b: b.case((255 * b.y).round().clamp(max=(255 * b.y).quantile(0.98).round())),
            lambda b: b.case((255 * b.y).round()),
        ),
        blur_record("hot pixels", ("pixels",), family, hot),
        blur_record("hot pixels of one value", ("pixels",), family, lambda b: scattered(b, 1.5)),
        blur_record("dead pixels", ("pixels",), family, lambda b: scattered(b, -0.2)),
        blur_record("dead column", ("pixels",), family, lambda b: dead_line(b, -1)),
        blur_record("dead row", ("pixels",), family, lambda b: dead_line(b, -2)),
    )
] + [
    blur_record(f"{name}, {kinds[0]} picture", ("orientation",), family, change, kinds=kinds, inner=2 * SIDE)
    for family in ("skew", "shaking hand")
    for kinds in (("constant",), ("natural",))
    for name, change in (
        ("kernel transposed", lambda b: b.case(b.y, b.kernel.mT)),
        ("kernel turned by half a turn", lambda b: b.case(b.y, b.kernel.flip(0, 1))),
        ("kernel mirrored", lambda b: b.case(b.y, b.kernel.flip(1))),
        ("kernel upside down", lambda b: b.case(b.y, b.kernel.flip(0))),
        ("kernel turned by a quarter", lambda b: b.case(b.y, b.kernel.rot90(1))),
        (
            "kernel in the corners",
            lambda b: b.case(b.y, torch.fft.ifftshift(torch.nn.functional.pad(b.kernel, (4,) * 4))),
        ),
    )
]  # fmt: skip


RECORDS = [*MASKS, *MRI, *BLURS]


def real_data(folder: Path) -> Iterator[tuple[str, Case]]:
    """Yield real data, and measurements of real pictures with real kernels; all are right."""
    from scipy.io import loadmat

    y = torch.from_numpy(np.load(folder / "mri_cartesian_8coil" / "cartesian_ksp.npy"))[None]
    mask = y.abs().sum((0, 1)) > 0
    maps = it.operators.estimate_coil_maps(y)
    yield "mri_cartesian_8coil", Case(y, CartesianMRI(mask, tuple(y.shape[2:]), maps))
    yield "mri_cartesian_8coil, one coil", Case(y[:, :1], CartesianMRI(mask, tuple(y.shape[2:])))
    knee = loadmat(folder / "mri_singlecoil_full" / "coronal_fatsat_2D_knee.mat")["kdata"]
    y = torch.from_numpy(knee)[None, None]
    yield "mri_singlecoil_full", Case(y, CartesianMRI(torch.ones(1, 1), tuple(y.shape[2:])))
    yield "mri_singlecoil_full, Fourier", Case(y, Fourier(tuple(y.shape[1:])))
    demo = folder / "cine_acdc_demo"
    frames = torch.from_numpy(loadmat(demo / "demo_data.mat")["demo_data"]).movedim(-1, 0)[1:]
    masks = torch.from_numpy(loadmat(demo / "mask_seq.mat")["sampling_mask_seq"]).movedim(-1, 0)
    x = (frames / 255).to(torch.complex64)[None, None]
    cine = CartesianMRI(masks, tuple(x.shape[1:]), axes=2)
    yield "cine_acdc_demo", Case(cine(x), cine)
    for k in range(0, x.shape[2], 4):
        whole = CartesianMRI(torch.ones(1, 1), tuple(x.shape[3:]))
        yield f"cine_acdc_demo, frame {k}", Case(whole(x[:, :, k]), whole)


def real_blurs(folder: Path) -> Iterator[tuple[str, Case]]:
    """Yield real pictures, blurred with Levin's kernels and noise of 1 or 3 %, and real stacks."""
    paths = [
        *sorted((folder / "set12").glob("*.png")),
        *sorted((folder / "bsd68_gray").glob("*.png"))[:40],
        *sorted((folder / "gb82_cc0").glob("*.png")),
    ]
    for k, path in enumerate(paths):
        picture = it.datasets.open(path)[0].y
        for number in (1 + k % 8, 1 + (k + 3) % 8):
            A = Blur(levin(number), tuple(picture.shape[2:]), boundary="periodic")
            y = A.simulate(picture, noise=(0.01, 0.03)[k % 2], seed=k)
            yield f"{path.parent.name}, {path.stem}, kernel {number}", Case(y, A)
    for k, taps in enumerate(other_kernels(folder)):
        picture = it.datasets.open(paths[k % 12])[0].y
        A = Blur(taps, tuple(picture.shape[2:]))
        yield f"kernels_12, {k}", Case(A.simulate(picture, noise=0.01, seed=k), A)
    stack = it.datasets.open(folder / "microscopy_flowdec" / "bars-25pct_data.tif").volume().y
    psf = it.datasets.open(folder / "microscopy_flowdec" / "bars-25pct_kernel.tif").volume().y
    yield (
        "microscopy_flowdec",
        Case(stack, it.operators.Blur3D(psf[0, 0] / psf.sum(), tuple(stack.shape[2:]))),
    )


def other_kernels(folder: Path) -> list[Tensor]:
    """Return the 12 kernels of KAIR: Gaussians and motions, of 25 by 25 pixels."""
    from scipy.io import loadmat

    cells = loadmat(folder / "kernels" / "kernels_12.mat")["kernels"].ravel()
    return [torch.from_numpy(np.asarray(cell, dtype=np.float32)) for cell in cells]


def zoo_items(half: int) -> Iterator[tuple[str, Case]]:
    """Yield the pictures and the k-space of half of the zoo, whose operators are right or nearly."""
    for job, entry in JOBS.items():
        for index in range(half, entry.count, 2):
            item = entry.make(index)
            yield f"zoo, {job} {index}: {item.about}", Case(item.y, item.A)


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


if __name__ == "__main__":
    run_script(main)
