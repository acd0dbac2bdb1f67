"""What becomes of a message on its way between protocols, measured with clients of each, and held
against the tables in docs/interop.md. ISTHMUS_REWRITE_DOCS=1 writes what was measured there.
"""

import collections
import datetime
import decimal
import os
import queue
import random
from pathlib import Path

import pika
import pytest

from broker import Broker
from helpers import Consumer
from interop import USER_PROPERTY, Amqp, Mqtt, speaker, speakers, told

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "interop.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"

KIB = 1024
NOON = datetime.datetime(2026, 1, 2, 12, 0)
# The delaying exchange, whose messages go on to amq.topic.
DELAYING = "interop.delaying"
# What time takes from an expiry on its way here.
LATE_MS = 30_000

BODIES = {
    "text": "plain words, ümläuts, 漢字\r\nand a line".encode(),
    "binary": bytes(range(1, 256)),
    "empty": b"",
    "NULs": b"\0one\0two\0\0",
    "1 MiB": random.Random(1).randbytes(KIB * KIB),
}

# For each sender what is set, one row each; what is beside it in a row is needed to say it.
# pika writes no floating-point numbers; src/server/tests/interop.rs has them.
AMQP_ROWS = [
    [("message-id", "m-1")],
    [("correlation-id", "c-1")],
    [("reply-to", "answers")],
    [("reply-to", "answers.here")],
    [("reply-to", "no.topic.#")],
    [("expiration", "60000")],
    [("expiration", "61500")],
    [("delivery-mode", 1)],
    [("delivery-mode", 2)],
    [("priority", 7)],
    [("type", "greeting")],
    [("content-type", "application/json")],
    [("content-encoding", "gzip")],
    [("user-id", "guest")],
    [("app-id", "tests")],
    [("cluster-id", "c")],
    [("timestamp", 1_700_000_000)],
    [("headers.isthmus-group-id", "g-1")],
    [("headers.x-deduplication-id", "d-1")],
    [("headers.x-delay", 5)],
    [("headers.tenant", "blue")],
    [("headers.a:b", "c:d\ne")],
    [("headers.destination", "mine")],
    [("headers.n", -5)],
    [("headers.n", decimal.Decimal("1.25"))],
    [("headers.n", True)],
    [("headers.n", None)],
    [("headers.n", b"\xff\0")],
    [("headers.n", NOON)],
    [("headers.n", [1, "two"])],
    [("headers.n", {"a": {"b": 3}})],
    [("headers.BCC", ["hidden"])],
]
MQTT5_ROWS = [
    [("QoS", 0)],
    [("QoS", 2)],
    [("Retain", True)],
    [("Content Type", "application/json")],
    [("Response Topic", "answers/here")],
    [("Correlation Data", b"c-1")],
    [("Correlation Data", b"\xff\0")],
    [("Message Expiry Interval", 60)],
    [("Message Expiry Interval", 5_000_000)],
    [("Payload Format Indicator", 0)],
    [("Payload Format Indicator", 1)],
    [(USER_PROPERTY + "tenant", "blue")],
    [(USER_PROPERTY + "tenant", "blue"), (USER_PROPERTY + "tenant", "red")],
    [(USER_PROPERTY + "a:b", "c:d\ne")],
    [(USER_PROPERTY + "destination", "mine")],
    [(USER_PROPERTY + "x-deduplication-id", "d-1")],
    [(USER_PROPERTY + "x-delay", "5")],
    [(USER_PROPERTY + "isthmus-message-id", "m-1")],
    [(USER_PROPERTY + "isthmus-priority", "7")],
    [(USER_PROPERTY + "isthmus-group-id", "g-1")],
]
MQTT3_ROWS = [[("QoS", 0)], [("QoS", 2)], [("Retain", True)]]
STOMP_ROWS = [
    [("body", "text")],
    [("amqp-message-id", "m-1")],
    [("correlation-id", "c-1")],
    [("reply-to", "/queue/answers")],
    [("reply-to", "/topic/answers.here")],
    [("reply-to", "/exchange/amq.direct/answers")],
    [("expiration", "60000")],
    [("persistent", "true")],
    [("priority", "7")],
    [("type", "greeting")],
    [("content-type", "application/json")],
    [("content-encoding", "gzip")],
    [("user-id", "guest")],
    [("app-id", "tests")],
    [("timestamp", "1700000000")],
    [("timestamp", "1700000000123")],
    [("JMSXGroupID", "g-1")],
    [("x-deduplication-id", "d-1")],
    [("AMQ_SCHEDULED_DELAY", "5")],
    [("tenant", "blue")],
    [("tenant", "blue"), ("tenant", "red")],
]
# STOMP 1.0 escapes nothing.
ROWS = {
    "AMQP 0-9-1": AMQP_ROWS,
    "MQTT 3.1.1": MQTT3_ROWS,
    "MQTT 5.0": MQTT5_ROWS,
    "STOMP 1.0": STOMP_ROWS + [[("a", "c:d")]],
    "STOMP 1.2": STOMP_ROWS + [[("a:b", "c:d\ne\rf")]],
}
# Keys below that to which all listen.
ADDRESSES = ["a.b", "a/b.c", "a.", "a.*", "a#.#"]


def in_time(sent, pairs):
    """The pairs as if no time had passed since they were sent: an expiry tells what is left."""
    due_ms = {float(value) * unit for name, value in sent
              for unit in [1000 if name == "Message Expiry Interval" else 1]
              if name in ("Message Expiry Interval", "expiration")}
    for name, value in pairs:
        unit = {"Message Expiry Interval": 1000, "expiration": 1, "isthmus-expiry": 1}.get(
            name.removeprefix("headers.").removeprefix(USER_PROPERTY))
        if unit is not None:
            left_ms = float(value) * unit
            # A second's worth is what rounding up may add.
            for due in due_ms:
                if due - LATE_MS <= left_ms < due:
                    value = type(value)(-int(-due // unit))
        yield name, value


def beside(pairs, plain):
    """The pairs that are not among those of a message of which nothing was said, and what of those
    is missing."""
    left, said = list(plain), []
    for pair in pairs:
        if pair in left:
            left.remove(pair)
        else:
            said.append(pair)
    names = {name for name, _ in said}
    return said + [(f"no {name}", value) for name, value in left if name not in names]


def as_text(pairs):
    """Pairs to be compared: clients have more than one type for a number."""
    return collections.Counter((name, told(value)) for name, value in pairs)


def cell(pairs):
    """Pairs as a cell of a table."""
    def code(name, value):
        text = f"{name}: {told(value)}".replace("|", "\\|")
        return f"`{text}`"
    return "<br>".join(code(*pair) for pair in pairs) or "—"


class Ways:
    """Every way from one protocol to another and back, for one message after another."""

    def __init__(self, broker):
        self.speakers = speakers(broker)
        self.back = speakers(broker)
        self.number = 0
        with pika.BlockingConnection(pika.ConnectionParameters(*broker.amqp)) as connection:
            channel = connection.channel()
            channel.exchange_declare(DELAYING, "x-delayed-message", durable=True,
                                     arguments={"x-delayed-type": "topic"})
            channel.exchange_bind("amq.topic", DELAYING, "#")
        for each in self.speakers.values():
            each.listen("out")
        for name, each in self.back.items():
            each.listen(f"back.{name.translate(str.maketrans('. ', '--'))}")

    def go(self, sender, pairs, body):
        """Sends one message to all; returns what each received, and what came back from each."""
        self.number += 1
        exchange = "amq.topic"
        if any(name in ("AMQ_SCHEDULED_DELAY", "headers.x-delay") for name, _ in pairs):
            exchange = DELAYING
        home = self.back[sender]
        to_home = f"back.{sender.translate(str.maketrans('. ', '--'))}.{self.number}"
        self.speakers[sender].send(f"out.{self.number}", pairs, body, exchange)
        received, returned = {}, {}
        for name, each in self.speakers.items():
            received[name] = each.receive()
            each.send(to_home, received[name].pairs, received[name].body, exchange)
            returned[name] = home.receive()
            assert str(self.number) in received[name].address, "messages are out of step"
            assert str(self.number) in returned[name].address, "messages are out of step"
        return received, returned

    def close(self):
        for each in [*self.speakers.values(), *self.back.values()]:
            each.close()


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with Broker(tmp_path_factory.mktemp("interop") / "data") as broker:
        yield broker
        assert broker.stop() == 0, broker.log()


@pytest.fixture(scope="module")
def ways(broker):
    ways = Ways(broker)
    yield ways
    ways.close()


def table(head, rows):
    """A table of Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "-|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def body_pairs(sender, kind):
    """A text of STOMP has no content-length."""
    return [("body", "text")] if sender.startswith("STOMP") and kind == "text" else []


def measure_bodies(ways):
    """A row for each sender: bodies that arrive as they were sent, and come back so."""
    for sender in ROWS:
        row = [sender]
        for receiver in ROWS:
            row.append([])
        for kind, body in BODIES.items():
            received, returned = ways.go(sender, body_pairs(sender, kind), body)
            for at, receiver in enumerate(ROWS, 1):
                if received[receiver].body != body:
                    row[at].append(f"{kind}: other bytes arrive")
                elif returned[receiver].body != body:
                    row[at].append(f"{kind}: other bytes come back")
        yield [row[0]] + ["<br>".join(each) or "all five" for each in row[1:]]


def what_becomes(arrived, back, own, back_as_whole):
    """A cell: what a receiver is told, and what comes back from it if it is not the sender's own."""
    own, extra = as_text(own), as_text(back) - as_text(own)
    is_back = not extra and own <= as_text(back_as_whole) + as_text(
        (name, value) for name, value in back if name.startswith("no "))
    if is_back:
        return cell(arrived)
    if not arrived and not back:
        return "lost"
    return cell(arrived) + "<br>back: " + cell(back)


def measure_properties(ways, sender):
    """A row for each property: what each receiver is told, and whether it comes back the same."""
    plain, plain_back = ways.go(sender, [], b"body")
    yield ["nothing"] + [
        what_becomes(plain[receiver].pairs, plain_back[receiver].pairs, plain[sender].pairs,
                     plain_back[receiver].pairs)
        for receiver in ROWS]
    for sent in ROWS[sender]:
        received, returned = ways.go(sender, sent, b"body")
        own = list(in_time(sent, beside(received[sender].pairs, plain[sender].pairs)))
        row = [cell(sent)]
        for receiver in ROWS:
            back = returned[receiver].pairs
            row.append(what_becomes(
                list(in_time(sent, beside(received[receiver].pairs, plain[receiver].pairs))),
                list(in_time(sent, beside(back, plain_back[receiver].pairs))),
                own, list(in_time(sent, back))))
        yield row


def measure_addresses(ways):
    """A row for each key: what each receiver takes for its address."""
    for address in ADDRESSES:
        ways.number += 1
        sender = ways.speakers["AMQP 0-9-1"]
        key = f"out.{ways.number}"
        sender.send(f"{key}.{address}", [], b"")
        sender.send(f"{key}.end", [], b"")
        row = [f"`amq.topic`, `{address}`"]
        for each in ways.speakers.values():
            first = each.receive()
            if "end" in first.address:
                row.append("is not delivered")
                continue
            assert "end" in each.receive().address
            row.append("`" + first.address.replace(f"{key}.", "").replace(
                Mqtt.topic(f"{key}."), "") + "`")
        yield row


# Who asks, and how its address for answers is told. A queue that is called `bound…` is bound to
# amq.topic with its name.
REQUESTS = {
    "AMQP 0-9-1": [[("reply-to", "{queue}")], [("reply-to", "bound.{queue}")]],
    "MQTT 5.0": [[("Response Topic", "{topic}")]],
    "STOMP 1.2": [[("reply-to", "/queue/{queue}")], [("reply-to", "/temp-queue/answers")],
                  [("reply-to", "/topic/{key}")]],
}


class Asker:
    """Waits for answers at an address of its own, as its protocol has it."""

    def __init__(self, broker, protocol, name):
        self.speaker = speaker(broker, protocol)
        self.protocol = protocol
        self.names = {"queue": f"answers.{name}", "topic": f"answers/{name}",
                      "key": f"answers.{name}"}

    def ask(self, key, pairs):
        pairs = [(name, value.format(**self.names)) for name, value in pairs]
        address = pairs[0][1]
        if self.protocol.startswith("AMQP"):
            self.speaker.channel.queue_declare(address, exclusive=True)
            if address.startswith("bound"):
                self.speaker.channel.queue_bind(address, "amq.topic", address)
            self.speaker.consumer = Consumer(self.speaker.channel, address, auto_ack=True)
        elif self.protocol.startswith("MQTT"):
            assert self.speaker.client.subscribe(address, 1) == 1
        elif "/temp-queue/" not in address:
            self.speaker.client.subscribe(address)
        self.speaker.send(key, pairs, b"question")

    def is_answered(self):
        try:
            return self.speaker.receive(0.5).body == b"answer"
        except (queue.Empty, TimeoutError, AssertionError):
            return False

    def close(self):
        self.speaker.close()


def answer(responder, message):
    """Sends an answer where the question says, with the means of the responder's protocol."""
    said = dict(message.pairs)
    if isinstance(responder, Amqp):
        responder.send(said["reply-to"], [], b"answer", exchange="")
    elif isinstance(responder, Mqtt):
        if "Response Topic" in said:
            responder.client.publish(said["Response Topic"], b"answer")
    else:
        responder.client.request("SEND", b"answer", destination=said["reply-to"])


def measure_answers(broker):
    """A row for each way to ask: whose answers arrive."""
    responders = {name: speaker(broker, name) for name in REQUESTS}
    for name, each in responders.items():
        each.listen("questions")
    number = 0
    for protocol, ways_to_ask in REQUESTS.items():
        for pairs in ways_to_ask:
            row = [protocol, cell(pairs).translate(str.maketrans("", "", "{}"))]
            for responder in responders:
                number += 1
                asker = Asker(broker, protocol, f"n{number}")
                asker.ask(f"questions.{number}", pairs)
                for name, each in responders.items():
                    question = each.receive()
                    if name == responder:
                        answer(each, question)
                row.append("arrives" if asker.is_answered() else "**does not arrive**")
                asker.close()
            yield row
    for each in responders.values():
        each.close()


def measure(broker, ways):
    """All tables."""
    yield "### Addresses\n\n"
    yield table(["sent by AMQP 0-9-1 to", *ROWS], measure_addresses(ways))
    yield "\n### Answers\n\nWhether the answer of each responder reaches who asked.\n\n"
    yield table(["asked by", "with", *REQUESTS], measure_answers(broker))
    yield "\n"
    yield "### Bodies\n\nText, 255 different bytes, nothing, NULs, and 1 MiB of random bytes.\n\n"
    yield table(["sender \\ receiver", *ROWS], measure_bodies(ways))
    for sender in ROWS:
        yield f"\n### Sent by {sender}\n\n"
        yield table(["sent", *ROWS], measure_properties(ways, sender))


@pytest.mark.timeout(120)
def test_the_tables_tell_what_is_measured(broker, ways):
    measured = "".join(measure(broker, ways))
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    committed, _, after = rest.partition(END)
    assert END in rest, f"{DOCUMENT} has no {BEGIN.strip()} and {END.strip()}"
    if os.environ.get("ISTHMUS_REWRITE_DOCS"):
        DOCUMENT.write_text(before + BEGIN + "\n" + measured + "\n" + END + after)
    else:
        assert committed.strip().split("\n") == measured.strip().split("\n")
