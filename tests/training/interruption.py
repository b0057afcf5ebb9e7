"""A training that is stopped in its middle and started again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from invtoolbox.training import Pairs, Stage, train
from invtoolbox.training.stages import Trained


class Stopped(Exception):
    pass


class BreakingPairs(Pairs):
    """The same pairs as others, until something happens at a draw."""

    def __init__(self, pairs: Pairs, at: int) -> None:
        self.pairs, self.left = pairs, [at]

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        self.left[0] -= 1
        if not self.left[0]:
            raise Stopped
        return self.pairs.draw(count, generator)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Count as the same content as the other pairs, so that a training may be resumed with these."""
        return self.pairs.__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return repr(self.pairs)


def trained_in_two_goes(
    network: nn.Module, pairs: Pairs, stages: Sequence[Stage], seed: int, folder: Path, at: int
) -> Trained:
    """Stopped at a draw, and gone on with from the last checkpoint; these are written after every step."""
    with pytest.raises(Stopped):
        train(
            network,
            BreakingPairs(pairs, at),
            stages,
            seed=seed,
            folder=folder,
            write_every=0.0,
            progress=False,
        )
    return train(network, pairs, stages, seed=seed, folder=folder, progress=False)


def check_same_weights(one: nn.Module, other: nn.Module) -> None:
    """To the last bit."""
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
