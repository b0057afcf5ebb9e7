"""A street that a file describes: its settings, and what is wrong with them in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from invtoolbox import datasets, simulation
from invtoolbox.datasets.sweeps.opening import street_of_file
from invtoolbox.errors import InputError


def written(folder: Path, text: str) -> Path:
    path = folder / "my-street.toml"
    path.write_text(text)
    return path


def test_a_file_is_the_call_with_its_settings(tmp_path: Path) -> None:
    sweeps = street_of_file(
        written(
            tmp_path,
            "[simulated]\nsweeps = 4\nseed = 3\npoints = 1500\ndeskew = false\ntraffic = 2",
        )
    )
    assert len(sweeps) == 4 and sweeps[1].deskewed is False
    assert torch.equal(
        sweeps[1].points, simulation.street(4, 3, 1500, deskew=False, traffic=2.0)[1].points
    )


def test_the_street_of_the_shelf() -> None:
    datasets.verify("street")
    sweeps: Any = datasets.open_named("street")
    assert len(sweeps) == 100 and 50_000 < len(sweeps[7]) < 70_000
    path = datasets.find_file("street")
    for opened in (
        datasets.open(path),
        datasets.open_sweeps(path),
        datasets.open_sweeps(path, reader="street"),
    ):
        assert len(opened) == 100
    with pytest.raises(InputError, match="simulated and has no files"):
        datasets.open_named("street", "sweep.bin")
    with pytest.raises(InputError, match="lidar sweeps"):
        datasets.open_measurements(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("reader = 'street'", r"needs a table \[simulated\]"),
        ("[simulated]\ncars = 3", "no setting 'cars'"),
        ("[simulated]\nsweeps = 1.5", "sweeps must be a whole number"),
        ("[simulated]\nsweeps = true", "sweeps must be"),
        ("[simulated]\ndeskew = 1", "deskew must be"),
        ("[simulated", "not valid TOML"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        street_of_file(written(tmp_path, text))
    assert "my-street.toml" in str(error.value)
