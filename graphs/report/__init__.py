"""The HTML report of a run: one self-contained file, assembled from what lies in the run directory."""

from graphs.report.page import write_report

__all__ = ["write_report"]
