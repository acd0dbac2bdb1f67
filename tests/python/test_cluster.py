"""Three nodes that are one broker: forming, handing over, holding, passing through, refusing."""

import contextlib
import json
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pika
import pytest

import rawamqp
from broker import DidNotStart, binary
from cluster import Cluster, Node, free_ports, refusal, stranger, undisturbed, words
from clusterload import Load
from helpers import eventually

SOAK = os.environ.get("ISTHMUS_SOAK") == "1"
IS_DEBUG = "debug" in os.environ.get("ISTHMUS_BIN", "")
SWITCHOVER_MAX_S = 2 if IS_DEBUG else 0.5
HOLD_S = 3
RETURNS = 50 if SOAK else 10
ADMIN = "Basic Z3Vlc3Q6Z3Vlc3Q="
PERSISTENT = pika.BasicProperties(delivery_mode=2)

pytestmark = [pytest.mark.serial, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def formed(tmp_path_factory):
    """A cluster for all tests of this file."""
    with Cluster(tmp_path_factory.mktemp("cluster"), {"cluster.hold": f"{HOLD_S}s"}) as cluster:
        yield cluster


@pytest.fixture
def cluster(formed):
    """The cluster, whole."""
    formed.heal()
    return formed


@pytest.fixture
def queue(cluster, name):
    """A durable queue."""
    connection = cluster.leader().connect()
    connection.channel().queue_declare(name, durable=True)
    connection.close()
    return name


def test_every_node_says_who_leads(cluster):
    leader = cluster.leader()
    for node in cluster.nodes.values():
        assert node.api("/health/ready")["role"] == ("leader" if node is leader else "standby")
        status = node.status()
        assert (status["leader"], status["state"]) == (leader.number, "member"), status
        assert [m["member"] for m in status["members"]] == [1, 2, 3]
        assert all(m["voter"] for m in status["members"])
        code, printed = node.cli("status")
        assert code == 0 and "127.0.0.1" in printed, printed
    followed = [m for m in leader.status()["members"] if not m["leader"]]
    assert all(m["lag"] is not None and m["silent_ms"] < 1000 for m in followed), followed


def test_a_switchover_by_command_is_short(cluster, name):
    with Load(cluster.nodes.values(), name) as load:
        outages = []
        for _ in range(2):
            begun_s = time.monotonic()
            cluster.transfer()
            outages.append(load.outage_s(begun_s))
        violations = load.settle_account(cluster)
    print(f"switchover by command: {outages}")
    assert violations == []
    assert max(outages) < SWITCHOVER_MAX_S, outages


def test_a_switchover_names_its_node_or_says_why_not(cluster):
    standby = cluster.standby()
    assert cluster.transfer(standby.number) is standby
    code, printed = standby.cli("transfer", 77)
    assert code != 0 and "no such member" in printed, printed


def test_any_node_may_be_asked_for_what_is_the_leaders_to_do(cluster):
    leader, standby = cluster.leader(), cluster.standby()
    other = cluster.standby(other_than=(standby,))
    # Refusals are the leader's.
    code, printed = standby.cli("transfer", 77)
    assert code != 0 and "409" in printed and "no such member" in printed, printed
    code, printed = standby.cli("remove", 77)
    assert code != 0 and "409" in printed and "no member 77" in printed, printed
    code, printed = other.cli("transfer", standby.number)
    assert code == 0, printed
    assert cluster.leader(among=[standby]) is standby
    # To itself, by way of the node that leads.
    code, printed = leader.cli("transfer", leader.number)
    assert code == 0, printed
    assert cluster.leader(among=[leader]) is leader
    cluster.wait_whole()
    cluster.kill(leader.number, other.number)
    eventually(lambda: standby.status()["leader"] is None or "503" in standby.cli("transfer")[1])
    code, printed = standby.cli("transfer")
    assert code != 0 and "503" in printed, printed
    assert "nobody leads" in printed or "does not answer" in printed, printed


def test_a_switchover_by_sigterm_is_short(cluster, name):
    with Load(cluster.nodes.values(), name) as load:
        leader = cluster.leader()
        begun_s = time.monotonic()
        leader.begin_stop()
        outage_s = load.outage_s(begun_s)
        assert leader.end_stop() == 0, leader.log()
        assert "handed over" in leader.log()
        cluster.heal()
        violations = load.settle_account(cluster)
    print(f"switchover by SIGTERM: {outage_s:.3f} s")
    assert violations == []
    assert outage_s < SWITCHOVER_MAX_S, outage_s


def test_a_standby_passes_clients_through_with_their_address(cluster, queue):
    leader, standby = cluster.leader(), cluster.standby()
    connection = standby.connect()
    # guest may log in from loopback alone, so the leader knows where the client is.
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"by way of a standby")
    own = connection._impl._transport._sock.getsockname() if hasattr(
        connection._impl, "_transport") else None
    listed = leader.api("/api/connections", user=ADMIN)
    assert len(listed) == 1, listed
    peer = json.dumps(listed[0])
    assert own is None or str(own[1]) in peer, (own, listed)
    assert cluster.leader() is leader
    direct = leader.connect()
    assert direct.channel().basic_get(queue, auto_ack=True)[2] == b"by way of a standby"
    direct.close()
    connection.close()


def test_a_standby_passes_requests_of_the_management_api_through(cluster, queue):
    leader, standby = cluster.leader(), cluster.standby()
    client = leader.connect()
    client.channel().basic_publish("", queue, b"seen from everywhere", PERSISTENT)
    for node in cluster.nodes.values():
        eventually(lambda: queue in [each["name"] for each in node.api(
            "/api/queues", user=ADMIN) if each["messages"] == 1])
        assert len(node.api("/api/connections", user=ADMIN)) == 1
    client.close()
    with pytest.raises(urllib.error.HTTPError) as refused:
        standby.api("/api/queues", user="Basic Z3Vlc3Q6d3Jvbmc=")
    assert refused.value.code == 401
    # Each speaks for itself of its own part.
    assert standby.status()["role"] == "standby"


def test_figures_tell_who_leads_and_who_is_heard(cluster):
    leader = cluster.leader()
    for node in cluster.nodes.values():
        figures = metrics(node)
        assert figures["isthmus_cluster_leader"] == (node is leader), figures
        assert figures["isthmus_cluster_term"] == leader.status()["term"], figures
    assert metrics(leader)["isthmus_cluster_voters"] == 3
    gone = cluster.standby()
    gone.pause()
    eventually(lambda: metrics(leader)["isthmus_cluster_voters_heard"] == 2)
    gone.resume()
    eventually(lambda: metrics(leader)["isthmus_cluster_voters_heard"] == 3)


def metrics(node):
    """Figures without labels, by name."""
    with urllib.request.urlopen(f"{node.url}/metrics", timeout=5) as response:
        lines = [line.split() for line in response.read().decode().splitlines()]
    return {line[0]: float(line[1]) for line in lines
            if len(line) == 2 and line[0][0] != "#" and "{" not in line[0]}


def test_strict_standbys_refuse_clients(tmp_path):
    with Cluster(tmp_path, {"cluster.standby_clients": "refuse"}) as cluster:
        leader, standby = cluster.leader(), cluster.standby()
        with rawamqp.Connection(standby.amqp) as client:
            client.send(rawamqp.PROTOCOL_HEADER)
            assert client.receive_rest() == b"", "a strict standby has answered"
        leader.connect().close()
        # A client with a list of hosts finds the leader among them.
        hosts = [pika.ConnectionParameters(*node.amqp) for node in cluster.nodes.values()]
        pika.BlockingConnection(hosts).close()
        assert cluster.transfer(standby.number) is standby
        standby.connect().close()


def raw_publisher(address, queue):
    """A connection that publishes with confirms."""
    connection = rawamqp.Connection(address, timeout_s=HOLD_S + 8).login().open_channel()
    connection.call(1, rawamqp.CONFIRM_SELECT, rawamqp.CONFIRM_SELECT_OK, b"\0")
    return connection


def fate(connection):
    """What becomes of what was published: "ack", "nack", the code of a close, or "closed"."""
    while (frame := connection.receive()) is not None:
        if frame.kind != rawamqp.METHOD:
            continue
        if frame.method == rawamqp.BASIC_ACK:
            return "ack"
        if frame.method == rawamqp.BASIC_NACK:
            return "nack"
        if frame.method == rawamqp.CLOSE:
            return rawamqp.CloseReason.parse(frame.payload).code
    return "closed"


@pytest.mark.parametrize("was_there", ["before", "after"])
def test_without_a_majority_nothing_is_acknowledged(cluster, queue, was_there):
    """A publish is held, and refused once `cluster.hold` is over; whether its publisher published
    just before the majority went, or when the leader knew that it had gone."""
    leader = cluster.leader()
    publisher = raw_publisher(leader.amqp, queue)
    others = [node for node in cluster.nodes.values() if node is not leader]
    for node in others:
        node.pause()
    if was_there == "after":
        # Beyond the lease.
        time.sleep(1.2)
    sent_s = time.monotonic()
    publisher.send(rawamqp.publish(1, "", queue, b"held", rawamqp.PERSISTENT))
    got = fate(publisher)
    waited_s = time.monotonic() - sent_s
    print(f"{was_there}: {got} after {waited_s:.1f} s")
    assert got in (("nack", 320) if was_there == "after" else ("nack", 320, "closed")), got
    assert HOLD_S - 1.5 < waited_s < HOLD_S + 2.5, waited_s
    with pytest.raises(OSError):
        leader.api("/health/ready")


@pytest.mark.parametrize("how_many", [1, 2])
def test_what_is_held_goes_through_when_the_majority_is_back(cluster, queue, how_many):
    """Who comes back joins the leader that still is there, and elects nobody."""
    leader = cluster.leader()
    term = leader.status()["term"]
    publisher = raw_publisher(leader.amqp, queue)
    others = [node.number for node in cluster.nodes.values() if node is not leader]
    cluster.kill(*others)
    # Beyond the lease.
    time.sleep(0.7)
    publisher.send(rawamqp.publish(1, "", queue, b"held", rawamqp.PERSISTENT))
    sent_s = time.monotonic()
    cluster.start_nodes(*others[:how_many])
    check_held(cluster, publisher, queue, sent_s, leader, term)


def test_what_is_held_goes_through_when_the_majority_goes_on(cluster, queue):
    """As above, where the others were stopped and not killed. Two that go on at once may still elect
    somebody before they have heard the leader."""
    leader = cluster.leader()
    term = leader.status()["term"]
    publisher = raw_publisher(leader.amqp, queue)
    others = [node for node in cluster.nodes.values() if node is not leader]
    for node in others:
        node.pause()
    time.sleep(1.2)
    publisher.send(rawamqp.publish(1, "", queue, b"held", rawamqp.PERSISTENT))
    sent_s = time.monotonic()
    others[0].resume()
    check_held(cluster, publisher, queue, sent_s, leader, term)


def check_held(cluster, publisher, queue, sent_s, leader, term):
    """What was held is acknowledged, by who led all the time."""
    got = fate(publisher)
    waited_s = time.monotonic() - sent_s
    print(f"{got} after {waited_s:.1f} s, as others came back")
    assert got == "ack" and waited_s < HOLD_S, (got, waited_s)
    cluster.heal()
    assert cluster.leader() is leader
    assert leader.status()["term"] == term, "who came back has raised the term"
    connection = leader.connect()
    assert connection.channel().basic_get(queue, auto_ack=True)[2] == b"held"
    connection.close()


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_standby_that_returns_disturbs_nobody(cluster, name, how):
    term = cluster.leader().status()["term"]
    with Load(cluster.nodes.values(), name) as load:
        for turn in range(RETURNS):
            node = cluster.standby()
            if how == "killed":
                cluster.kill(node.number)
                # Soon, and after the others have missed it.
                time.sleep(0.1 if turn % 2 else 1)
                cluster.start_nodes(node.number)
            else:
                node.pause()
                time.sleep(0.5 if turn % 2 else 1.5)
                node.resume()
            cluster.wait_whole()
        status = cluster.leader().status()
        violations = load.settle_account(cluster)
    assert status["term"] == term, "who came back has raised the term"
    assert load.nacks == 0
    assert violations == []


def test_a_new_client_waits_for_a_leader(cluster, queue):
    """It comes to a standby while nobody leads, and is served when somebody does."""
    leader = cluster.leader()
    standby, other = (node for node in cluster.nodes.values() if node is not leader)
    cluster.kill(leader.number, other.number)
    time.sleep(1)
    done = []

    def publish():
        connection = standby.connect()
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", queue, b"waited")
        done.append(time.monotonic())
        connection.close()
    client = threading.Thread(target=publish, daemon=True)
    client.start()
    cluster.start_nodes(other.number)
    client.join(10)
    assert done, "the client was not served"


def test_a_new_client_is_refused_when_nobody_leads_for_too_long(cluster):
    leader = cluster.leader()
    standby = cluster.standby()
    cluster.kill(*(node.number for node in cluster.nodes.values() if node is not standby))
    time.sleep(0.5)
    begun_s = time.monotonic()
    with rawamqp.Connection(standby.amqp, timeout_s=HOLD_S + 5) as client:
        client.send(rawamqp.PROTOCOL_HEADER)
        reason = None
        try:
            client.expect(rawamqp.START)
            client.start_ok()
            client.expect(rawamqp.TUNE)
            client.tune_ok()
            client.call(0, rawamqp.OPEN, rawamqp.OPEN_OK, rawamqp.short_string("/") + b"\0\0")
        except AssertionError as refused:
            reason = str(refused)
    waited_s = time.monotonic() - begun_s
    assert reason is not None, "it was let in"
    assert "320" in reason or "code=" in reason or "closed" in reason, reason
    print(f"refused after {waited_s:.1f} s: {reason}")
    # A login takes long in a debug build.
    assert waited_s < HOLD_S + (5 if IS_DEBUG else 2)
    assert leader is not standby


def test_a_node_with_another_token_is_refused(tmp_path):
    token = "0123456789abcdef"
    with Cluster(tmp_path, {"cluster.token": token}) as cluster:
        leader = cluster.leader()
        term = leader.status()["term"]
        with stranger(cluster, tmp_path, **{"cluster.token": "another-0123456789"}) as node:
            node.begin_start()
            words(node, "no member of a cluster yet", "join token")
            words(leader, "not let in", "join token")
            undisturbed(cluster, term)
            assert token not in node.log() + leader.log(), "the token is in a log"
        # Nor are operators let in without it.
        leader.settings["cluster.token"] = "wrong"
        assert refusal(lambda: leader.api("/api/cluster"))[0] == 401
        code, printed = leader.cli("transfer")
        leader.settings["cluster.token"] = token
        assert code != 0 and "401" in printed, printed


def test_a_node_of_another_cluster_is_refused(cluster, tmp_path):
    term = cluster.leader().status()["term"]
    with stranger(cluster, tmp_path) as node:
        # It has been a cluster by itself.
        known = node.settings["cluster.nodes"]
        node.settings["cluster.nodes"] = json.dumps(json.loads(known)[:1])
        node.start()
        own = node.status()["cluster"]
        assert own != cluster.leader().status()["cluster"]
        assert node.stop() == 0
        node.settings["cluster.nodes"] = known
        # It is still what it was, and the others do not know it.
        node.start()
        assert node.status()["cluster"] == own
        undisturbed(cluster, term)
    # One of the cluster's numbers, with data of another cluster, is refused with words.
    victim = cluster.standby()
    assert victim.stop() == 0
    kept, nodes = victim.data_dir, victim.settings["cluster.nodes"]
    # The victim is going to say that it leads as well: its own cluster.
    leader = cluster.leader()
    try:
        victim.data_dir = tmp_path / "false"
        victim.settings["cluster.nodes"] = json.dumps(
            [each for each in json.loads(nodes) if each.startswith(f"{victim.number}@")])
        victim.start()
        assert victim.stop() == 0
        victim.settings["cluster.nodes"] = nodes
        victim.begin_start()
        words(leader, "does not follow", "belongs to cluster")
        assert (leader.status()["role"], leader.status()["term"]) == ("leader", term)
    finally:
        if victim.is_running:
            victim.kill()
        victim.data_dir = kept
        victim.settings["cluster.nodes"] = nodes
    cluster.heal()


@pytest.mark.parametrize("settings, key, text", [
    ({"cluster.node": 1, "cluster.nodes": '["1@10.0.0.1:7001","2@127.0.0.1:7002"]',
      "cluster.tls": "off"}, "cluster.tls", "loopback"),
    ({"cluster.node": 4, "cluster.nodes": '["1@127.0.0.1:7001","2@127.0.0.1:7002"]',
      "cluster.tls": "off"}, "cluster.nodes", "4@host:port"),
    ({"cluster.node": 1, "cluster.nodes": '["1@127.0.0.1:7001","1@127.0.0.1:7002"]',
      "cluster.tls": "off"}, "cluster.nodes", "node 1 twice"),
    ({"cluster.node": 1, "cluster.nodes": '["1@127.0.0.1:7001","2@127.0.0.1:7001"]',
      "cluster.tls": "off"}, "cluster.nodes", "both at 127.0.0.1:7001"),
    ({"cluster.node": 1, "cluster.nodes": '["1@127.0.0.1:7001"]'}, "cluster.certificate", "file"),
    ({"cluster.node": 1, "cluster.nodes": '["127.0.0.1:7001"]', "cluster.tls": "off"},
     "cluster.nodes", "1@host:port"),
    ({"cluster.nodes": '["1@127.0.0.1:7001"]'}, "cluster.node", "which of cluster.nodes"),
    ({"cluster.node": 1, "cluster.nodes": '["1@127.0.0.1:7001"]', "cluster.tls": "off",
      "cluster.heartbeat": "1s"}, "cluster.election_timeout", "three times"),
    ({"cluster.node": 1, "cluster.nodes": '["1@127.0.0.1:7001"]', "cluster.tls": "off",
      "cluster.listen": "0.0.0.0:7001"}, "cluster.tls", "0.0.0.0"),
])
def test_settings_that_contradict_each_other_are_refused(tmp_path, settings, key, text):
    command = [binary(), "serve", "--data-dir", tmp_path / "data"]
    for name, value in ({"listeners.amqp": "127.0.0.1:0", "listeners.http": "127.0.0.1:0"}
                        | settings).items():
        command += ["--set", f"{name}={value}"]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=10)
    assert done.returncode not in (0, None), done.stdout
    about = [line for line in done.stdout.splitlines() if key in line and text in line]
    assert about, done.stdout
    assert "panicked" not in done.stdout


def test_a_directory_of_another_node_is_refused(cluster):
    standby = cluster.standby()
    assert standby.stop() == 0
    other = Node(9, standby.data_dir, *free_ports(3), dict(cluster.settings))
    other.settings |= {"cluster.node": 9,
                       "cluster.nodes": json.dumps([f"9@127.0.0.1:{other.peer_port}"])}
    with pytest.raises(DidNotStart) as failed:
        other.start()
    assert failed.value.exit_code not in (0, None)
    assert f"that of node {standby.number}" in failed.value.output
    cluster.heal()
