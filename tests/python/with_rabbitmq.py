"""Runs a command with ISTHMUS_TEST_AMQP naming a RabbitMQ server that lives as long as it does.

    with_rabbitmq.py COMMAND [ARGUMENT…]

The server is Debian's (package rabbitmq-server), as a plain process: loopback only, ports the
system picks, all state in a temporary folder.
"""

import contextlib
import glob
import json
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


def installed(program):
    """A program of Debian's package, without the wrapper that changes the user."""
    found = glob.glob(f"/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/{program}")
    return max(found) if found else sys.exit("rabbitmq-server is not installed")


def start_port_mapper(port):
    """Started here, or the first server would leave one of its own behind."""
    return subprocess.Popen(
        ["epmd", "-port", str(port), "-address", "127.0.0.1"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class RabbitMq:
    """A RabbitMQ server on a data directory; it may be killed and started again.

    One of a cluster has a name, and a port mapper that is not its own. Listeners of plugins get
    `more_ports`, which `config` names {0}, {1} and so on.
    """

    def __init__(self, directory, name=None, epmd_port=None, config="",
                 plugins=("rabbitmq_consistent_hash_exchange",), more_ports=0):
        self.directory = Path(directory)
        ports = free_ports(3 + more_ports)
        self.amqp_port, self.node_port, own_epmd_port, *self.more_ports = ports
        self.process = None
        self.home = self.directory
        self.name = name or f"isthmus-{os.getpid()}@localhost"
        self.epmd_port = epmd_port or own_epmd_port
        self.port_mapper = None if epmd_port else start_port_mapper(own_epmd_port)
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = 127.0.0.1:{self.amqp_port}\n"
            + config.format(*self.more_ports))
        (self.directory / "plugins").write_text(f"[{','.join(plugins)}].\n")

    @property
    def amqp(self):
        """Host and port of the AMQP listener."""
        return "127.0.0.1", self.amqp_port

    def environment(self):
        """Keeps everything of this node, its port mapper included, in its folder and on loopback."""
        home = self.directory
        return os.environ | {
            "HOME": str(self.home),
            "RABBITMQ_NODENAME": self.name,
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
        with (self.directory / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [installed("rabbitmq-server")], env=self.environment(), stdin=subprocess.DEVNULL,
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
        if self.port_mapper:
            self.port_mapper.kill()
            self.port_mapper.wait()

    def pid(self):
        """The process that does the work, beneath the shell that was started."""
        found = subprocess.run(["pgrep", "-g", str(self.process.pid), "beam"], check=True,
                               capture_output=True, text=True)
        return int(found.stdout.split()[0])


class RabbitMqCluster:
    """Several that are one, for comparisons of speed."""

    def __init__(self, directory, size):
        self.port, = free_ports(1)
        self.port_mapper = start_port_mapper(self.port)
        names = [f"isthmus-{os.getpid()}-{number}@localhost" for number in range(size)]
        config = ("tcp_listen_options.nodelay = true\n"
                  "cluster_formation.peer_discovery_backend = classic_config\n")
        config += "".join(f"cluster_formation.classic_config.nodes.{place} = {name}\n"
                          for place, name in enumerate(names, 1))
        self.nodes = []
        home = Path(directory) / "home"
        home.mkdir()
        for name in names:
            own = Path(directory) / name
            own.mkdir()
            node = RabbitMq(own, name, self.port, config)
            # They know each other by a cookie in their home, which the first one makes.
            node.home = home
            self.nodes.append(node)
        try:
            for node in self.nodes:
                node.start()
            self._wait_whole()
        except BaseException:
            self.close()
            raise

    def _wait_whole(self):
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            seen = subprocess.run(
                [installed("rabbitmqctl"), "-n", self.nodes[0].name, "cluster_status", "--formatter", "json"],
                env=self.nodes[0].environment(), capture_output=True, text=True, check=False)
            with contextlib.suppress(ValueError, KeyError):
                if len(json.loads(seen.stdout)["running_nodes"]) == len(self.nodes):
                    return
            assert time.monotonic() < deadline, "the nodes do not find each other: " + seen.stdout
            time.sleep(0.5)

    def close(self):
        """Stops all of them."""
        for node in self.nodes:
            if node.process:
                node.stop()
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
