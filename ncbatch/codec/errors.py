"""Errors of the codec that a user can meet."""

from ncbatch.errors import NcbatchError


class ModelError(NcbatchError):
    """A checkpoint is missing, damaged, of another format, or not the one a bitstream needs."""


class DivergedError(NcbatchError):
    """A refinement whose loss is not finite any more; nothing of it may be published."""


class WrongModelError(ModelError):
    """A bitstream that another model made."""


class DecodeCheckError(NcbatchError):
    """Bytes that do not decode to what they were made from; they may not be published."""


class BitstreamError(NcbatchError):
    """Bytes that are not a whole, sane `.ncb` bitstream."""
