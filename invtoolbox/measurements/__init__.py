"""Checks of measurements before a solve: units, noise level, geometry, missing samples."""

from invtoolbox.measurements import (  # noqa: F401 (register their checks)
    empty_views,
    levels,
    metal,
    orientation,
    pictures,
    ranges,
    readings,
    scans,
    spectra,
)
from invtoolbox.measurements.findings import (
    Finding,
    check_measurements,
    register,
    repair_measurements,
    report_findings,
)
from invtoolbox.measurements.pages import report_unused_pages
from invtoolbox.measurements.report import DataReport, data_report

__all__ = [
    "DataReport",
    "Finding",
    "check_measurements",
    "data_report",
    "register",
    "repair_measurements",
    "report_findings",
    "report_unused_pages",
]
