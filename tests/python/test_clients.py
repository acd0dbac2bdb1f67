"""What applications do with pika and aio-pika, over plain TCP, TLS and mutual TLS."""

import asyncio
import socket
import ssl
import threading

import aio_pika
import pika
import pytest

from aio_pika.patterns import RPC
from broker import Broker
from helpers import Consumer, get_all


def test_pika_publishes_consumes_and_acknowledges(transport):
    connection = transport.connect()
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.confirm_delivery()
    bodies = [b"", b"x", bytes(300_000), *(str(number).encode() for number in range(200))]
    for body in bodies:
        channel.basic_publish("", queue, body, pika.BasicProperties(
            delivery_mode=2, headers={"n": 1}), mandatory=True)
    channel.basic_qos(prefetch_count=20)
    consumer = Consumer(channel, queue)
    for number in range(len(bodies)):
        method, properties, body = consumer.wait_for(number + 1)[number]
        assert (body, properties.headers) == (bodies[number], {"n": 1})
        channel.basic_ack(method.delivery_tag)
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish("", queue + ".missing", b"x", mandatory=True)
    channel.basic_cancel(consumer.tag)
    assert get_all(channel, queue) == []
    connection.close()


def test_a_body_larger_than_many_tls_records_passes_both_ways(transport):
    connection = transport.connect()
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    body = bytes(range(256)) * 20_000
    channel.basic_publish("", queue, body)
    [(_, _, got)] = Consumer(channel, queue, auto_ack=True).wait_for(1)
    assert got == body
    connection.close()


async def aio_connect(transport, robust=False, **options):
    connect = aio_pika.connect_robust if robust else aio_pika.connect
    return await connect(transport.url, ssl_context=transport.ssl_context(), timeout=5, **options)


def test_aio_pika_publishes_consumes_and_acknowledges(transport, name):
    async def run():
        async with await aio_connect(transport) as connection:
            channel = await connection.channel(publisher_confirms=True,
                                               on_return_raises=True)
            await channel.set_qos(prefetch_count=50)
            exchange = await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC,
                                                      auto_delete=True)
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(exchange, "order.*")
            bodies = [f"{number}".encode() for number in range(500)]
            await asyncio.gather(*(exchange.publish(aio_pika.Message(
                body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, headers={"k": [1, "é"]}),
                "order.new") for body in bodies))
            got = []
            async with queue.iterator(timeout=10) as messages:
                async for message in messages:
                    async with message.process():
                        got.append(message.body)
                        assert message.headers == {"k": [1, "é"]}
                    if len(got) == len(bodies):
                        break
            assert got == bodies
            with pytest.raises(aio_pika.exceptions.DeliveryError):
                await exchange.publish(aio_pika.Message(b"x"), "nobody", mandatory=True)
            assert await queue.get(fail=False) is None
    asyncio.run(run())


def test_aio_pika_requeues_rejects_and_rolls_back(transport):
    async def run():
        async with await aio_connect(transport) as connection:
            channel = await connection.channel(publisher_confirms=False)
            queue = await channel.declare_queue(exclusive=True)
            async with channel.transaction():
                await channel.default_exchange.publish(aio_pika.Message(b"kept"), queue.name)
            with pytest.raises(RuntimeError):
                async with channel.transaction():
                    await channel.default_exchange.publish(aio_pika.Message(b"lost"), queue.name)
                    raise RuntimeError
            reader = await connection.channel()
            queue = await reader.get_queue(queue.name)
            first = await queue.get(timeout=5)
            await first.reject(requeue=True)
            again = await queue.get(timeout=5)
            assert (first.body, again.body, again.redelivered) == (b"kept", b"kept", True)
            await again.nack(requeue=False)
            assert await queue.get(fail=False) is None
    asyncio.run(run())


def test_aio_pika_calls_procedures(transport, name):
    async def double(*, number):
        return 2 * number

    async def run():
        async with await aio_connect(transport) as connection:
            rpc = await RPC.create(await connection.channel())
            await rpc.register(name, double, auto_delete=True)
            calls = (rpc.call(name, {"number": number}) for number in range(50))
            assert await asyncio.gather(*calls) == [2 * number for number in range(50)]
    asyncio.run(run())


def test_a_robust_connection_of_aio_pika_comes_back_after_a_kill(tmp_path, name):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"

    async def run(broker):
        connection = await aio_pika.connect_robust(
            f"amqp://guest:guest@{address}/", timeout=5, reconnect_interval=0.1)
        async with connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(name, durable=True)
            came = asyncio.Queue()

            async def on_message(message):
                await message.ack()
                await came.put(message.body)
            await queue.consume(on_message)
            await channel.default_exchange.publish(aio_pika.Message(b"before"), name)
            assert await asyncio.wait_for(came.get(), 5) == b"before"
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
            # The consumer is back by itself; another client publishes.
            async with await aio_pika.connect(f"amqp://guest:guest@{address}/") as other:
                publisher = await other.channel()
                await publisher.default_exchange.publish(aio_pika.Message(b"after"), name)
            # An acknowledgement that the kill overtook brings its message back.
            while (body := await asyncio.wait_for(came.get(), 10)) != b"after":
                assert body == b"before"
    with Broker(tmp_path / "data", amqp=address) as broker:
        asyncio.run(run(broker))


def test_a_client_without_a_certificate_is_refused_where_one_is_required(mtls_isthmus):
    nameless = mtls_isthmus._replace(is_mutual=False)
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        nameless.connect()
    mtls_isthmus.connect().close()


def test_a_client_that_trusts_another_authority_ends_the_handshake(tls_isthmus):
    context = ssl.create_default_context()
    with socket.create_connection(tls_isthmus.address, timeout=5) as plain:
        with pytest.raises(ssl.SSLCertVerificationError):
            context.wrap_socket(plain, server_hostname="localhost")


def test_a_wrong_password_is_refused_over_tls_too(transport):
    with pytest.raises(pika.exceptions.ProbableAuthenticationError):
        transport.connect(credentials=pika.PlainCredentials("guest", "wrong"))


def test_external_logs_in_as_the_user_whom_the_certificate_names(mtls_isthmus):
    connection = mtls_isthmus.connect(credentials=pika.credentials.ExternalCredentials())
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"x", pika.BasicProperties(user_id="guest"))
    assert get_all(channel, queue) == [b"x"]
    connection.close()


def test_many_threads_publish_over_tls_at_once(tls_isthmus):
    failures = []

    def publish():
        try:
            connection = tls_isthmus.connect()
            channel = connection.channel()
            queue = channel.queue_declare("", exclusive=True).method.queue
            channel.confirm_delivery()
            for number in range(50):
                channel.basic_publish("", queue, str(number).encode())
            assert get_all(channel, queue) == [str(number).encode() for number in range(50)]
            connection.close()
        except BaseException as failure:
            failures.append(failure)
    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
