"""Check of the arc that the views of a scan cover."""

from __future__ import annotations

import math

from invtoolbox.measurements.findings import Finding, Subject, register
from invtoolbox.operators.tomography.arcs import arc_of
from invtoolbox.operators.tomography.scan_2d import Scan, Scan2D


@register(Scan)
def check_arc(subject: Subject) -> Finding | None:
    """Find views over so short an arc that edges of some directions are not determined."""
    arc = arc_of(subject.operator)
    if arc is None or not arc.is_limited:
        return None
    covered, needed = math.degrees(arc.covered), math.degrees(arc.needed)
    which = "those across other directions come from the prior alone"
    if isinstance(subject.operator, Scan2D):
        # The rays of a view run across (cos, sin); directions of edges count modulo half a turn.
        first = (math.degrees(arc.start) + 90) % 180
        which = (
            f"edges that run at {first:.0f} to {first + covered:.0f} degrees to the rows, "
            "counterclockwise, and all others come from the prior alone"
        )
    return Finding(
        "arc",
        f"the views cover {covered:.0f} of {needed:.0f} degrees, and determine only edges to which a "
        f"ray is tangent: {which}",
    )
