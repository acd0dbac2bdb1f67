"""What MQTT's sessions, retained messages, groups and wills keep while leaders are killed."""

import os
import random
import statistics
import time

import pytest

from cluster import Cluster
from mqttclient import Client, PacketTypes, Refused, properties

SOAK = os.environ.get("ISTHMUS_SOAK") == "1"
KILLS = 50 if SOAK else 3
# Of the leader while wills wait.
WILL_KILLS = 5 if SOAK else 1
WILL_DELAY_S = 10
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
    sent, received, shared, outages_s = 0, [], set(), []
    for _ in range(KILLS):
        for _ in range(BATCH):
            publisher.send(name, str(sent).encode(), 2)
            sent += 1
        time.sleep(random.uniform(0, 0.1))
        killed = cluster.leader()
        cluster.kill(killed.number)
        killed_s = time.monotonic()
        for client in clients:
            client.fall_silent()
        received += subscriber.drain()
        shared |= set(member.drain())
        for client in clients:
            come_back(client, cluster)
            assert client.session_present
        outages_s.append(time.monotonic() - killed_s)
        cluster.start_nodes(killed.number)
        cluster.wait_whole()
    publisher.wait_all_acknowledged()
    while len(received) < sent:
        received.append(subscriber.receive().payload)
    received += subscriber.drain(0.3)
    while len(shared) < sent:
        shared.add(member.receive().payload)
    print(f"{KILLS} kills of the leader, {sent} messages: three clients were back after "
          f"{statistics.median(outages_s):.2f} s (median), {max(outages_s):.2f} s (longest)")
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


def test_delayed_wills_wait_across_a_kill_of_the_leader(cluster, name):
    def will(of):
        delay = properties(PacketTypes.WILLMESSAGE, WillDelayInterval=WILL_DELAY_S)
        return {"topic": name, "payload": of, "qos": 1, "properties": delay}

    def client(of):
        port = cluster.leader().ports["mqtt"]
        return Client(port, client_id=f"{of}-{name}", lasts_s=LASTS_S, will=will(of.encode()))
    heir = Client(cluster.leader().ports["mqtt"], client_id=f"heir-{name}", lasts_s=LASTS_S)
    heir.connect()
    heir.subscribe(name)
    for _ in range(WILL_KILLS):
        dying, back = client("dying").connect(), client("back").connect()
        for each in (dying, back):
            each.hang_up()
        gone_s = time.monotonic()
        # Until the leader has noticed.
        time.sleep(0.5)
        killed = cluster.leader()
        cluster.kill(killed.number)
        heir.fall_silent()
        come_back(back, cluster)
        assert time.monotonic() - gone_s < WILL_DELAY_S, "nothing to be seen on so slow a machine"
        come_back(heir, cluster)
        assert heir.receive(WILL_DELAY_S + COMES_BACK_WITHIN_S).payload == b"dying"
        assert time.monotonic() - gone_s > WILL_DELAY_S - 1
        cluster.start_nodes(killed.number)
        cluster.wait_whole()
        assert heir.receives_nothing(0.5), "one has come back, and each will comes once"
        back.close()
    heir.close()
