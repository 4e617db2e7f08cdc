"""What can be wrong with an evaluation."""

from ncbatch.errors import NcbatchError


class ReportError(NcbatchError):
    """There is nothing to draw, or a table of published points is none."""


class NoOverlapError(ReportError):
    """Two R-D curves that cannot be compared."""
