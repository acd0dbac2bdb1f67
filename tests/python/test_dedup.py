"""Messages that were seen before: exchanges and queues that deduplicate (Isthmus only)."""

import time

import pika
import pytest

from helpers import channel_closes, eventually, get_all, message_count

HEADER = "x-deduplication-header"


def send(channel, exchange, routing_key, body, key=None, **headers):
    if key is not None:
        headers[HEADER] = key
    channel.basic_publish(exchange, routing_key, body, pika.BasicProperties(
        headers=headers, delivery_mode=2))


@pytest.fixture
def deduplicating(isthmus, channel, queue, name):
    """Declares an exchange that deduplicates, with a queue behind it."""
    def declare(**arguments):
        exchange = name + ".dedup"
        channel.exchange_declare(exchange, "x-message-deduplication", arguments={
            key.replace("_", "-"): value for key, value in arguments.items()})
        channel.queue_bind(queue, exchange)
        return exchange
    yield declare
    if channel.is_open:
        channel.exchange_delete(name + ".dedup")


def test_an_exchange_drops_what_it_has_seen(channel, queue, deduplicating):
    exchange = deduplicating(x_cache_size=10)
    channel.confirm_delivery()
    for body, key in ((b"a", "1"), (b"again", "1"), (b"b", "2"), (b"c", 3), (b"again", 3)):
        send(channel, exchange, "", body, key)
    send(channel, exchange, "", b"no key")
    send(channel, exchange, "", b"no key")
    assert get_all(channel, queue) == [b"a", b"b", b"c", b"no key", b"no key"]


def test_a_full_window_forgets_what_came_first(channel, queue, deduplicating):
    exchange = deduplicating(x_cache_size=2)
    channel.confirm_delivery()
    for key in ("1", "2", "3", "3", "1"):
        send(channel, exchange, "", key.encode(), key)
    assert get_all(channel, queue) == [b"1", b"2", b"3", b"1"]


def test_a_key_is_forgotten_after_its_time(channel, queue, deduplicating):
    exchange = deduplicating(x_cache_size=10, x_cache_ttl=300)
    channel.confirm_delivery()
    send(channel, exchange, "", b"first", "1")
    send(channel, exchange, "", b"dropped", "1")
    time.sleep(0.4)
    send(channel, exchange, "", b"later", "1")
    assert get_all(channel, queue) == [b"first", b"later"]


def test_a_message_may_say_how_long_its_key_is_remembered(channel, queue, deduplicating):
    exchange = deduplicating(x_cache_size=10, x_cache_ttl=60_000)
    channel.confirm_delivery()
    send(channel, exchange, "", b"first", "1", **{"x-cache-ttl": 200})
    send(channel, exchange, "", b"dropped", "1")
    time.sleep(0.3)
    send(channel, exchange, "", b"later", "1")
    assert get_all(channel, queue) == [b"first", b"later"]


def test_a_queue_drops_what_it_has_seen_whatever_way_it_came(isthmus, channel, name):
    channel.queue_declare(name, exclusive=True, arguments={
        "x-message-deduplication": True, "x-cache-size": 10})
    channel.queue_bind(name, "amq.fanout")
    channel.confirm_delivery()
    send(channel, "", name, b"a", "1")
    send(channel, "amq.fanout", "", b"dropped", "1")
    send(channel, "", name, b"b", "2")
    assert get_all(channel, name) == [b"a", b"b"]


@pytest.mark.parametrize("arguments", [
    {"x-cache-size": 0}, {"x-cache-size": -1}, {"x-cache-size": "ten"}, {"x-cache-ttl": "soon"},
])
def test_a_window_without_bounds_is_406(isthmus, channel, name, arguments):
    with channel_closes(406):
        channel.exchange_declare(name, "x-message-deduplication", auto_delete=True,
                                 arguments={"x-cache-size": 10} | arguments)


def test_what_was_seen_before_a_kill_is_known_after_it(own_isthmus, name):
    def connect():
        return pika.BlockingConnection(pika.ConnectionParameters(*own_isthmus.amqp)).channel()
    channel = connect()
    exchange = name + ".dedup"
    channel.exchange_declare(exchange, "x-message-deduplication", durable=True,
                             arguments={"x-cache-size": 10})
    channel.queue_declare(name, durable=True)
    channel.queue_bind(name, exchange)
    channel.confirm_delivery()
    send(channel, exchange, "", b"before", "1")
    own_isthmus.kill()
    own_isthmus.start()
    channel = connect()
    channel.confirm_delivery()
    send(channel, exchange, "", b"dropped", "1")
    send(channel, exchange, "", b"after", "2")
    eventually(lambda: message_count(channel, name) == 2)
    assert get_all(channel, name) == [b"before", b"after"]
