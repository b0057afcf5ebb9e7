"""Every shipped recipe finds its data, builds its network and losses, and takes a step."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import invtoolbox as it
from invtoolbox.training import run_recipe
from invtoolbox.training.recipe import StageTable

RECIPES = sorted((Path(__file__).resolve().parents[2] / "priors").glob("*/recipe.toml"))


@pytest.mark.data
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
def test_a_shipped_recipe_trains(
    recipe: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = tomllib.loads(recipe.read_text())["stage"]
    # The later losses need a network that the first ones have trained, so they are only built.
    assert all(StageTable.model_validate(stage).stage().loss for stage in others)
    changes = {"stage": [first | {"steps": 1, "count": 2}], "validation.crop": 32}
    # From another folder than that of the repository, as a user of the wheel.
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "priors" / recipe.parent.name
    outcome = run_recipe(recipe, changes, output=folder, progress=False)
    assert outcome.trained is not None and len(outcome.trained.losses) == 1
    monkeypatch.setenv("INVTOOLBOX_CATALOGUE", str(tmp_path))
    assert type(it.priors.load(folder.name)).__module__.startswith("invtoolbox.priors")
