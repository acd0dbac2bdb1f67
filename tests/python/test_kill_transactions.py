"""kill -9 around tx.commit: every transaction has happened altogether or not at all.

Each client owns a durable queue of tokens. A transaction takes a token (acknowledges its delivery),
puts a new one in its place, and publishes results to three queues that all clients share. So the
number of tokens never changes, and each token and result names the transaction that published it:
afterwards it can be told for each of them whether its acknowledgement, its token and each of its
results have happened, and these answers must be the same.
"""

import os
import random
import struct
import time
from collections import Counter, deque

import pytest

import rawamqp
from pump import drain_after_death, pump
from rawamqp import Connection

SOAK = os.environ.get("ISTHMUS_SOAK") == "1"
KILLS = 1000 if SOAK else 25
CLIENTS = 8
# Tokens a client has, and so the transactions that it may have under way.
TOKENS = 8
RESULTS = ("tx.result.a", "tx.result.b", "tx.result.c")
# How long the broker may have with a burst of commits before it is killed: about as long as it takes.
BURST_S = 0.003
NUMBER = struct.Struct(">Q")
SMALL, LARGE = 64, 60_000


class Transaction:
    """What one transaction is to do, and what its client has heard of it."""

    def __init__(self, number, takes, rng):
        self.number = number
        self.takes = takes
        self.results = {queue: rng.randint(1, 3) for queue in RESULTS}
        # A large one does not fit into one write of the broker's log.
        self.body_size = LARGE if rng.random() < 0.02 else SMALL
        self.commit_sent = self.commit_ok = False

    def content(self, token_queue, delivery_tag):
        """Its publishes and its acknowledgement, in this order or the other."""
        body = NUMBER.pack(self.number)
        publishes = rawamqp.publish(1, "", token_queue, body, rawamqp.PERSISTENT) + b"".join(
            rawamqp.publish(1, "", queue, body.ljust(self.body_size, b"."), rawamqp.PERSISTENT)
            for queue, count in self.results.items() for _ in range(count))
        ack = rawamqp.settle(1, rawamqp.BASIC_ACK, delivery_tag)
        return ack + publishes if self.number % 2 else publishes + ack


class Client:
    """Runs one transaction after the other on its token queue, without waiting for commit-ok."""

    def __init__(self, address, token_queue, numbers, rng):
        self.token_queue = token_queue
        self.numbers = numbers
        self.rng = rng
        self.transactions = []
        self.tokens_at_hand = deque()
        self.uncommitted = None
        self.holds_back = False
        self.awaiting = deque()
        self.delivery_tag = None
        self.connection = Connection(address).login().open_channel()
        self.connection.call(1, rawamqp.TX_SELECT, rawamqp.TX_SELECT_OK)
        self.connection.send(rawamqp.consume(1, token_queue))
        self.connection.expect(rawamqp.BASIC_CONSUME_OK)

    def output(self):
        """The commit of what was left open, and a transaction for each token at hand.

        Some of them stay open until the next time, so that a kill finds them without a commit.
        """
        if self.holds_back:
            return b""
        data = []
        if self.uncommitted:
            data.append(self._commit(self.uncommitted))
            self.uncommitted = None
        while self.tokens_at_hand and not self.uncommitted:
            token, delivery_tag = self.tokens_at_hand.popleft()
            transaction = Transaction(next(self.numbers), token, self.rng)
            self.transactions.append(transaction)
            data.append(transaction.content(self.token_queue, delivery_tag))
            if self.rng.random() < 0.2:
                self.uncommitted = transaction
            else:
                data.append(self._commit(transaction))
        return b"".join(data)

    def _commit(self, transaction):
        # From here on it may happen, whether the system has taken the bytes or not.
        transaction.commit_sent = True
        self.awaiting.append(transaction)
        return rawamqp.method(1, rawamqp.TX_COMMIT)

    def on_sent(self):
        """Nothing: what was sent counts from the moment it could have been."""

    def handle(self, kind, payload):
        """Notes tokens and commit-oks; a body is one frame here."""
        if kind == rawamqp.BODY:
            self.tokens_at_hand.append((NUMBER.unpack(payload)[0], self.delivery_tag))
        elif kind == rawamqp.METHOD:
            ids = struct.unpack_from(">HH", payload)
            if ids == rawamqp.BASIC_DELIVER:
                self.delivery_tag, = struct.unpack_from(">Q", payload, 5 + payload[4])
            else:
                assert ids == rawamqp.TX_COMMIT_OK, payload
                self.awaiting.popleft().commit_ok = True


def numbers_in(connection, queue):
    """Declares a durable queue and takes all that is in it, without acknowledging."""
    numbers = []
    connection.send(rawamqp.queue_declare(1, queue, durable=True))
    payload = connection.expect(rawamqp.QUEUE_DECLARE_OK).payload
    ready, = struct.unpack_from(">I", payload, 5 + len(queue))
    get = rawamqp.method(1, rawamqp.BASIC_GET, b"\0\0" + rawamqp.short_string(queue) + b"\0")
    connection.send(get * ready)
    for _ in range(ready):
        connection.expect(rawamqp.BASIC_GET_OK)
        _, _, body_size = struct.unpack_from(">HHQ", connection.receive().payload)
        body = connection.receive().payload
        assert len(body) == body_size
        numbers.append(NUMBER.unpack_from(body)[0])
    return numbers


def judge(transactions, tokens_before, tokens_after, results, context):
    """What is wrong with the transactions of one client; counts their ends in `context`."""
    violations, tokens = [], set(tokens_before)
    for each in transactions:
        got = {queue: results[queue][each.number] for queue in RESULTS}
        happened = any(got.values())
        context[(each.commit_sent, each.commit_ok, happened)] += 1
        if happened and got != each.results:
            violations.append(f"{each.number} happened in part: {got} of {each.results}")
        if happened and not each.commit_sent:
            violations.append(f"{each.number} happened without a commit")
        if each.commit_ok and not happened:
            violations.append(f"{each.number} is lost though commit-ok was seen")
        if happened:
            tokens.discard(each.takes)
            tokens.add(each.number)
    # An acknowledgement without its publishes lacks a token, one left out has one too many.
    if sorted(tokens) != sorted(tokens_after):
        violations.append(f"tokens are {sorted(tokens_after)} and not {sorted(tokens)}")
    return violations


def commit_all_at_once(clients):
    """Sends as much as all clients can have under way, within a moment.

    The broker is faster than these clients, and would rarely be killed with many commits in hand.
    """
    for client in clients:
        client.holds_back = True
    pump(clients, time.monotonic() + 0.03)
    for client in clients:
        client.holds_back = False
    bursts = [bytes(client.unsent) + client.output() for client in clients]
    for client, burst in zip(clients, bursts):
        client.connection.socket.settimeout(1)
        client.connection.send(burst)
        client.connection.socket.setblocking(False)


def run_round(broker, tokens, numbers, rng, context):
    """Transactions on all clients, a kill, and what is wrong after the restart."""
    clients = [Client(broker.amqp, queue, numbers, rng) for queue in tokens]
    pump(clients, time.monotonic() + rng.uniform(0.02, 0.25))
    if rng.random() < 0.75:
        commit_all_at_once(clients)
        time.sleep(rng.uniform(0, BURST_S))
    broker.kill()
    drain_after_death(clients)
    broker.start()
    violations = []
    # What was taken returns when this connection ends.
    with Connection(broker.amqp).login().open_channel() as control:
        results = {queue: Counter(numbers_in(control, queue)) for queue in RESULTS}
        for client in clients:
            queue = client.token_queue
            after = numbers_in(control, queue)
            violations += judge(client.transactions, tokens[queue], after, results, context)
            tokens[queue] = set(after)
        for queue in RESULTS:
            control.call(1, (50, 40), (50, 41), b"\0\0" + rawamqp.short_string(queue) + b"\0")
            control.send(rawamqp.queue_declare(1, queue, durable=True))
            control.expect(rawamqp.QUEUE_DECLARE_OK)
    return violations


def fill_token_queues(broker, numbers):
    """Declares the queues and puts the first tokens there; returns the tokens of each."""
    tokens = {f"tx.tokens.{client}": {next(numbers) for _ in range(TOKENS)}
              for client in range(CLIENTS)}
    with Connection(broker.amqp).login().open_channel() as control:
        control.call(1, rawamqp.TX_SELECT, rawamqp.TX_SELECT_OK)
        for queue in (*tokens, *RESULTS):
            control.send(rawamqp.queue_declare(1, queue, durable=True))
            control.expect(rawamqp.QUEUE_DECLARE_OK)
            for token in tokens.get(queue, ()):
                control.send(rawamqp.publish(1, "", queue, NUMBER.pack(token),
                                             rawamqp.PERSISTENT))
        control.call(1, rawamqp.TX_COMMIT, rawamqp.TX_COMMIT_OK)
    return tokens


@pytest.mark.serial
@pytest.mark.soak
@pytest.mark.timeout(3600 if SOAK else 150)
def test_a_kill_leaves_each_transaction_whole_or_undone(own_isthmus):
    seed = random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)
    numbers = iter(range(1, 1 << 62))
    tokens = fill_token_queues(own_isthmus, numbers)
    context = Counter()
    for kill in range(1, KILLS + 1):
        violations = run_round(own_isthmus, tokens, numbers, rng, context)
        assert violations == [], f"kill {kill}, seed {seed}"
    in_doubt = {happened: context[True, False, happened] for happened in (True, False)}
    print(f"{KILLS} kills: {context[True, True, True]} transactions committed, {in_doubt[True]} in "
          f"doubt happened and {in_doubt[False]} did not, {context[False, False, False]} were open")
    assert sum(in_doubt.values()) > KILLS * CLIENTS, "too few commits were under way"
    assert min(in_doubt.values()) > KILLS // 5, "all kills hit the same side of a commit"
    assert context[False, False, False] > KILLS // 2, "too few transactions were open at a kill"


def transaction(number, **state):
    """A transaction that takes token 1."""
    made = Transaction(number, 1, random.Random(number))
    for key, value in state.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize("state, part, tokens_after, complaint", [
    ({"commit_sent": True, "commit_ok": True}, 0, {1}, "is lost"),
    ({"commit_sent": True}, 0.5, {7}, "in part"),
    ({}, 1, {7}, "without a commit"),
    ({"commit_sent": True}, 1, {1, 7}, "tokens are"),
    ({"commit_sent": True}, 0, set(), "tokens are"),
    ({"commit_sent": True, "commit_ok": True}, 1, {7}, None),
    ({"commit_sent": True}, 0, {1}, None),
])
def test_the_judge_sees_what_is_wrong(state, part, tokens_after, complaint):
    judged = transaction(7, **state)
    results = {queue: Counter({7: round(count * part)}) for queue, count in judged.results.items()}
    if part == 0.5:
        results[RESULTS[0]] = Counter()
        results[RESULTS[1]] = Counter({7: judged.results[RESULTS[1]]})
    violations = judge([judged], {1}, tokens_after, results, Counter())
    assert [complaint in violation for violation in violations] == ([True] if complaint else [])
