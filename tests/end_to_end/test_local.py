"""The main job from folder to folder on a local Ray, and what its users do with the result."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.end_to_end.command_line import Said, environment, ncbatch
from tests.end_to_end.conftest import Head
from tests.end_to_end.images import save_image, save_images
from tests.end_to_end.runs import output_store, rows, statuses

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `in/`, five images, and `out/`, a finished run of them."""
    folder = tmp_path_factory.mktemp("local")
    keys = save_images(folder / "in", 3)
    save_image(folder / "in" / "below" / "sp ace+%25.png", 7, side=96)
    (folder / "in" / "notes.txt").write_text("not an image")
    done = ncbatch(*_command(folder)).expect(0)
    assert "4 images ok, 0 failed" in done.out
    assert "passed over 1 object that is excluded" in done.err
    assert "finished: 4/4 images" in done.err.splitlines()[-1]
    assert set(rows(output_store(folder / "out"))) == {*keys, "below/sp ace+%25.png"}
    return folder


def _command(folder: Path) -> tuple[str, ...]:
    words = ("--method", "sga", "--steps", "4", "--workers", "2")
    return ("encode", str(folder / "in"), str(folder / "out"), *words)


def test_a_run_is_read_decoded_verified_and_compacted(folder: Path, said: Said, tmp_path: Path) -> None:
    out = folder / "out"
    status = said("status", out).expect(0)
    assert "4 images in" in status.out and "0 pending" in status.out and "finished" in status.out
    told = json.loads(said("status", out, "--json").expect(0).out)
    assert (told["images"], told["ok"], told["failed"], told["pending"]) == (4, 4, 0, 0)
    assert told["driver"] is None
    assert "4 images verified" in ncbatch("verify", out).expect(0).out
    told = json.loads(said("verify", out, "--json").expect(0).out)
    assert told == {"verified": 4, "planned_again": 0, "failed_rows": 0, "pending": 0, "problems": []}

    sql = "select image_key, width, bpp from metrics order by image_key"
    table = said("query", out, sql).expect(0).out.splitlines()
    assert len(table) == 5 and table[0].split() == ["image_key", "width", "bpp"]
    csv = said("query", out, sql, "--format", "csv").expect(0).out.splitlines()
    assert csv[0] == "image_key,width,bpp" and csv[1].startswith("000.png,64,")
    assert "4 rows" in said("compact", out).expect(0).out
    told = json.loads(said("compact", out, "--json").expect(0).out)
    assert (told["rows"], told["parts"]) == (4, 1) and told["units"] >= 1
    told = json.loads(said("query", out, sql, "--format", "json").expect(0).out)
    assert [row["image_key"] for row in told] == ["000.png", "001.png", "002.png", "below/sp ace+%25.png"]

    assert "4 images decoded" in ncbatch("decode", out, tmp_path / "all").expect(0).out
    ncb = next((out / "bitstreams").rglob("000*.ncb"))
    said("decode", ncb, tmp_path / "one").expect(0)
    said("decode", ncb, tmp_path / "single.png").expect(0)
    assert (tmp_path / "single.png").read_bytes() == (tmp_path / "one" / "000.png").read_bytes()
    assert "4 images decoded" in said("decode", out, tmp_path / "all").expect(0).out
    told = json.loads(said("decode", out, tmp_path / "all", "--json").expect(0).out)
    assert told == {"decoded": 4, "destination": f"file://{tmp_path}/all/", "problems": []}
    told = json.loads(said("decode", ncb, tmp_path / "one", "--json").expect(0).out)
    assert told == {"decoded": 1, "files": [f"file://{tmp_path}/one/000.png"], "problems": []}
    (tmp_path / "single.png").write_bytes(b"own")
    assert "--overwrite" in said("decode", ncb, tmp_path / "single.png").expect(1).message
    several = said("decode", out, tmp_path / "several.png").expect(1)
    assert "names one file" in several.message
    assert not (out / ".ncbatch-tmp").exists()
    decoded = np.asarray(Image.open(tmp_path / "all" / "000.png")).astype(float)
    one = tmp_path / "one" / "000.png"
    assert np.array_equal(decoded, np.asarray(Image.open(one)))
    original = np.asarray(Image.open(folder / "in" / "000.png")).astype(float)
    row = rows(output_store(out))["000.png"]
    assert ((decoded - original) ** 2).mean() == pytest.approx(row["mse"], rel=1e-6)


def test_wrong_sql_gets_one_line(folder: Path, said: Said) -> None:
    assert (
        "bits_per_pixel"
        in said("query", folder / "out", "select bits_per_pixel from metrics").expect(1).message
    )
    assert "only table is metrics" in said("query", folder / "out", "select * from rows").expect(1).message


def test_other_settings_are_refused_with_the_differences(folder: Path, said: Said) -> None:
    words = [word if word != "4" else "5" for word in _command(folder)]
    message = said(*words, "--seed", "3").expect(1).message
    assert "holds a run with other settings" in message
    assert "steps: 4 there, 5 asked for" in message and "seed: 0 there, 3 asked for" in message


def test_the_same_command_goes_on(head: Head, folder: Path, said: Said) -> None:
    """Again with nothing to do; then with an input added, one changed and one broken: generation 1."""
    out = output_store(folder / "out")
    before = rows(out)
    out.put("wip/00/left", b"by a worker that died between a commit and its tidying up")
    again = ncbatch(*_command(folder)).expect(0)
    assert "starting Ray" not in again.err, "no Ray is needed when nothing is left to do"
    assert "4 images ok" in again.out and "finished: 4/4 images" in again.err
    assert rows(out) == before and not list(out.list("wip/"))

    save_image(folder / "in" / "001.png", seed=99, side=80)
    save_image(folder / "in" / "new.png", seed=100)
    (folder / "in" / "torn.png").write_bytes((folder / "in" / "002.png").read_bytes()[:200])
    (folder / "in" / "empty.jpg").write_bytes(b"")
    done = ncbatch(*_command(folder), "--ray-address", head.address).expect(2)  # too few to ask about
    assert "4 inputs are new or changed" in done.err
    assert "5 images ok, 2 failed" in done.out
    assert "failed: empty.jpg: " in done.err and "failed: torn.png: " in done.err
    after = rows(out)
    assert {key: row["generation"] for key, row in after.items()} == {
        "000.png": 0, "002.png": 0, "below/sp ace+%25.png": 0,
        "001.png": 1, "new.png": 1, "torn.png": 1, "empty.jpg": 1,
    }  # fmt: skip
    assert after["001.png"]["width"] == 80
    assert after["000.png"] == before["000.png"]
    assert statuses(out)["torn.png"] == "truncated"
    told = said("verify", folder / "out").expect(0).out
    assert "5 images verified" in told and "2 rows failed" in told


def test_damage_is_found_planned_again_and_repaired_by_the_command_that_verify_prints(
    head: Head, folder: Path, said: Said
) -> None:
    """The run is finished, by the same command too; so a repair has to be asked for."""
    out = output_store(folder / "out")
    lost, other = (str(rows(out)[key]["bitstream_key"]) for key in ("000.png", "002.png"))
    out.delete(lost)
    out.put(other, out.get(other)[:-1])
    out.delete("models/" + rows(out)["000.png"]["model_digest"] + ".safetensors")
    assert "--repair` plans them again" in said("verify", folder / "out").expect(2).out
    told = said("verify", folder / "out", "--repair").expect(2)
    assert "put back" in told.err and "000.png (sga): " in told.err and "002.png (sga): " in told.err
    assert "2 images pending" in told.out and "2 damaged rows planned again" in told.out
    program, *words = shlex.split(told.out.splitlines()[-1])
    assert program == "ncbatch"
    before = rows(out)
    ncbatch(*words, "--retry-failed", "--ray-address", head.address)
    after = rows(out)
    assert {key for key, row in after.items() if row["bitstream_key"] != before[key]["bitstream_key"]} == {
        "000.png", "002.png",
    }  # fmt: skip
    failed = {key for key, row in after.items() if row["status"] == "failed"}
    assert {key for key in failed if after[key]["generation"] == before[key]["generation"]} == set()
    assert "images verified" in said("verify", folder / "out").expect(0).out
    told = said("failures", folder / "out", "--json").expect(0)
    assert json.loads(told.out)["failed"] == len(failed)
    for name in failed:
        assert name in said("failures", folder / "out").expect(0).out


def test_what_cannot_be_encoded_is_said_in_one_line(folder: Path, said: Said, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty = said("encode", tmp_path / "empty", tmp_path / "out").expect(1)
    assert "holds no images" in empty.message
    missing = ncbatch("encode", tmp_path / "no", tmp_path / "out").expect(1)
    assert "does not exist" in missing.message
    assert "no run" in said("status", tmp_path / "empty").expect(1).message
    traceback = ncbatch("encode", tmp_path / "no", tmp_path / "out", "--debug")
    assert traceback.code == 1 and "Traceback" in traceback.err
    steps = said("encode", folder / "in", tmp_path / "out", "--steps", "-3").expect(1)
    assert "--steps" in steps.message
    gpus = ncbatch("encode", folder / "in", tmp_path / "out2", "--gpus-per-worker", "9").expect(1)
    typo = said("encode", "--retry-failed=lost", folder / "in", tmp_path / "out").expect(1)
    assert "'lost' is not an error class" in typo.message
    assert "--gpus-per-worker 9" in gpus.err.splitlines()[-1]


def test_a_query_comes_from_a_file_and_goes_into_one(folder: Path, said: Said, tmp_path: Path) -> None:
    sql, out = tmp_path / "narrow.sql", folder / "out"
    sql.write_text("select image_key, width\nfrom metrics order by image_key")
    shown = said("query", out, "--file", sql).expect(0).out.splitlines()
    assert shown[0].split() == ["image_key", "width"]
    count = len(shown) - 1
    for form in ("parquet", "csv", "json"):
        assert (
            f"{count} rows"
            in said("query", out, "--file", sql, "--out", tmp_path / f"t.{form}").expect(0).out
        )
    table = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert table == json.loads((tmp_path / "t.json").read_text()) and len(table) == count
    assert (tmp_path / "t.csv").read_text().splitlines()[0] == "image_key,width"
    command = (sys.executable, "-m", "ncbatch", "query", out, "select 1 as one from metrics")
    piped = subprocess.run([*command, "--format", "parquet"], env=environment(), capture_output=True).stdout
    assert pq.read_table(io.BytesIO(piped)).column("one").to_pylist() == [1] * count
    for words, message in (
        ((), "give the SQL as an argument, or the file"),
        (("select 1", "--file", sql), "give the SQL as an argument, or the file"),
        (("--file", tmp_path / "no.sql"), "cannot be read"),
        (("select 1", "--out", tmp_path / "t.xlsx"), "end its name in .csv, .json or .parquet"),
    ):
        assert message in said("query", out, *words).expect(1).message
