"""MRI on real data: SENSE, total variation and wavelets compared with the zero-filled image.

    python benchmarks/mri.py --pictures FOLDER [brain] [knee] [knee-by-one-call] [cine]

* brain: 8 coils, 12 % of k-space measured (Poisson disc with a full middle of 24x24). There is no
  fully sampled reference, so pictures decide: no aliasing, no veil of noise. ESPIRiT computes the
  coil maps from the middle of the same scan.
* knee: one coil, fully sampled; a quarter of the lines is used, with a full middle. The reference
  contains the noise of the used samples, so an image without this noise scores below the
  zero-filled one. The scores that count are of the images with the samples put back, where the
  prior affects only unmeasured samples.
* knee-by-one-call: the same samples, and ``it.reconstruct(y, A, prior="tv")`` with 0 at the others:
  no weights, no noise level, no weight of the prior. The noise of the reference is larger than the
  error of the zero-filled image, so the score that counts is against the image without noise. Its
  squared error is estimated without bias from the reference r = t + n, with white noise of standard
  deviation s in either part of N pixels (Stein, Ann. Stat. 9, 1981):
  ``|x - t|^2 = |x - r|^2 - 2 N s^2 + 2 s^2 div x``, with div x the divergence of the reconstruction
  in the samples, from a second solve with slightly changed samples.
* cine: 29 frames of a heart, magnitude images of 8 bits, 6 % of the k-space of each frame by the
  masks of the data set.

The reference never determines the weight of the priors: the discrepancy principle chooses it, from
the noise of the outermost samples (brain, knee), or from the rounding to 8 bits (cine), the only
noise there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.operators import (
    CartesianMRI,
    LinearOperator,
    Sampling,
    estimate_coil_maps,
    outer_noise_std,
)

Images = dict[str, Tensor]


def samples(full: CartesianMRI, y: Tensor) -> tuple[LinearOperator, Tensor]:
    """Return an operator that outputs only the taken samples, and these: each counts once."""
    where = full.mask.expand(1, 1, *full.domain_shape[1:])[0, 0] != 0
    picked = Sampling(where, (full.coils, *full.domain_shape[1:]))
    operator = picked @ full
    assert isinstance(operator, LinearOperator)
    return operator, picked(y)


def reconstructed(
    full: CartesianMRI,
    y: Tensor,
    noise_std: float,
    priors: dict[str, it.priors.ExplicitPrior],
    iterations: int,
) -> Images:
    A, measured = samples(full, y)
    problem = it.Problem(measured, A, it.data_terms.LeastSquares(noise_std=noise_std))
    images: Images = {"zero-filled": full.pseudo_inverse(y)}
    for name, prior in priors.items():
        began = time.perf_counter()
        solution = it.solve(
            problem,
            prior,
            it.solvers.PDHG(),
            regularization="discrepancy",
            max_iterations=iterations,
            progress=False,
        )
        seconds = time.perf_counter() - began
        images[name] = solution.x
        misfit = float(solution.history["discrepancy"][-1, 0]) / (2 * measured.numel()) ** 0.5
        print(
            f"  {name}: weight {float(solution.regularization[0]):.3g}, misfit {misfit:.3f} of the "
            f"noise, {solution.status[0]} after {int(solution.iterations[0])} iterations, "
            f"{seconds:.1f} s"
        )
    return images


def brain(folder: Path) -> Images:
    y = torch.from_numpy(np.load(folder / "mri_cartesian_8coil" / "cartesian_ksp.npy"))[None]
    mask = y.abs().sum((0, 1)) > 0
    noise_std = float(outer_noise_std(y, mask))
    began = time.perf_counter()
    maps = estimate_coil_maps(y, calibration=24)
    print(
        f"brain: {y.shape[1]} coils, {float(mask.float().mean()):.1%} sampled, noise "
        f"{noise_std:.4g}; coil maps in {time.perf_counter() - began:.1f} s"
    )
    full = CartesianMRI(mask, tuple(y.shape[2:]), maps)
    images = reconstructed(
        full,
        y,
        noise_std,
        {"TV": it.priors.TotalVariation(), "wavelets": it.priors.WaveletL1("db4", levels=4)},
        400,
    )
    A, measured = samples(full, y)
    began = time.perf_counter()
    sense = it.solve(
        it.Problem(measured, A, it.data_terms.LeastSquares(noise_std=noise_std)),
        solver=it.solvers.CGLS(max_iterations=30),
        progress=False,
    )
    print(
        f"  SENSE: {int(sense.iterations[0])} iterations of CGLS, {sense.status[0]}, "
        f"{time.perf_counter() - began:.1f} s"
    )
    coils = full.coil_images(y).abs().square().sum(1, keepdim=True).sqrt()
    return {
        "zero-filled, root of squares": coils,
        "zero-filled, coils combined": images.pop("zero-filled"),
        "SENSE": sense.x,
        **images,
    }


def knee_samples(folder: Path) -> tuple[Tensor, Tensor]:
    """Return the whole k-space of the knee, and the mask of a quarter of its lines."""
    from scipy.io import loadmat

    y = torch.from_numpy(
        loadmat(folder / "mri_singlecoil_full" / "coronal_fatsat_2D_knee.mat")["kdata"]
    )[None, None]
    y = y / y.abs().max()
    lines = torch.zeros(y.shape[-2], dtype=torch.bool)
    # Random lines, denser in the middle: a quarter of all lines, with all 24 lines of the middle.
    middle = y.shape[-2] // 2
    lines[middle - 12 : middle + 12] = True
    place = torch.arange(y.shape[-2]) - middle
    density = torch.where(lines, 0.0, (1 - place.abs() / middle).clamp_min(0.02) ** 2)
    chosen = torch.multinomial(
        density, y.shape[-2] // 4 - 24, generator=torch.Generator().manual_seed(0)
    )
    lines[chosen] = True
    return y, lines[:, None].expand(y.shape[-2:])


def knee_by_one_call(folder: Path) -> Images:
    y, mask = knee_samples(folder)
    A = CartesianMRI(mask, tuple(y.shape[2:]))
    whole = CartesianMRI(torch.ones(1, 1), tuple(y.shape[2:]))
    reference, std = whole.pseudo_inverse(y), float(outer_noise_std(y))
    began = time.perf_counter()
    solution = it.reconstruct(y * mask, A, prior="tv", max_iterations=300, progress=False)
    print(
        f"knee by one call: {solution.status[0]} after {int(solution.iterations[0])} iterations, "
        f"{time.perf_counter() - began:.1f} s, {'; '.join(solution.notes)}"
    )
    images = {"zero-filled": A.pseudo_inverse(y * mask), "TV": solution.x}
    generator, size = torch.Generator().manual_seed(1), 0.1 * std

    def signs() -> Tensor:
        return 2.0 * torch.randint(0, 2, y.shape, generator=generator) - 1

    probe = torch.complex(signs(), signs()) * mask
    changed = y * mask + size * probe
    moved = {
        "zero-filled": A.pseudo_inverse(changed),
        "TV": it.reconstruct(
            changed,
            A,
            prior="tv",
            regularization=solution.regularization,
            max_iterations=300,
            progress=False,
        ).x,
    }
    scores = {}
    for name, image in images.items():
        divergence = float((A(moved[name] - image) / size * probe.conj()).real.sum())
        squared = float((image - reference).abs().square().sum())
        squared += 2 * std**2 * (divergence - y.numel())
        peak = float(reference.abs().max())
        scores[name] = float(10 * np.log10(peak**2 * y.numel() / max(squared, 1e-300)))
        print(
            f"  {name}: {psnr(image, reference):.2f} dB compared with the noisy reference, "
            f"{scores[name]:.2f} dB with the image without noise; degrees of freedom "
            f"{divergence / (2 * float(mask.sum())):.1%} of the samples"
        )
    gain = scores["TV"] - scores["zero-filled"]
    print("  " + verdict(gain >= 1, f"1 dB above zero-filled; {gain:.2f} here"))
    return {"reference": reference, **images}


def knee(folder: Path) -> Images:
    y, mask = knee_samples(folder)
    noise_std = float(outer_noise_std(y * mask, mask))
    print(f"knee: 1 coil, {float(mask.float().mean()):.1%} sampled, noise {noise_std:.4g}")
    reference = CartesianMRI(torch.ones(1, 1), tuple(y.shape[2:])).pseudo_inverse(y)
    full = CartesianMRI(mask, tuple(y.shape[2:]))
    images = reconstructed(
        full,
        y * mask,
        noise_std,
        {"TV": it.priors.TotalVariation(), "wavelets": it.priors.WaveletL1("db4", levels=4)},
        300,
    )
    put_back = {
        name: image + full.adjoint(y * mask - full(image)) for name, image in images.items()
    }
    scores = {name: psnr(image, reference) for name, image in put_back.items()}
    for name, score in scores.items():
        print(
            f"  {name}: {psnr(images[name], reference):.2f} dB of the largest modulus, {score:.2f} "
            "with the samples put back"
        )
    worst = min(scores["TV"], scores["wavelets"])
    print(
        "  "
        + verdict(
            worst >= scores["zero-filled"],
            f"not below zero-filled, {scores['zero-filled']:.2f}; {worst:.2f} here",
        )
    )
    return {"reference": reference, **images, "TV, samples put back": put_back["TV"]}


def cine(folder: Path) -> Images:
    from scipy.io import loadmat

    frames = torch.from_numpy(
        loadmat(folder / "cine_acdc_demo" / "demo_data.mat")["demo_data"]
    ).movedim(-1, 0)[1:]
    mask = torch.from_numpy(
        loadmat(folder / "cine_acdc_demo" / "mask_seq.mat")["sampling_mask_seq"]
    ).movedim(-1, 0)
    x = (frames / 255).to(torch.complex64)[None, None]
    full = CartesianMRI(mask, tuple(x.shape[1:]), axes=2)
    noise_std = (
        1 / 255 / 12**0.5 / 2**0.5
    )  # standard deviation of the real and of the imaginary part
    print(
        f"cine: {mask.shape[0]} frames, {float(mask.float().mean()):.1%} sampled, rounding "
        f"{noise_std:.4g}"
    )
    images = reconstructed(
        full, full(x), noise_std, {"TV in space and time": it.priors.TotalVariation()}, 150
    )
    scores = {name: psnr(image, x, peak=1.0) for name, image in images.items()}
    for name, score in scores.items():
        print(f"  {name}: {score:.2f} dB")
    gain = scores["TV in space and time"] - scores["zero-filled"]
    print("  " + verdict(gain >= 2.5, f"2.5 dB over zero-filled; {gain:.2f} here"))
    return {name: image[:, :, 10] for name, image in {"reference": x, **images}.items()}


def psnr(image: Tensor, reference: Tensor, peak: float | None = None) -> float:
    """Compute the PSNR of the moduli, in dB."""
    a, b = image.abs(), reference.abs()
    return float(
        10 * torch.log10((float(b.max()) if peak is None else peak) ** 2 / (a - b).square().mean())
    )


def picture(images: Images, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(images), figsize=(5 * len(images), 5.5))
    for axis, (name, image) in zip(axes, images.items()):
        values = image[0, 0].abs()
        axis.imshow(
            values.numpy(), cmap="gray", vmin=0, vmax=float(values.flatten().quantile(0.995))
        )
        axis.set_title(name)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


RUNS = {"brain": brain, "knee": knee, "knee-by-one-call": knee_by_one_call, "cine": cine}


def main(what: Sequence[str] = tuple(RUNS), /, pictures: Path | None = None) -> None:
    """Run the benchmark.

    Args:
        pictures: a folder for PNGs of the reconstructions
    """
    print(machine())
    for name in what:
        images = RUNS[name](data_folder())
        if pictures:
            pictures.mkdir(parents=True, exist_ok=True)
            picture(images, pictures / f"{name}.png")


if __name__ == "__main__":
    run_script(main)
