"""Clients that subscribe and never read, of every protocol: what they cost, and what the others
notice."""

import contextlib
import select
import socket
import time

import pytest

import rawamqp
from broker import Broker
from mqttclient import V5, Client
from rawamqp import Connection
from rawmqtt import Mqtt
from rawstomp import Stomp
from test_mqtt import api
from test_pressure import KIB, PeakRss, RoundTrips, allowed_p99_s, many_descriptors

pytestmark = [pytest.mark.serial, pytest.mark.usefixtures(many_descriptors.__name__)]

# Subscribers that never read.
COUNT = 500
EACH_KIB_MAX = 256
# What flows to each of them: far more than sockets and the broker's buffers for one hold.
BODY = bytes(KIB)
MESSAGES = 350
# One message in so many round trips: a hundred in a second.
TRIPS_A_MESSAGE = 5
TOPIC = "slow/topic"
KEY = TOPIC.replace("/", ".")
# Filling the buffers of all of them is work, too, for some seconds.
FLOOR_S = 0.02
# A small window and small segments, by which the system sizes both sides' buffers: what is not read
# is the broker's to keep.
RECEIVE_BYTES, SEGMENT_BYTES = 4 * KIB, 1000


def amqp(broker):
    """Consumes from a queue of its own without acknowledging."""
    connection = Connection(broker.amqp, timeout_s=20).login().open_channel()
    declared = connection.call(1, rawamqp.QUEUE_DECLARE, rawamqp.QUEUE_DECLARE_OK,
                               b"\0\0" + rawamqp.short_string("") + b"\4\0\0\0\0")
    queue = declared.payload[5:5 + declared.payload[4]]
    bind = (b"\0\0" + rawamqp.short_string(queue) + rawamqp.short_string("amq.topic")
            + rawamqp.short_string(KEY) + b"\0" + bytes(4))
    connection.call(1, (50, 20), (50, 21), bind)
    connection.send(rawamqp.consume(1, queue, no_ack=True))
    connection.expect(rawamqp.BASIC_CONSUME_OK)
    return connection.socket


def mqtt(qos):
    def subscribe(broker):
        client = Mqtt(broker.ports["mqtt"])
        assert client.subscribe(TOPIC, qos) == qos
        return client.socket
    return subscribe


def stomp(broker):
    client = Stomp(broker.ports["stomp"])
    client.subscribe(f"/topic/{KEY}")
    return client.socket


SUBSCRIBERS = {"amqp": amqp, "mqtt-qos-0": mqtt(0), "mqtt-qos-1": mqtt(1), "stomp": stomp}


@contextlib.contextmanager
def small_buffers():
    """Whoever connects has them."""
    def connect(address, timeout=None):
        stream = socket.socket()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        stream.settimeout(timeout)
        stream.connect(address)
        return stream

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "create_connection", connect)
        yield


@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", SUBSCRIBERS)
def test_500_subscribers_that_never_read_cost_little_and_hold_nobody_up(tmp_path, kind):
    with Broker(tmp_path / "data") as broker, \
            Client(broker.ports["mqtt"], V5) as reader:
        trips = RoundTrips(broker.amqp)
        allowed_s, why = allowed_p99_s(trips)
        publisher = Connection(broker.amqp, timeout_s=20).login().open_channel()
        properties = rawamqp.PERSISTENT if kind == "mqtt-qos-1" else rawamqp.NO_PROPERTIES
        message = rawamqp.publish(1, "amq.topic", KEY, BODY, properties)
        reader.subscribe(TOPIC, 1)
        slow = []
        with PeakRss(broker) as rss:
            with small_buffers():
                slow += [SUBSCRIBERS[kind](broker) for _ in range(COUNT)]
            for number in range(MESSAGES * TRIPS_A_MESSAGE):
                if number % TRIPS_A_MESSAGE == 0:
                    publisher.send(message)
                trips.once()
                time.sleep(0.002)
            flooded_s = trips.p99_s()
            # The machine may be busier than it was.
            allowed_s = max(allowed_s, FLOOR_S, allowed_p99_s(trips)[0])
            # Who reads has it all.
            for _ in range(MESSAGES):
                assert reader.receive(20).payload == BODY
            # Nobody was thrown out, and nobody has had it all.
            poll = select.poll()
            for each in slow:
                poll.register(each, select.POLLRDHUP | select.POLLHUP)
            assert poll.poll(0) == [], "a subscriber was thrown out"
            waiting = [each["messages"] for each in api(broker, "GET", "queues")[1]
                       if each["messages"]]
        print(f"{kind}: {rss.grown_kib / COUNT:.1f} KiB each, {rss.grown_kib // KIB} MiB in all; "
              f"{why}, {flooded_s * 1e3:.2f} ms flooded; {len(waiting)} queues with "
              f"{max(waiting, default=0)} messages at most")
        # What QoS 0 has no room for is dropped.
        assert len(waiting) >= COUNT or kind == "mqtt-qos-0", "buffers held it all"
        assert rss.grown_kib < COUNT * EACH_KIB_MAX
        assert flooded_s < allowed_s
        for each in slow:
            each.close()
        publisher.socket.close()
        assert broker.stop() == 0, broker.log()
