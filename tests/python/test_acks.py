"""Acknowledging, rejecting and returning messages to the queue."""

import pytest

import rawamqp
from helpers import Consumer, channel_closes, eventually, get_all, message_count


@pytest.fixture
def three(channel, queue):
    """A queue that holds b"1", b"2" and b"3"."""
    for body in (b"1", b"2", b"3"):
        channel.basic_publish("", queue, body)
    eventually(lambda: message_count(channel, queue) == 3)
    return queue


def take(channel, queue, count):
    """Delivery tags of `count` messages that stay unacknowledged."""
    return [channel.basic_get(queue)[0].delivery_tag for _ in range(count)]


def left_over(connection, channel, queue):
    """What comes back when the channel that held messages closes."""
    channel.close()
    return get_all(connection.channel(), queue)


def test_ack_of_one_leaves_the_others(connection, channel, three):
    tags = take(channel, three, 3)
    channel.basic_ack(tags[1])
    assert left_over(connection, channel, three) == [b"1", b"3"]


def test_ack_multiple_takes_all_before_it(connection, channel, three):
    tags = take(channel, three, 3)
    channel.basic_ack(tags[1], multiple=True)
    assert left_over(connection, channel, three) == [b"3"]


def test_ack_of_zero_multiple_takes_everything(connection, channel, three):
    take(channel, three, 3)
    channel.basic_ack(0, multiple=True)
    assert left_over(connection, channel, three) == []


@pytest.mark.parametrize("refuse", ["reject", "nack"])
def test_requeued_messages_return_to_their_place(channel, three, refuse):
    tags = take(channel, three, 2)
    if refuse == "reject":
        for tag in reversed(tags):
            channel.basic_reject(tag, requeue=True)
    else:
        channel.basic_nack(tags[-1], multiple=True, requeue=True)
    eventually(lambda: message_count(channel, three) == 3)
    got = [channel.basic_get(three) for _ in range(3)]
    assert [body for _, _, body in got] == [b"1", b"2", b"3"]
    assert [method.redelivered for method, _, _ in got] == [True, True, False]


def test_a_message_requeued_late_still_comes_before_later_ones(channel, three):
    first, second = take(channel, three, 2)
    channel.basic_ack(second)
    channel.basic_nack(first, requeue=True)
    eventually(lambda: message_count(channel, three) == 2)
    assert get_all(channel, three) == [b"1", b"3"]


@pytest.mark.parametrize("refuse", ["reject", "nack"])
def test_refused_messages_are_gone(connection, channel, three, refuse):
    tags = take(channel, three, 3)
    if refuse == "reject":
        channel.basic_reject(tags[0], requeue=False)
    else:
        channel.basic_nack(tags[0], requeue=False)
    assert left_over(connection, channel, three) == [b"2", b"3"]


def test_nack_multiple_without_requeue_drops_all_before_it(connection, channel, three):
    tags = take(channel, three, 3)
    channel.basic_nack(tags[1], multiple=True, requeue=False)
    assert left_over(connection, channel, three) == [b"3"]


@pytest.mark.parametrize("settle", [
    lambda channel, tag: channel.basic_ack(tag),
    lambda channel, tag: channel.basic_nack(tag),
    lambda channel, tag: channel.basic_reject(tag),
    lambda channel, tag: channel.basic_ack(tag, multiple=True),
])
def test_an_unknown_delivery_tag_is_406(channel, three, settle):
    settle(channel, 99)
    with channel_closes(406, "unknown delivery tag"):
        channel.queue_declare(three, passive=True)


def test_acknowledging_twice_is_406(channel, three):
    tag, = take(channel, three, 1)
    channel.basic_ack(tag)
    channel.basic_ack(tag)
    with channel_closes(406, "unknown delivery tag"):
        channel.queue_declare(three, passive=True)


def test_acknowledging_what_needs_none_is_406(channel, three):
    method, _, _ = channel.basic_get(three, auto_ack=True)
    channel.basic_ack(method.delivery_tag)
    with channel_closes(406):
        channel.queue_declare(three, passive=True)


def test_a_lost_connection_returns_its_messages_flagged(amqp, channel, name):
    channel.queue_declare(name)
    for body in (b"1", b"2", b"3"):
        channel.basic_publish("", name, body)
    with rawamqp.Connection(amqp.address) as victim:
        victim.login().open_channel()
        for _ in range(3):
            victim.call(1, rawamqp.BASIC_GET, rawamqp.BASIC_GET_OK,
                        b"\0\0" + rawamqp.short_string(name) + b"\0")
            victim.receive(), victim.receive()
    eventually(lambda: message_count(channel, name) == 3)
    got = [channel.basic_get(name) for _ in range(3)]
    assert [body for _, _, body in got] == [b"1", b"2", b"3"]
    assert all(method.redelivered for method, _, _ in got)
    channel.queue_delete(name)


def test_another_consumer_gets_what_one_gave_back(connection, channel, three):
    first = Consumer(connection.channel(), three)
    first.wait_for(3)
    second = Consumer(channel, three)
    first.channel.close()
    deliveries = second.wait_for(3)
    assert second.bodies == [b"1", b"2", b"3"]
    assert all(method.redelivered for method, _, _ in deliveries)


def test_a_message_bounces_as_often_as_it_is_requeued(channel, three):
    for _ in range(100):
        method, _, body = channel.basic_get(three)
        assert body == b"1"
        channel.basic_nack(method.delivery_tag, requeue=True)
        eventually(lambda: message_count(channel, three) == 3)
