"""The listener `any`, where the first bytes tell the protocol, and WebSockets."""

import socket
import ssl
import time

import pika
import pytest

from broker import Broker
from helpers import eventually
from mqttclient import V3, V5, Client, Refused, raw_connect, tls_context
from rawws import exactly, frame, upgrade

both = pytest.mark.parametrize("version", [V3, V5], ids=["3.1.1", "5.0"])

@pytest.fixture
def port(isthmus):
    return isthmus.ports["any"]


@both
@pytest.mark.parametrize("transport", ["tcp", "websockets"])
def test_mqtt(port, isthmus, name, version, transport):
    with Client(port, version, transport=transport) as client, \
            Client(isthmus.ports["mqtt"], version) as other:
        client.subscribe(f"{name}/#", 1)
        other.publish(f"{name}/a", b"x" * 300_000)
        assert client.receive().payload == b"x" * 300_000
        for n in range(100):
            client.publish(f"{name}/{n}", b"%d" % n * 500)
        assert [client.receive().topic for _ in range(100)] == [f"{name}/{n}" for n in range(100)]
    with pytest.raises(Refused, match="Bad user name"):
        Client(port, version, transport=transport, password="wrong").connect()


def test_amqp(port, name):
    with pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port)) as connection:
        channel = connection.channel()
        channel.queue_declare(name, exclusive=True)
        channel.basic_publish("", name, b"body")
        assert channel.basic_get(name, auto_ack=True)[2] == b"body"


@pytest.mark.parametrize("said", [raw_connect("slow"), b"AMQP\0\0\x09\x01"], ids=["mqtt", "amqp"])
def test_first_bytes_that_come_one_by_one(port, said):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in said:
            stream.sendall(bytes([byte]))
            time.sleep(0.001)
        assert stream.recv(4)


@pytest.mark.parametrize("said, why", [
    (b"\x16\x03\x01\x02\0", "begins TLS"), (b"SEND\n\n\0", "of no protocol"),
    (b"AMQX", "of no protocol"), (b"\0\0\0\0\0", "of no protocol"),
    (b"\0\0\1\x40\1ActiveMQ\0\0\0\x0c", "speaks OpenWire"),
    (b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", "listeners.proxy_protocol_from"),
])
def test_what_is_of_no_protocol_is_hung_up_on(tmp_path, said, why):
    with Broker(tmp_path / "data") as broker, \
            socket.create_connection(("127.0.0.1", broker.ports["any"]), timeout=5) as stream:
        stream.sendall(said)
        try:
            assert stream.recv(100) == b""
        except ConnectionResetError:
            pass
        eventually(lambda: why in broker.log())


@pytest.mark.parametrize("header", [b"AMQP\0\1\0\0", b"AMQP\3\1\0\0", b"AMQP\1\1\0\x0a"])
def test_other_versions_of_amqp_are_told_which_is_served(port, header):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
        stream.sendall(header)
        assert exactly(stream, 8) == b"AMQP\0\0\x09\x01"
        assert stream.recv(1) == b""


def test_who_says_nothing_is_hung_up_on(tmp_path):
    with Broker(tmp_path / "data", {"limits.handshake_timeout": "300ms"}) as broker:
        for said in [b"", b"AM", b"GET / HTTP/1.1\r\nHost: a\r\n"]:
            address = "127.0.0.1", broker.ports["any"]
            with socket.create_connection(address, timeout=5) as stream:
                stream.sendall(said)
                assert stream.recv(100) == b""


def test_a_websocket_names_its_subprotocol(port):
    stream, status, answer = upgrade(port, "Sec-WebSocket-Protocol: other, mqtt")
    assert status == 101 and "sec-websocket-protocol: mqtt\r\n" in answer
    stream.close()
    for headers in [[], ["Sec-WebSocket-Protocol: soap"]]:
        stream, status, _ = upgrade(port, *headers)
        assert status == 400
        stream.close()


def test_scripts_of_strangers_are_not_let_in(tmp_path, port):
    mqtt = "Sec-WebSocket-Protocol: mqtt"
    stream, status, _ = upgrade(port, mqtt, "Origin: https://evil.example")
    assert status == 403
    stream.close()
    settings = {"websocket.origins": "https://app.example"}
    with Broker(tmp_path / "data", settings) as broker:
        for origin, expected in [("https://app.example", 101), ("https://evil.example", 403)]:
            stream, status, _ = upgrade(broker.ports["any"], mqtt, f"Origin: {origin}")
            assert status == expected
            stream.close()


def test_packets_may_be_cut_wherever_frames_end(port):
    stream, _, _ = upgrade(port, "Sec-WebSocket-Protocol: mqtt")
    connect = raw_connect("pieces")
    with stream:
        for n, byte in enumerate(connect):
            if n % 7 == 3:
                stream.sendall(frame(b"?", opcode=9))
                assert exactly(stream, 3) == b"\x8a\x01?"
            stream.sendall(frame(bytes([byte])))
        assert exactly(stream, 6) == b"\x82\x04\x20\x02\0\0"
        # Two packets, pings, in one message of two frames.
        stream.sendall(frame(b"\xc0\0\xc0", final=False) + frame(b"\0", opcode=0))
        assert exactly(stream, 8) == b"\x82\x02\xd0\0" * 2
        stream.sendall(frame(b"\x03\xe8", opcode=8))
        assert exactly(stream, 2)[0] == 0x88


def test_text_ends_a_websocket_and_its_will_is_published(isthmus, port, name):
    with Client(isthmus.ports["mqtt"]) as heir:
        heir.subscribe(name)
        stream, _, _ = upgrade(port, "Sec-WebSocket-Protocol: mqtt")
        with stream:
            stream.sendall(frame(raw_connect("text", will=(name, b"gone"))))
            exactly(stream, 6)
            stream.sendall(frame(b"\xc0\0".decode("latin1").encode(), opcode=1))
            assert heir.receive().payload == b"gone"


@pytest.mark.parametrize("transport", ["tcp", "websockets"])
def test_over_tls(tmp_path, certificates, name, transport):
    settings = {
        "listeners.anys": "127.0.0.1:0", "listeners.amqps": "off", "listeners.https": "off",
        "tls.certificate": certificates / "server.pem", "tls.key": certificates / "server.key",
        "tls.client_auth": "wanted", "tls.client_ca": certificates / "ca.pem",
    }
    known = tls_context(certificates, is_known=True)
    with Broker(tmp_path / "data", settings) as broker:
        port = broker.ports["anys"]
        with Client(port, user=None, context=known, transport=transport) as client:
            client.subscribe(name)
            client.publish(name, b"x" * 100_000)
            assert client.receive().payload == b"x" * 100_000
        options = pika.SSLOptions(ssl.create_default_context(cafile=certificates / "ca.pem"),
                                  "localhost")
        pika.BlockingConnection(pika.ConnectionParameters(
            "localhost", port, ssl_options=options)).close()


@pytest.fixture(scope="module")
def anys(tmp_path_factory, certificates):
    settings = {
        "listeners.anys": "127.0.0.1:0", "listeners.amqps": "127.0.0.1:0", "listeners.https": "off",
        "tls.certificate": certificates / "server.pem", "tls.key": certificates / "server.key",
        "listeners.server_names": "m.example=mqtt,A.example=amqp,s.example=stomp,w.example=websocket",
    }
    with Broker(tmp_path_factory.mktemp("anys") / "data", settings) as broker:
        yield broker
        assert broker.stop() == 0, broker.log()


def spoken(broker, certificates, names, said, listener="anys", host="localhost"):
    """What was agreed on with a client that names protocols, and the answer to what it says."""
    context = tls_context(certificates)
    context.set_alpn_protocols(names)
    # The certificate is for localhost alone.
    context.check_hostname = host == "localhost"
    with socket.create_connection(("127.0.0.1", broker.ports[listener]), timeout=5) as plain, \
            context.wrap_socket(plain, server_hostname=host) as stream:
        stream.sendall(said)
        try:
            return stream.selected_alpn_protocol(), stream.recv(4)
        except ConnectionResetError:
            return stream.selected_alpn_protocol(), b""


def test_a_name_in_the_handshake_tells_the_protocol(anys, certificates):
    amqp = b"AMQP\0\0\x09\x01"
    stomp = b"CONNECT\nlogin:guest\npasscode:guest\n\n\0"
    get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    for names, said, expected in [
        (["mqtt"], raw_connect("alpn"), ("mqtt", b"\x20\x02\0\0")),
        (["h2", "amqp"], amqp, ("amqp", b"\1\0\0\0")),
        (["stomp"], stomp, ("stomp", b"CONN")),
        (["http/1.1"], get, ("http/1.1", b"HTTP")),
        ([], amqp, (None, b"\1\0\0\0")),
    ]:
        assert spoken(anys, certificates, names, said) == expected
    # The name counts, and not what comes behind it.
    assert spoken(anys, certificates, ["mqtt"], amqp) == ("mqtt", b"")
    assert spoken(anys, certificates, ["amqp"], raw_connect("alpn"))[1][:4] in (b"AMQP", b"")
    assert spoken(anys, certificates, ["http/1.1"], amqp)[1] in (b"HTTP", b"")


def test_a_host_tells_the_protocol(anys, certificates):
    mqtt, amqp = raw_connect("sni"), b"AMQP\0\0\x09\x01"
    stomp = b"CONNECT\nlogin:guest\npasscode:guest\n\n\0"
    get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

    def answer(host, said, names=(), listener="anys"):
        return spoken(anys, certificates, list(names), said, listener, host)[1]

    for host, said, expected in [("m.example", mqtt, b"\x20\x02\0\0"), ("M.Example", mqtt, b"\x20\x02\0\0"),
                                 ("a.example", amqp, b"\1\0\0\0"), ("s.example", stomp, b"CONN"),
                                 ("w.example", get, b"HTTP"), ("other.example", amqp, b"\1\0\0\0")]:
        assert answer(host, said) == expected, host
    # The host counts, and not what comes behind it; what ALPN says counts more.
    assert answer("m.example", amqp) == b""
    assert answer("m.example", amqp, ["amqp"]) == b"\1\0\0\0"
    # At a listener of one protocol it means nothing.
    assert answer("m.example", amqp, listener="amqps") == b"\1\0\0\0"


def test_a_name_that_nobody_speaks_ends_the_handshake(anys, certificates):
    with pytest.raises(ssl.SSLError, match="(?i)no.application.protocol"):
        spoken(anys, certificates, ["h2", "x-other"], b"")
    # Where one protocol is spoken no name is asked for.
    amqp = b"AMQP\0\0\x09\x01"
    assert spoken(anys, certificates, ["h2"], amqp, "amqps") == (None, b"\1\0\0\0")
