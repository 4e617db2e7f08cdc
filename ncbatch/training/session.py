"""A training from its request to its exported checkpoint: saved every few minutes, resumed where it stopped.

<output>/state.pt            weights, optimizer states, step, log; replaced as a whole
<output>/log.parquet         one row per hundred steps
<output>/model.safetensors   the checkpoint as exported at the last save
<output>/loss.png            the loss curve
"""

from __future__ import annotations

import io
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ncbatch import signals
from ncbatch.codec.model.checkpoint import Checkpoint, export, parse
from ncbatch.errors import NcbatchError, StoppedByPolicyError
from ncbatch.store import ObjectNotFound, Store
from ncbatch.training.images import TrainingImages
from ncbatch.training.settings import TrainingSettings
from ncbatch.training.trainer import StepReport, Trainer
from ncbatch.training.validation import Score, score

log = logging.getLogger(__name__)

STATE, LOG, MODEL, PLOT = "state.pt", "log.parquet", "model.safetensors", "loss.png"
_STEPS_PER_ROW = 100
_SECONDS_PER_LINE = 2.0  # a hundred steps take minutes on a slow machine: progress is shown between rows


class TimeIsUpError(StoppedByPolicyError):
    """A training ended before its last step since its time was over; it is saved."""


@dataclass
class LogRow:
    """Means over `_STEPS_PER_ROW` steps, and the score on the validation images where it was computed."""

    step: int
    loss: float
    bpp: float
    mse: float
    gradient_norm: float
    learning_rate: float
    steps_per_second: float
    validation_bpp: float | None = None
    validation_psnr: float | None = None
    validation_rd_loss: float | None = None


@dataclass(frozen=True)
class SessionOptions:
    """How a training is carried out; none of it changes the weights.

    Attributes:
        save_seconds: between two saves, each of which validates.
        max_seconds: until the training is saved and left for later; None for as long as it takes.
        dtype: of the weights in the exported checkpoint.
    """

    save_seconds: float = 300.0
    max_seconds: float | None = None
    dtype: torch.dtype = torch.float16


def _interruptible(steps: Iterator[StepReport]) -> Iterator[StepReport]:
    """Passes steps on. Ctrl-C or SIGTERM ends them between two steps, a second signal at once.

    A half-done step must not be saved as a whole one.
    """
    with signals.deferred(signal.SIGINT, signal.SIGTERM) as asked:
        for step in steps:
            yield step
            asked.obey()


@dataclass
class Session:
    """One training in one output folder.

    Of several workers that share a training all resume, but only the first saves.
    """

    settings: TrainingSettings
    validation: TrainingImages
    output: Store
    trainer: Trainer
    options: SessionOptions = field(default_factory=SessionOptions)
    show: Callable[[LogRow, int], None] = lambda row, steps: None
    rows: list[LogRow] = field(default_factory=list)

    def run(self) -> Checkpoint:
        """Trains to the end, from wherever it stopped; a finished training is only read.

        Raises:
            NcbatchError: the output holds a training with other settings, or the loss is not finite.
            TimeIsUpError: `max_seconds` are over; what was trained is saved.
        """
        self._resume()
        recent: list[StepReport] = []
        started = saved = shown = time.monotonic()
        end = math.inf if self.options.max_seconds is None else started + self.options.max_seconds
        try:
            for report in _interruptible(self.trainer.run()):
                recent.append(report)
                if report.ends and self.trainer.step < self.settings.steps:
                    raise TimeIsUpError(
                        f"the time is up: step {self.trainer.step} of {self.settings.steps} is saved in "
                        f"{self.output.uri}; run the same command again to continue"
                    )
                self.trainer.end_wanted = time.monotonic() > end
                if len(recent) < _STEPS_PER_ROW and self.trainer.step < self.settings.steps:
                    now = time.monotonic()
                    if self._leads and now - shown > _SECONDS_PER_LINE:
                        shown = now
                        self.show(_row(recent, self.settings, now - started), self.settings.steps)
                    continue
                self.rows.append(_row(recent, self.settings, time.monotonic() - started))
                recent = []
                started = shown = time.monotonic()
                last = self.trainer.step == self.settings.steps
                if last or time.monotonic() - saved > self.options.save_seconds:
                    self.save()
                    saved = time.monotonic()
                if self._leads:
                    self.show(self.rows[-1], self.settings.steps)
        except (KeyboardInterrupt, TimeIsUpError):
            self.save()
            raise
        return self._exported()

    @property
    def _leads(self) -> bool:
        return self.trainer.worker.rank == 0

    def _resume(self) -> None:
        try:
            data = self.output.get(STATE)
        except ObjectNotFound:
            return
        state = load_state(data, self.output.uri + STATE)
        check_settings(state, self.settings, self.output.uri)
        self.trainer.restore(state)
        self.rows = [LogRow(**row) for row in state["log"]]
        log.info("continuing at step %d of %d in %s", self.trainer.step, self.settings.steps, self.output.uri)

    def save(self) -> None:
        """Validates and saves; readers see the old state or the new one, never half of it."""
        if not self._leads:
            return
        checkpoint = self._exported()
        if self.rows:
            result = score(checkpoint, self.validation, self.trainer.device)
            self.rows[-1] = _scored(self.rows[-1], result)
        state = self.trainer.state()
        state |= {"log": [asdict(row) for row in self.rows], "digest": checkpoint.digest}
        sink = io.BytesIO()
        torch.save(state, sink)
        self.output.put(MODEL, checkpoint.to_bytes())
        self.output.put(LOG, _log_table(self.rows))
        self.output.put(PLOT, plot(self.rows))
        self.output.put(STATE, sink.getvalue())  # last: it says whether the training is done

    def _exported(self) -> Checkpoint:
        return export(
            self.trainer.model.network.state_dict(),
            kind=self.settings.kind,
            lmbda=self.settings.lmbda,
            dtype=self.options.dtype,
        )


def finished(output: Store, settings: TrainingSettings) -> Checkpoint | None:
    """The checkpoint of a training that is done; None of one that is not.

    Raises:
        NcbatchError: the output holds a training with other settings, or a damaged one.
    """
    try:
        state = load_state(output.get(STATE), output.uri + STATE)
    except ObjectNotFound:
        return None
    check_settings(state, settings, output.uri)
    if state["step"] < settings.steps:
        return None
    checkpoint = parse(output.get(MODEL), output.uri + MODEL)
    if checkpoint.digest != state["digest"]:
        raise NcbatchError(
            f"{output.uri}{MODEL} is not what the training in {output.uri}{STATE} ended with "
            f"({checkpoint.digest[:16]}, not {state['digest'][:16]}); delete both to train again"
        )
    return checkpoint


def _row(reports: Sequence[StepReport], settings: TrainingSettings, seconds: float) -> LogRow:
    def mean(name: str) -> float:
        return sum(getattr(report, name) for report in reports) / len(reports)

    step = reports[-1].step + 1
    return LogRow(
        step=step,
        loss=mean("loss"),
        bpp=mean("bpp"),
        mse=mean("mse"),
        gradient_norm=mean("gradient_norm"),
        learning_rate=settings.rate_at(step - 1),
        steps_per_second=len(reports) / seconds,
    )


def _scored(row: LogRow, result: Score) -> LogRow:
    row.validation_bpp, row.validation_psnr = result.bpp, result.psnr
    row.validation_rd_loss = result.rd_loss
    return row


def _log_table(rows: Sequence[LogRow]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows]), sink)
    return sink.getvalue()


def load_state(data: bytes, name: str) -> dict[str, Any]:
    """A saved state: tensors and plain values only, no code.

    Raises:
        NcbatchError: it is damaged.
    """
    try:
        return dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    except Exception as error:  # whatever torch's unpickler happens upon
        raise NcbatchError(f"{name} is damaged; delete it to train from the start") from error


def check_settings(state: dict[str, Any], asked: TrainingSettings, uri: str) -> None:
    """Refuses to continue a training under other settings, naming the differences.

    More steps are another training as well where the learning rate's decay is spread over them: every step so
    far would have had another rate. Under a constant rate nothing so far depends on their number.

    Raises:
        NcbatchError: the settings differ in what the weights so far depend on.
    """
    # What an earlier version could not be told, it did as the default is.
    defaults = {name: field.default for name, field in TrainingSettings.model_fields.items()}
    stored, here = defaults | state["settings"], asked.model_dump()
    names = [name for name in here if stored[name] != here[name]]
    if names == ["steps"]:
        if asked.decay == "constant" and asked.steps >= state["step"]:
            return
        raise NcbatchError(_other_steps(stored["steps"], int(state["step"]), asked, uri))
    if names:
        differences = "; ".join(f"{n}: {stored[n]} there, {here[n]} asked for" for n in names)
        raise NcbatchError(
            f"{uri} holds a training with other settings; give it the same ones to continue it, or choose "
            f"another --out. {differences}"
        )


def _other_steps(stored: int, done: int, asked: TrainingSettings, uri: str) -> str:
    what = f"{uri} holds a training of {stored} steps, not {asked.steps}"
    if asked.decay == "constant":
        return f"{what}, and has done {done} already; choose another --out for a shorter one"
    return (
        f"{what}; its learning rate falls over all its steps, so their number cannot be changed afterwards. "
        f"To train its model further: --start-from {uri}{MODEL} with another --out"
    )


def plot(rows: Sequence[LogRow]) -> bytes:
    """The loss curve as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([r.step for r in rows], [r.loss for r in rows], label="training")
    scored = [(r.step, r.validation_rd_loss) for r in rows if r.validation_rd_loss is not None]
    axes.plot([s for s, _ in scored], [loss for _, loss in scored], "o-", label="validation")
    axes.set(xlabel="step", ylabel="bits per pixel + lmbda * MSE", yscale="log")
    axes.legend()
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()
