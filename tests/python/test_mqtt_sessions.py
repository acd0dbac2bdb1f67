"""MQTT sessions that outlive their connections, and what goes with them."""

import asyncio
import os
import random
import time

import pika
import pytest

import rawmqtt_async as rawmqtt
from helpers import Consumer, eventually
from mqttclient import V3, V5, Client, PacketTypes, properties
from rawmqtt import Mqtt
from rawmqtt_async import Raw
from test_mqtt import api, queues

both = pytest.mark.parametrize("version", [V3, V5], ids=["3.1.1", "5.0"])
LASTS_S = 600
SOAK = os.environ.get("ISTHMUS_SOAK") == "1"
KILLS = 100 if SOAK else 5


@pytest.fixture
def port(isthmus):
    return isthmus.ports["mqtt"]


def payloads(client, count):
    return [client.receive().payload for _ in range(count)]


@both
@pytest.mark.parametrize("qos", [1, 2])
def test_what_comes_while_a_client_is_away_waits_for_it(isthmus, port, name, version, qos):
    with Client(port, version, client_id=name, lasts_s=LASTS_S) as client:
        assert not client.session_present
        assert client.subscribe(f"{name}/#", qos) == qos
    assert f"mqtt-subscription-{name}qos1" in queues(isthmus), "operators see it"
    with Client(port) as other:
        for number in range(20):
            other.publish(f"{name}/{number}", str(number).encode(), qos)
    with Client(port, version, client_id=name, lasts_s=LASTS_S) as client:
        assert client.session_present
        assert payloads(client, 20) == [str(number).encode() for number in range(20)]
        assert client.receives_nothing()
    with Client(port, version, client_id=name) as client:
        assert not client.session_present, "a clean start"
        assert client.receives_nothing(0.05)
    eventually(lambda: f"mqtt-subscription-{name}qos1" not in queues(isthmus))


@both
def test_a_session_survives_its_broker(own_isthmus, name, version):
    with Client(own_isthmus.ports["mqtt"], version, client_id=name, lasts_s=LASTS_S) as client:
        client.subscribe(name, 2)
    with Client(own_isthmus.ports["mqtt"], version) as other:
        other.publish(name, b"kept", 2)
        other.publish(f"{name}/state", b"on", 1, retain=True)
    own_isthmus.kill()
    own_isthmus.start()
    with Client(own_isthmus.ports["mqtt"], version, client_id=name, lasts_s=LASTS_S) as client:
        assert client.session_present
        assert client.receive().payload == b"kept"
        client.subscribe(f"{name}/state")
        assert client.receive().payload == b"on"


@pytest.mark.serial
@pytest.mark.soak
def test_exactly_once_through_kills(own_isthmus, name):
    """The publisher and the subscriber come back with their sessions, and complete what was under
    way; nothing is lost and nothing comes twice."""
    port = own_isthmus.ports["mqtt"]
    subscriber = Client(port, client_id=f"to-{name}", lasts_s=LASTS_S).connect()
    subscriber.subscribe(name, 2)
    publisher = Client(port, client_id=f"from-{name}", lasts_s=LASTS_S).connect()
    sent, received = 0, []
    for _ in range(KILLS):
        for _ in range(200):
            publisher.send(name, str(sent).encode(), 2)
            sent += 1
        time.sleep(random.uniform(0, 0.1))
        own_isthmus.kill()
        for client in (publisher, subscriber):
            client.fall_silent()
        own_isthmus.start()
        received += subscriber.drain()
        for client in (publisher, subscriber):
            client.reconnect(own_isthmus.ports["mqtt"])
            assert client.session_present
    publisher.wait_all_acknowledged()
    while len(received) < sent:
        received.append(subscriber.receive().payload)
    received += subscriber.drain(0.3)
    publisher.close()
    subscriber.close()
    assert sorted(map(int, received)) == list(range(sent))


@both
def test_another_connection_takes_a_session_over(port, name, version):
    first = Client(port, version, client_id=name, lasts_s=LASTS_S).connect()
    first.subscribe(name)
    with Client(port, version, client_id=name, lasts_s=LASTS_S) as second:
        assert second.session_present
        reason = first.wait_closed()
        assert version == V3 or reason == "Session taken over"
        second.publish(name, b"x")
        assert second.receive().payload == b"x"
    Client(port, version, client_id=name).connect().close()


def test_a_session_ends_with_its_expiry(isthmus, port, name):
    with Client(port, client_id=name, lasts_s=1) as client:
        client.subscribe(name)
    assert f"mqtt-subscription-{name}qos1" in queues(isthmus)
    eventually(lambda: f"mqtt-subscription-{name}qos1" not in queues(isthmus))
    with Client(port, client_id=name, lasts_s=1) as client:
        assert not client.session_present


@both
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_is_retained_comes_to_who_subscribes_later(port, name, version, qos):
    with Client(port, version) as client:
        client.publish(f"{name}/a", b"old", qos, retain=True)
        client.publish(f"{name}/a", b"new", qos, retain=True)
        client.publish(f"{name}/b.c", b"other", qos, retain=True)
        client.subscribe(f"{name}/+", qos)
        came = {message.topic: message for message in (client.receive(), client.receive())}
        assert {topic: message.payload for topic, message in came.items()} == {
            f"{name}/a": b"new", f"{name}/b.c": b"other"}
        assert all(message.retain for message in came.values())
        assert all(message.qos == qos for message in came.values())
        client.publish(f"{name}/a", b"live", qos, retain=True)
        live = client.receive()
        assert live.payload == b"live" and not live.retain
        for topic in came:
            client.publish(topic, b"", qos, retain=True)
    with Client(port, version) as client:
        client.subscribe(f"{name}/#", qos)
        assert client.receives_nothing(), "an empty one removes it"


def test_subscribers_choose_what_retained_messages_they_get(port, name):
    with Client(port) as client:
        client.publish(name, b"kept", retain=True)
        client.subscribe(name, options={"retainHandling": 2})
        assert client.receives_nothing(0.1)
        client.subscribe(name, options={"retainHandling": 1})
        assert client.receives_nothing(0.1), "the subscription is not new"
        client.subscribe(name, options={"retainHandling": 0, "retainAsPublished": True})
        assert client.receive().retain
        client.publish(name, b"live", retain=True)
        assert client.receive().retain, "as published"
        client.publish(name, b"", retain=True)


def test_retained_messages_expire(port, name):
    with Client(port) as client:
        client.publish(name, b"soon gone", retain=True, MessageExpiryInterval=1)
        time.sleep(1.2)
        client.subscribe(name)
        assert client.receives_nothing()


def test_a_delivery_that_was_begun_does_not_expire(port, name):
    async def run():
        subscriber, publisher = await Raw.open(port), await Raw.open(port)
        await subscriber.log_in(name, clean=True)
        await subscriber.subscribe(name, 2)
        await publisher.log_in(f"p-{name}", clean=True)
        expires = rawmqtt.text(name) + b"\0\1" + b"\5\2\0\0\0\1" + b"m"
        publisher.send(rawmqtt.packet(rawmqtt.PUBLISH, expires, flags=4))
        await publisher.expect(rawmqtt.PUBREC)
        body = await subscriber.expect(rawmqtt.PUBLISH)
        packet_id = int.from_bytes(body[2 + len(name):4 + len(name)], "big")
        await asyncio.sleep(1.5)
        subscriber.send(rawmqtt.answer(rawmqtt.PUBREC, packet_id))
        released = await subscriber.expect(rawmqtt.PUBREL)
        assert released == packet_id.to_bytes(2, "big"), "it is known"
        subscriber.send(rawmqtt.answer(rawmqtt.PUBCOMP, packet_id))
        for each in (subscriber, publisher):
            await each.say_goodbye()
    asyncio.run(run())


def test_a_delivery_that_was_begun_is_sent_again_after_its_time(port, name):
    """[MQTT-4.3.3-7]: what was sent before the connection broke, and nothing else."""
    async def run():
        publisher = await Raw.open(port)
        await publisher.log_in(f"p-{name}", clean=True)
        with Mqtt(port, client_id=name, lasts_s=60, receive_maximum=1) as subscriber:
            assert subscriber.subscribe(name, 2) == 2
            for packet_id, body in [(1, b"begun"), (2, b"waits")]:
                expires = rawmqtt.text(name) + bytes([0, packet_id]) + b"\5\2\0\0\0\1" + body
                publisher.send(rawmqtt.packet(rawmqtt.PUBLISH, expires, flags=4))
                await publisher.expect(rawmqtt.PUBREC)
            begun = subscriber.receive(5)
            assert (begun.payload, begun.dup) == (b"begun", False)
        await asyncio.sleep(2.5)
        with Mqtt(port, client_id=name, lasts_s=60, receive_maximum=1) as subscriber:
            assert subscriber.connack[0] & 1, "the session is there"
            again = subscriber.receive(5)
            assert (again.payload, again.dup, again.id) == (b"begun", True, begun.id)
            subscriber.settle(again)
            assert subscriber.receives_nothing(0.5), "what was never sent has expired"
        await publisher.say_goodbye()
    asyncio.run(run())


def test_members_of_a_group_share_its_messages(port, name):
    with Client(port) as one, Client(port) as other, Client(port) as publisher:
        for member in (one, other):
            assert member.subscribe(f"$share/{name}/{name}/#", 1) == 1
        for number in range(100):
            publisher.publish(f"{name}/{number}", str(number).encode())
        counts = {}
        eventually(lambda: one.messages.qsize() + other.messages.qsize() == 100)
        for member in (one, other):
            counts[member] = member.drain()
        assert sorted(int(each) for part in counts.values() for each in part) == list(range(100))
        assert all(part for part in counts.values()), "one has had them all"
        one.close()
        publisher.publish(name, b"to who is left")
        assert other.receive().payload == b"to who is left"


def test_a_client_need_not_hear_itself(port, name):
    with Client(port) as one, Client(port) as other:
        one.subscribe(name, options={"noLocal": True})
        other.subscribe(name)
        one.publish(name, b"mine")
        other.publish(name, b"yours")
        assert sorted(payloads(other, 2)) == [b"mine", b"yours"]
        assert payloads(one, 1) == [b"yours"]
        assert one.receives_nothing(0.1)


def test_a_delayed_will_waits_for_its_client(port, name):
    delay = properties(PacketTypes.WILLMESSAGE, WillDelayInterval=2)
    will = {"topic": name, "payload": b"gone", "qos": 1, "properties": delay}

    def client():
        return Client(port, client_id=f"w-{name}", lasts_s=LASTS_S, will=will).connect()
    with Client(port) as heir:
        heir.subscribe(name)
        client().reset()
        back = client()
        assert heir.receives_nothing(2.5), "it was back in time"
        back.reset()
        begun_s = time.monotonic()
        assert heir.receive(5).payload == b"gone"
        assert time.monotonic() - begun_s > 1.5
    Client(port, client_id=f"w-{name}").connect().close()


def test_an_amqp_consumer_gets_what_a_session_is_for(isthmus, port, name):
    """The queue of a session is a queue as any other."""
    with Client(port, client_id=name, lasts_s=LASTS_S) as client:
        client.subscribe(f"{name}/+/x")
    connection = pika.BlockingConnection(pika.ConnectionParameters(*isthmus.amqp))
    channel = connection.channel()
    key = name.replace(".", "/")
    channel.basic_publish("amq.topic", f"{key}.y.x", b"from AMQP")
    with Client(port, client_id=name, lasts_s=LASTS_S) as client:
        assert client.receive().payload == b"from AMQP"
    channel.basic_publish("amq.topic", f"{key}.z.x", b"again")
    consumer = Consumer(channel, f"mqtt-subscription-{name}qos1")
    assert consumer.wait_for(1)[0][2] == b"again"
    connection.close()
    _, sessions = api(isthmus, "GET", "sessions")
    assert any(each["client_id"] == name for each in sessions)
    Client(port, client_id=name).connect().close()


def test_what_is_left_of_a_message_is_told(own_isthmus, name):
    with Client(own_isthmus.ports["mqtt"], V5, client_id=name, lasts_s=LASTS_S) as client:
        client.subscribe(name, 1)
    with Client(own_isthmus.ports["mqtt"], V5) as other:
        other.publish(name, b"mqtt", 1, MessageExpiryInterval=100)
        other.publish(name, b"soon over", 1, MessageExpiryInterval=1)
        with pika.BlockingConnection(pika.ConnectionParameters(*own_isthmus.amqp)) as connection:
            properties = pika.BasicProperties(expiration="100000", delivery_mode=2)
            key = name.replace(".", "/")
            connection.channel().basic_publish("amq.topic", key, b"amqp", properties)
        time.sleep(1.2)
        own_isthmus.kill()
        own_isthmus.start()
    time.sleep(1)
    with Client(own_isthmus.ports["mqtt"], V5, client_id=name, lasts_s=LASTS_S) as client:
        got = [client.receive() for _ in range(2)]
        assert [m.payload for m in got] == [b"mqtt", b"amqp"]
        for message in got:
            assert 90 <= message.properties.MessageExpiryInterval <= 98
        assert client.receives_nothing()


@pytest.mark.parametrize("lasts_s", [0, 60], ids=["passing", "lasting"])
def test_members_of_a_group_get_what_is_exactly_once(port, name, lasts_s):
    filter_ = f"$share/group/{name}"
    with Client(port, V5, client_id=f"{name}1", lasts_s=lasts_s) as one, \
            Client(port, V5, client_id=f"{name}2", lasts_s=lasts_s) as two:
        assert [one.subscribe(filter_, 2), two.subscribe(filter_, 2)] == [2, 2]
        with Client(port, V5) as other:
            for n in range(200):
                other.publish(name, b"%d" % n, 2)
        eventually(lambda: one.messages.qsize() + two.messages.qsize() == 200)
        of_one, of_two = one.drain(0.2), two.drain()
        assert sorted(of_one + of_two, key=int) == [b"%d" % n for n in range(200)]
        assert of_one and of_two


def test_a_queue_that_an_operator_deletes_comes_back(isthmus, port, name):
    with Client(port, V5, client_id=name, lasts_s=60) as client:
        client.subscribe(f"{name}/+", 1)
        api(isthmus, "DELETE", f"queues/%2F/mqtt-subscription-{name}qos1")
        assert client.wait_closed() == "Administrative action"
        client.reconnect(port)
        assert client.session_present
        with Client(port, V5) as other:
            eventually(lambda: other.publish(f"{name}/a", b"m", 1)
                       and not client.receives_nothing(0.1))
    api(isthmus, "DELETE", f"queues/%2F/mqtt-subscription-{name}qos1")
    with Client(port, V5, client_id=name, lasts_s=60) as client:
        with Client(port, V5) as other:
            # The queue is bound again once it is there.
            eventually(lambda: other.publish(f"{name}/a", b"n", 1)
                       and not client.receives_nothing(0.1))
