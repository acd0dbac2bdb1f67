"""The PROXY protocol: who says whose connection it is, and is believed."""

import json
import socket
import ssl
import struct
import urllib.request

import pytest

from broker import Broker
from mqttclient import raw_connect
from rawamqp import Connection
from rawws import BINARY, frame, message, UPGRADE

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
AMQP = b"AMQP\0\0\x09\x01"
LISTENERS = ["amqp", "mqtt", "stomp", "any", "http"]
STOMP_CONNECT = b"CONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest\n\n\0"
HTTP_REQUEST = (b"GET /api/whoami HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                b"Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\r\n")


def v1(address, port=40000):
    family = "TCP6" if ":" in address else "TCP4"
    destination = "::1" if ":" in address else "127.0.0.1"
    return f"PROXY {family} {address} {destination} {port} 5672\r\n".encode()


def v2(address=None, port=40000, command=1, family=None, tlvs=b""):
    rest = b""
    if address is not None:
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        family = family or (0x21 if ":" in address else 0x11)
        rest = socket.inet_pton(kind, address) * 2 + struct.pack(">HH", port, 5672)
    rest += tlvs
    return SIGNATURE + bytes([0x20 | command, family or 0]) + struct.pack(">H", len(rest)) + rest


@pytest.fixture(scope="module")
def proxied(tmp_path_factory, certificates):
    """A broker that believes this machine."""
    settings = {
        "listeners.proxy_protocol_from": "192.0.2.0/24, 127.0.0.1",
        "listeners.anys": "127.0.0.1:0", "listeners.amqps": "127.0.0.1:0",
        "listeners.https": "off",
        "tls.certificate": certificates / "server.pem", "tls.key": certificates / "server.key",
    }
    with Broker(tmp_path_factory.mktemp("proxied") / "data", settings) as broker:
        yield broker
        assert broker.stop() == 0, broker.log()


def connect(port, *pieces):
    stream = socket.create_connection(("127.0.0.1", port), timeout=5)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for piece in pieces:
        stream.sendall(piece)
    return stream


def everything(stream):
    got = b""
    try:
        while piece := stream.recv(10_000):
            got += piece
    except ConnectionResetError:
        pass
    return got


def lets_guest_in(broker, listener, header):
    """Whether guest may log in behind `header`: only from this machine."""
    first = {"mqtt": raw_connect("proxied"), "stomp": STOMP_CONNECT, "http": HTTP_REQUEST,
             "any": STOMP_CONNECT}
    with connect(broker.ports[listener], header + first[listener]) as stream:
        answer = stream.recv(1000)
        told = {"mqtt": (b"\x20\x02\0\0", b"\x20\x02\0"), "stomp": (b"CONNECTED\n", b"ERROR\n"),
                "http": (b"HTTP/1.1 200", b"HTTP/1.1 401"), "any": (b"CONNECTED\n", b"ERROR\n")}
        is_in = answer.startswith(told[listener][0])
        assert is_in or answer.startswith(told[listener][1]), answer
        return is_in


@pytest.mark.parametrize("listener", ["mqtt", "stomp", "http", "any"])
def test_the_clients_address_counts_for_guest(proxied, listener):
    for near in [v1("127.0.0.1"), v1("::1"), v2("127.0.0.1"), v2("::1"), v2(command=0),
                 v2("192.0.2.1", command=0), v2("127.0.0.1", tlvs=b"\x04\0\x03abc" * 100)]:
        assert lets_guest_in(proxied, listener, near), near
    for far in [v1("192.0.2.9"), v1("2001:db8::1"), v2("192.0.2.9"), v2("2001:db8::1"),
                b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN 127.0.0.1 127.0.0.1 1 2\r\n", v2(),
                v2(family=0x31, tlvs=bytes(216)), v2("127.0.0.1", family=0x12)]:
        assert not lets_guest_in(proxied, listener, far), far


@pytest.mark.parametrize("header", [v1("192.0.2.9", 4711), v2("192.0.2.9", 4711)], ids=["1", "2"])
def test_headers_that_come_byte_by_byte(proxied, header):
    with connect(proxied.ports["amqp"], *[bytes([byte]) for byte in header + AMQP]) as stream:
        assert stream.recv(1) == b"\1"


def test_the_management_api_shows_the_client(proxied):
    with connect(proxied.ports["stomp"], v1("127.0.0.9", 4711) + STOMP_CONNECT) as stream:
        assert stream.recv(1000).startswith(b"CONNECTED")
        request = HTTP_REQUEST.replace(b"/api/whoami", b"/api/connections")
        with connect(proxied.ports["http"], v2("127.0.0.1") + request) as http:
            _, _, body = everything(http).partition(b"\r\n\r\n")
        [shown] = [each for each in json.loads(body) if each["peer_port"] == 4711]
        assert shown["peer_host"] == "127.0.0.9"


@pytest.mark.parametrize("listener", LISTENERS)
def test_who_is_believed_must_say_it(proxied, listener):
    for wrong in [AMQP + AMQP, b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", SIGNATURE + b"\x31\x11\0\0",
                  v2("127.0.0.1")[:14] + b"\0\x04" + bytes(4), HTTP_REQUEST]:
        with connect(proxied.ports[listener], wrong) as stream:
            assert everything(stream) == b"", wrong
    assert "listeners.proxy_protocol_from has its address" in proxied.log()


@pytest.mark.parametrize("listener", ["amqps", "anys"])
def test_the_header_stands_before_tls(proxied, listener, certificates):
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    with connect(proxied.ports[listener], v2("192.0.2.9")) as plain, \
            context.wrap_socket(plain, server_hostname="localhost") as stream:
        stream.sendall(AMQP)
        assert stream.recv(1) == b"\1"


def test_a_websocket_behind_a_proxy(proxied):
    head = (UPGRADE + "Sec-WebSocket-Protocol: mqtt\r\n\r\n").encode()
    for listener in ["any", "http"]:
        for header, code in [(v1("127.0.0.1"), 0), (v1("192.0.2.9"), None)]:
            with connect(proxied.ports[listener], header + head) as stream:
                answer = b""
                while b"\r\n\r\n" not in answer:
                    answer += stream.recv(1)
                stream.sendall(frame(raw_connect("proxied")))
                opcode, connack = message(stream)
                assert opcode == BINARY and (connack[3] == 0) == (code == 0), (listener, connack)


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("header", [v1("127.0.0.1"), v2("127.0.0.1")], ids=["1", "2"])
def test_others_are_refused_who_say_it(isthmus, listener, header):
    first = {"mqtt": raw_connect("proxied"), "http": HTTP_REQUEST, "amqp": AMQP}
    with connect(isthmus.ports[listener], header + first.get(listener, STOMP_CONNECT)) as stream:
        answer = everything(stream)
        refusals = {"amqp": AMQP, "http": b"HTTP/1.1 400", "stomp": b"ERROR"}
        assert answer.startswith(refusals.get(listener, b"")), answer
        assert len(answer) < 1000 and b"CONNECTED" not in answer
        assert listener not in ("mqtt", "any") or answer == b""


def test_a_header_that_does_not_come_is_not_waited_for(tmp_path):
    settings = {"limits.handshake_timeout": "300ms", "listeners.proxy_protocol_from": "127.0.0.1"}
    with Broker(tmp_path / "data", settings) as broker:
        for said in [b"", b"PROXY TCP4 1.", SIGNATURE]:
            with connect(broker.ports["amqp"], said) as stream:
                assert everything(stream) == b""
