"""What a submitted job is told: the run as it was asked for here, whatever folder the job runs in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ncbatch.cli.encode import make_run_spec
from ncbatch.cli.submit import with_absolute_paths
from ncbatch.driver.jobs import OUTPUT, EncodeRequest, submit
from ncbatch.driver.options import EncodeOptions
from ncbatch.errors import UsageError
from ncbatch.models.catalog import builtin_file
from ncbatch.plan.spec import RunSpec
from tests.cli.parsed import parsed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "m.safetensors").write_bytes(builtin_file("base-0.010").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _spec(*words: str) -> RunSpec:
    found = parsed("submit", "in", "out", *words)
    store = found["options"].store
    return make_run_spec(found["corpus"], found["spec"], found["variant"], found["inputs"], store)


def test_paths_are_of_the_folder_in_which_it_is_submitted(folder: Path) -> None:
    spec = _spec("--model", "m.safetensors", "--manifest", "keys.csv")
    sent = with_absolute_paths(spec)
    assert sent.variants[0].model == str(folder / "m.safetensors")
    assert (sent.manifest, sent.corpus) == (str(folder / "keys.csv"), f"file://{folder}/in/")
    assert sent.digest == spec.digest
    assert with_absolute_paths(_spec("--lmbda", "0.02")).variants[0].model == "base-0.020"


def _sent(request: EncodeRequest) -> dict[str, Any]:
    """What Ray is given."""
    asked: list[dict[str, Any]] = []

    def submit_job(**arguments: Any) -> str:
        asked.append(arguments)
        return "raysubmit_1"

    client: Any = SimpleNamespace(submit_job=submit_job)
    assert submit(client, request, Path("checkout")) == "raysubmit_1"
    return asked[0]


def test_a_job_gets_the_request_in_its_command_line(folder: Path) -> None:
    request = EncodeRequest(_spec("--name", "plain"), "s3://bucket/out/", EncodeOptions())
    sent = _sent(request)
    program = "python jobs/encode.py --request "
    assert sent["entrypoint"].startswith(program) and sent["metadata"][OUTPUT] == "s3://bucket/out/"
    many = request.spec.model_copy(update={"variants": request.spec.variants * 600})
    with pytest.raises(UsageError, match="600 variants are too many for one job's command line"):
        _sent(EncodeRequest(many, request.output, request.options))


def test_what_is_no_request_is_refused() -> None:
    with pytest.raises(UsageError, match="not a request of this release of ncbatch"):
        EncodeRequest.from_json('{"spec": {}}')
