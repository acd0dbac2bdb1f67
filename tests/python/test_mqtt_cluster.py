"""MQTT clients of a cluster, by way of the nodes that do not lead."""

import socket

import pytest

from cluster import Cluster
from helpers import eventually
from mqttclient import V3, V5, Client, Refused, tls_context

ADMIN = "Basic Z3Vlc3Q6Z3Vlc3Q="

pytestmark = [pytest.mark.serial, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, certificates):
    settings = {
        "listeners.mqtts": "127.0.0.1:0", "listeners.amqps": "off", "listeners.https": "off",
        "tls.certificate": certificates / "server.pem", "tls.key": certificates / "server.key",
        "tls.client_auth": "wanted", "tls.client_ca": certificates / "ca.pem",
    }
    with Cluster(tmp_path_factory.mktemp("cluster"), settings) as cluster:
        yield cluster


@pytest.mark.parametrize("version", [V3, V5], ids=["3.1.1", "5.0"])
def test_a_standby_passes_clients_through(cluster, certificates, name, version):
    leader, standby = cluster.leader(), cluster.standby()
    known = tls_context(certificates, is_known=True)
    with Client(leader.ports["mqtt"], version) as direct, \
            Client(standby.ports["mqtt"], version) as passed, \
            Client(standby.ports["mqtts"], version, user=None, context=known) as secured, \
            Client(standby.ports["any"], version, transport="websockets") as framed:
        clients = direct, passed, secured, framed
        for client in clients:
            assert client.subscribe(f"{name}/#") == 1
        for number, client in enumerate(clients):
            assert client.publish(f"{name}/{number}") == "Success"
        for client in clients:
            assert [client.receive().topic for _ in range(4)] == [f"{name}/{n}" for n in range(4)]
        listed = leader.api("/api/connections", user=ADMIN)
        assert [each["user"] for each in listed] == ["guest"] * 4, listed
    with pytest.raises(Refused):
        Client(standby.ports["mqtt"], version, password="wrong").connect()


@pytest.mark.parametrize("end", ["reset", "hang_up"])
def test_a_will_is_published_when_a_connection_breaks_that_is_passed_through(cluster, name, end):
    leader, standby = cluster.leader(), cluster.standby()
    with Client(leader.ports["mqtt"]) as heir:
        heir.subscribe(name)
        will = {"topic": name, "payload": b"gone", "qos": 1}
        getattr(Client(standby.ports["mqtt"], will=will).connect(), end)()
        assert heir.receive().payload == b"gone"


def test_clients_are_cut_off_when_another_node_leads_and_come_back(cluster, name):
    leader, standby = cluster.leader(), cluster.standby()
    client = Client(standby.ports["mqtt"]).connect()
    client.subscribe(name)
    cluster.transfer()
    client.wait_closed()
    assert cluster.leader() is not leader

    def returns():
        try:
            with Client(leader.ports["mqtt"]) as again:
                again.subscribe(name)
                again.publish(name, b"again")
                return again.receive().payload == b"again"
        except Refused:
            return False

    eventually(returns)


def test_a_standby_that_refuses_clients_names_the_leader(tmp_path):
    """Only the words are tested here: nobody listens at the servers' addresses."""
    settings = {
        "cluster.standby_clients": "refuse",
        "mqtt.servers": ",".join(f"{n}@n{n}.example:1883" for n in [1, 2, 3]),
    }
    with Cluster(tmp_path, settings) as cluster:
        leader, standby = cluster.leader(), cluster.standby()
        with socket.create_connection(("127.0.0.1", standby.ports["mqtt"]), 5) as raw:
            # A CONNECT of 5.0 without a client identifier.
            raw.sendall(bytes([0x10, 13, 0, 4]) + b"MQTT" + bytes([5, 2, 0, 60, 0, 0, 0]))
            reference = f"n{leader.number}.example:1883".encode()
            told = bytes([0x1C, 0, len(reference)]) + reference
            answer = bytes([0x20, 3 + len(told), 0, 0x9C, len(told)]) + told
            assert raw.recv(100) == answer
            assert raw.recv(1) == b""
            # Also where the first bytes tell the protocol.
            with socket.create_connection(("127.0.0.1", standby.ports["any"]), 5) as other:
                other.sendall(bytes([0x10, 13, 0, 4]) + b"MQTT" + bytes([5, 2, 0, 60, 0, 0, 0]))
                assert other.recv(100) == answer
                assert other.recv(1) == b""
        for port, transport in [("mqtt", "tcp"), ("any", "tcp"), ("any", "websockets")]:
            for version, why in [(V3, "Server unavailable"), (V5, "Use another server")]:
                with pytest.raises(Refused, match=why):
                    Client(standby.ports[port], version, transport=transport).connect()
        for said in [b"AMQP\0\0\x09\x01", b"CONNECT\n\n\0"]:
            with socket.create_connection(("127.0.0.1", standby.ports["any"]), 5) as raw:
                raw.sendall(said)
                assert raw.recv(1) == b""
        with Client(leader.ports["mqtt"], V5):
            pass
