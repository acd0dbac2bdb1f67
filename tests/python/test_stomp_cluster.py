"""STOMP clients of a cluster: by way of the nodes that do not lead, and when another one leads."""

import pytest

from cluster import Cluster
from helpers import eventually
from rawstomp import Stomp

pytestmark = [pytest.mark.serial, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def test_a_standby_passes_clients_through(cluster, name):
    with Stomp(cluster.leader().ports["stomp"]) as direct, \
            Stomp(cluster.standby().ports["stomp"]) as passed:
        direct.subscribe(f"/topic/{name}")
        passed.subscribe(f"/topic/{name}")
        direct.request("SEND", b"one", destination=f"/topic/{name}")
        passed.send("SEND", b"two", destination=f"/topic/{name}")
        for client in direct, passed:
            assert {client.read("MESSAGE").body for _ in range(2)} == {b"one", b"two"}


def test_what_was_answered_is_there_when_another_node_leads(cluster, name):
    leader = cluster.leader()
    with Stomp(leader.ports["stomp"]) as client:
        client.send("BEGIN", transaction="t")
        for n in range(20):
            client.send("SEND", b"%d" % n, destination=f"/queue/{name}", persistent="true",
                        transaction="t")
        client.request("COMMIT", transaction="t")
        cluster.transfer()
        assert client.read("ERROR").headers["message"] == "Try again"
    assert cluster.leader() is not leader

    def comes_back():
        try:
            with Stomp(leader.ports["stomp"]) as client:
                client.subscribe(f"/queue/{name}", ack="client")
                bodies = [client.read("MESSAGE").body for _ in range(20)]
                return bodies == [b"%d" % n for n in range(20)]
        except (AssertionError, OSError):
            return False

    eventually(comes_back, 20)
