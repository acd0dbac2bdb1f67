"""What MQTT's sessions, retained messages, groups and wills keep while leaders are killed."""

import os
import random
import time

import pytest

from cluster import Cluster
from mqttclient import Client, Refused

SOAK = os.environ.get("ISTHMUS_SOAK") == "1"
KILLS = 50 if SOAK else 3
BATCH = 100
LASTS_S = 600
COMES_BACK_WITHIN_S = 20

pytestmark = [pytest.mark.serial, pytest.mark.soak, pytest.mark.timeout(3600 if SOAK else 90)]


@pytest.fixture
def cluster(tmp_path):
    small = {"storage.segment_bytes": "4 MiB", "storage.checkpoint_after_bytes": "4 MiB"}
    with Cluster(tmp_path, small) as cluster:
        yield cluster


def come_back(client, cluster):
    """Connects to whichever node serves it, with what the client has of its session."""
    deadline = time.monotonic() + COMES_BACK_WITHIN_S
    while True:
        for node in cluster.nodes.values():
            try:
                return client.reconnect(node.ports["mqtt"])
            except (Refused, OSError, AssertionError):
                client.fall_silent()
        assert time.monotonic() < deadline, "no node serves clients"
        time.sleep(0.05)


def test_exactly_once_while_leaders_are_killed(cluster, name):
    first = cluster.leader().ports["mqtt"]
    subscriber = Client(first, client_id=f"to-{name}", lasts_s=LASTS_S).connect()
    subscriber.subscribe(name, 2)
    member = Client(first, client_id=f"of-{name}", lasts_s=LASTS_S).connect()
    member.subscribe(f"$share/{name}/{name}", 1)
    publisher = Client(first, client_id=f"from-{name}", lasts_s=LASTS_S).connect()
    publisher.publish(f"{name}/state", b"on", 1, retain=True)
    clients = publisher, subscriber, member
    sent, received, shared = 0, [], set()
    for _ in range(KILLS):
        for _ in range(BATCH):
            publisher.send(name, str(sent).encode(), 2)
            sent += 1
        time.sleep(random.uniform(0, 0.1))
        killed = cluster.leader()
        cluster.kill(killed.number)
        for client in clients:
            client.fall_silent()
        received += subscriber.drain()
        shared |= set(member.drain())
        cluster.start_nodes(killed.number)
        cluster.wait_whole()
        for client in clients:
            come_back(client, cluster)
            assert client.session_present
    publisher.wait_all_acknowledged()
    while len(received) < sent:
        received.append(subscriber.receive().payload)
    received += subscriber.drain(0.3)
    while len(shared) < sent:
        shared.add(member.receive().payload)
    assert sorted(map(int, received)) == list(range(sent))
    assert sorted(map(int, shared)) == list(range(sent))
    subscriber.subscribe(f"{name}/state", 1)
    assert subscriber.receive().payload == b"on"
    for client in clients:
        client.close()


def test_a_will_outlives_the_leader_that_had_it(cluster, name):
    heir = Client(cluster.leader().ports["mqtt"], client_id=f"heir-{name}", lasts_s=LASTS_S)
    heir.connect()
    heir.subscribe(name)
    will = {"topic": name, "payload": b"gone", "qos": 1}
    dying = Client(cluster.leader().ports["mqtt"], client_id=name, will=will).connect()
    killed = cluster.leader()
    cluster.kill(killed.number)
    for client in (heir, dying):
        client.fall_silent()
    cluster.start_nodes(killed.number)
    cluster.wait_whole()
    come_back(heir, cluster)
    assert heir.receive(COMES_BACK_WITHIN_S).payload == b"gone"
    heir.close()
