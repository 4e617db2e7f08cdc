"""The command that writes a model for decoders other than ncbatch."""

from __future__ import annotations

from typing import Annotated

from ncbatch import __version__
from ncbatch.cli.common import Storage
from ncbatch.cli.console import out, print_table
from ncbatch.cli.flags import command
from ncbatch.errors import UsageError
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Setting
from ncbatch.store import open_store


@command
def export_decoder(
    model: Annotated[str, Setting(
        "built-in model, compressai:..., or a checkpoint (.safetensors); see `ncbatch models`", "MODEL",
    )],
    /,
    *,
    to: Annotated[str, Setting("folder or s3:// prefix to write", "DIR", name="out")],
    overwrite: Annotated[bool, Setting("replace a decoder that is there already", default="refuse")] = False,
    store: Storage,
) -> ExitCode:  # fmt: skip
    """Writes what decodes a model's .ncb files without ncbatch: ONNX graphs, tables and decoders."""
    folder = open_store(to, store, create=True)
    folder.check()
    from ncbatch.export.folder import MANIFEST, exported_files
    from ncbatch.models.loading import load_model

    if not overwrite and folder.head(MANIFEST) is not None:
        raise UsageError(f"--out {to} holds a decoder already; choose another folder, or add --overwrite")
    # Of a file only its name: the folder is made to be given to others.
    name = model.rpartition("/")[2] if model.endswith(".safetensors") else model
    files = exported_files(load_model(model, store), name, __version__)
    for file in files:
        folder.put(file.name, file.data)
    print_table(("file", "bytes", "what it is"), [(file.name, len(file.data), file.what) for file in files])
    out.print(f"{folder.uri}: a decoder of {model}")
    return ExitCode.OK
