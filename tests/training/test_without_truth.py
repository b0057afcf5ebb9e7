"""Losses without ground truth: unbiased, equal to deepinv's, and blind to what they must not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor, nn

import invtoolbox as it
from invtoolbox.errors import InputError, MeasurementWarning
from invtoolbox.training import (
    L2,
    ArtifactRemoval,
    EquivariantImaging,
    EveryWeight,
    MeasurementConsistency,
    Measurements,
    MeasurementSplitting,
    Noise2InversePairs,
    Rotations,
    Shifts,
    Stage,
    Sure,
    ThinnedPairs,
    measure_equivariance,
    run_recipe,
    train,
)


class Shrink(nn.Module):
    """Multiplication by one weight."""

    def __init__(self, factor: float = 0.6) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, y: Tensor) -> Tensor:
        return self.factor * y


def generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def scan(views: int = 24, size: int = 16) -> Any:
    return it.operators.ParallelBeam((size, size), torch.arange(views) * torch.pi / views, 24)


@pytest.mark.parametrize(("noise_std", "gain"), [(0.2, 0.0), (0.0, 0.05), (0.1, 0.02)])
def test_sure_is_the_error_against_noiseless_measurements(noise_std: float, gain: float) -> None:
    clean = torch.linspace(0.2, 1.5, 400).view(1, 1, 20, 20).expand(500, -1, -1, -1)
    draw = generator()
    y = gain * torch.poisson(clean / gain, generator=draw) if gain else clean
    y = y + noise_std * torch.randn(clean.shape, generator=draw)
    A = it.operators.Identity((1, 20, 20))
    network = Shrink()
    with torch.no_grad():
        estimate = Sure(A, noise_std, gain).of_network(network, y, y, draw)
        error = L2()(network(y), clean)
    spread = float(estimate.std()) / 500**0.5
    assert abs(float(estimate.mean() - error.mean())) < 4 * spread + 1e-4
    assert spread < 0.02 * float(error.mean())


def test_more_probes_of_sure_estimate_the_same_with_less_spread() -> None:
    y, A = torch.rand(400, 1, 8, 8, generator=generator()), it.operators.Identity((1, 8, 8))

    class Mixing(torch.nn.Module):
        """Network whose Jacobian has entries off its diagonal."""

        def forward(self, x: Tensor) -> Tensor:
            return x.roll(1, 3) + 0.5 * x

    one, many = (Sure(A, 0.3, probes=n).of_network(Mixing(), y, y, generator(1)) for n in (1, 16))
    fixed = (y.roll(1, 3) - 0.5 * y).square().flatten(1).mean(1) - 0.09 + 2 * 0.09 * 0.5
    assert float((many - fixed).std()) == pytest.approx(float((one - fixed).std()) / 4, rel=0.2)
    assert abs(float((many - fixed).mean())) < 1e-3
    with pytest.raises(InputError, match="probes of Sure must be at least 1"):
        Sure(A, 0.3, probes=0)


def test_sure_of_complex_measurements_counts_both_parts() -> None:
    y = 0.3 * torch.randn(200, 1, 8, 8, dtype=torch.complex64, generator=generator()) * 2**0.5
    A = it.operators.Identity((1, 8, 8))
    estimate = Sure(A, 0.3).of_network(Shrink(), y, y, generator(1)).mean()
    assert float(estimate.detach()) == pytest.approx(0.36 * 0.09, rel=0.1)
    with pytest.raises(InputError, match="counts are real"):
        Sure(A, 0.3, gain=1.0).of_network(Shrink(), y, y, generator(1))


def test_sure_equals_that_of_deepinv() -> None:
    import deepinv as dinv

    A = it.operators.Blur(torch.rand(3, 3, generator=generator()), (12, 12), boundary="periodic")
    physics = it.to_deepinv(A)
    network = it.priors.DnCNN(depth=3, width=8)
    y = torch.rand(3, 1, 12, 12, generator=generator(1))

    def model(y: Tensor, _: Any) -> Any:
        return network(y)

    for noise_std, gain in ((0.1, 0.0), (0.1, 0.05)):
        ours = Sure(A, noise_std, gain).of_network(network, y, y, generator(2))
        steps = 0.15 * (noise_std**2 + gain * y.mean((1, 2, 3))).sqrt()
        for k in range(3):  # one step for a whole batch there, one per item here
            theirs = dinv.loss.SurePGLoss(noise_std, gain, tau1=float(steps[k]), rng=generator(2))(
                y=y, x_net=network(y), physics=physics, model=model
            )[k]
            torch.testing.assert_close(ours[k], theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_consistency_and_equivariance_are_their_formulas(dtype: torch.dtype) -> None:
    A, f = (
        0.5 * it.operators.Inpainting(torch.rand(1, 12, 12, generator=generator()) > 0.4, (12, 12)),
        Shrink(),
    )
    y = torch.randn(3, 1, 12, 12, dtype=dtype, generator=generator(1))

    def mean(values: Tensor) -> Tensor:  # of both parts of a complex value
        return values.abs().square().mean((1, 2, 3)) / (2 if values.is_complex() else 1)

    residual = mean(A(f(y)) - y)
    torch.testing.assert_close(MeasurementConsistency(A).of_network(f, y, y, generator()), residual)
    # The group is drawn first, and then the noise, per item.
    group, draw = Rotations(), generator(3)
    turned = group.transform(f(y), group.draw(3, draw))
    noise = torch.view_as_real(A(turned)) if y.is_complex() else A(turned)
    noise = torch.randn(noise.shape, generator=draw)
    measured = A(turned) + 0.1 * (torch.view_as_complex(noise) if y.is_complex() else noise)
    loss = EquivariantImaging(A, group, weight=2.0, noise_std=0.1)
    ours = loss.of_network(f, y, y, generator(3))
    torch.testing.assert_close(ours, residual + 2 * mean(f(measured) - turned))


def test_every_weight_is_the_objective_at_a_drawn_weight_also_of_one_item() -> None:
    A = it.as_operator(torch.tensor([[1.0, 2.0]]))
    network = it.unrolling.Conditioned(nn.Linear(1, 2), weights=(0.1, 10.0))
    loss, prior = EveryWeight(A, it.priors.Tikhonov()), it.priors.Tikhonov()
    y = torch.tensor([[[0.7]]])
    weight = network.draw(1, generator(4))
    x = network(y, weight)
    expected = (0.5 * (A(x) - y).square().sum() + weight * prior.energy(x)) / 2
    torch.testing.assert_close(loss.of_network(network, y, y, generator(4)), expected)


def test_splitting_equals_deepinvs_and_hides_what_it_predicts() -> None:
    import deepinv as dinv

    mask = (torch.rand(1, 12, 12, generator=generator()) > 0.3).float()
    A = it.operators.Inpainting(mask, (12, 12))
    y = mask * torch.rand(2, 1, 12, 12, generator=generator(1))
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return 0.7 * x + 0.1

    network = ArtifactRemoval(A, Watched())
    loss = MeasurementSplitting(A, share=0.7).of_network(network, y, y, generator(2))
    kept = (torch.rand(y.shape, generator=generator(2)) < 0.7).float()
    torch.testing.assert_close(seen[0], kept * y)

    class Model:
        def get_masks(self) -> list[Tensor]:
            return [kept]

    theirs = dinv.loss.SplittingLoss(metric=dinv.metric.MSE())(
        x_net=0.7 * kept * y + 0.1,
        y=y,
        physics=dinv.physics.Inpainting((1, 12, 12), mask=mask),
        model=Model(),
    )
    # deepinv divides both items by the mean of the mask over the batch, we each by its own.
    hidden = (mask * (1 - kept)).flatten(1).mean(1)
    torch.testing.assert_close(loss, theirs * hidden.mean() / hidden, rtol=1e-4, atol=1e-4)


def test_splitting_of_a_scan_shows_other_views() -> None:
    A = scan()
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x

    network = ArtifactRemoval(A, Watched())
    y = A(torch.rand(2, 1, 16, 16, generator=generator()))
    loss = MeasurementSplitting(A, share=0.75)
    first = loss.of_network(network, y, y, generator(4))
    views = A.draw_blocks(18, generator(4)).sort().values
    hidden = torch.ones(24).index_fill(0, views, 0).bool()
    changed = y.clone()
    changed[:, :, hidden] += 1.0
    second = loss.of_network(network, changed, changed, generator(4))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(first, second)
    symmetric = MeasurementSplitting(A, share=0.75, consistency=1.0, symmetry=Rotations())
    assert symmetric.of_network(network, y, y, generator(4)).shape == (2,)


def test_a_group_that_the_operator_does_not_see_is_refused() -> None:
    with pytest.raises(InputError, match="equivariant imaging learns nothing"):
        EquivariantImaging(it.operators.Identity((1, 8, 8)))
    periodic = it.operators.Blur(torch.ones(3, 3) / 9, (8, 8), boundary="periodic")
    with pytest.raises(InputError, match=r"commutes with Shifts\(largest=3\)"):
        EquivariantImaging(periodic, Shifts(3))
    assert measure_equivariance(scan(24), Rotations()) < 1e-3  # 24 views turn into each other
    assert measure_equivariance(0 * scan(9), Rotations()) == 0
    assert measure_equivariance(scan(9), Rotations()) > 0.05
    EquivariantImaging(scan(9))


def test_bad_settings_are_one_sentence() -> None:
    A = it.operators.Identity((1, 8, 8))
    with pytest.raises(InputError, match="needs the noise of the measurements"):
        Sure(A)
    with pytest.raises(InputError, match=r"share of MeasurementSplitting must lie in \(0, 1\)"):
        MeasurementSplitting(A, share=1.0)
    with pytest.raises(InputError, match="leaves one part of the 24 views empty"):
        MeasurementSplitting(scan(), share=0.99)
    y = torch.rand(1, 1, 8, 8)
    with pytest.raises(InputError, match="trains ArtifactRemoval"):
        MeasurementSplitting(A).of_network(Shrink(), y, y, generator())
    with pytest.raises(InputError, match="24 views, and splits is 25"):
        Noise2InversePairs(torch.zeros(1, 1, 24, 24), scan(), splits=25)
    with pytest.raises(InputError, match="no views"):
        Noise2InversePairs(y, A)
    with pytest.raises(InputError, match="has 24 views, and the measurements"):
        Noise2InversePairs(torch.zeros(1, 1, 20, 24), scan(), splits=3)
    with pytest.raises(InputError, match="not whole numbers"):
        ThinnedPairs([y + 0.3], 1.0, 4)
    with pytest.raises(InputError, match="show the same items"):
        Measurements(y, y[..., :4])
    with pytest.raises(InputError, match="square images, got 8 x 6"):
        Rotations().transform(torch.zeros(1, 1, 8, 6), torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(InputError, match="divides 360"):
        Rotations(step=7.0)


@pytest.mark.parametrize("group", [Rotations(mirror=True), Shifts(3), Rotations(180.0)])
def test_transformations_are_inverted_and_drawn_per_item(group: Any) -> None:
    x = torch.rand(5, 2, 8, 8, generator=generator())
    elements = group.draw(5, generator(1))
    moved = group.transform(x, elements)
    torch.testing.assert_close(group.transform(moved, elements, inverse=True), x)
    torch.testing.assert_close(moved[2:3], group.transform(x[2:3], elements[2:3]))
    assert not torch.equal(moved, x)


def test_volumes_and_complex_images_are_transformed_like_their_parts() -> None:
    x = torch.rand(2, 1, 3, 6, 6, generator=generator())
    for group in (Rotations(mirror=True), Rotations(45.0), Shifts(2)):
        elements = group.draw(2, generator(3))
        turned = group.transform(x, elements)
        slices = [group.transform(part, elements) for part in x.unbind(2)]
        torch.testing.assert_close(turned, torch.stack(slices, 2))
        z = group.transform(torch.complex(x, 2 * x), elements)
        torch.testing.assert_close(torch.view_as_real(z), torch.stack([turned, 2 * turned], -1))
    wide = torch.rand(
        1, 1, 4, 7, generator=generator()
    )  # half a turn moves pixels, and needs no square
    assert torch.equal(Rotations(180).transform(wide, torch.tensor([[1, 0]])), wide.flip(-1, -2))


def test_rotations_by_other_angles_agree_with_quarter_turns() -> None:
    x = torch.rand(2, 1, 9, 9, generator=generator())
    quarters = Rotations().transform(x, torch.tensor([[1, 0], [3, 0]]))
    degrees = Rotations(1.0).transform(x, torch.tensor([[90, 0], [270, 0]]))
    torch.testing.assert_close(quarters, degrees, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(quarters[0], x[0].rot90(1, (-2, -1)))


def test_pairs_of_other_views_and_of_thinned_counts_have_independent_noise() -> None:
    A = scan(48)
    noise = torch.randn(1, 1, 48, 24, generator=generator())
    pairs = Noise2InversePairs(noise, A, splits=4, crop=12)
    shown, wanted = pairs.draw(300, generator(1))
    together = (shown * wanted).mean() / (shown.square().mean() * wanted.square().mean()).sqrt()
    assert abs(float(together)) < 0.15
    torch.testing.assert_close(pairs.mean_of_parts, A.pseudo_inverse(noise), rtol=0.1, atol=0.05)
    own = Noise2InversePairs(noise, A, 4, crop=12, reconstruct=lambda part, y: part.adjoint(y))
    torch.testing.assert_close(4 * own.mean_of_parts, A.adjoint(noise))
    with pytest.raises(InputError, match=r"images \(1, 1, 16, 16\).*returned \(1, 1, 12, 24\)"):
        Noise2InversePairs(noise, A, 4, crop=12, reconstruct=lambda part, y: y)

    counts = torch.poisson(torch.full((1, 1, 64, 64), 20.0), generator=generator(2))
    shown, wanted = ThinnedPairs([2.0 * counts], 2.0, crop=32).draw(200, generator(3))
    assert float(shown.mean()) == pytest.approx(40, rel=0.02)
    assert float(wanted.mean()) == pytest.approx(40, rel=0.02)
    centred = (shown - shown.mean()) * (wanted - wanted.mean())
    assert abs(float(centred.mean())) < 0.05 * float(shown.std() * wanted.std())


def test_sure_and_noise2noise_learn_the_shrinkage_of_clean_images() -> None:
    draw = generator()
    clean = torch.randn(400, 1, 4, 4, generator=draw)
    y, second = (clean + 0.5 * torch.randn(clean.shape, generator=draw) for _ in range(2))
    A = it.operators.Identity((1, 4, 4))
    stages = {
        "sure": (Measurements(y), Sure(A, 0.5)),
        "noise2noise": (Measurements(y, second), L2()),
        "consistency": (Measurements(y), MeasurementConsistency(A)),
    }
    learned = {
        name: float(
            train(
                Shrink(1.2), pairs, [Stage(loss, 150, 2e-2, 100)], progress=False
            ).network.get_parameter("factor")
        )
        for name, (pairs, loss) in stages.items()
    }
    assert learned["sure"] == pytest.approx(0.8, abs=0.03)
    assert learned["noise2noise"] == pytest.approx(0.8, abs=0.03)
    assert learned["consistency"] == pytest.approx(1.0, abs=0.01)  # it keeps the noise


def test_a_recipe_estimates_the_noise_of_a_folder_of_pictures(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for k in range(2):
        noisy = 120 + 60 * np.linspace(0, 1, 48)[:, None] + 20 * draw.standard_normal((48, 48))
        Image.fromarray(noisy.round().astype(np.uint8)).save(tmp_path / "pictures" / f"{k}.png")
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'name = "mine"\n[network]\nname = "dncnn"\ndepth = 2\nwidth = 4\n[prior]\nname = "denoiser"\n'
        'sigma = 0.1\n[data]\npaths = ["pictures"]\nnoisy = true\nnoise_std = "estimate"\ncrop = 8\n'
        '[[stage]]\nloss = "l2"\nsteps = 2\ncount = 2\n'
    )
    with pytest.warns(MeasurementWarning, match=r"noise_std was estimated as 0\.0[78]"):
        outcome = run_recipe(recipe, output=tmp_path / "mine", progress=False)
    assert "whose noise was estimated" in (outcome.folder / "README.md").read_text()
    with pytest.raises(InputError, match="set noisy = true"):
        run_recipe(recipe, ["data.noisy=false"], output=tmp_path / "other", progress=False)
