"""Publishing: confirms, returns and transactions."""

import time

import pika
import pytest

import rawamqp
from helpers import Consumer, channel_closes, eventually, get_all, message_count, settle


@pytest.fixture
def raw(amqp):
    """A raw connection with channel 1 open and in confirm mode."""
    with rawamqp.Connection(amqp.address) as connection:
        connection.login().open_channel()
        connection.call(1, rawamqp.CONFIRM_SELECT, rawamqp.CONFIRM_SELECT_OK, b"\0")
        yield connection


def confirmed(raw, up_to):
    """Reads confirms until all numbers up to `up_to` are acknowledged, each exactly once."""
    open_numbers = set(range(1, up_to + 1))
    while open_numbers:
        payload = raw.expect(rawamqp.BASIC_ACK).payload
        number, multiple = int.from_bytes(payload[4:12]), payload[12] & 1
        covered = {each for each in open_numbers if each <= number} if multiple else {number}
        assert covered and covered <= open_numbers, f"{number} was confirmed twice"
        open_numbers -= covered


def test_confirms_come_once_for_every_message(raw, channel, name):
    channel.queue_declare(name, durable=True)
    for _ in range(1000):
        raw.send(rawamqp.publish(1, "", name, b"x", rawamqp.PERSISTENT))
    confirmed(raw, 1000)
    assert message_count(channel, name) == 1000
    channel.queue_delete(name)


def test_what_reaches_no_queue_is_confirmed_too(raw):
    for _ in range(10):
        raw.send(rawamqp.publish(1, "amq.direct", "test.nobody-is-bound", b"x"))
    confirmed(raw, 10)


def test_transient_and_durable_messages_are_confirmed(raw, queue):
    raw.send(rawamqp.publish(1, "", queue, b"transient")
             + rawamqp.publish(1, "", queue, b"durable", rawamqp.PERSISTENT))
    confirmed(raw, 2)


def test_numbers_count_from_confirm_select(amqp, queue):
    with rawamqp.Connection(amqp.address) as connection:
        connection.login().open_channel()
        connection.send(rawamqp.publish(1, "", queue, b"not counted"))
        connection.call(1, rawamqp.CONFIRM_SELECT, rawamqp.CONFIRM_SELECT_OK, b"\0")
        connection.send(rawamqp.publish(1, "", queue, b"counted"))
        confirmed(connection, 1)


def test_a_mandatory_message_without_a_queue_is_returned_before_its_confirm(raw):
    raw.send(rawamqp.publish_method(1, "amq.direct", "test.nobody-is-bound", mandatory=True)
             + rawamqp.content_header(1, 4, rawamqp.PERSISTENT)
             + rawamqp.frame(rawamqp.BODY, 1, b"back"))
    returned = raw.expect(rawamqp.BASIC_RETURN).payload[4:]
    assert returned == (b"\x01\x38" + rawamqp.short_string("NO_ROUTE")
                        + rawamqp.short_string("amq.direct")
                        + rawamqp.short_string("test.nobody-is-bound"))
    header = raw.receive()
    assert header.payload == b"\0\x3c\0\0" + (4).to_bytes(8) + rawamqp.PERSISTENT
    assert raw.receive().payload == b"back"
    confirmed(raw, 1)


def test_a_mandatory_message_with_a_queue_is_not_returned(channel, queue):
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"x", mandatory=True)
    with pytest.raises(pika.exceptions.UnroutableError) as raised:
        channel.basic_publish("", queue + ".missing", b"y", mandatory=True)
    returned, = raised.value.messages
    assert (returned.method.reply_code, returned.method.reply_text) == (312, "NO_ROUTE")
    assert returned.body == b"y"


def test_immediate_is_not_implemented(amqp, queue):
    with rawamqp.Connection(amqp.address) as connection:
        connection.login().open_channel()
        arguments = b"\0\0" + rawamqp.short_string("") + rawamqp.short_string(queue) + b"\x02"
        connection.send(rawamqp.method(1, rawamqp.BASIC_PUBLISH, arguments)
                        + rawamqp.content_header(1, 0))
        assert connection.expect_close().code == 540


def test_messages_of_one_channel_keep_their_order_whatever_their_durability(channel, name):
    """A transient message must not overtake a durable one that is still being written."""
    channel.queue_declare(name, durable=True)
    for number in range(1000):
        mode = 2 if number % 3 == 0 else 1
        channel.basic_publish("", name, str(number).encode(),
                              pika.BasicProperties(delivery_mode=mode))
    eventually(lambda: message_count(channel, name) == 1000)
    assert get_all(channel, name) == [str(number).encode() for number in range(1000)]
    channel.queue_delete(name)


def test_a_deleted_queue_does_not_stop_confirms(raw, channel, name):
    channel.queue_declare(name, durable=True)
    for number in range(200):
        raw.send(rawamqp.publish(1, "", name, b"x", rawamqp.PERSISTENT))
        if number == 100:
            channel.queue_delete(name)
    confirmed(raw, 200)


def test_a_transaction_shows_nothing_before_its_commit(connection, channel, queue):
    working = connection.channel()
    working.tx_select()
    for body in (b"1", b"2"):
        working.basic_publish("", queue, body)
    settle(connection)
    assert message_count(channel, queue) == 0
    working.tx_commit()
    assert get_all(channel, queue) == [b"1", b"2"]


def test_a_rollback_forgets_what_was_published(connection, channel, queue):
    working = connection.channel()
    working.tx_select()
    working.basic_publish("", queue, b"never")
    working.tx_rollback()
    working.basic_publish("", queue, b"then")
    working.tx_commit()
    assert get_all(channel, queue) == [b"then"]


def test_acknowledgements_wait_for_the_commit(connection, channel, queue):
    for body in (b"1", b"2"):
        channel.basic_publish("", queue, body)
    working = connection.channel()
    working.tx_select()
    eventually(lambda: message_count(channel, queue) == 2)
    tags = [working.basic_get(queue)[0].delivery_tag for _ in range(2)]
    working.basic_ack(tags[0])
    working.tx_commit()
    working.basic_ack(tags[1])
    working.close()
    eventually(lambda: message_count(channel, queue) == 1)
    method, _, body = channel.basic_get(queue)
    assert body == b"2" and method.redelivered


def test_a_rollback_leaves_messages_unacknowledged_not_requeued(connection, channel, queue):
    channel.basic_publish("", queue, b"1")
    working = connection.channel()
    working.tx_select()
    eventually(lambda: message_count(channel, queue) == 1)
    tag = working.basic_get(queue)[0].delivery_tag
    working.basic_ack(tag)
    working.tx_rollback()
    assert message_count(channel, queue) == 0
    working.basic_ack(tag)
    working.tx_commit()
    working.close()
    assert message_count(channel, queue) == 0


def test_a_transaction_rejects_at_its_commit(connection, channel, queue):
    channel.basic_publish("", queue, b"1")
    working = connection.channel()
    working.tx_select()
    eventually(lambda: message_count(channel, queue) == 1)
    tag = working.basic_get(queue)[0].delivery_tag
    working.basic_nack(tag, requeue=True)
    settle(connection)
    assert message_count(channel, queue) == 0
    working.tx_commit()
    eventually(lambda: message_count(channel, queue) == 1)


def test_closing_a_channel_rolls_back(connection, channel, queue):
    working = connection.channel()
    working.tx_select()
    working.basic_publish("", queue, b"never")
    working.close()
    settle(connection)
    assert message_count(channel, queue) == 0


@pytest.mark.parametrize("act", [
    lambda channel: channel.tx_commit(),
    lambda channel: channel.tx_rollback(),
    lambda channel: (channel.tx_select(), channel.confirm_delivery()),
    lambda channel: (channel.confirm_delivery(), channel.tx_select()),
])
def test_transactions_and_confirms_out_of_place_are_406(channel, act):
    with channel_closes(406):
        act(channel)


def test_a_message_is_on_its_way_at_once(channel, queue):
    """Nothing waits for more to come: Nagle's algorithm and batching timers would show here."""
    consumer = Consumer(channel, queue, auto_ack=True)
    took_s = []
    for number in range(50):
        started = time.monotonic()
        channel.basic_publish("", queue, b"x")
        consumer.wait_for(number + 1)
        took_s.append(time.monotonic() - started)
    assert sorted(took_s)[25] < 0.01, took_s
