"""Lower bounds of the time of a kernel on a card, from its counts and the card's published figures.

A bound is work over the largest rate of one unit: bytes of the memory, operations in float32, loads,
stores and exchanges of the warps, and atomic additions. The largest bound is the predicted time of
a kernel that fills the card. The prediction leaves out latency, instructions other than these, and
launches; only a card can measure those.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Published figures of a card.

    Attributes:
        name: name of the card.
        bandwidth: bandwidth of the memory in bytes per second.
        peak: operations in float32 per second, a fused multiplication and addition counted as two.
        double: the same in float64, without tensor cores.
        multiprocessors: number of streaming multiprocessors.
        lanes: units for float32 per multiprocessor; with the peak they give the clock.
        sectors: sectors of 32 bytes that the L2 cache serves per clock.
    """

    name: str
    bandwidth: float
    peak: float
    double: float
    multiprocessors: int
    lanes: int
    sectors: int

    @property
    def clock(self) -> float:
        """Return the clock in hertz.

        >>> round(CARDS[0].clock / 1e9, 2), round(CARDS[1].clock / 1e9, 2)
        (1.41, 1.98)
        """
        return self.peak / (2 * self.multiprocessors * self.lanes)


#: From NVIDIA's whitepapers of the A100 (2020; SXM4, 40 GB; the L2 cache reads 5120 bytes per clock) and
#: of the H100 (2022; SXM5). The latter has no figure of the L2 cache: that of the A100 is taken.
CARDS = (
    Card("A100", 1.555e12, 19.5e12, 9.7e12, 108, 64, 160),
    Card("H100", 3.352e12, 66.9e12, 33.5e12, 132, 128, 160),
)


@dataclass(frozen=True)
class Work:
    """Counts of a kernel.

    Attributes:
        bytes: bytes read from and written to the memory, if each block reads a word once.
        operations: operations in float32, of all threads of the warps that run them.
        accesses: loads, stores and exchanges of warps, of which a multiprocessor runs one per clock.
        additions: atomic additions of single numbers, of which the L2 cache runs one per sector.
        doubles: operations in float64.
    """

    bytes: float
    operations: float
    accesses: float = 0.0
    additions: float = 0.0
    doubles: float = 0.0

    def bounds(self, card: Card) -> dict[str, float]:
        """Return the lower bounds of the time in seconds, by the unit that sets them."""
        return {
            "memory": self.bytes / card.bandwidth,
            "arithmetic": self.operations / card.peak + self.doubles / card.double,
            "loads, stores, exchanges": self.accesses / (card.multiprocessors * card.clock),
            "atomic additions": self.additions / (card.sectors * card.clock),
        }


def predict(work: Work, card: Card) -> tuple[float, str]:
    """Return the largest bound in seconds and the unit that sets it.

    >>> predict(Work(bytes=1.555e9, operations=1e9), CARDS[0])
    (0.001, 'memory')
    """
    bounds = work.bounds(card)
    unit = max(bounds, key=lambda name: bounds[name])
    return bounds[unit], unit
