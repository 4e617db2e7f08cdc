"""What a page needs to decode `.ncb` files itself: the decoder for browsers, and models as scripts.

A page that is opened from a disk may load scripts, and no other files.
"""

from __future__ import annotations

import base64
import json
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ncbatch.codec.model.checkpoint import Checkpoint

PORTABLE = resources.files("ncbatch.export") / "portable"
"""The folder with what is copied as it is."""

_SECTIONS = ("exact.", "z.", "g_s.")
"""Of a checkpoint's tensors, those that a decoder needs."""


def decoder_tensors(checkpoint: Checkpoint) -> bytes:
    """A safetensors file with what a decoder needs of the checkpoint, and with all of its metadata."""
    from safetensors.torch import save

    chosen = {key: tensor for key, tensor in checkpoint.tensors.items() if key.startswith(_SECTIONS)}
    described = checkpoint.info.model_dump(mode="json") | {"digest": checkpoint.digest}
    return save(chosen, {"ncbatch": json.dumps(described, separators=(",", ":"))})


def browser_decoder() -> bytes:
    """The script that defines `ncb`."""
    return (PORTABLE / "browser" / "ncb-decoder.js").read_bytes()


def model_script(checkpoint: Checkpoint) -> bytes:
    """A script that puts a model's tensors, in base64, into `ncbModels` under its digest."""
    tensors = base64.b64encode(decoder_tensors(checkpoint)).decode()
    return f'(self.ncbModels ||= {{}})["{checkpoint.digest}"] = "{tensors}";\n'.encode()
