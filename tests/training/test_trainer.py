import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ncbatch.errors import NcbatchError, Terminated, UsageError
from ncbatch.store import Store, open_store
from ncbatch.training.images import TrainingImages, read_images
from ncbatch.training.session import STATE, Session, SessionOptions, TimeIsUpError, load_state
from ncbatch.training.settings import TrainingSettings, paper
from ncbatch.training.train import Group, TrainingRequest, divided, train_here, train_on_ray
from ncbatch.training.trainer import Trainer, TrainingDivergedError
from tests.training.conftest import make_image, settings

CPU = torch.device("cpu")

TRAIN = """
import sys
import torch
torch.set_num_threads(1)
from ncbatch.store import open_store
from ncbatch.training.images import read_images
from ncbatch.training.session import Session, SessionOptions
from ncbatch.training.train import Group, TrainingRequest, divided, train_here, train_on_ray
from ncbatch.training.trainer import Trainer
from tests.training.conftest import settings
corpus, output, steps = open_store(sys.argv[1]), open_store(sys.argv[2], create=True), int(sys.argv[3])
photographs = read_images(corpus, [i.key for i in corpus.list()], 64, 1 << 30)
asked = settings(steps=steps)
trainer = Trainer(asked, photographs, torch.device("cpu"))
options = SessionOptions(save_seconds=0)
show = lambda row, steps: print(row.step, flush=True)
Session(asked, photographs, output, trainer, options, show).run()
"""


def session(asked: TrainingSettings, photographs: TrainingImages, output: Store, **options: Any) -> Session:
    validation = TrainingImages(photographs.images[:1])
    return Session(asked, validation, output, Trainer(asked, photographs, CPU), **options)


def weights(output: Store) -> bytes:
    return output.get("model.safetensors")


def test_loss_falls(photographs: TrainingImages) -> None:
    losses = [report.loss for report in Trainer(settings(steps=60), photographs, CPU).run()]
    assert len(losses) == 60 and np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


@pytest.mark.slow
def test_killed_and_resumed_arrives_at_the_same_weights(corpus: Store, tmp_path: Path) -> None:
    """SIGKILL somewhere after the first save; then the same command again."""
    steps = "220"
    command = [sys.executable, "-c", TRAIN, corpus.uri]
    whole = subprocess.run(
        [*command, str(tmp_path / "whole"), steps], check=True, capture_output=True, text=True
    )
    assert whole.stdout.split()[-1] == steps
    with subprocess.Popen(
        [*command, str(tmp_path / "killed"), steps], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while not (tmp_path / "killed" / STATE).exists():
            assert process.stdout.readline(), "it ended before its first save"
        time.sleep(0.2)
        process.kill()
    state = load_state((tmp_path / "killed" / STATE).read_bytes(), "killed")
    assert 0 < state["step"] < int(steps)
    again = subprocess.run(
        [*command, str(tmp_path / "killed"), steps], check=True, capture_output=True, text=True
    )
    assert int(again.stdout.split()[0]) > state["step"], "it started over"
    for name in ("whole", "killed"):
        assert (tmp_path / name / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "killed" / "model.safetensors"
    ).read_bytes()


def test_a_finished_training_is_only_read(photographs: TrainingImages, tmp_path: Path) -> None:
    output = open_store(str(tmp_path), create=True)
    first = session(settings(), photographs, output).run()
    seen = []
    second = session(settings(), photographs, output, show=lambda row, n: seen.append(row)).run()
    assert second.digest == first.digest and not seen


def test_other_settings_are_refused_with_the_difference(photographs: TrainingImages, tmp_path: Path) -> None:
    output = open_store(str(tmp_path), create=True)
    session(settings(), photographs, output).run()
    with pytest.raises(NcbatchError, match=r"learning_rate: 0\.0008 there, 0\.001 asked for"):
        session(settings(learning_rate=1e-3), photographs, output).run()


def test_more_steps_under_a_constant_rate_arrive_where_one_training_would(
    photographs: TrainingImages, tmp_path: Path
) -> None:
    whole, longer = (open_store(str(tmp_path / name), create=True) for name in ("whole", "longer"))
    session(settings(decay="constant", steps=6), photographs, whole).run()
    session(settings(decay="constant", steps=3), photographs, longer).run()
    session(settings(decay="constant", steps=6), photographs, longer).run()
    assert weights(longer) == weights(whole)
    with pytest.raises(NcbatchError, match="has done 6 already; choose another --out"):
        session(settings(decay="constant", steps=4), photographs, longer).run()


def test_more_steps_are_refused_where_the_rate_falls_over_them(
    photographs: TrainingImages, tmp_path: Path
) -> None:
    output = open_store(str(tmp_path), create=True)
    session(settings(), photographs, output).run()
    with pytest.raises(NcbatchError, match=r"6 steps, not 9; .*--start-from .*model\.safetensors"):
        session(settings(steps=9), photographs, output).run()


def test_progress_is_shown_before_a_row_is_full(
    photographs: TrainingImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncbatch.training.session._SECONDS_PER_LINE", 0.0)
    output, seen = open_store(str(tmp_path), create=True), []
    session(settings(), photographs, output, show=lambda row, n: seen.append(row.step)).run()
    assert seen == [1, 2, 3, 4, 5, 6]
    assert len(load_state(output.get(STATE), STATE)["log"]) == 1, "the log keeps whole rows only"


def test_reading_a_large_corpus_tells_how_far_it_is(
    corpus: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", logger="ncbatch")
    monkeypatch.setattr("ncbatch.training.images._SECONDS_PER_LINE", -1.0)
    read_images(corpus, [info.key for info in corpus.list()][:2], 64, 1 << 30)
    assert caplog.messages[:2] == [f"reading images for training: {number} of 2" for number in (1, 2)]


def test_what_is_in_memory_is_told_in_words(corpus: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="ncbatch")
    keys = [info.key for info in corpus.list()]
    read_images(corpus, keys[:1], 64, 1 << 30, "validation")
    read_images(corpus, keys[:2], 256, 60_000)
    assert caplog.messages == [
        "1 image for validation in memory",
        "1 image for training in memory; 1 smaller than the crop, padded to it; "
        "1 left out because --memory is full",
    ]


@pytest.mark.parametrize(("count", "validation"), [(2, 1), (19, 1), (20, 2), (80, 8), (1000, 8)])
def test_a_tenth_and_at_most_eight_images_are_for_validation(count: int, validation: int) -> None:
    keys = [f"{number}.png" for number in range(count)]
    training, held_out = divided("photographs/", keys)
    assert len(held_out) == validation
    assert sorted(training + held_out) == sorted(keys)


def test_one_image_cannot_be_divided() -> None:
    with pytest.raises(UsageError, match="photographs/ holds 1 image; training needs at least two"):
        divided("photographs/", ["a.png"])


def test_other_photographs_are_refused(photographs: TrainingImages, tmp_path: Path) -> None:
    output = open_store(str(tmp_path), create=True)
    session(settings(steps=300), photographs, output).save()
    others = TrainingImages([~pixels for pixels in photographs.images])
    with pytest.raises(NcbatchError, match="saw other images"):
        session(settings(steps=300), others, output).run()


def test_a_damaged_state_is_one_error(photographs: TrainingImages, tmp_path: Path) -> None:
    output = open_store(str(tmp_path), create=True)
    session(settings(), photographs, output).run()
    output.put(STATE, output.get(STATE)[:1000])
    with pytest.raises(NcbatchError, match=r"state\.pt is damaged"):
        session(settings(), photographs, output).run()


def test_ctrl_c_saves(photographs: TrainingImages, tmp_path: Path) -> None:
    output = open_store(str(tmp_path), create=True)

    def interrupt(row: Any, steps: int) -> None:
        if row.step == 100:  # a slow machine shows rows before that, too
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session(settings(steps=300), photographs, output, show=interrupt).run()
    resumed = session(settings(steps=300), photographs, output)
    resumed._resume()
    assert resumed.trainer.step == 100 and resumed.rows[-1].validation_psnr is not None


def test_a_training_whose_time_is_up_is_saved_and_gone_on_with(
    photographs: TrainingImages, tmp_path: Path
) -> None:
    """Each session takes a step at least, and together they arrive where one without a limit does."""
    output, options = open_store(str(tmp_path / "a"), create=True), SessionOptions(max_seconds=0.0)
    for step in (2, 4):  # the step under way when the time is over, and the one that all workers agree on
        with pytest.raises(TimeIsUpError, match=f"step {step} of 6 is saved in .*/a/; run the same command"):
            session(settings(), photographs, output, options=options).run()
    digest = session(settings(), photographs, output, options=options).run().digest
    assert (
        digest == session(settings(), photographs, open_store(str(tmp_path / "b"), create=True)).run().digest
    )


def test_gradients_are_clipped_only_where_asked(photographs: TrainingImages) -> None:
    def norm_left(clip: float) -> torch.Tensor:
        trainer = Trainer(settings(clip=clip, steps=1, warmup=0), photographs, CPU)
        (report,) = trainer.run()
        gradients = [p.grad for p in trainer.model.main_parameters() if p.grad is not None]
        norm = torch.stack([g.norm() for g in gradients]).norm()
        assert report.gradient_norm > 1
        return norm / report.gradient_norm

    assert norm_left(0).item() == pytest.approx(1, rel=1e-4)
    assert norm_left(1e-3).item() < 1e-2
    assert paper(0.01).clip == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_step_waits_for_its_end(
    photographs: TrainingImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Weights after a step under the number of the step before would train on to others."""
    interrupted = session(settings(), photographs, open_store(str(tmp_path / "a"), create=True))
    real, calls = interrupted.trainer._advance, []

    def advance(*batch: Any) -> Any:
        report = real(*batch)
        calls.append(report)
        if len(calls) == 5:
            signal.raise_signal(number)
        return report

    monkeypatch.setattr(interrupted.trainer, "_advance", advance)
    before = signal.getsignal(number)
    with pytest.raises(Terminated if number == signal.SIGTERM else KeyboardInterrupt):
        interrupted.run()
    assert signal.getsignal(number) is before
    resumed = session(settings(), photographs, open_store(str(tmp_path / "a"), create=True))
    digest = resumed.run().digest
    assert len(calls) == 5 == interrupted.trainer.step
    assert (
        digest == session(settings(), photographs, open_store(str(tmp_path / "b"), create=True)).run().digest
    )


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    photographs: TrainingImages, tmp_path: Path
) -> None:
    output = open_store(str(tmp_path), create=True)
    work = session(settings(steps=300), photographs, output, options=SessionOptions(save_seconds=0))

    def poison(row: Any, steps: int) -> None:
        if row.step == 100:  # rows are shown on the way there, too, on a slow machine
            next(work.trainer.model.network.g_a.parameters()).data[0] = torch.nan

    work.show = poison
    with pytest.raises(TrainingDivergedError, match="step 100"):
        work.run()
    kept = session(settings(steps=300), photographs, output)
    kept._resume()
    assert kept.trainer.step == 100
    assert all(bool(p.isfinite().all()) for p in kept.trainer.model.parameters())


def test_crops_are_those_of_seed_step_and_index(photographs: TrainingImages) -> None:
    assert np.array_equal(photographs.crop(0, 3, 1, 64), photographs.crop(0, 3, 1, 64))
    crops = {photographs.crop(0, step, i, 64).tobytes() for step in range(4) for i in range(4)}
    assert len(crops) == 16


def test_unusable_and_small_images_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(make_image(0, 40, 200)).save(tmp_path / "small.png")
    Image.fromarray(make_image(1, 80, 80)).save(tmp_path / "fine.png")
    (tmp_path / "text.png").write_text("not an image")
    corpus = open_store(str(tmp_path))
    keys = [info.key for info in corpus.list()]
    with caplog.at_level("INFO"):
        found = read_images(corpus, keys, 64, 1 << 30)
    assert len(found.images) == 2
    assert caplog.messages[-1] == (
        "2 images for training in memory; 1 could not be read; 1 smaller than the crop, padded to it"
    )
    assert all(min(p.shape[:2]) >= 64 for p in found.images)
    assert len(read_images(corpus, keys, 64, 20_000).images) == 1  # the other does not fit
    with pytest.raises(UsageError, match="no usable image"):
        read_images(corpus, ["text.png"], 64, 1 << 30)


def test_schedules() -> None:
    cosine = settings(steps=1000, warmup=10, learning_rate=1e-3)
    assert cosine.rate_at(0) == pytest.approx(1e-4) and cosine.rate_at(500) == pytest.approx(
        5.05e-4, rel=1e-2
    )
    assert cosine.rate_at(999) == pytest.approx(1e-5, rel=1e-2)
    assert {paper(0.01).rate_at(step) for step in (0, 10**6)} == {1e-4}
    assert [(paper(r).n, paper(r).steps) for r in (0.001, 0.01, 0.04, 0.08)] == [
        (192, 10**6), (192, 2 * 10**6), (256, 2 * 10**6), (256, 3 * 10**6),
    ]  # fmt: skip


@pytest.mark.ray
@pytest.mark.slow
def test_two_ray_train_workers_compute_what_one_does(
    corpus: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same losses and weights to float tolerance, with the same global batch."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    keys = tuple(info.key for info in corpus.list())
    asked = settings(steps=12)

    def request(name: str) -> TrainingRequest:
        return TrainingRequest(asked, corpus.uri, keys, str(tmp_path / name))

    seen: list[int] = []
    alone = train_here(request("one"), lambda row, steps: None)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        together = train_on_ray(
            request("two"), lambda row, steps: seen.append(row.step), Group(2, use_gpu=False)
        )
        assert seen == [12]
    finally:
        ray.shutdown()
    logs = [pq.read_table(tmp_path / name / "log.parquet").to_pylist()[-1] for name in ("one", "two")]
    assert logs[1]["loss"] == pytest.approx(logs[0]["loss"], rel=1e-3)
    assert logs[1]["validation_rd_loss"] == pytest.approx(logs[0]["validation_rd_loss"], rel=5e-3)
    for part, name in (("g_a", "0.weight"), ("h_s", "4.weight"), ("prior", "matrices.0")):
        a, b = alone.section(part)[name].float(), together.section(part)[name].float()
        assert torch.allclose(a, b, atol=2e-3), (part, name)
