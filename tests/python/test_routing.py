"""Which queues each type of exchange sends a message to."""

import pika
import pytest

from helpers import channel_closes, eventually, get_all


@pytest.fixture
def publish_and_get(channel, queue):
    """Publishes bodies, then a marker straight to the queue, and returns what came before it."""
    def run(exchange, messages):
        for routing_key, body, properties in messages:
            channel.basic_publish(exchange, routing_key, body, properties)
        channel.basic_publish("", queue, b"marker")
        arrived = []
        eventually(lambda: arrived.extend(get_all(channel, queue)) or b"marker" in arrived)
        assert arrived.pop() == b"marker"
        return arrived
    return run


def keyed(*keys):
    """One message a routing key, whose body is the key."""
    return [(key, key.encode(), None) for key in keys]


def headed(**bodies_and_headers):
    """One message a keyword, whose value is its headers."""
    return [("", body.encode(), pika.BasicProperties(headers=headers))
            for body, headers in bodies_and_headers.items()]


def test_the_default_exchange_routes_by_queue_name(channel, queue, publish_and_get):
    assert publish_and_get("", keyed(queue, queue + "x", queue.upper())) == [queue.encode()]


def test_direct_routes_by_equal_key(channel, queue, publish_and_get, name):
    exchange = name + ".direct"
    channel.exchange_declare(exchange, "direct", auto_delete=True)
    channel.queue_bind(queue, exchange, "red")
    channel.queue_bind(queue, exchange, "")
    assert publish_and_get(exchange, keyed("red", "reds", "Red", "", "green")) == [b"red", b""]


def test_fanout_routes_to_all_whatever_the_key(channel, queue, publish_and_get, name):
    exchange, second = name + ".fanout", name + ".second"
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    channel.queue_declare(second, exclusive=True)
    channel.queue_bind(queue, exchange, "ignored")
    channel.queue_bind(second, exchange)
    assert publish_and_get(exchange, keyed("a", "b")) == [b"a", b"b"]
    assert get_all(channel, second) == [b"a", b"b"]


# The empty key has no words at all, so `*` does not match it; "." is two empty words.
TOPICS = {
    "a.b.c": {"a.b.c"},
    "a.*.c": {"a.b.c", "a..c"},
    "*": {"a", "c"},
    "#": {"", "a", "a.b", "a.b.c", "a..c", "c", "b.c", "a.b.b.c", "."},
    "a.#": {"a", "a.b", "a.b.c", "a..c", "a.b.b.c"},
    "#.c": {"a.b.c", "a..c", "c", "b.c", "a.b.b.c"},
    "a.#.c": {"a.b.c", "a..c", "a.b.b.c"},
    "*.#.c": {"a.b.c", "a..c", "b.c", "a.b.b.c"},
    "#.*": {"a", "a.b", "a.b.c", "a..c", "c", "b.c", "a.b.b.c", "."},
    "*.*": {"a.b", "b.c", "."},
    "#.#": {"", "a", "a.b", "a.b.c", "a..c", "c", "b.c", "a.b.b.c", "."},
    "a*": set(),
}


@pytest.mark.parametrize("pattern, matching", TOPICS.items())
def test_topic_matches_words_with_wildcards(
        channel, queue, publish_and_get, name, pattern, matching):
    exchange = name + ".topic"
    channel.exchange_declare(exchange, "topic", auto_delete=True)
    channel.queue_bind(queue, exchange, pattern)
    keys = sorted(TOPICS["#"])
    assert publish_and_get(exchange, keyed(*keys)) == [
        key.encode() for key in keys if key in matching]


def test_a_message_reaches_a_queue_once_however_many_bindings_match(
        channel, queue, publish_and_get, name):
    exchange = name + ".topic"
    channel.exchange_declare(exchange, "topic", auto_delete=True)
    for pattern in ("#", "a.*", "a.b"):
        channel.queue_bind(queue, exchange, pattern)
    assert publish_and_get(exchange, keyed("a.b")) == [b"a.b"]


def test_unbinding_one_pattern_leaves_the_others(channel, queue, publish_and_get):
    key = queue
    channel.queue_bind(queue, "amq.topic", f"{key}.*")
    channel.queue_bind(queue, "amq.topic", f"{key}.#")
    channel.queue_unbind(queue, "amq.topic", f"{key}.#")
    assert publish_and_get("amq.topic", keyed(f"{key}.a", f"{key}.a.b")) == [f"{key}.a".encode()]


@pytest.mark.parametrize("arguments, matching", [
    ({"x-match": "all", "colour": "red", "size": 1}, [b"both"]),
    ({"x-match": "any", "colour": "red", "size": 1}, [b"both", b"one"]),
    ({"colour": "red", "size": 1}, [b"both"]),
    ({"x-match": "all", "colour": None}, [b"both", b"one", b"other"]),
    ({"x-match": "all"}, [b"both", b"one", b"other", b"neither"]),
    ({"x-match": "any"}, []),
])
def test_headers_match_all_or_any(channel, queue, publish_and_get, name, arguments, matching):
    exchange = name + ".headers"
    channel.exchange_declare(exchange, "headers", auto_delete=True)
    channel.queue_bind(queue, exchange, arguments=arguments)
    messages = headed(
        both={"colour": "red", "size": 1}, one={"colour": "red", "size": 2},
        other={"colour": "blue"}, neither={"x-colour": "red"})
    assert publish_and_get(exchange, messages) == matching


def test_an_unknown_x_match_is_406(channel, queue):
    with channel_closes(406):
        channel.queue_bind(queue, "amq.headers", arguments={"x-match": "most"})


def test_exchanges_bound_to_exchanges_pass_messages_on(channel, queue, publish_and_get, name):
    outer, inner = name + ".outer", name + ".inner"
    channel.exchange_declare(outer, "topic", auto_delete=True)
    channel.exchange_declare(inner, "fanout", auto_delete=True)
    channel.exchange_bind(inner, outer, "to.inner.#")
    channel.queue_bind(queue, inner)
    assert publish_and_get(outer, keyed("to.inner.a", "elsewhere")) == [b"to.inner.a"]
    channel.exchange_unbind(inner, outer, "to.inner.#")


def test_a_cycle_of_exchanges_delivers_once(channel, queue, publish_and_get, name):
    one, two = name + ".one", name + ".two"
    for exchange in (one, two):
        channel.exchange_declare(exchange, "fanout")
    channel.exchange_bind(one, two)
    channel.exchange_bind(two, one)
    channel.queue_bind(queue, one)
    assert publish_and_get(two, keyed("x")) == [b"x"]
    for exchange in (one, two):
        channel.exchange_delete(exchange)


def test_an_alternate_exchange_takes_what_nothing_else_does(
        channel, queue, publish_and_get, name):
    main, spare = name + ".main", name + ".spare"
    channel.exchange_declare(spare, "fanout", auto_delete=True)
    channel.exchange_declare(main, "direct", arguments={"alternate-exchange": spare})
    channel.queue_bind(queue, spare)
    assert publish_and_get(main, keyed("unbound")) == [b"unbound"]
    channel.exchange_delete(main)
