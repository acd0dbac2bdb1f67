"""What ActiveMQ's clients do with queues by STOMP: selectors, browsing, several destinations at
once, temporary topics; and clients that put the name of the machine into `host`."""

import queue

import pika
import pytest
import stomp

from broker import Broker
from rawstomp import Stomp
from test_mqtt import api, permit
from test_stomp import CLIENTS, Listener, client, port, subscribe, versions  # noqa: F401


def bodies(listener, count):
    return [listener.messages.get(timeout=5).body for _ in range(count)]


def is_silent(listener):
    try:
        frame = listener.messages.get(timeout=0.3)
    except queue.Empty:
        return True
    raise AssertionError(frame)


def send_all(sender, destination, kinds, **headers):
    for n, kind in enumerate(kinds):
        sender.send(destination, f"{kind}{n}", headers={"kind": kind} | headers)
    # What is answered is there.
    sender.send("/topic/nobody", "", headers={"receipt": "sent"})
    assert sender.get_listener("test").receipts.get(timeout=5) == "sent"


@versions
def test_a_selector_of_a_queue_leaves_the_rest_to_others(client, name, version):
    sender, _ = client(version)
    send_all(sender, f"/queue/{name}", "abcabc", persistent="true")
    picky, _ = client(version)
    listener = subscribe(picky, version, destination=f"/queue/{name}",
                         headers={"selector": "kind = 'b'"})
    assert bodies(listener, 2) == ["b1", "b4"]
    assert is_silent(listener)
    anybody, _ = client(version)
    rest = subscribe(anybody, version, destination=f"/queue/{name}")
    frames = [rest.messages.get(timeout=5) for _ in range(4)]
    assert [frame.body for frame in frames] == ["a0", "c2", "a3", "c5"]
    assert {frame.headers["redelivered"] for frame in frames} == {"false"}


def test_what_comes_back_goes_to_who_wants_it(client, name):
    sender, _ = client("1.2")
    send_all(sender, f"/queue/{name}", "ab")
    first, _ = client("1.2")
    listener = subscribe(first, "1.2", destination=f"/queue/{name}", ack="client-individual")
    assert bodies(listener, 2) == ["a0", "b1"]
    second, _ = client("1.2")
    picky = subscribe(second, "1.2", destination=f"/queue/{name}",
                      headers={"selector": "kind = 'b'"})
    assert is_silent(picky)
    first.disconnect()
    frame = picky.messages.get(timeout=5)
    assert (frame.body, frame.headers["redelivered"]) == ("b1", "true")
    assert is_silent(picky)


def test_a_deep_queue_is_searched_on_disk_too(tmp_path, name):
    options = {"storage.segment_bytes": "4 MiB", "storage.checkpoint_after_bytes": "4 MiB"}
    with Broker(tmp_path / "data", options) as broker:
        with Stomp(broker.ports["stomp"]) as sender:
            filler = b"x" * 1000
            for n in range(20_000):
                kind = "wanted" if n % 5000 == 4999 else "other"
                sender.send("SEND", b"%d " % n + filler, destination=f"/queue/{name}", kind=kind,
                            persistent="true")
            sender.request("SEND", b"last", destination=f"/queue/{name}", persistent="true")
        with Stomp(broker.ports["stomp"]) as picky, Stomp(broker.ports["stomp"]) as other:
            picky.subscribe(f"/queue/{name}", selector="kind = 'wanted'")
            # Meanwhile others are served.
            other.subscribe(f"/queue/{name}.other")
            other.send("SEND", b"quick", destination=f"/queue/{name}.other")
            assert other.read("MESSAGE", timeout=5).body == b"quick"
            found = [picky.read("MESSAGE", timeout=30).body.split()[0] for _ in range(4)]
            assert found == [b"4999", b"9999", b"14999", b"19999"]
            assert picky.reads_nothing()


def test_selectors_see_messages_of_other_protocols(amqp, isthmus, port, name):
    connection = amqp.connect()
    channel = connection.channel()
    with Stomp(port) as picky:
        picky.subscribe(f"/queue/{name}", selector="n > 5 AND JMSType = 't'")
        for n, kind in [(3, "t"), (7, "t"), (9, "u")]:
            properties = pika.BasicProperties(headers={"n": n}, type=kind)
            channel.basic_publish("", name, str(n).encode(), properties)
        assert picky.read("MESSAGE").body == b"7"
        assert picky.reads_nothing()
    taken = [channel.basic_get(name, auto_ack=True)[2] for _ in range(2)]
    assert taken == [b"3", b"9"]
    connection.close()


@versions
def test_browsing_shows_everything_and_takes_nothing(client, name, version):
    sender, _ = client(version)
    send_all(sender, f"/queue/{name}", "aba")
    browser, _ = client(version)
    listener = subscribe(browser, version, destination=f"/queue/{name}",
                         headers={"browser": "true"})
    assert bodies(listener, 3) == ["a0", "b1", "a2"]
    end = listener.messages.get(timeout=5)
    assert (end.headers["browser"], end.headers["subscription"]) == ("end", "s")
    send_all(sender, f"/queue/{name}", "c")
    assert is_silent(listener)
    browser.unsubscribe(id="s")
    chosen = subscribe(browser, version, destination=f"/queue/{name}", id="t",
                       headers={"browser": "true", "selector": "kind = 'a'"})
    assert bodies(chosen, 2) == ["a0", "a2"]
    assert chosen.messages.get(timeout=5).headers["browser"] == "end"
    consumer, _ = client(version)
    taking = subscribe(consumer, version, destination=f"/queue/{name}")
    frames = [taking.messages.get(timeout=5) for _ in range(4)]
    assert [frame.body for frame in frames] == ["a0", "b1", "a2", "c0"]
    assert {frame.headers["redelivered"] for frame in frames} == {"false"}


def test_browsing_an_empty_queue_ends_at_once(port, name):
    with Stomp(port) as client:
        client.subscribe(f"/queue/{name}", browser="true")
        assert client.read("MESSAGE").headers["browser"] == "end"


def test_a_deep_queue_is_browsed_in_order(port, name):
    with Stomp(port) as client:
        for n in range(20_000):
            client.send("SEND", b"%d" % n, destination=f"/queue/{name}")
        client.request("SEND", b"last", destination=f"/queue/{name}")
        client.subscribe(f"/queue/{name}", browser="true")
        seen = [client.read("MESSAGE", timeout=20).body for _ in range(20_001)]
        assert seen == [b"%d" % n for n in range(20_000)] + [b"last"]
        assert client.read("MESSAGE").headers["browser"] == "end"


@pytest.mark.parametrize("ack", ["auto", "client", "client-individual"])
def test_a_subscription_to_several_destinations(client, name, ack):
    connection, _ = client("1.2")
    several = f"/queue/{name}.a,/topic/{name}.t,/queue/{name}.b"
    listener = subscribe(connection, "1.2", destination=several, ack=ack)
    connection.send(several, "to each")
    frames = [listener.messages.get(timeout=5) for _ in range(3)]
    assert sorted(frame.headers["destination"] for frame in frames) == [
        f"/queue/{name}.a", f"/queue/{name}.b", f"/topic/{name}.t"]
    if ack == "client":
        connection.ack(frames[-1].headers["ack"])
    elif ack == "client-individual":
        for frame in frames:
            connection.ack(frame.headers["ack"])
    connection.unsubscribe(id="s")
    connection.disconnect(receipt="bye")
    again, _ = client("1.2")
    assert is_silent(subscribe(again, "1.2", destination=f"/queue/{name}.a,/queue/{name}.b"))


def test_a_temporary_topic(client, name):
    server, _ = client("1.2")
    asking, _ = client("1.2")
    asked = subscribe(server, "1.2", destination=f"/queue/{name}")
    answers = subscribe(asking, "1.2", destination="/temp-topic/mine")
    asking.send("/temp-topic/mine", "to myself")
    assert bodies(answers, 1) == ["to myself"]
    asking.send(f"/queue/{name}", "?", headers={"reply-to": "/temp-topic/mine"})
    question = asked.messages.get(timeout=5)
    server.send(question.headers["reply-to"], "!")
    assert bodies(answers, 1) == ["!"]
    # Another's topic of that name is another.
    server.send("/temp-topic/mine", "to nobody")
    assert is_silent(answers)


def test_options_of_activemq(client, port, name):
    connection, _ = client("1.2")
    listener = subscribe(connection, "1.2", destination=f"/topic/{name}",
                         headers={"activemq.noLocal": "true", "activemq.dispatchAsync": "true"})
    connection.send(f"/topic/{name}", "from myself")
    other, _ = client("1.2")
    other.send(f"/topic/{name}", "from another")
    assert bodies(listener, 1) == ["from another"]
    # The highest priority is served first.
    low = subscribe(other, "1.2", destination=f"/queue/{name}", id="low",
                    headers={"activemq.priority": "1"})
    third, _ = client("1.2")
    high = subscribe(third, "1.2", destination=f"/queue/{name}", id="high",
                     headers={"activemq.priority": "5"})
    send_all(connection, f"/queue/{name}", "abc")
    assert bodies(high, 3) == ["a0", "b1", "c2"]
    assert is_silent(low)
    with Stomp(port) as alone, Stomp(port) as late:
        alone.subscribe(f"/queue/{name}.x", activemq__exclusive="true")
        said = late.refused("SUBSCRIBE", destination=f"/queue/{name}.x", id="s")
        assert "in exclusive use" in said
    with Stomp(port) as refused:
        said = refused.refused("SUBSCRIBE", destination=f"/queue/{name}", id="s",
                               activemq__maximumPendingMessageLimit="5")
        assert "header 'activemq.maximumPendingMessageLimit': it is not known" in said


def test_who_comes_late_gets_what_a_topic_keeps(isthmus, port, name):
    from mqttclient import Client
    with Client(isthmus.ports["mqtt"]) as publisher:
        # Dots are slashes there.
        publisher.publish(name.replace(".", "/") + "/a", b"kept", qos=1, retain=True)
    with Stomp(port) as late:
        late.subscribe(f"/topic/{name}.#", activemq__retroactive="true")
        assert late.read("MESSAGE").body == b"kept"
    with Stomp(port) as late:
        late.subscribe(f"/topic/{name}.#")
        assert late.reads_nothing()


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_a_client_that_names_the_machine_is_let_in(port, name, version):
    # As the library does it by itself.
    connection = CLIENTS[version]([("127.0.0.1", port)])
    listener = Listener()
    connection.set_listener("test", listener)
    connection.connect("guest", "guest", wait=True)
    subscribe(connection, version, destination=f"/queue/{name}")
    connection.send(f"/queue/{name}", "m")
    assert bodies(listener, 1) == ["m"]
    connection.disconnect()


def test_a_virtual_host_that_is_there_is_meant(isthmus, port, name):
    api(isthmus, "PUT", f"vhosts/{name}")
    permit(isthmus, f"user-{name}")
    login = {"login": f"user-{name}", "passcode": "secret"}
    with Stomp(port, host="nowhere", **login) as client:
        client.subscribe(f"/queue/{name}")
    with Stomp(port, connect=False) as client:
        client.send("CONNECT", accept_version="1.2", host=name, **login)
        error = client.read("ERROR")
        assert error.headers["message"] == "Access refused", error
        assert f"virtual host '{name}'" in error.body.decode()
    with Stomp(port, host=name) as client:
        client.subscribe("/queue/there")
    assert [q["vhost"] for q in api(isthmus, "GET", f"queues/{name}")[1]] == [name]
    api(isthmus, "DELETE", f"vhosts/{name}")
