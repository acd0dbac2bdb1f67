"""Starts, watches and stops an Isthmus broker of its own, on ports the system picks."""

import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

LISTENERS = ("amqp", "http", "mqtt", "stomp", "any")
READY_WITHIN_S = 10
# The broker gives clients ten seconds to answer its connection.close.
STOPPED_WITHIN_S = 15


class DidNotStart(Exception):
    """The broker ended before it was ready; carries its exit code and what it printed."""

    def __init__(self, exit_code, output):
        super().__init__(f"broker ended with {exit_code} before it was ready:\n{output}")
        self.exit_code = exit_code
        self.output = output


def binary():
    """The broker under test: ISTHMUS_BIN, or the release build of this workspace."""
    if path := os.environ.get("ISTHMUS_BIN"):
        return Path(path)
    root = Path(__file__).resolve().parents[2]
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    return target / "release" / "isthmus"


class Broker:
    """One broker process on one data directory; it may be killed and started again."""

    def __init__(self, data_dir, settings=None, amqp="127.0.0.1:0"):
        self.data_dir = Path(data_dir)
        self.settings = {f"listeners.{name}": "127.0.0.1:0" for name in LISTENERS}
        self.settings["listeners.amqp"] = amqp
        self.settings |= {f"listeners.{name}": "off" for name in ("mqtts", "stomps", "anys")}
        self.settings.update(settings or {})
        self.process = None
        self.ports = {}
        self.output = []
        self.ready_after_s = None

    def command(self):
        """The command line that starts this broker."""
        command = [str(binary()), "serve", "--data-dir", str(self.data_dir)]
        for key, value in self.settings.items():
            command += ["--set", f"{key}={value}"]
        return command

    def start(self):
        """Returns once every listener accepts; raises DidNotStart if the process ends before."""
        self.begin_start()
        return self.end_start()

    def begin_start(self):
        """Starts the process, without waiting; `end_start` waits."""
        self.output = []
        self.ports = {}
        self._ready = threading.Event()
        self._started_at = time.monotonic()
        self.process = subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, errors="replace",
        )
        self._reader = threading.Thread(target=self._read_log, args=(self.process,), daemon=True)
        self._reader.start()

    def end_start(self, within_s=READY_WITHIN_S):
        """Waits for the process to be ready."""
        if not self._ready.wait(within_s):
            self.kill()
            raise DidNotStart(None, self.log())
        if not self.ports:
            self.process.wait(STOPPED_WITHIN_S)
            raise DidNotStart(self.process.returncode, self.log())
        return self

    def _read_log(self, process):
        for line in process.stderr:
            self.output.append(line)
            # A terminal's colours would stand between key and value.
            plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
            if not self.ports and re.search(r"\bready\b", plain):
                ports = re.findall(r'\b(\w+)="?127\.0\.0\.1:(\d+)', plain)
                self.ports = {name: int(port) for name, port in ports}
                self.ready_after_s = time.monotonic() - self._started_at
                self._ready.set()
        self._ready.set()

    def log(self):
        """What the broker wrote to standard error since its last start."""
        return "".join(self.output)

    @property
    def pid(self):
        return self.process.pid

    @property
    def amqp(self):
        """Host and port of the AMQP listener."""
        return "127.0.0.1", self.ports["amqp"]

    def kill(self):
        """SIGKILL: the process gets no chance to write anything more."""
        self.process.kill()
        self.end_stop()

    def stop(self):
        """SIGTERM: a clean stop; returns the exit code."""
        if self.process.poll() is None:
            self.begin_stop()
        return self.end_stop()

    def begin_stop(self):
        """SIGTERM, without waiting; `end_stop` waits. A second SIGTERM would end it at once."""
        self.process.send_signal(signal.SIGTERM)

    def end_stop(self):
        """The exit code of a process that is about to end."""
        try:
            self.process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._reader.join(STOPPED_WITHIN_S)
            self.process.stderr.close()
        return self.process.returncode

    def restart(self):
        """A clean stop and a start on the same data."""
        assert self.stop() == 0, self.log()
        return self.start()

    def get(self, path):
        """Status and body of an HTTP GET."""
        url = f"http://127.0.0.1:{self.ports['http']}{path}"
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()

    def get_json(self, path):
        """The JSON that an HTTP GET answers."""
        return json.loads(self.get(path)[1])

    def rss_kib(self):
        """Resident memory of the process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE).group(1))

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if self.process is not None and self.process.poll() is None:
            self.kill()
