"""A cluster on this machine without containers: Ray (head, two workers), an S3 server, Prometheus, Grafana.

    infra/local/up [--demo] [--folder FOLDER]     brings it up; --demo encodes some images on it as well
    infra/local/status                            says what runs, and where
    infra/local/down                              ends it and deletes the folder: nothing is left

All of it is on loopback but Ray's own ports, which ask for a token; usual ports are taken where they are
free. All that is written lies in one folder, and all processes have a mark in their environment, so that
exactly these are ended.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "infra" / "monitoring"
MARK = "NCBATCH_LOCAL_STACK"
DEFAULT_FOLDER = Path(f"/tmp/ncbatch-local-{os.getuid()}")  # short: a socket's path has at most 107 bytes

BUCKETS = ("photos", "encoded")
WORKERS = 2
_HANG_SECONDS = 300.0  # of a slow machine nothing takes longer
_GRACE_SECONDS = 10.0
_LONGEST_FOLDER = 40
_TRIES = 4
_OWN = ".ncbatch-local"
"""The file by which a folder is known as a stack's. It names the process that has brought it up."""


class StackError(Exception):
    """The stack cannot be brought up; its message says what to do."""


@dataclass
class Stack:
    """Where things are. environment: of a command that uses the cluster."""

    folder: str
    prometheus: str
    dashboard: str
    grafana: str | None
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Stack | None:
        """What was brought up in a folder, if anything was."""
        try:
            return cls(**json.loads((folder / "stack.json").read_text()))
        except FileNotFoundError:
            return None


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds what no stack has written, so that nothing of it may be deleted."""
    return not (folder / _OWN).exists() and folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def starting(folder: Path) -> int | None:
    """The process that brings a stack up in a folder at this moment."""
    try:
        pid = int((folder / _OWN).read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return pid if Stack.of(folder) is None else None


def marked(folder: Path) -> dict[int, str]:
    """The processes of the stack in a folder: their command lines by their ids."""
    found, mark = {}, f"{MARK}={folder}".encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(process.name)] = line.strip()
    return found


def down(folder: Path) -> None:
    """Ends all processes of a stack, and deletes its folder."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in marked(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        deadline = time.monotonic() + _GRACE_SECONDS
        while marked(folder) and time.monotonic() < deadline:
            time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


class Builder:
    """Brings a stack up in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._nodes: set[str] = set()  # ports of their metrics
        (folder / "logs").mkdir(parents=True)
        (folder / _OWN).write_text(str(os.getpid()))
        s3, gcs = _port(9000), _port(6379)
        self._ports = {"s3": s3, "gcs": gcs, "dashboard": _port(8265), "prometheus": _port(9090)}
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "RAY_ADDRESS": f"127.0.0.1:{gcs}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "NCBATCH_DASHBOARD": f"http://127.0.0.1:{self._ports['dashboard']}",
        }

    def build(self) -> Stack:
        """Starts everything, and waits until it answers."""
        _note("starting an S3 server, Ray and Prometheus")
        url, ports = "http://127.0.0.1:{}".format, self._ports
        self._start("s3", [_program("moto_server"), "-H", "127.0.0.1", "-p", str(ports["s3"])])
        self._prometheus()
        self._start_node("head", *self._head_words())
        for number in range(1, WORKERS + 1):  # in turn: two at once may choose the same names of sockets
            self._start_node(f"worker-{number}", f"--address=127.0.0.1:{ports['gcs']}", "--num-cpus=1")
        self._wait(lambda: answers(url(ports["s3"])), "the S3 server")
        self._make_buckets()
        grafana = self._grafana()
        prometheus = url(ports["prometheus"])
        self._wait(lambda: self._nodes <= _scraped(prometheus), "Prometheus that sees every node")
        self._wait(lambda: answers(f"{url(ports['dashboard'])}/api/version"), "Ray's dashboard")
        stack = Stack(str(self._folder), prometheus, url(ports["dashboard"]), grafana, self.environment)
        words = [f"export {name}={value}" for name, value in self.environment.items()]
        (self._folder / "env").write_text("\n".join([*words, ""]))
        (self._folder / "stack.json").write_text(json.dumps(asdict(stack)))
        return stack

    def _head_words(self) -> tuple[str, ...]:
        return (
            *("--head", f"--port={self._ports['gcs']}", f"--temp-dir={self._folder / 'ray'}", "--num-cpus=0"),
            *("--include-dashboard=true", "--dashboard-host=127.0.0.1"),
            *(f"--dashboard-port={self._ports['dashboard']}", f"--ray-client-server-port={_port(10001)}"),
        )

    def _start_node(self, name: str, *words: str) -> None:
        """Starts a node and waits for it; again where the machine was too busy for Ray's deadline of 30 s."""
        metrics = _port()
        self._nodes.add(str(metrics))
        for more in reversed(range(_TRIES)):
            self._start_ray(name, f"--metrics-export-port={metrics}", *words)
            try:
                self._wait_for_node(name)
            except StackError:
                if not more:
                    raise
                _note(f"starting {name} once more")
                self._processes.pop()
            else:
                return

    def _start_ray(self, name: str, *words: str) -> None:
        common = ("--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1")
        more = ("--object-store-memory=200000000", f"--dashboard-agent-listen-port={_port()}")
        self._start(name, [_program("ray"), "start", *common, *more, *words])

    def _start(self, name: str, command: Sequence[str], **more: str) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RAY_"))}
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)  # every process of Ray would compile all it imports
        quiet = {"NO_PROXY": "127.0.0.1", "AWS_EC2_METADATA_DISABLED": "true", "OMP_NUM_THREADS": "1"}
        env = inherited | self.environment | quiet | {MARK: str(self._folder)} | more
        env.pop("RAY_ADDRESS")  # `ray start` takes it for the cluster to join
        with (self._folder / "logs" / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self._processes.append((name, process))

    def _make_buckets(self) -> None:
        client = s3_client(self.environment)
        for bucket in BUCKETS:
            client.create_bucket(Bucket=bucket)

    def _prometheus(self) -> None:
        folder = self._folder / "prometheus"
        folder.mkdir()
        for name in ("prometheus.yml", "alerts.yml"):
            shutil.copy(MONITORING / name, folder / name)
        (self._folder / "ray").mkdir()
        (folder / "ray").symlink_to(self._folder / "ray")
        address = f"--web.listen-address=127.0.0.1:{self._ports['prometheus']}"
        data = f"--storage.tsdb.path={folder / 'data'}"
        config = f"--config.file={folder / 'prometheus.yml'}"
        self._start("prometheus", [_program("prometheus"), config, data, address])

    def _grafana(self) -> str | None:
        """Where Grafana is installed: its address."""
        program = shutil.which("grafana-server")
        if program is None:
            _note(
                f"Grafana is not installed; a Grafana elsewhere takes its files from {MONITORING / 'grafana'}"
            )
            return None
        port = _port(3000)
        settings = {
            "GF_SERVER_HTTP_ADDR": "127.0.0.1",
            "GF_SERVER_HTTP_PORT": str(port),
            "GF_PATHS_DATA": str(self._folder / "grafana"),
            "GF_PATHS_LOGS": str(self._folder / "logs"),
            "GF_PATHS_PROVISIONING": str(MONITORING / "grafana" / "provisioning"),
            "GF_AUTH_ANONYMOUS_ENABLED": "true",
            "NCBATCH_DASHBOARDS": str(MONITORING / "grafana" / "dashboards"),
            "NCBATCH_PROMETHEUS": f"http://127.0.0.1:{self._ports['prometheus']}",
        }
        home = Path(os.environ.get("GF_PATHS_HOME", "/usr/share/grafana"))
        self._start("grafana", [program, "--homepath", str(home)], **settings)
        return f"http://127.0.0.1:{port}"

    def _wait_for_node(self, name: str) -> None:
        log = self._folder / "logs" / f"{name}.log"
        self._wait(lambda: b"Ray runtime started" in log.read_bytes(), f"node of Ray ({name})")

    def _wait(self, there: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _HANG_SECONDS
        while not there():
            for name, process in self._processes:
                if process.poll() is not None:
                    log = (self._folder / "logs" / f"{name}.log").read_text(errors="replace")
                    raise StackError(f"{name} ended at once: {log[-2000:].strip()}")
            if time.monotonic() > deadline:
                raise StackError(f"still no {what} after {_HANG_SECONDS:.0f} s; see {self._folder / 'logs'}")
            time.sleep(0.3)


def s3_client(environment: Mapping[str, str]) -> Any:
    """Of the stack's server."""
    import boto3

    return boto3.session.Session().client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_DEFAULT_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )


def answers(url: str) -> bool:
    """Whether something answers there, whatever it says."""
    try:
        with _opener().open(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def asked(url: str) -> object:
    """The JSON that is answered."""
    with _opener().open(url, timeout=30) as answer:
        return json.load(answer)


def _scraped(prometheus: str) -> set[str]:
    """The ports that Prometheus gets metrics from."""
    try:
        told = asked(f"{prometheus}/api/v1/targets?state=active")
    except OSError:
        return set()
    assert isinstance(told, dict)
    up = [
        target["labels"]["instance"] for target in told["data"]["activeTargets"] if target["health"] == "up"
    ]
    return {instance.rpartition(":")[2] for instance in up}


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is not for a proxy


_taken: set[int] = set()


def _port(wanted: int = 0) -> int:
    """A free port: the one that is wanted, or any."""
    for candidate in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", candidate))
            port = int(probe.getsockname()[1])
            if port not in _taken:
                _taken.add(port)
                return port
    return _port()


def _program(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        packages = {"prometheus": "apt-get install prometheus", "moto_server": "pip install -e '.[dev]'"}
        raise StackError(f"{name} is not installed: {packages.get(name, 'pip install -e .')}")
    return found


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _flag(folder: Path) -> str:
    """What the next command needs to mean the same folder."""
    return "" if folder == DEFAULT_FOLDER else f" --folder {shlex.quote(str(folder))}"


def _told(stack: Stack) -> str:
    lines = [
        f"Prometheus  {stack.prometheus}   (alerts: {stack.prometheus}/alerts)",
        f"Grafana     {stack.grafana or 'is not installed'}",
        f"Ray         {stack.dashboard}",
        f"S3          {stack.environment['AWS_ENDPOINT_URL']}   (buckets: {', '.join(BUCKETS)})",
        f"logs        {stack.folder}/logs",
        "",
        f"use it:     source {stack.folder}/env; ncbatch encode FOLDER/ s3://encoded/run1/",
        "            (or s3://photos/ in the place of FOLDER/, once it holds images)",
        f"end it:     infra/local/down{_flag(Path(stack.folder))}",
    ]
    return "\n".join(lines)


def up(folder: Path, then: Callable[[Stack], None] = lambda stack: None) -> None:
    """Brings a stack up, unless it runs; whatever fails on the way, nothing is left."""
    stack = Stack.of(folder)
    if stack is not None and marked(folder):
        print(f"the cluster runs already\n{_told(stack)}")
    else:
        if len(str(folder)) > _LONGEST_FOLDER:
            raise StackError(f"the path {folder} is too long for Ray's sockets; name a shorter one")
        if is_foreign(folder):
            raise StackError(f"{folder} holds something else; name an empty or a new folder")
        if (pid := starting(folder)) is not None:
            raise StackError(f"process {pid} is starting a cluster in {folder}; wait until it has")
        down(folder)
        try:
            stack = Builder(folder).build()
        except BaseException:
            down(folder)
            raise
        print(_told(stack), flush=True)
    then(stack)


def status(folder: Path) -> int:
    """Says what runs; 1 where nothing does."""
    stack, processes = Stack.of(folder), marked(folder)
    if stack is None or not processes:
        print(f"no cluster runs in {folder}; infra/local/up{_flag(folder)} starts one")
        return 1
    up = len(_scraped(stack.prometheus))
    print(f"{len(processes)} processes run, and Prometheus scrapes {up} targets\n{_told(stack)}")
    return 0


def user_environment(stack: Stack) -> Mapping[str, str]:
    """Of a command that uses the cluster."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **stack.environment}


def main(words: Sequence[str]) -> int:
    """Exit code: 0, or 1 where something does not work."""
    action = words[0] if words else "up"
    parser = argparse.ArgumentParser(
        prog=f"infra/local/{action}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("up", "status", "down"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="default: %(default)s")
    if action == "up":
        parser.add_argument("--demo", action="store_true", help="encode some images, and ask Prometheus")
    given = parser.parse_args(words)
    folder = given.folder.absolute()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        if given.action == "up":
            from demo import demonstrate

            up(folder, demonstrate if given.demo else lambda stack: None)
        elif given.action == "down" and not folder.exists() and not marked(folder):
            print(f"nothing runs, and {folder} does not exist")
        elif given.action == "down" and is_foreign(folder):
            raise StackError(
                f"{folder} holds something else, and is left as it is; name the folder of a cluster"
            )
        elif given.action == "down":
            down(folder)
            print("ended; nothing is left")
        else:
            return status(folder)
    except StackError as error:
        print(f"infra/local/{given.action}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"infra/local/{given.action}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _end(number: int, frame: object) -> None:
    """As Ctrl-C does, so that nothing half-started is left."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
