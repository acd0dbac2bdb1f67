"""Strangers in the middle of a TLS handshake, and floods of handshakes: what they cost, and what the
others notice."""

import contextlib
import multiprocessing
import select
import socket
import ssl
import threading
import time

import pytest

from broker import Broker
from rawmqtt import Mqtt
from test_pressure import (BURNERS, GRACE_S, KIB, STRANGER_KIB_MAX, PeakRss, RoundTrips,
                           busy_processors, many_descriptors)

pytestmark = [pytest.mark.serial, pytest.mark.usefixtures(many_descriptors.__name__)]

PORTS = ["amqps", "mqtts", "stomps", "anys", "https"]
# What limits.handshake_timeout leaves TLS of by default.
HANDSHAKE_S_MAX = 5
# All HTTP listeners together take 256 connections.
HALF_SHAKEN = {"amqps": 300, "mqtts": 300, "stomps": 300, "anys": 300, "https": 100}
FLOOD_S = 5
FLOODERS = 2
# What else the machine does spoils one, a broker that holds its clients up spoils them all.
ATTEMPTS = 3
# What handshakes that are under way, and the allocator, may keep.
FLOOD_KIB_MAX = 32 * KIB


@pytest.fixture
def secured(tmp_path, certificates):
    settings = {f"listeners.{port}": "127.0.0.1:0" for port in PORTS} | {
        "tls.certificate": certificates / "server.pem", "tls.key": certificates / "server.key"}
    with Broker(tmp_path / "data", settings) as broker:
        yield broker
        assert broker.stop() == 0, broker.log()


def client_hello():
    """The first flight of a client, complete: the server answers it and waits."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def test_handshakes_that_are_not_gone_on_with_are_closed_and_keep_nobody_out(
        secured, certificates):
    """The server has answered each of them and holds the keys."""
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    came_in_s, kept_out = [], []
    is_over = threading.Event()

    def come_in():
        while not is_over.wait(0.1):
            started = time.monotonic()
            try:
                with Mqtt(secured.ports["mqtts"], context=context) as client:
                    assert client.reason == 0
            except Exception as why:
                kept_out.append(why)
            came_in_s.append(time.monotonic() - started)
    others = threading.Thread(target=come_in, daemon=True)
    others.start()
    with PeakRss(secured) as rss:
        opened, hello = {}, client_hello()
        poll = select.poll()
        for listener, count in HALF_SHAKEN.items():
            for _ in range(count):
                stream = socket.create_connection(("127.0.0.1", secured.ports[listener]))
                stream.sendall(hello)
                stream.setblocking(False)
                poll.register(stream, select.POLLIN)
                opened[stream.fileno()] = stream, listener, time.monotonic()
        answered, closed_s = set(), dict.fromkeys(PORTS, 0.0)
        deadline_s = time.monotonic() + HANDSHAKE_S_MAX + 3 * GRACE_S
        while opened and time.monotonic() < deadline_s:
            for descriptor, _ in poll.poll(50):
                stream, listener, opened_s = opened[descriptor]
                is_closed = False
                with contextlib.suppress(BlockingIOError, ConnectionResetError):
                    while piece := stream.recv(16 * KIB):
                        answered.add(descriptor)
                        del piece
                    is_closed = True
                if is_closed:
                    closed_s[listener] = max(closed_s[listener], time.monotonic() - opened_s)
                    poll.unregister(descriptor)
                    stream.close()
                    del opened[descriptor]
    is_over.set()
    others.join(10)
    count = sum(HALF_SHAKEN.values())
    print(f"closed after at most {closed_s} s; {rss.grown_kib / count:.1f} KiB each; "
          f"{len(came_in_s)} others came in, within {max(came_in_s):.2f} s")
    assert not opened, f"{len(opened)} are still open"
    assert len(answered) == count, "some were not answered"
    assert kept_out == []
    # Behind those whose hellos are being answered, and in time.
    assert max(came_in_s) < HANDSHAKE_S_MAX
    for listener, took_s in closed_s.items():
        assert 1 < took_s < HANDSHAKE_S_MAX + 2 * GRACE_S, f"{listener}: {took_s:.1f} s"
    assert rss.grown_kib < count * STRANGER_KIB_MAX


def shake_hands(ports, certificates, until_s, count):
    """Handshakes in full, one after another, and not a word after them."""
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    number = 0
    while time.monotonic() < until_s:
        number += 1
        port = ports[number % len(ports)]
        with socket.create_connection(("127.0.0.1", port)) as stream, \
                context.wrap_socket(stream, server_hostname="localhost"):
            pass
    with count.get_lock():
        count.value += number


def trips_a_second(trips, seconds):
    """How many round trips there are in a second."""
    trips.took_s.clear()
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        trips.once()
    return len(trips.took_s) / seconds


def flood(secured, certificates, trips):
    """How many handshakes, and round trips beside them, there are in a second."""
    count = multiprocessing.Value("i", 0)
    ports = [secured.ports[each] for each in PORTS]
    until_s = time.monotonic() + FLOOD_S
    flooders = [multiprocessing.Process(target=shake_hands, daemon=True,
                                        args=(ports, certificates, until_s, count))
                for _ in range(FLOODERS)]
    for each in flooders:
        each.start()
    flooded = trips_a_second(trips, FLOOD_S - 1)
    for each in flooders:
        each.join(20)
        assert each.exitcode == 0
    return count.value / FLOOD_S, flooded


def test_a_flood_of_handshakes_leaves_memory_and_others_alone(secured, certificates):
    trips = RoundTrips(secured.amqp)
    # The first handshakes bring what all of them share.
    ports = [secured.ports[each] for each in PORTS]
    shake_hands(ports, certificates, time.monotonic() + 0.3, multiprocessing.Value("i", 0))
    for _ in range(ATTEMPTS):
        quiet = trips_a_second(trips, 2)
        # The flood's clients take as much of the machine as these.
        with busy_processors(max(FLOODERS, BURNERS)):
            busy = trips_a_second(trips, 3)
        with PeakRss(secured) as rss:
            shaken, flooded = flood(secured, certificates, trips)
        print(f"{shaken:.0f} handshakes a second; {quiet:.0f} round trips a second quiet, "
              f"{busy:.0f} on busy processors, {flooded:.0f} flooded; {rss.grown_kib} KiB grown")
        assert shaken > 10, "this was no flood"
        assert rss.grown_kib < FLOOD_KIB_MAX
        if flooded > min(quiet, busy) / 2:
            return
    pytest.fail(f"messaging was held up in each of {ATTEMPTS} floods")
