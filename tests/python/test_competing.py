"""Consumers of three protocols at one queue: each message goes to one of them, and all see alike
what has become of it."""

import contextlib
import socket
import time
from typing import NamedTuple

import pika
import pytest

import rawmqtt
from broker import Broker
from helpers import PATIENCE_S, eventually, message_count
from rawmqtt import Mqtt
from rawstomp import Stomp
from test_mqtt import api

PROTOCOLS = ["amqp", "mqtt", "stomp"]
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
# How a queue comes to have a consumer of MQTT: that of a group, whose members are granted QoS 1,
# and that of a client's session, which may have QoS 2, and has one consumer at a time.
each_kind = pytest.mark.parametrize("kind", ["group", "session"])
PREFETCH = 5
LASTS_S = 600


class Taken(NamedTuple):
    """A delivery."""

    body: bytes
    # Whether it says that it may have been delivered before.
    again: bool
    # How often it had failed before; None where the protocol has no word for it.
    failures: int | None
    handle: object


class Queue:
    """A durable queue that MQTT can consume from, and consumers of it."""

    def __init__(self, broker, kind, name):
        self.broker, self.kind, self.name = broker, kind, name
        self.topic = name
        self.filter = f"$share/{name}/{name}/#" if kind == "group" else f"{name}/#"
        self.queue = {"group": f"mqtt-shared-{name}/{name}/#",
                      "session": f"mqtt-subscription-{name}qos1"}[kind]
        self.qos = {"group": 1, "session": 2}[kind]
        self.dead = f"{name}-dead"
        # Declares the queue, and keeps it.
        with self.mqtt(f"keeper-{name}" if kind == "group" else name) as keeper:
            assert keeper.subscribe(self.filter, self.qos) == self.qos
            keeper.disconnect()
        with self.amqp() as connection:
            connection.channel().queue_declare(self.dead, durable=True)

    def mqtt(self, client_id):
        client = Mqtt(self.broker.ports["mqtt"], client_id=client_id, lasts_s=LASTS_S,
                      receive_maximum=PREFETCH)
        assert client.reason == 0
        return client

    def amqp(self):
        return pika.BlockingConnection(pika.ConnectionParameters(*self.broker.amqp))

    def stomp(self):
        return Stomp(self.broker.ports["stomp"])

    def policy(self, **definition):
        """Sets what the queue does with what it cannot keep; its dead go to `self.dead`."""
        definition = {key.replace("_", "-"): value for key, value in definition.items()}
        definition |= {"dead-letter-exchange": "", "dead-letter-routing-key": self.dead}
        pattern = "^" + self.queue.replace(".", "\\.") + "$"
        api(self.broker, "PUT", f"policies/%2F/{self.name}",
            {"pattern": pattern, "definition": definition, "apply-to": "queues"})

    def count(self):
        """Messages ready."""
        with self.amqp() as connection:
            return message_count(connection.channel(), self.queue)

    def publish(self, protocol, body, expiry_s=None):
        """Publishes durably, and returns once it is confirmed."""
        if protocol == "amqp":
            with self.amqp() as connection:
                channel = connection.channel()
                channel.confirm_delivery()
                expiry = None if expiry_s is None else str(expiry_s * 1000)
                channel.basic_publish(
                    "amq.topic", self.key, body,
                    pika.BasicProperties(delivery_mode=2, expiration=expiry))
        elif protocol == "mqtt":
            told = {} if expiry_s is None else {rawmqtt.MESSAGE_EXPIRY: expiry_s}
            with Mqtt(self.broker.ports["mqtt"]) as client:
                assert client.publish(self.topic, body, 2, properties=told) == 0
        else:
            expiry = None if expiry_s is None else expiry_s * 1000
            with self.stomp() as client:
                client.request("SEND", body, destination=f"/topic/{self.key}", persistent="true",
                               expiration=expiry)

    @property
    def key(self):
        return self.topic.translate(str.maketrans("./", "/."))

    def taker(self, protocol):
        """A consumer with a prefetch of PREFETCH."""
        return {"amqp": AmqpTaker, "mqtt": MqttTaker, "stomp": StompTaker}[protocol](self)

    def dead_letters(self, count):
        """What has been dead-lettered: bodies and their first deaths."""
        with self.amqp() as connection:
            channel = connection.channel()
            eventually(lambda: message_count(channel, self.dead) >= count)
            got = [channel.basic_get(self.dead, auto_ack=True) for _ in range(count)]
            assert channel.basic_get(self.dead)[0] is None
        found = []
        for _, properties, body in got:
            death, = properties.headers["x-death"]
            del death["time"]
            found.append((body, death))
        return found


class AmqpTaker:
    def __init__(self, queue):
        self.connection = queue.amqp()
        self.channel = self.connection.channel()
        self.channel.basic_qos(prefetch_count=PREFETCH)
        self.came = []
        self.channel.basic_consume(queue.queue, lambda _c, method, properties, body:
                                   self.came.append((method, properties, body)))

    def take(self, within_s=PATIENCE_S):
        """The next delivery; None if there is none."""
        deadline = time.monotonic() + within_s
        while not self.came and (left_s := deadline - time.monotonic()) > 0:
            self.connection.process_data_events(time_limit=min(left_s, 0.2))
        if not self.came:
            return None
        method, properties, body = self.came.pop(0)
        failures = (properties.headers or {}).get("x-delivery-count")
        return Taken(body, method.redelivered, failures, method.delivery_tag)

    def accept(self, taken):
        self.channel.basic_ack(taken.handle)

    def reject(self, taken):
        self.channel.basic_reject(taken.handle, requeue=False)

    def drop(self):
        """Ends the connection without a word."""
        self.connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)

    def close(self):
        """A goodbye, behind which the broker has taken every settlement."""
        with contextlib.suppress(pika.exceptions.AMQPError):
            self.connection.close()


class MqttTaker:
    members = 0

    def __init__(self, queue):
        if queue.kind == "group":
            MqttTaker.members += 1
            self.client = queue.mqtt(f"member-{queue.name}-{MqttTaker.members}")
            assert self.client.subscribe(queue.filter, queue.qos) == queue.qos
        else:
            self.client = queue.mqtt(queue.name)

    def take(self, within_s=PATIENCE_S):
        try:
            delivery = self.client.receive(max(within_s, 0.001))
        except TimeoutError:
            return None
        return Taken(delivery.payload, delivery.dup, None, delivery)

    def accept(self, taken):
        self.client.settle(taken.handle)

    def reject(self, taken):
        # Unspecified error.
        self.client.settle(taken.handle, 0x80)

    def drop(self):
        self.client.socket.close()

    def close(self):
        if self.client.socket.fileno() >= 0:
            with contextlib.suppress(OSError, AssertionError):
                self.client.ping()
                self.client.disconnect()


class StompTaker:
    def __init__(self, queue):
        self.client = queue.stomp()
        self.client.subscribe(f"/amq/queue/{queue.queue}", ack="client-individual",
                              prefetch_count=PREFETCH)

    def take(self, within_s=PATIENCE_S):
        try:
            frame = self.client.read("MESSAGE", max(within_s, 0.001))
        except TimeoutError:
            return None
        failures = frame.headers.get("x-delivery-count")
        return Taken(frame.body, frame.headers["redelivered"] == "true",
                     failures and int(failures), frame.headers["ack"])

    def accept(self, taken):
        self.client.send("ACK", id=taken.handle)

    def reject(self, taken):
        self.client.send("NACK", id=taken.handle, requeue="false")

    def drop(self):
        self.client.socket.close()

    def close(self):
        if self.client.socket.fileno() >= 0:
            with contextlib.suppress(OSError, AssertionError):
                self.client.request("DISCONNECT")
            self.client.socket.close()


@contextlib.contextmanager
def takers(queue, protocols=PROTOCOLS):
    """A consumer of each protocol."""
    made = {protocol: queue.taker(protocol) for protocol in protocols}
    yield made
    for each in made.values():
        each.close()


def test_each_message_goes_to_one(isthmus, name):
    queue = Queue(isthmus, "group", name)
    sent = [f"{protocol} {n}".encode() for n in range(40) for protocol in PROTOCOLS]
    took = {protocol: [] for protocol in PROTOCOLS}
    with takers(queue) as consumers:
        for body in sent:
            queue.publish(body.decode().split()[0], body)
        deadline = time.monotonic() + 20
        while sum(map(len, took.values())) < len(sent) and time.monotonic() < deadline:
            for protocol, taker in consumers.items():
                while (taken := taker.take(0.01)) is not None:
                    assert not taken.again and not taken.failures, taken
                    taker.accept(taken)
                    took[protocol].append(taken.body)
    assert sorted(sum(took.values(), [])) == sorted(sent)
    assert all(took.values()), f"one has had none: { {p: len(t) for p, t in took.items()} }"
    assert queue.count() == 0, "what was accepted has come back"


def test_prefetch_is_a_limit_for_each(isthmus, name):
    queue = Queue(isthmus, "group", name)
    for n in range(3 * PREFETCH + 3):
        queue.publish("amqp", b"%d" % n)
    with takers(queue) as consumers:
        held = {protocol: [taker.take() for _ in range(PREFETCH)]
                for protocol, taker in consumers.items()}
        for protocol, taker in consumers.items():
            assert taker.take(0.2) is None, f"{protocol} is given more than it may have"
        assert queue.count() == 3
        for protocol, taker in consumers.items():
            taker.accept(held[protocol][0])
            assert taker.take() is not None, f"{protocol} has place for one"
            assert taker.take(0.1) is None
    bodies = [taken.body for each in held.values() for taken in each]
    assert len(set(bodies)) == 3 * PREFETCH


@pytest.mark.parametrize("second", PROTOCOLS)
@pytest.mark.parametrize("first", PROTOCOLS)
@each_kind
def test_a_delivery_that_failed_is_marked_whoever_had_it(isthmus, name, kind, first, second):
    queue = Queue(isthmus, kind, name)
    queue.publish("stomp", b"m")
    taker = queue.taker(first)
    taken = taker.take()
    assert (taken.body, taken.again, taken.failures) == (b"m", False, None), taken
    taker.drop()
    eventually(lambda: queue.count() == 1)
    with takers(queue, [second]) as consumers:
        taken = consumers[second].take()
        assert (taken.body, taken.again) == (b"m", True), taken
        if second != "mqtt":
            assert taken.failures == 1, taken
        consumers[second].accept(taken)
    assert queue.count() == 0


@each_protocol
@each_kind
def test_a_refusal_dead_letters_whoever_says_it(isthmus, name, kind, protocol):
    queue = Queue(isthmus, kind, name)
    queue.policy()
    queue.publish("mqtt", b"poison")
    with takers(queue, [protocol]) as consumers:
        consumers[protocol].reject(consumers[protocol].take())
    death = {"count": 1, "reason": "rejected", "queue": queue.queue, "exchange": "amq.topic",
             "routing-keys": [queue.key]}
    assert queue.dead_letters(1) == [(b"poison", death)]
    assert queue.count() == 0


@each_protocol
@each_kind
def test_messages_expire_whoever_sent_them(isthmus, name, kind, protocol):
    queue = Queue(isthmus, kind, name)
    queue.policy()
    queue.publish(protocol, b"short", expiry_s=1)
    queue.publish(protocol, b"long", expiry_s=600)
    (body, death), = queue.dead_letters(1)
    assert body == b"short"
    assert death == {"count": 1, "reason": "expired", "queue": queue.queue,
                     "exchange": "amq.topic", "routing-keys": [queue.key],
                     "original-expiration": "1000"}
    assert queue.count() == 1


@each_kind
def test_messages_expire_after_the_queues_time_for_all(isthmus, name, kind):
    queue = Queue(isthmus, kind, name)
    queue.policy(message_ttl=300)
    for protocol in PROTOCOLS:
        queue.publish(protocol, protocol.encode())
    dead = queue.dead_letters(3)
    assert sorted(body for body, _ in dead) == [b"amqp", b"mqtt", b"stomp"]
    assert {death["reason"] for _, death in dead} == {"expired"}
    for protocol in PROTOCOLS:
        with takers(queue, [protocol]) as consumers:
            assert consumers[protocol].take(0.1) is None


@each_kind
def test_failures_are_counted_whoever_had_the_message(isthmus, name, kind):
    queue = Queue(isthmus, kind, name)
    queue.policy(delivery_limit=2)
    queue.publish("amqp", b"poison")
    for protocol in PROTOCOLS:
        eventually(lambda: queue.count() == 1)
        taker = queue.taker(protocol)
        assert taker.take().body == b"poison"
        taker.drop()
    (body, death), = queue.dead_letters(1)
    assert (body, death["reason"], death["count"]) == (b"poison", "delivery_limit", 1)


def test_what_was_held_comes_again_after_a_kill(tmp_path, name):
    with Broker(tmp_path / "data") as broker:
        queue = Queue(broker, "group", name)
        queue.policy()
        sent = [b"%d" % n for n in range(3 * PREFETCH + 8)]
        for body in sent:
            queue.publish("amqp", body)
        done = []
        with takers(queue) as consumers:
            held = {protocol: [taker.take() for _ in range(PREFETCH)]
                    for protocol, taker in consumers.items()}
            for protocol, taker in consumers.items():
                taker.accept(held[protocol][0])
                taker.reject(held[protocol][1])
                done += [held[protocol][0].body, held[protocol][1].body]
                # It is settled once the next has come.
                held[protocol] += [taker.take(), taker.take()]
            assert len(queue.dead_letters(3)) == 3
            broker.kill()
        broker.start()
        again, fresh = [], []
        with takers(queue) as consumers:
            deadline = time.monotonic() + 10
            while len(again) + len(fresh) < len(sent) - 6 and time.monotonic() < deadline:
                for taker in consumers.values():
                    while (taken := taker.take(0.05)) is not None:
                        (again if taken.again else fresh).append(taken.body)
                        taker.accept(taken)
            assert all(taker.take(0.1) is None for taker in consumers.values())
        assert sorted(again + fresh) == sorted(set(sent) - set(done))
        had = {taken.body for each in held.values() for taken in each} - set(done)
        assert had <= set(again), "what somebody had does not say so"
        assert queue.count() == 0
        assert broker.stop() == 0, broker.log()


def test_the_queue_of_a_session_has_one_consumer_at_a_time(isthmus, name):
    queue = Queue(isthmus, "session", name)
    with takers(queue, ["mqtt"]):
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="403.*exclusive"):
            queue.taker("amqp")
        with queue.stomp() as client:
            refusal = client.refused("SUBSCRIBE", destination=f"/amq/queue/{queue.queue}", id="s")
            assert "exclusive" in refusal, refusal


@pytest.mark.parametrize("protocol", ["amqp", "stomp"])
def test_a_session_that_comes_back_has_its_queue_for_itself(isthmus, name, protocol):
    """Whoever consumed from it meanwhile is told that this is over, and may settle what he has."""
    queue = Queue(isthmus, "session", name)
    for body in (b"1", b"2"):
        queue.publish("mqtt", body)
    other = queue.taker(protocol)
    taken = [other.take(), other.take()]
    assert [each.body for each in taken] == [b"1", b"2"]
    with queue.mqtt(name) as client:
        queue.publish("amqp", b"3")
        # A STOMP connection ends with what it is told, and what it had goes back at once.
        news = [b"3"] if protocol == "amqp" else [b"1", b"2", b"3"]
        assert sorted(client.receive(PATIENCE_S).payload for _ in news) == news
        # Who only looks is let in.
        with queue.stomp() as browser:
            browser.subscribe(f"/amq/queue/{queue.queue}", browser="true")
            assert browser.read("MESSAGE").headers["browser"] == "end"
        if protocol == "amqp":
            assert other.take(0.5) is None
            assert not other.channel.consumer_tags, "it was not told"
            other.accept(taken[0])
            other.close()
            # What was not accepted is the client's.
            assert client.receive(PATIENCE_S).payload == b"2"
        else:
            error = other.client.read("ERROR")
            assert "belongs to a client's session" in error.body.decode(), error


def test_deaths_are_told_to_consumers_alike(isthmus, name):
    """MQTT has no words for them."""
    queue = Queue(isthmus, "group", name)
    queue.policy()
    told = {}
    for protocol in ("amqp", "stomp"):
        queue.publish("mqtt", b"poison")
        with takers(queue, ["mqtt"]) as consumers:
            consumers["mqtt"].reject(consumers["mqtt"].take())
        if protocol == "amqp":
            with queue.amqp() as connection:
                channel = connection.channel()
                eventually(lambda: message_count(channel, queue.dead) == 1)
                headers = channel.basic_get(queue.dead, auto_ack=True)[1].headers
        else:
            with queue.stomp() as client:
                client.subscribe(f"/amq/queue/{queue.dead}")
                headers = client.read("MESSAGE").headers
        told[protocol] = [headers[f"x-first-death-{key}"]
                          for key in ("queue", "reason", "exchange")]
    assert told["amqp"] == told["stomp"] == [queue.queue, "rejected", "amq.topic"]
