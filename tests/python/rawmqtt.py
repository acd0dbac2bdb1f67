"""MQTT by hand: packets as they stand, for what no client library sends or shows."""

import socket
import struct
from typing import NamedTuple

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 1, 2, 3, 4, 5, 6, 7
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = 8, 9, 10, 11, 12, 13, 14
# Identifiers of properties of 5.0, and how their values are packed.
SESSION_EXPIRY, RECEIVE_MAXIMUM, MESSAGE_EXPIRY = (0x11, ">I"), (0x21, ">H"), (0x02, ">I")


def text(value):
    """A string, or binary data, behind its length."""
    value = value if isinstance(value, bytes) else value.encode()
    return struct.pack(">H", len(value)) + value


def number(value):
    """A variable byte integer."""
    digits = b""
    while True:
        value, digit = divmod(value, 128)
        digits += bytes([digit | (128 if value else 0)])
        if not value:
            return digits


def packet(kind, flags, body):
    """A packet, complete with its fixed header."""
    return bytes([kind << 4 | flags]) + number(len(body)) + body


def properties(values):
    """Properties of 5.0, a dictionary of those above, behind their length."""
    packed = b"".join(bytes([name]) + struct.pack(form, value)
                      for (name, form), value in values.items())
    return number(len(packed)) + packed


class Packet(NamedTuple):
    """A packet as it came."""

    kind: int
    flags: int
    body: bytes

    @property
    def id(self):
        """The packet identifier of an acknowledgement."""
        return struct.unpack_from(">H", self.body)[0]


class Delivery(NamedTuple):
    """A PUBLISH of the broker."""

    topic: str
    payload: bytes
    qos: int
    dup: bool
    retain: bool
    id: int | None


class Mqtt:
    """A connection that sends what it is told to and reads packet by packet."""

    def __init__(self, port, version=5, client_id="", user="guest", password="guest", lasts_s=0,
                 receive_maximum=None, will=None, connect=True, context=None):
        """`will` is a topic, a payload and whether it is retained. `connect` waits for CONNACK."""
        self.version = version
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.buffer = b""
        self.early = []
        self.last_id = 0
        if connect:
            flags = (user is not None) << 7 | (password is not None) << 6 | (not lasts_s) << 1
            if will:
                flags |= 0b1100 | will[2] << 5
            told = {SESSION_EXPIRY: lasts_s}
            if receive_maximum is not None:
                told[RECEIVE_MAXIMUM] = receive_maximum
            body = text("MQTT") + bytes([version, flags, 0, 60]) + self._properties(told)
            body += text(client_id)
            body += self._properties({}) + text(will[0]) + text(will[1]) if will else b""
            body += b"".join(text(each) for each in (user, password) if each is not None)
            self.write(packet(CONNECT, 0, body))
            self.connack = self.read(CONNACK).body
            self.reason = self.connack[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _properties(self, values):
        return properties(values) if self.version == 5 else b""

    def write(self, data):
        self.socket.sendall(data)

    def read(self, kind=None, timeout=5):
        """The next packet, which must be of `kind`; None where the broker has hung up."""
        found = self.early.pop(0) if self.early else self._read(timeout)
        assert kind is None or found and found.kind == kind, f"{found} in place of a {kind}"
        return found

    def _read(self, timeout):
        self.socket.settimeout(timeout)
        while True:
            length, at = 0, 1
            while at < len(self.buffer):
                length |= (self.buffer[at] & 127) << 7 * (at - 1)
                at += 1
                if self.buffer[at - 1] < 128:
                    if len(self.buffer) >= at + length:
                        head, body = self.buffer[0], self.buffer[at:at + length]
                        self.buffer = self.buffer[at + length:]
                        return Packet(head >> 4, head & 15, body)
                    break
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self.buffer += data

    def answer(self, kind):
        """The next packet that is no delivery; deliveries are read later."""
        early = []
        while (found := self.read()) is not None and found.kind == PUBLISH:
            early.append(found)
        self.early = early + self.early
        assert found is None or found.kind in (kind, DISCONNECT), found
        return found

    def next_id(self):
        self.last_id += 1
        return struct.pack(">H", self.last_id)

    def subscribe(self, filter, qos=1):
        """Subscribes; the reason code."""
        body = self.next_id() + self._properties({}) + text(filter) + bytes([qos])
        self.write(packet(SUBSCRIBE, 2, body))
        answer = self.answer(SUBACK)
        return answer and answer.body[-1]

    def unsubscribe(self, filter):
        """Unsubscribes; the reason code, of which 3.1.1 has none."""
        self.write(packet(UNSUBSCRIBE, 2, self.next_id() + self._properties({}) + text(filter)))
        answer = self.answer(UNSUBACK)
        return answer and (answer.body[-1] if self.version == 5 else 0)

    def publish(self, topic, payload, qos=1, retain=False, **told):
        """Publishes; the reason code of what answers it: None where the broker hangs up, 0 where
        there is none. `told` are properties."""
        body = text(topic) + (self.next_id() if qos else b"")
        body += self._properties(told.get("properties", {})) + payload
        self.write(packet(PUBLISH, qos << 1 | retain, body))
        if not qos:
            return 0
        answer = self.answer(PUBACK if qos == 1 else PUBREC)
        if answer is None or answer.kind == DISCONNECT:
            return None
        reason = answer.body[2] if len(answer.body) > 2 else 0
        if qos == 2 and reason < 128:
            self.write(packet(PUBREL, 2, answer.body[:2]))
            assert self.answer(PUBCOMP).id == answer.id
        return reason

    def receive(self, timeout=5):
        """The next delivery; TimeoutError if there is none."""
        _, flags, body = self.read(PUBLISH, timeout)
        length = struct.unpack_from(">H", body)[0]
        topic, at = body[2:2 + length].decode(), 2 + length
        qos, id = flags >> 1 & 3, None
        if qos:
            id, at = struct.unpack_from(">H", body, at)[0], at + 2
        if self.version == 5:
            assert body[at] < 128, "properties that are too many for a test"
            at += 1 + body[at]
        return Delivery(topic, body[at:], qos, bool(flags & 8), bool(flags & 1), id)

    def receives_nothing(self, within_s=0.3):
        """Whether nothing comes for a while; what does is read next."""
        try:
            self.early.insert(0, self.read(timeout=within_s))
        except TimeoutError:
            return True
        return False

    def settle(self, delivery, reason=0):
        """Acknowledges, with a reason code of 5.0 if it is not 0, as the QoS has it."""
        body = struct.pack(">H", delivery.id) + (bytes([reason]) if reason else b"")
        if delivery.qos == 1:
            self.write(packet(PUBACK, 0, body))
            return
        self.write(packet(PUBREC, 0, body))
        if reason < 128:
            assert self.answer(PUBREL).id == delivery.id
            self.write(packet(PUBCOMP, 0, body))

    def ping(self):
        """Whether the connection lives; what was sent before has been read by the broker."""
        self.write(packet(PINGREQ, 0, b""))
        answer = self.answer(PINGRESP)
        return answer is not None and answer.kind == PINGRESP

    def disconnect(self):
        self.write(packet(DISCONNECT, 0, b""))
        self.socket.close()
