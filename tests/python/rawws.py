"""WebSockets by hand: frames as they stand, and a relay that takes any client of TCP through one."""

import contextlib
import socket
import struct
import threading

UPGRADE = ("GET /ws HTTP/1.1\r\nHost: broker.example\r\nUpgrade: websocket\r\n"
           "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
           "Sec-WebSocket-Version: 13\r\n")
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


def request(port, head):
    """A socket after a request of which `head` is all but the empty line; status and answer."""
    stream = socket.create_connection(("127.0.0.1", port), timeout=5)
    stream.sendall(f"{head}\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer and (piece := stream.recv(1)):
        answer += piece
    head = answer.decode().lower()
    assert head, "no answer"
    return stream, int(head.split()[1]), head


def upgrade(port, *headers):
    """A socket after the request of a WebSocket, and the answer's status."""
    return request(port, UPGRADE + "".join(f"{header}\r\n" for header in headers))


def frame(payload, opcode=BINARY, final=True):
    """A masked frame of a client."""
    mask = b"\1\2\3\4"
    short = len(payload) < 126
    length = bytes([0x80 | len(payload)]) if short else b"\xfe" + struct.pack(">H", len(payload))
    head = bytes([opcode | (0x80 if final else 0)]) + length
    return head + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))


def exactly(stream, count):
    """So many bytes."""
    read = b""
    while len(read) < count:
        piece = stream.recv(count - len(read))
        assert piece, read
        read += piece
    return read


def message(stream):
    """The opcode and the payload of the next message."""
    opcode, payload = 0, b""
    while True:
        first, length = exactly(stream, 2)
        if length >= 126:
            length = int.from_bytes(exactly(stream, 2 if length == 126 else 8), "big")
        payload += exactly(stream, length)
        opcode = opcode or first & 15
        if first & 0x80:
            return opcode, payload


@contextlib.contextmanager
def relay(port, subprotocol, opcode=BINARY):
    """The port of a listener whose one client is taken through a WebSocket, a byte stream to it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def run():
            client, _ = listener.accept()
            stream, status, answer = upgrade(port, f"Sec-WebSocket-Protocol: {subprotocol}")
            assert status == 101, answer
            stream.settimeout(None)

            def back():
                with contextlib.suppress(AssertionError, OSError):
                    while (got := message(stream))[0] != CLOSE:
                        client.sendall(got[1])
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_WR)
            answering = threading.Thread(target=back, daemon=True)
            answering.start()
            with contextlib.suppress(OSError):
                while piece := client.recv(10_000):
                    stream.sendall(frame(piece, opcode))
                stream.sendall(frame(b"\x03\xe8", CLOSE))
            answering.join(10)
            stream.close()
            client.close()
        running = threading.Thread(target=run, daemon=True)
        running.start()
        yield listener.getsockname()[1]
        running.join(10)
