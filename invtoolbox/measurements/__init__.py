"""Checks of measurements before they are believed: units, noise level, geometry, missing samples."""

from invtoolbox.measurements import levels, scans  # register their checks
from invtoolbox.measurements.findings import (
    Finding,
    check_measurements,
    register,
    report_findings,
)

__all__ = ["Finding", "check_measurements", "register", "report_findings"]
