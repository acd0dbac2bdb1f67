"""What connections cost that are there and do nothing."""

import contextlib
import ssl

import pytest

from broker import Broker
from rawamqp import Connection
from rawmqtt import Mqtt
from test_churn import settled
from test_pressure import KIB, many_descriptors

pytestmark = [pytest.mark.serial, pytest.mark.usefixtures(many_descriptors.__name__)]

# Bytes of resident memory for a connection: by a quarter to a half above what was measured.
MQTT_BYTES_MAX = 3.75 * KIB
MQTT_SUBSCRIBED_BYTES_MAX = 5.25 * KIB
MQTTS_BYTES_MAX = 12.5 * KIB
AMQP_BYTES_MAX = 2.75 * KIB

# What the broker allocates once, for the first clients of a kind, is no client's.
FIRST = 100
# Nor is what it has verified their password in, which it gives back when no logins come.
STILL_S = 3


def resident_bytes_each(broker, connect, count):
    """Bytes of resident memory that each of `count` connections takes that say nothing more."""
    with contextlib.ExitStack() as connections:
        for number in range(FIRST):
            connections.enter_context(connect(number))
        before_kib = settled(broker.rss_kib, within_s=20, still_s=STILL_S)
        for number in range(FIRST, FIRST + count):
            connections.enter_context(connect(number))
        grown_kib = settled(broker.rss_kib, within_s=20, still_s=STILL_S) - before_kib
    print(f"{count} connections, {grown_kib * KIB // count} bytes each")
    assert grown_kib > 0, "something else was given back meanwhile: this measures nothing"
    return grown_kib * KIB / count


def test_idle_mqtt_connections(own_isthmus):
    def connect(number):
        return Mqtt(own_isthmus.ports["mqtt"], client_id=f"client-{number:06}")

    assert resident_bytes_each(own_isthmus, connect, 2000) < MQTT_BYTES_MAX


def test_idle_mqtt_connections_with_a_subscription(own_isthmus):
    def connect(number):
        client = Mqtt(own_isthmus.ports["mqtt"], client_id=f"client-{number:06}")
        client.subscribe(f"devices/{number}/commands", 0)
        return client

    assert resident_bytes_each(own_isthmus, connect, 2000) < MQTT_SUBSCRIBED_BYTES_MAX


def test_idle_mqtt_connections_over_tls(tmp_path, certificates):
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    settings = {"listeners.mqtts": "127.0.0.1:0", "tls.certificate": certificates / "server.pem",
                "tls.key": certificates / "server.key"}
    with Broker(tmp_path / "data", settings) as broker:
        def connect(number):
            port = broker.ports["mqtts"]
            return Mqtt(port, client_id=f"client-{number:06}", context=context)

        assert resident_bytes_each(broker, connect, 1000) < MQTTS_BYTES_MAX
        assert broker.stop() == 0, broker.log()


def test_idle_amqp_connections(own_isthmus):
    def connect(_):
        return Connection(own_isthmus.amqp).login()

    assert resident_bytes_each(own_isthmus, connect, 2000) < AMQP_BYTES_MAX
