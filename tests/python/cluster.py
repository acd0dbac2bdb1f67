"""Three Isthmus processes that are one broker, and what can be done to them.

Ports must be known before the nodes start, so they are bound, noted and released; if somebody else
takes one meanwhile, all of it is tried again with others.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pika

from broker import Broker, DidNotStart, binary
from helpers import eventually
from partition import PeerProxy

FORMED_WITHIN_S = 15
ATTEMPTS = 3


def free_ports(count):
    """Ports of 127.0.0.1 that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Node(Broker):
    """A node of a cluster, on ports that stay the same over its lives."""

    def __init__(self, number, data_dir, peer_port, amqp_port, http_port, settings):
        super().__init__(data_dir, settings, amqp=f"127.0.0.1:{amqp_port}")
        self.settings["listeners.http"] = f"127.0.0.1:{http_port}"
        self.number = number
        self.peer_port = peer_port
        self.amqp_port = amqp_port
        self.http_port = http_port

    @property
    def amqp(self):
        """Host and port of the AMQP listener, whether it runs or not."""
        return "127.0.0.1", self.amqp_port

    @property
    def url(self):
        """Where it serves HTTP."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def is_running(self):
        """Whether there is a process."""
        return self.process is not None and self.process.poll() is None

    def pause(self):
        """SIGSTOP; returns once every thread has stopped, which on busy processors takes a moment."""
        self.process.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self.process.pid}/task")
        eventually(lambda: all(
            "\nState:\tT" in (each / "status").read_text() for each in threads.iterdir()))

    def resume(self):
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def wipe(self):
        """Removes all its data. It must not run."""
        shutil.rmtree(self.data_dir)

    def status(self, timeout_s=1):
        """What `/api/cluster` says; None if it does not answer."""
        try:
            return self.api("/api/cluster", timeout_s=timeout_s)
        except (OSError, ValueError):
            return None

    def api(self, path, body=None, timeout_s=5, user=None):
        """The JSON that a route answers; raises HTTPError where it refuses."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data)
        request.add_header("content-type", "application/json")
        if token := self.settings.get("cluster.token"):
            request.add_header("authorization", f"Bearer {token}")
        if user:
            request.add_header("authorization", user)
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            text = response.read().decode()
        return json.loads(text) if text else None

    def cli(self, *words):
        """Runs `isthmus cluster`; returns exit code and everything it printed."""
        command = [binary(), "cluster", "--url", self.url, *map(str, words)]
        if token := self.settings.get("cluster.token"):
            command[1:1] = ["--set", f"cluster.token={token}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=40, env=os.environ | {"NO_COLOR": "1"})
        return done.returncode, done.stdout

    def connect(self, **parameters):
        """A pika connection as guest."""
        parameters.setdefault("heartbeat", 0)
        parameters.setdefault("socket_timeout", 5)
        parameters.setdefault("stack_timeout", 10)
        return pika.BlockingConnection(pika.ConnectionParameters(*self.amqp, **parameters))


class Cluster:
    """Nodes 1 to `size`. With `is_proxied` peers reach each other by a proxy that can be cut."""

    def __init__(self, directory, settings=None, size=3, is_proxied=False, own_settings=None):
        self.directory = directory
        self.settings = {"cluster.tls": "off", "shutdown.drain_s": 1} | (settings or {})
        self.own_settings = own_settings or {}
        self.numbers = range(1, size + 1)
        self.is_proxied = is_proxied
        self.nodes = {}
        self.proxies = {}

    def start(self):
        """Forms it; returns once somebody leads and all vote."""
        for attempt in range(ATTEMPTS):
            self.lay_out(attempt)
            try:
                self.start_nodes()
                break
            except DidNotStart as failed:
                self.close()
                if "in use" not in failed.output or attempt + 1 == ATTEMPTS:
                    raise
        self.wait_whole(FORMED_WITHIN_S)
        self.wait_for_guest()
        return self

    def wait_for_guest(self):
        """The first leader makes the first user."""
        deadline = time.monotonic() + FORMED_WITHIN_S
        while True:
            try:
                return self.leader().connect().close()
            except pika.exceptions.AMQPError:
                assert time.monotonic() < deadline, "guest cannot log in"
                time.sleep(0.05)

    def lay_out(self, attempt=0):
        """Gives every node its ports and settings; nothing is started yet."""
        ports = free_ports(4 * len(self.numbers))
        for index, number in enumerate(self.numbers):
            peer_port, amqp_port, http_port, proxy_port = ports[4 * index:4 * index + 4]
            node = Node(number, self.directory / f"{attempt}-node-{number}", peer_port, amqp_port,
                        http_port, self.settings | self.own_settings.get(number, {}))
            node.settings["cluster.node"] = number
            self.nodes[number] = node
            if self.is_proxied:
                node.settings["cluster.listen"] = f"127.0.0.1:{peer_port}"
                self.proxies[number] = PeerProxy(proxy_port, number, ("127.0.0.1", peer_port))
        nodes = json.dumps([f"{number}@{self.peer_address(number)}" for number in self.numbers])
        for node in self.nodes.values():
            node.settings["cluster.nodes"] = nodes

    def peer_address(self, number):
        """Where peers reach a node."""
        port = self.proxies[number].port if self.is_proxied else self.nodes[number].peer_port
        return f"127.0.0.1:{port}"

    def add_node(self, number):
        """One more node, which joins; not started yet."""
        peer_port, amqp_port, http_port = free_ports(3)
        node = Node(number, self.directory / f"node-{number}", peer_port, amqp_port, http_port,
                    dict(self.settings))
        node.settings["cluster.node"] = number
        known = [f"{number}@127.0.0.1:{peer_port}"]
        known += [f"{each}@{self.peer_address(each)}" for each in self.nodes]
        node.settings["cluster.nodes"] = json.dumps(known)
        self.nodes[number] = node
        return node

    def start_nodes(self, *numbers):
        """Starts nodes side by side: those named, or all that do not run."""
        nodes = [self.nodes[number] for number in numbers or self.nodes]
        nodes = [node for node in nodes if not node.is_running]
        for node in nodes:
            node.begin_start()
        for node in nodes:
            node.end_start(FORMED_WITHIN_S)

    @property
    def running(self):
        """The nodes that have a process."""
        return [node for node in self.nodes.values() if node.is_running]

    def statuses(self, nodes=None):
        """Those of the nodes that answer, by number."""
        asked = {node.number: node.status() for node in nodes or self.running}
        return {number: status for number, status in asked.items() if status}

    def leader(self, within_s=10, among=None):
        """The node that leads and may act as leader, once there is one."""
        deadline = time.monotonic() + within_s
        while True:
            for node in among or self.running:
                if self._leads(node):
                    return node
            assert time.monotonic() < deadline, f"nobody leads: {self.statuses()}"
            time.sleep(0.02)

    @staticmethod
    def _leads(node):
        try:
            return node.api("/health/ready", timeout_s=1)["role"] == "leader"
        except (OSError, ValueError):
            # Not there, or 503: nobody leads as far as it knows.
            return False

    def standby(self, other_than=()):
        """A running node that does not lead."""
        leader = self.leader()
        return next(node for node in self.running if node not in (leader, *other_than))

    def wait_whole(self, within_s=10, voters=None):
        """Waits until every running node follows one leader, votes, and lacks nothing; returns the
        leader."""
        deadline = time.monotonic() + within_s
        before = {}
        while True:
            statuses = self.statuses()
            if self._is_whole(statuses, before, voters or len(self.running)):
                leader = next(s["node"] for s in statuses.values() if s["role"] == "leader")
                return self.nodes[leader]
            assert time.monotonic() < deadline, f"not whole within {within_s} s: {statuses}"
            before = statuses
            time.sleep(0.05)

    def _is_whole(self, statuses, before, voters):
        """Compares with what the leader had committed the time `before`: it may be asked after the
        others, and is ahead of them then as long as there is load."""
        leaders = [s for s in statuses.values() if s.get("role") == "leader"]
        if len(statuses) < len(self.running) or len(leaders) != 1:
            return False
        leader = leaders[0]
        committed = before.get(leader["node"], {}).get("committed")
        votes = {m["member"] for m in leader["members"] if m["voter"]}
        return (committed is not None and len(votes) == voters
                and all(s.get("term") == leader["term"] and s["member"] in votes
                        and s["last"] >= committed for s in statuses.values()))

    def transfer(self, number=None, attempts=3):
        """`isthmus cluster transfer` on the leader; returns the node that leads then.

        A node that is too slow to take over, as on a busy machine, is asked again.
        """
        for attempt in range(attempts):
            leader = self.leader()
            if leader.number == number:
                return leader
            words = []
            if number is not None:
                members = leader.status()["members"]
                words = [next(m["member"] for m in members if m["node"] == number and m["voter"])]
            code, printed = leader.cli("transfer", *words)
            if code == 0:
                break
            assert "leads now" in printed and attempt + 1 < attempts, printed
        among = [self.nodes[number]] if number else [n for n in self.running if n is not leader]
        return self.leader(among=among)

    def kill(self, *numbers):
        """SIGKILL for all of these at once."""
        for number in numbers:
            self.nodes[number].process.kill()
        for number in numbers:
            self.nodes[number].end_stop()

    def heal(self):
        """Everything runs, and speaks with everything; returns the leader."""
        for proxy in self.proxies.values():
            proxy.heal()
        for node in self.running:
            node.resume()
        self.start_nodes()
        return self.wait_whole(FORMED_WITHIN_S)

    def cut(self, *pairs):
        """From now on nothing passes from the first to the second of each pair."""
        for source, target in pairs:
            self.proxies[target].cut_requests(source)
            self.proxies[source].cut_answers(target)

    def divide(self, *sides):
        """Nothing passes between nodes of different sides, in either direction."""
        for side in sides:
            self.cut(*((a, b) for a in side for b in self.nodes if b not in side))

    def logs(self):
        """The last words of every node."""
        return "\n".join(f"--- node {node.number}\n" + "".join(node.output[-40:])
                         for node in self.nodes.values())

    def close(self):
        """Ends all of it at once."""
        for node in self.running:
            with contextlib.suppress(OSError, ProcessLookupError):
                node.resume()
            node.kill()
        for proxy in self.proxies.values():
            proxy.close()

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        if kind is not None:
            print(self.logs())
        self.close()


def refusal(call):
    """The status and words with which HTTP refuses."""
    try:
        call()
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()).get("error")
    raise AssertionError("it was not refused")


@contextlib.contextmanager
def stranger(cluster, tmp_path, number=4, **changes):
    """A further node, with settings that keep it out; killed in the end."""
    node = cluster.add_node(number)
    del cluster.nodes[number]
    node.data_dir = tmp_path / f"stranger-{number}"
    node.settings.update(changes)
    try:
        yield node
    finally:
        if node.is_running:
            node.kill()


def words(node, *expected, within_s=8):
    """Waits until the node's log has all of these words in a line."""
    def has_said():
        return any(all(word in line for word in expected) for line in node.output)
    eventually(has_said, within_s)


def undisturbed(cluster, term):
    """The cluster goes on in the same term with the same voters."""
    cluster.wait_whole()
    status = cluster.leader().status()
    assert status["term"] == term and len(status["members"]) == 3, status
