"""The server that the clients talk to, and the commands that talk."""

import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

HERE = Path(__file__).resolve().parent
SECONDS = 60
# These are the clients themselves.
collect_ignore = ["seed", "tour", "python"]
# The caller's own settings must not reach the server, nor a proxy the clients.
ENVIRONMENT = {
    name: value for name, value in os.environ.items()
    if not name.startswith("COUNTERSIGN_") and not name.lower().endswith("_proxy")
} | {"PYTHONDONTWRITEBYTECODE": "1"}


def pytest_configure():
    # However the tests are asked to end, the server ends with them.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: pytest.exit(f"signal {number}", 128 + number))


class Server:
    """A countersign process with an empty data directory, on free ports of the loopback address."""

    def __init__(self, directory):
        binary = os.environ.get("COUNTERSIGN_BIN")
        assert binary, "set COUNTERSIGN_BIN to the server's binary, or run ./test clients, which builds it"
        self.binary = os.path.abspath(binary)
        self.log_file = directory / "stderr"
        self.reported = 0  # characters of the log
        # An empty configuration, so that one of this machine does not apply.
        configuration = directory / "countersign.toml"
        configuration.touch()
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [self.binary, "serve", "--config", configuration, "--data-dir", directory / "data",
                 "--public-listen", "127.0.0.1:0", "--private-listen", "127.0.0.1:0"],
                # A time zone far from UTC shows a date that was sent in local time, and a talkative log a leak.
                env=ENVIRONMENT | {"TZ": "Asia/Kolkata", "RUST_LOG": "debug"}, cwd=directory,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)

    def urls(self):
        """The two lines that a server prints when it is ready, as variables for the clients."""
        guard = threading.Timer(SECONDS, self.process.kill)
        guard.start()
        printed = [self.process.stdout.readline() for _ in range(2)]
        guard.cancel()
        urls = {"COUNTERSIGN_BIN": self.binary}
        for name, line in zip(("public", "private"), printed):
            match = re.fullmatch(rf"{name} (http://127\.0\.0\.1:[1-9]\d*)\n", line)
            assert match, f"the server printed {line!r} where '{name} http://127.0.0.1:PORT' belongs\n{self.log()}"
            urls[f"COUNTERSIGN_{name.upper()}"] = match[1]
        return urls

    def log(self):
        return self.log_file.read_text(errors="replace")

    def new_log(self):
        """What the server has logged since the last call."""
        log = self.log()
        new, self.reported = log[self.reported:], len(log)
        return new

    def stop(self):
        """Stop it with SIGTERM. Returns its exit status and what it printed after the two lines."""
        self.process.terminate()
        rest, _ = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, rest


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("countersign"))
    try:
        server.environment = server.urls()
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture
def run(server):
    """Runs a client in front of the server. Its output, and the server's log meanwhile, show if it fails."""
    def run(*command):
        server.new_log()
        done = subprocess.run(
            command, env=ENVIRONMENT | server.environment, cwd=HERE, timeout=SECONDS, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if done.returncode:
            pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n"
                        f"The server's log meanwhile:\n{server.new_log()}", pytrace=False)
    return run


@pytest.fixture
def http():
    """Sends a request on the loopback address. Returns the JSON answer, also that of a refusal."""
    def http(method, url):
        request = Request(url, method=method, headers={"Accept": "application/json"})
        try:
            answer = build_opener(ProxyHandler({})).open(request, timeout=SECONDS)
        except HTTPError as refusal:
            answer = refusal
        with answer:
            return json.load(answer)
    return http
