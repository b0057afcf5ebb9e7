"""Scene flow of whole sequences: scene files, studies, tracks and accumulated clouds."""

from __future__ import annotations

from invtoolbox.core.lazy import lazy_attributes

_NAMES = {
    "FlowStudy": "results",
    "SequencePath": "source",
    "flow_sequence": "sequence",
}
__all__ = list(_NAMES)
__getattr__ = lazy_attributes(__name__, _NAMES)
