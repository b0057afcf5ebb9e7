"""Figures and reports of solutions; matplotlib is imported where a figure is made."""

from invtoolbox.plotting.birds_eye import birds_eye, birds_eye_figure
from invtoolbox.plotting.comparison import Case, Method, write_comparison
from invtoolbox.plotting.figures import solution_figure
from invtoolbox.plotting.flow_comparison import FlowCase, FlowMethod
from invtoolbox.plotting.flow_report import SweepPicture, SweepResult, write_flow_report
from invtoolbox.plotting.geometry import geometry_figure
from invtoolbox.plotting.report import write_report
from invtoolbox.plotting.rerun_view import SweepView, view_flow
from invtoolbox.plotting.scene_view import view_scene
from invtoolbox.plotting.splat_viewer import write_viewer
from invtoolbox.plotting.view_report import QualityCurve, ViewPicture, write_view_report

__all__ = [
    "Case",
    "FlowCase",
    "FlowMethod",
    "Method",
    "QualityCurve",
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
