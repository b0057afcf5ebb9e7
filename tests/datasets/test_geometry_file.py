"""The geometry of a scan and its file: round trips, units, and every refusal."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invtoolbox.datasets import Geometry, geometry_from_mapping, read_geometry
from invtoolbox.errors import InputError

FAN: dict[str, Any] = {
    "kind": "fan",
    "num_detectors": 560,
    "detector_spacing": 0.2,
    "pixel_size": 0.148,
    "image_shape": [512, 512],
    "source_origin": 410.66,
    "source_detector": 553.74,
    "angles": {"unit": "degrees", "start": 0, "stop": 360, "count": 721},
}


@given(
    st.sampled_from(["parallel", "fan"]),
    st.one_of(
        st.lists(st.floats(-12, 12), min_size=1, max_size=9).map(tuple),
        st.tuples(st.floats(-6, 6), st.floats(0.001, 0.15), st.integers(1, 40)).map(
            lambda t: tuple(t[0] + t[1] * i for i in range(t[2]))
        ),
    ),
    st.integers(4, 60),
    st.floats(0.1, 3),
    st.floats(-1, 1),
    st.booleans(),
    st.text(max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_written_and_read_back_equal(kind, angles, detectors, spacing, shift, curved, unit) -> None:
    geometry = Geometry(
        kind,
        angles=angles,
        num_detectors=detectors,
        image_shape=(24, 31),
        pixel_size=0.7,
        detector_spacing=spacing,
        detector_shift=shift,
        curved=curved and kind == "fan",
        length_unit=unit,
        source_origin=100.0 if kind == "fan" else None,
        source_detector=163.1 if kind == "fan" else None,
    )
    assert geometry_from_mapping(tomllib.loads(geometry.to_toml())) == geometry


def test_file_of_a_measured_scan(tmp_path: Path) -> None:
    path = tmp_path / "geometry.toml"
    geometry = geometry_from_mapping(FAN)
    geometry.write(path)
    assert read_geometry(path) == geometry
    assert len(path.read_text()) < 400, "evenly spaced angles are written as start, stop and count"
    with pytest.raises(InputError, match="overwrite"):
        geometry.write(path)


def test_degrees_and_radians_say_the_same() -> None:
    degrees = geometry_from_mapping(FAN)
    radians = geometry_from_mapping(
        {**FAN, "angles": {"unit": "radians", "start": 0, "stop": 2 * math.pi, "count": 720 + 1}}
    )
    assert degrees.angles[-1] == 2 * math.pi and degrees.sinogram_shape == (721, 560)
    assert degrees.angles == pytest.approx(radians.angles, abs=1e-14)
    half_open = geometry_from_mapping(
        {
            **FAN,
            "angles": {"unit": "degrees", "start": 0, "stop": 360, "count": 720, "endpoint": False},
        }
    )
    assert half_open.angles == pytest.approx(degrees.angles[:-1], abs=1e-14)


def test_axis_column() -> None:
    geometry = Geometry(
        "parallel",
        (0.0,),
        num_detectors=640,
        image_shape=(640, 640),
        detector_spacing=0.5,
        pixel_size=0.5,
        detector_shift=12.0,
    )
    assert geometry.axis_column == 319.5 - 24


def change(**changes: Any) -> dict[str, Any]:
    return {**FAN, **changes}


REFUSED = {
    "a turn in degrees": (
        change(angles={"unit": "radians", "start": 0, "stop": 360, "count": 9}),
        "looks like degrees",
    ),
    "half a turn in degrees": (
        change(angles={"unit": "radians", "values": [0, 45, 90, 135]}),
        "looks like degrees",
    ),
    "no unit": (change(angles={"start": 0, "stop": 1, "count": 2}), "unit"),
    "other unit": (change(angles={"unit": "grad", "start": 0, "stop": 1, "count": 2}), "unit"),
    "angles as a list": (change(angles=[0, 1]), "table with a unit"),
    "no count": (change(angles={"unit": "degrees", "start": 0, "stop": 1}), "lacks count"),
    "count of zero": (
        change(angles={"unit": "degrees", "start": 0, "stop": 1, "count": 0}),
        "at least 1",
    ),
    "both": (change(angles={"unit": "degrees", "start": 0, "values": [1]}), "not both"),
    "no angles": (change(angles={"unit": "degrees", "values": []}), "no angles"),
    "a word as an angle": (change(angles={"unit": "degrees", "values": ["x"]}), "finite number"),
    "infinite angle": (change(angles={"unit": "degrees", "values": [math.inf]}), "finite number"),
    "misspelt angle field": (change(angles={"unit": "degrees", "value": [1]}), "'values'"),
    "misspelt field": (change(detector_spaceing=1), "detector_spacing"),
    "kind": (change(kind="cones"), "'parallel' or 'fan'"),
    "spacing": (change(detector_spacing=0), "detector_spacing"),
    "text": (change(pixel_size="1 mm"), "pixel_size"),
    "fraction of a detector": (change(num_detectors=12.5), "whole number"),
    "three sizes": (change(image_shape=[1, 2, 3]), "two sizes"),
    "one size": (change(image_shape=512), "list of two sizes"),
    "curved": (change(curved="yes"), "true or false"),
    "no source": ({k: v for k, v in FAN.items() if k != "source_origin"}, "source_origin"),
    "source of a parallel beam": (change(kind="parallel"), "fan beam"),
    "detector before the object": (change(source_detector=300.0), "source_detector"),
    "source inside": (change(pixel_size=2.0), "inside the image"),
    "detector beside the image": (change(detector_shift=200.0), "no ray meets the image"),
    "image in metres, detector in millimetres": (change(pixel_size=1e-4), "one unit"),
    "missing": ({k: v for k, v in FAN.items() if k != "num_detectors"}, "num_detectors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    entries, expected = REFUSED[name]
    with pytest.raises(InputError, match=expected) as caught:
        geometry_from_mapping(entries)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "geometry.toml"
    path.write_text("kind = fan")
    with pytest.raises(InputError, match=r"geometry.toml.*not a TOML file"):
        read_geometry(path)
    path.write_text("kind = 'fan'")
    with pytest.raises(InputError, match=r"geometry.toml.*missing"):
        read_geometry(path)
    with pytest.raises(InputError, match="no such file"):
        read_geometry(tmp_path / "none.toml")


def test_frozen_and_hashable() -> None:
    geometry = geometry_from_mapping(FAN)
    assert hash(geometry) == hash(dataclasses.replace(geometry))
    with pytest.raises(dataclasses.FrozenInstanceError):
        geometry.kind = "parallel"  # type: ignore[misc]
