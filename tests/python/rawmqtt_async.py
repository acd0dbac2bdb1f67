"""MQTT 5.0 by hand, over asyncio: packets as they stand, for more clients than a library holds."""

import asyncio
import itertools
import struct

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK, PINGREQ, PINGRESP, DISCONNECT = 8, 9, 12, 13, 14
SESSION_TAKEN_OVER = 0x8E


def text(value):
    """A string behind its length."""
    value = value if isinstance(value, bytes) else value.encode()
    return struct.pack(">H", len(value)) + value


def packet(kind, *parts, flags=0):
    """A packet of a kind, behind its length."""
    body = b"".join(parts)
    length, digits = len(body), b""
    while True:
        length, digit = divmod(length, 128)
        digits += bytes([digit | (128 if length else 0)])
        if not length:
            return bytes([kind << 4 | flags]) + digits + body


def connect(client_id, lasts_s=0, clean=False):
    """A CONNECT as guest, of a session that lasts so long beyond its connection."""
    flags = 0b1100_0000 | (0b10 if clean else 0)
    properties = b"\x05\x11" + struct.pack(">I", lasts_s)
    return packet(CONNECT, text("MQTT"), bytes([5, flags, 0, 0]), properties, text(client_id),
                  text("guest"), text("guest"))


def subscribe(packet_id, topic, qos):
    return packet(SUBSCRIBE, struct.pack(">H", packet_id), b"\0", text(topic), bytes([qos]), flags=2)


def publish(topic, payload, qos=0, packet_id=0):
    identifier = struct.pack(">H", packet_id) if qos else b""
    return packet(PUBLISH, text(topic), identifier, b"\0", payload, flags=qos << 1)


def answer(kind, packet_id):
    """A PUBACK, PUBREC, PUBREL or PUBCOMP that says that all is well."""
    return packet(kind, struct.pack(">H", packet_id), flags=2 if kind == PUBREL else 0)


def parse_publish(flags, body):
    """QoS, whether it says DUP, packet identifier, and payload of a PUBLISH without properties."""
    qos = flags >> 1 & 3
    at = 2 + struct.unpack_from(">H", body)[0]
    packet_id = 0
    if qos:
        packet_id, = struct.unpack_from(">H", body, at)
        at += 2
    assert body[at] == 0, "nobody gave it properties"
    return qos, bool(flags & 8), packet_id, body[at + 1:]


class Raw:
    """A connection that sends what it is told to and reads packet by packet."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.packet_ids = itertools.cycle(range(1, 1 << 16))

    @classmethod
    async def open(cls, port):
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, data):
        self.writer.write(data)

    async def read(self):
        """Kind, flags and body of the next packet; None where the connection has ended."""
        try:
            first, = await self.reader.readexactly(1)
            length = shift = 0
            while True:
                digit, = await self.reader.readexactly(1)
                length |= (digit & 127) << shift
                shift += 7
                if digit < 128:
                    return first >> 4, first & 15, await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def expect(self, kind):
        """The body of the next packet, which must be of a kind."""
        came = await self.read()
        assert came and came[0] == kind, f"{came} instead of a packet of kind {kind}"
        return came[2]

    async def log_in(self, client_id, **options):
        """Returns whether there was a session, once the broker has accepted."""
        self.send(connect(client_id, **options))
        body = await self.expect(CONNACK)
        assert body[1] == 0, body
        return bool(body[0])

    async def subscribe(self, topic, qos):
        packet_id = next(self.packet_ids)
        self.send(subscribe(packet_id, topic, qos))
        body = await self.expect(SUBACK)
        assert body[-1] == qos, body

    async def say_goodbye(self):
        """DISCONNECT; returns once the broker has closed."""
        self.send(packet(DISCONNECT))
        await self.writer.drain()
        while await self.read():
            pass
        self.close()

    def close(self):
        self.writer.close()
