"""Simulations with exact ground truth: a street with a lidar, events, waves of sound and X-rays."""

from __future__ import annotations

from invtoolbox.simulation.events import (
    SimulatedEvents,
    simulate_events,
    simulate_textured_plane,
)
from invtoolbox.simulation.lidar import SimulatedSequence, SpinningLidar, street
from invtoolbox.simulation.propagation import propagate, ricker, x_ray_wavelength
from invtoolbox.simulation.spectrum import Spectrum, attenuation, simulate_counts, tube_spectrum
from invtoolbox.simulation.town import random_town
from invtoolbox.simulation.world import Street

__all__ = [
    "SimulatedEvents",
    "SimulatedSequence",
    "Spectrum",
    "SpinningLidar",
    "Street",
    "attenuation",
    "propagate",
    "random_town",
    "ricker",
    "simulate_counts",
    "simulate_events",
    "simulate_textured_plane",
    "street",
    "tube_spectrum",
    "x_ray_wavelength",
]
