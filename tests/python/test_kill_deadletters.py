"""kill -9 while messages die, in chains of two: none is lost, and a poison message leaves.

Four queues, in each of which messages die in a way of their own, dead-letter into one queue in the
middle, where they expire into the last. Every confirmed message must be found in the last queue, or
in one where it has a right to be.
"""

import os
import random
import struct
import time
from collections import Counter

import pika
import pytest

import rawamqp
from broker import Broker
from conftest import Endpoint
from helpers import eventually, message_count
from pump import drain_after_death, pump
from rawamqp import Connection

SOAK = os.environ.get("ISTHMUS_SOAK") == "1"
KILLS = 100 if SOAK else 10
# All is drained and judged after so many kills: lives begin with what was left half done before.
DRAINED_EVERY = 3
WINDOW = 20
BODY_SIZE = 128
TTL_MS = 50
# Long enough for messages to be there when the broker is killed, and when it is back.
MIDDLE_TTL_MS = 400
LENGTH = 20
DELIVERY_LIMIT = 3
MIDDLE, LAST = "dead.middle", "dead.last"
# Small ones, so that kills hit checkpoints too.
SETTINGS = {"storage.segment_bytes": "4 MiB", "storage.checkpoint_after_bytes": "4 MiB"}
NUMBER = struct.Struct(">Q")

# How messages die in each queue: its arguments, the reason in x-death, and what a consumer does.
WAYS = {
    "dies.rejected": ({}, "rejected", lambda tag: rawamqp.settle(1, rawamqp.BASIC_REJECT, tag)),
    "dies.expired": ({"x-message-ttl": TTL_MS}, "expired", None),
    "dies.full": ({"x-max-length": LENGTH}, "maxlen", None),
    "dies.poison": ({"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT},
                    "delivery_limit",
                    lambda tag: rawamqp.settle(1, rawamqp.BASIC_NACK, tag, bits=2)),
}


class Publisher:
    """Publishes numbered messages to one queue and notes which are confirmed."""

    def __init__(self, address, queue, first_number):
        self.queue = queue
        self.connection = Connection(address).login().open_channel()
        self.connection.call(1, rawamqp.CONFIRM_SELECT, rawamqp.CONFIRM_SELECT_OK, b"\0")
        self.first_number = self.next_number = first_number
        self.unconfirmed = set()
        self.confirmed = set()

    def output(self):
        """As many publishes as the window has room for."""
        numbers = range(self.next_number, self.next_number + WINDOW - len(self.unconfirmed))
        self.next_number = numbers.stop
        self.unconfirmed.update(numbers)
        return b"".join(rawamqp.publish(1, "", self.queue, NUMBER.pack(number).ljust(BODY_SIZE),
                                        rawamqp.PERSISTENT) for number in numbers)

    def on_sent(self):
        """Nothing depends on when the system took it."""

    def handle(self, kind, payload):
        """Notes confirms."""
        assert payload[:4] == b"\0\x3c\0\x50", payload
        tag, multiple = struct.unpack_from(">QB", payload, 4)
        last = self.first_number + tag - 1
        done = {each for each in self.unconfirmed if each <= last} if multiple else {last}
        self.unconfirmed -= done
        self.confirmed |= done


class Refuser:
    """Consumes from a queue and refuses whatever it gets."""

    def __init__(self, address, queue, refuse, deliveries):
        self.refuse = refuse
        self.deliveries = deliveries
        self.tags = []
        self.delivery_tag = None
        self.connection = Connection(address).login().open_channel()
        self.connection.call(1, rawamqp.BASIC_QOS, rawamqp.BASIC_QOS_OK,
                             struct.pack(">IHB", 0, WINDOW, 0))
        self.connection.send(rawamqp.consume(1, queue))
        self.connection.expect(rawamqp.BASIC_CONSUME_OK)

    def output(self):
        """Refusals of what has come."""
        tags, self.tags = self.tags, []
        return b"".join(map(self.refuse, tags))

    def on_sent(self):
        """Nothing depends on when the system took it."""

    def handle(self, kind, payload):
        """Counts deliveries of each message."""
        if kind == rawamqp.METHOD:
            self.delivery_tag, = struct.unpack_from(">Q", payload, 5 + payload[4])
        elif kind == rawamqp.BODY:
            self.deliveries[NUMBER.unpack_from(payload)[0]] += 1
            self.tags.append(self.delivery_tag)


def connect(broker):
    return Endpoint(*broker.amqp, is_isthmus=True).connect()


def declare(channel):
    """The queues of the chain, last first."""
    channel.queue_declare(LAST, durable=True)
    channel.queue_declare(MIDDLE, durable=True, arguments={
        "x-message-ttl": MIDDLE_TTL_MS, "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": LAST})
    for queue, (arguments, _, _) in WAYS.items():
        channel.queue_declare(queue, durable=True, arguments=arguments | {
            "x-dead-letter-exchange": "", "x-dead-letter-routing-key": MIDDLE})


class Account:
    """What was confirmed, delivered and found, over all lives of the broker."""

    def __init__(self):
        self.next_number = 1
        self.confirmed = {queue: set() for queue in WAYS}
        self.deliveries = Counter()
        self.found = Counter()
        self.violations = []
        # Messages that were on their way when the broker came back.
        self.under_way = 0
        self.kills = 0

    def on_found(self, number, deaths):
        """A message has come to the last queue with this history, latest first."""
        self.found[number] += 1
        queue = deaths[-1]["queue"]
        expected = [(MIDDLE, "expired", 1), (queue, WAYS[queue][1], 1)]
        if (history := [(death["queue"], death["reason"], death["count"]) for death in deaths]) \
                != expected:
            self.violations.append(f"{number} has the history {history}")

    def judge(self, still_there):
        """To be asked when nothing is under way; `still_there` is what the full queue keeps."""
        confirmed = set().union(*self.confirmed.values())
        if lost := confirmed - self.found.keys() - still_there:
            self.violations.append(f"{len(lost)} confirmed messages lost: {sorted(lost)[:10]}")
        # A delivery under way when the broker dies may go uncounted.
        most = DELIVERY_LIMIT + 1 + min(self.kills, DRAINED_EVERY)
        for number in self.confirmed["dies.poison"]:
            if self.deliveries[number] > most:
                self.violations.append(f"{number} was delivered {self.deliveries[number]} times")
        return self.violations


def run_load(broker, account, rng):
    """All ways of dying at once, and a kill."""
    clients = []
    for queue, (_, _, refuse) in WAYS.items():
        clients.append(Publisher(broker.amqp, queue, account.next_number))
        account.next_number += 1 << 32
        if refuse:
            clients.append(Refuser(broker.amqp, queue, refuse, account.deliveries))
    pump(clients, time.monotonic() + rng.uniform(0.1, 0.7))
    broker.kill()
    account.kills += 1
    drain_after_death(clients)
    for client in clients:
        if isinstance(client, Publisher):
            account.confirmed[client.queue] |= client.confirmed


def drain(broker, account):
    """Lets everything die that is to, takes it from the last queue, and returns what the full
    queue keeps.

    A kill may still overtake the last acknowledgements; what comes again then is no new message.
    """
    refusers = [Refuser(broker.amqp, queue, refuse, account.deliveries)
                for queue, (_, _, refuse) in WAYS.items() if refuse]
    connection = connect(broker)
    channel = connection.channel()
    # Acknowledged deliveries that were not yet settled in an earlier life may come again.
    left = [queue for queue in (*WAYS, MIDDLE) if queue != "dies.full"]

    def is_empty():
        pump(refusers, time.monotonic() + 0.1)
        return not any(message_count(channel, queue) for queue in left)
    eventually(is_empty, within_s=30)
    pump(refusers, time.monotonic() + 0.1)
    for refuser in refusers:
        refuser.connection.socket.close()
    # What a refuser held has come back and dies no more.
    eventually(lambda: message_count(channel, MIDDLE) == 0)
    ready = message_count(channel, LAST)
    taken = 0
    for method, properties, body in channel.consume(LAST, inactivity_timeout=5):
        if method is None:
            break
        account.on_found(NUMBER.unpack_from(body)[0], properties.headers["x-death"])
        taken += 1
        if taken == ready:
            channel.basic_ack(method.delivery_tag, multiple=True)
            break
    assert taken == ready, f"{taken} of {ready} messages were delivered"
    channel.cancel()
    keeper = connection.channel()
    kept = [keeper.basic_get("dies.full") for _ in range(message_count(channel, "dies.full"))]
    connection.close()
    return {NUMBER.unpack_from(body)[0] for _, _, body in kept}


@pytest.fixture
def small_isthmus(tmp_path):
    """A broker of the test's own that writes a checkpoint every few megabytes."""
    with Broker(tmp_path / "data", SETTINGS) as broker:
        yield broker


@pytest.mark.serial
@pytest.mark.soak
@pytest.mark.timeout(3600 if SOAK else 150)
def test_no_message_is_lost_on_its_way_through_two_deaths(small_isthmus):
    seed = random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)
    connection = connect(small_isthmus)
    declare(connection.channel())
    connection.close()
    account = Account()
    for kill in range(1, KILLS + 1):
        run_load(small_isthmus, account, rng)
        small_isthmus.start()
        with connect(small_isthmus) as connection:
            account.under_way += message_count(connection.channel(), MIDDLE)
        if kill % DRAINED_EVERY == 0 or kill == KILLS:
            assert account.judge(drain(small_isthmus, account)) == [], f"kill {kill}, seed {seed}"
    duplicates = sum(account.found.values()) - len(account.found)
    counts = {queue: len(numbers) for queue, numbers in account.confirmed.items()}
    print(f"{KILLS} kills: confirmed {counts}, {account.under_way} were between two deaths at a "
          f"start, {duplicates} came more than once")
    assert all(count > KILLS * WINDOW // 2 for count in counts.values()), counts
    assert account.under_way > KILLS, "no kill hit a message between its deaths"


DEATHS = [{"queue": MIDDLE, "reason": "expired", "count": 1},
          {"queue": "dies.expired", "reason": "expired", "count": 1}]


def test_the_account_notices_what_is_lost_or_poisonous_or_has_no_history():
    account = Account()
    account.confirmed["dies.expired"] = {1, 2, 3}
    account.on_found(1, DEATHS)
    assert account.judge(still_there={2}) == ["1 confirmed messages lost: [3]"]
    account = Account()
    account.on_found(1, DEATHS[1:])
    assert "has the history" in account.judge(set())[0]
    account = Account()
    account.confirmed["dies.poison"] = {1}
    account.deliveries[1] = DELIVERY_LIMIT + 2
    account.on_found(1, [DEATHS[0], {"queue": "dies.poison", "reason": "delivery_limit",
                                     "count": 1}])
    assert account.judge(set()) == [f"1 was delivered {DELIVERY_LIMIT + 2} times"]
