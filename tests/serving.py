"""The real server as a process of its own: started on a free port, waited for, ended."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ui.server import LOGIN_VARIABLE

ROOT = Path(__file__).parent.parent
MAX_WAIT_SECONDS = 180


@dataclass(frozen=True)
class Server:
    """Where the page is, and what it took to bring it up."""

    url: str
    log: Path
    cpu_seconds: float
    """Work of the process until the page was served; a busy machine does not count."""
    workspace: Path
    """The folder that it keeps things in."""
    pid: int
    """Its process."""


@contextlib.contextmanager
def serve(
    folder: Path,
    *arguments: str,
    program: Sequence[str] = ("app.py",),
    login: str = "",
    port: int | None = None,
    python: str = sys.executable,
    **variables: str,
) -> Iterator[Server]:
    """Run `app.py`, or another program, with arguments and variables until the block ends."""
    port, log = port or _free_port(), folder / "server.log"
    command = [python, *program, "--port", str(port), "--workspace", str(folder / "work")]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", LOGIN_VARIABLE: login, **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        used = _wait_for(url, process, log)
        yield Server(url=url, log=log, cpu_seconds=used, workspace=folder / "work", pid=process.pid)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> float:
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(url, timeout=10).close()
            times = psutil.Process(process.pid).cpu_times()
            return times.user + times.system
        time.sleep(0.1)
    raise AssertionError(f"The server did not answer. Its log:\n{log.read_text()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
