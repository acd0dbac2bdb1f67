"""STOMP clients of a cluster: by way of the nodes that do not lead, and when another one leads."""

import pytest

from cluster import Cluster
from helpers import eventually
from rawstomp import Stomp
from rawws import TEXT, relay

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


@pytest.mark.parametrize("listener", ["any", "http"])
def test_a_standby_passes_websockets_through(cluster, name, listener):
    with relay(cluster.standby().ports[listener], "v11.stomp", TEXT) as port, \
            Stomp(port, version="1.1,1.2") as passed, \
            Stomp(cluster.leader().ports["stomp"]) as direct:
        # The leader knows which version the subprotocol is.
        assert passed.connected.headers["version"] == "1.1"
        passed.subscribe(f"/topic/{name}")
        for body in [b"short", b"x" * 100_000, b"\xff" * 50_000, b"end"]:
            direct.request("SEND", body, destination=f"/topic/{name}")
            assert passed.read("MESSAGE").body == body


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
