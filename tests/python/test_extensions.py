"""What RabbitMQ adds to AMQP 0-9-1, as its clients use it."""

import struct
from collections import Counter

import pika
import pytest

import rawamqp
from helpers import (
    Consumer, channel_closes, connection_closes, eventually, exchange_exists, get_all,
    message_count, queue_exists, settle,
)

REPLY_TO = "amq.rabbitmq.reply-to"


@pytest.fixture
def declare(channel, name):
    """Declares a durable queue with arguments; it is deleted after the test."""
    declared = []

    def declare_queue(suffix="", **arguments):
        queue = name + suffix
        channel.queue_declare(queue, durable=True, arguments={
            key.replace("_", "-"): value for key, value in arguments.items()})
        declared.append(queue)
        return queue
    yield declare_queue
    if channel.connection.is_open:
        cleaner = channel.connection.channel()
        for queue in declared:
            cleaner.queue_delete(queue)


def publish(channel, queue, *bodies, **properties):
    for body in bodies:
        channel.basic_publish("", queue, body, pika.BasicProperties(**properties))


# Priorities.

def test_all_256_priorities_order_a_queue(channel, declare):
    queue = declare(x_max_priority=255)
    order = [(number * 101) % 256 for number in range(256)]
    for priority in order:
        publish(channel, queue, str(priority).encode(), priority=priority)
    eventually(lambda: message_count(channel, queue) == 256)
    assert [int(body) for body in get_all(channel, queue)] == list(range(255, -1, -1))


def test_equal_priorities_keep_their_order_and_higher_ones_count_as_the_maximum(channel, declare):
    queue = declare(x_max_priority=3)
    for body, priority in ((b"a", 1), (b"b", 200), (b"c", 3), (b"d", None), (b"e", 1), (b"f", 0)):
        publish(channel, queue, body, priority=priority)
    eventually(lambda: message_count(channel, queue) == 6)
    assert get_all(channel, queue) == [b"b", b"c", b"a", b"e", b"d", b"f"]


def test_a_queue_without_priorities_ignores_them(channel, queue):
    for body, priority in ((b"a", 0), (b"b", 9), (b"c", 5)):
        publish(channel, queue, body, priority=priority)
    eventually(lambda: message_count(channel, queue) == 3)
    assert get_all(channel, queue) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("priorities", [256, -1, "10"])
def test_a_maximum_priority_beyond_255_is_406(channel, name, priorities):
    with channel_closes(406):
        channel.queue_declare(name, exclusive=True, arguments={"x-max-priority": priorities})


# Consumers.

def test_a_single_active_consumer_gets_everything_and_the_next_takes_over(
        connection, channel, declare):
    queue = declare(x_single_active_consumer=True)
    first_channel, second_channel = connection.channel(), connection.channel()
    first = Consumer(first_channel, queue)
    second = Consumer(second_channel, queue)
    bodies = [str(number).encode() for number in range(20)]
    publish(channel, queue, *bodies)
    first.wait_for(20)
    settle(connection)
    assert (first.bodies, second.bodies) == (bodies, [])
    first_channel.basic_ack(10, multiple=True)
    first_channel.close()
    second.wait_for(10)
    assert second.bodies == bodies[10:]
    assert all(method.redelivered for method, _, _ in second.deliveries)


def test_the_waiting_consumer_that_came_first_takes_over_first(connection, channel, declare):
    queue = declare(x_single_active_consumer=True)
    consumers = [Consumer(connection.channel(), queue, auto_ack=True) for _ in range(3)]
    # Confirmed one by one, so that consumers who took turns would share them.
    channel.confirm_delivery()
    turns = [[f"{turn}.{number}".encode() for number in range(4)] for turn in range(3)]
    for bodies, consumer in zip(turns, consumers):
        publish(channel, queue, *bodies)
        consumer.wait_for(len(bodies))
        consumer.channel.basic_cancel(consumer.tag)
    assert [consumer.bodies for consumer in consumers] == turns


def test_a_single_active_consumer_may_not_be_exclusive(channel, declare):
    queue = declare(x_single_active_consumer=True)
    with channel_closes(403):
        channel.connection.channel().basic_consume(queue, lambda *_: None, exclusive=True)


def test_lower_priority_consumers_get_what_the_higher_ones_have_no_room_for(
        connection, channel, queue):
    consumers = {}
    for priority in (-5, 10, 0):
        own = connection.channel()
        own.basic_qos(prefetch_count=2)
        consumers[priority] = Consumer(own, queue, arguments={"x-priority": priority})
    publish(channel, queue, *(str(number).encode() for number in range(5)))
    consumers[-5].wait_for(1)
    settle(connection)
    assert {priority: consumer.bodies for priority, consumer in consumers.items()} == {
        10: [b"0", b"1"], 0: [b"2", b"3"], -5: [b"4"]}


def test_a_consumer_priority_must_be_a_number(channel, queue):
    with pytest.raises((pika.exceptions.ChannelClosedByBroker,
                        pika.exceptions.ConnectionClosedByBroker)) as raised:
        channel.basic_consume(queue, lambda *_: None, arguments={"x-priority": "high"})
    assert raised.value.reply_code == 406


@pytest.mark.parametrize("understood", [True, False])
def test_only_clients_that_understand_it_are_told_of_a_cancelled_consumer(
        amqp, channel, name, understood):
    channel.queue_declare(name)
    capabilities = rawamqp.table({"capabilities": {"consumer_cancel_notify": understood}})
    with rawamqp.Connection(amqp.address) as raw:
        raw.start()
        raw.start_ok(properties=capabilities)
        raw.expect(rawamqp.TUNE)
        raw.tune_ok()
        raw.call(0, rawamqp.OPEN, rawamqp.OPEN_OK, rawamqp.short_string("/") + b"\0\0")
        raw.open_channel()
        raw.call(1, rawamqp.BASIC_CONSUME, rawamqp.BASIC_CONSUME_OK,
                 b"\0\0" + rawamqp.short_string(name) + rawamqp.short_string("mine") + b"\x02"
                 + b"\0\0\0\0")
        channel.queue_delete(name)
        if understood:
            cancel = raw.expect((60, 30))
            assert cancel.payload[4:] == rawamqp.short_string("mine") + b"\1"
        # Nothing else comes before the next answer.
        raw.call(1, rawamqp.BASIC_QOS, rawamqp.BASIC_QOS_OK, bytes(7))


# Types of queues, and delivery limits.

def fail_deliveries(connection, queue, at_most):
    """How often a message is delivered if each delivery fails, and the last count it carried."""
    own = connection.channel()
    counts = []
    for _ in range(at_most):
        got = own.basic_get(queue)
        if got[0] is None:
            break
        counts.append((got[1].headers or {}).get("x-delivery-count", 0))
        own.basic_nack(got[0].delivery_tag, requeue=True)
        settle(connection, 0.02)
    own.close()
    return counts


def test_a_message_beyond_its_delivery_limit_is_dead_lettered(connection, channel, declare):
    graveyard = declare(".dead")
    queue = declare(x_queue_type="quorum", x_delivery_limit=3, x_dead_letter_exchange="",
                    x_dead_letter_routing_key=graveyard)
    publish(channel, queue, b"poison", delivery_mode=2)
    eventually(lambda: message_count(channel, queue) == 1)
    assert fail_deliveries(connection, queue, 10) == [0, 1, 2, 3]
    eventually(lambda: message_count(channel, graveyard) == 1)
    _, properties, body = channel.basic_get(graveyard, auto_ack=True)
    assert body == b"poison"
    death = properties.headers["x-death"][0]
    assert (death["reason"], death["queue"]) == ("delivery_limit", queue)


def test_a_quorum_queue_gives_up_after_20_failures_by_itself(amqp, connection, channel, declare):
    if not amqp.is_isthmus:
        pytest.skip("RabbitMQ has this default since 4.0")
    queue = declare(x_queue_type="quorum")
    publish(channel, queue, b"poison", delivery_mode=2)
    eventually(lambda: message_count(channel, queue) == 1)
    assert fail_deliveries(connection, queue, 30) == list(range(21))
    assert message_count(channel, queue) == 0


def test_a_classic_queue_has_no_delivery_limit(connection, channel, declare):
    queue = declare(x_queue_type="classic")
    publish(channel, queue, b"again", delivery_mode=2)
    eventually(lambda: message_count(channel, queue) == 1)
    assert len(fail_deliveries(connection, queue, 30)) == 30


@pytest.mark.parametrize("declaration", [
    {"durable": False}, {"durable": True, "exclusive": True},
    {"durable": True, "auto_delete": True},
], ids=lambda declaration: "-".join(declaration))
def test_a_quorum_queue_is_durable_and_shared(channel, name, declaration):
    with channel_closes(406):
        channel.queue_declare(name, arguments={"x-queue-type": "quorum"}, **declaration)


def test_streams_are_540(amqp, channel, name):
    if not amqp.is_isthmus:
        pytest.skip("RabbitMQ has streams")
    with connection_closes(540):
        channel.queue_declare(name, durable=True, arguments={"x-queue-type": "stream"})


def test_an_unknown_type_of_queue_is_406(channel, name):
    with channel_closes(406):
        channel.queue_declare(name, durable=True, arguments={"x-queue-type": "magic"})


# Routing.

def test_cc_and_bcc_are_further_routing_keys_and_bcc_is_not_shown(connection, channel, queue):
    copies = [channel.queue_declare("", exclusive=True).method.queue for _ in range(3)]
    headers = {"CC": copies[:2], "BCC": [copies[2]], "kept": 1}
    publish(channel, queue, b"x", headers=headers)
    for each in (queue, *copies):
        eventually(lambda each=each: message_count(channel, each) == 1)
        method, properties, _ = channel.basic_get(each, auto_ack=True)
        assert method.routing_key == queue
        assert properties.headers == {"CC": copies[:2], "kept": 1}


def test_a_queue_that_several_keys_name_gets_one_copy(channel, queue):
    publish(channel, queue, b"x", headers={"CC": [queue], "BCC": [queue]})
    publish(channel, queue, b"last")
    eventually(lambda: message_count(channel, queue) >= 2)
    assert get_all(channel, queue) == [b"x", b"last"]


def test_a_cc_header_that_is_no_list_is_406(channel, queue):
    publish(channel, queue, b"x", headers={"CC": "not a list"})
    with channel_closes(406):
        channel.queue_declare(queue, passive=True)


def test_bindings_between_exchanges_are_made_and_taken_back(channel, queue, name):
    channel.exchange_declare(name + ".from", "topic", auto_delete=True)
    channel.exchange_declare(name + ".to", "fanout")
    channel.queue_bind(queue, name + ".to")
    channel.exchange_bind(name + ".to", name + ".from", "a.*")
    channel.exchange_bind(name + ".to", name + ".from", "b.*")
    for key in ("a.1", "b.1", "c.1"):
        channel.basic_publish(name + ".from", key, key.encode())
    eventually(lambda: message_count(channel, queue) == 2)
    assert get_all(channel, queue) == [b"a.1", b"b.1"]
    channel.exchange_unbind(name + ".to", name + ".from", "a.*")
    for key in ("a.2", "b.2"):
        channel.basic_publish(name + ".from", key, key.encode())
    eventually(lambda: message_count(channel, queue) == 1)
    assert get_all(channel, queue) == [b"b.2"]
    channel.exchange_unbind(name + ".to", name + ".from", "b.*")
    # The last binding went from an exchange that deletes itself then.
    eventually(lambda: not exchange_exists(channel.connection, name + ".from"))
    channel.exchange_delete(name + ".to")


def test_a_message_that_its_alternate_exchange_takes_is_not_returned(channel, queue, name):
    channel.exchange_declare(name + ".rest", "fanout", auto_delete=True)
    channel.queue_bind(queue, name + ".rest")
    channel.exchange_declare(
        name, "direct", arguments={"alternate-exchange": name + ".rest"})
    channel.confirm_delivery()
    channel.basic_publish(name, "nobody", b"x", mandatory=True)
    assert get_all(channel, queue) == [b"x"]
    channel.queue_unbind(queue, name + ".rest")
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish(name, "nobody", b"x", mandatory=True)
    channel.exchange_delete(name)


def test_consistent_hashing_spreads_by_weight_and_keeps_keys_together(channel, name):
    exchange = name + ".hash"
    channel.exchange_declare(exchange, "x-consistent-hash")
    weights = {name + ".a": "1", name + ".b": "1", name + ".c": "4"}
    for queue, weight in weights.items():
        channel.queue_declare(queue, exclusive=True)
        channel.queue_bind(queue, exchange, weight)
    keys = [f"key-{number}" for number in range(1200)]
    for key in keys * 2:
        channel.basic_publish(exchange, key, key.encode())
    eventually(lambda: sum(message_count(channel, queue) for queue in weights) == 2400)
    got = {queue: Counter(get_all(channel, queue)) for queue in weights}
    # Each key is in one queue, with both its messages.
    assert all(count == 2 for counts in got.values() for count in counts.values())
    shares = [len(got[queue]) / len(keys) for queue in weights]
    assert sum(len(counts) for counts in got.values()) == len(keys)
    assert all(share > 0.03 for share in shares) and shares[2] > 0.4, shares
    channel.exchange_delete(exchange)


@pytest.mark.parametrize("by, publish_properties", [
    ({"hash-header": "hash-on"}, lambda key: {"headers": {"hash-on": key}}),
    ({"hash-property": "message_id"}, lambda key: {"message_id": key}),
    ({"hash-property": "correlation_id"}, lambda key: {"correlation_id": key}),
], ids=["header", "message_id", "correlation_id"])
def test_consistent_hashing_by_header_or_property(channel, name, by, publish_properties):
    exchange = name + ".hash"
    channel.exchange_declare(exchange, "x-consistent-hash", arguments=by)
    queues = [f"{name}.{number}" for number in range(2)]
    for queue in queues:
        channel.queue_declare(queue, exclusive=True)
        channel.queue_bind(queue, exchange, "10")
    for number in range(200):
        key = f"key-{number % 50}"
        channel.basic_publish(exchange, f"varies-{number}", key.encode(),
                              pika.BasicProperties(**publish_properties(key)))
    eventually(lambda: sum(message_count(channel, queue) for queue in queues) == 200)
    got = [Counter(get_all(channel, queue)) for queue in queues]
    assert all(count == 4 for counts in got for count in counts.values())
    assert all(got), "both queues get some of 50 keys"
    channel.exchange_delete(exchange)


def test_a_consistent_hash_binding_needs_a_weight(channel, queue, name):
    channel.exchange_declare(name + ".hash", "x-consistent-hash", auto_delete=True)
    with channel_closes(406):
        channel.queue_bind(queue, name + ".hash", "heavy")


# Direct reply-to.

def test_replies_come_back_to_the_channel_that_asked(connection, other_connection):
    server = other_connection.channel()
    requests = server.queue_declare("", auto_delete=True).method.queue

    def answer(_channel, _method, properties, body):
        server.basic_publish("", properties.reply_to, b"re: " + body, pika.BasicProperties(
            correlation_id=properties.correlation_id))
    server.basic_consume(requests, answer, auto_ack=True)
    clients = [connection.channel() for _ in range(2)]
    replies = [Consumer(client, REPLY_TO, auto_ack=True) for client in clients]
    for number, client in enumerate(clients):
        publish(client, requests, f"from {number}".encode(), reply_to=REPLY_TO,
                correlation_id=str(number))
    eventually(lambda: settle(other_connection, 0.05) or settle(connection, 0.05)
               or all(consumer.deliveries for consumer in replies))
    for number, consumer in enumerate(replies):
        [(method, properties, body)] = consumer.deliveries
        assert (body, properties.correlation_id) == (f"re: from {number}".encode(), str(number))
        assert method.exchange == ""


def test_a_reply_address_is_gone_with_its_channel(connection, channel, queue):
    client = connection.channel()
    Consumer(client, REPLY_TO, auto_ack=True)
    publish(client, queue, b"ask", reply_to=REPLY_TO)
    eventually(lambda: message_count(channel, queue) == 1)
    address = channel.basic_get(queue, auto_ack=True)[1].reply_to
    assert address.startswith(REPLY_TO + ".")
    assert queue_exists(connection, address)
    client.close()
    assert not queue_exists(connection, address)


def test_asking_without_consuming_replies_is_406(channel, queue):
    publish(channel, queue, b"ask", reply_to=REPLY_TO)
    with channel_closes(406, "fast reply consumer does not exist"):
        channel.queue_declare(queue, passive=True)


def test_a_reply_consumer_may_not_acknowledge(channel):
    with channel_closes(406, "reply consumer cannot acknowledge"):
        channel.basic_consume(REPLY_TO, lambda *_: None, auto_ack=False)


# The connection.

CAPABILITIES = {
    "publisher_confirms", "exchange_exchange_bindings", "basic.nack", "consumer_cancel_notify",
    "connection.blocked", "consumer_priorities", "authentication_failure_close",
    "per_consumer_qos", "direct_reply_to",
}


def test_the_capabilities_are_those_of_rabbitmq(connection):
    assert connection._impl.server_capabilities == dict.fromkeys(CAPABILITIES, True)


def amqplain(**fields):
    """The response of AMQPLAIN: a table without its length."""
    return rawamqp.table(fields)[4:]


@pytest.mark.parametrize("password, admitted", [("guest", True), ("wrong", False)])
def test_amqplain_logs_in(amqp, password, admitted):
    with rawamqp.Connection(amqp.address) as raw:
        start = raw.start()
        assert b"AMQPLAIN" in start.payload
        raw.send(rawamqp.method(0, rawamqp.START_OK, (
            b"\0\0\0\0" + rawamqp.short_string("AMQPLAIN")
            + rawamqp.long_string(amqplain(LOGIN="guest", PASSWORD=password))
            + rawamqp.short_string("en_US"))))
        answer = raw.receive()
        assert (answer is not None) == admitted
        if admitted:
            assert answer.method == rawamqp.TUNE


def tuned(raw):
    """What the broker proposes: channel-max, frame-max and heartbeat."""
    raw.start()
    raw.start_ok()
    return struct.unpack_from(">HIH", raw.expect(rawamqp.TUNE).payload, 4)


def test_the_broker_proposes_rabbitmqs_limits(amqp):
    with rawamqp.Connection(amqp.address) as raw:
        assert tuned(raw) == (2047, 131072, 60)


@pytest.mark.parametrize("channel_max, frame_max, refused_with", [
    (1, 4096, None), (2047, 131072, None),
    (2048, 131072, 530), (2047, 131073, 530), (2047, 4095, 530),
])
def test_the_client_may_lower_limits_and_not_raise_them(
        amqp, channel_max, frame_max, refused_with):
    with rawamqp.Connection(amqp.address) as raw:
        tuned(raw)
        raw.tune_ok(channel_max, frame_max)
        raw.send(rawamqp.method(0, rawamqp.OPEN, rawamqp.short_string("/") + b"\0\0"))
        if refused_with:
            # RabbitMQ closes the socket without a word.
            refusal = raw.expect_refusal()
            assert refusal is None or refusal.code == refused_with
        else:
            raw.expect(rawamqp.OPEN_OK)
            raw.open_channel()


def test_no_limit_means_that_of_the_broker(amqp):
    if not amqp.is_isthmus:
        pytest.skip("RabbitMQ refuses 0 where it has a limit itself")
    with rawamqp.Connection(amqp.address) as raw:
        tuned(raw)
        raw.tune_ok(channel_max=0, frame_max=0)
        raw.call(0, rawamqp.OPEN, rawamqp.OPEN_OK, rawamqp.short_string("/") + b"\0\0")
        raw.open_channel(2047)


def test_channels_go_up_to_the_negotiated_number(amqp):
    with rawamqp.Connection(amqp.address) as raw:
        tuned(raw)
        raw.tune_ok(channel_max=2)
        raw.call(0, rawamqp.OPEN, rawamqp.OPEN_OK, rawamqp.short_string("/") + b"\0\0")
        raw.open_channel(1).open_channel(2)
        raw.send(rawamqp.method(3, rawamqp.CHANNEL_OPEN, b"\0"))
        # RabbitMQ 3.10 says 530, later ones 504.
        assert raw.expect_close().code in (504, 530)


def test_deliveries_come_in_frames_of_the_negotiated_size(amqp, channel, name):
    channel.queue_declare(name)
    channel.basic_publish("", name, bytes(20_000))
    eventually(lambda: message_count(channel, name) == 1)
    with rawamqp.Connection(amqp.address) as raw:
        raw.login(frame_max=4096).open_channel()
        raw.call(1, rawamqp.BASIC_GET, rawamqp.BASIC_GET_OK,
                 b"\0\0" + rawamqp.short_string(name) + b"\1")
        raw.receive()
        sizes = []
        while sum(sizes) < 20_000:
            sizes.append(len(raw.receive().payload))
        assert sizes == [4088] * 4 + [20_000 - 4 * 4088]
    channel.queue_delete(name)


def test_a_new_secret_is_accepted(amqp):
    with rawamqp.Connection(amqp.address) as raw:
        raw.login()
        raw.call(0, (10, 70), (10, 71), rawamqp.long_string("guest")
                 + rawamqp.short_string("renewed"))
        raw.open_channel()


def test_a_blocked_notice_is_for_the_server_to_send(amqp):
    with rawamqp.Connection(amqp.address) as raw:
        raw.login()
        raw.send(rawamqp.method(0, (10, 60), rawamqp.short_string("full")))
        assert raw.expect_close().code in (503, 504, 540)


# What is in the specification and of little use.

def test_no_local_is_ignored(amqp, name):
    with rawamqp.Connection(amqp.address) as raw:
        raw.login().open_channel()
        raw.send(rawamqp.queue_declare(1, name, exclusive=True))
        raw.expect(rawamqp.QUEUE_DECLARE_OK)
        raw.call(1, rawamqp.BASIC_CONSUME, rawamqp.BASIC_CONSUME_OK,
                 b"\0\0" + rawamqp.short_string("") + rawamqp.short_string("") + b"\x03"
                 + b"\0\0\0\0")
        raw.send(rawamqp.publish(1, "", name, b"to myself"))
        raw.expect(rawamqp.BASIC_DELIVER)


def test_nack_multiple_with_requeue_gives_everything_before_it_back(connection, channel, queue):
    publish(channel, queue, b"a", b"b", b"c")
    eventually(lambda: message_count(channel, queue) == 3)
    own = connection.channel()
    tags = [own.basic_get(queue)[0].delivery_tag for _ in range(3)]
    own.basic_nack(tags[1], multiple=True, requeue=True)
    eventually(lambda: message_count(channel, queue) == 2)
    again = [own.basic_get(queue) for _ in range(2)]
    assert [(got[0].redelivered, got[2]) for got in again] == [(True, b"a"), (True, b"b")]


def test_access_request_is_answered_or_refused_as_an_unknown_method(amqp):
    """Class access is of AMQP 0-8; RabbitMQ answers it for clients that old."""
    with rawamqp.Connection(amqp.address) as raw:
        raw.login().open_channel()
        raw.send(rawamqp.method(1, (30, 10), rawamqp.short_string("/data") + b"\x1f"))
        answer = raw.receive()
        if answer.method == rawamqp.CLOSE:
            assert rawamqp.CloseReason.parse(answer.payload).code in (503, 540)
        else:
            assert answer.method == (30, 11)
