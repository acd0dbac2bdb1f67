"""Who is not let in can do nothing, whatever he says; what is another's is left alone; and no
protocol has more than its limits.
"""

import contextlib
import re
import socket
import struct

import pika
import pytest

import rawamqp
import rawmqtt
from broker import Broker
from helpers import eventually
from rawmqtt import Mqtt
from rawstomp import Stomp
from stage import Stage, amqp, broker, delete, stage
from test_mqtt import api, permit

# Fixtures.
__all__ = ["broker", "stage"]

# Who is not logged in, or not let in. What such a client says is said at once, behind its login.

def amqp_stream(stage, user, password, vhost):
    name, login = stage.name, rawamqp.PROTOCOL_HEADER
    if user is not None:
        response = f"\0{user}\0{password}"
        login += rawamqp.method(0, rawamqp.START_OK, b"\0\0\0\0" + rawamqp.short_string("PLAIN")
                                + rawamqp.long_string(response) + rawamqp.short_string("en_US"))
        login += rawamqp.method(0, rawamqp.TUNE_OK, struct.pack(">HIH", 2047, 131072, 0))
        login += rawamqp.method(0, rawamqp.OPEN, rawamqp.short_string(vhost) + b"\0\0")
    purge, remove = (50, 30), (50, 40)
    queue = b"\0\0" + rawamqp.short_string(name)
    return (login + rawamqp.method(1, rawamqp.CHANNEL_OPEN, b"\0")
            + rawamqp.queue_declare(1, f"{name}-made", durable=True)
            + rawamqp.publish(1, f"{name}-x", "key", b"published")
            + rawamqp.publish(1, "amq.topic", f"{name}.key", b"published", rawamqp.PERSISTENT)
            + rawamqp.consume(1, name, no_ack=True)
            + rawamqp.method(1, purge, queue + b"\0") + rawamqp.method(1, remove, queue + b"\0"))


def mqtt_stream(version):
    def stream(stage, user, password, vhost):
        name, text = stage.name, rawmqtt.text
        none = b"\0" if version == 5 else b""
        login = b""
        if user is not None:
            if vhost != "/":
                user = f"{vhost}:{user}"
            # With a clean start and a will that is retained.
            body = text("MQTT") + bytes([version, 0b1110_1110, 0, 60]) + none + text(name) + none
            body += text(f"{name}/will") + text("published") + text(user) + text(password)
            login = rawmqtt.packet(rawmqtt.CONNECT, 0, body)
        id = b"\0\1" + none

        def publish(qos):
            body = text(f"{name}/key") + (b"\0\1" if qos else b"") + none + b"published"
            return rawmqtt.packet(rawmqtt.PUBLISH, qos << 1 | 1, body)
        return (login + publish(0) + publish(1) + publish(2)
                + rawmqtt.packet(rawmqtt.PUBREL, 2, b"\0\1")
                + rawmqtt.packet(rawmqtt.SUBSCRIBE, 2, id + text(f"{name}/#") + b"\1")
                + rawmqtt.packet(rawmqtt.UNSUBSCRIBE, 2, id + text(f"{name}/#")))
    return stream


def stomp_stream(stage, user, password, vhost):
    name, login = stage.name, ""
    if user is not None:
        login = (f"CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:{user}\n"
                 f"passcode:{password}\n\n\0")
    return (login + f"SEND\ndestination:/exchange/{name}-x/key\n\npublished\0"
            + f"SEND\ndestination:/queue/{name}-made\n\npublished\0"
            + f"SUBSCRIBE\ndestination:/amq/queue/{name}\nid:1\n\n\0"
            + f"SUBSCRIBE\ndestination:/topic/{name}.key\nid:2\ndurable:true\n"
            + "auto-delete:false\n\n\0BEGIN\ntransaction:t\n\n\0"
            + f"SEND\ndestination:/topic/{name}.key\ntransaction:t\n\npublished\0"
            + "COMMIT\ntransaction:t\n\n\0").encode()


STREAMS = {"AMQP 0-9-1": amqp_stream, "MQTT 3.1.1": mqtt_stream(4), "MQTT 5.0": mqtt_stream(5),
           "STOMP": stomp_stream}
# User, password and virtual host.
STRANGERS = {
    "nobody": (None, None, "/"),
    "wrong password": ("all", "wrong", "/"),
    "no password": ("all", "", "/"),
    "unknown user": ("no-such-user", "secret", "/"),
    "no user": ("", "", "/"),
    "unknown virtual host": ("all", "secret", "no-such-host"),
    "virtual host of others": ("all", "secret", "closed"),
    "too many connections": ("crowded", "secret", "/"),
}


def refusal_of(protocol, answer):
    """What the broker said before it hung up, if that is how its protocol says no; else None."""
    if protocol.startswith("MQTT"):
        # Only a CONNACK with a reason, or not a word to who has not said CONNECT.
        if answer == b"" or answer[0] == 0x20 and answer[3] and answer[1] == len(answer) - 2:
            return answer.hex(" ")
    elif protocol == "STOMP":
        if answer.startswith(b"ERROR\n") and answer.count(b"\0") == 1:
            return answer.decode()
    else:
        # connection.start, and not a word more: whoever has not said that it knows better would
        # not expect one before it is logged in. Where only the virtual host is refused, it is told.
        at, methods = 0, []
        while at < len(answer):
            kind, channel, size = struct.unpack_from(">BHI", answer, at)
            assert (kind, channel) == (rawamqp.METHOD, 0), answer
            methods.append(struct.unpack_from(">HH", answer, at + 7))
            payload = answer[at + 7:at + 7 + size]
            at += size + 8
        if methods == [rawamqp.START]:
            return "the end"
        if methods[-1] == rawamqp.CLOSE and rawamqp.OPEN_OK not in methods:
            return str(rawamqp.CloseReason.parse(payload))
    return None


def converse(address, stream):
    """Says all of it at once, and returns what is answered until the broker hangs up."""
    with socket.create_connection(address, timeout=15) as connection:
        connection.sendall(stream)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                answer += piece
        return answer


@pytest.fixture(scope="module")
def doors(broker):
    """What strangers are kept out of."""
    api(broker, "PUT", "vhosts/closed")
    permit(broker, "crowded")
    api(broker, "PUT", "user-limits/crowded/max-connections", {"value": 0})
    return broker


# A STOMP client whose `host` is no virtual host is let into `stomp.vhost`: most put the machine's
# name there.
OUTSIDE = [(protocol, stranger) for protocol in STREAMS for stranger in STRANGERS
           if (protocol, stranger) != ("STOMP", "unknown virtual host")]


@pytest.mark.parametrize("protocol, stranger", OUTSIDE)
def test_who_is_not_let_in_can_do_nothing(doors, stage, protocol, stranger):
    before = stage.everything()
    port = stage.port(protocol.split()[0].lower())
    answer = converse(("127.0.0.1", port), STREAMS[protocol](stage, *STRANGERS[stranger]))
    assert refusal_of(protocol, answer) is not None, answer
    assert stage.everything() == before


@pytest.mark.parametrize("protocol", STREAMS)
def test_who_is_let_in_could_have(doors, stage, protocol):
    """The streams above do what they say."""
    before = stage.everything()
    port = stage.port(protocol.split()[0].lower())
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(STREAMS[protocol](stage, "all", "secret", "/"))
        eventually(lambda: api(doors, "GET", f"queues/%2F/{stage.name}-watch")[1]["messages"] > 2)
    assert stage.everything() != before


def own_address():
    """An address of this machine that is not its loopback's; None if it has none."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        address = probe.getsockname()[0]
        return None if address.startswith("127.") else address


@pytest.mark.parametrize("protocol", STREAMS)
def test_a_user_of_this_machine_is_not_let_in_from_another(tmp_path, protocol):
    """That of the peer's address counts, not that of the listener."""
    if (address := own_address()) is None:
        pytest.skip("this machine has no address but its loopback's")
    with Broker(tmp_path / "data", {"listeners.any": f"{address}:0"}) as broker:
        port = re.search(rf'any="?{re.escape(address)}:(\d+)', broker.log())
        assert port, broker.log()
        stage = Stage(broker)
        before = stage.everything()
        there = address, int(port.group(1))
        answer = converse(there, STREAMS[protocol](stage, "guest", "guest", "/"))
        assert refusal_of(protocol, answer) is not None, answer
        assert stage.everything() == before
        # It is he who is not let in.
        permit(broker, "anybody")
        with socket.create_connection(there, timeout=5) as connection:
            connection.sendall(STREAMS[protocol](stage, "anybody", "secret", "/"))
            eventually(lambda: api(broker, "GET", f"queues/%2F/{stage.name}-watch")[1]["messages"]
                       > 2)


# What is another's.

EXCLUSIVE = {
    "consume": lambda c, q: c.basic_consume(q, lambda *_: None),
    "get": lambda c, q: c.basic_get(q, auto_ack=True),
    "purge": lambda c, q: c.queue_purge(q),
    "delete": lambda c, q: c.queue_delete(q),
    "declare": lambda c, q: c.queue_declare(q, exclusive=True),
    "look up": lambda c, q: c.queue_declare(q, passive=True),
    "bind": lambda c, q: c.queue_bind(q, "amq.topic", "another"),
    "unbind": lambda c, q: c.queue_unbind(q, "amq.topic", "key"),
}


@pytest.fixture
def exclusive(stage):
    """A queue of somebody else's connection, with a binding and a message, and its connection."""
    queue = f"{stage.name}-exclusive"
    with pika.BlockingConnection(pika.ConnectionParameters(*stage.broker.amqp)) as owner:
        channel = owner.channel()
        channel.queue_declare(queue, exclusive=True)
        channel.queue_bind(queue, "amq.topic", "key")
        channel.confirm_delivery()
        channel.basic_publish("", queue, b"mine")
        yield queue
        # It is as it was.
        assert channel.basic_get(queue, auto_ack=True)[2] == b"mine"
        bound = api(stage.broker, "GET", f"queues/%2F/{queue}/bindings")[1]
        assert sorted(each["routing_key"] for each in bound) == sorted(["key", queue])


@pytest.mark.parametrize("command", EXCLUSIVE)
def test_an_exclusive_queue_is_its_connections_alone(stage, exclusive, command):
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as closed, \
            amqp(stage, "all") as channel:
        EXCLUSIVE[command](channel, exclusive)
    assert closed.value.reply_code == 405, closed.value


@pytest.mark.parametrize("destination", ["/amq/queue/{}", "/queue/{}", "/reply-queue/{}"])
def test_an_exclusive_queue_is_not_subscribed_to(stage, exclusive, destination):
    with Stomp(stage.port("stomp"), login="all", passcode="secret") as client:
        refusal = client.refused("SUBSCRIBE", destination=destination.format(exclusive), id="s")
        assert exclusive in refusal, refusal


def test_answers_are_for_who_asked(stage):
    """Nobody else consumes from the queue that a reply-to names."""
    with pika.BlockingConnection(pika.ConnectionParameters(*stage.broker.amqp)) as asking, \
            Stomp(stage.port("stomp")) as asking_too, \
            Stomp(stage.port("stomp")) as server:
        server.subscribe(f"/amq/queue/{stage.name}-other")
        channel, answers = asking.channel(), []
        channel.basic_consume("amq.rabbitmq.reply-to",
                              lambda _c, _m, _p, body: answers.append(body), auto_ack=True)
        channel.basic_publish("", f"{stage.name}-other", b"?",
                              pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"))
        address = server.read("MESSAGE").headers["reply-to"]
        asking_too.send("SEND", b"?", destination=f"/amq/queue/{stage.name}-other",
                        reply_to="/temp-queue/mine")
        address_too = server.read("MESSAGE").headers["reply-to"]
        for each in (address, address_too):
            queue = each.removeprefix("/reply-queue/")
            for destination in (each, f"/amq/queue/{queue}", f"/queue/{queue}"):
                with Stomp(stage.port("stomp"), login="all", passcode="secret") as thief:
                    thief.refused("SUBSCRIBE", destination=destination, id="s")
            with pytest.raises(pika.exceptions.ChannelClosedByBroker) as closed, \
                    amqp(stage, "all") as other:
                other.basic_consume(queue, lambda *_: None, auto_ack=True)
            assert closed.value.reply_code in (403, 404, 405), closed.value
        server.send("SEND", b"!", destination=address)
        server.send("SEND", b"!", destination=address_too)
        eventually(lambda: asking.process_data_events(0.05) or answers)
        assert answers == [b"!"]
        assert asking_too.read("MESSAGE").body == b"!"


@pytest.mark.parametrize("version", [4, 5])
def test_a_session_is_its_users_alone(stage, version):
    """A client id does not open the session of another user, nor end it."""
    name, lasts_s = stage.name, 600
    with Mqtt(stage.port("mqtt"), version, name, lasts_s=lasts_s) as owner:
        assert owner.subscribe(f"{name}/key") == 1
        for lasts in (lasts_s, 0):
            with Mqtt(stage.port("mqtt"), version, name, "all", "secret", lasts_s=lasts) as thief:
                assert thief.reason == {4: 5, 5: 0x87}[version], thief.connack
        assert owner.ping(), "the owner was put out"
        owner.disconnect()
    with Mqtt(stage.port("mqtt")) as publisher:
        publisher.publish(f"{name}/key", b"for the owner")
        publisher.disconnect()
    for lasts in (lasts_s, 0):
        with Mqtt(stage.port("mqtt"), version, name, "all", "secret", lasts_s=lasts) as thief:
            assert thief.reason == {4: 5, 5: 0x87}[version], thief.connack
    with Mqtt(stage.port("mqtt"), version, name, lasts_s=lasts_s) as owner:
        assert owner.connack[0] == 1, "the session is gone"
        assert owner.receive().payload == b"for the owner"
    with Mqtt(stage.port("mqtt"), version, name) as owner:
        owner.disconnect()


@pytest.mark.parametrize("version", [4, 5])
def test_topics_of_the_broker_are_not_published_to(stage, version):
    name = stage.name
    with Mqtt(stage.port("mqtt")) as watch, \
            Mqtt(stage.port("mqtt"), version, user="all", password="secret") as client:
        assert watch.subscribe(f"$SYS/{name}/#") == 1
        for retain in (False, True):
            reason = client.publish(f"$SYS/{name}/x", b"published", 1, retain)
            # 3.1.1 has no way to say no but to hang up.
            assert reason == {4: 0, 5: 0x87}[version]
        assert watch.receives_nothing()
        assert watch.subscribe(f"$SYS/{name}/x") == 1
        assert watch.receives_nothing(), "it was retained"


# Limits.

@pytest.fixture
def full(broker, stage):
    """A virtual host that has all the queues it may have."""
    api(broker, "PUT", f"vhosts/{stage.name}")
    permit(broker, f"u-{stage.name}", vhost=stage.name)
    api(broker, "PUT", f"vhost-limits/{stage.name}/max-queues", {"value": 0})
    yield stage.name
    assert not [each for each in api(broker, "GET", "queues")[1] if each["vhost"] == stage.name]
    assert not api(broker, "GET", f"sessions/{stage.name}")[1]
    api(broker, "DELETE", f"vhosts/{stage.name}")
    delete(broker, "users", f"u-{stage.name}")


def test_no_protocol_has_more_queues_than_its_virtual_host(broker, stage, full):
    user, limit = f"u-{full}", "queue limit"
    credentials = pika.PlainCredentials(user, "secret")
    with pika.BlockingConnection(pika.ConnectionParameters(
            *broker.amqp, full, credentials)) as connection:
        for name in ("made", ""):
            with pytest.raises(pika.exceptions.ChannelClosedByBroker, match=limit):
                connection.channel().queue_declare(name, durable=True)
    for version, denied in ((4, 0x80), (5, 0x97)):
        for filter in ("a/b", "$share/g/a/b"):
            with Mqtt(stage.port("mqtt"), version, user=f"{full}:{user}",
                      password="secret") as client:
                assert client.subscribe(filter) == denied
                client.disconnect()
    for command, headers in [
            ("SUBSCRIBE", {"destination": "/queue/made", "id": "s"}),
            ("SUBSCRIBE", {"destination": "/topic/a.b", "id": "s"}),
            ("SEND", {"destination": "/queue/made"}),
            ("SEND", {"destination": "/topic/a.b", "reply_to": "/temp-queue/mine"})]:
        with Stomp(stage.port("stomp"), login=user, passcode="secret", host=full) as client:
            client.send(command, receipt="done", **headers)
            assert limit in client.read("ERROR").body.decode()
