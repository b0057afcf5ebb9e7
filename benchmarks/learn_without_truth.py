"""Training without ground truth, compared with supervised training and with deepinv's losses.

    python benchmarks/learn_without_truth.py [--only PART] [--again]

sure            one DnCNN, 1,500 steps, noise 0.1, 100 pictures of BSD400: trained on clean pictures
                with fresh noise, by SURE and by recorrupted pairs on one noisy copy of each; and
                for Poisson counts (peak 60) by thinning and by SURE. PSNR on BSD68.
step            the same with four steps of the difference in SURE, PSNR on 60 pictures of BSD400,
                by which the default of the step was chosen.
noise2inverse   the two rows of the tooth, every tenth view left out; four parts, each by filtered
                back-projection, or by the steps of least squares with the least residual of the
                mean of three parts on the views of the fourth; and five steps of least squares from
                the image of the network. Residual on the views that no reconstruction has used,
                relative to the residual of filtered back-projection.
equivariant     chest slices at 128x128, 45 views; the network sees measurements alone. Trained on
                five patients, PSNR on the slices of the others. Two networks: a U-Net after
                filtered back-projection, and four iterations of half-quadratic splitting, unrolled
                from filtered back-projection. The second was chosen on the last two of the five
                patients, with slices of 64x64 and 23 views, as was the weight of the symmetry. Total
                variation has the best of four weights on the training slices.
causes          mean and variance of the gradient of losses over 24 batches, at a network after 150
                supervised steps, which explains the step of SURE; and the residual of the tooth on
                left-out views of other images.
deepinv         value on one batch, and seconds of a loss with its gradient, alternating.

A setting is never chosen by the pictures it is reported on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from common import Kept, alternating, data_folder, machine, run_script, verdict
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.networks.residual_unet import ResidualUNet
from invtoolbox.training import (
    L2,
    ArtifactRemoval,
    Crops,
    EquivariantImaging,
    Examples,
    MeasurementConsistency,
    Measurements,
    MeasurementSplitting,
    Noise2InversePairs,
    NoisyPairs,
    Pairs,
    RecorruptedPairs,
    Rotations,
    Stage,
    Sure,
    ThinnedPairs,
    keep_freed_memory,
    train,
)

RESULTS = Path(__file__).parent / "results" / "learn_without_truth.json"
SIGMA, GAIN, CROP, STEPS = 0.1, 1 / 60, 40, 1500
#: Steps of the unrolled network, and the weight of the symmetry in its training.
UNROLLED_STEPS, WEIGHT = 300, 100.0


def denoiser() -> nn.Module:
    torch.manual_seed(0)
    return it.priors.DnCNN(depth=6, width=24)


def fit(network: nn.Module, pairs: Pairs, loss: Any, steps: int, count: int) -> nn.Module:
    stage = Stage(loss, steps, 1e-3, count, decay="linear")
    return train(network, pairs, [stage], seed=0, progress=False).network


def psnr(x: Tensor, truth: Tensor) -> float:
    return float(it.metrics.psnr(x, truth, data_range=1.0).mean())


# -- denoising -------------------------------------------------------------------------------------


def pictures(folder: str, count: int) -> list[Tensor]:
    data = it.datasets.open(data_folder() / folder, reader="pictures")
    return [data[k].y for k in range(min(count, len(data)))]


def noisy(images: list[Tensor], kind: str) -> list[Tensor]:
    draw = torch.Generator().manual_seed(7)
    if kind == "poisson":
        return [GAIN * torch.poisson(x / GAIN, generator=draw) for x in images]
    return [x + SIGMA * torch.randn(x.shape, generator=draw) for x in images]


def denoise(name: str) -> float:
    return denoise_others(name, pictures("bsd400_gray180", 100), pictures("bsd68_gray", 68))


def by_step(step: float) -> float:
    """Train by SURE with a step, and return the PSNR on other pictures than those of the table."""
    every = pictures("bsd400_gray180", 160)
    return denoise_others("sure", every[:100], every[100:], step)


def denoise_others(name: str, clean: list[Tensor], test: list[Tensor], step: float = 0.15) -> float:
    kind = "poisson" if "poisson" in name else "gaussian"
    identity = it.operators.Identity((1, CROP, CROP))
    spoilt = noisy(clean, kind)
    pairs, loss = {
        "supervised": lambda: (NoisyPairs(clean, SIGMA, CROP), L2()),
        "sure": lambda: (Crops(spoilt, CROP), Sure(identity, SIGMA, step=step)),
        "recorrupted": lambda: (RecorruptedPairs(spoilt, SIGMA, CROP), L2()),
        "supervised poisson": lambda: (CountPairs(clean, CROP), L2()),
        "thinned poisson": lambda: (ThinnedPairs(spoilt, GAIN, CROP), L2()),
        "sure poisson": lambda: (Crops(spoilt, CROP), Sure(identity, gain=GAIN)),
    }[name]()
    network = fit(denoiser(), pairs, loss, STEPS, 16)
    with torch.no_grad():
        return float(
            np.mean([psnr(network(y), x) for x, y in zip(test, noisy(test, kind), strict=True)])
        )


class CountPairs(Crops):
    """Crops of clean pictures with fresh Poisson noise as the input."""

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        clean = self._crops(count, generator)
        return GAIN * torch.poisson(clean / GAIN, generator=generator), clean


# -- the tooth -------------------------------------------------------------------------------------


def least_squares(steps: int, start: Tensor | None = None) -> Callable[[Any, Tensor], Tensor]:
    solver = it.solvers.ConjugateGradient(max_iterations=steps)
    return lambda A, y: (
        it.solve(it.Problem(y, A), solver=solver, initial=start, tolerance=1e-9, progress=False).x
    )


def tooth() -> dict[str, float]:
    item = it.datasets.open_named("tooth")
    A = item[0].geometry.operator()
    y = torch.cat([item[k].y for k in range(2)])
    every = torch.arange(A.blocks)
    left = every[4::10]
    kept = every[~torch.isin(every, left)]
    seen, unseen = A.subset(kept), A.subset(left)
    y_seen = y[:, :, kept]
    scale = float(seen.pseudo_inverse(y_seen).quantile(0.999))
    y, y_seen = y / scale, y_seen / scale

    def disagreement(pairs: Noise2InversePairs) -> float:
        """Residual of the mean of three parts on the views of the fourth."""
        parts = torch.cat(pairs.images).unflatten(1, (4, 1))
        total = 0.0
        for k in range(4):
            index = torch.arange(k, len(kept), 4)
            others = (parts.sum(1) - parts[:, k]) / 3
            total += float((seen.subset(index)(others) - y_seen[:, :, index]).square().mean())
        return (total / 4) ** 0.5

    images = {"filtered back-projection": seen.pseudo_inverse(y_seen)}
    found = {}
    for steps in (0, 5, 10, 20, 40):
        reconstruct = least_squares(steps) if steps else None
        found[steps] = Noise2InversePairs(y_seen, seen, 4, crop=64, reconstruct=reconstruct)
        print(f"    parts by {steps} steps: residual {disagreement(found[steps]):.3f}", flush=True)
        if steps:
            images[f"least squares, {steps} steps"] = least_squares(steps)(seen, y_seen)
    best = min((n for n in found if n), key=lambda n: disagreement(found[n]))
    for name, steps in (("filtered back-projection", 0), (f"{best} steps of least squares", best)):
        pairs = found[steps]
        network = fit(denoiser(), pairs, L2(), STEPS, 8)
        images[f"mean of the parts by {name}"] = pairs.mean_of_parts
        with torch.no_grad():
            found_by_network = network(pairs.mean_of_parts)
        images[f"noise2inverse of parts by {name}"] = found_by_network
        images[f"5 steps of least squares from it, {name[:8]}"] = least_squares(
            5, found_by_network
        )(seen, y_seen)
    _save("tooth", {name: image[:1] for name, image in images.items()})
    return {
        name: float((unseen(image) - y[:, :, left]).square().mean().sqrt())
        for name, image in images.items()
    }


# -- chest slices ----------------------------------------------------------------------------------


class LevelFree(nn.Module):
    """The residual U-Net at one fixed level, as a network from images to images."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ResidualUNet(widths=(24, 48, 64), blocks=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x, x.new_full((len(x),), 0.05))
        return result


def slices() -> tuple[Tensor, Tensor]:
    """Return training and test slices at 128x128, attenuation of water 0.5, by patient."""
    with np.load(data_folder() / "ct_slices" / "ct_hu_256.npz") as file:
        hu = torch.from_numpy(file["hu"].astype(np.float32))[:, None]
        patients = file["patient"]
    x = F.avg_pool2d(0.5 * (hu / 1000 + 1).clamp_min(0), 2)
    unseen = torch.from_numpy(np.isin(patients, np.unique(patients)[-3:]))
    return x[~unseen], x[unseen]


def equivariant(name: str, steps: int) -> float:
    """Train one of two networks by a loss, and return its PSNR on the slices of other patients."""
    known, test = slices()
    A = it.operators.ParallelBeam((128, 128), torch.arange(45) * torch.pi / 45, 184)
    y, y_test = A(known), A(test)
    if name == "filtered back-projection":
        return psnr(A.pseudo_inverse(y_test), test)
    if name == "total variation":

        def smoothed(y: Tensor, weight: float) -> Tensor:
            prior = it.priors.TotalVariation()
            return it.solve(it.Problem(y, A), prior, regularization=weight, progress=False).x

        best = max((0.03, 0.1, 0.3, 1.0), key=lambda w: psnr(smoothed(y[:3], w), known[:3]))
        return psnr(smoothed(y_test, best), test)
    is_unrolled = name.startswith("unrolled ")
    kind = name.removeprefix("unrolled ")
    network = unrolled(A) if is_unrolled else ArtifactRemoval(A, LevelFree())
    pairs = Examples(y, known) if kind == "supervised" else Measurements(y)
    loss = {
        "supervised": L2,
        "consistency": lambda: MeasurementConsistency(A),
        "equivariant": lambda: EquivariantImaging(
            A, Rotations(1.0), weight=WEIGHT if is_unrolled else 100.0
        ),
        "splitting": lambda: MeasurementSplitting(A, share=0.8, consistency=0.2),
        "equivariant splitting": lambda: MeasurementSplitting(
            A, share=0.8, consistency=0.2, symmetry=Rotations(1.0)
        ),
    }[kind]()
    if is_unrolled:
        stage = Stage(loss, steps, 1e-3, 2, decay="linear")
        trained = train(network, pairs, [stage], seed=0, progress=False).network
    else:
        trained = fit(network, pairs, loss, steps, 4)
    with torch.no_grad():
        x = trained(y_test)
    _save(f"chest {name}", {"truth": test[:1], name: x[:1]})
    return psnr(x, test)


def unrolled(A: Any) -> nn.Module:
    """Return four iterations with a network each, started from filtered back-projection."""
    torch.manual_seed(0)
    prior = it.priors.Denoiser(it.priors.DnCNN(depth=4, width=24), sigma=0.05)
    problem = it.Problem(torch.zeros(1, *A.range_shape), A)
    solver = it.solvers.HalfQuadratic(penalty=100.0, inner_iterations=4, iterate="x")
    return it.unroll(solver, problem, 4, prior, per_iteration=True, inverse=True)


# -- causes ----------------------------------------------------------------------------------------


def explain() -> None:
    clean = pictures("bsd400_gray180", 100)
    spoilt = noisy(clean, "gaussian")
    fresh = NoisyPairs(clean, SIGMA, CROP)
    network = fit(denoiser(), fresh, L2(), 150, 16)
    leaves = list(network.requires_grad_(True).parameters())
    means = {}
    identity, crops = it.operators.Identity((1, CROP, CROP)), Crops(spoilt, CROP)
    for name, (pairs, loss) in {
        "supervised": (fresh, L2()),
        "recorrupted": (RecorruptedPairs(spoilt, SIGMA, CROP), L2()),
        **{
            f"sure, step {h:g}": (crops, Sure(identity, SIGMA, step=h))
            for h in (0.005, 0.05, 0.15, 0.3, 1.0)
        },
    }.items():
        rows = []
        for seed in range(24):
            draw = torch.Generator().manual_seed(seed)
            value = loss.of_network(network, *pairs.draw(16, draw), draw).mean()
            rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, leaves)]))
        gradients = torch.stack(rows)
        means[name] = gradients.mean(0)
        variance = float((gradients - means[name]).square().sum(1).mean())
        cosine = float(F.cosine_similarity(means[name], means["supervised"], 0))
        print(
            f"  {name:16} variance of the gradient {variance:.1e}, size of its mean "
            f"{float(means[name].norm()):.1e}, cosine {cosine:.2f}",
            flush=True,
        )
    item = it.datasets.open_named("tooth")
    A, y = item[0].geometry.operator(), item[0].y
    every = torch.arange(A.blocks)
    left = every[4:-1:10]
    kept = every[~torch.isin(every, left)]
    seen, unseen = A.subset(kept), A.subset(left)
    y = y / float(seen.pseudo_inverse(y[:, :, kept]).quantile(0.999))
    whole = it.solve(
        it.Problem(y, A),
        solver=it.solvers.ConjugateGradient(max_iterations=60),
        tolerance=1e-9,
        progress=False,
    ).x

    def size(residual: Tensor) -> float:
        return float(residual.square().mean().sqrt())

    back = seen.pseudo_inverse(y[:, :, kept])
    level = float(it.parameter_choice.estimate_noise_std(y, A))
    print(
        f"  tooth: filtered back-projection {size(unseen(back) - y[:, :, left]):.2f} on left-out "
        f"views, {size(seen(back) - y[:, :, kept]):.2f} on its own; least squares of all views "
        f"{size(unseen(whole) - y[:, :, left]):.2f}; mean of the two neighbouring views "
        f"{size((y[:, :, left - 1] + y[:, :, left + 1]) / 2 - y[:, :, left]):.2f}; noise {level:.2f}"
    )


# -- deepinv ---------------------------------------------------------------------------------------


def peers() -> None:
    """Compare SURE with deepinv's; consistency and equivariant imaging are deepinv's losses."""
    import deepinv as dinv

    A = it.operators.Blur(torch.ones(1, 7) / 7, (64, 64), boundary="periodic")
    physics = it.to_deepinv(A)
    network = denoiser()
    y = torch.rand(8, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    step = 0.15 * float((0.1**2 + 0.05 * y).mean().sqrt())
    loss = Sure(A, 0.1, 0.05)

    def ours() -> Tensor:
        return loss.of_network(network, y, y, torch.Generator().manual_seed(1))

    def theirs() -> Tensor:
        peer = dinv.loss.SurePGLoss(0.1, 0.05, tau1=step, rng=torch.Generator().manual_seed(1))
        return peer(y=y, x_net=network(y), physics=physics, model=lambda y, _: network(y))

    gap = float(((ours() - theirs()).abs() / theirs().abs()).detach().max())
    seconds = alternating(
        {
            "ours": lambda: ours().sum().backward(),
            "deepinv": lambda: theirs().sum().backward(),
        }
    )
    ratio = seconds["ours"] / seconds["deepinv"]
    # one step for the batch there, one per item here: equal up to the steps' difference
    print(
        f"  {'sure':12} relative difference {gap:.1e}, seconds over deepinv's {ratio:.2f} "
        + verdict(gap < 1e-3 and ratio < 1.05, "equal, not slower")
    )


def _save(name: str, images: dict[str, Tensor]) -> None:
    """Write pictures to look at, in a temporary folder of the user."""
    import tempfile

    from PIL import Image

    folder = Path(tempfile.gettempdir()) / "learn_without_truth"
    folder.mkdir(exist_ok=True)
    row = torch.cat([image[0, 0] for image in images.values()], 1)
    Image.fromarray((255 * (row / row.quantile(0.999)).clamp(0, 1)).byte().numpy()).save(
        folder / f"{name}.png"
    )


def main(
    only: Literal["sure", "step", "noise2inverse", "equivariant", "deepinv", "causes"]
    | None = None,
    steps: int = 800,
    again: bool = False,
) -> None:
    """Run the benchmark.

    Args:
        steps: steps of the chest networks
        again: forget earlier results
    """
    keep_freed_memory()
    kept = Kept(RESULTS, again)
    print(machine())

    def wanted(part: str) -> bool:
        return only in (None, part)

    if wanted("deepinv"):
        print("losses of the same name in deepinv")
        peers()
    if wanted("causes"):
        print("causes")
        explain()
    if wanted("sure"):
        print("denoising, PSNR on BSD68")
        names = ["supervised", "sure", "recorrupted"]
        names += ["supervised poisson", "thinned poisson", "sure poisson"]
        found = {name: kept.result(name, lambda name=name: denoise(name)) for name in names}
        for name in ("sure", "recorrupted", "thinned poisson", "sure poisson"):
            best = found["supervised poisson" if "poisson" in name else "supervised"]
            bar = 0.5 if "poisson" in name else 0.3
            lost = best - found[name]
            print(
                f"  {name:16} {found[name]:.2f} dB, {lost:.2f} below "
                + verdict(lost <= bar, f"supervised less {bar} dB")
            )
    if wanted("step"):
        print("step of SURE, PSNR on other pictures")
        for step in (0.1, 0.15, 0.2, 0.3):
            found_at = kept.result(f"step {step}", lambda step=step: by_step(step))
            print(f"  {step:g} of the noise: {found_at:.2f} dB", flush=True)
    if wanted("noise2inverse"):
        print("tooth, residual on views that were left out")
        residuals = kept.result("tooth", tooth)
        back = residuals["filtered back-projection"]
        for name, residual in residuals.items():
            bar = verdict(residual <= 0.8 * back, "0.8") if name.startswith("noise2inverse") else ""
            print(f"  {name:60} {residual:.2f}, {residual / back:.3f} of the first {bar}")
    if wanted("equivariant"):
        print("chest slices, 45 views, PSNR on unseen patients")
        names = [
            "filtered back-projection",
            "supervised",
            "consistency",
            "equivariant",
            "splitting",
            "equivariant splitting",
        ]
        of_steps = [(name, steps) for name in names] + [("total variation", 0)]
        of_steps += [(f"unrolled {name}", UNROLLED_STEPS) for name in reversed(names[1:4])]
        found = {
            name: kept.result(f"{name} {steps}", lambda n=name, s=steps: equivariant(n, s))
            for name, steps in of_steps
        }
        for name, steps in of_steps:
            is_trained = name not in ("filtered back-projection", "total variation")
            trained = f", {steps} steps of training" if is_trained else ""
            print(f"  {name:24} {found[name]:.2f} dB{trained}")
        ours = found["unrolled equivariant"]
        above = ours - found["filtered back-projection"]
        gain = ours - found["unrolled consistency"]
        lost = found["unrolled supervised"] - ours
        print(
            f"  unrolled equivariant {above:+.2f} dB "
            + verdict(above > 0, "above filtered back-projection")
            + f", {gain:+.2f} dB "
            + verdict(gain >= 2, "2 dB over consistency")
            + f", {lost:.2f} below supervised "
            + verdict(lost <= 1.5, "1.5 dB")
        )


if __name__ == "__main__":
    run_script(main)
