"""Training of a prior from a recipe in TOML, down to a folder of the catalogue.

The tables of a recipe::

    name, seed, licence       of the trained prior; the first comment line is its summary
    mixed_precision           whether the network runs in bfloat16
    [network]                 name and arguments, as in the card of a trained prior
    [prior]                   name (learned-proximal, denoiser or compressive-autoencoder)
                              and settings
    [data]                    photographs or paths, items, grey, shrink, crop, intensity_range;
                              noise_std and noisy, or contrast; noise_std = [low, high] is for a
                              network that takes the level, and diffusion = true for a diffusion
                              prior; noisy = true learns from pictures that have noise already,
                              whose level noise_std = "estimate" finds
    [validation]              the keys of [data], for images that are not used for training
    [[stage]]                 loss, gamma, bitrate or sigma_data, steps, learning_rate, decay,
                              count, clip; nuclear_norm, the weight of the nuclear norm of the
                              Jacobian
"""

from __future__ import annotations

import math
import os
import shutil
import tomllib
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor

from invtoolbox.catalogue.documents import (
    Named,
    Table,
    as_changes,
    as_toml,
    check,
    content_of,
    locate,
    texts,
)
from invtoolbox.catalogue.presets import build_network
from invtoolbox.catalogue.registry import build
from invtoolbox.catalogue.shelves import read_toml
from invtoolbox.datasets import open as open_data
from invtoolbox.datasets import photograph
from invtoolbox.datasets.output import (
    locking,
    make_folder,
    refuse_inputs,
    remove_stale,
    write_bytes,
)
from invtoolbox.errors import InputError, MeasurementWarning, warn_user
from invtoolbox.networks.cosine_hyperprior import CosineHyperprior
from invtoolbox.networks.hyperprior import MeanScaleHyperprior
from invtoolbox.parameter_choice.noise import estimate_noise_std
from invtoolbox.training.losses import (
    L1,
    L2,
    JacobianNuclearNorm,
    Loss,
    PixelLikelihood,
    ProximalMatching,
    RateDistortion,
)
from invtoolbox.training.pairs import Crops, LevelPairs, NoisyPairs
from invtoolbox.training.pairs_without_truth import RecorruptedPairs
from invtoolbox.training.score_matching import DiffusionPairs, ScoreMatching
from invtoolbox.training.stages import Stage, Trained, train

#: Files of a trained prior; the card is written last.
FILES = ("recipe.toml", "curve.csv", "README.md", "weights.safetensors", "card.toml")


def run_recipe(
    recipe: str | Path,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    output: str | Path | None = None,
    overwrite: bool = False,
    device: str | None = None,
    mixed_precision: bool = False,
    progress: bool = True,
) -> Outcome:
    """Train a prior from a recipe, and write it to ``priors/NAME``, where `priors.load` finds it.

    An interrupted training continues from its checkpoints when it is started again.

    Args:
        recipe: a TOML file.
        overrides: keys of the recipe to change, such as ``"stage.0.steps=100"``.
        output: folder of the prior, in place of ``priors/NAME`` in the current directory.
        overwrite: whether to train anew if the folder holds a prior already.
        device: device of the training.
        mixed_precision: whether the network runs in bfloat16, as a recipe may also state.
        progress: whether to show a progress bar.

    Raises:
        InputError: The recipe is wrong; the message contains the file and the key. Or the folder
            holds a prior of another recipe.
    """
    if not Path(recipe).expanduser().is_file():
        raise InputError(
            f"there is no recipe {recipe}; it is a TOML file, see `invtoolbox train --help`"
        )
    changes = as_changes(overrides)
    path, content = content_of(recipe, changes)
    checked = check(Recipe, path, content)
    folder = Path(output) if output is not None else Path("priors") / checked.name
    if (folder / "card.toml").exists() and not overwrite:
        _check_same_recipe(folder, content)
        return Outcome(folder, None, None)
    changed_names = frozenset(texts(changes))
    tables = [checked.data, *([] if checked.validation is None else [checked.validation])]
    inputs = [locate(path, name, changed_names) for table in tables for name in table.paths]
    if not overwrite and not (folder / "checkpoints").exists():
        for name in FILES[1:]:
            if (folder / name).exists():
                raise InputError(
                    f"{folder / name} exists; give --overwrite to replace it, or another --output"
                )
    # A prior is trained again by the recipe in its own folder, which then stays as it is.
    refuse_inputs([folder, *map(folder.joinpath, FILES)], [*inputs, *([path] if changes else [])])
    # A network without a seed of its own draws its first weights from torch's state; a continued
    # training has to begin with the same ones.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(checked.seed)
        network = build_network(
            {**checked.network.settings, "name": content["network"].get("name")}, None
        ).requires_grad_(True)
    build(
        "priors",
        str(content["prior"].get("name")),
        {**_settings(content["prior"]), "network": network},
    )  # wrong settings raise an error before the training
    pairs = checked.data.pairs(path, changed_names)
    validation = (
        None if checked.validation is None else checked.validation.pairs(path, changed_names)
    )
    checkpoints = folder / "checkpoints"
    with locking(folder):
        trained = train(
            network,
            pairs,
            [table.stage() for table in checked.stage],
            validation=validation,
            seed=checked.seed,
            folder=checkpoints,
            device=device,
            mixed_precision=mixed_precision or checked.mixed_precision,
            progress=progress,
        )
        quality = _psnr(trained, validation or pairs)
        _write(
            folder,
            path,
            content=content,
            recipe=checked,
            trained=trained,
            quality=quality,
            apart=validation is not None,
        )
        shutil.rmtree(checkpoints)
    return Outcome(folder, trained, quality)


@dataclass(frozen=True)
class Outcome:
    """Result of a recipe.

    Attributes:
        folder: folder of the trained prior.
        trained: result of the training; None if the folder was complete already.
        psnr: quality on the validation pairs, in decibels.
    """

    folder: Path
    trained: Trained | None
    psnr: float | None


class Data(Table):
    """Images and the noise that is added to them, or the range of contrast of coded pictures.

    Every picture is used ``shrink`` times smaller, for each number of that list.
    """

    photographs: list[str] = Field(default_factory=list)
    paths: list[str] = Field(default_factory=list)
    reader: str | None = None
    #: Range of items of every path, the end excluded; all by default.
    items: tuple[int, int] | None = None
    grey: bool = True
    intensity_range: tuple[float, float] = (0.0, 1.0)
    shrink: list[int] = Field(default_factory=lambda: [1])
    noise_std: PositiveFloat | tuple[PositiveFloat, PositiveFloat] | Literal["estimate"] | None = (
        None
    )
    contrast: tuple[float, float] | None = None
    crop: int = Field(48, ge=1)
    noisy: bool = False
    diffusion: bool = False
    strength: float = Field(0.5, gt=0)

    @model_validator(mode="after")
    def _some_images(self) -> Data:
        if not self.photographs and not self.paths:
            raise ValueError("give photographs by name, or paths of pictures")
        if (self.noise_std is None) == (self.contrast is None):
            raise ValueError(
                "give noise_std, for pairs of noisy and clean crops, or contrast, for crops that "
                "are coded"
            )
        if self.diffusion and not isinstance(self.noise_std, tuple):
            raise ValueError("diffusion = true needs a range of levels, noise_std = [low, high]")
        if self.noise_std == "estimate" and not self.noisy:
            raise ValueError('noise_std = "estimate" is for pictures with noise: set noisy = true')
        return self

    def pairs(self, recipe: Path, given: Container[str] = ()) -> Crops:
        """Read the images, and return their pairs.

        Clean images get noise, noisy ones are recorrupted, and images that are coded stay
        unchanged.

        Args:
            recipe: path of the recipe.
            given: paths that the user gave, see `locate`.
        """
        from kornia.color import rgb_to_grayscale

        images = [photograph(name) for name in self.photographs]
        for path in self.paths:
            data = open_data(locate(recipe, path, given), reader=self.reader)
            first, end = (0, len(data)) if self.items is None else self.items
            if not 0 <= first < end <= len(data):
                raise InputError(
                    f"{recipe}: items is [{first}, {end}], and {path} holds {len(data)} items"
                )
            for item in (data[k] for k in range(first, end)):
                if not isinstance(getattr(item, "y", None), Tensor):
                    raise InputError(
                        f"{recipe}: {path} holds a {type(item).__name__}, and a training takes "
                        "pictures; reader= names another reader"
                    )
                images.append(item.y)
        low, high = self.intensity_range
        ready = [
            rgb_to_grayscale(image) if self.grey and image.shape[1] == 3 else image
            for image in images
        ]
        ready = (
            ready if (low, high) == (0, 1) else [(image - low) / (high - low) for image in ready]
        )
        ready = [F.avg_pool2d(image, n) for n in self.shrink for image in ready]
        if self.noise_std is None:
            assert self.contrast is not None
            return Crops(ready, self.crop, self.contrast)
        if isinstance(self.noise_std, tuple):
            if self.diffusion:
                return DiffusionPairs(ready, self.noise_std, self.crop)
            return LevelPairs(ready, self.noise_std, self.crop)
        if self.noise_std == "estimate":
            level = float(torch.cat([estimate_noise_std(image) for image in ready]).median())
            warn_user(
                f"{recipe}: noise_std was estimated as {level:.3g}, the median of {len(ready)} "
                "pictures; give noise_std if you know it",
                MeasurementWarning,
            )
            return RecorruptedPairs(ready, level, self.crop, self.strength)
        if self.noisy:
            return RecorruptedPairs(ready, self.noise_std, self.crop, self.strength)
        return NoisyPairs(ready, self.noise_std, self.crop)


class StageTable(Table):
    """Stage of a training, with the settings of its loss."""

    loss: Literal[
        "l1", "l2", "proximal-matching", "rate-distortion", "pixel-likelihood", "score-matching"
    ]
    gamma: float | None = Field(None, gt=0)
    bitrate: float | None = Field(None, gt=0)
    sigma_data: float | None = Field(None, gt=0)
    nuclear_norm: float | None = Field(None, gt=0)
    steps: int = Field(ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    count: int = Field(64, ge=1)
    clip: float | None = Field(None, gt=0)
    decay: Literal["none", "linear"] = "none"

    @model_validator(mode="after")
    def _check_losses(self) -> StageTable:
        if (self.loss == "proximal-matching") != (self.gamma is not None):
            raise ValueError("gamma belongs to the loss proximal-matching, which needs one")
        if (self.loss == "rate-distortion") != (self.bitrate is not None):
            raise ValueError("bitrate belongs to the loss rate-distortion, which needs one")
        if self.sigma_data is not None and self.loss != "score-matching":
            raise ValueError("sigma_data belongs to the loss score-matching")
        if self.nuclear_norm is not None and self.loss in (
            "rate-distortion",
            "pixel-likelihood",
            "score-matching",
        ):
            raise ValueError(
                "nuclear_norm is a penalty on denoisers, for the losses l1, l2 and "
                "proximal-matching"
            )
        return self

    def stage(self) -> Stage:
        loss = (
            self._loss()
            if self.nuclear_norm is None
            else JacobianNuclearNorm(self._loss(), self.nuclear_norm)
        )
        return Stage(
            loss, self.steps, self.learning_rate, self.count, clip=self.clip, decay=self.decay
        )

    def _loss(self) -> Loss:
        if self.gamma is not None:
            return ProximalMatching(self.gamma)
        if self.bitrate is not None:
            return RateDistortion(self.bitrate)
        if self.sigma_data is not None:
            return ScoreMatching(self.sigma_data)
        return {
            "l1": L1(),
            "l2": L2(),
            "pixel-likelihood": PixelLikelihood(),
            "score-matching": ScoreMatching(),
        }[self.loss]


class Recipe(Table):
    """Checked recipe of a prior."""

    name: str = Field(pattern=r"^[^/\\.][^/\\]*$")
    seed: int = 0
    licence: str = ""
    mixed_precision: bool = False
    network: Named
    prior: Named
    #: Hounsfield units that are 0 and 1, and sizes of pixels in mm, of CT slices; for the card.
    trained_on: dict[str, tuple[float, float]] | None = None
    data: Data
    validation: Data | None = None
    stage: list[StageTable] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_pairs(self) -> Recipe:
        if any(s.loss == "score-matching" for s in self.stage) and not self.data.diffusion:
            raise ValueError("the loss score-matching needs diffusion = true in [data]")
        return self


def _check_same_recipe(folder: Path, content: Mapping[str, Any]) -> None:
    """Refuse a folder that holds a prior of another recipe."""
    path = folder / "recipe.toml"
    if path.exists() and read_toml(path) != tomllib.loads(as_toml(content)):
        raise InputError(
            f"{folder} holds a prior of another recipe; give --overwrite to train anew, or another "
            "--output"
        )


def _settings(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "name"}


def _psnr(trained: Trained, pairs: Crops) -> float:
    """Return the quality on a fixed draw, in decibels for images in [0, 1].

    Pictures that are coded are decoded from blurred latents.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, targets = pairs.draw(64, generator)
    with torch.no_grad():
        coder = isinstance(trained.network, CosineHyperprior | MeanScaleHyperprior)
        result = trained.network(inputs, generator).x if coder else trained.network(inputs)
        return -10 * math.log10(float((result - targets).square().mean()))


def _write(
    folder: Path,
    path: Path,
    content: Mapping[str, Any],
    recipe: Recipe,
    trained: Trained,
    quality: float,
    apart: bool,
) -> None:
    """Write the files of a prior: the weights first and the card last.

    A folder with a card is therefore complete.
    """
    from safetensors.torch import save

    first = path.read_text(encoding="utf-8").splitlines()[0]
    summary = (
        first.lstrip("# ").strip()
        if first.startswith("#")
        else f"{recipe.name}, trained by invtoolbox."
    )
    weights = save(
        {name: value.contiguous() for name, value in trained.network.state_dict().items()}
    )
    step = max(1, len(trained.losses) // 2000)
    curve = "step,loss\n" + "".join(
        f"{k},{float(trained.losses[k]):.6g}\n" for k in range(0, len(trained.losses), step)
    )
    make_folder(folder)
    remove_stale(folder)
    card = {
        "prior": content["prior"]["name"],
        **_settings(content["prior"]),
        **({"trained_on": content["trained_on"]} if "trained_on" in content else {}),
        "network": {**content["network"], "weights": "weights.safetensors"},
    }
    for name, text in (
        ("recipe.toml", f"# {summary}\n{as_toml(content)}"),
        ("curve.csv", curve),
        ("README.md", _model_card(summary, recipe, trained, quality, apart, len(weights))),
    ):
        if not (folder / name).exists() or not os.path.samefile(folder / name, path):
            write_bytes(folder / name, text.encode(), overwrite=True)
    write_bytes(folder / "weights.safetensors", weights, overwrite=True)
    write_bytes(folder / "card.toml", f"# {summary}\n{as_toml(card)}".encode(), overwrite=True)


def _model_card(
    summary: str, recipe: Recipe, trained: Trained, quality: float, apart: bool, size: int
) -> str:
    count = sum(p.numel() for p in trained.network.parameters())

    def settings_of(t: StageTable) -> tuple[tuple[str, float | None], ...]:
        return (
            ("gamma", t.gamma),
            ("bitrate", t.bitrate),
            ("sigma_data", t.sigma_data),
            ("nuclear norm", t.nuclear_norm),
        )

    rows = "\n".join(
        f"| {t.loss}{''.join(f', {name} {value:g}' for name, value in settings_of(t) if value)} "
        f"| {t.steps} | {t.learning_rate:g}{', falling to 0' if t.decay == 'linear' else ''} "
        f"| {t.count} |"
        for t in recipe.stage
    )
    level = recipe.data.noise_std
    if level is None:
        what = f"contrast {recipe.data.contrast}"
    elif level == "estimate":
        what = "noisy pictures, whose noise was estimated"
    elif isinstance(level, tuple):
        what = f"noise {level[0]:g} to {level[1]:g}"
    else:
        what = f"noise {level:g}"
    images = ", ".join([*recipe.data.photographs, *recipe.data.paths])
    licence = f"\nLicence of the data: {recipe.licence}\n" if recipe.licence else ""
    return (
        f"# {recipe.name}\n\n{summary}\n\n"
        f"- network: {type(trained.network).__name__}, {count} weights, {size / 1e6:.2f} MB\n"
        f"- trained on: {images}; {what}, crops of {recipe.data.crop} pixels; seed {recipe.seed}\n"
        f"- {quality:.2f} dB on 64 crops of "
        f"{'the validation images' if apart else 'the images it learned from'}\n"
        f"- {trained.seconds:.0f} s of training in the last run\n{licence}\n"
        f"| loss | steps | learning rate | pairs a step |\n|---|---|---|---|\n{rows}\n\n"
        "Trained again by `invtoolbox train recipe.toml`.\n"
    )
