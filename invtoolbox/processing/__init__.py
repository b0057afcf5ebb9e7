"""Corrections of measured CT data, of the coils of MRI, and first breaks of records.

They are pure functions of tensors and measurements.
"""

from invtoolbox.processing.artifacts import remove_rings, remove_zingers
from invtoolbox.processing.attenuation import (
    BeamHardening,
    fit_beam_hardening,
    from_hounsfield,
    to_hounsfield,
    water_attenuation,
)
from invtoolbox.processing.coils import (
    compress_coils,
    compression_matrix,
    mix_coils,
    whitening_matrix,
)
from invtoolbox.processing.detector import (
    bin_detector,
    crop_detector,
    extend_truncated,
    select_views,
)
from invtoolbox.processing.flat_field import (
    LineIntegrals,
    correct_air,
    line_integrals,
    photon_weights,
    transmission,
)
from invtoolbox.processing.metal import MetalReduction, reduce_metal
from invtoolbox.processing.onsets import pick_onsets
from invtoolbox.processing.phase import filter_phase, retrieve_phase
from invtoolbox.processing.stripes import remove_stripes

__all__ = [
    "BeamHardening",
    "LineIntegrals",
    "MetalReduction",
    "bin_detector",
    "compress_coils",
    "compression_matrix",
    "correct_air",
    "crop_detector",
    "extend_truncated",
    "filter_phase",
    "fit_beam_hardening",
    "from_hounsfield",
    "line_integrals",
    "mix_coils",
    "photon_weights",
    "pick_onsets",
    "reduce_metal",
    "remove_rings",
    "remove_stripes",
    "remove_zingers",
    "retrieve_phase",
    "select_views",
    "to_hounsfield",
    "transmission",
    "water_attenuation",
    "whitening_matrix",
]
