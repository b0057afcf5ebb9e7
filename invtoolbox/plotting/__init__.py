"""Figures and reports of solutions; matplotlib is imported where a figure is made."""

from invtoolbox.plotting.birds_eye import birds_eye, birds_eye_figure
from invtoolbox.plotting.figures import solution_figure
from invtoolbox.plotting.flow_report import (
    FlowCase,
    FlowMethod,
    SweepPicture,
    SweepResult,
    write_flow_report,
)
from invtoolbox.plotting.flow_viewer import SweepView, view_flow
from invtoolbox.plotting.methods_report import Case, Method, write_comparison
from invtoolbox.plotting.report import write_report
from invtoolbox.plotting.scan_geometry import geometry_figure
from invtoolbox.plotting.scene_server import SceneServer, view_scene
from invtoolbox.plotting.view_report import QualityCurve, ViewPicture, write_view_report
from invtoolbox.plotting.web_viewer import write_viewer

__all__ = [
    "Case",
    "FlowCase",
    "FlowMethod",
    "Method",
    "QualityCurve",
    "SceneServer",
    "SweepPicture",
    "SweepResult",
    "SweepView",
    "ViewPicture",
    "birds_eye",
    "birds_eye_figure",
    "geometry_figure",
    "solution_figure",
    "view_flow",
    "view_scene",
    "write_comparison",
    "write_flow_report",
    "write_report",
    "write_view_report",
    "write_viewer",
]
