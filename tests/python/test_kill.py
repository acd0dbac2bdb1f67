"""kill -9 under confirmed publishes and acknowledged consumption, again and again."""

import os
import random
import struct
import time

import pytest

import rawamqp
from promise import ACK_SETTLED_S, Promise
from pump import drain_after_death, pump
from rawamqp import Connection

SOAK = os.environ.get("ISTHMUS_SOAK") == "1"
ROUNDS = 200 if SOAK else 30
WINDOW = 1000
PREFETCH = 2000
QUEUE = "kill"
# One message in so many stays unacknowledged as long as the round lasts.
HELD_EVERY = 16
BODY_SIZE = 256
QUIET_S = 0.5

ACK = struct.Struct(">BHIHHQBB")
HEADER_OF_BODY = struct.Struct(">Q")


def numbered(number):
    """A persistent publish whose body starts with the message's number."""
    return rawamqp.publish(1, "", QUEUE, HEADER_OF_BODY.pack(number).ljust(BODY_SIZE, b"."),
                           rawamqp.PERSISTENT)


def ack(delivery_tag):
    """basic.ack of a single delivery."""
    return ACK.pack(rawamqp.METHOD, 1, 13, *rawamqp.BASIC_ACK, delivery_tag, 0, rawamqp.FRAME_END)


class Publisher:
    """Publishes persistent messages with at most WINDOW of them unconfirmed."""

    def __init__(self, address, promise, first_number):
        self.promise = promise
        self.connection = Connection(address).login().open_channel()
        self.connection.call(1, rawamqp.CONFIRM_SELECT, rawamqp.CONFIRM_SELECT_OK, b"\0")
        self.first_number = self.next_number = first_number
        self.oldest_tag = 1
        self.open_tags = set()
        self.in_sending = range(0)

    def output(self):
        """Publishes to send now; several at a time once the window has room for them."""
        room = WINDOW - len(self.open_tags)
        if room < WINDOW // 10:
            return b""
        numbers = range(self.next_number, self.next_number + room)
        self.next_number += room
        self.in_sending = numbers
        self.open_tags.update(number - self.first_number + 1 for number in numbers)
        return b"".join(map(numbered, numbers))

    def on_sent(self):
        """What `output` gave is with the system now."""
        now_s = time.monotonic()
        for number in self.in_sending:
            self.promise.on_publish(number, now_s)
        self.in_sending = range(0)

    def handle(self, kind, payload):
        """Notes confirms."""
        assert kind == rawamqp.METHOD and payload[:4] == b"\0\x3c\0\x50", payload
        tag, multiple = struct.unpack_from(">QB", payload, 4)
        for each in range(self.oldest_tag if multiple else tag, tag + 1):
            if each in self.open_tags:
                self.open_tags.remove(each)
                self.promise.on_confirm(self.first_number + each - 1)
        if multiple:
            self.oldest_tag = tag + 1


class Consumer:
    """Consumes and acknowledges, except for a few deliveries that it holds."""

    def __init__(self, address, promise, holds=True):
        self.promise = promise
        self.holds = holds
        self.connection = Connection(address).login().open_channel()
        self.connection.call(1, rawamqp.BASIC_QOS, rawamqp.BASIC_QOS_OK,
                             struct.pack(">IHB", 0, PREFETCH, 0))
        self.connection.call(1, rawamqp.BASIC_CONSUME, rawamqp.BASIC_CONSUME_OK,
                             b"\0\0" + rawamqp.short_string(QUEUE) + rawamqp.short_string("")
                             + b"\0" + b"\0\0\0\0")
        self.delivery = None
        self.held = 0
        self.acks_due = []
        self.acks_in_sending = []

    def output(self):
        """Acknowledgements to send now."""
        self.acks_in_sending, self.acks_due = self.acks_due, []
        return b"".join(ack(tag) for tag, _ in self.acks_in_sending)

    def on_sent(self):
        """What `output` gave is with the system now."""
        now_s = time.monotonic()
        for _, number in self.acks_in_sending:
            self.promise.on_ack(number, now_s)
        self.acks_in_sending = []

    def handle(self, kind, payload):
        """Notes deliveries; a body is one frame here."""
        if kind == rawamqp.METHOD:
            assert payload[:4] == b"\0\x3c\0\x3c", payload
            after_consumer_tag = 5 + payload[4]
            self.delivery = struct.unpack_from(">QB", payload, after_consumer_tag)
        elif kind == rawamqp.BODY:
            tag, redelivered = self.delivery
            number, = HEADER_OF_BODY.unpack_from(payload)
            self.promise.on_delivery(number, bool(redelivered))
            if self.holds and number % HELD_EVERY == 0 and self.held < PREFETCH // 2:
                self.held += 1
            else:
                self.acks_due.append((tag, number))


def drain(address, promise):
    """Consumes all that is left until the queue is empty and nothing more comes."""
    consumer = Consumer(address, promise, holds=False)
    deadline_s = time.monotonic() + 60
    while pump([consumer], time.monotonic() + QUIET_S) < QUIET_S * 0.9:
        assert time.monotonic() < deadline_s, "the queue does not become empty"
    consumer.connection.socket.close()
    with Connection(address).login().open_channel() as control:
        for _ in range(100):
            ready = declare_queue(control)
            if ready == 0:
                return
            time.sleep(0.05)
        raise AssertionError(f"{ready} messages are held but not delivered")


def declare_queue(connection):
    """Declares the durable queue and returns how many messages are ready in it."""
    connection.send(rawamqp.queue_declare(1, QUEUE, durable=True))
    payload = connection.expect(rawamqp.QUEUE_DECLARE_OK).payload
    return struct.unpack_from(">I", payload, 5 + len(QUEUE))[0]


def run_round(broker, promise, rng, first_number):
    """Load on a running broker, then SIGKILL at a moment nobody can foresee.

    Returns the number of the next message to publish.
    """
    with Connection(broker.amqp).login().open_channel() as control:
        declare_queue(control)
    publisher = Publisher(broker.amqp, promise, first_number)
    consumer = Consumer(broker.amqp, promise)
    pump([publisher, consumer], time.monotonic() + rng.uniform(0.4, 0.9))
    killed_at_s = time.monotonic()
    broker.kill()
    promise.on_kill(killed_at_s)
    drain_after_death([publisher, consumer])
    return publisher.next_number


def kill_and_restart(broker, rounds, seed):
    """Any number of rounds on one data directory, and an account at the end of each tenth."""
    promise = Promise()
    rng = random.Random(seed)
    next_number = 0
    for number in range(1, rounds + 1):
        broker.start()
        if number % 10 == 0:
            drain(broker.amqp, promise)
            promise.on_drained()
        next_number = run_round(broker, promise, rng, next_number)
        assert promise.violations == [], f"round {number}, seed {seed}"
    broker.start()
    drain(broker.amqp, promise)
    promise.on_drained()
    assert promise.violations == [], f"seed {seed}"
    return promise


@pytest.mark.serial
@pytest.mark.soak
@pytest.mark.timeout(3600 if SOAK else 150)
def test_nothing_confirmed_is_lost_and_nothing_acknowledged_returns(own_isthmus):
    seed = random.SystemRandom().randrange(1 << 32)
    own_isthmus.stop()
    promise = kill_and_restart(own_isthmus, ROUNDS, seed)
    print(f"{len(promise.confirmed)} confirmed, {promise.redeliveries} redelivered")
    assert len(promise.confirmed) > ROUNDS * WINDOW, "too little load to show anything"
    assert promise.redeliveries > ROUNDS, "no kill hit a delivery under way"
    assert len(promise.settled) > ROUNDS * WINDOW // 2, "too few acknowledgements were settled"


def test_the_account_notices_a_loss():
    promise = Promise()
    for number in (1, 2):
        promise.on_confirm(number)
    promise.on_delivery(1, redelivered=False)
    promise.on_drained()
    assert promise.violations == ["1 confirmed messages lost: [2]"]


def test_the_account_notices_a_message_back_from_the_dead():
    promise = Promise()
    for number, acked_s in ((1, 0.0), (2, 9.99)):
        promise.on_delivery(number, redelivered=False)
        promise.on_ack(number, acked_s)
    promise.on_publish(3, 0.1)
    promise.on_confirm(3)
    promise.on_kill(10.0)
    promise.on_delivery(2, redelivered=True)
    assert promise.violations == [], f"{ACK_SETTLED_S} s before the kill is allowed to return"
    promise.on_delivery(1, redelivered=True)
    assert promise.violations == ["1 came back after its acknowledgement"]


def test_the_account_forgives_what_the_disk_kept_back():
    promise = Promise()
    promise.on_publish(2, 4.0)
    promise.on_confirm(2)
    promise.on_delivery(1, redelivered=False)
    promise.on_ack(1, 5.0)
    promise.on_publish(3, 6.0)
    promise.on_kill(10.0)
    promise.on_delivery(1, redelivered=True)
    assert promise.violations == [], "nothing that was sent after 4.0 was confirmed"


def test_the_account_notices_an_unflagged_redelivery():
    promise = Promise()
    promise.on_delivery(1, redelivered=False)
    promise.on_kill(1.0)
    promise.on_delivery(1, redelivered=False)
    assert promise.violations == ["1 came again without being flagged"]
