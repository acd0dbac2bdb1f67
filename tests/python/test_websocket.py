"""WebSockets: every protocol in them, at `any` and at `http`."""

import os
import subprocess
import time
from pathlib import Path

import pika
import pytest

from broker import Broker
from helpers import eventually
from mqttclient import raw_connect
from rawstomp import Stomp
from rawws import (BINARY, CLOSE, TEXT, UPGRADE, exactly, frame, message, relay, request, upgrade)

NODE_TESTS = Path(__file__).resolve().parents[1] / "node"
STOMP_CONNECT = b"CONNECT\naccept-version:%s\nlogin:guest\npasscode:guest\n\n\0"

both = pytest.mark.parametrize("listener", ["any", "http"])


@both
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_stomp(isthmus, listener, name, opcode):
    with pika.BlockingConnection(pika.ConnectionParameters(*isthmus.amqp)) as connection, \
            relay(isthmus.ports[listener], "v12.stomp", opcode) as port, Stomp(port) as stomp:
        assert stomp.connected.headers["version"] == "1.2"
        stomp.subscribe(f"/queue/{name}")
        bodies = ["grüße".encode() * 30_000, b"", b"\xff\0\xfe", b"last"]
        for body in bodies:
            connection.channel().basic_publish("", name, body)
        assert [stomp.read("MESSAGE").body for _ in bodies] == bodies
        stomp.request("SEND", "zurück".encode(), destination=f"/queue/{name}")
        assert stomp.read("MESSAGE").body == "zurück".encode()
        stomp.request("DISCONNECT")


@both
def test_each_frame_of_stomp_is_a_message_and_of_text_if_it_is(isthmus, listener, name):
    stream, status, answer = upgrade(isthmus.ports[listener],
                                     "Sec-WebSocket-Protocol: v12.stomp, v11.stomp")
    assert status == 101 and "sec-websocket-protocol: v12.stomp\r\n" in answer
    with stream:
        stream.sendall(frame(STOMP_CONNECT % b"1.1,1.2", TEXT))
        opcode, connected = message(stream)
        assert opcode == TEXT and connected.startswith(b"CONNECTED\n") and connected[-1:] == b"\0"
        bodies = [b"one", b"\xc3\xa4", b"\xff", b"", b"x" * 200_000, b"y\xff" * 100_000, b"end"]
        sends = b"".join(b"SEND\ndestination:/queue/%s\ncontent-length:%d\nreceipt:r\n\n%s\0"
                         % (name.encode(), len(body), body) for body in bodies)
        for at in range(0, len(sends), 60_000):
            stream.sendall(frame(sends[at:at + 60_000]))
        for _ in bodies:
            assert message(stream) == (TEXT, b"RECEIPT\nreceipt-id:r\n\n\0")
        stream.sendall(frame(b"SUBSCRIBE\nid:s\ndestination:/queue/%s\n\n\0" % name.encode(), TEXT))
        got = [message(stream) for _ in bodies]
        assert [opcode for opcode, _ in got] == [TEXT, TEXT, BINARY, TEXT, TEXT, BINARY, TEXT]
        assert [each.partition(b"\n\n")[2] for _, each in got] == [body + b"\0" for body in bodies]


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_the_subprotocol_is_the_version_of_stomp(isthmus, version):
    subprotocol = f"v{version.replace('.', '')}.stomp"
    with relay(isthmus.ports["any"], subprotocol) as port, \
            Stomp(port, version="1.0,1.1,1.2") as stomp:
        assert stomp.connected.headers.get("version", "1.0") == version
    other = "1.1" if version == "1.2" else "1.2"
    with relay(isthmus.ports["any"], subprotocol) as port, Stomp(port, connect=False) as stomp:
        stomp.write(STOMP_CONNECT % other.encode())
        error = stomp.read("ERROR")
        assert error.headers["version"] == version and b" is\n" in error.body, error


@both
def test_amqp(isthmus, listener, name):
    with relay(isthmus.ports[listener], "amqp") as port, \
            pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port)) as connection:
        channel = connection.channel()
        channel.queue_declare(name, exclusive=True)
        body = bytes(range(256)) * 1000
        channel.basic_publish("", name, body)
        assert channel.basic_get(name, auto_ack=True)[2] == body


@pytest.mark.parametrize("subprotocol", ["mqtt", "mqttv3.1"])
def test_mqtt_at_the_http_listener(isthmus, subprotocol):
    before = open_connections(isthmus)
    stream, status, _ = upgrade(isthmus.ports["http"], f"Sec-WebSocket-Protocol: {subprotocol}")
    assert status == 101
    with stream:
        # The first bytes may come with the request's last.
        stream.sendall(frame(raw_connect("http")))
        assert message(stream) == (BINARY, b"\x20\x02\0\0")
        # It is a client and counted with them.
        assert open_connections(isthmus) == before + 1
        stream.sendall(frame(b"text", TEXT))
        assert message(stream) == (CLOSE, b"\x03\xeb")
    eventually(lambda: open_connections(isthmus) == before)


def open_connections(isthmus):
    return next(int(line.split()[1]) for line in isthmus.get("/metrics")[1].splitlines()
                if line.startswith("isthmus_connections "))


@both
def test_text_that_is_no_utf_8_ends_a_websocket(isthmus, listener):
    stream, _, _ = upgrade(isthmus.ports[listener], "Sec-WebSocket-Protocol: v12.stomp")
    with stream:
        stream.sendall(frame(b"CONNECT\nlogin:\xff", TEXT))
        assert message(stream) == (CLOSE, b"\x03\xef")


@both
def test_what_is_no_websocket_is_told_what_is_served(isthmus, listener):
    port = isthmus.ports[listener]
    for head, status, said in [
        ("GET /ws HTTP/1.1\r\nHost: a\r\n", 426, b"v12.stomp"),
        ("POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n", 405, b"GET"),
        (UPGRADE.replace("Version: 13", "Version: 8"), 426, b"version 13"),
        (UPGRADE.replace("dGhl", ""), 400, b"Sec-WebSocket-Key"),
        (UPGRADE, 400, b"v12.stomp"),
        (UPGRADE + "Sec-WebSocket-Protocol: soap\r\n", 400, b"mqtt"),
        (UPGRADE + "Sec-WebSocket-Protocol: mqtt\r\nOrigin: https://evil.example\r\n", 403,
         b"websocket.origins"),
    ]:
        stream, got, answer = request(port, head)
        with stream:
            assert got == status, (head, answer)
            length = int(answer.partition("content-length: ")[2].partition("\r")[0])
            assert said in exactly(stream, length), (head, answer)


def test_other_paths_of_the_http_listener_are_its_own(isthmus):
    mqtt = UPGRADE.replace("/ws", "/mqtt") + "Sec-WebSocket-Protocol: mqtt\r\n"
    stream, status, _ = request(isthmus.ports["http"], mqtt)
    stream.close()
    assert status == 404


@both
def test_clients_are_told_when_the_broker_stops(tmp_path, listener):
    with Broker(tmp_path / "data") as broker:
        stream, _, _ = upgrade(broker.ports[listener], "Sec-WebSocket-Protocol: v12.stomp")
        with stream:
            stream.sendall(frame(STOMP_CONNECT % b"1.2", TEXT))
            message(stream)
            begun = time.monotonic()
            broker.begin_stop()
            opcode, error = message(stream)
            assert opcode == TEXT and error.startswith(b"ERROR\n")
            assert message(stream) == (CLOSE, b"\x03\xe8")
        assert broker.end_stop() == 0
        assert time.monotonic() - begun < 5


def test_stompjs(isthmus):
    environment = {"ISTHMUS_TEST_ANY": f"ws://127.0.0.1:{isthmus.ports['any']}/",
                   "ISTHMUS_TEST_HTTP": f"ws://127.0.0.1:{isthmus.ports['http']}/ws",
                   "ISTHMUS_TEST_URL": "amqp://guest:guest@{}:{}".format(*isthmus.amqp)}
    ran = subprocess.run(
        ["node", "--test", "--test-reporter=spec", "websocket/stompjs.test.js"], cwd=NODE_TESTS,
        timeout=50, text=True, env=os.environ | environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    assert ran.returncode == 0, ran.stdout
