"""What many tests do with a pika channel."""

import contextlib
import os
import time

import pika
import pytest

# How long tests wait for what must come.
PATIENCE_S = float(os.environ.get("ISTHMUS_TEST_PATIENCE_S", 5))

# Where a plugin keeps what leads tests to an endpoint by way of something in between.
VIA = pytest.StashKey()


@contextlib.contextmanager
def channel_closes(code, text=None):
    """Shows that the broker closes the channel, not the connection, with this code."""
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match=text) as raised:
        yield
    assert raised.value.reply_code == code, raised.value


@contextlib.contextmanager
def connection_closes(code):
    """Shows that the broker closes the whole connection with this code."""
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as raised:
        yield
    assert raised.value.reply_code == code, raised.value


def queue_exists(connection, queue):
    """Whether a passive declare finds the queue."""
    return _found(connection, lambda channel: channel.queue_declare(queue, passive=True))


def exchange_exists(connection, exchange):
    """Whether a passive declare finds the exchange."""
    return _found(connection, lambda channel: channel.exchange_declare(exchange, passive=True))


def _found(connection, passive_declare):
    channel = connection.channel()
    try:
        passive_declare(channel)
    except pika.exceptions.ChannelClosedByBroker as closed:
        assert closed.reply_code == 404, closed
        return False
    channel.close()
    return True


def message_count(channel, queue):
    """Messages ready in the queue, as a passive declare tells."""
    return channel.queue_declare(queue, passive=True).method.message_count


def eventually(condition, within_s=PATIENCE_S):
    """Waits until `condition()` is true, for what the broker does in its own time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.01)


def get_all(channel, queue):
    """Takes and acknowledges everything ready, as a list of bodies."""
    bodies = []
    while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
        bodies.append(got[2])
    return bodies


def settle(connection, quiet_s=0.25):
    """Processes what comes for this long, which is enough for anything that was under way."""
    until = time.monotonic() + quiet_s
    while (left_s := until - time.monotonic()) > 0:
        connection.process_data_events(time_limit=left_s)


class Consumer:
    """Collects deliveries of one consumer, in order."""

    def __init__(self, channel, queue, **options):
        self.channel = channel
        self.deliveries = []
        self.tag = channel.basic_consume(queue, self._on_message, **options)

    def _on_message(self, _channel, method, properties, body):
        self.deliveries.append((method, properties, body))

    def wait_for(self, count, within_s=PATIENCE_S):
        """The first `count` deliveries once they are there."""
        deadline = time.monotonic() + within_s
        while len(self.deliveries) < count:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"{len(self.deliveries)} of {count} deliveries within {within_s} s"
            self.channel.connection.process_data_events(time_limit=min(left_s, 0.5))
        return self.deliveries[:count]

    def settle(self, quiet_s=0.25):
        """All deliveries once nothing more has come for a while."""
        settle(self.channel.connection, quiet_s)
        return self.deliveries

    @property
    def bodies(self):
        return [body for _, _, body in self.deliveries]
