"""The cluster of infra/local: from nothing to metrics and alerts, and to nothing again."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.end_to_end.command_line import HANG_SECONDS, SABOTEUR, Running, environment, running, wait_for
from tests.end_to_end.images import save_image
from tests.fault_proxy import FaultProxy
from tests.infra.manifests import ROOT
from tests.infra.monitoring import alerts, dashboard_queries, metrics_in

log = logging.getLogger(__name__)

LOCAL = ROOT / "infra" / "local"
NOT_HERE = {"GPU utilisation", "Drivers that ended"}
"""Panels without an answer on a machine without GPUs, and while the first driver of a run is at work."""
ENDED = "ray_ncbatch_drivers_ended_total"
_IMAGES = 300


def _stack_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ncbatch_local_stack", LOCAL / "stack.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


stack_module = _stack_module()


def _local(action: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    told = environment(**env)
    return subprocess.run(
        [str(LOCAL / action), "--folder", str(folder)], env=told, capture_output=True, text=True, timeout=600
    )


class Prometheus:
    """Asked by its HTTP API."""

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an instant query is answered."""
        words = urllib.parse.urlencode({"query": expression})
        told: Any = stack_module.asked(f"{self._url}/api/v1/query?{words}")
        assert told["status"] == "success"
        return list(told["data"]["result"])

    def alerts(self) -> dict[str, dict[str, Any]]:
        """Those that are pending or fire, by name."""
        told: Any = stack_module.asked(f"{self._url}/api/v1/alerts")
        return {alert["labels"]["alertname"]: alert for alert in told["data"]["alerts"]}


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flags")


@pytest.fixture(scope="module")
def stack(flags: Path) -> Iterator[Any]:
    """Brought up by its command, and ended by it: nothing is left."""
    if shutil.which("prometheus") is None:
        pytest.skip("needs Debian's package prometheus")
    folder = Path(tempfile.mkdtemp(prefix="nc"))
    try:
        done = _local("up", folder, NCBATCH_TEST_FLAGS=str(flags), NCBATCH_TEST_SECONDS="1.5")
        assert done.returncode == 0, done.stdout + done.stderr
        found = stack_module.Stack.of(folder)
        assert found is not None and found.prometheus in done.stdout
        yield found
    finally:
        down = _local("down", folder)
        left = stack_module.marked(folder)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert down.returncode == 0, down.stderr
    assert not left and not folder.exists()


def test_what_is_not_a_cluster_is_left_alone() -> None:
    folder = Path(tempfile.mkdtemp(prefix="nc"))
    (folder / "photo.jpg").touch()
    try:
        for action in ("up", "down"):
            done = _local(action, folder)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith(f"infra/local/{action}: error: {folder} holds something else")
        assert [path.name for path in folder.iterdir()] == ["photo.jpg"]
        done = _local("status", folder)
        assert (done.returncode, f"up --folder {folder} starts one" in done.stdout) == (1, True)
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_cluster_that_is_ended_while_it_starts_leaves_nothing() -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("needs Debian's package prometheus")
    folder = Path(tempfile.mkdtemp(prefix="nc"))
    words = [sys.executable, str(LOCAL / "stack.py"), "up", "--folder", str(folder)]
    # What a shell has started in the background ignores SIGINT, and so would all that is started from there.
    process = subprocess.Popen(
        words, env=environment(), stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        wait_for(lambda: stack_module.marked(folder), "it starts something")
        second = _local("up", folder)
        assert second.returncode == 1 and f"process {process.pid} is starting a cluster in" in second.stderr
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=HANG_SECONDS)[1]
        assert process.returncode == 130 and said.endswith("infra/local/up: interrupted\n"), said
        assert "Traceback" not in said and not stack_module.marked(folder) and not folder.exists()
    finally:
        process.kill()
        stack_module.down(folder)


def _workers(stack: Any) -> list[int]:
    """Process ids of the workers that do units, or wait for one."""
    lines = stack_module.marked(Path(stack.folder))
    return [pid for pid, line in lines.items() if line.startswith("ray::Worker")]


def _fill(stack: Any, tmp_path: Path) -> None:
    client = stack_module.s3_client(stack.environment)
    path = tmp_path / "image.png"
    for number in range(_IMAGES):
        save_image(path, number)
        # Some fail, early and late: the unit of one may be that of the worker which is killed, and come last.
        end = -100 if number % 40 == 5 else None
        client.put_object(Bucket="photos", Key=f"{number:03}.png", Body=path.read_bytes()[:end])


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_is_seen_by_prometheus_and_a_sick_worker_fires_an_alert(
    stack: Any, flags: Path, tmp_path: Path
) -> None:
    again = _local("up", Path(stack.folder))
    assert again.returncode == 0 and again.stdout.startswith("the cluster runs already")
    said = _local("status", Path(stack.folder))
    assert said.returncode == 0 and stack.prometheus in said.stdout
    _fill(stack, tmp_path)
    prometheus = Prometheus(stack.prometheus)
    env = environment(**stack.environment, PYTHONPATH=os.pathsep.join([str(SABOTEUR), str(ROOT)]))
    with FaultProxy(stack.environment["AWS_ENDPOINT_URL"]) as proxy:
        words = ("encode", "s3://photos/", "s3://encoded/run/", "--endpoint-url", proxy.endpoint_url)
        options = ("--steps", "20", "--unit-seconds", "0.5", "--price-per-hour", "1")
        with running(*words, *options, env=env) as run:
            _until(run, lambda: len(_workers(stack)) == 2 and _images(prometheus), "two workers are at it")
            os.kill(_workers(stack)[0], signal.SIGKILL)
            _until(run, lambda: len(_workers(stack)) == 2, "there is another in its place")
            (sick, *_) = _workers(stack)
            (flags / f"locked-out-{sick}").touch()
            began = time.monotonic()
            _until(run, lambda: _fires(prometheus, "NcbatchQuarantine"), "the alert fires")
            log.warning("an alert fired %.0f s after a worker turned sick", time.monotonic() - began)
            unanswered = {query for title, query in dashboard_queries() if title not in NOT_HERE}
            assert len(unanswered) > 30

            def all_answered() -> bool:
                proxy.fail("PUT", status=503, times=1)
                unanswered.difference_update([query for query in unanswered if prometheus.query(query)])
                return not unanswered

            _until(run, all_answered, "every panel shows something")
            for name in {m for rule in alerts().values() for m in metrics_in(rule["expr"])}:
                assert prometheus.query(name) or name == ENDED, name
            (alert,) = prometheus.query('ALERTS{alertstate="firing",alertname="NcbatchQuarantine"}')
            assert alert["metric"]["run"] == "s3://encoded/run/" and alert["metric"]["device"] == "cpu"
            assert "NcbatchDriverLost" not in prometheus.alerts()
            run.process.kill()
            _wait(lambda: "NcbatchDriverLost" in prometheus.alerts(), "the driver is missed")
            assert not prometheus.query(ENDED)


def _images(prometheus: Prometheus) -> bool:
    return bool(prometheus.query('ray_ncbatch_images_total{status="ok"}'))


def _fires(prometheus: Prometheus, name: str) -> bool:
    alert = prometheus.alerts().get(name)
    return alert is not None and alert["state"] == "firing"


def _until(run: Running, condition: Any, what: str) -> None:
    """As `_wait`, for as long as a command runs."""

    def there() -> bool:
        run.assert_runs()
        return bool(condition())

    _wait(there, what)


def _wait(condition: Any, what: str) -> None:
    log.warning("waiting until %s", what)

    def there() -> bool:
        time.sleep(0.9)
        return bool(condition())

    wait_for(there, what)
