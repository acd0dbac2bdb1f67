"""Consuming and getting: order, prefetch, cancelling and exclusive consumers."""

import rawamqp
from helpers import Consumer, channel_closes, eventually, message_count, settle


def fill(channel, queue, count, size=None):
    """Publishes bodies b"0", b"1", … and waits until they are all in the queue."""
    for number in range(count):
        channel.basic_publish("", queue, str(number).encode().ljust(size or 0))
    eventually(lambda: message_count(channel, queue) == count)


def numbers(*ids):
    """The bodies that `fill` gave these messages."""
    return [str(number).encode() for number in ids]


def test_get_tells_what_is_left(channel, queue):
    fill(channel, queue, 3)
    left = []
    for expected in numbers(0, 1, 2):
        method, _, body = channel.basic_get(queue, auto_ack=True)
        assert (body, method.exchange, method.routing_key) == (expected, "", queue)
        assert not method.redelivered
        left.append(method.message_count)
    assert left == [2, 1, 0]
    assert channel.basic_get(queue) == (None, None, None)


def test_get_without_acknowledgement_keeps_the_message(channel, queue):
    fill(channel, queue, 1)
    getter = channel.connection.channel()
    method, _, body = getter.basic_get(queue)
    assert body == b"0" and message_count(channel, queue) == 0
    getter.close()
    eventually(lambda: message_count(channel, queue) == 1)
    method, _, _ = channel.basic_get(queue)
    assert method.redelivered


def test_consuming_keeps_the_publishing_order(channel, queue):
    fill(channel, queue, 500)
    consumer = Consumer(channel, queue)
    consumer.wait_for(250)
    for number in range(500, 1000):
        channel.basic_publish("", queue, str(number).encode())
    deliveries = consumer.wait_for(1000)
    assert consumer.bodies == numbers(*range(1000))
    assert [method.delivery_tag for method, _, _ in deliveries] == list(range(1, 1001))
    assert {method.consumer_tag for method, _, _ in deliveries} == {consumer.tag}


def test_each_channel_counts_its_own_delivery_tags(connection, queue):
    one, two = connection.channel(), connection.channel()
    fill(one, queue, 2)
    assert one.basic_get(queue)[0].delivery_tag == 1
    assert two.basic_get(queue)[0].delivery_tag == 1


def test_a_consumer_tag_is_made_up_if_none_is_given(amqp):
    with rawamqp.Connection(amqp.address) as raw:
        raw.login().open_channel()
        raw.call(1, rawamqp.QUEUE_DECLARE, rawamqp.QUEUE_DECLARE_OK,
                 b"\0\0" + rawamqp.short_string("") + b"\x04" + b"\0\0\0\0")
        consumed = raw.call(1, rawamqp.BASIC_CONSUME, rawamqp.BASIC_CONSUME_OK,
                            b"\0\0" + rawamqp.short_string("") * 2 + b"\0" + b"\0\0\0\0")
        assert consumed.payload[5:].startswith(b"amq.ctag-")


def test_a_duplicate_consumer_tag_closes_the_connection(amqp):
    consume = rawamqp.method(1, rawamqp.BASIC_CONSUME, b"\0\0" + rawamqp.short_string("")
                             + rawamqp.short_string("twin") + b"\0" + b"\0\0\0\0")
    with rawamqp.Connection(amqp.address) as raw:
        raw.login().open_channel()
        raw.send(rawamqp.queue_declare(1, "", exclusive=True))
        raw.expect(rawamqp.QUEUE_DECLARE_OK)
        raw.send(consume)
        raw.expect(rawamqp.BASIC_CONSUME_OK)
        raw.send(consume)
        closed = raw.expect_close()
        assert (closed.code, closed.method) == (530, rawamqp.BASIC_CONSUME)


def test_a_cancelled_consumer_gets_nothing_more_and_others_do(channel, queue):
    first, second = Consumer(channel, queue), Consumer(channel, queue)
    channel.basic_cancel(first.tag)
    for number in range(10):
        channel.basic_publish("", queue, str(number).encode())
    second.wait_for(10)
    assert second.bodies == numbers(*range(10)) and first.bodies == []


def test_cancelling_leaves_unacknowledged_messages_with_the_channel(connection, channel, queue):
    working = connection.channel()
    fill(channel, queue, 2)
    consumer = Consumer(working, queue)
    deliveries = consumer.wait_for(2)
    # pika's own basic_cancel rejects what it had buffered, and nothing is buffered here.
    working.basic_cancel(consumer.tag)
    assert message_count(channel, queue) == 0
    working.basic_ack(deliveries[0][0].delivery_tag)
    working.close()
    eventually(lambda: message_count(channel, queue) == 1)


def test_cancelling_an_unknown_consumer_is_answered(amqp):
    with rawamqp.Connection(amqp.address) as raw:
        raw.login().open_channel()
        raw.call(1, (60, 30), (60, 31), rawamqp.short_string("nobody") + b"\0")


def test_consumers_share_a_queue_in_turn(channel, queue):
    consumers = [Consumer(channel, queue) for _ in range(2)]
    for number in range(100):
        channel.basic_publish("", queue, str(number).encode())
    eventually(lambda: channel.connection.process_data_events(0.01)
               or sum(len(each.deliveries) for each in consumers) == 100)
    # RabbitMQ takes strict turns; a batch to one and then to the other is as fair.
    assert min(len(each.deliveries) for each in consumers) >= 25


def test_an_exclusive_consumer_keeps_others_out(connection, channel, queue):
    Consumer(channel, queue, exclusive=True)
    with channel_closes(403, "ACCESS_REFUSED"):
        Consumer(connection.channel(), queue)


def test_an_exclusive_consumer_is_refused_beside_others(connection, channel, queue):
    Consumer(channel, queue)
    with channel_closes(403, "ACCESS_REFUSED"):
        Consumer(connection.channel(), queue, exclusive=True)


def test_prefetch_limits_each_consumer_of_a_channel(connection, channel, queue):
    fill(channel, queue, 10)
    working = connection.channel()
    working.basic_qos(prefetch_count=3)
    one, two = Consumer(working, queue), Consumer(working, queue)
    assert len(one.settle()) == 3 and len(two.settle()) == 3
    working.basic_ack(one.deliveries[0][0].delivery_tag)
    assert len(one.settle()) == 4 and len(two.deliveries) == 3


def test_prefetch_counts_from_the_consume_that_follows(connection, channel, queue):
    fill(channel, queue, 10)
    working = connection.channel()
    working.basic_qos(prefetch_count=2)
    narrow = Consumer(working, queue)
    narrow.wait_for(2)
    working.basic_qos(prefetch_count=5)
    wide = Consumer(working, queue)
    assert len(wide.settle()) == 5 and len(narrow.deliveries) == 2


def test_global_prefetch_limits_the_channel_as_a_whole(connection, channel, queue):
    fill(channel, queue, 10)
    working = connection.channel()
    working.basic_qos(prefetch_count=4, global_qos=True)
    consumers = [Consumer(working, queue) for _ in range(3)]
    settle(connection)
    assert sum(len(each.deliveries) for each in consumers) == 4
    for each in consumers:
        for method, _, _ in list(each.deliveries):
            working.basic_ack(method.delivery_tag)
    settle(connection)
    assert sum(len(each.deliveries) for each in consumers) == 8


def test_global_prefetch_and_that_of_the_consumer_both_hold(connection, channel, queue):
    fill(channel, queue, 10)
    working = connection.channel()
    working.basic_qos(prefetch_count=2)
    # In this order: RabbitMQ drops the limit of the channel when one for consumers follows it.
    working.basic_qos(prefetch_count=3, global_qos=True)
    one, two = Consumer(working, queue), Consumer(working, queue)
    settle(connection)
    assert (len(one.deliveries), len(two.deliveries)) == (2, 1)


def test_prefetch_does_not_bind_consumers_without_acknowledgement(connection, channel, queue):
    fill(channel, queue, 10)
    working = connection.channel()
    working.basic_qos(prefetch_count=1)
    Consumer(working, queue, auto_ack=True).wait_for(10)


def test_prefetch_does_not_bind_get(connection, channel, queue):
    fill(channel, queue, 3)
    working = connection.channel()
    working.basic_qos(prefetch_count=1)
    assert [working.basic_get(queue)[2] for _ in range(3)] == numbers(0, 1, 2)


def test_prefetch_in_bytes_is_not_implemented(amqp):
    with rawamqp.Connection(amqp.address) as raw:
        raw.login().open_channel()
        raw.send(rawamqp.method(1, rawamqp.BASIC_QOS, b"\0\0\x10\0" + b"\0\0" + b"\0"))
        assert raw.expect_close().code == 540


def test_a_consumer_is_told_when_its_queue_is_deleted(connection, channel, name):
    """The `consumer_cancel_notify` capability: basic.cancel comes from the broker."""
    channel.queue_declare(name)
    cancelled = []
    watching = connection.channel()
    watching.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    consumer = Consumer(watching, name)
    channel.queue_delete(name)
    eventually(lambda: connection.process_data_events(0.01) or cancelled == [consumer.tag])


def test_recover_delivers_again_and_says_so(connection, channel, queue):
    fill(channel, queue, 3)
    working = connection.channel()
    consumer = Consumer(working, queue)
    deliveries = consumer.wait_for(3)
    working.basic_ack(deliveries[0][0].delivery_tag)
    working.basic_recover(requeue=True)
    again = consumer.wait_for(5)[3:]
    assert [body for _, _, body in again] == numbers(1, 2)
    assert all(method.redelivered for method, _, _ in again)
    assert [method.delivery_tag for method, _, _ in again] == [4, 5]


def test_a_no_ack_consumer_leaves_nothing_behind(connection, channel, queue):
    fill(channel, queue, 3)
    working = connection.channel()
    Consumer(working, queue, auto_ack=True).wait_for(3)
    working.close()
    channel.basic_publish("", queue, b"marker")
    eventually(lambda: message_count(channel, queue) == 1)


def test_higher_priority_consumers_come_first(channel, queue):
    low = Consumer(channel, queue, arguments={"x-priority": -1})
    high = Consumer(channel, queue, arguments={"x-priority": 5})
    for number in range(10):
        channel.basic_publish("", queue, str(number).encode())
    assert len(high.wait_for(10)) == 10 and low.bodies == []


def test_consumers_of_many_channels_all_progress(connection, channel, queue):
    channels = [connection.channel() for _ in range(20)]
    consumers = []
    for each in channels:
        each.basic_qos(prefetch_count=1)
        consumers.append(Consumer(each, queue))
    for number in range(20):
        channel.basic_publish("", queue, str(number).encode())
    eventually(lambda: connection.process_data_events(0.01)
               or all(len(each.deliveries) == 1 for each in consumers))
