"""The RayJob of infra/kuberay on a local Ray: its entrypoint, submitted as KubeRay's submitter does."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from tests.end_to_end.command_line import environment, ncbatch, wait_for
from tests.end_to_end.conftest import Head
from tests.end_to_end.images import save_images
from tests.end_to_end.runs import assert_verified, output_store, rows
from tests.infra.manifests import job_specs, overlay
from tests.servers import S3Server

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow]


def test_two_attempts_of_a_ray_job_overlap_and_every_image_is_there_once(
    head: Head, rclone_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A RayJob that is tried again may start its next driver while the last one still works."""
    (job,) = job_specs(overlay("cpu"))
    corpus, output = (word for word in shlex.split(job["entrypoint"]) if word.startswith("s3://"))
    rclone_server.use(monkeypatch)
    for uri in (corpus, output):
        rclone_server.client().create_bucket(Bucket=uri.removeprefix("s3://").split("/")[0])
    keys = save_images(tmp_path, 20)  # so many that the first attempt is at work when the second starts
    for key in keys:
        bucket = corpus.removeprefix("s3://").rstrip("/")
        rclone_server.client().put_object(Bucket=bucket, Key=key, Body=(tmp_path / key).read_bytes())
    jobs, out = JobSubmissionClient(head.dashboard), output_store(output)

    first = _submit(head, job["entrypoint"], rclone_server, "first")
    wait_for(lambda: out.head("lease.json"), "the first attempt works")
    second = _submit(head, job["entrypoint"], rclone_server, "second")
    for attempt in (first, second):
        wait_for(lambda: jobs.get_job_status(attempt).is_terminal(), f"{attempt} has ended")  # noqa: B023
    assert jobs.get_job_status(first) is JobStatus.SUCCEEDED, jobs.get_job_logs(first)
    assert jobs.get_job_status(second) is JobStatus.FAILED, jobs.get_job_logs(second)
    assert "another driver" in jobs.get_job_logs(second) and "Traceback" not in jobs.get_job_logs(second)
    assert set(rows(out)) == set(keys) and {row["status"] for row in rows(out).values()} == {"ok"}
    assert_verified(out)

    again = ncbatch(*shlex.split(job["entrypoint"])[1:-2], "--ray-address", head.address,
                    env=environment(**rclone_server.environment()))  # fmt: skip
    assert "20 images ok" in again.expect(0).out


def _submit(head: Head, entrypoint: str, server: S3Server, name: str) -> str:
    """Hands the entrypoint to a shell behind `ray job submit --`, as KubeRay's submitter does."""
    ray = Path(sys.executable).with_name("ray")
    variables = {"AWS_ENDPOINT_URL": server.endpoint_url, "PATH": f"{ray.parent}:/usr/bin:/bin"}
    runtime_env = shlex.quote(json.dumps({"env_vars": variables}))
    script = (
        f"{ray} job submit --address {head.dashboard} --runtime-env-json {runtime_env} "
        f"--submission-id {name} --no-wait -- {entrypoint}"
    )
    subprocess.run(["bash", "-c", script], check=True, env=environment(), timeout=300, capture_output=True)
    return name
