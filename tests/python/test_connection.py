"""Login, heartbeats, flow control and the ends of connections and channels."""

import threading
import time

import pika
import pytest

import rawamqp
from helpers import channel_closes, eventually, exchange_exists, message_count

FAILURE_CLOSE = rawamqp.table({"capabilities": {"authentication_failure_close": True}})


@pytest.mark.parametrize("user, password", [
    ("guest", "wrong"), ("guest", ""), ("nobody", "guest"), ("", ""), ("g" * 200, "p" * 2000),
])
def test_a_wrong_password_is_403_for_clients_that_understand_it(amqp, user, password):
    with rawamqp.Connection(amqp.address) as raw:
        raw.start()
        raw.start_ok(user, password, properties=FAILURE_CLOSE)
        closed = raw.expect_close()
        assert closed.code == 403 and closed.text.startswith("ACCESS_REFUSED")


def test_a_wrong_password_ends_the_connection_of_older_clients(amqp):
    with rawamqp.Connection(amqp.address) as raw:
        raw.start()
        raw.start_ok("guest", "wrong")
        assert raw.receive() is None


def test_pika_reports_a_wrong_password(amqp):
    with pytest.raises(pika.exceptions.ProbableAuthenticationError):
        amqp.connect(credentials=pika.PlainCredentials("guest", "wrong"))


def test_an_unknown_virtual_host_is_530(amqp):
    with rawamqp.Connection(amqp.address) as raw:
        raw.start()
        raw.start_ok()
        raw.expect(rawamqp.TUNE)
        raw.tune_ok()
        raw.send(rawamqp.method(0, rawamqp.OPEN, rawamqp.short_string("no-such-host") + b"\0\0"))
        assert raw.expect_close().code == 530


def test_an_unknown_mechanism_is_refused(amqp):
    with rawamqp.Connection(amqp.address) as raw:
        raw.start()
        raw.send(rawamqp.method(0, rawamqp.START_OK, b"\0\0\0\0" + rawamqp.short_string("MAGIC")
                                + rawamqp.long_string("") + rawamqp.short_string("en_US")))
        refusal = raw.expect_refusal()
        assert refusal is None or refusal.code in (403, 503, 504)


def test_the_server_says_what_it_can(connection):
    capabilities = connection._impl.server_capabilities
    for expected in ("publisher_confirms", "exchange_exchange_bindings", "basic.nack",
                     "consumer_cancel_notify", "authentication_failure_close",
                     "connection.blocked", "per_consumer_qos"):
        assert capabilities.get(expected) is True, expected


def test_a_client_that_sends_heartbeats_stays(amqp):
    """A second between heartbeats; the client is busy with nothing for several of them."""
    connection = amqp.connect(heartbeat=1)
    channel = connection.channel()
    connection.process_data_events(time_limit=3.5)
    assert channel.queue_declare("", exclusive=True).method.queue
    connection.close()


def test_the_server_sends_heartbeats_and_closes_a_silent_client(amqp):
    with rawamqp.Connection(amqp.address) as raw:
        raw.login(heartbeat_s=1)
        started = time.monotonic()
        kinds = []
        while (received := raw.receive()) is not None:
            kinds.append(received.kind)
        took_s = time.monotonic() - started
        assert rawamqp.HEARTBEAT in kinds
        assert 1.5 < took_s < 5, f"two missed heartbeats are 2 s, it took {took_s:.1f} s"


def test_other_frames_count_as_heartbeats(amqp):
    with rawamqp.Connection(amqp.address) as raw:
        raw.login(heartbeat_s=1)
        for number in range(1, 9):
            raw.open_channel(number)
            time.sleep(0.5)


def test_a_client_may_pause_deliveries_or_is_told_it_may_not(amqp, channel, name):
    """RabbitMQ answers channel.flow{active=false} with 540; Isthmus may do either."""
    channel.queue_declare(name)
    with rawamqp.Connection(amqp.address) as raw:
        raw.login().open_channel()
        raw.call(1, rawamqp.BASIC_CONSUME, rawamqp.BASIC_CONSUME_OK,
                 b"\0\0" + rawamqp.short_string(name) + rawamqp.short_string("") + b"\x02"
                 + b"\0\0\0\0")
        raw.send(rawamqp.method(1, rawamqp.CHANNEL_FLOW, b"\0"))
        answer = raw.receive()
        if answer.method == rawamqp.CLOSE:
            assert rawamqp.CloseReason.parse(answer.payload).code == 540
        else:
            assert (answer.method, answer.payload[4:]) == (rawamqp.CHANNEL_FLOW_OK, b"\0")
            channel.basic_publish("", name, b"x")
            eventually(lambda: message_count(channel, name) == 1)
            raw.call(1, rawamqp.CHANNEL_FLOW, rawamqp.CHANNEL_FLOW_OK, b"\1")
            raw.expect(rawamqp.BASIC_DELIVER)
    channel.queue_delete(name)


def test_flow_that_is_active_already_is_answered(amqp):
    with rawamqp.Connection(amqp.address) as raw:
        raw.login().open_channel()
        answer = raw.call(1, rawamqp.CHANNEL_FLOW, rawamqp.CHANNEL_FLOW_OK, b"\1")
        assert answer.payload[4:] == b"\1"


def test_a_close_by_the_client_is_answered(amqp):
    with rawamqp.Connection(amqp.address) as raw:
        raw.login()
        raw.call(0, rawamqp.CLOSE, rawamqp.CLOSE_OK,
                 b"\0\xc8" + rawamqp.short_string("bye") + bytes(4))


def test_what_precedes_a_close_is_carried_out(amqp, channel, name):
    """Publishes, then connection.close in the same write: nothing is dropped."""
    channel.queue_declare(name)
    with rawamqp.Connection(amqp.address) as raw:
        raw.login().open_channel()
        raw.send(rawamqp.publish(1, "", name, b"x", rawamqp.PERSISTENT) * 100
                 + rawamqp.method(0, rawamqp.CLOSE,
                                  b"\0\xc8" + rawamqp.short_string("") + bytes(4)))
        raw.expect(rawamqp.CLOSE_OK)
    eventually(lambda: message_count(channel, name) == 100)
    channel.queue_delete(name)


def test_a_closed_channel_may_be_opened_again(amqp, name):
    with rawamqp.Connection(amqp.address) as raw:
        raw.login().open_channel()
        raw.send(rawamqp.queue_declare(1, name.replace("test.", "amq.")))
        assert raw.expect_channel_close().code == 403
        raw.open_channel()
        raw.send(rawamqp.queue_declare(1, "", exclusive=True))
        raw.expect(rawamqp.QUEUE_DECLARE_OK)


def test_a_failed_channel_leaves_the_others(connection, channel, queue):
    with channel_closes(404):
        connection.channel().queue_declare(queue + ".missing", passive=True)
    channel.basic_publish("", queue, b"x")
    eventually(lambda: message_count(channel, queue) == 1)


def test_what_follows_a_channels_error_is_ignored_until_close_ok(amqp, connection, name):
    with rawamqp.Connection(amqp.address) as raw:
        raw.login().open_channel()
        declare = (b"\0\0" + rawamqp.short_string(name) + rawamqp.short_string("direct")
                   + b"\0" + b"\0\0\0\0")
        raw.send(rawamqp.publish(1, "test.no-such-exchange", "", b"x")
                 + rawamqp.method(1, (40, 10), declare))
        assert raw.expect_channel_close().code == 404
        raw.open_channel()
        assert not exchange_exists(connection, name)


def test_many_connections_come_and_go(amqp):
    """Several threads connect, declare and leave, some of them without saying goodbye."""
    failures = []

    def churn():
        try:
            for number in range(25):
                with rawamqp.Connection(amqp.address) as raw:
                    raw.login().open_channel()
                    raw.send(rawamqp.queue_declare(1, "", exclusive=True))
                    raw.expect(rawamqp.QUEUE_DECLARE_OK)
                    if number % 2:
                        raw.call(0, rawamqp.CLOSE, rawamqp.CLOSE_OK,
                                 b"\0\xc8" + rawamqp.short_string("") + bytes(4))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
