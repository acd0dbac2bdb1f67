"""What is not allowed is refused in each protocol's own words, and leaves nothing behind: every
command of every protocol with every permission withheld.

A command names what it needs. With a user who lacks that it must be refused, and queues, bindings,
exchanges, sessions, messages and what is retained must be what they were; with every other user it
must work.
"""

import socket
from typing import Callable, NamedTuple

import pika
import pytest

from stage import (CONFIGURE, READ, TOPIC_READ, TOPIC_WRITE, USERS, WRITE, Denied, amqp_command,
                   amqp_publish, broker, delete, mqtt, mqtt_command, mqtt_publish, send, stage,
                   stomp_command, subscribe)
from test_mqtt import api, permit

# Fixtures.
__all__ = ["broker", "stage"]

# AMQP 0-9-1.

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
    assert stage.everything() == before


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
