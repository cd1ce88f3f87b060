"""A report of runs: worst frames, ladder, distributions, changes, gallery, learning curves, in one HTML file.

Needs the extra ``report`` (Altair, vl-convert, Jinja2). A figure appears when its data is there.
"""

from hela_store.base.extras import needs

with needs("report"):
    from .build import ReportResult, report

__all__ = ["ReportResult", "report"]
