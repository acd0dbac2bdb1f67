"""A paho client whose calls return once the broker has answered."""

import queue
import socket
import ssl
import struct
import threading

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from helpers import PATIENCE_S, eventually

V3, V5 = paho.MQTTv311, paho.MQTTv5


class Refused(Exception):
    """The broker has refused the connection; carries the reason code's name."""


def properties(packet=PacketTypes.PUBLISH, **values):
    """Properties of 5.0, named as paho names them."""
    made = Properties(packet)
    for name, value in values.items():
        setattr(made, name, value)
    return made


class Client:
    """One connection, from `with` to its end."""

    def __init__(self, port, version=V5, user="guest", password="guest", will=None, keepalive=60,
                 context=None, client_id="", transport="tcp", lasts_s=0):
        """With `lasts_s` its session lasts that long beyond its connection (before 5.0: for ever),
        and goes on with what is there."""
        self.messages = queue.Queue()
        self.version = version
        self.will = will
        self._answers = {}
        self._changed = threading.Condition()
        self._connected = None
        self._lasts_s = lasts_s
        self.session_present = None
        self.disconnected = None
        clean = {"clean_session": not lasts_s} if version == V3 else {}
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id, protocol=version,
                                   transport=transport, reconnect_on_failure=False, **clean)
        if user is not None:
            self._client.username_pw_set(user, password)
        if will:
            self._client.will_set(**will)
        if context:
            self._client.tls_set_context(context)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_answer
        self._client.on_unsubscribe = self._on_answer
        self._client.on_publish = lambda _c, _u, mid, reason, _p: self._answer(mid, [reason])
        self._client.on_message = lambda _c, _u, message: self.messages.put(message)
        self._address = "localhost" if context else "127.0.0.1", port
        self._keepalive = keepalive

    def _on_connect(self, _client, _userdata, flags, reason, _properties):
        with self._changed:
            self.session_present = flags.session_present
            self._connected = reason
            self._changed.notify_all()

    def _on_disconnect(self, _client, _userdata, _flags, reason, _properties):
        with self._changed:
            self.disconnected = reason
            self._changed.notify_all()

    def _on_answer(self, _client, _userdata, mid, reasons, _properties):
        self._answer(mid, reasons)

    def _answer(self, mid, reasons):
        with self._changed:
            self._answers[mid] = reasons
            self._changed.notify_all()

    def _wait(self, condition, what):
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE_S), f"no {what}"

    def _answer_to(self, mid, what):
        self._wait(lambda: mid in self._answers or self.disconnected is not None, what)
        if mid not in self._answers:
            raise ConnectionError(f"closed instead of a {what}: {self.disconnected}")
        return self._answers[mid]

    def connect(self):
        """Returns once the broker has accepted; raises Refused."""
        host, port = self._address
        options = {}
        if self.version == V5:
            lasts = properties(PacketTypes.CONNECT, SessionExpiryInterval=self._lasts_s)
            options = {"clean_start": not self._lasts_s, "properties": lasts}
        self._client.connect(host, port, self._keepalive, **options)
        self._client.loop_start()
        self._wait(lambda: self._connected is not None or self.disconnected is not None, "CONNACK")
        if self._connected is None or self._connected.is_failure:
            self._client.loop_stop()
            raise Refused(str(self._connected))
        return self

    def subscribe(self, topic, qos=1, options=None):
        """Subscribes; returns the reason code's number. `options` are those of 5.0."""
        if options:
            _, mid = self._client.subscribe(topic, options=paho.SubscribeOptions(qos, **options))
        else:
            _, mid = self._client.subscribe(topic, qos)
        return self._answer_to(mid, "SUBACK")[0].value

    def unsubscribe(self, topic):
        _, mid = self._client.unsubscribe(topic)
        self._answer_to(mid, "UNSUBACK")

    def publish(self, topic, payload=b"", qos=1, retain=False, **values):
        """Publishes; returns the reason code's name."""
        sent = properties(**values) if values else None
        info = self._client.publish(topic, payload, qos, retain, properties=sent)
        return str(self._answer_to(info.mid, "PUBACK")[0])

    def send(self, topic, payload, qos):
        """Publishes without waiting for the answer."""
        self._client.publish(topic, payload, qos)

    def reconnect(self, port):
        """Connects again, with what the client has of its session."""
        self._connected = self.disconnected = None
        # paho forgets with a second attempt which messages it has released, and would publish them
        # again [MQTT-4.3.3-6]; before the first it knows.
        for message in self._client._out_messages.values():
            if message.state == paho.mqtt_ms_resend_pubrel:
                message.state = paho.mqtt_ms_wait_for_pubcomp
        self._address = self._address[0], port
        self.connect()

    def wait_all_acknowledged(self):
        """Returns once nothing that was published is under way."""
        eventually(lambda: not self._client._out_messages, 20)

    def drain(self, quiet_s=0.0):
        """The payloads of what has come, and of what comes until nothing does for a while."""
        payloads = []
        while True:
            try:
                payloads.append(self.messages.get(timeout=quiet_s or None, block=quiet_s > 0).payload)
            except queue.Empty:
                return payloads

    def receive(self, within_s=PATIENCE_S):
        """The next message."""
        return self.messages.get(timeout=within_s)

    def receives_nothing(self, quiet_s=0.25):
        """Whether nothing comes for a while."""
        try:
            return self.messages.get(timeout=quiet_s) is None
        except queue.Empty:
            return True

    def wait_closed(self):
        """Returns the reason code's name once the broker has ended the connection."""
        self._wait(lambda: self.disconnected is not None, "end of the connection")
        return str(self.disconnected)

    def reset(self):
        """Breaks the connection without a word: the broker is sent a reset."""
        self.fall_silent()
        raw = self._client.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()

    def hang_up(self):
        """Closes the socket without a DISCONNECT."""
        self.fall_silent()
        self._client.socket().close()

    def fall_silent(self):
        """Sends nothing more, pings neither."""
        self._client.loop_stop()

    def close(self):
        """DISCONNECT."""
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self):
        return self.connect()

    def __exit__(self, *_):
        if self.disconnected is None:
            self.close()


def tls_context(certificates, is_known=False):
    """What a client needs for TLS; with `is_known` it shows its certificate."""
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    if is_known:
        context.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    return context


def raw_connect(client_id, will=None):
    """The bytes of a CONNECT of 3.1.1 as guest; `will` is a topic and a payload."""
    def text(value):
        value = value if isinstance(value, bytes) else value.encode()
        return struct.pack(">H", len(value)) + value

    flags = 0b1100_0010 | (0b100 if will else 0)
    body = text("MQTT") + bytes([4, flags, 0, 60]) + text(client_id)
    body += text(will[0]) + text(will[1]) if will else b""
    body += text("guest") + text("guest")
    length, digits = len(body), b""
    while True:
        length, digit = divmod(length, 128)
        digits += bytes([digit | (128 if length else 0)])
        if not length:
            return b"\x10" + digits + body

