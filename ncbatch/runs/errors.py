"""Errors of runs that a user can meet."""

from ncbatch.errors import NcbatchError


class RunError(NcbatchError):
    """The output does not hold the run that was asked for, or holds it damaged."""


class SpecMismatchError(RunError):
    """The output holds a run with other settings."""


class LeaseHeldError(RunError):
    """Another driver is working on the run."""


class StoppedByPolicyError(RunError):
    """The run was stopped because going on would make things worse; the message says why."""
