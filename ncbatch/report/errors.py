"""Errors of an evaluation that a user can meet."""

from ncbatch.errors import NcbatchError


class ReportError(NcbatchError):
    """There is nothing to draw, or a file is no table of published points."""


class NoOverlapError(ReportError):
    """Two R-D curves that cannot be compared."""
