"""Clients of every protocol that come and go without end leave nothing behind."""

import itertools
import os
import statistics
import threading
import time

import pytest

import rawamqp
from rawamqp import Connection
from rawmqtt import DISCONNECT, Mqtt, packet
from rawstomp import Stomp
from test_mqtt import api

SOAK = os.environ.get("ISTHMUS_SOAK") == "1"
# The allocator takes a while until it has what it keeps.
WARM_UP_S = 120 if SOAK else 20
CHURN_S = 30 * 60 if SOAK else 20
SAMPLE_S = 60 if SOAK else 4
BODY = b"x" * 200
# By how much resident memory may grow in the long form.
KIB_A_MINUTE_MAX = 1024
# In the short one a slope says nothing: the allocator takes 4 MiB at a time, for each of two workers.
SLACK_KIB = 8 * 1024

pytestmark = [pytest.mark.serial, pytest.mark.soak,
              pytest.mark.timeout(CHURN_S + WARM_UP_S + 120)]


def amqp(broker, number):
    """Channels and queues of all kinds, ended in all ways."""
    with Connection(broker.amqp) as raw:
        raw.login()
        for channel in range(1, 6):
            raw.open_channel(channel)
            named = f"churn.{threading.get_ident()}.{channel}"
            raw.send(rawamqp.queue_declare(channel, "" if channel < 4 else named,
                                           exclusive=channel < 4, durable=channel == 5))
            declared = raw.expect(rawamqp.QUEUE_DECLARE_OK)
            queue = declared.payload[5:5 + declared.payload[4]]
            raw.send(rawamqp.publish(channel, "", queue, bytes(200)))
            raw.send(rawamqp.consume(channel, queue))
            raw.expect(rawamqp.BASIC_CONSUME_OK)
            raw.expect(rawamqp.BASIC_DELIVER)
            raw.receive(), raw.receive()
            if channel >= 4:
                raw.call(channel, (50, 40), (50, 41),
                         b"\0\0" + rawamqp.short_string(queue) + b"\0")
            if channel % 2:
                raw.call(channel, rawamqp.CHANNEL_CLOSE, rawamqp.CHANNEL_CLOSE_OK,
                         b"\0\xc8" + rawamqp.short_string("") + bytes(4))
        if number % 2:
            raw.call(0, rawamqp.CLOSE, rawamqp.CLOSE_OK,
                     b"\0\xc8" + rawamqp.short_string("") + bytes(4))


def mqtt(broker, number):
    """Sessions that end with their connection and such as outlive it, with wills, retained messages
    and deliveries that are left unsettled."""
    name, version = f"churn-{threading.get_ident()}", 5 if number % 2 else 4
    topic = f"churn/{name}/{number}"
    port, lasts_s = broker.ports["mqtt"], 600 if number % 3 else 0
    with Mqtt(port, version, name, lasts_s=lasts_s, will=(f"{topic}/will", "gone", 0)) as client:
        for qos in range(3):
            assert client.subscribe(f"{topic}/{qos}", qos) == qos
            assert client.publish(f"{topic}/{qos}", bytes(200), qos, retain=qos == 1) == 0
        # Two are never acknowledged.
        assert {client.receive().qos for _ in range(3)} == {0, 1, 2}
        client.publish(f"{topic}/1", b"", 1, retain=True)
        if number % 2:
            client.write(packet(DISCONNECT, 0, b""))
    # Its session ends here at the latest.
    with Mqtt(port, version, name) as client:
        client.write(packet(DISCONNECT, 0, b""))
        client.read()


def stomp(broker, number):
    """Subscriptions to destinations of several kinds, transactions, messages left unsettled."""
    with Stomp(broker.ports["stomp"]) as client:
        for id, destination in enumerate(("/topic/churn.>", "/temp-queue/answers",
                                          f"/exchange/amq.direct/churn.{number}")):
            client.subscribe(destination, id=id, ack="client-individual")
        client.request("BEGIN", transaction="open")
        client.request("SEND", b"never", destination="/topic/churn.never", transaction="open")
        client.request("SEND", BODY, destination=f"/topic/churn.{number}")
        client.request("SEND", BODY, destination=f"/exchange/amq.direct/churn.{number}")
        for _ in range(2):
            message = client.read("MESSAGE")
        client.request("ACK", id=message.headers["ack"])
        if number % 2:
            client.request("DISCONNECT")


CHURNERS = [amqp, amqp, mqtt, mqtt, stomp]


class Churn:
    """Threads that come and go for as long as it is open."""

    def __init__(self, broker):
        self.broker = broker
        self.counts = {each: 0 for each in CHURNERS}
        self.failures = []
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(each,)) for each in CHURNERS]

    def _run(self, come_and_go):
        try:
            for number in itertools.count():
                if self.ended.is_set():
                    return
                come_and_go(self.broker, number)
                self.counts[come_and_go] += 1
        except BaseException as failure:
            self.failures.append(failure)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def __str__(self):
        return ", ".join(f"{count} of {each.__name__}" for each, count in self.counts.items())


def descriptors(broker):
    """What the descriptors of the process are: how many sockets, and how many others."""
    directory = f"/proc/{broker.pid}/fd"
    targets = []
    for descriptor in os.listdir(directory):
        try:
            targets.append(os.readlink(f"{directory}/{descriptor}"))
        except FileNotFoundError:
            # Closed since it was listed.
            pass
    sockets = sum(target.startswith("socket:") for target in targets)
    return sockets, len(targets) - sockets


def settled(read, within_s=5, still_s=0.5):
    """A value of the process once it has stood still for a moment: freeing takes its time."""
    deadline_s = time.monotonic() + within_s
    value, since_s = read(), time.monotonic()
    while time.monotonic() < min(deadline_s, since_s + still_s):
        time.sleep(0.05)
        if (now := read()) != value:
            value, since_s = now, time.monotonic()
    return value


def test_coming_and_going_leaves_nothing_behind(own_isthmus):
    before = settled(lambda: descriptors(own_isthmus))
    threads_before = len(os.listdir(f"/proc/{own_isthmus.pid}/task"))
    samples = []
    with Churn(own_isthmus) as churn:
        time.sleep(WARM_UP_S)
        began_s = time.monotonic()
        while (now_s := time.monotonic() - began_s) < CHURN_S and not churn.failures:
            samples.append((now_s, own_isthmus.rss_kib()))
            time.sleep(SAMPLE_S)
    assert churn.failures == []
    after = settled(lambda: descriptors(own_isthmus))
    slope = statistics.linear_regression(*zip(*samples)).slope * 60
    print(f"{churn}; descriptors {before} and {after}; resident "
          f"{[kib for _, kib in samples]} KiB, {slope:.0f} KiB a minute")
    assert min(churn.counts.values()) > 20, "too little came and went to show anything"
    assert after[0] == before[0]
    # The log may have got a spare segment, or be between two of them.
    assert after[1] <= before[1] + 2
    # The runtime's threads for what blocks come and go, within their bounds.
    assert len(os.listdir(f"/proc/{own_isthmus.pid}/task")) <= threads_before + 8
    for what in ("connections", "queues", "sessions"):
        assert api(own_isthmus, "GET", what)[1] == [], what
    with Mqtt(own_isthmus.ports["mqtt"]) as client:
        assert client.subscribe("churn/#", 1) == 1
        assert client.receives_nothing(), "something is still retained"
    if SOAK:
        assert slope < KIB_A_MINUTE_MAX
    else:
        assert settled(own_isthmus.rss_kib) <= samples[0][1] + SLACK_KIB
