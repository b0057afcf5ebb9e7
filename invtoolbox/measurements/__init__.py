"""Checks of measurements before a solve: units, noise level, geometry, missing samples."""

from invtoolbox.measurements import levels, scans  # noqa: F401 (register their checks)
from invtoolbox.measurements.findings import (
    Finding,
    check_measurements,
    register,
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
    "report_findings",
    "report_unused_pages",
]
