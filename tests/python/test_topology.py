"""Declaring, binding and deleting queues and exchanges, and what is refused."""

import pytest

from helpers import (channel_closes, connection_closes, eventually, exchange_exists, get_all,
                     message_count, queue_exists)

EXCHANGE_TYPES = ("direct", "fanout", "topic", "headers")
PREDECLARED = {
    "amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic",
    "amq.headers": "headers", "amq.match": "headers",
}


@pytest.mark.parametrize("kind", EXCHANGE_TYPES)
def test_an_exchange_is_declared_found_and_deleted(connection, channel, name, kind):
    channel.exchange_declare(name, kind, durable=True)
    channel.exchange_declare(name, kind, durable=True)
    assert exchange_exists(connection, name)
    channel.exchange_delete(name)
    assert not exchange_exists(connection, name)


@pytest.mark.parametrize("exchange, kind", PREDECLARED.items())
def test_predeclared_exchanges_are_there_and_durable(channel, exchange, kind):
    channel.exchange_declare(exchange, passive=True)
    channel.exchange_declare(exchange, kind, durable=True)


def test_a_queue_is_declared_found_purged_and_deleted(connection, channel, name):
    declared = channel.queue_declare(name, durable=True).method
    assert (declared.queue, declared.message_count, declared.consumer_count) == (name, 0, 0)
    for _ in range(3):
        channel.basic_publish("", name, b"x")
    eventually(lambda: message_count(channel, name) == 3)
    assert channel.queue_purge(name).method.message_count == 3
    assert message_count(channel, name) == 0
    channel.basic_publish("", name, b"x")
    eventually(lambda: message_count(channel, name) == 1)
    assert channel.queue_delete(name).method.message_count == 1
    assert not queue_exists(connection, name)


def test_a_passive_declare_counts_consumers(channel, queue):
    channel.basic_consume(queue, lambda *_: None)
    assert channel.queue_declare(queue, passive=True).method.consumer_count == 1


def test_a_purge_leaves_what_is_unacknowledged(channel, queue):
    channel.basic_publish("", queue, b"held")
    channel.basic_publish("", queue, b"ready")
    method, _, _ = channel.basic_get(queue)
    assert channel.queue_purge(queue).method.message_count == 1
    channel.basic_reject(method.delivery_tag, requeue=True)
    eventually(lambda: message_count(channel, queue) == 1)


def test_a_server_named_queue_gets_a_fresh_reserved_name(channel):
    first = channel.queue_declare("", exclusive=True).method.queue
    second = channel.queue_declare("", exclusive=True).method.queue
    assert first.startswith("amq.gen-") and second.startswith("amq.gen-")
    assert first != second


def test_an_empty_queue_name_means_the_last_one_declared(channel):
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind("", "amq.direct", routing_key=queue)
    channel.basic_publish("amq.direct", queue, b"found")
    assert channel.basic_get("", auto_ack=True)[2] == b"found"


def test_an_empty_queue_name_without_a_declare_is_an_error(channel):
    with channel_closes(404):
        channel.queue_declare("", passive=True)


@pytest.mark.parametrize("first, second", [
    (dict(durable=True), dict(durable=False)),
    (dict(auto_delete=True), dict(auto_delete=False)),
    (dict(durable=True, arguments={"x-message-ttl": 1000}), dict(durable=True)),
    (dict(durable=True, arguments={"x-max-length": 1}),
     dict(durable=True, arguments={"x-max-length": 2})),
])
def test_redeclaring_a_queue_otherwise_is_406(connection, channel, name, first, second):
    channel.queue_declare(name, **first)
    with channel_closes(406, "PRECONDITION_FAILED"):
        channel.queue_declare(name, **second)
    assert channel.is_closed and connection.is_open
    connection.channel().queue_delete(name)


@pytest.mark.parametrize("first, second", [
    (dict(exchange_type="direct"), dict(exchange_type="fanout")),
    (dict(durable=True), dict(durable=False)),
    (dict(auto_delete=True), dict(auto_delete=False)),
    (dict(internal=True), dict(internal=False)),
])
def test_redeclaring_an_exchange_otherwise_is_406(connection, channel, name, first, second):
    channel.exchange_declare(name, **first)
    with channel_closes(406):
        channel.exchange_declare(name, **second)
    connection.channel().exchange_delete(name)


def test_an_unknown_exchange_type_closes_the_connection(channel, name):
    # RabbitMQ 3.10 calls it COMMAND_INVALID, later releases PRECONDITION_FAILED on the channel.
    with connection_closes(503):
        channel.exchange_declare(name, "no-such-type")


@pytest.mark.parametrize("act", [
    lambda channel, name: channel.queue_declare(name, passive=True),
    lambda channel, name: channel.exchange_declare(name, passive=True),
    lambda channel, name: channel.queue_purge(name),
    lambda channel, name: channel.queue_bind(name, "amq.direct", "key"),
    lambda channel, name: channel.basic_get(name),
    lambda channel, name: channel.basic_consume(name, lambda *_: None),
])
def test_what_is_missing_is_404(channel, name, act):
    with channel_closes(404, "NOT_FOUND"):
        act(channel, name)


def test_binding_to_a_missing_exchange_is_404(channel, queue):
    with channel_closes(404):
        channel.queue_bind(queue, "test.no-such-exchange", "key")


def test_deleting_what_is_missing_succeeds(channel, name):
    assert channel.queue_delete(name).method.message_count == 0
    channel.exchange_delete(name)
    channel.queue_declare(name, exclusive=True)
    channel.queue_unbind(name, "amq.direct", "never-bound")


@pytest.mark.parametrize("act", [
    lambda channel, name: channel.queue_declare(name, passive=True),
    lambda channel, name: channel.queue_declare(name),
    lambda channel, name: channel.queue_delete(name),
    lambda channel, name: channel.queue_purge(name),
    lambda channel, name: channel.queue_bind(name, "amq.direct", "key"),
    lambda channel, name: channel.basic_get(name),
    lambda channel, name: channel.basic_consume(name, lambda *_: None),
])
def test_an_exclusive_queue_is_locked_to_others(queue, other_connection, act):
    with channel_closes(405, "RESOURCE_LOCKED"):
        act(other_connection.channel(), queue)


def test_an_exclusive_queue_takes_messages_from_others(channel, queue, other_connection):
    other_connection.channel().basic_publish("", queue, b"from outside")
    eventually(lambda: message_count(channel, queue) == 1)


def test_an_exclusive_queue_goes_with_its_connection(amqp, connection, name):
    owner = amqp.connect()
    owner.channel().queue_declare(name, exclusive=True, durable=True)
    owner.close()
    eventually(lambda: not queue_exists(connection, name))


@pytest.mark.parametrize("act", [
    lambda channel, queue: channel.queue_bind(queue, "", "key"),
    lambda channel, queue: channel.queue_unbind(queue, "", queue),
    lambda channel, queue: channel.exchange_declare("", "direct", durable=True),
    lambda channel, queue: channel.exchange_delete(""),
    lambda channel, queue: channel.exchange_delete("amq.direct"),
    lambda channel, queue: channel.exchange_declare("amq.mine", "direct"),
    lambda channel, queue: channel.queue_declare("amq.mine"),
])
def test_reserved_names_are_403(channel, queue, act):
    with channel_closes(403, "ACCESS_REFUSED"):
        act(channel, queue)


def test_deleting_a_queue_in_use_or_not_empty_is_406_if_asked(connection, channel, name):
    channel.queue_declare(name)
    channel.basic_publish("", name, b"x")
    eventually(lambda: message_count(channel, name) == 1)
    with channel_closes(406):
        connection.channel().queue_delete(name, if_empty=True)
    tag = channel.basic_consume(name, lambda *_: None)
    with channel_closes(406):
        connection.channel().queue_delete(name, if_unused=True)
    channel.basic_cancel(tag)
    channel.queue_purge(name)
    channel.queue_delete(name, if_unused=True, if_empty=True)
    assert not queue_exists(connection, name)


def test_deleting_a_bound_exchange_is_406_if_asked(connection, channel, queue, name):
    exchange = name + ".exchange"
    channel.exchange_declare(exchange, "fanout")
    channel.queue_bind(queue, exchange)
    with channel_closes(406):
        connection.channel().exchange_delete(exchange, if_unused=True)
    channel.queue_unbind(queue, exchange)
    channel.exchange_delete(exchange, if_unused=True)
    assert not exchange_exists(connection, exchange)


def test_an_auto_delete_queue_goes_with_its_last_consumer(connection, channel, name):
    channel.queue_declare(name, auto_delete=True)
    first = channel.basic_consume(name, lambda *_: None)
    second = channel.basic_consume(name, lambda *_: None)
    channel.basic_cancel(first)
    assert queue_exists(connection, name)
    channel.basic_cancel(second)
    eventually(lambda: not queue_exists(connection, name))


def test_getting_is_not_consuming(connection, channel, name):
    """An auto-delete queue outlives it, nobody counts it, and it passes by whoever has the queue."""
    channel.queue_declare(name, auto_delete=True)
    for number in range(4):
        channel.basic_publish("", name, b"%d" % number)
    other = connection.channel()
    eventually(lambda: message_count(channel, name) == 4)
    assert channel.basic_get(name, auto_ack=True)[2] == b"0"
    assert channel.basic_get(name)[2] == b"1"
    declared = other.queue_declare(name, passive=True).method
    assert (declared.message_count, declared.consumer_count) == (2, 0)
    other.basic_qos(prefetch_count=1)
    alone = other.basic_consume(name, lambda *_: None, exclusive=True)
    eventually(lambda: other.queue_declare(name, passive=True).method.message_count == 1)
    assert channel.basic_get(name, auto_ack=True)[2] == b"3"
    assert channel.basic_get(name) == (None, None, None)
    assert other.queue_declare(name, passive=True).method.consumer_count == 1
    other.basic_cancel(alone)
    eventually(lambda: not queue_exists(connection, name))


def test_an_auto_delete_exchange_goes_with_its_last_binding(connection, channel, queue, name):
    exchange = name + ".exchange"
    channel.exchange_declare(exchange, "topic", auto_delete=True)
    channel.queue_bind(queue, exchange, "a")
    channel.queue_bind(queue, exchange, "b")
    channel.queue_unbind(queue, exchange, "a")
    assert exchange_exists(connection, exchange)
    channel.queue_unbind(queue, exchange, "b")
    eventually(lambda: not exchange_exists(connection, exchange))


def test_a_deleted_queue_leaves_no_binding(channel, queue, name):
    exchange, short_lived = name + ".exchange", name + ".short-lived"
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    for bound in (queue, short_lived):
        channel.queue_declare(bound, exclusive=True)
        channel.queue_bind(bound, exchange)
    channel.queue_delete(short_lived)
    channel.queue_declare(short_lived, exclusive=True)
    channel.basic_publish(exchange, "", b"x")
    eventually(lambda: message_count(channel, queue) == 1)
    assert message_count(channel, short_lived) == 0


def test_a_deleted_exchange_takes_its_bindings_along(connection, channel, queue, name):
    exchange = name + ".exchange"
    channel.exchange_declare(exchange, "fanout")
    channel.queue_bind(queue, exchange)
    channel.exchange_delete(exchange)
    channel.exchange_declare(exchange, "fanout")
    channel.basic_publish(exchange, "", b"nobody is bound")
    channel.basic_publish("", queue, b"marker")
    eventually(lambda: message_count(channel, queue) > 0)
    assert get_all(channel, queue) == [b"marker"]
    channel.exchange_delete(exchange)


def test_publishing_to_a_missing_exchange_is_404(connection, channel, name):
    channel.basic_publish(name, "key", b"x")
    with channel_closes(404):
        channel.queue_declare("", exclusive=True)
    assert connection.is_open


def test_publishing_to_an_internal_exchange_is_403(channel, name):
    channel.exchange_declare(name, "fanout", internal=True, auto_delete=True)
    channel.basic_publish(name, "", b"x")
    with channel_closes(403):
        channel.queue_declare("", exclusive=True)


@pytest.mark.parametrize("arguments", [
    {"x-message-ttl": -1},
    {"x-message-ttl": "soon"},
    {"x-max-length": -1},
    {"x-overflow": "no-such-behaviour"},
    {"x-dead-letter-routing-key": "without an exchange"},
])
def test_invalid_queue_arguments_are_406(channel, name, arguments):
    with channel_closes(406):
        channel.queue_declare(name, arguments=arguments, exclusive=True)
