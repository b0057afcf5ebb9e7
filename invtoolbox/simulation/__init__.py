"""Simulations with exact ground truth: a street with a lidar, events, wavelets of sound."""

from __future__ import annotations

from invtoolbox.simulation.events import SimulatedEvents, simulate_events
from invtoolbox.simulation.lidar import SimulatedSequence, SpinningLidar, street
from invtoolbox.simulation.town import random_town
from invtoolbox.simulation.wavelets import ricker
from invtoolbox.simulation.world import Street

__all__ = [
    "SimulatedEvents",
    "SimulatedSequence",
    "SpinningLidar",
    "Street",
    "random_town",
    "ricker",
    "simulate_events",
    "street",
]
