"""What is not allowed is refused in each protocol's own words, and leaves nothing behind: every
command of every protocol with every permission withheld, and before, beside and without a login.

A command names what it needs. With a user who lacks that it must be refused, and queues, bindings,
exchanges, sessions, messages and what is retained must be what they were; with every other user it
must work.
"""

import contextlib
import json
import re
import socket
import struct
import urllib.parse
import urllib.request
import uuid
from typing import Callable, NamedTuple

import pika
import pytest

import rawamqp
import rawmqtt
from broker import Broker
from helpers import eventually
from rawmqtt import Mqtt
from rawstomp import Stomp
from test_mqtt import api, permit

CONFIGURE, WRITE, READ, TOPIC_WRITE, TOPIC_READ = PERMISSIONS = [
    "configure", "write", "read", "topic write", "topic read"]
# What each user lacks.
USERS = {
    "all": set(),
    "no-configure": {CONFIGURE},
    "no-write": {WRITE},
    "no-read": {READ},
    "no-topic-write": {TOPIC_WRITE},
    "no-topic-read": {TOPIC_READ},
    "nothing": {CONFIGURE, WRITE, READ},
}
NOBODY = "^$"


class Denied(Exception):
    """The command was refused as its protocol refuses what is not permitted."""


class Stage:
    """What is there before a command, and what is to be there after it if it is refused.

    `NAME` and `NAME-other` are queues, `NAME-x` is a topic exchange and `NAME-y` a fanout exchange;
    `NAME-watch` gets what is published to the exchanges, and to `amq.topic` below `NAME`."""

    def __init__(self, broker):
        self.broker = broker
        self.name = f"a{uuid.uuid4().hex[:10]}"
        name = self.name
        eventually(lambda: not api(broker, "GET", "connections")[1])
        with pika.BlockingConnection(pika.ConnectionParameters(*broker.amqp)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            for queue in (name, f"{name}-other", f"{name}-watch"):
                channel.queue_declare(queue, durable=True)
            channel.exchange_declare(f"{name}-x", "topic", durable=True)
            channel.exchange_declare(f"{name}-y", "fanout", durable=True)
            channel.queue_bind(f"{name}-watch", f"{name}-x", "#")
            channel.queue_bind(f"{name}-watch", f"{name}-y")
            channel.queue_bind(f"{name}-watch", "amq.topic", f"{name}.#")
            channel.queue_bind(f"{name}-other", "amq.topic", f"{name}.bound")
            channel.exchange_bind(f"{name}-y", "amq.topic", f"{name}.bound")
            for body in (b"one", b"two"):
                channel.basic_publish("", name, body)
        with Mqtt(self.port("mqtt")) as client:
            assert client.publish(f"{name}/kept", b"kept", retain=True) == 0
            client.disconnect()

    def port(self, protocol):
        return self.broker.ports[protocol]

    def everything(self):
        """All that a command could change."""
        eventually(lambda: not api(self.broker, "GET", "connections")[1])
        listed = {kind: api(self.broker, "GET", kind)[1]
                  for kind in ("queues", "exchanges", "bindings", "sessions")}
        queues = {each["name"]: (each["messages"], each["consumers"], str(each["arguments"]))
                  for each in listed["queues"]}
        exchanges = {each["name"]: (each["type"], str(each["arguments"]))
                     for each in listed["exchanges"]}
        bindings = sorted((each["source"], each["destination"], each["routing_key"])
                          for each in listed["bindings"])
        sessions = sorted(json.dumps(each, sort_keys=True) for each in listed["sessions"])
        with Mqtt(self.port("mqtt")) as client:
            assert client.subscribe(f"{self.name}/#") == 1
            assert client.ping()
            retained = sorted((each.topic, each.payload) for each in deliveries(client))
            client.disconnect()
        return {"queues": queues, "exchanges": exchanges, "bindings": bindings,
                "sessions": sessions, "retained": retained}

    def clear(self):
        """Removes it all."""
        eventually(lambda: not api(self.broker, "GET", "connections")[1])
        with Mqtt(self.port("mqtt")) as client:
            assert client.subscribe(f"{self.name}/#") == 1
            assert client.ping()
            for each in deliveries(client):
                client.publish(each.topic, b"", retain=True)
            client.disconnect()
        for kind in ("queues", "exchanges"):
            for each in api(self.broker, "GET", kind)[1]:
                if self.name in each["name"]:
                    delete(self.broker, f"{kind}/%2F", each["name"])


def delete(broker, path, name):
    name = urllib.parse.quote(name, safe="")
    with contextlib.suppress(urllib.error.HTTPError):
        api(broker, "DELETE", f"{path}/{name}")


def deliveries(client):
    """What has come already."""
    while client.early:
        yield client.receive()


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    settings = {"auth.argon2_memory_bytes": "8 MiB", "auth.argon2_iterations": 1}
    with Broker(tmp_path_factory.mktemp("authorization") / "data", settings) as broker:
        for user, lacks in USERS.items():
            permit(broker, user, **{each: NOBODY for each in lacks if "topic" not in each})
            if topics := {each for each in lacks if "topic" in each}:
                api(broker, "PUT", f"topic-permissions/%2F/{user}",
                    {"exchange": "amq.topic", "write": NOBODY if TOPIC_WRITE in topics else ".*",
                     "read": NOBODY if TOPIC_READ in topics else ".*"})
        yield broker
        assert broker.stop() == 0, broker.log()


@pytest.fixture
def stage(broker):
    stage = Stage(broker)
    yield stage
    stage.clear()


# AMQP 0-9-1.

@contextlib.contextmanager
def amqp(stage, user):
    """A channel that confirms; a channel.close with 403 is a denial."""
    credentials = pika.PlainCredentials(user, "secret")
    with pika.BlockingConnection(pika.ConnectionParameters(
            *stage.broker.amqp, credentials=credentials)) as connection:
        channel = connection.channel()
        try:
            yield channel
            # What was sent without waiting for an answer has been read by then.
            channel.queue_declare(stage.name, passive=True)
        except pika.exceptions.ChannelClosedByBroker as closed:
            if closed.reply_code != 403:
                raise
            assert f"refused for user '{user}'" in closed.reply_text, closed
            raise Denied from closed


def amqp_command(call):
    """A command from what is to be done with a channel and the name of the stage."""
    def run(stage, user):
        with amqp(stage, user) as channel:
            call(channel, stage.name)
    return run


def amqp_publish(exchange, key, **properties):
    def call(channel, name):
        channel.confirm_delivery()
        channel.basic_publish(exchange.format(name), key.format(name), b"published",
                              pika.BasicProperties(**properties))
    return amqp_command(call)


def amqp_publish_to_more(channel, name):
    channel.confirm_delivery()
    more = pika.BasicProperties(headers={"CC": [f"{name}.cc"], "BCC": [f"{name}.bcc"]})
    channel.basic_publish("amq.topic", f"{name}.key", b"published", more)


def amqp_transaction(channel, name):
    channel.tx_select()
    channel.basic_publish("amq.topic", f"{name}.one", b"published")
    channel.basic_publish(f"{name}-x", "two", b"published")
    channel.tx_commit()


def amqp_settle_in_a_transaction(channel, name):
    channel.tx_select()
    method, _, _ = channel.basic_get(name)
    channel.basic_ack(method.delivery_tag)
    channel.tx_commit()


def amqp_consume(channel, name):
    channel.basic_consume(name, lambda *_: None)


def amqp_ask(channel, name):
    """A request whose answer goes to the channel itself."""
    channel.basic_consume("amq.rabbitmq.reply-to", lambda *_: None, auto_ack=True)
    properties = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")
    channel.basic_publish("", f"{name}-other", b"question", properties)


def made(name):
    """The name of something that is not there."""
    return f"{name}-made"


AMQP = {
    "publish to an exchange": (amqp_publish("{}-x", "key"), {WRITE}),
    "publish to a queue": (amqp_publish("", "{}"), {WRITE}),
    "publish to a topic": (amqp_publish("amq.topic", "{}.key"), {WRITE, TOPIC_WRITE}),
    "publish a durable message": (amqp_publish("{}-x", "key", delivery_mode=2), {WRITE}),
    "publish with CC and BCC": (amqp_command(amqp_publish_to_more), {WRITE, TOPIC_WRITE}),
    "publish in a transaction": (amqp_command(amqp_transaction), {WRITE, TOPIC_WRITE}),
    "acknowledge in a transaction": (amqp_command(amqp_settle_in_a_transaction), {READ}),
    "ask for an answer": (amqp_command(amqp_ask), {WRITE}),
    "declare a queue": (amqp_command(lambda c, n: c.queue_declare(made(n), durable=True)),
                        {CONFIGURE}),
    "declare a queue that is there": (
        amqp_command(lambda c, n: c.queue_declare(n, durable=True)), {CONFIGURE}),
    "declare an exclusive queue": (
        amqp_command(lambda c, n: c.queue_declare(made(n), exclusive=True)), {CONFIGURE}),
    "declare a queue with a name of the broker's": (
        amqp_command(lambda c, n: c.queue_declare("", exclusive=True)), {CONFIGURE}),
    "declare a queue that dead-letters": (
        amqp_command(lambda c, n: c.queue_declare(
            made(n), arguments={"x-dead-letter-exchange": f"{n}-x"})), {CONFIGURE, WRITE, READ}),
    "declare an exchange": (
        amqp_command(lambda c, n: c.exchange_declare(made(n), "topic")), {CONFIGURE}),
    "declare an exchange with an alternate": (
        amqp_command(lambda c, n: c.exchange_declare(
            made(n), "topic", arguments={"alternate-exchange": f"{n}-x"})),
        {CONFIGURE, WRITE, READ}),
    "look up a queue": (amqp_command(lambda c, n: c.queue_declare(n, passive=True)), set()),
    "look up an exchange": (
        amqp_command(lambda c, n: c.exchange_declare(f"{n}-x", passive=True)), set()),
    "bind a queue": (amqp_command(lambda c, n: c.queue_bind(n, f"{n}-x", "key")), {WRITE, READ}),
    "bind a queue to a topic": (
        amqp_command(lambda c, n: c.queue_bind(n, "amq.topic", f"{n}.key")),
        {WRITE, READ, TOPIC_READ}),
    "bind a queue to all topics": (
        amqp_command(lambda c, n: c.queue_bind(n, "amq.topic", "#")), {WRITE, READ, TOPIC_READ}),
    "unbind a queue": (
        amqp_command(lambda c, n: c.queue_unbind(f"{n}-other", "amq.topic", f"{n}.bound")),
        {WRITE, READ, TOPIC_READ}),
    "bind an exchange": (
        amqp_command(lambda c, n: c.exchange_bind(f"{n}-y", f"{n}-x", "key")), {WRITE, READ}),
    "bind an exchange to a topic": (
        amqp_command(lambda c, n: c.exchange_bind(f"{n}-x", "amq.topic", f"{n}.key")),
        {WRITE, READ, TOPIC_READ}),
    "unbind an exchange": (
        amqp_command(lambda c, n: c.exchange_unbind(f"{n}-y", "amq.topic", f"{n}.bound")),
        {WRITE, READ, TOPIC_READ}),
    "delete a queue": (amqp_command(lambda c, n: c.queue_delete(f"{n}-other")), {CONFIGURE}),
    "delete an exchange": (amqp_command(lambda c, n: c.exchange_delete(f"{n}-y")), {CONFIGURE}),
    "purge": (amqp_command(lambda c, n: c.queue_purge(n)), {READ}),
    "get": (amqp_command(lambda c, n: c.basic_get(n)), {READ}),
    "get without acknowledgement": (
        amqp_command(lambda c, n: c.basic_get(n, auto_ack=True)), {READ}),
    "consume": (amqp_command(amqp_consume), {READ}),
}


# MQTT.

def mqtt(stage, user, version, **options):
    """A connection; a CONNACK that says not authorized is a denial."""
    client = Mqtt(stage.port("mqtt"), version, user=user, password="secret", **options)
    if client.reason:
        assert client.reason == {4: 5, 5: 0x87}[version], client.connack
        client.socket.close()
        raise Denied
    return client


def mqtt_command(version, call):
    """A command from what is to be done with a client and the name of the stage, which returns a
    reason code, None where the broker hung up."""
    def run(stage, user):
        with mqtt(stage, user, version) as client:
            reason = call(client, stage.name)
            if reason is None or reason >= 128:
                # 3.1.1 has no other way to say no to a PUBLISH than to hang up.
                assert reason in {4: (None, 0x80), 5: (0x87,)}[version], reason
                raise Denied
            client.disconnect()
    return run


def mqtt_publish(topic, qos, retain=False, payload=b"published"):
    def call(client, name):
        reason = client.publish(topic.format(name), payload, qos, retain)
        if qos == 0:
            # Nothing is said about it, if the connection goes on.
            with contextlib.suppress(OSError):
                client.ping()
            return 0
        return reason
    return call


def mqtt_retained(client, name):
    """Whoever may not read a topic is told nothing of what is retained there."""
    reason = client.subscribe(f"{name}/kept")
    if reason is not None and reason < 128:
        assert client.receive().payload == b"kept"
    else:
        assert client.version == 4 or client.ping()
        assert not client.early, "what is retained was told"
    return reason


def mqtt_unsubscribe(client, name):
    assert client.unsubscribe(f"{name}/key") in (0, 0x11)
    return 0


def mqtt_will(version, retain):
    def run(stage, user):
        will = (f"{stage.name}/will", b"published", retain)
        with mqtt(stage, user, version, will=will) as client:
            client.socket.shutdown(socket.SHUT_RDWR)
    return run


def mqtt_commands(version):
    def command(call):
        return mqtt_command(version, call)

    return {
        "publish with QoS 1": (command(mqtt_publish("{}/key", 1)), {WRITE, TOPIC_WRITE}),
        "publish with QoS 2": (command(mqtt_publish("{}/key", 2)), {WRITE, TOPIC_WRITE}),
        "retain": (command(mqtt_publish("{}/key", 1, True)), {WRITE, TOPIC_WRITE}),
        "retain with QoS 2": (command(mqtt_publish("{}/key", 2, True)), {WRITE, TOPIC_WRITE}),
        "replace what is retained": (
            command(mqtt_publish("{}/kept", 1, True)), {WRITE, TOPIC_WRITE}),
        "remove what is retained": (
            command(mqtt_publish("{}/kept", 1, True, b"")), {WRITE, TOPIC_WRITE}),
        "subscribe": (command(lambda c, n: c.subscribe(f"{n}/key")), {READ, TOPIC_READ}),
        "subscribe with QoS 0": (
            command(lambda c, n: c.subscribe(f"{n}/key", 0)), {READ, TOPIC_READ}),
        "subscribe with QoS 2": (
            command(lambda c, n: c.subscribe(f"{n}/key", 2)), {READ, TOPIC_READ}),
        "subscribe to all below": (
            command(lambda c, n: c.subscribe(f"{n}/#")), {READ, TOPIC_READ}),
        "subscribe to everything": (command(lambda c, n: c.subscribe("#")), {READ, TOPIC_READ}),
        "be told what is retained": (command(mqtt_retained), {READ, TOPIC_READ}),
        "join a group": (
            command(lambda c, n: c.subscribe(f"$share/{n}/{n}/key")), {READ, TOPIC_READ}),
        "unsubscribe from what is not one's own": (command(mqtt_unsubscribe), set()),
        "leave a will": (mqtt_will(version, False), {WRITE, TOPIC_WRITE}),
        "leave a will that is retained": (mqtt_will(version, True), {WRITE, TOPIC_WRITE}),
    }


# STOMP.

def stomp_command(*frames):
    """A command from frames, each a name, a body and headers, in which `{}` is the stage's name.
    An ERROR that says that access was refused is a denial, and the end of the connection."""
    def run(stage, user):
        with Stomp(stage.port("stomp"), login=user, passcode="secret") as client:
            for command, body, headers in frames:
                told = {name.replace("-", "_"): value.replace("{}", stage.name)
                        for name, value in headers.items()}
                client.send(command, body, receipt="done", **told)
                while (frame := client._read()).command == "MESSAGE":
                    continue
                if frame.command == "ERROR":
                    assert frame.headers["message"].startswith("Access refused"), frame
                    assert f"refused for user '{user}'" in frame.body.decode(), frame
                    assert client.socket.recv(1) == b"", "the connection goes on"
                    raise Denied
                assert frame.command == "RECEIPT", frame
    return run


def send(destination, **headers):
    return "SEND", b"published", {"destination": destination, **headers}


def subscribe(destination, **headers):
    return "SUBSCRIBE", b"", {"destination": destination, "id": "s", **headers}


BEGIN, COMMIT = ("BEGIN", b"", {"transaction": "t"}), ("COMMIT", b"", {"transaction": "t"})
DURABLE = {"durable": "true", "auto-delete": "false"}

STOMP = {
    "send to a queue": (stomp_command(send("/queue/{}")), {CONFIGURE, WRITE}),
    "send to a new queue": (stomp_command(send("/queue/{}-made")), {CONFIGURE, WRITE}),
    "send to a queue that is there": (stomp_command(send("/amq/queue/{}")), {WRITE}),
    "send to a topic": (stomp_command(send("/topic/{}.key")), {WRITE, TOPIC_WRITE}),
    "send to an exchange": (stomp_command(send("/exchange/{}-x/key")), {WRITE}),
    "send an answer": (stomp_command(send("/reply-queue/{}")), {WRITE}),
    "send to several": (
        stomp_command(send("/exchange/{}-x/key,/topic/{}.key")), {WRITE, TOPIC_WRITE}),
    "send in a transaction": (
        stomp_command(BEGIN, send("/exchange/{}-x/key", transaction="t"),
                      send("/topic/{}.key", transaction="t"), COMMIT), {WRITE, TOPIC_WRITE}),
    "ask for an answer": (
        stomp_command(send("/amq/queue/{}", **{"reply-to": "/temp-queue/mine"})), {WRITE}),
    "subscribe to a queue": (stomp_command(subscribe("/queue/{}")), {CONFIGURE, READ}),
    "subscribe to a new queue": (stomp_command(subscribe("/queue/{}-made")), {CONFIGURE, READ}),
    "subscribe to a queue that is there": (stomp_command(subscribe("/amq/queue/{}")), {READ}),
    "subscribe to a queue that dead-letters": (
        stomp_command(subscribe("/queue/{}-made", **{"x-dead-letter-exchange": "{}-x"})),
        {CONFIGURE, WRITE, READ}),
    "subscribe to a topic": (stomp_command(subscribe("/topic/{}.key")), {READ, TOPIC_READ}),
    "subscribe to all topics": (stomp_command(subscribe("/topic/#")), {READ, TOPIC_READ}),
    "subscribe to an exchange": (stomp_command(subscribe("/exchange/{}-x/key")), {READ}),
    "subscribe durably": (
        stomp_command(subscribe("/topic/{}.key", **DURABLE)),
        {CONFIGURE, WRITE, READ, TOPIC_READ}),
}


class Command(NamedTuple):
    """A command and what it needs."""

    run: Callable
    needs: set


COMMANDS = {
    f"{protocol}: {name}": Command(*command)
    for protocol, commands in {
        "AMQP 0-9-1": AMQP, "MQTT 3.1.1": mqtt_commands(4), "MQTT 5.0": mqtt_commands(5),
        "STOMP": STOMP}.items()
    for name, command in commands.items()
}


# What these leave if they are refused is a queue that their user may declare, with nothing in it.
DECLARE_FIRST = {"STOMP: send to a new queue", "STOMP: subscribe to a new queue",
                 "STOMP: subscribe durably"}


def but_for_a_new_queue(after, before):
    """`after` without empty queues that were not there before."""
    new = {name for name, (messages, consumers, _) in after["queues"].items()
           if name not in before["queues"] and messages == consumers == 0}
    queues = {name: queue for name, queue in after["queues"].items() if name not in new}
    bindings = [each for each in after["bindings"] if each[0] or each[1] not in new]
    return after | {"queues": queues, "bindings": bindings}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_needs_what_it_needs(stage, command, user):
    run, needs = COMMANDS[command]
    if not needs & USERS[user]:
        run(stage, user)
        return
    before = stage.everything()
    with pytest.raises(Denied):
        run(stage, user)
    after = stage.everything()
    if command in DECLARE_FIRST and CONFIGURE not in USERS[user]:
        after = but_for_a_new_queue(after, before)
    assert after == before


# Patterns of topics.

OPEN_ALONE = {
    "AMQP 0-9-1: publish": amqp_command(
        lambda c, n: (c.confirm_delivery(), c.basic_publish("amq.topic", f"{n}.closed", b""))),
    "AMQP 0-9-1: publish with CC": amqp_publish(
        "amq.topic", "{}.open", headers={"CC": ["closed"]}),
    "AMQP 0-9-1: publish with BCC": amqp_publish(
        "amq.topic", "{}.open", headers={"BCC": ["closed"]}),
    "AMQP 0-9-1: bind": amqp_command(lambda c, n: c.queue_bind(n, "amq.topic", f"{n}.*")),
    "AMQP 0-9-1: bind to all": amqp_command(lambda c, n: c.queue_bind(n, "amq.topic", "#")),
    "AMQP 0-9-1: bind an exchange": amqp_command(
        lambda c, n: c.exchange_bind(f"{n}-x", "amq.topic", f"{n}.#")),
    "STOMP: send": stomp_command(send("/topic/{}.closed")),
    "STOMP: send to both": stomp_command(send("/topic/{}.open,/topic/{}.closed")),
    "STOMP: send to both and ask": stomp_command(
        send("/topic/{}.open,/topic/{}.closed", **{"reply-to": "/temp-queue/mine"})),
    "STOMP: subscribe": stomp_command(subscribe("/topic/{}.*")),
    "STOMP: subscribe to all": stomp_command(subscribe("/topic/{}.>")),
} | {
    f"MQTT {name}: {what}": mqtt_command(version, call)
    for version, name in [(4, "3.1.1"), (5, "5.0")]
    for what, call in {
        "publish": mqtt_publish("{}/closed", 1),
        "retain": mqtt_publish("{}/closed", 2, True),
        "subscribe": lambda c, n: c.subscribe(f"{n}/+"),
        "subscribe to all": lambda c, n: c.subscribe(f"{n}/#"),
        "subscribe to a pattern that is narrower": lambda c, n: c.subscribe(f"{n}/closed/+"),
        "join a group": lambda c, n: c.subscribe(f"$share/open/{n}/+"),
    }.items()
}


@pytest.mark.parametrize("command", OPEN_ALONE)
def test_a_pattern_is_not_to_be_got_round(broker, stage, command):
    name = stage.name
    user = f"open-{name}"
    permit(broker, user)
    open_alone = f"^{name}\\.open$"
    api(broker, "PUT", f"topic-permissions/%2F/{user}",
        {"exchange": "amq.topic", "write": open_alone, "read": open_alone})
    before = stage.everything()
    with pytest.raises(Denied):
        OPEN_ALONE[command](stage, user)
    assert stage.everything() == before
    # What is open is.
    amqp_publish("amq.topic", "{}.open")(stage, user)
    mqtt_command(5, lambda c, n: c.subscribe(f"{n}/open"))(stage, user)
    stomp_command(subscribe("/topic/{}.open"))(stage, user)
    delete(broker, "users", user)


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


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("protocol", STREAMS)
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
    for version, denied in ((4, 0x80), (5, 0x83)):
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
