"""A small AMQP 0-9-1 client over a plain socket, for what a real client would never send.

It checks nothing that it sends, and reads frame by frame, so a test decides what goes on the wire.
"""

import os
import socket
import struct
from typing import NamedTuple

# How long to wait for what must come.
PATIENCE_S = float(os.environ.get("ISTHMUS_TEST_PATIENCE_S", 5))

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
FRAME_MIN_SIZE = 4096
FRAME_OVERHEAD = 8

START, START_OK = (10, 10), (10, 11)
TUNE, TUNE_OK = (10, 30), (10, 31)
OPEN, OPEN_OK = (10, 40), (10, 41)
CLOSE, CLOSE_OK = (10, 50), (10, 51)
CHANNEL_OPEN, CHANNEL_OPEN_OK = (20, 10), (20, 11)
CHANNEL_FLOW, CHANNEL_FLOW_OK = (20, 20), (20, 21)
CHANNEL_CLOSE, CHANNEL_CLOSE_OK = (20, 40), (20, 41)
QUEUE_DECLARE, QUEUE_DECLARE_OK = (50, 10), (50, 11)
BASIC_QOS, BASIC_QOS_OK = (60, 10), (60, 11)
BASIC_CONSUME, BASIC_CONSUME_OK = (60, 20), (60, 21)
BASIC_PUBLISH, BASIC_RETURN, BASIC_DELIVER = (60, 40), (60, 50), (60, 60)
BASIC_GET, BASIC_GET_OK, BASIC_GET_EMPTY = (60, 70), (60, 71), (60, 72)
BASIC_ACK, BASIC_REJECT, BASIC_NACK = (60, 80), (60, 90), (60, 120)
CONFIRM_SELECT, CONFIRM_SELECT_OK = (85, 10), (85, 11)
TX_SELECT, TX_SELECT_OK = (90, 10), (90, 11)
TX_COMMIT, TX_COMMIT_OK = (90, 20), (90, 21)

PERSISTENT = struct.pack(">HB", 0x1000, 2)
NO_PROPERTIES = struct.pack(">H", 0)


def frame(kind, channel, payload):
    """One frame, complete with its end."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([FRAME_END])


def method(channel, class_and_method, arguments=b""):
    """A method frame."""
    return frame(METHOD, channel, struct.pack(">HH", *class_and_method) + arguments)


def content_header(channel, body_size, properties=NO_PROPERTIES, class_id=60):
    """A content header frame; `properties` are the flags and the values."""
    return frame(HEADER, channel, struct.pack(">HHQ", class_id, 0, body_size) + properties)


def short_string(text):
    """A string of up to 255 bytes."""
    data = text if isinstance(text, bytes) else text.encode()
    return bytes([len(data)]) + data


def long_string(text):
    """A string with four bytes of length."""
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack(">I", len(data)) + data


def field(value):
    """A field of a table with its type; bools, ints, strings and tables only."""
    if isinstance(value, bool):
        return b"t" + bytes([value])
    if isinstance(value, int):
        return b"l" + struct.pack(">q", value)
    if isinstance(value, dict):
        return b"F" + table(value)
    return b"S" + long_string(value)


def table(entries):
    """A field table."""
    return long_string(b"".join(short_string(key) + field(value) for key, value in entries.items()))


def publish_method(channel, exchange, routing_key, mandatory=False):
    """basic.publish, without the content that must follow."""
    arguments = b"\0\0" + short_string(exchange) + short_string(routing_key) + bytes([mandatory])
    return method(channel, BASIC_PUBLISH, arguments)


def publish(channel, exchange, routing_key, body, properties=NO_PROPERTIES):
    """basic.publish with a body of one frame."""
    return (publish_method(channel, exchange, routing_key)
            + content_header(channel, len(body), properties)
            + (frame(BODY, channel, body) if body else b""))


def queue_declare(channel, queue, durable=False, exclusive=False, arguments=b"\0\0\0\0"):
    """queue.declare; `arguments` are the bytes of a table."""
    bits = durable << 1 | exclusive << 2
    return method(channel, QUEUE_DECLARE, b"\0\0" + short_string(queue) + bytes([bits]) + arguments)


def consume(channel, queue, consumer_tag="", no_ack=False):
    """basic.consume, without arguments."""
    return method(channel, BASIC_CONSUME, b"\0\0" + short_string(queue)
                  + short_string(consumer_tag) + bytes([no_ack << 1]) + b"\0\0\0\0")


def settle(channel, class_and_method, delivery_tag, bits=0):
    """basic.ack, basic.nack or basic.reject; `bits` are multiple and requeue in their order."""
    return method(channel, class_and_method, struct.pack(">QB", delivery_tag, bits))


class Frame(NamedTuple):
    """A frame as it came."""

    kind: int
    channel: int
    payload: bytes

    @property
    def method(self):
        """Class and method ids."""
        assert self.kind == METHOD, f"a method frame was due, not {self}"
        return struct.unpack_from(">HH", self.payload)


class CloseReason(NamedTuple):
    """What connection.close or channel.close says."""

    code: int
    text: str
    method: tuple

    @classmethod
    def parse(cls, payload):
        code, length = struct.unpack_from(">HB", payload, 4)
        text = payload[7:7 + length].decode()
        return cls(code, text, struct.unpack_from(">HH", payload, 7 + length))


class Connection:
    """A socket to the broker, with or without the handshake."""

    def __init__(self, address, timeout_s=PATIENCE_S):
        self.socket = socket.create_connection(address, timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        """Sends bytes as they are."""
        self.socket.sendall(data)

    def _fill(self, size):
        """True once `size` bytes are there; False if the peer closed before."""
        while len(self.buffer) < size:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return False
            self.buffer += data
        return True

    def receive(self):
        """The next frame, heartbeats included; None when the peer has closed."""
        if not self._fill(7):
            return None
        kind, channel, size = struct.unpack_from(">BHI", self.buffer)
        if not self._fill(size + FRAME_OVERHEAD):
            return None
        assert self.buffer[size + 7] == FRAME_END, "the broker sent a bad frame end"
        payload = bytes(self.buffer[7:size + 7])
        del self.buffer[:size + FRAME_OVERHEAD]
        return Frame(kind, channel, payload)

    def receive_rest(self):
        """Everything up to the peer's close, unparsed."""
        while self._fill(len(self.buffer) + 1):
            pass
        return bytes(self.buffer)

    def expect(self, class_and_method):
        """The next frame that is not a heartbeat, which must be this method."""
        while True:
            received = self.receive()
            assert received is not None, f"closed while {class_and_method} was due"
            if received.kind != HEARTBEAT:
                break
        if received.method in (CLOSE, CHANNEL_CLOSE) and received.method != class_and_method:
            raise AssertionError(f"{CloseReason.parse(received.payload)} instead of {class_and_method}")
        assert received.method == class_and_method, received
        return received

    def call(self, channel, request, reply, arguments=b""):
        """A synchronous method and its answer."""
        self.send(method(channel, request, arguments))
        return self.expect(reply)

    def expect_channel_close(self):
        """channel.close from the broker, answered with close-ok."""
        closed = self.expect(CHANNEL_CLOSE)
        self.send(method(closed.channel, CHANNEL_CLOSE_OK))
        return CloseReason.parse(closed.payload)

    def expect_close(self):
        """connection.close from the broker, which closes the socket after our close-ok."""
        reason = CloseReason.parse(self.expect(CLOSE).payload)
        self.send(method(0, CLOSE_OK))
        assert self.receive() is None, "the socket stayed open after close-ok"
        return reason

    def expect_refusal(self):
        """connection.close, or an end without a word, which a peer may get before login."""
        received = self.receive()
        if received is None:
            return None
        assert received.method == CLOSE, f"{received} instead of a refusal"
        return CloseReason.parse(received.payload)

    def start(self):
        """The protocol header and connection.start."""
        self.send(PROTOCOL_HEADER)
        return self.expect(START)

    def start_ok(self, user="guest", password="guest", properties=b"\0\0\0\0"):
        """Answers connection.start with PLAIN credentials."""
        response = f"\0{user}\0{password}"
        arguments = properties + short_string("PLAIN") + long_string(response) + short_string("en_US")
        self.send(method(0, START_OK, arguments))

    def tune_ok(self, channel_max=2047, frame_max=131072, heartbeat_s=0):
        """Answers connection.tune."""
        self.send(method(0, TUNE_OK, struct.pack(">HIH", channel_max, frame_max, heartbeat_s)))

    def login(self, frame_max=131072, heartbeat_s=0):
        """The whole handshake up to open-ok."""
        self.start()
        self.start_ok()
        self.expect(TUNE)
        self.tune_ok(frame_max=frame_max, heartbeat_s=heartbeat_s)
        self.call(0, OPEN, OPEN_OK, short_string("/") + b"\0\0")
        return self

    def open_channel(self, channel=1):
        """Opens a channel."""
        self.call(channel, CHANNEL_OPEN, CHANNEL_OPEN_OK, b"\0")
        return self
