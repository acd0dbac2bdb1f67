"""Runs a command with ISTHMUS_TEST_AMQP naming a RabbitMQ server that lives as long as it does.

    with_rabbitmq.py COMMAND [ARGUMENT…]

The server is Debian's (package rabbitmq-server), as a plain process: loopback only, ports the
system picks, all state in a temporary folder.
"""

import glob
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

READY_WITHIN_S = 90
STOPPED_WITHIN_S = 30


def free_ports(count):
    """Loopback ports that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class RabbitMq:
    """A RabbitMQ server on a data directory; it may be killed and started again."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.amqp_port, self.node_port, self.epmd_port = free_ports(3)
        self.process = None
        # Started here, or the server would leave one of its own behind.
        self.port_mapper = subprocess.Popen(
            ["epmd", "-port", str(self.epmd_port), "-address", "127.0.0.1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = 127.0.0.1:{self.amqp_port}\n")
        (self.directory / "plugins").write_text("[rabbitmq_consistent_hash_exchange].\n")

    @property
    def amqp(self):
        """Host and port of the AMQP listener."""
        return "127.0.0.1", self.amqp_port

    def environment(self):
        """Keeps everything of this node, its port mapper included, in its folder and on loopback."""
        home = self.directory
        return os.environ | {
            "HOME": str(home),
            "RABBITMQ_NODENAME": f"isthmus-{os.getpid()}@localhost",
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_DIST_PORT": str(self.node_port),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
                "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def start(self):
        """Returns once the AMQP port accepts."""
        installed = glob.glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server")
        if not installed:
            sys.exit("rabbitmq-server is not installed")
        with (self.directory / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [max(installed)], env=self.environment(), stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                socket.create_connection(self.amqp, timeout=1).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    sys.exit((self.directory / "output").read_text())
                time.sleep(0.1)

    def kill(self):
        """SIGKILL to the server and the shell that watches it."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """A clean stop of the server, and the end of its port mapper."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(STOPPED_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self.port_mapper.kill()
        self.port_mapper.wait()


def main():
    with tempfile.TemporaryDirectory(prefix="isthmus-rabbitmq-") as directory:
        server = RabbitMq(directory).start()
        try:
            address = "{}:{}".format(*server.amqp)
            return subprocess.run(sys.argv[1:], check=False,
                                  env=os.environ | {"ISTHMUS_TEST_AMQP": address}).returncode
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
