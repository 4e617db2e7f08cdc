"""Errors of the codec that a user can meet."""

from ncbatch.errors import NcbatchError


class ModelError(NcbatchError):
    """A checkpoint is missing, damaged, of another format, or not the one a bitstream needs."""


class DivergedError(NcbatchError):
    """A refinement whose loss is not finite any more; nothing of it may be published."""


class InexactDeviceError(ModelError):
    """A device on which the exact h_s of a model gives other numbers than everywhere else."""


class WrongModelError(ModelError):
    """A bitstream that another model made."""


class DecodeCheckError(NcbatchError):
    """Bytes that do not decode to what they were made from; they may not be published."""


class PackCheckError(DecodeCheckError):
    """An image of a pack does not decode, with bits-back or without. image: its index."""

    def __init__(self, image: int) -> None:
        super().__init__("the image's part of the pack does not decode to what was coded")
        self.image = image


class BitstreamError(NcbatchError):
    """Bytes that are not a whole, sane `.ncb` or `.ncbp` bitstream."""


class PosteriorMismatchError(BitstreamError):
    """The bits of a pack cannot be given back: the decoder's posterior differs from the encoder's."""
