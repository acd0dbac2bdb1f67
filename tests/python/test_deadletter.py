"""Dead-lettering, expiry and bounds on the length of queues."""

import time

import pika
import pytest

from helpers import (channel_closes, eventually, get_all, message_count, queue_exists)


@pytest.fixture
def graveyard(channel, name):
    """A queue bound to its own fanout exchange, both named `<name>.dead`."""
    dead = name + ".dead"
    channel.exchange_declare(dead, "fanout", auto_delete=True)
    channel.queue_declare(dead, exclusive=True)
    channel.queue_bind(dead, dead)
    return dead


def declare(channel, name, **arguments):
    """An exclusive queue whose arguments are given as keywords: `max_length` is `x-max-length`."""
    channel.queue_declare(name, exclusive=True, arguments={
        "x-" + key.replace("_", "-"): value for key, value in arguments.items()})


def arrived(channel, queue, count=1):
    """Waits for messages and returns them with their headers."""
    eventually(lambda: message_count(channel, queue) == count)
    return [channel.basic_get(queue, auto_ack=True) for _ in range(count)]


@pytest.mark.parametrize("refuse", ["reject", "nack"])
def test_a_refused_message_is_dead_lettered_and_says_why(channel, name, graveyard, refuse):
    declare(channel, name, dead_letter_exchange=graveyard)
    channel.basic_publish("", name, b"poison", pika.BasicProperties(
        headers={"mine": 1}, correlation_id="kept"))
    eventually(lambda: message_count(channel, name) == 1)
    tag = channel.basic_get(name)[0].delivery_tag
    getattr(channel, "basic_" + refuse)(tag, requeue=False)
    (method, properties, body), = arrived(channel, graveyard)
    assert (method.exchange, method.routing_key, body) == (graveyard, name, b"poison")
    assert not method.redelivered
    assert properties.correlation_id == "kept" and properties.headers["mine"] == 1
    death, = properties.headers["x-death"]
    assert time.time() - death.pop("time").timestamp() < 3600 * 26, "local or universal time"
    assert death == {"count": 1, "reason": "rejected", "queue": name, "exchange": "",
                     "routing-keys": [name]}
    assert properties.headers["x-first-death-queue"] == name
    assert properties.headers["x-first-death-reason"] == "rejected"
    assert properties.headers["x-first-death-exchange"] == ""


def test_a_dead_letter_routing_key_replaces_the_messages_own(channel, name, graveyard):
    declare(channel, name, dead_letter_exchange=graveyard, dead_letter_routing_key="elsewhere")
    channel.basic_publish("", name, b"x")
    eventually(lambda: message_count(channel, name) == 1)
    channel.basic_reject(channel.basic_get(name)[0].delivery_tag, requeue=False)
    (method, properties, _), = arrived(channel, graveyard)
    assert method.routing_key == "elsewhere"
    assert properties.headers["x-death"][0]["routing-keys"] == [name]


def test_dying_again_in_the_same_queue_counts_up(channel, name):
    """A queue that dead-letters into a retry queue which dead-letters back."""
    retry = name + ".retry"
    declare(channel, name, dead_letter_exchange="", dead_letter_routing_key=retry)
    declare(channel, retry, dead_letter_exchange="", dead_letter_routing_key=name,
            message_ttl=20)
    channel.basic_publish("", name, b"again")
    for round_number in range(1, 4):
        eventually(lambda: message_count(channel, name) == 1)
        method, properties, _ = channel.basic_get(name)
        deaths = (properties.headers or {}).get("x-death", [])
        counts = {(death["queue"], death["reason"]): death["count"] for death in deaths}
        if round_number > 1:
            assert counts == {(name, "rejected"): round_number - 1,
                              (retry, "expired"): round_number - 1}
        channel.basic_reject(method.delivery_tag, requeue=False)


def test_a_cycle_without_a_rejection_ends(channel, name):
    """What expires back into the queue it expired from is dropped, or it would go round for ever."""
    declare(channel, name, dead_letter_exchange="", dead_letter_routing_key=name, message_ttl=20)
    channel.basic_publish("", name, b"x")
    time.sleep(0.3)
    assert message_count(channel, name) == 0


def test_a_missing_dead_letter_exchange_drops_the_message(channel, name):
    declare(channel, name, dead_letter_exchange="test.no-such-exchange")
    channel.basic_publish("", name, b"x")
    eventually(lambda: message_count(channel, name) == 1)
    channel.basic_reject(channel.basic_get(name)[0].delivery_tag, requeue=False)
    channel.basic_publish("", name, b"the channel lives")
    eventually(lambda: message_count(channel, name) == 1)


def test_messages_expire_after_the_queues_ttl(channel, name, graveyard):
    declare(channel, name, message_ttl=150, dead_letter_exchange=graveyard)
    started = time.monotonic()
    channel.basic_publish("", name, b"x")
    assert message_count(channel, graveyard) == 0
    (_, properties, body), = arrived(channel, graveyard)
    assert 0.14 <= time.monotonic() - started < 1.0
    assert body == b"x" and properties.headers["x-death"][0]["reason"] == "expired"


def test_messages_expire_after_their_own_expiration(channel, name, graveyard):
    declare(channel, name, dead_letter_exchange=graveyard)
    started = time.monotonic()
    channel.basic_publish("", name, b"x", pika.BasicProperties(expiration="150"))
    (_, properties, _), = arrived(channel, graveyard)
    assert time.monotonic() - started >= 0.14
    assert properties.expiration is None, "it must not expire again where it is kept"
    assert properties.headers["x-death"][0]["original-expiration"] == "150"


def test_the_shorter_of_both_times_counts(channel, name, graveyard):
    declare(channel, name, message_ttl=60_000, dead_letter_exchange=graveyard)
    channel.basic_publish("", name, b"x", pika.BasicProperties(expiration="50"))
    arrived(channel, graveyard)


def test_a_ttl_of_zero_expires_what_no_consumer_takes_at_once(channel, name):
    declare(channel, name, message_ttl=0)
    channel.basic_publish("", name, b"lost")
    time.sleep(0.1)
    assert message_count(channel, name) == 0
    received = []
    channel.basic_consume(name, lambda *delivery: received.append(delivery[3]), auto_ack=True)
    channel.basic_publish("", name, b"taken")
    eventually(lambda: channel.connection.process_data_events(0.01) or received == [b"taken"])


def test_an_unacknowledged_message_does_not_expire(channel, name):
    declare(channel, name, message_ttl=50)
    channel.basic_publish("", name, b"x")
    method, _, body = channel.basic_get(name)
    time.sleep(0.15)
    channel.basic_ack(method.delivery_tag)
    assert body == b"x" and channel.queue_declare(name, passive=True)


@pytest.mark.parametrize("expiration", ["soon", "-1", "1.5"])
def test_an_invalid_expiration_is_406(channel, queue, expiration):
    channel.basic_publish("", queue, b"x", pika.BasicProperties(expiration=expiration))
    with channel_closes(406):
        channel.queue_declare(queue, passive=True)


def test_an_unused_queue_expires(connection, channel, name):
    declare(channel, name, expires=100)
    # Each look at the queue is a use of it, so looks must lie further apart than its lease.
    eventually(lambda: time.sleep(0.3) or not queue_exists(connection, name))


def publish_confirmed(channel, queue, bodies):
    """Publishes with confirms, so that all are in the queue, or dropped, when this returns."""
    channel.confirm_delivery()
    for body in bodies:
        channel.basic_publish("", queue, body)


def test_a_full_queue_drops_its_oldest_messages(channel, name, graveyard):
    declare(channel, name, max_length=3, dead_letter_exchange=graveyard)
    publish_confirmed(channel, name, [b"1", b"2", b"3", b"4", b"5"])
    assert get_all(channel, name) == [b"3", b"4", b"5"]
    dropped = arrived(channel, graveyard, 2)
    assert [body for _, _, body in dropped] == [b"1", b"2"]
    assert dropped[0][1].headers["x-death"][0]["reason"] == "maxlen"


def test_a_bound_in_bytes_counts_bodies(channel, name):
    declare(channel, name, max_length_bytes=10)
    publish_confirmed(channel, name, [b"aaaa", b"bbbb", b"cccc", b"dd"])
    assert get_all(channel, name) == [b"bbbb", b"cccc", b"dd"]


def test_unacknowledged_messages_do_not_count_as_length(channel, name):
    declare(channel, name, max_length=1)
    publish_confirmed(channel, name, [b"held"])
    channel.basic_get(name)
    publish_confirmed(channel, name, [b"ready"])
    assert get_all(channel, name) == [b"ready"]


def test_reject_publish_refuses_the_newest_messages(channel, name):
    declare(channel, name, max_length=2, overflow="reject-publish")
    channel.confirm_delivery()
    for body in (b"1", b"2"):
        channel.basic_publish("", name, body)
    with pytest.raises(pika.exceptions.NackError):
        channel.basic_publish("", name, b"3")
    assert get_all(channel, name) == [b"1", b"2"]


def test_reject_publish_dlx_keeps_what_it_refuses(channel, name, graveyard):
    declare(channel, name, max_length=1, overflow="reject-publish-dlx",
            dead_letter_exchange=graveyard)
    channel.confirm_delivery()
    channel.basic_publish("", name, b"1")
    with pytest.raises(pika.exceptions.NackError):
        channel.basic_publish("", name, b"2")
    (_, properties, body), = arrived(channel, graveyard)
    assert body == b"2" and properties.headers["x-death"][0]["reason"] == "maxlen"
    assert get_all(channel, name) == [b"1"]


def test_a_deleted_queue_dead_letters_nothing(channel, name, graveyard):
    declare(channel, name, dead_letter_exchange=graveyard)
    publish_confirmed(channel, name, [b"x"])
    channel.queue_delete(name)
    time.sleep(0.1)
    assert message_count(channel, graveyard) == 0


def test_higher_priorities_come_first_in_a_priority_queue(channel, name):
    declare(channel, name, max_priority=5)
    for priority in (1, 5, None, 3, 9, 5):
        channel.basic_publish("", name, str(priority).encode(),
                              pika.BasicProperties(priority=priority))
    eventually(lambda: message_count(channel, name) == 6)
    assert get_all(channel, name) == [b"5", b"9", b"5", b"3", b"1", b"None"]
