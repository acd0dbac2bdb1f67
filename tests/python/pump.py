"""Runs several raw clients in one thread, up to the death of their broker and a little beyond.

A client has `connection` (a `rawamqp.Connection` after its handshake), `output()`, which gives the
bytes it wants to send now, `on_sent()`, which hears that the system has taken them, and
`handle(kind, payload)`, which hears of every frame but heartbeats.
"""

import selectors
import struct
import time

import rawamqp


def frames(buffer):
    """Takes the complete frames off the front of a buffer: (kind, payload)."""
    complete, position = [], 0
    while len(buffer) - position >= rawamqp.FRAME_OVERHEAD:
        kind, _, size = struct.unpack_from(">BHI", buffer, position)
        end = position + size + rawamqp.FRAME_OVERHEAD
        if end > len(buffer):
            break
        complete.append((kind, bytes(buffer[position + 7:end - 1])))
        position = end
    del buffer[:position]
    return complete


def pump(clients, until_s):
    """Runs clients until a moment, or until all connections have ended.

    Returns for how long nothing had come when it stopped.
    """
    selector = selectors.DefaultSelector()
    for client in clients:
        # What an earlier turn could not send goes first: it may end in the middle of a frame.
        client.unsent = getattr(client, "unsent", bytearray())
        client.connection.socket.setblocking(False)
        selector.register(client.connection.socket, selectors.EVENT_READ, client)
        # Deliveries may have come with the answer to basic.consume.
        handle_buffered(client)
    last_input_s = time.monotonic()
    while selector.get_map() and (now_s := time.monotonic()) < until_s:
        for key in list(selector.get_map().values()):
            client = key.data
            send(client)
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.unsent else 0)
            selector.modify(client.connection.socket, wanted, client)
        for key, _ in selector.select(min(0.02, until_s - now_s)):
            if receive(key.data):
                last_input_s = time.monotonic()
            else:
                selector.unregister(key.fileobj)
    selector.close()
    return time.monotonic() - last_input_s


def send(client):
    """Sends what the client has and the system takes now."""
    if not client.unsent:
        client.unsent += client.output()
    if client.unsent:
        try:
            del client.unsent[:client.connection.socket.send(client.unsent)]
        except OSError:
            # The system takes no more now, or the peer is gone, which reading will tell.
            return
        if not client.unsent:
            client.on_sent()


def receive(client):
    """Handles what has arrived; False once the peer is gone."""
    try:
        data = client.connection.socket.recv(1 << 18)
    except BlockingIOError:
        return True
    except OSError:
        data = b""
    client.connection.buffer += data
    handle_buffered(client)
    return bool(data)


def handle_buffered(client):
    """Handles the frames that are complete."""
    for kind, payload in frames(client.connection.buffer):
        if kind != rawamqp.HEARTBEAT:
            client.handle(kind, payload)


def drain_after_death(clients):
    """Reads what the broker had sent before it died and the system still holds for us."""
    for client in clients:
        while receive(client):
            time.sleep(0.001)
        client.connection.socket.close()
