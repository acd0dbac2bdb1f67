"""Nodes come and go under load: nothing confirmed is lost, and who lost its data is a new member."""

import os
import time

import pika
import pytest

from cluster import Cluster
from clusterload import Load, held
from helpers import eventually

SOAK = os.environ.get("ISTHMUS_SOAK") == "1"
ROUNDS = 50 if SOAK else 2
JOINED_WITHIN_S = 30
# So little log is kept that whoever is away for a while must be sent a snapshot.
SMALL = {"storage.segment_bytes": "4 MiB", "storage.checkpoint_after_bytes": "4 MiB",
         "cluster.log_kept_bytes": "1 MiB"}

PERSISTENT = pika.BasicProperties(delivery_mode=2)

pytestmark = [pytest.mark.serial, pytest.mark.soak, pytest.mark.timeout(3600 if SOAK else 90)]


@pytest.fixture
def cluster(tmp_path):
    """Three nodes that keep little log."""
    with Cluster(tmp_path, SMALL) as cluster:
        yield cluster


def segments(node):
    """The numbers of the log's files."""
    names = [file.stem for file in node.data_dir.glob("log-*.seg")]
    return sorted(int(name.removeprefix("log-"), 16) for name in names)


def forget(cluster, queue, megabytes=12):
    """Publishes large messages, until the leader's log has forgotten all that it had before."""
    last = segments(cluster.leader())[-1]
    fill(cluster, queue, megabytes)
    eventually(lambda: segments(cluster.leader())[0] > last, JOINED_WITHIN_S)


def remove_queue(cluster, queue):
    """Removes a queue and what is in it."""
    connection = cluster.leader().connect()
    connection.channel().queue_delete(queue)
    connection.close()


def fill(cluster, queue, megabytes):
    """Publishes large messages, so that the log goes on by so much."""
    connection = cluster.leader().connect()
    channel = connection.channel()
    channel.queue_declare(queue, durable=True)
    channel.confirm_delivery()
    body = os.urandom(256 << 10)
    for number in range(4 * megabytes):
        channel.basic_publish("", queue, number.to_bytes(8, "big") + body, PERSISTENT)
    connection.close()


def voters(cluster):
    """Who votes, as the leader says."""
    return {m["member"] for m in cluster.leader().status()["members"] if m["voter"]}


def test_wiped_nodes_come_back_as_others(cluster):
    with Load(cluster.nodes.values(), "wiped", consumes=False) as load:
        seen = voters(cluster)
        for turn in range(ROUNDS):
            node = cluster.leader() if turn % 2 else cluster.standby()
            before = node.status()["member"]
            cluster.kill(node.number)
            node.wipe()
            forget(cluster, f"ballast.{turn}")
            cluster.start_nodes(node.number)
            eventually(lambda: (node.status() or {}).get("member") in voters(cluster),
                       JOINED_WITHIN_S)
            after = node.status()["member"]
            assert after not in seen, f"{after} has been a member before"
            assert after % 65536 == node.number
            seen.add(after)
            assert "receiving a snapshot" in node.log(), "it came by the log alone"
            # Its old self is not there for ever; it may go by itself meanwhile.
            leader = cluster.leader()
            if any(m["member"] == before for m in leader.status()["members"]):
                code, printed = leader.cli("remove", before)
                assert code == 0 or "there is no member" in printed, printed
            eventually(lambda: len(voters(cluster)) == 3, JOINED_WITHIN_S)
            cluster.wait_whole(JOINED_WITHIN_S, voters=3)
            remove_queue(cluster, f"ballast.{turn}")
        load.stop()
    check_everywhere(cluster, "wiped", load)


def check_everywhere(cluster, queue, load):
    """Every node that votes has all that was confirmed."""
    found = {}
    for node in cluster.running:
        leader = cluster.transfer(node.number)
        found[node.number] = held(leader, queue)
        lost = load.promise.confirmed - set(found[node.number])
        assert not lost, f"node {node.number}: {len(lost)} lost: {sorted(lost)[:10]}"
    first, *others = found.values()
    assert all(each == first for each in others), "nodes hold different things"


def test_a_node_that_was_away_is_sent_a_snapshot(cluster):
    with Load(cluster.nodes.values(), "away", consumes=False) as load:
        node = cluster.standby()
        member = node.status()["member"]
        cluster.kill(node.number)
        forget(cluster, "ballast")
        cluster.start_nodes(node.number)
        cluster.wait_whole(JOINED_WITHIN_S)
        assert node.status()["member"] == member, "it has its data, and is who it was"
        assert "receiving a snapshot" in node.log(), "it came by the log alone"
        load.stop()
    check_everywhere(cluster, "away", load)


def test_nodes_join_and_leave(cluster):
    with Load(list(cluster.nodes.values()), "grows", consumes=False) as load:
        for turn in range(ROUNDS):
            number = 4 + turn
            node = cluster.add_node(number)
            cluster.start_nodes(number)
            eventually(lambda: (node.status() or {}).get("member") in voters(cluster),
                       JOINED_WITHIN_S)
            assert len(voters(cluster)) == 4
            cluster.wait_whole(JOINED_WITHIN_S)
            if turn % 2:
                cluster.transfer(number)
            member = node.status()["member"]
            # Any node may be asked.
            code, printed = cluster.standby().cli("remove", member)
            if code != 0:
                # Who leads is asked to hand over before it goes.
                cluster.transfer()
                code, printed = cluster.standby().cli("remove", member)
            assert code == 0, printed
            eventually(lambda: member not in voters(cluster), JOINED_WITHIN_S)
            assert node.stop() == 0, node.log()
            del cluster.nodes[number]
            load.outage_s(time.monotonic())
        cluster.wait_whole()
        load.stop()
    check_everywhere(cluster, "grows", load)


def test_an_operator_begins_and_joins(tmp_path):
    cluster = Cluster(tmp_path)
    cluster.lay_out()
    first, second, third = cluster.nodes.values()
    try:
        # Each knows itself and an address where nobody is, so none begins by itself.
        for node in cluster.nodes.values():
            nobody = f"99@127.0.0.1:{third.peer_port}" if node is not third else "99@127.0.0.1:1"
            node.settings["cluster.nodes"] = (
                f'["{node.number}@127.0.0.1:{node.peer_port}","{nobody}"]')
        first.begin_start()
        eventually(lambda: (first.status() or {}).get("state") == "forming", 10)
        code, printed = first.cli("init")
        assert code == 0, printed
        first.end_start(15)
        cluster.leader(among=[first])
        code, printed = first.cli("init")
        assert code != 0 and "already" in printed, printed
        second.begin_start()
        eventually(lambda: (second.status() or {}).get("state") == "forming", 10)
        code, printed = second.cli("join", f"127.0.0.1:{first.peer_port}")
        assert code == 0, printed
        second.end_start(15)
        cluster.wait_whole(15, voters=2)
    finally:
        print(cluster.logs())
        cluster.close()
