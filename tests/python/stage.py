"""What is on stage for a test of permissions, and commands of each protocol that tell a refusal from
all else.
"""

import contextlib
import json
import urllib.parse
import urllib.request
import uuid

import pika
import pytest

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
