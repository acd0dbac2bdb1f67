"""MQTT clients that come by the hundreds and thousands at once."""

import asyncio
import multiprocessing
import os
import resource
import socket
import time

import pytest

import rawmqtt_async as rawmqtt
from broker import Broker
from helpers import eventually
from rawmqtt_async import CONNACK, DISCONNECT, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Raw
from test_mqtt import api, queues
from test_pressure import RoundTrips, allowed_p99_s, many_descriptors  # noqa: F401 (a fixture)

SOAK = os.environ.get("ISTHMUS_SOAK") == "1"
LASTS_S = 3600

pytestmark = [pytest.mark.serial, pytest.mark.soak, pytest.mark.timeout(900 if SOAK else 120)]


def descriptors(broker):
    """How many files and sockets the broker has open."""
    return len(os.listdir(f"/proc/{broker.pid}/fd"))


# Takeovers.

CLIENTS = 4
RIVALS = 50
ROUNDS = 60 if SOAK else 4
BURST = 10
# A round leaves nothing, but allocators take a while until they have what they please to keep: that
# much at the most, however many rounds there are.
LEFT_KIB_MAX = 6 * 1024
SETTLES_WITHIN_S = 20


class Rivalry:
    """Connections of one client that fight for its session."""

    def __init__(self, port, client_id):
        self.port = port
        self.client_id = client_id
        self.received = set()
        self.connections = set()
        # What each connection that has ended was told: a reason of DISCONNECT or CONNACK, or nothing.
        self.ends = []

    async def begin(self):
        """Makes the session."""
        first = await Raw.open(self.port)
        assert not await first.log_in(self.client_id, lasts_s=LASTS_S)
        await first.subscribe(self.client_id, 1)
        await first.say_goodbye()

    async def live(self):
        """One connection: takes the session, and all that comes until it is taken away."""
        raw = await Raw.open(self.port)
        self.connections.add(raw)
        raw.send(rawmqtt.connect(self.client_id, lasts_s=LASTS_S))
        end = None
        while came := await raw.read():
            kind, flags, body = came
            if kind == CONNACK and body[1] == 0:
                assert body[0] == 1, "its session was lost"
            elif kind == PUBLISH:
                _, _, packet_id, payload = rawmqtt.parse_publish(flags, body)
                self.received.add(int(payload))
                raw.send(rawmqtt.answer(PUBACK, packet_id))
            elif kind in (CONNACK, DISCONNECT):
                end = body[1] if kind == CONNACK else body[0]
            else:
                assert kind == PINGRESP, came
                self.pong.set()
        self.connections.discard(raw)
        self.ends.append(end)
        raw.close()

    async def fight(self):
        """Many connect at once; returns once one is left, which the broker answers."""
        before = len(self.ends) + len(self.connections)
        tasks = [asyncio.create_task(self.live()) for _ in range(RIVALS)]
        async with asyncio.timeout(SETTLES_WITHIN_S):
            while len(self.ends) < before + RIVALS - 1:
                for each in tasks:
                    if each.done():
                        each.result()
                await asyncio.sleep(0.01)
            [winner] = self.connections
            self.pong = asyncio.Event()
            winner.send(rawmqtt.packet(rawmqtt.PINGREQ))
            await self.pong.wait()
        return tasks


async def publish_while(port, rivalries, is_over):
    """Publishes to each client in turn until it is over, and until all of it is acknowledged; what
    was published to each."""
    raw = await Raw.open(port)
    await raw.log_in("publisher", clean=True)
    sent = 0
    while not is_over.is_set():
        for number in range(sent, sent + BURST):
            for each in rivalries:
                raw.send(rawmqtt.publish(each.client_id, b"%d" % number, 1, next(raw.packet_ids)))
        for _ in range(BURST * len(rivalries)):
            assert (await raw.expect(PUBACK))[2:] in (b"", b"\0"), "somebody was subscribed"
        sent += BURST
        await asyncio.sleep(0.005)
    await raw.say_goodbye()
    return set(range(sent))


def test_many_take_one_session_over_and_the_last_one_has_it(own_isthmus, name):
    port = own_isthmus.ports["mqtt"]

    async def storm():
        rivalries = [Rivalry(port, f"{name[-12:]}-{number}") for number in range(CLIENTS)]
        for each in rivalries:
            await each.begin()
        is_over = asyncio.Event()
        publishing = asyncio.create_task(publish_while(port, rivalries, is_over))
        tasks, kib = [], []
        begun_s = time.monotonic()
        for _ in range(ROUNDS):
            for part in await asyncio.gather(*(each.fight() for each in rivalries)):
                tasks += part
            kib.append(own_isthmus.rss_kib())
        took_s = time.monotonic() - begun_s
        is_over.set()
        sent = await publishing
        async with asyncio.timeout(SETTLES_WITHIN_S):
            while any(each.received != sent for each in rivalries):
                await asyncio.sleep(0.01)
        for each in rivalries:
            ends = set(each.ends)
            # One that was overtaken on its way in may see nothing but the end.
            assert ends <= {rawmqtt.SESSION_TAKEN_OVER, None}, ends
            assert rawmqtt.SESSION_TAKEN_OVER in ends, "they were all told nothing"
        left = [len(each.connections) for each in rivalries]
        assert left == [1] * CLIENTS
        assert len(api(own_isthmus, "GET", "connections")[1]) == CLIENTS
        for each in rivalries:
            [last] = each.connections
            last.send(rawmqtt.packet(DISCONNECT))
        await asyncio.gather(*tasks)
        return len(sent), took_s, kib

    open_before = descriptors(own_isthmus)
    sent, took_s, kib = asyncio.run(storm())
    count = CLIENTS * RIVALS * ROUNDS
    print(f"{count} connections took {CLIENTS} sessions over in {took_s:.1f} s, while {sent} messages "
          f"went to each; {kib[0]} KiB after the first round, {kib[-1]} KiB after the last")
    assert sent > ROUNDS
    assert kib[-1] - kib[0] < LEFT_KIB_MAX, kib
    eventually(lambda: api(own_isthmus, "GET", "connections")[1] == [])
    eventually(lambda: descriptors(own_isthmus) <= open_before + 2)
    assert len([each for each in queues(own_isthmus) if each.startswith("mqtt-subscr")]) == CLIENTS


# Sessions that all come back.

SESSIONS = 10_000 if SOAK else 2_000
# Who log in at the same time while nothing is measured.
AT_ONCE = 200
# A connection with its session and its message; an idle one has 13.
SESSION_KIB_MAX = 48
BACK_WITHIN_S = 120 if SOAK else 40


class Returning:
    """A client whose session waits for it with one message."""

    def __init__(self, number, topic):
        self.number = number
        self.client_id = f"back-{number}"
        self.topic = f"{topic}/{number}"
        self.qos = 1 + number % 2
        self.came = []

    async def leave(self, port):
        """Makes the session and goes."""
        raw = await Raw.open(port)
        assert not await raw.log_in(self.client_id, lasts_s=LASTS_S)
        await raw.subscribe(self.topic, self.qos)
        await raw.say_goodbye()

    async def come_back(self, port):
        """Resumes the session and takes what waits; the connection stays open."""
        raw = await Raw.open(port)
        assert await raw.log_in(self.client_id, lasts_s=LASTS_S), "its session was lost"
        self.raw = raw
        flags, body = await self._publish()
        qos, _, packet_id, payload = rawmqtt.parse_publish(flags, body)
        assert (qos, payload) == (self.qos, b"%d" % self.number)
        if qos == 1:
            raw.send(rawmqtt.answer(PUBACK, packet_id))
            return
        raw.send(rawmqtt.answer(PUBREC, packet_id))
        await raw.expect(PUBREL)
        raw.send(rawmqtt.answer(PUBCOMP, packet_id))

    async def _publish(self):
        kind, flags, body = await self.raw.read()
        assert kind == PUBLISH, kind
        return flags, body

    async def hears_nothing_more(self):
        """Whether a ping is answered by nothing but its answer; then it is gone."""
        self.raw.send(rawmqtt.packet(rawmqtt.PINGREQ))
        await self.raw.expect(PINGRESP)
        await self.raw.say_goodbye()

    async def finds_nothing(self, port):
        """Whether its session, once more resumed, has no message left."""
        self.raw = await Raw.open(port)
        assert await self.raw.log_in(self.client_id, lasts_s=LASTS_S)
        await self.hears_nothing_more()


async def each_in_turn(act, clients):
    """Acts for all, a few hundred at once."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(client):
        async with room:
            await act(client)
    await asyncio.gather(*(one(each) for each in clients))


async def publish_one_to_each(port, clients):
    """Exactly once, some at a time; returns once all is safe."""
    raw = await Raw.open(port)
    await raw.log_in("publisher", clean=True)
    for start in range(0, len(clients), AT_ONCE):
        part = clients[start:start + AT_ONCE]
        for packet_id, each in enumerate(part, 1):
            raw.send(rawmqtt.publish(each.topic, b"%d" % each.number, 2, packet_id))
        for _ in part:
            body = await raw.expect(PUBREC)
            assert body[2:] in (b"", b"\0"), body
        for packet_id in range(1, len(part) + 1):
            raw.send(rawmqtt.answer(PUBREL, packet_id))
        for _ in part:
            await raw.expect(PUBCOMP)
    await raw.say_goodbye()


def test_thousands_of_sessions_are_resumed_at_once(tmp_path, name, many_descriptors):  # noqa: F811
    spare = 200
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < SESSIONS + spare:
        pytest.skip(f"{SESSIONS} connections need as many open files as `ulimit -Hn` does not allow")
    clients = [Returning(number, name) for number in range(SESSIONS)]

    async def leave(port):
        await each_in_turn(lambda each: each.leave(port), clients)
        await publish_one_to_each(port, clients)

    async def come_back(broker):
        port = broker.ports["mqtt"]
        begun_s = time.monotonic()
        async with asyncio.timeout(BACK_WITHIN_S):
            await asyncio.gather(*(each.come_back(port) for each in clients))
        took_s = time.monotonic() - begun_s
        kib = broker.rss_kib()
        await each_in_turn(Returning.hears_nothing_more, clients)
        await each_in_turn(lambda each: each.finds_nothing(port), clients)
        return took_s, kib

    # One process is all the clients, and a minute may pass until it gets to greet on the last socket
    # that it has opened.
    with Broker(tmp_path / "data", {"limits.handshake_timeout": "60s"}) as broker:
        asyncio.run(leave(broker.ports["mqtt"]))
        broker.kill()
        broker.start()
        before_kib = broker.rss_kib()
        took_s, after_kib = asyncio.run(come_back(broker))
    print(f"{SESSIONS} sessions were back, each with its message, {took_s:.1f} s after the first "
          f"connected; the restart took {broker.ready_after_s:.2f} s; {before_kib} KiB before, "
          f"{after_kib} KiB with all connected: {(after_kib - before_kib) / SESSIONS:.1f} KiB each")
    assert after_kib - before_kib < SESSIONS * SESSION_KIB_MAX


# More than may connect.

LIMIT = 50
FLOOD_S = 20 if SOAK else 4
ATTEMPTS = 4


class MqttRoundTrips(RoundTrips):
    """A client that publishes to itself and takes the time until the delivery."""

    def __init__(self, port):
        self.stream = log_in(port, "round-trips")
        self.stream.sendall(rawmqtt.subscribe(1, "round/trips", 0))
        assert self.stream.recv(100)[0] == rawmqtt.SUBACK << 4
        self.message = rawmqtt.publish("round/trips", bytes(100))
        self.took_s = []

    def once(self):
        started = time.monotonic()
        self.stream.sendall(self.message)
        left = len(self.message)
        while left > 0:
            came = self.stream.recv(left)
            assert came, "it was thrown out"
            left -= len(came)
        self.took_s.append(time.monotonic() - started)


def log_in(port, client_id):
    """A connection that is let in."""
    stream = socket.create_connection(("127.0.0.1", port), timeout=20)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.sendall(rawmqtt.connect(client_id, clean=True))
    assert stream.recv(100)[:1] == bytes([CONNACK << 4])
    return stream


def flood(port, seconds, refused, let_in):
    """Connects one after the other, and counts what becomes of it."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
                stream.sendall(rawmqtt.connect("flood", clean=True))
                let_in.value += bool(stream.recv(100))
                refused.value += 1
        except ConnectionError:
            refused.value += 1


def flood_while_measured(port, trips):
    """How many were refused within the time, and the p99 of round trips meanwhile."""
    refused, let_in = multiprocessing.Value("i", 0), multiprocessing.Value("i", 0)
    # A process of its own, for this one's interpreter is taking the time.
    flooder = multiprocessing.Process(target=flood, args=(port, FLOOD_S, refused, let_in),
                                      daemon=True)
    flooder.start()
    while flooder.is_alive():
        trips.once()
        time.sleep(0.002)
    flooder.join()
    assert (flooder.exitcode, let_in.value) == (0, 0)
    return refused.value, trips.p99_s()


def test_who_comes_beyond_the_limit_is_refused_and_holds_nobody_up(tmp_path):
    with Broker(tmp_path / "data", {"limits.connections_max": LIMIT}) as broker:
        port = broker.ports["mqtt"]
        trips = MqttRoundTrips(port)
        idle = [log_in(port, f"idle-{number}") for number in range(LIMIT - 1)]
        for _ in range(ATTEMPTS):
            # Whatever else a shared machine does may come in one of the two alone: the best counts.
            allowed_s, why = allowed_p99_s(trips)
            refused, p99_s = flood_while_measured(port, trips)
            print(f"{refused} were refused in {FLOOD_S} s; {why}, {p99_s * 1e3:.2f} ms flooded")
            assert refused > 50 * FLOOD_S, "that was no flood"
            if p99_s < allowed_s:
                break
        else:
            pytest.fail(f"messaging was held up in each of {ATTEMPTS} floods")
        idle.pop().close()

        def one_is_let_in():
            try:
                log_in(port, "next").close()
                return True
            except (AssertionError, ConnectionError):
                return False
        eventually(one_is_let_in)
