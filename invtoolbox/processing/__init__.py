"""Measured CT data: from counts to line integrals that an operator explains. Pure functions of tensors and measurements."""

from invtoolbox.processing.beam_hardening import BeamHardening, fit_beam_hardening
from invtoolbox.processing.detector import bin_detector, crop_detector, select_views
from invtoolbox.processing.flat_field import (
    LineIntegrals,
    correct_air,
    line_integrals,
    photon_weights,
    transmission,
)
from invtoolbox.processing.hounsfield import from_hounsfield, to_hounsfield, water_attenuation
from invtoolbox.processing.rings import (
    remove_rings,
    remove_rings_by_sorting,
    remove_rings_by_wavelets,
)
from invtoolbox.processing.truncation import extend_truncated
from invtoolbox.processing.zingers import remove_zingers

__all__ = [
    "BeamHardening",
    "LineIntegrals",
    "bin_detector",
    "correct_air",
    "crop_detector",
    "extend_truncated",
    "fit_beam_hardening",
    "from_hounsfield",
    "line_integrals",
    "photon_weights",
    "remove_rings",
    "remove_rings_by_sorting",
    "remove_rings_by_wavelets",
    "remove_zingers",
    "select_views",
    "to_hounsfield",
    "transmission",
    "water_attenuation",
]
