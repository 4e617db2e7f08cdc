"""The command that tells whether a machine computes as it has to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from ncbatch.cli.common import Json
from ncbatch.cli.console import out
from ncbatch.cli.flags import command
from ncbatch.errors import UsageError
from ncbatch.exit_codes import ExitCode
from ncbatch.settings import Setting

if TYPE_CHECKING:
    from ncbatch.selftest.selftest import Report

Device = Literal["cpu", "cuda"]

_FOR_PROGRAMS = ("ok", "problem", "seconds")  # a person is told of a problem on standard error


@command
def selftest(
    *,
    device: Annotated[Device | None, Setting(
        "what to test: cpu, or cuda for the first GPU", "DEVICE", default="cuda where there is one",
    )] = None,
    json: Json = False,
) -> ExitCode:  # fmt: skip
    """Decodes files from elsewhere, encodes an image, and says what the device is and how fast.

    Raises:
        UsageError: there is no such device.
        SelfTestError: a check failed.
    """
    import torch

    from ncbatch.selftest.selftest import SelfTestError, run

    if device == "cuda" and not torch.cuda.is_available():
        built = (
            "torch is built without CUDA" if torch.version.cuda is None else "nvidia-smi says what there is"
        )
        raise UsageError(f"--device cuda: torch finds no GPU here ({built}); test the CPU with --device cpu")
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    report = run(torch.device(chosen))
    facts = _found(report)
    if json:
        out.print_json(data=facts)
    else:
        for name, value in facts.items():
            if value is not None and name not in _FOR_PROGRAMS:
                out.print(f"{name.replace('_', ' ')}: {value}")
    if report.problem is not None:
        raise SelfTestError(f"the self-test failed at {report.problem}")
    if not json:
        out.print("everything is as it has to be")
    return ExitCode.OK


def _found(report: Report) -> dict[str, Any]:
    return {
        "ok": report.problem is None,
        **{name.replace(" ", "_"): value for name, value in report.facts.items()},
        "golden_files": report.files,
        "golden_images": report.images,
        "steps_per_second": report.steps_per_second,
        "problem": report.problem,
        "seconds": report.seconds,
    }
