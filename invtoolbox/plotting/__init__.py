"""Figures and reports of solutions; matplotlib is imported where a figure is made."""

from invtoolbox.plotting.comparison import Case, Method, write_comparison
from invtoolbox.plotting.figures import solution_figure
from invtoolbox.plotting.geometry import geometry_figure
from invtoolbox.plotting.report import write_report

__all__ = ["Case", "Method", "geometry_figure", "solution_figure", "write_comparison", "write_report"]
