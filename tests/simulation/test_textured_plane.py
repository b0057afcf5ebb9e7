"""Simulated events of a textured plane: their flow, their number, and what is refused."""

from __future__ import annotations

import pytest
import torch

from invtoolbox.errors import InputError
from invtoolbox.simulation import simulate_textured_plane

SMALL = {"size": (40, 50), "focal": 50.0, "duration": 0.1}


def test_events_lie_on_the_edge_that_moves_over_them() -> None:
    # One edge of a picture: dark on the left or above, bright on the right or below.
    edge = (torch.arange(400) >= 200).double().expand(400, 400)
    for seed in (0, 1):
        first = simulate_textured_plane(seed, edge, travel=6.0, **SMALL)  # type: ignore[arg-type]
        axis = int(first.picture_flow.abs().mean((0, 1)).argmax())
        picture = edge if axis == 0 else edge.T
        truth = simulate_textured_plane(seed, picture, travel=6.0, **SMALL)  # type: ignore[arg-type]
        events = truth.events
        assert bool((events.places == events.places.round()).all())
        # Carried to the middle of the time, all events lie on the edge, which is one line.
        place = events.places.double() + (0.05 - events.times)[:, None] * truth.flow
        along, across = place[:, [1 - axis]], place[:, [axis]]
        design = torch.cat([along, torch.ones_like(along)], 1)
        away = (design @ torch.linalg.lstsq(design, across).solution - across).abs()
        assert float(away.median()) < 0.6 and float(away.quantile(0.95)) < 1.5
        # A bright side that moves over a pixel makes it brighter, so the sign is that of the motion.
        sign = -truth.flow[:, axis].sign()
        fast = truth.flow[:, axis].abs() > 0.3 * truth.flow.norm(dim=1)
        agrees = events.polarity[fast].double() == sign[fast]
        assert float(agrees.double().mean()) > 0.9


def test_the_path_and_the_threshold_are_as_given() -> None:
    few = simulate_textured_plane(3, "clouds", travel=5.0, threshold=0.4, **SMALL)  # type: ignore[arg-type]
    many = simulate_textured_plane(3, "clouds", travel=5.0, threshold=0.2, **SMALL)  # type: ignore[arg-type]
    # At least twice as many, because half a threshold that is left over makes no event.
    assert 1.8 < len(many.events) / len(few.events) < 5
    path = float(many.picture_flow.norm(dim=-1).mean()) * 0.1
    assert abs(path - 5.0) < 1e-6
    again = simulate_textured_plane(3, "clouds", travel=5.0, threshold=0.2, **SMALL)  # type: ignore[arg-type]
    assert torch.equal(again.events.times, many.events.times)


def test_bad_settings_are_one_sentence() -> None:
    for words, settings in {
        "travel of simulate_textured_plane": {"travel": 0.0},
        "at least 16 pixels": {"texture": torch.ones(3, 3)},
        "fewer than two events": {"texture": torch.ones(40, 40)},
        "texture of simulate_textured_plane": {"texture": "stones"},
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            simulate_textured_plane(0, **SMALL, **settings)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
