"""`ncbatch train` and `ncbatch models` as a user runs them."""

from __future__ import annotations

import pickle
import signal
from pathlib import Path

import pytest

from ncbatch.codec.model.checkpoint import parse
from ncbatch.models import catalog
from tests.end_to_end.command_line import Said, ncbatch, running, wait_for
from tests.end_to_end.conftest import Head
from tests.end_to_end.images import save_images

SMALL = ("--n", "8", "--m", "12", "--crop", "64", "--batch-size", "2", "--threads", "1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    save_images(folder, 6)
    return folder


@pytest.mark.ray
def test_a_ladder_is_trained_interrupted_and_gone_on_with(
    head: Head, said: Said, corpus: Path, tmp_path: Path
) -> None:
    ladder = ("train", corpus, "--out", tmp_path / "models", "--ladder", "0.01,0.02", "--kind", "bits-back")
    words = (*ladder, *SMALL, "--steps", "2000", "--warm-steps", "40")
    state = tmp_path / "models" / "base-0.020" / "state.pt"
    with running(*words, "--save-minutes", "0.01") as command:
        wait_for(state.exists, "the first save")
        command.signal_group(signal.SIGINT)
        done = command.wait()
    assert done.code == 130 and "Traceback" not in done.err, str(done)
    done = ncbatch(*words).expect(0)
    assert "continuing at step" in done.err and "base-0.020: step 2000/2000 | loss " in done.err
    names = ["base-0.010", "base-0.020", "bits-back-0.010", "bits-back-0.020"]
    trained = [parse((tmp_path / "models" / n / "model.safetensors").read_bytes(), n) for n in names]
    assert [(t.info.kind, t.info.lmbda) for t in trained] == [
        ("base", 0.01), ("base", 0.02), ("bits-back", 0.01), ("bits-back", 0.02),
    ]  # fmt: skip
    again = said(*words).expect(0)
    assert again.err.count(" is already trained") == 4 and "step" not in again.err

    listed = said("models", tmp_path / "models").expect(0).out
    assert all(f"{name}/model.safetensors" in listed for name in names)
    assert all(t.digest[:16] in listed for t in trained) and "compressai:mbt2018-mean/8" in listed
    coded = ncbatch(
        "encode", corpus, tmp_path / "out", "--method", "amortized", "--workers", "1",
        "--model", tmp_path / "models" / "base-0.020" / "model.safetensors", "--ray-address", head.address,
    )  # fmt: skip
    coded.expect(0)


def test_a_training_ends_after_its_minutes_and_goes_on(said: Said, corpus: Path, tmp_path: Path) -> None:
    words = ("train", corpus, "--out", tmp_path / "out", "--lmbda", "0.01", *SMALL, "--steps", "8")
    stopped = said(*words, "--max-minutes", "0.000001").expect(3)
    assert "the time is up: step 2 of 8 is saved" in stopped.err and "Traceback" not in stopped.err
    done = said(*words, "--max-minutes", "30").expect(0)
    assert "continuing at step 2 of 8" in done.err


def test_sigterm_saves_a_training(corpus: Path, tmp_path: Path) -> None:
    words = ("train", corpus, "--out", tmp_path / "out", "--lmbda", "0.01", *SMALL, "--steps", "100000")
    with running(*words) as command:
        wait_for(lambda: " step " in command.err, "steps are done")
        command.process.send_signal(signal.SIGTERM)
        done = command.wait()
    assert done.code == 143, str(done)
    assert done.err.splitlines()[-1].startswith("ncbatch: ended by SIGTERM; ")
    assert (tmp_path / "out" / "state.pt").exists() and "Traceback" not in done.err


def test_a_dry_run_trains_nothing(said: Said, corpus: Path, tmp_path: Path) -> None:
    ladder = ("train", corpus, "--out", tmp_path / "models", "--ladder", "0.01,0.02", "--kind", "bits-back")
    words = (*ladder, *SMALL, "--steps", "100", "--warm-steps", "7", "--dry-run", "--price-per-hour", "3600")
    told = said(*words).expect(0).out.splitlines()
    assert [line.split()[0] for line in told[1:5]] == [
        "base-0.020", "base-0.010", "bits-back-0.020", "bits-back-0.010",
    ]  # fmt: skip
    assert told[2].split()[3:5] == ["7", "base-0.020"], "a warm start has steps of its own"
    assert "with one worker like this machine, on 5 images" in told[5]
    assert told[5].endswith("; 1 more for validation")
    assert told[6].startswith("cost: ") and told[6].endswith("at 3600 per device hour")
    assert not (tmp_path / "models").exists()


@pytest.mark.ray
def test_every_builtin_model_encodes_and_verifies(head: Head, said: Said, tmp_path: Path) -> None:
    names, images = list(catalog.builtin_models()), 2
    save_images(tmp_path / "in", images)
    (tmp_path / "spec.yaml").write_text(f"variants: [{{method: amortized, model: [{', '.join(names)}]}}]")
    words = ("--spec", tmp_path / "spec.yaml", "--ray-address", head.address)
    ncbatch("encode", tmp_path / "in", tmp_path / "out", *words).expect(0)
    told = said("verify", tmp_path / "out").expect(0).out
    assert f"{images * len(names)} images verified" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--lmbda", "0.01", "--crop", "100"), "--crop: 100 is not a multiple of 64"),
        (("--lmbda", "-1"), "--lmbda: '-1' is not a finite number greater than 0"),
        (("--ladder", "0.01,much"), "--ladder: 'much' is not a finite number"),
        (("--ladder", "0.01,0"), "--ladder: '0' is not a finite number greater than 0"),
        (("--lmbda", "0.01", "--kind", "best"), "there is no 'best'; the choices are base, bits-back"),
        (("--lmbda", "0.01", "--kind", "base,bits-back"), "--lmbda trains one model"),
        (("--lmbda", "0.01", "--optimizer", "adam", "--muon-learning-rate", "0.1"), "leave one of them out"),
        (("--lmbda", "0.01", "--n", "32", "--start-from", "base-0.010"), "give --n 64"),
        (("--lmbda", "0.01", "--n", "32", "--start-from", "base-0.010", "--dry-run"), "give --n 64"),
        (("--lmbda", "0.01", "--workers", "0"), "--workers: '0' is not a whole number"),
        (("--lmbda", "0.01", "--save-minutes", "0"), "--save-minutes: '0' is not a finite number"),
        (("--lmbda", "0.01", "--start-from", "no-such-model"), "there is no model 'no-such-model'"),
        (("--lmbda", "0.01", "--ladder"), "--lmbda trains one model and --ladder several; give one of them"),
        ((), "give --lmbda WEIGHT to train one model, or --ladder for several models"),
    ],
)
def test_wrong_words_are_named(
    said: Said, corpus: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    assert message in said("train", corpus, "--out", tmp_path / "out", *words).expect(1).err


def test_checkpoints_that_are_none_are_named(said: Said, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(pickle.dumps({"g_a.0.weight": 1}))
    words = ("train", corpus, "--out", tmp_path / "out", "--lmbda", "0.01", *SMALL, "--start-from")
    assert "is a pickled torch file" in said(*words, tmp_path / "weights.pt").expect(1).err
    assert "N = 64, M = 128 cannot start" in said(*words, "base-0.010").expect(1).err


def test_a_corpus_without_images_is_named(said: Said, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("no image")
    (tmp_path / "in" / "a.png").write_text("no image")
    words = ("train", tmp_path / "in", "--out", tmp_path / "out", "--lmbda", "0.01", *SMALL)
    assert "holds 1 image; training needs at least two" in said(*words).expect(1).err
    (tmp_path / "in" / "b.png").write_text("no image")
    assert "holds no usable image" in said(*words).expect(1).err


def test_a_finished_training_whose_checkpoint_was_exchanged(said: Said, corpus: Path, tmp_path: Path) -> None:
    words = ("train", corpus, *SMALL, "--lmbda", "0.01", "--steps", "3", "--out")
    said(*words, tmp_path / "a").expect(0)
    said(*words, tmp_path / "b", "--seed", "1").expect(0)
    other = (tmp_path / "b" / "model.safetensors").read_bytes()
    (tmp_path / "a" / "model.safetensors").write_bytes(other)
    assert "is not what the training" in said(*words, tmp_path / "a").expect(1).err
    told = said(*words, tmp_path / "b").expect(1).err
    assert "other settings" in told and "seed: 1 there, 0 asked for" in told
