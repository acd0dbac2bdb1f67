"""What comes out is what went in: bodies, properties and header tables, byte for byte."""

import hashlib
import random
import struct

import pika
import pytest

import rawamqp
from helpers import channel_closes, eventually, message_count


def properties_bytes(**overrides):
    """All fourteen basic properties, encoded by hand."""
    values = {
        "content_type": rawamqp.short_string("application/x-é"),
        "content_encoding": rawamqp.short_string("gzip"),
        "headers": rawamqp.table({}),
        "delivery_mode": b"\x02",
        "priority": b"\x07",
        "correlation_id": rawamqp.short_string("c" * 255),
        "reply_to": rawamqp.short_string("amq.gen-reply"),
        "expiration": rawamqp.short_string("3600000"),
        "message_id": rawamqp.short_string(b"\xff\x00 not UTF-8"),
        "timestamp": struct.pack(">Q", 2**63 + 1),
        "type": rawamqp.short_string("order.placed"),
        "user_id": rawamqp.short_string("guest"),
        "app_id": rawamqp.short_string("tests"),
        "cluster_id": rawamqp.short_string("old"),
    }
    values.update(overrides)
    flags = 0
    for position, name in enumerate(values):
        if values[name] is not None:
            flags |= 1 << (15 - position)
    return struct.pack(">H", flags) + b"".join(value for value in values.values() if value)


EVERY_FIELD_TYPE = {
    "boolean": b"t\x01",
    "int8": b"b\x80",
    "uint8": b"B\xff",
    "int16": b"s\x80\x00",
    "uint16": b"u\xff\xff",
    "int32": b"I\x80\x00\x00\x00",
    "uint32": b"i\xff\xff\xff\xff",
    "int64": b"l\x80" + bytes(7),
    "float": b"f" + struct.pack(">f", 0.1),
    "double": b"d" + struct.pack(">d", -0.0),
    "not a number": b"d" + struct.pack(">Q", 0x7FF8_0000_0000_0001),
    "decimal": b"D\x02" + struct.pack(">I", 12345),
    "long string": b"S" + rawamqp.long_string(b"\x00\xfe\xff not text"),
    "empty string": b"S" + bytes(4),
    "byte array": b"x" + rawamqp.long_string(bytes(range(256))),
    "array": b"A" + rawamqp.long_string(b"t\x00" + b"A\0\0\0\0" + b"V"),
    "timestamp": b"T" + struct.pack(">Q", 1700000000),
    "table": b"F" + rawamqp.table({"inner": {"innermost": {}}}),
    "void": b"V",
}
# What RabbitMQ 3.10 does not know: it reads B, u and i, and writes them back as signed types.
UNSIGNED = ("uint8", "uint16", "uint32")
# A NaN ends RabbitMQ's connection; Isthmus never looks inside.
RABBITMQ_REWRITES = (*UNSIGNED, "not a number")


def round_trip(amqp, queue, properties, body=b"body"):
    """The content header and body that basic.get answers for what was published."""
    with rawamqp.Connection(amqp.address) as raw:
        raw.login().open_channel()
        raw.call(1, rawamqp.CONFIRM_SELECT, rawamqp.CONFIRM_SELECT_OK, b"\0")
        raw.send(rawamqp.publish(1, "", queue, body, properties))
        raw.expect(rawamqp.BASIC_ACK)
        raw.call(1, rawamqp.BASIC_GET, rawamqp.BASIC_GET_OK,
                 b"\0\0" + rawamqp.short_string(queue) + b"\x01")
        header = raw.receive()
        assert header.kind == rawamqp.HEADER
        size = int.from_bytes(header.payload[4:12])
        received = b""
        while len(received) < size:
            received += raw.receive().payload
        return header.payload[12:], received


@pytest.fixture
def shared_queue(connection, channel, name):
    """A queue that any connection may read."""
    channel.queue_declare(name)
    yield name
    channel.queue_delete(name)


def test_all_properties_return_unchanged(amqp, shared_queue):
    properties = properties_bytes()
    assert round_trip(amqp, shared_queue, properties) == (properties, b"body")


def test_no_properties_stay_none(amqp, shared_queue):
    assert round_trip(amqp, shared_queue, rawamqp.NO_PROPERTIES)[0] == rawamqp.NO_PROPERTIES


def test_an_empty_header_table_is_not_the_same_as_none(amqp, shared_queue):
    properties = struct.pack(">H", 0x2000) + rawamqp.table({})
    assert round_trip(amqp, shared_queue, properties)[0] == properties


@pytest.mark.parametrize("kind", EVERY_FIELD_TYPE)
def test_every_type_of_header_returns_byte_for_byte(amqp, shared_queue, kind):
    if not amqp.is_isthmus and kind in RABBITMQ_REWRITES:
        pytest.skip("RabbitMQ 3.10 decodes and rewrites this type")
    headers = rawamqp.long_string(rawamqp.short_string("k") + EVERY_FIELD_TYPE[kind])
    properties = properties_bytes(headers=headers)
    assert round_trip(amqp, shared_queue, properties)[0] == properties


def test_headers_keep_their_order_and_their_duplicates(amqp, shared_queue):
    entries = b"".join(rawamqp.short_string(key) + b"V" for key in ("z", "a", "m", "a"))
    properties = struct.pack(">H", 0x2000) + rawamqp.long_string(entries)
    assert round_trip(amqp, shared_queue, properties)[0] == properties


@pytest.mark.parametrize("properties", [
    dict(headers={"text": "é", "number": 2**40, "list": [1, "two", {"three": 3}], "none": None}),
    dict(content_type="text/plain", timestamp=1700000000, correlation_id="id", priority=9),
])
def test_pika_reads_the_properties_that_it_wrote(channel, queue, properties):
    written = pika.BasicProperties(**properties)
    channel.basic_publish("", queue, b"x", written)
    eventually(lambda: message_count(channel, queue) == 1)
    assert channel.basic_get(queue, auto_ack=True)[1] == written


def test_another_users_name_in_user_id_is_406(channel, queue):
    channel.basic_publish("", queue, b"x", pika.BasicProperties(user_id="somebody"))
    with channel_closes(406):
        channel.queue_declare(queue, passive=True)


MIB = 1 << 20


@pytest.mark.parametrize("size", [0, 1, 4095, 131072 - 8, 131072 - 7, 131072, MIB, 10 * MIB])
@pytest.mark.parametrize("frame_max", [4096, 131072])
def test_bodies_of_any_size_return_unchanged(amqp, name, size, frame_max):
    body = random.Random(size).randbytes(size)
    connection = amqp.connect(frame_max=frame_max)
    channel = connection.channel()
    channel.queue_declare(name, exclusive=True)
    channel.confirm_delivery()
    channel.basic_publish("", name, body, pika.BasicProperties(delivery_mode=2))
    _, _, received = channel.basic_get(name, auto_ack=True)
    assert hashlib.sha256(received).digest() == hashlib.sha256(body).digest()
    connection.close()


def test_a_large_body_reaches_a_consumer_with_smaller_frames(amqp, channel, shared_queue):
    body = random.Random(7).randbytes(MIB)
    channel.basic_publish("", shared_queue, body)
    narrow = amqp.connect(frame_max=4096)
    eventually(lambda: message_count(channel, shared_queue) == 1)
    assert narrow.channel().basic_get(shared_queue, auto_ack=True)[2] == body
    narrow.close()


def test_large_and_small_messages_keep_their_order(channel, queue):
    rng = random.Random(1)
    bodies = [rng.randbytes(rng.choice((0, 10, 5_000, 200_000))) for _ in range(60)]
    for body in bodies:
        channel.basic_publish("", queue, body)
    eventually(lambda: message_count(channel, queue) == len(bodies))
    assert [channel.basic_get(queue, auto_ack=True)[2] for _ in bodies] == bodies


def test_channels_may_interleave_their_frames(amqp, shared_queue):
    """Frames of two contents on two channels of one connection take turns."""
    with rawamqp.Connection(amqp.address) as raw:
        raw.login().open_channel(1).open_channel(2)
        for part in zip(*(
            (rawamqp.publish_method(number, "", shared_queue), rawamqp.content_header(number, 6),
             rawamqp.frame(rawamqp.BODY, number, text[:3]),
             rawamqp.frame(rawamqp.BODY, number, text[3:]))
            for number, text in ((1, b"onebdy"), (2, b"twobdy"))
        )):
            raw.send(b"".join(part))
        bodies = set()
        while len(bodies) < 2:
            raw.send(rawamqp.method(1, rawamqp.BASIC_GET,
                                    b"\0\0" + rawamqp.short_string(shared_queue) + b"\x01"))
            if raw.receive().method == rawamqp.BASIC_GET_OK:
                raw.receive()
                bodies.add(raw.receive().payload)
        assert bodies == {b"onebdy", b"twobdy"}


@pytest.mark.parametrize("step", [1, 3, 7])
def test_input_may_be_split_anywhere(amqp, queue, channel, step):
    """A publish that arrives a few bytes at a time is the same publish."""
    with rawamqp.Connection(amqp.address) as raw:
        raw.login().open_channel()
        data = rawamqp.publish(1, "", queue, b"piecemeal", properties_bytes())
        for start in range(0, len(data), step):
            raw.send(data[start:start + step])
        eventually(lambda: message_count(channel, queue) == 1)
        assert channel.basic_get(queue, auto_ack=True)[2] == b"piecemeal"
