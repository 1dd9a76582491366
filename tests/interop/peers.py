"""Processes the tests talk to, each on a free loopback port and ended by its own process id."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = os.environ.get("INTEROP") == "required"
DEADLINE = 20  # seconds for anything that should happen at once


def binary():
    """The mockforge under test: INTEROP_BIN, else the newest build of this tree."""
    named = os.environ.get("INTEROP_BIN")
    built = [ROOT / "target" / profile / "mockforge" for profile in ("release", "debug")]
    found = [Path(named)] if named else sorted((p for p in built if p.exists()), key=lambda p: -p.stat().st_mtime)
    assert found, "no mockforge binary: cargo build, or set INTEROP_BIN"
    return str(found[0])


def needs(command):
    """The path of a program from elsewhere; its absence is a failure where interop is required."""
    path = shutil.which(command) or shutil.which(command, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        if REQUIRED:
            pytest.fail(f"{command} is not installed")
        pytest.skip(f"{command} is not installed")
    return path


def needs_npm(package):
    """The path of node, which finds this package; likewise."""
    node = needs("node")
    if subprocess.run([node, "-e", f"require('{package}')"], capture_output=True).returncode != 0:
        if REQUIRED:
            pytest.fail(f"the npm package {package} is not installed")
        pytest.skip(f"the npm package {package} is not installed")
    return node


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition, what):
    """Polls `condition` until it is true; what it returned."""
    end = time.monotonic() + DEADLINE
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"waited {DEADLINE} s for {what}"
        time.sleep(0.02)


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


class Process:
    """A child process whose output is kept; killed when the `with` block ends."""

    def __init__(self, *command, cwd=None, env=None):
        self.command = [str(part) for part in command]
        self.lines = []
        self.child = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.child.stdout:
            self.lines.append(line.rstrip("\n"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end(signal.SIGKILL)

    @property
    def output(self):
        return "\n".join(self.lines)

    def wait_for(self, pattern):
        """The first match of `pattern` in what was printed."""

        def look():
            found = re.search(pattern, self.output)
            assert found or self.child.poll() is None, f"{self.command} ended: {self.output}"
            return found

        return wait_until(look, f"{pattern!r} from {self.command}: {self.output}")

    def end(self, number=signal.SIGTERM):
        """Ends the process with a signal; its exit code."""
        if self.child.poll() is None:
            self.child.send_signal(number)
        return self.wait()

    def wait(self, seconds=DEADLINE):
        code = self.child.wait(seconds)
        self.reader.join(seconds)
        return code


class Mosquitto(Process):
    """A mosquitto broker with the queue limits lifted."""

    def __init__(self):
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory()
        config = Path(self.folder.name) / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
            "max_inflight_messages 0\nmessage_size_limit 0\nset_tcp_nodelay true\n"
        )
        super().__init__(needs("mosquitto"), "-c", config)
        wait_until(lambda: accepts(self.port), "mosquitto to listen")

    @property
    def url(self):
        return f"mqtt://127.0.0.1:{self.port}"

    def __exit__(self, *exception):
        super().__exit__(*exception)
        self.folder.cleanup()


class Mockforge(Process):
    """`mockforge serve --mqtt` with everything on free ports and a store of its own, unless told another."""

    def __init__(self, *flags, store=None, port=0, **variables):
        self.folder = tempfile.TemporaryDirectory()
        self.store = store or Path(self.folder.name) / "store"
        super().__init__(
            binary(),
            "serve",
            "--mqtt",
            *["--mqtt-host", "127.0.0.1", "--mqtt-port", port, "--http-port", 0, "--grpc-port", 0],
            *flags,
            cwd=self.folder.name,
            env={"MOCKFORGE_STORE_PATH": str(self.store), **variables},
        )
        self.port = int(self.wait_for(r"(?m)^mqtt\s.*?127\.0\.0\.1:(\d+)")[1])
        self.http = int(self.wait_for(r"(?m)^https?\s.*?127\.0\.0\.1:(\d+)")[1])
        self.grpc = int(self.wait_for(r"(?m)^grpc\s.*?127\.0\.0\.1:(\d+)")[1])

    @property
    def url(self):
        return f"mqtt://127.0.0.1:{self.port}"

    def rest(self, path, body=None, method=None):
        """The answer of a REST call as Python values."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}/__mockforge{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return json.load(answer)

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/__mockforge/metrics", timeout=DEADLINE) as answer:
            return answer.read().decode()

    def wait_for_subscription(self, topic_filter, count=1):
        def there():
            listed = self.rest("/mqtt/subscriptions").get("subscriptions", [])
            return sum(1 for entry in listed if entry["filter"] == topic_filter) >= count

        wait_until(there, f"{count} subscriptions to {topic_filter}")

    def ask(self, *arguments, **options):
        return run(*arguments, "--server", f"127.0.0.1:{self.grpc}", **options)

    def __exit__(self, *exception):
        super().__exit__(*exception)
        self.folder.cleanup()


def run(*arguments, cwd=None, env=None, seconds=120):
    """Runs a mockforge command to its end: (exit code, standard output, standard error)."""
    done = subprocess.run(
        [binary(), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )
    return done.returncode, done.stdout, done.stderr
