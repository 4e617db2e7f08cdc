"""The folder that `ncbatch export-decoder` writes: a model for decoders that are not ncbatch."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ncbatch.codec import bitstream
from ncbatch.codec.model.checkpoint import Checkpoint
from ncbatch.export.hyper_synthesis_graph import hyper_synthesis_graph
from ncbatch.export.scripts import PORTABLE, decoder_tensors
from ncbatch.export.synthesis_graph import synthesis_graph

FORMAT = 1
"""Of the folder, in its manifest."""

MANIFEST = "manifest.json"

DECODED_VERSIONS = [1, 2, 3]
"""Of `.ncb`, which the decoders of this room read; of version 3, that of images passes over the tail."""

_PROGRAMS = {
    "ncb_decoder.py": "a decoder in Python, with NumPy and onnxruntime",
    "ncb_alpha.py": "what reads alpha planes for it, with Pillow",
    "browser/ncb-decoder.js": "a decoder for browsers",
    "browser/index.html": "a page that shows .ncb files, from a disk or a server",
}


@dataclass(frozen=True)
class ExportedFile:
    """One file of the folder. what: it is, in words."""

    name: str
    data: bytes
    what: str


def exported_files(checkpoint: Checkpoint, name: str, version: str) -> list[ExportedFile]:
    """All files, the manifest last.

    Args:
        checkpoint: the model.
        name: what its user calls it.
        version: of ncbatch.

    Raises:
        OnnxMissingError: the package onnx is not installed.
    """
    tensors = decoder_tensors(checkpoint)
    files = [
        ExportedFile("decoder.safetensors", tensors, "the tensors of the checkpoint that a decoder needs"),
        ExportedFile("synthesis.onnx", synthesis_graph(checkpoint), "g_s in float32: y_hat to image"),
        ExportedFile(
            "hyper_synthesis.onnx",
            hyper_synthesis_graph(checkpoint),
            "the exact h_s: z to mu and sigma",
        ),
    ]
    files += [ExportedFile(file, (PORTABLE / file).read_bytes(), what) for file, what in _PROGRAMS.items()]
    files.append(ExportedFile("browser/model.js", _script(name, tensors), "the same tensors, for that page"))
    manifest = json.dumps(_manifest(checkpoint, name, version, files), indent=1) + "\n"
    return [*files, ExportedFile(MANIFEST, manifest.encode(), "this list")]


def _script(name: str, tensors: bytes) -> bytes:
    """The model as a script: a page that is opened from a disk may load scripts, and nothing else."""
    model = {"name": name, "tensors": base64.b64encode(tensors).decode()}
    return f"const ncbModel = {json.dumps(model)};\n".encode()


def _manifest(checkpoint: Checkpoint, name: str, version: str, files: list[ExportedFile]) -> dict[str, Any]:
    info = checkpoint.info
    described = info.model_dump(mode="json", exclude={"format"})
    return {
        "format": FORMAT,
        "ncbatch": version,
        "model": {"name": name, "digest": checkpoint.digest, **described},
        "bitstreams": {
            "versions": DECODED_VERSIONS,
            "model_digest": bitstream.short_digest(checkpoint.digest),
        },
        "files": {
            file.name: {
                "what": file.what, "bytes": len(file.data), "sha256": hashlib.sha256(file.data).hexdigest(),
            } for file in files
        },
    }  # fmt: skip
