"""A disk that is really full, not one that is said to be: publishers wait, nothing is lost."""

import shutil
import struct
import subprocess
import time

import pytest

import rawamqp
from broker import Broker
from rawamqp import Connection

DISK_MIB = 160
FREE_MIB = 48
BODY_SIZE = 64 * 1024
SETTINGS = {
    "alarms.disk_free": f"{FREE_MIB} MiB",
    "alarms.check_interval": "10ms",
    "storage.segment_bytes": "8 MiB",
    "storage.checkpoint_after_bytes": "16 MiB",
    "storage.body_cache_bytes": "8 MiB",
}
BLOCKED, UNBLOCKED, CONFIRM = (10, 60), (10, 61), (60, 80)
GET, GET_OK, GET_EMPTY = (60, 70), (60, 71), (60, 72)
PATIENCE_S = 30


class OnSmallDisk(Broker):
    """A broker whose data directory is a small file system of its own, which ends with it."""

    def command(self):
        mounted = f"mount -t tmpfs -o size={DISK_MIB}m,mode=0700 tmpfs '{self.data_dir}' && exec \"$@\""
        return ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, "-"] + super().command()


def can_mount(folder):
    """Whether this user may have a file system of his own."""
    if not shutil.which("unshare"):
        return False
    probe = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def numbered(number):
    return rawamqp.publish(1, "", "q", struct.pack(">Q", number).ljust(BODY_SIZE, b"."),
                           rawamqp.PERSISTENT)


def capable():
    """Client properties of one that understands connection.blocked."""
    capability = rawamqp.short_string("connection.blocked") + b"t\1"
    capabilities = rawamqp.short_string("capabilities") + b"F" + rawamqp.long_string(capability)
    return rawamqp.long_string(capabilities)


class Publisher:
    """Publishes one message after the other, each once the one before is confirmed."""

    def __init__(self, address):
        self.connection = Connection(address, timeout_s=PATIENCE_S)
        self.connection.start()
        self.connection.start_ok(properties=capable())
        self.connection.expect(rawamqp.TUNE)
        self.connection.tune_ok()
        self.connection.call(0, rawamqp.OPEN, rawamqp.OPEN_OK, rawamqp.short_string("/") + b"\0\0")
        self.connection.open_channel()
        self.connection.call(1, rawamqp.CONFIRM_SELECT, rawamqp.CONFIRM_SELECT_OK, b"\0")
        self.connection.send(rawamqp.queue_declare(1, "q", durable=True))
        self.connection.expect(rawamqp.QUEUE_DECLARE_OK)
        self.confirmed = 0

    def hear(self):
        """The next method that the broker sends."""
        frame = self.connection.receive()
        assert frame is not None, "the broker hung up"
        return frame

    def publish_until_blocked(self):
        """Returns how many are confirmed when the broker says that it is low on disk; the next one
        waits."""
        while True:
            self.connection.send(numbered(self.confirmed))
            heard = self.hear()
            if heard.method == BLOCKED:
                assert heard.payload.endswith(b"low on disk"), heard
                return self.confirmed
            assert heard.method == CONFIRM, heard
            self.confirmed += 1
            assert self.confirmed * BODY_SIZE < 2 * DISK_MIB << 20, "it never says so"

    def wait_until_unblocked(self):
        """What waited is confirmed, once there is room."""
        heard = {self.hear().method, self.hear().method}
        assert heard == {UNBLOCKED, CONFIRM}
        self.confirmed += 1


@pytest.mark.serial
@pytest.mark.timeout(180)
def test_a_full_disk_holds_publishers_until_consumers_have_made_room(tmp_path):
    if not can_mount(tmp_path):
        pytest.skip("this user may not mount a file system of his own")
    data = tmp_path / "data"
    data.mkdir()
    broker = OnSmallDisk(data, SETTINGS).start()
    try:
        publisher = Publisher(broker.amqp)
        taken = 0
        for _ in range(3):
            confirmed = publisher.publish_until_blocked()
            assert broker.process.poll() is None, broker.log()
            taken = drain(broker, taken, confirmed)
            publisher.wait_until_unblocked()
        drain(broker, taken, publisher.confirmed)
        assert broker.stop() == 0
    finally:
        broker.kill()


def drain(broker, expected, end):
    """Takes and acknowledges the messages from `expected` on up to `end`: none is missing."""
    get = rawamqp.method(1, GET, b"\0\0" + rawamqp.short_string("q") + b"\0")
    with Connection(broker.amqp).login().open_channel() as connection:
        deadline_s = time.monotonic() + PATIENCE_S
        while expected < end:
            assert time.monotonic() < deadline_s, f"{expected} of {end} came"
            connection.send(get)
            got = connection.receive()
            if got.method == GET_EMPTY:
                continue
            assert got.method == GET_OK, got
            tag, = struct.unpack_from(">Q", got.payload, 4)
            connection.receive()
            body = connection.receive().payload
            assert struct.unpack_from(">Q", body) == (expected,)
            connection.send(rawamqp.settle(1, rawamqp.BASIC_ACK, tag))
            expected += 1
    return expected
