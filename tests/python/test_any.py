"""The listener `any`, where the first bytes tell the protocol, and WebSockets."""

import socket
import ssl
import time

import pika
import pytest

from broker import Broker
from mqttclient import V3, V5, Client, Refused, raw_connect, tls_context

both = pytest.mark.parametrize("version", [V3, V5], ids=["3.1.1", "5.0"])

UPGRADE = ("GET /ws HTTP/1.1\r\nHost: broker.example\r\nUpgrade: websocket\r\n"
           "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
           "Sec-WebSocket-Version: 13\r\n")


@pytest.fixture
def port(isthmus):
    return isthmus.ports["any"]


def upgrade(port, *headers):
    """A socket after the request of a WebSocket, and the answer's status."""
    stream = socket.create_connection(("127.0.0.1", port), timeout=5)
    stream.sendall((UPGRADE + "".join(f"{header}\r\n" for header in headers) + "\r\n").encode())
    answer = b""
    while b"\r\n\r\n" not in answer and (piece := stream.recv(1000)):
        answer += piece
    return stream, int(answer.split()[1]), answer.decode().lower()


def frame(payload, opcode=2, final=True):
    """A masked frame of a client."""
    mask = b"\1\2\3\4"
    assert len(payload) < 126
    head = bytes([opcode | (0x80 if final else 0), 0x80 | len(payload)])
    return head + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))


def exactly(stream, count):
    """So many bytes."""
    read = b""
    while len(read) < count:
        piece = stream.recv(count - len(read))
        assert piece, read
        read += piece
    return read


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


@pytest.mark.parametrize("said", [b"\x16\x03\x01\x02\0", b"SEND\n\n\0", b"AMQX", b"\0"])
def test_what_is_of_no_protocol_is_hung_up_on(port, said):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
        stream.sendall(said)
        try:
            assert stream.recv(100) == b""
        except ConnectionResetError:
            pass


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
    for headers in [[], ["Sec-WebSocket-Protocol: amqp"]]:
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
