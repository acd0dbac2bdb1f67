"""MQTT 3.1.1 and 5.0 with a client of everyday use, beside AMQP 0-9-1."""

import base64
import json
import socket
import time
import urllib.error
import urllib.request

import pika
import pytest

from broker import Broker
from helpers import Consumer, eventually
from mqttclient import V3, V5, Client, Refused, raw_connect, tls_context
from rawmqtt import Mqtt

both = pytest.mark.parametrize("version", [V3, V5], ids=["3.1.1", "5.0"])


def api(broker, method, path, body=None):
    """Status and JSON of a request to the management API."""
    url = f"http://127.0.0.1:{broker.ports['http']}/api/{path}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, method=method, data=data)
    request.add_header("authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
    request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, timeout=5) as response:
        text = response.read()
        return response.status, json.loads(text) if text else None


def permit(broker, user, vhost="/", **patterns):
    """Makes a user with password `secret`, who may do what the patterns say."""
    api(broker, "PUT", f"users/{user}", {"password": "secret", "tags": ""})
    vhost = vhost.replace("/", "%2F")
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    api(broker, "PUT", f"permissions/{vhost}/{user}", everything | patterns)


@pytest.fixture
def port(isthmus):
    return isthmus.ports["mqtt"]


@both
def test_who_logs_in_is_let_in_and_others_are_told_why_not(port, version):
    with Client(port, version):
        pass
    wrong = {V3: "Bad user name or password", V5: "Bad user name or password"}[version]
    with pytest.raises(Refused, match=wrong):
        Client(port, version, password="wrong").connect()
    with pytest.raises(Refused, match="Not authorized"):
        Client(port, version, user=None).connect()
    with pytest.raises(Refused, match="Not authorized"):
        Client(port, version, user="nowhere:guest").connect()


@both
@pytest.mark.parametrize("qos", [0, 1])
def test_messages_go_both_ways(port, name, version, qos):
    with Client(port, version) as one, Client(port, version) as other:
        assert one.subscribe(f"{name}/one", qos) == qos
        assert other.subscribe(f"{name}/other", qos) == qos
        for n in range(50):
            one.publish(f"{name}/other", b"to %d" % n, qos)
            other.publish(f"{name}/one", b"fro %d" % n, qos)
        to = [other.receive() for _ in range(50)]
        fro = [one.receive() for _ in range(50)]
    assert [m.payload for m in to] == [b"to %d" % n for n in range(50)]
    assert [m.payload for m in fro] == [b"fro %d" % n for n in range(50)]
    assert {(m.topic, m.qos, m.retain) for m in to} == {(f"{name}/other", qos, False)}


@both
def test_wildcards(port, name, version):
    with Client(port, version) as client:
        assert client.subscribe(f"{name}/+/c", 1) == 1
        for topic in ["a/c", "b/c", "a/b/c", "c"]:
            client.publish(f"{name}/{topic}")
        assert [client.receive().topic for _ in range(2)] == [f"{name}/a/c", f"{name}/b/c"]
        client.unsubscribe(f"{name}/+/c")
        client.publish(f"{name}/a/c")
        assert client.receives_nothing()
        client.subscribe(f"{name}/#", 1)
        for topic in ["", "/x", "/x/y.z", "/ü"]:
            client.publish(name + topic)
        topics = [client.receive().topic for _ in range(4)]
        assert topics == [name, f"{name}/x", f"{name}/x/y.z", f"{name}/ü"]


@both
@pytest.mark.parametrize("end", ["reset", "hang_up"])
def test_a_will_is_published_when_the_connection_breaks(port, name, version, end):
    with Client(port, version) as heir:
        heir.subscribe(name, 1)
        will = {"topic": name, "payload": b"gone", "qos": 1}
        client = Client(port, version, will=will).connect()
        assert heir.receives_nothing()
        getattr(client, end)()
        message = heir.receive()
    assert (message.payload, message.qos) == (b"gone", 1)


@both
def test_a_will_is_published_when_the_client_falls_silent(port, name, version):
    with Client(port, version) as heir:
        heir.subscribe(name, 0)
        will = {"topic": name, "payload": b"gone", "qos": 0}
        client = Client(port, version, will=will, keepalive=1).connect()
        client.fall_silent()
        assert heir.receive().payload == b"gone"


@both
def test_a_will_is_published_when_an_operator_closes_the_connection(isthmus, port, name, version):
    with Client(port, version) as heir:
        heir.subscribe(name, 1)
        will = {"topic": name, "payload": b"gone", "qos": 1}
        client = Client(port, version, will=will).connect()
        named = {V3: "MQTT 3.1.1", V5: "MQTT 5.0"}[version]
        listed = api(isthmus, "GET", "connections")[1]
        assert [each["protocol"] for each in listed[-2:]] == [named] * 2, listed
        connection = urllib.request.quote(listed[-1]["name"], safe="")
        api(isthmus, "DELETE", f"connections/{connection}")
        assert heir.receive().payload == b"gone"
        client.wait_closed()


@both
def test_a_will_goes_with_a_goodbye(port, name, version):
    with Client(port, version) as heir:
        heir.subscribe(name, 1)
        Client(port, version, will={"topic": name, "payload": b"gone", "qos": 1}).connect().close()
        assert heir.receives_nothing()


def test_a_connect_may_be_larger_than_a_read(port, name):
    payload = b"x" * 40_000
    with Client(port) as heir:
        heir.subscribe(name, 1)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
            connect = raw_connect("large", will=(name, payload))
            for at in range(0, len(connect), 7000):
                stream.sendall(connect[at:at + 7000])
            assert stream.recv(4) == b"\x20\x02\0\0"
        assert heir.receive().payload == payload


@pytest.fixture
def bound(channel, name):
    """An AMQP queue that gets what is published to topics below `name`, and its consumer."""
    channel.queue_declare(name, exclusive=True)
    channel.queue_bind(name, "amq.topic", f"{name.replace('.', '/')}.#")
    return Consumer(channel, name, auto_ack=True)


def topic_of(name):
    """The topic that the name stands for as a routing key's first word, and the key."""
    return name, name.replace(".", "/")


@both
def test_amqp_receives_what_mqtt_publishes(port, bound, name, version):
    topic, key = topic_of(name)
    with Client(port, version) as client:
        client.publish(f"{topic}/a", b"at most once", 0)
        client.publish(f"{topic}/b", b"at least once", 1)
    first, second = bound.wait_for(2)
    assert [m.routing_key for m, _, _ in (first, second)] == [f"{key}.a", f"{key}.b"]
    assert [m.exchange for m, _, _ in (first, second)] == ["amq.topic"] * 2
    assert [p.delivery_mode for _, p, _ in (first, second)] == [1, 2]
    assert [body for _, _, body in (first, second)] == [b"at most once", b"at least once"]
    assert first[1].headers is None


def test_amqp_receives_the_properties_of_mqtt(port, bound, name):
    with Client(port) as client:
        client.publish(
            f"{name}/a", b"{}", ContentType="application/json", ResponseTopic="answers/here",
            CorrelationData=b"42", MessageExpiryInterval=60, PayloadFormatIndicator=1,
            UserProperty=[("tenant", "blue"), ("isthmus-message-id", "m-1"),
                          ("isthmus-user-id", "guest")])
        client.publish(f"{name}/b", b"", CorrelationData=b"\xff\0")
    (_, first, _), (_, second, _) = bound.wait_for(2)
    assert first.content_type == "application/json"
    assert (first.reply_to, first.correlation_id) == ("answers.here", "42")
    assert (first.expiration, first.message_id) == ("60000", "m-1")
    # Nobody has made sure who it was.
    assert first.user_id is None
    assert first.headers == {"tenant": "blue", "isthmus-user-id": "guest",
                             "isthmus-body-is-text": True}
    assert second.correlation_id is None
    assert second.headers == {"isthmus-correlation-id": b"\xff\0"}


def test_mqtt_receives_the_properties_of_amqp(port, channel, name):
    topic, key = topic_of(name)
    with Client(port) as client, Client(port, V3) as older:
        client.subscribe(f"{topic}/#")
        older.subscribe(f"{topic}/#")
        channel.basic_publish("amq.topic", f"{key}.a", b"body", pika.BasicProperties(
            content_type="text/plain", content_encoding="gzip", delivery_mode=2, priority=7,
            correlation_id="42", reply_to="answers.here", expiration="60000", message_id="m-1",
            timestamp=1_700_000_000, type="greeting", app_id="tests", user_id="guest",
            headers={"tenant": "blue", "n": 5, "x-list": [1, "two"]}))
        message = client.receive()
        plain = older.receive()
    assert (message.topic, message.payload, message.qos) == (f"{topic}/a", b"body", 1)
    assert (plain.topic, plain.payload, plain.qos) == (f"{topic}/a", b"body", 1)
    told = message.properties
    assert told.ContentType == "text/plain"
    assert (told.ResponseTopic, told.CorrelationData) == ("answers/here", b"42")
    assert told.MessageExpiryInterval == 60
    expected = {
        "isthmus-message-id": "m-1", "isthmus-content-encoding": "gzip", "isthmus-priority": "7",
        "isthmus-type": "greeting", "isthmus-app-id": "tests", "isthmus-user-id": "guest",
        "isthmus-timestamp": "1700000000000", "tenant": "blue", "n": "5",
        "isthmus-type-of:n": "int", "isthmus-type-of:x-list": "list", "x-list": "int:1:1:3:two",
    }
    assert dict(told.UserProperty) == expected


def test_what_comes_back_by_way_of_mqtt_says_what_it_said(port, channel, bound, name):
    topic, _ = topic_of(name)
    sent = pika.BasicProperties(
        content_type="text/plain", content_encoding="gzip", delivery_mode=2, priority=7,
        correlation_id="42", reply_to="no.topic.#", expiration="61500", message_id="m-1",
        timestamp=1_700_000_000, type="greeting", app_id="tests", cluster_id="c",
        headers={"tenant": "blue", "n": -5, "flag": True, "none": None, "bytes": b"\xff\0",
                 "nested": {"list": [1, "two", {"three": 3}]}})
    with Client(port) as client:
        client.subscribe("elsewhere")
        channel.basic_publish("amq.topic", "elsewhere", b"body", sent)
        message = client.receive()
        client.publish(f"{topic}/back", message.payload, 1,
                       **{each: value for each, value in vars(message.properties).items()
                          if each in SENT_ON})
    (_, back, body), = bound.wait_for(1)
    assert body == b"body"
    assert vars(back) == vars(sent)


SENT_ON = {"ContentType", "ResponseTopic", "CorrelationData", "MessageExpiryInterval",
           "PayloadFormatIndicator", "UserProperty"}


def test_what_comes_back_by_way_of_amqp_says_what_it_said(port, channel, bound, name):
    topic, _ = topic_of(name)
    long = "n" * 300
    with Client(port) as client:
        client.subscribe(f"{name}.back")
        client.publish(
            f"{topic}/a", b"{}", ContentType="c" * 300, ResponseTopic="r/" * 200 + "end",
            CorrelationData=b"\xff\0", MessageExpiryInterval=5_000_000, PayloadFormatIndicator=1,
            UserProperty=[("tenant", "blue"), (long, "long"), ("isthmus-user-id", "ann")])
        (_, properties, body), = bound.wait_for(1)
        channel.basic_publish("amq.topic", topic_of(f"{name}.back")[1], body, properties)
        back = client.receive().properties
    assert (back.ContentType, back.ResponseTopic) == ("c" * 300, "r/" * 200 + "end")
    assert (back.CorrelationData, back.PayloadFormatIndicator) == (b"\xff\0", 1)
    assert back.MessageExpiryInterval == 5_000_000
    assert sorted(back.UserProperty) == sorted(
        [("tenant", "blue"), (long, "long"), ("isthmus-user-id", "ann")])


@both
def test_what_is_not_permitted_is_refused(isthmus, port, name, version):
    user = f"u-{name}"
    permit(isthmus, user, write=r"amq\.mqtt\..*|amq\.topic", read=".*")
    key = topic_of(name)[1]
    api(isthmus, "PUT", f"topic-permissions/%2F/{user}",
        {"exchange": "amq.topic", "write": f"^{key}\\.open", "read": f"^{key}\\.(open|#)"})
    with Client(port, version, user=user, password="secret") as client:
        assert client.subscribe(f"{name}/open") == 1
        assert client.subscribe(f"{name}/closed") == {V3: 128, V5: 135}[version]
        assert client.publish(f"{name}/open") == "Success"
        assert client.receive().topic == f"{name}/open"
        if version == V5:
            assert client.publish(f"{name}/closed") == "Not authorized"
            assert client.publish(f"{name}/open") == "Success"
        else:
            # 3.1.1 has no other way to say no.
            with pytest.raises(ConnectionError):
                client.publish(f"{name}/closed")


@both
def test_who_leaves_a_will_that_is_not_permitted_is_not_let_in(isthmus, port, name, version):
    user = f"u-{name}"
    permit(isthmus, user, write="mqtt-subscription-.*")
    with Client(port, version) as heir:
        heir.subscribe(name)
        will = {"topic": name, "payload": b"gone", "qos": 1}
        with pytest.raises(Refused, match="Not authorized"):
            Client(port, version, user=user, password="secret", will=will).connect()
        Client(port, version, user=user, password="secret").connect().reset()
        assert heir.receives_nothing()


@both
def test_a_user_name_may_name_a_virtual_host(isthmus, port, name, version):
    api(isthmus, "PUT", f"vhosts/{name}")
    user = f"u-{name}"
    permit(isthmus, user, vhost=name)
    with Client(port, version, user=f"{name}:{user}", password="secret") as inside, \
            Client(port, version) as outside:
        inside.subscribe("a")
        outside.subscribe("a")
        inside.publish("a", b"inside")
        outside.publish("a", b"outside")
        assert inside.receive().payload == b"inside"
        assert outside.receive().payload == b"outside"
        assert inside.receives_nothing(0.05) and outside.receives_nothing(0.05)
    with pytest.raises(Refused, match="Not authorized"):
        Client(port, version, user=user, password="secret").connect()
    api(isthmus, "DELETE", f"vhosts/{name}")


def test_a_virtual_host_that_may_have_no_more_queues_says_so(isthmus, port, name):
    api(isthmus, "PUT", f"vhosts/{name}")
    user = f"u-{name}"
    permit(isthmus, user, vhost=name)
    api(isthmus, "PUT", f"vhost-limits/{name}/max-queues", {"value": 0})
    with Mqtt(port, client_id=name, user=f"{name}:{user}", password="secret") as client:
        assert client.reason == 0
        assert client.subscribe(f"{name}/#") == 0x97
    with Mqtt(port, 4, client_id=name, user=f"{name}:{user}", password="secret") as client:
        assert client.subscribe(f"{name}/#") == 0x80
    api(isthmus, "DELETE", f"vhosts/{name}")


@pytest.fixture(scope="module")
def secured(tmp_path_factory, certificates):
    """Brokers that want, or need, certificates of their clients."""
    def start(client_auth):
        return Broker(tmp_path_factory.mktemp("mqtts") / "data", {
            "listeners.mqtts": "127.0.0.1:0", "listeners.amqps": "off", "listeners.https": "off",
            "tls.certificate": certificates / "server.pem",
            "tls.key": certificates / "server.key", "tls.client_auth": client_auth,
            "tls.client_ca": certificates / "ca.pem"})

    with start("wanted") as wanted, start("required") as required:
        yield {"wanted": wanted, "required": required}
        assert (wanted.stop(), required.stop()) == (0, 0)


@both
def test_over_tls(secured, certificates, name, version):
    port = secured["wanted"].ports["mqtts"]
    with Client(port, version, context=tls_context(certificates)) as client:
        client.subscribe(name)
        client.publish(name, b"x" * 200_000)
        assert len(client.receive().payload) == 200_000
    with pytest.raises(Refused, match="Not authorized"):
        Client(port, version, user=None, context=tls_context(certificates)).connect()


@both
def test_a_certificate_logs_in(secured, certificates, name, version):
    broker = secured["required"]
    port = broker.ports["mqtts"]
    known = tls_context(certificates, is_known=True)
    with Client(port, version, user=None, context=known) as client:
        client.subscribe(name)
        client.publish(name, b"from a certificate")
        assert client.receive().payload == b"from a certificate"
        listed = api(broker, "GET", "connections")[1]
        assert [each["user"] for each in listed] == ["guest"], listed
    api(broker, "PUT", f"vhosts/{name}")
    permit_guest = {"configure": ".*", "write": ".*", "read": ".*"}
    api(broker, "PUT", f"permissions/{name}/guest", permit_guest)
    with Client(port, version, user=f"{name}:", password=None, context=known):
        listed = api(broker, "GET", "connections")[1]
        assert [each["vhost"] for each in listed] == [name], listed
    with pytest.raises(Refused, match="Not authorized"):
        Client(port, version, user="other", password=None, context=known).connect()
    # TLS 1.3 tells a client that it lacks a certificate only after its handshake.
    with pytest.raises((OSError, Refused)):
        Client(port, version, context=tls_context(certificates)).connect()


def test_what_is_not_mqtt_is_hung_up_on(port):
    for said in [b"GET / HTTP/1.1\r\n\r\n", b"AMQP\0\0\x09\x01", b"\x10\xff\xff\xff\xff\x7f"]:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
            stream.sendall(said)
            while stream.recv(100):
                pass


def test_connections_that_end_leave_nothing(isthmus, port, name):
    with Client(port) as client:
        client.subscribe(name)
        assert [q for q in queues(isthmus) if q.startswith("mqtt-subscription-")]
    eventually(lambda: not [q for q in queues(isthmus) if q.startswith("mqtt-subscription-")])


def queues(broker):
    return [each["name"] for each in api(broker, "GET", "queues")[1]]


@pytest.fixture(scope="module")
def telling(tmp_path_factory):
    """A broker that tells of itself four times a second."""
    settings = {"mqtt.sys_interval": "250ms"}
    with Broker(tmp_path_factory.mktemp("telling") / "data", settings) as broker:
        yield broker


# What dashboards for Mosquitto ask for.
SYS_TOPICS = [
    "version", "uptime", "clients/connected", "clients/disconnected", "clients/total",
    "clients/maximum", "clients/expired", "messages/received", "messages/sent", "messages/stored",
    "messages/inflight", "publish/messages/received", "publish/messages/sent",
    "publish/messages/dropped", "publish/bytes/received", "publish/bytes/sent", "bytes/received",
    "bytes/sent", "subscriptions/count", "retained messages/count", "store/messages/count",
    "store/messages/bytes", "heap/current", "heap/maximum",
] + [f"load/{what}/{span}" for span in ["1min", "5min", "15min"]
     for what in ["messages/received", "messages/sent", "publish/received", "publish/sent",
                  "publish/dropped", "bytes/received", "bytes/sent", "connections", "sockets"]]


class Told:
    """What a client that subscribes to all of it is told."""

    def __init__(self, client):
        self.client = client
        self.values = {}
        self.news = None

    def receive(self):
        message = self.client.receive()
        self.values[message.topic.removeprefix("$SYS/broker/")] = message.payload.decode()
        if not message.retain:
            self.news = message

    def wait(self, topic, wanted):
        while int(self.values[topic]) != wanted:
            self.receive()


@both
def test_the_broker_tells_of_itself(telling, name, version):
    port = telling.ports["mqtt"]
    with Client(port, version) as client, Client(port, version) as everything:
        everything.subscribe("#", 1)
        everything.subscribe("+/broker/uptime", 1)
        assert client.subscribe("$SYS/broker/#", 2) == 2
        # All of it at once, and nothing of it is for wildcards.
        told = Told(client)
        while not set(SYS_TOPICS) <= set(told.values):
            told.receive()
        assert told.values["version"].startswith("isthmus version ")
        assert told.values["uptime"].endswith(" seconds")
        before = int(told.values["publish/messages/received"])
        for _ in range(3):
            everything.publish(name, b"12345", 1)
        assert [everything.receive().topic for _ in range(3)] == [name] * 3
        told.wait("publish/messages/received", before + 3)
        assert (told.news.qos, told.news.retain) == (0, False)
        told.wait("clients/connected", 2)
        away = int(told.values["clients/disconnected"])
        with Client(port, version, client_id=name, lasts_s=60):
            told.wait("clients/connected", 3)
        told.wait("clients/disconnected", away + 1)
        assert everything.receives_nothing()


def test_only_the_broker_tells_of_itself(telling, name):
    port = telling.ports["mqtt"]
    with Client(port, V5) as client:
        client.subscribe(f"$SYS/{name}", 1)
        assert client.publish(f"$SYS/{name}", b"forged", 1) == "Not authorized"
        # The client lets go of a packet identifier that it need not.
        assert client.publish(f"$SYS/{name}", b"forged", 2) == "Packet identifier not found"
        client.send(f"$SYS/{name}", b"forged", 0)
        with Client(port, V3) as other:
            for qos in [0, 1, 2]:
                other.publish(f"$SYS/{name}", b"forged", qos)
            other.publish(f"${name}", b"forged", 1)
        assert client.receives_nothing()
    with pika.BlockingConnection(pika.ConnectionParameters(*telling.amqp)) as connection:
        channel = connection.channel()
        channel.basic_publish("amq.mqtt.system", f"$SYS.{name}", b"forged")
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="internal"):
            channel.queue_declare("")
        channel = connection.channel()
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
            channel.exchange_delete("amq.mqtt.system")


def test_who_may_read_what_the_broker_tells(telling, name):
    port = telling.ports["mqtt"]
    permit(telling, name)
    topics = {"exchange": "amq.mqtt.system", "write": "", "read": r"^\$SYS\.broker\.uptime$"}
    api(telling, "PUT", f"topic-permissions/%2F/{name}", topics)
    with Client(port, V5, user=name, password="secret") as client:
        assert client.subscribe("$SYS/broker/uptime", 1) == 1
        assert client.receive().topic == "$SYS/broker/uptime"
        assert client.subscribe("$SYS/broker/version", 1) == 0x87


def test_a_rate_limit_holds_publishers(own_isthmus, name):
    port = own_isthmus.ports["mqtt"]
    api(own_isthmus, "PUT", "user-limits/guest/max-publishes-per-second", {"value": 40})
    with Client(port, V5) as client, Client(port, V5) as receiver:
        receiver.subscribe(name, 1)
        start = time.monotonic()
        for n in range(80):
            client.send(name, b"%d" % n, n % 3)
        got = [receiver.receive(10).payload for _ in range(80)]
        took = time.monotonic() - start
    assert sorted(got, key=int) == [b"%d" % n for n in range(80)]
    # The first second's worth is there at once at the most.
    assert 0.9 <= took < 6, took
