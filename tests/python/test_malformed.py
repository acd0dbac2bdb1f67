"""What no client should send: it is refused with the right code, and the broker lives on.

Before login a connection may also end without a word, since nobody has been introduced yet.
"""

import socket
import struct
import time

import pytest

import rawamqp
from rawamqp import Connection, frame, method

FRAME_ERROR, COMMAND_INVALID, CHANNEL_ERROR, UNEXPECTED_FRAME = 501, 503, 504, 505
SYNTAX_ERROR, NOT_IMPLEMENTED = 502, 540
NESTING = 10_000


@pytest.fixture(autouse=True)
def the_broker_lives(amqp):
    """After each test a well-behaved client is served as ever."""
    yield
    with Connection(amqp.address) as raw:
        raw.login().open_channel()
        raw.send(rawamqp.queue_declare(1, "", exclusive=True))
        raw.expect(rawamqp.QUEUE_DECLARE_OK)


@pytest.fixture
def raw(amqp):
    """A connection without a handshake."""
    with Connection(amqp.address) as connection:
        yield connection


@pytest.fixture
def session(raw):
    """A connection after login with channel 1 open."""
    return raw.login().open_channel()


@pytest.fixture
def closes_with(amqp, session):
    """Shows that the session is closed with one of these codes.

    On some malformed input RabbitMQ 3.10 lets the connection's process crash: it ends without a
    word or with another code. Isthmus must name the error.
    """
    def check(*codes):
        if amqp.is_isthmus:
            assert session.expect_close().code in codes
        else:
            refusal = session.receive()
            assert refusal is None or refusal.method == rawamqp.CLOSE, refusal
    return check


def nested_table(depth, inner=b"", opening=rawamqp.short_string("k") + b"F"):
    """The content of a table in a table in a table …, without the outermost length."""
    step = len(opening) + 4
    lengths = (len(inner) + step * level for level in reversed(range(depth)))
    return b"".join(opening + struct.pack(">I", length) for length in lengths) + inner


@pytest.mark.parametrize("header", [
    b"AMQP\x00\x00\x09\x00", b"AMQP\x00\x00\x08\x00", b"HTTP/1.1", b"\x00" * 8, b"\xff" * 8, b"GET / HT",
], ids=repr)
def test_another_protocol_is_answered_with_ours(raw, header):
    raw.send(header)
    assert raw.receive_rest() == rawamqp.PROTOCOL_HEADER


@pytest.mark.parametrize("header", [b"AMQP\x01\x01\x00\x09", b"AMQP\x01\x01\x08\x00"], ids=repr)
def test_versions_before_0_9_1_are_answered_with_ours(isthmus, raw, header):
    """RabbitMQ still speaks 0-8 and 0-9."""
    raw.send(header)
    assert raw.receive_rest() == rawamqp.PROTOCOL_HEADER


@pytest.mark.parametrize("early", [
    method(1, rawamqp.CHANNEL_OPEN, b"\0"),
    method(0, rawamqp.OPEN, rawamqp.short_string("/") + b"\0\0"),
    method(0, rawamqp.TUNE_OK, struct.pack(">HIH", 0, 0, 0)),
    rawamqp.queue_declare(1, "test.early"),
    rawamqp.publish(1, "", "test.early", b"x"),
], ids=["channel.open", "connection.open", "tune-ok", "declare", "publish"])
def test_commands_before_login_are_refused(raw, early):
    raw.start()
    raw.send(early)
    refusal = raw.expect_refusal()
    assert refusal is None or refusal.code in (COMMAND_INVALID, CHANNEL_ERROR, UNEXPECTED_FRAME)


def test_a_queue_is_not_declared_between_tune_and_open(raw):
    raw.start()
    raw.start_ok()
    raw.expect(rawamqp.TUNE)
    raw.tune_ok()
    raw.send(rawamqp.queue_declare(1, "test.early"))
    refusal = raw.expect_refusal()
    assert refusal is None or refusal.code in (COMMAND_INVALID, CHANNEL_ERROR, UNEXPECTED_FRAME)


def test_a_frame_above_4096_bytes_before_tuning_is_refused(raw):
    """Its declared size is enough: the rest need not arrive."""
    raw.start()
    raw.send(struct.pack(">BHI", rawamqp.METHOD, 0, rawamqp.FRAME_MIN_SIZE + 1))
    refusal = raw.expect_refusal()
    assert refusal is None or refusal.code == FRAME_ERROR


@pytest.mark.parametrize("size", [131073, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_frame_above_frame_max_is_501(session, size):
    """A payload of frame_max is forgiven by RabbitMQ: some clients forget the eight bytes around it."""
    session.send(struct.pack(">BHI", rawamqp.METHOD, 1, size) + b"x" * 64)
    assert session.expect_close().code == FRAME_ERROR


def test_a_negotiated_smaller_frame_max_binds_the_client(raw):
    raw.login(frame_max=4096).open_channel()
    raw.send(struct.pack(">BHI", rawamqp.METHOD, 1, 4097) + bytes(4096))
    assert raw.expect_close().code == FRAME_ERROR


@pytest.mark.parametrize("frame_max", [1, 4095, 0x7FFFFFFF])
def test_a_frame_max_out_of_bounds_is_refused(raw, frame_max):
    raw.start()
    raw.start_ok()
    raw.expect(rawamqp.TUNE)
    raw.tune_ok(frame_max=frame_max)
    refusal = raw.expect_refusal()
    assert refusal is None or refusal.code in (530, FRAME_ERROR, SYNTAX_ERROR)


def test_a_bad_frame_end_is_501(session):
    session.send(method(1, rawamqp.CHANNEL_FLOW, b"\1")[:-1] + b"\xcd")
    assert session.expect_close().code == FRAME_ERROR


def test_an_unknown_frame_type_is_501(session):
    session.send(frame(7, 1, b""))
    # RabbitMQ says UNEXPECTED_FRAME for some types, FRAME_ERROR for others.
    assert session.expect_close().code in (FRAME_ERROR, UNEXPECTED_FRAME)


@pytest.mark.parametrize("class_and_method", [(60, 999), (999, 10), (0, 0), (0xFFFF, 0xFFFF)])
def test_an_unknown_method_is_503_or_540(session, closes_with, class_and_method):
    session.send(method(1, class_and_method))
    closes_with(COMMAND_INVALID, NOT_IMPLEMENTED)


@pytest.mark.parametrize("answer", [
    rawamqp.QUEUE_DECLARE_OK, rawamqp.BASIC_DELIVER, rawamqp.BASIC_CONSUME_OK,
])
def test_what_only_a_server_says_is_refused(session, closes_with, answer):
    session.send(method(1, answer, bytes(64)))
    closes_with(COMMAND_INVALID, SYNTAX_ERROR, NOT_IMPLEMENTED)


@pytest.mark.parametrize("payload", [
    b"", b"\0", b"\0\x32\0", b"\0\x32\0\x0a", b"\0\x32\0\x0a\0\0\xffq",
], ids=repr)
def test_a_method_that_ends_early_is_an_error(session, closes_with, payload):
    session.send(frame(rawamqp.METHOD, 1, payload))
    closes_with(FRAME_ERROR, SYNTAX_ERROR)


@pytest.mark.parametrize("arguments", [
    struct.pack(">I", 0xFFFFFFFF),
    struct.pack(">I", 5),
    rawamqp.long_string(b"\xffkey"),
    rawamqp.long_string(rawamqp.short_string("k") + b"?"),
    rawamqp.long_string(rawamqp.short_string("k") + b"S\xff\xff\xff\xff"),
    rawamqp.long_string(rawamqp.short_string("k") + b"A\x80\0\0\0"),
], ids=["huge", "longer than the frame", "cut key", "unknown type", "huge string", "huge array"])
def test_a_malformed_table_is_an_error(session, closes_with, arguments):
    session.send(rawamqp.queue_declare(1, "", exclusive=True, arguments=arguments))
    closes_with(FRAME_ERROR, SYNTAX_ERROR)


@pytest.mark.parametrize("opening", [
    rawamqp.short_string("k") + b"F",
    rawamqp.short_string("") + b"F",
], ids=["named", "unnamed"])
def test_deeply_nested_tables_are_refused(isthmus, session, opening):
    """RabbitMQ takes them; Isthmus bounds the depth, so that no stack can run out."""
    arguments = rawamqp.long_string(nested_table(NESTING, opening=opening))
    session.send(rawamqp.queue_declare(1, "", exclusive=True, arguments=arguments))
    assert session.expect_close().code in (FRAME_ERROR, SYNTAX_ERROR)


def test_deeply_nested_arrays_are_refused(isthmus, session):
    array = b"A" + rawamqp.long_string(nested_table(NESTING, opening=b"A"))
    arguments = rawamqp.long_string(rawamqp.short_string("k") + array)
    session.send(rawamqp.queue_declare(1, "", exclusive=True, arguments=arguments))
    assert session.expect_close().code in (FRAME_ERROR, SYNTAX_ERROR)


def test_deeply_nested_headers_of_a_message_do_no_harm(session, name):
    """They may be refused, or passed on unread; a queue that routes by headers must look."""
    headers = rawamqp.long_string(nested_table(NESTING))
    session.send(rawamqp.queue_declare(1, "", exclusive=True))
    queue = session.expect(rawamqp.QUEUE_DECLARE_OK).payload[5:]
    queue = queue[:queue.index(bytes(8))]
    session.call(1, (50, 20), (50, 21), b"\0\0" + rawamqp.short_string(queue)
                 + rawamqp.short_string("amq.headers") + rawamqp.short_string("") + b"\0"
                 + rawamqp.table({"x-match": "any", name: 1}))
    session.send(rawamqp.publish(1, "amq.headers", "", b"x", struct.pack(">H", 0x2000) + headers)
                 + method(1, rawamqp.CHANNEL_FLOW, b"\1"))
    answer = session.receive().method
    assert answer in (rawamqp.CHANNEL_FLOW_OK, rawamqp.CLOSE, rawamqp.CHANNEL_CLOSE)


def test_deeply_nested_client_properties_do_no_harm(raw):
    raw.start()
    raw.start_ok(properties=rawamqp.long_string(nested_table(500)))
    answer = raw.receive()
    assert answer is None or answer.method in (rawamqp.TUNE, rawamqp.CLOSE)


def test_a_method_where_content_is_due_is_505(session):
    session.send(rawamqp.publish_method(1, "", "test.nowhere")
                 + rawamqp.publish_method(1, "", "test.nowhere"))
    assert session.expect_close().code == UNEXPECTED_FRAME


@pytest.mark.parametrize("kind", [rawamqp.HEADER, rawamqp.BODY])
def test_content_without_a_method_is_505(session, kind):
    session.send(rawamqp.content_header(1, 1) if kind == rawamqp.HEADER
                 else frame(rawamqp.BODY, 1, b"x"))
    assert session.expect_close().code == UNEXPECTED_FRAME


def test_a_body_without_its_header_is_505(session):
    session.send(rawamqp.publish_method(1, "", "test.nowhere") + frame(rawamqp.BODY, 1, b"x"))
    assert session.expect_close().code == UNEXPECTED_FRAME


def test_a_body_longer_than_its_header_says_is_refused(session):
    """RabbitMQ 3.10 notices only at the next method."""
    session.send(rawamqp.publish_method(1, "", "test.nowhere") + rawamqp.content_header(1, 3)
                 + frame(rawamqp.BODY, 1, b"four") + method(1, rawamqp.CHANNEL_FLOW, b"\1"))
    assert session.expect_close().code in (FRAME_ERROR, UNEXPECTED_FRAME)


def test_a_header_of_another_class_is_refused(session):
    session.send(rawamqp.publish_method(1, "", "test.nowhere")
                 + rawamqp.content_header(1, 1, class_id=50))
    assert session.expect_close().code in (FRAME_ERROR, UNEXPECTED_FRAME)


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 2**40])
def test_a_body_size_beyond_all_bounds_is_refused_without_allocating(isthmus, session, size):
    """RabbitMQ 3.10 accepts up to 128 MiB and closes the channel above that."""
    before_kib = isthmus.rss_kib()
    session.send(rawamqp.publish_method(1, "", "test.nowhere") + rawamqp.content_header(1, size))
    refusal = session.receive()
    assert refusal.method in (rawamqp.CLOSE, rawamqp.CHANNEL_CLOSE)
    assert rawamqp.CloseReason.parse(refusal.payload).code in (311, 406, FRAME_ERROR)
    assert isthmus.rss_kib() - before_kib < 16 * 1024


@pytest.mark.parametrize("data", [
    frame(rawamqp.HEARTBEAT, 1, b""),
    rawamqp.content_header(0, 1),
    frame(rawamqp.BODY, 0, b"x"),
    method(0, rawamqp.CHANNEL_OPEN, b"\0"),
    method(0, rawamqp.BASIC_QOS, bytes(7)),
    method(1, rawamqp.OPEN, rawamqp.short_string("/") + b"\0\0"),
    method(0, rawamqp.OPEN, rawamqp.short_string("/") + b"\0\0"),
], ids=["heartbeat on 1", "header on 0", "body on 0", "channel.open on 0", "qos on 0",
        "connection.open on 1", "a second connection.open"])
def test_the_wrong_channel_or_moment_closes_the_connection(session, data):
    session.send(data)
    assert session.expect_close().code in (FRAME_ERROR, COMMAND_INVALID, CHANNEL_ERROR,
                                           UNEXPECTED_FRAME, NOT_IMPLEMENTED)


def test_a_method_on_an_unopened_channel_is_504(session):
    session.send(rawamqp.queue_declare(2, "", exclusive=True))
    assert session.expect_close().code == CHANNEL_ERROR


def test_opening_a_channel_twice_is_504(session):
    session.send(method(1, rawamqp.CHANNEL_OPEN, b"\0"))
    assert session.expect_close().code == CHANNEL_ERROR


def test_a_channel_above_channel_max_is_refused(isthmus, raw):
    """RabbitMQ 3.10 counts channels and lets their numbers be."""
    raw.start()
    raw.start_ok()
    raw.expect(rawamqp.TUNE)
    raw.tune_ok(channel_max=10)
    raw.call(0, rawamqp.OPEN, rawamqp.OPEN_OK, rawamqp.short_string("/") + b"\0\0")
    raw.open_channel(10)
    raw.send(method(11, rawamqp.CHANNEL_OPEN, b"\0"))
    assert raw.expect_close().code in (530, CHANNEL_ERROR)


@pytest.mark.parametrize("stage", ["before the header", "in start-ok", "in a publish"])
def test_half_sent_frames_before_a_hang_up_leave_nothing(amqp, stage):
    data = {
        "before the header": b"AM",
        "in start-ok": rawamqp.PROTOCOL_HEADER + struct.pack(">BHI", 1, 0, 100) + b"half",
        "in a publish": rawamqp.publish(1, "", "test.nowhere", b"x" * 1000)[:-500],
    }[stage]
    for _ in range(50):
        with Connection(amqp.address) as raw:
            if stage == "in a publish":
                raw.login().open_channel()
            raw.send(data)


def test_a_reset_in_mid_content_leaves_nothing(amqp):
    for _ in range(20):
        with Connection(amqp.address) as raw:
            raw.login().open_channel()
            raw.send(rawamqp.publish_method(1, "", "test.nowhere")
                     + rawamqp.content_header(1, 1_000_000) + frame(rawamqp.BODY, 1, bytes(4096)))
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.timeout(30)
def test_a_slow_handshake_is_ended_within_ten_seconds(amqp):
    """One client says nothing, one a byte a second, one stops after connection.start."""
    silent, dribbling, stalled = (Connection(amqp.address, timeout_s=12) for _ in range(3))
    started = time.monotonic()
    stalled.start()
    dribbled = rawamqp.PROTOCOL_HEADER + struct.pack(">BHI", 1, 0, 2000) + bytes(64)
    open_connections = {silent, dribbling, stalled}
    while open_connections:
        elapsed_s = time.monotonic() - started
        assert elapsed_s < 11, f"{len(open_connections)} still open after {elapsed_s:.1f} s"
        try:
            dribbling.send(dribbled[:1])
            dribbled = dribbled[1:]
        except OSError:
            open_connections.discard(dribbling)
        for each in list(open_connections):
            each.socket.settimeout(0.3)
            try:
                if not each.socket.recv(4096):
                    open_connections.discard(each)
            except TimeoutError:
                pass
            except OSError:
                open_connections.discard(each)
    for each in (silent, dribbling, stalled):
        each.socket.close()
