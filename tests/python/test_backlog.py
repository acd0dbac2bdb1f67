"""A deep backlog costs disk, not memory, and a restart does not read it."""

import os
import socket
import struct
import threading
import time

import pytest

import rawamqp
from broker import Broker
from rawamqp import Connection
from test_pressure import PeakRss

SOAK = os.environ.get("ISTHMUS_SOAK") == "1"
BACKLOGS = [
    # Name, messages, bytes of each body, resident MiB at most while it is filled or drained, and
    # after a restart. The long form is held to 200 and 150 MB.
    ("large", 10_000_000 if SOAK else 400_000, 1024, 190 if SOAK else 300, 190),
    ("small", 50_000_000 if SOAK else 2_000_000, 16, 143 if SOAK else 300, 143),
]
BATCH = 1000
CONFIRMS = struct.Struct(">QB")
PREFETCH = 2000
READY_WITHIN_S = 2
FIRST_DELIVERY_WITHIN_S = 3
# The load generator may fall behind under a debugger, not for ever.
MESSAGES_PER_S_MIN = 5_000


def batch_of(size):
    """Frames of BATCH persistent publishes, and where each message's number stands in them."""
    one = rawamqp.publish(1, "", "backlog", b"N" * 8 + b"." * (size - 8), rawamqp.PERSISTENT)
    return bytearray(one * BATCH), [i * len(one) + one.index(b"NNNNNNNN") for i in range(BATCH)]


def fill(broker, messages, size):
    """Publishes numbered messages with confirms, at most 20 batches unconfirmed."""
    connection = Connection(broker.amqp).login().open_channel()
    connection.send(rawamqp.queue_declare(1, "backlog", durable=True))
    connection.expect(rawamqp.QUEUE_DECLARE_OK)
    connection.call(1, rawamqp.CONFIRM_SELECT, rawamqp.CONFIRM_SELECT_OK, b"\0")
    frames, places = batch_of(size)
    pack = struct.Struct(">Q").pack_into
    confirmed = Confirmed(connection)
    for first in range(0, messages, BATCH):
        confirmed.wait_for(first - 20 * BATCH)
        for number, place in enumerate(places, first):
            pack(frames, place, number)
        connection.socket.sendall(frames)
    confirmed.wait_for(messages)
    connection.socket.close()


class Confirmed:
    """Reads confirms in a thread of its own; none is negative."""

    def __init__(self, connection):
        self.connection = connection
        self.upto = 0
        self.single = set()
        self.changed = threading.Condition()
        connection.socket.settimeout(60)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            while True:
                payload = self.connection.expect((60, 80)).payload
                tag, multiple = CONFIRMS.unpack_from(payload, 4)
                with self.changed:
                    if multiple:
                        self.upto = max(self.upto, tag)
                    else:
                        self.single.add(tag)
                    while self.upto + 1 in self.single:
                        self.upto += 1
                        self.single.remove(self.upto)
                    self.changed.notify()
        except (AssertionError, OSError):
            pass

    def wait_for(self, messages):
        with self.changed:
            done = self.changed.wait_for(lambda: self.upto >= messages, timeout=120)
        assert done, f"{self.upto} confirmed, {messages} expected"


class Drain:
    """Consumes everything without acknowledgements, and looks at each number."""

    def __init__(self, broker, size):
        self.begun_s = time.monotonic()
        self.connection = Connection(broker.amqp).login().open_channel()
        # Flag 2 is no-ack.
        self.connection.send(rawamqp.frame(rawamqp.METHOD, 1, struct.pack(
            ">HH", *rawamqp.BASIC_CONSUME) + b"\0\0" + rawamqp.short_string("backlog")
            + rawamqp.short_string("c") + b"\2" + b"\0\0\0\0"))
        self.connection.expect(rawamqp.BASIC_CONSUME_OK)
        self.size = size

    def run(self, messages):
        """Returns seconds to the first delivery and to the last."""
        buffer = bytearray(self.connection.buffer)
        first_s = None
        deadline_s = time.monotonic() + 60 + messages / MESSAGES_PER_S_MIN
        expected = 0
        self.connection.socket.settimeout(30)
        # A body frame ends with the frame end; all bodies are of one size.
        head = struct.pack(">BHI", rawamqp.BODY, 1, self.size)
        number = struct.Struct(">Q").unpack_from
        while expected < messages:
            assert time.monotonic() < deadline_s, f"{expected} of {messages} came"
            at = 0
            while (found := buffer.find(head, at)) >= 0 and len(buffer) - found >= 8 + self.size:
                if first_s is None:
                    first_s = time.monotonic() - self.begun_s
                assert number(buffer, found + 7) == (expected,)
                expected += 1
                at = found + 8 + self.size
            del buffer[:at]
            if expected < messages:
                data = self.connection.socket.recv(1 << 20)
                assert data, f"the broker hung up after {expected}"
                buffer += data
        return first_s, time.monotonic() - self.begun_s


@pytest.mark.serial
@pytest.mark.soak
@pytest.mark.timeout(7200 if SOAK else 240)
@pytest.mark.parametrize("name, messages, size, filling_mib, held_mib", BACKLOGS,
                         ids=[each[0] for each in BACKLOGS])
def test_a_deep_backlog_costs_disk_and_not_memory(tmp_path, name, messages, size, filling_mib,
                                                  held_mib):
    broker = Broker(tmp_path / "data").start()
    try:
        begun_s = time.monotonic()
        with PeakRss(broker) as filling:
            fill(broker, messages, size)
        filled_s = time.monotonic() - begun_s
        assert broker.stop() == 0
        broker.start()
        ready_s = broker.ready_after_s
        held_kib = broker.rss_kib()
        drain = Drain(broker, size)
        with PeakRss(broker) as draining:
            first_s, drained_s = drain.run(messages)
        total_mb = messages * size / 1e6
        print(f"{name}: {messages} messages of {size} B filled in {filled_s:.1f} s"
              f" ({messages / filled_s:.0f}/s), at most {filling.peak_kib // 1024} MiB;"
              f" ready after {ready_s:.2f} s with {held_kib // 1024} MiB;"
              f" first delivery after {first_s:.2f} s, all in {drained_s:.1f} s"
              f" ({total_mb / drained_s:.0f} MB/s), at most {draining.peak_kib // 1024} MiB")
        assert ready_s < READY_WITHIN_S
        assert first_s < FIRST_DELIVERY_WITHIN_S
        assert held_kib < held_mib * 1024
        assert filling.peak_kib < filling_mib * 1024
        assert draining.peak_kib < filling_mib * 1024
    finally:
        broker.kill()


@pytest.mark.serial
def test_a_drained_backlog_gives_its_disk_back(tmp_path):
    messages, size = 200_000, 1024
    broker = Broker(tmp_path / "data", {
        "storage.segment_bytes": "4 MiB",
        "storage.checkpoint_after_bytes": "8 MiB",
        "storage.body_cache_bytes": "16 MiB",
    }).start()

    def page_bytes():
        return sum(path.stat().st_size for path in (tmp_path / "data").glob("**/*.pag"))
    try:
        fill(broker, messages, size)
        assert page_bytes() > messages * size // 2
        Drain(broker, size).run(messages)
        # The next round removes the files; what is published makes one due.
        deadline_s = time.monotonic() + 60
        while page_bytes() > 4 << 20:
            assert time.monotonic() < deadline_s, f"{page_bytes()} bytes of pages are left"
            fill(broker, 10 * BATCH, size)
            Drain(broker, size).run(10 * BATCH)
    finally:
        broker.kill()
