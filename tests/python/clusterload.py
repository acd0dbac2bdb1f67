"""Load on a cluster, in a thread of its own, by clients that connect to any node until one serves
them; and the account of what they were promised.

Each message is published once: what is not confirmed has an unknown fate and is not asked after.
So everything that comes twice must be flagged.
"""

import asyncio
import contextlib
import logging
import statistics
import struct
import threading
import time

import aio_pika
import pika

from promise import Promise

NUMBER = struct.Struct(">Q")
BODY_SIZE = 256
# A connection without a confirm, or a consumer without a delivery, for this long is given up.
STALL_S = 2.0
CONNECT_S = 3.0
PAUSE_S = 0.02
PREFETCH = 200

# Connections end all the time here, which these would report with a trace each.
for name in ("aiormq", "aio_pika", "pika"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

# What a client meets when its node goes, or refuses it: aiormq even raises bare exceptions where a
# connection ends while a publish waits for its socket. What it was is said if nothing works again.
FAILURES = (Exception,)


def body(number):
    """The body of a message."""
    return NUMBER.pack(number).ljust(BODY_SIZE, b".")


class Load:
    """Publishes to a durable queue with confirms, and consumes from it with acknowledgements, until
    it is stopped."""

    def __init__(self, nodes, queue, window=32, consumes=True, arguments=None, stall_s=STALL_S):
        self.nodes = list(nodes)
        self.queue = queue
        self.window = window
        self.consumes = consumes
        self.arguments = arguments
        self.stall_s = stall_s
        self.promise = Promise()
        # When each confirmed message was sent, and when its confirm came.
        self.confirms = []
        self.nacks = 0
        self.reconnects = 0
        self.next_number = 0
        self.errors = []
        self.closing = set()
        self.stopping = False
        self.is_publishing = True
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self):
        self.thread.start()
        self.wait_confirm(time.monotonic(), within_s=15)
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Ends it; what was confirmed is in `promise` then."""
        self.stopping = True
        self.thread.join(20)
        assert not self.thread.is_alive(), "the clients do not end"

    def wait_confirm(self, after_s, within_s=20):
        """When the first confirm came for a message that was sent after that moment."""
        deadline = time.monotonic() + within_s
        looked_at = 0
        while True:
            confirms = len(self.confirms)
            for sent_s, confirmed_s in self.confirms[looked_at:confirms]:
                if sent_s > after_s:
                    return confirmed_s
            looked_at = confirms
            assert time.monotonic() < deadline, (
                f"nothing is confirmed for {within_s} s; {self.reconnects} connections, the last "
                f"errors: {self.errors[-5:]}")
            time.sleep(0.005)

    def outage_s(self, since_s, within_s=20):
        """From that moment to the first confirm of a message that was sent after it."""
        return self.wait_confirm(since_s, within_s) - since_s

    def confirmed_between(self, start_s, end_s):
        """How many messages that were sent in that time were confirmed in it."""
        return sum(start_s < sent_s and confirmed_s < end_s for sent_s, confirmed_s in self.confirms)

    async def _run(self):
        tasks = [self._again_and_again(self._publish, 0)]
        if self.consumes:
            tasks.append(self._again_and_again(self._consume, 1))
        await asyncio.gather(*tasks)
        await asyncio.gather(*self.closing)

    async def _again_and_again(self, work, first):
        """Connects to one node after the other until one serves."""
        turn = first
        while not self.stopping:
            node = self.nodes[turn % len(self.nodes)]
            turn += 1
            connection = None
            try:
                connection = await self._connect(node)
                await work(connection)
            except FAILURES as error:
                self.errors.append(f"node {node.number}: {type(error).__name__}: {error}")
                await asyncio.sleep(PAUSE_S)
            finally:
                if connection is not None:
                    self.reconnects += 1
                    # Not waited for: the next connection is made at once.
                    closing = asyncio.create_task(self._close(connection))
                    self.closing.add(closing)
                    closing.add_done_callback(self.closing.discard)

    @staticmethod
    async def _close(connection):
        with contextlib.suppress(Exception):
            await asyncio.wait_for(connection.close(), 0.5)

    async def _connect(self, node):
        host, port = node.amqp
        async with asyncio.timeout(CONNECT_S):
            return await aio_pika.connect(f"amqp://guest:guest@{host}:{port}/?heartbeat=0")

    async def _publish(self, connection):
        async with asyncio.timeout(CONNECT_S):
            channel = await connection.channel(publisher_confirms=True)
            await channel.declare_queue(self.queue, durable=True, arguments=self.arguments)
        workers = [asyncio.create_task(self._publish_each(channel.default_exchange))
                   for _ in range(self.window)]
        try:
            done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            for each in done:
                each.result()
        finally:
            for each in workers:
                each.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _publish_each(self, exchange):
        while not self.stopping:
            if not self.is_publishing:
                await asyncio.sleep(PAUSE_S)
                continue
            number = self.next_number
            self.next_number += 1
            sent_s = time.monotonic()
            self.promise.on_publish(number, sent_s)
            message = aio_pika.Message(body(number), delivery_mode=2)
            try:
                async with asyncio.timeout(self.stall_s):
                    await exchange.publish(message, self.queue)
            except aio_pika.exceptions.DeliveryError:
                self.nacks += 1
                continue
            self.promise.on_confirm(number)
            self.confirms.append((sent_s, time.monotonic()))

    async def _consume(self, connection):
        async with asyncio.timeout(CONNECT_S):
            channel = await connection.channel()
            await channel.set_qos(PREFETCH)
            queue = await channel.declare_queue(self.queue, durable=True, arguments=self.arguments)
            came = asyncio.Event()

            async def take(message):
                await self._take(message, came)
            await queue.consume(take)
        while not self.stopping:
            came.clear()
            async with asyncio.timeout(self.stall_s):
                await came.wait()
            await asyncio.sleep(PAUSE_S)

    async def _take(self, message, came):
        number, = NUMBER.unpack_from(message.body)
        self.promise.on_delivery(number, bool(message.redelivered))
        came.set()
        await message.ack()

    def settle_account(self, cluster, within_s=20):
        """Takes all that is left from the leader, and returns what promises were broken."""
        self.stop()
        deadline = time.monotonic() + within_s
        # What was held for a client that is gone comes back once the leader knows that it is.
        while True:
            with contextlib.suppress(pika.exceptions.AMQPError, OSError):
                self._drain(cluster.leader())
            if not self.promise.confirmed - self.promise.delivered:
                break
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        self.promise.on_drained()
        return self.promise.violations

    def _drain(self, leader):
        connection = leader.connect()
        channel = connection.channel()
        for method, _, message in channel.consume(self.queue, inactivity_timeout=0.3):
            if method is None:
                break
            self.promise.on_delivery(NUMBER.unpack_from(message)[0], method.redelivered)
            channel.basic_ack(method.delivery_tag)
        channel.cancel()
        connection.close()


def held(node, queue):
    """The numbers of all messages of a queue, in order, which stay there."""
    connection = node.connect()
    channel = connection.channel()
    count = channel.queue_declare(queue, passive=True).method.message_count
    numbers = []
    if count:
        for method, _, message in channel.consume(queue, inactivity_timeout=5):
            if method is None:
                break
            numbers.append(NUMBER.unpack_from(message)[0])
            if len(numbers) == count:
                break
    assert len(numbers) == count, f"{len(numbers)} of {count} came from node {node.number}"
    # What is not acknowledged goes back to where it was.
    connection.close()
    return numbers


def summary(outages):
    """Outages in words: how many, median, the 99th of a hundred, the longest; in milliseconds."""
    ordered = sorted(outages)
    at_99 = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
    return {
        "count": len(ordered),
        "median_ms": round(statistics.median(ordered) * 1000),
        "p99_ms": round(at_99 * 1000),
        "longest_ms": round(ordered[-1] * 1000),
    }


def histogram(outages, step_s):
    """How many outages lie in each step: upper bound in milliseconds, count."""
    counts = {}
    for outage in outages:
        counts[int(outage / step_s)] = counts.get(int(outage / step_s), 0) + 1
    return [(round((step + 1) * step_s * 1000), counts.get(step, 0))
            for step in range(max(counts) + 1)]
