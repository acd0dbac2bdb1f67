"""The protocols as they stand beside each other: one way to send, to receive and to send on.

What a message says is a list of (name, value) pairs in the words of its protocol, in order. A
speaker writes such a list onto the wire with a client of its protocol, and reads one off it.
"""

import datetime
import decimal
import re

import pika

from helpers import PATIENCE_S, Consumer
from mqttclient import V3, V5, Client
from rawstomp import Stomp

# What the words of MQTT 5.0 are called in paho.
MQTT_PROPERTIES = {
    "Content Type": "ContentType", "Response Topic": "ResponseTopic",
    "Correlation Data": "CorrelationData", "Message Expiry Interval": "MessageExpiryInterval",
    "Payload Format Indicator": "PayloadFormatIndicator",
}
USER_PROPERTY = "User Property "
# Headers of STOMP that are about one frame or one delivery, and not sent on.
OF_DELIVERY = {"destination", "message-id", "subscription", "ack", "redelivered", "content-length",
               "x-delivery-count"}


def told(value):
    """A value as a table shows it: its type can be told from it, so a text of digits is quoted."""
    match value:
        case bool() | None:
            return {True: "true", False: "false", None: "void"}[value]
        case bytes() | bytearray():
            return "bytes " + value.hex(" ")
        case datetime.datetime():
            return "time " + value.replace(tzinfo=None).isoformat()
        case decimal.Decimal():
            return f"decimal {value}"
        case str():
            return f'"{value}"' if re.fullmatch(r"-?[0-9.]*", value) else repr(value)[1:-1]
        case int():
            return str(int(value))
        case list():
            return "[" + ", ".join(told(each) for each in value) + "]"
        case dict():
            return "{" + ", ".join(f"{key}: {told(each)}" for key, each in value.items()) + "}"
    raise TypeError(f"{value!r} has no place in a message")


class Message:
    """What was received: pairs and a body, and where it was sent to."""

    def __init__(self, address, pairs, body, again=False):
        self.address = address
        self.pairs = pairs
        self.body = body
        # Whether it says that it may have been delivered before.
        self.again = again


class Amqp:
    """AMQP 0-9-1 with pika. A name of a header begins with `headers.`."""

    def __init__(self, broker):
        self.connection = pika.BlockingConnection(
            pika.ConnectionParameters(*broker.amqp, heartbeat=0, socket_timeout=5))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        self.consumer = None

    def listen(self, key):
        """Receives what is sent to keys below `key`."""
        queue = self.channel.queue_declare("", exclusive=True).method.queue
        self.channel.queue_bind(queue, "amq.topic", f"{key}.#")
        self.consumer = Consumer(self.channel, queue, auto_ack=True)

    def send(self, key, pairs, body, exchange="amq.topic"):
        """Publishes, and returns once it is confirmed."""
        properties, headers = {}, {}
        for name, value in pairs:
            if name.startswith("headers."):
                headers[name.removeprefix("headers.")] = value
            else:
                properties[name.replace("-", "_")] = value
        self.channel.basic_publish(exchange, key, body,
                                   pika.BasicProperties(headers=headers or None, **properties))

    def receive(self, within_s=PATIENCE_S):
        method, properties, body = self.consumer.wait_for(1, within_s)[0]
        del self.consumer.deliveries[0]
        said = {name.replace("_", "-"): value for name, value in vars(properties).items()
                if value is not None and name != "headers"}
        said |= {f"headers.{name}": value for name, value in (properties.headers or {}).items()}
        return Message(f"{method.exchange} {method.routing_key}", list(said.items()), body,
                       method.redelivered)

    def close(self):
        self.connection.close()


class Mqtt:
    """MQTT with paho. A name of a user property begins with `User Property `."""

    def __init__(self, broker, version):
        self.is_5 = version == V5
        self.client = Client(broker.ports["mqtt"], version).connect()

    @staticmethod
    def topic(key):
        """The topic that stands for a routing key."""
        return key.translate(str.maketrans("./", "/."))

    def listen(self, key):
        assert self.client.subscribe(f"{self.topic(key)}/#", 2) == 2

    def send(self, key, pairs, body, exchange="amq.topic"):
        """MQTT has one exchange: others are named for protocols that have more."""
        values, qos, retain = {}, 1, False
        for name, value in pairs:
            if name == "QoS":
                qos = value
            elif name == "Retain":
                retain = value
            elif name.startswith(USER_PROPERTY):
                own = name.removeprefix(USER_PROPERTY), value
                values.setdefault("UserProperty", []).append(own)
            else:
                values[MQTT_PROPERTIES[name]] = value
        assert self.client.publish(self.topic(key), body, qos, retain, **values) == "Success"

    def receive(self, within_s=PATIENCE_S):
        message = self.client.receive(within_s)
        pairs = [("QoS", message.qos)] + [("Retain", True)] * message.retain
        if self.is_5:
            told_of = vars(message.properties)
            for name, paho_name in MQTT_PROPERTIES.items():
                if paho_name in told_of:
                    pairs.append((name, told_of[paho_name]))
            pairs += [(USER_PROPERTY + name, value)
                      for name, value in told_of.get("UserProperty", [])]
        return Message(message.topic, pairs, message.payload, message.dup)

    def close(self):
        self.client.close()


class ByHand:
    """STOMP with frames written by hand: clients keep neither order nor repeated headers."""

    def __init__(self, broker, version):
        self.client = Stomp(broker.ports["stomp"], version)
        self.escapes = {"1.0": "", "1.1": "\\\n:", "1.2": "\\\r\n:"}[version]

    def listen(self, key):
        self.client.subscribe(f"/topic/{key}.#")

    def _escaped(self, text):
        escapes = {"\\": "\\\\", "\r": "\\r", "\n": "\\n", ":": "\\c"}
        return "".join(escapes[each] if each in self.escapes else each for each in text)

    def _unescaped(self, text):
        if not self.escapes:
            return text
        read, at = "", iter(text)
        for each in at:
            read += {"\\": "\\", "r": "\r", "n": "\n", "c": ":"}[next(at)] if each == "\\" else each
        return read

    def send(self, key, pairs, body, exchange="amq.topic"):
        """A body that is to be text, `("body", "text")` among the pairs, has no content-length."""
        pairs = [("destination", f"/exchange/{exchange}/{key}"), ("receipt", "sent"), *pairs]
        is_text = ("body", "text") in pairs
        lines = [f"{self._escaped(name)}:{self._escaped(str(value))}"
                 for name, value in pairs if name != "body"]
        if not is_text:
            lines.append(f"content-length:{len(body)}")
        self.client.write(("SEND\n" + "\n".join(lines)).encode() + b"\n\n" + body + b"\0")
        while (frame := self.client._read()).command == "MESSAGE":
            self.client.early.append(frame)
        assert frame.command == "RECEIPT", frame

    def receive(self, within_s=PATIENCE_S):
        frame = self.client.read("MESSAGE", within_s)
        pairs = [(self._unescaped(name), self._unescaped(value)) for name, value in frame.pairs]
        if "content-length" not in dict(pairs):
            pairs.append(("body", "text"))
        said = dict(pairs)
        return Message(said["destination"],
                       [pair for pair in pairs if pair[0] not in OF_DELIVERY], frame.body,
                       said.get("redelivered") == "true")

    def close(self):
        self.client.socket.close()


MADE = {
    "AMQP 0-9-1": Amqp,
    "MQTT 3.1.1": lambda broker: Mqtt(broker, V3),
    "MQTT 5.0": lambda broker: Mqtt(broker, V5),
    "STOMP 1.0": lambda broker: ByHand(broker, "1.0"),
    "STOMP 1.2": lambda broker: ByHand(broker, "1.2"),
}


def speaker(broker, name):
    """A connection of the protocol and version of this name."""
    return MADE[name](broker)


def speakers(broker):
    """One of each, by its name."""
    return {name: speaker(broker, name) for name in MADE}
