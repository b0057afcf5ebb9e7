"""A street with traffic and a spinning lidar, and a bar that bends, with exact ground truth."""

from __future__ import annotations

from invtoolbox.simulation.lidar import SimulatedSequence, SpinningLidar, street
from invtoolbox.simulation.town import random_town
from invtoolbox.simulation.world import Street

__all__ = ["SimulatedSequence", "SpinningLidar", "Street", "random_town", "street"]
