"""Exchanges of type x-delayed-message, which hold messages for as long as these ask for."""

import time

import pika
import pytest

from helpers import channel_closes, eventually, get_all, message_count


@pytest.fixture(autouse=True)
def delays(amqp):
    """RabbitMQ has these exchanges by a plugin that Debian does not package."""
    if not amqp.is_isthmus:
        pytest.skip("no exchanges of this type")


def declare(channel, name, queue, kind="direct", **properties):
    """An exchange that delays, with the queue bound to it."""
    channel.exchange_declare(name, "x-delayed-message", arguments={"x-delayed-type": kind},
                             **properties)
    channel.queue_bind(queue, name, "key")


def publish(channel, exchange, body, delay_ms=None, **properties):
    headers = {"kept": True} if delay_ms is None else {"kept": True, "x-delay": delay_ms}
    channel.basic_publish(exchange, "key", body, pika.BasicProperties(headers=headers, **properties))


def test_messages_come_when_they_are_due(channel, name, queue):
    declare(channel, name, queue, auto_delete=True)
    started = time.monotonic()
    for body, delay_ms in [(b"second", 600), (b"first", 300), (b"now", None), (b"none", 0)]:
        publish(channel, name, body, delay_ms)
    eventually(lambda: message_count(channel, queue) == 2)
    assert get_all(channel, queue) == [b"now", b"none"]
    eventually(lambda: message_count(channel, queue) == 2)
    assert time.monotonic() - started >= 0.6
    assert get_all(channel, queue) == [b"first", b"second"]


def test_the_delay_is_negative_once_it_is_over(channel, name, queue):
    declare(channel, name, queue, "fanout", auto_delete=True)
    publish(channel, name, b"x", 50, correlation_id="mine", expiration="60000")
    eventually(lambda: message_count(channel, queue) == 1)
    method, properties, body = channel.basic_get(queue, auto_ack=True)
    assert (method.exchange, method.routing_key, body) == (name, "key", b"x")
    assert properties.headers == {"kept": True, "x-delay": -50}
    assert (properties.correlation_id, properties.expiration) == ("mine", "60000")
    assert not method.redelivered


def test_what_is_held_is_confirmed_at_once(channel, name, queue):
    declare(channel, name, queue, auto_delete=True)
    channel.confirm_delivery()
    started = time.monotonic()
    publish(channel, name, b"x", 60_000, delivery_mode=2)
    assert time.monotonic() - started < 10
    assert message_count(channel, queue) == 0


def test_the_queue_that_holds_them_is_the_brokers_own(connection, channel, name, queue, amqp):
    if not amqp.is_isthmus:
        pytest.skip("the name is Isthmus's own")
    declare(channel, name, queue, auto_delete=True)
    with channel_closes(404):
        channel.queue_declare("amq.delayed." + name, passive=True)
    with channel_closes(403):
        connection.channel().queue_declare("amq.delayed." + name)


def test_a_restart_leaves_what_remains_of_the_delay(own_isthmus):
    def connect():
        host, port = own_isthmus.amqp
        return pika.BlockingConnection(pika.ConnectionParameters(host, port, heartbeat=0))

    connection = connect()
    channel = connection.channel()
    channel.queue_declare("q", durable=True)
    declare(channel, "later", "q", durable=True)
    channel.confirm_delivery()
    started = time.monotonic()
    publish(channel, "later", b"second", 2500, delivery_mode=2)
    publish(channel, "later", b"first", 1500, delivery_mode=2)
    connection.close()
    own_isthmus.restart()
    with connect() as connection:
        channel = connection.channel()
        eventually(lambda: message_count(channel, "q") == 2, within_s=10)
        assert 2.4 <= time.monotonic() - started < 8
        assert get_all(channel, "q") == [b"first", b"second"]
