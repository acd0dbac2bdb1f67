"""A proxy between an AMQP 0-9-1 client and its broker that perverts one thing.

What passes is read as units: a method, with its content where it has one. A fault is asked about
each unit; without one, or where it has nothing to say, the bytes go on as they came.
"""

import contextlib
import socket
import struct
import threading

from pika import frame as pika_frame
from pika import spec
from pika.exceptions import AMQPError

import rawamqp

FRAME_HEADER = struct.Struct(">BHI")
PROTOCOL_HEADER_SIZE = 8
CLIENT, BROKER = "client", "broker"
# Only what is well-formed is held until its content is there: a client under test may send anything.
WITH_CONTENT = {
    CLIENT: (spec.Basic.Publish,),
    BROKER: (spec.Basic.Return, spec.Basic.Deliver, spec.Basic.GetOk),
}


class Unit:
    """A method with its content, or another frame, from one side."""

    def __init__(self, channel, method, raw, body_size=0, properties=None):
        self.channel = channel
        # A pika.spec object; None for other frames, and for methods that pika does not know.
        self.method = method
        self.raw = raw
        self.properties = properties
        self.body = b""
        self.body_size = body_size

    def is_a(self, *methods):
        """Whether it is one of these methods."""
        return isinstance(self.method, methods)

    def encode(self, frame_max):
        """The bytes of the method and content as they are now."""
        data = pika_frame.Method(self.channel, self.method).marshal()
        if self.properties is not None:
            data += pika_frame.Header(self.channel, len(self.body), self.properties).marshal()
            step = frame_max - rawamqp.FRAME_OVERHEAD
            for start in range(0, len(self.body), step):
                data += rawamqp.frame(rawamqp.BODY, self.channel, self.body[start:start + step])
        return data


def method_unit(channel, method):
    """A unit of the proxy's own."""
    return Unit(channel, method, b"")


class Session:
    """One client's connection and the broker's end of it."""

    def __init__(self, client, broker, proxy):
        self.sockets = {CLIENT: client, BROKER: broker}
        self.locks = {CLIENT: threading.Lock(), BROKER: threading.Lock()}
        self.frame_max = 131072
        # What a fault remembers of this connection.
        self.memory = {}
        self.proxy = proxy

    def run(self):
        """Passes everything on until both sides have ended."""
        threads = [threading.Thread(target=self._pass_on, args=sides, daemon=True)
                   for sides in ((CLIENT, BROKER), (BROKER, CLIENT))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for each in self.sockets.values():
            each.close()

    def send(self, to, data):
        """Sends bytes to one side."""
        with self.locks[to]:
            self.sockets[to].sendall(data)

    def answer(self, channel, method):
        """Answers the client in the broker's place."""
        self.send(CLIENT, method_unit(channel, method).encode(self.frame_max))
        return []

    def _pass_on(self, source, target):
        try:
            for unit in units(source, self.sockets[source]):
                self._pass_unit(source, target, unit)
        except OSError:
            # One of both sides is gone, and the other hears of it below.
            pass
        except Exception as error:
            self.proxy.errors.append(f"{type(error).__name__}: {error}")
        with contextlib.suppress(OSError):
            self.sockets[target].shutdown(socket.SHUT_WR)

    def _pass_unit(self, source, target, unit):
        if unit.is_a(spec.Connection.TuneOk):
            self.frame_max = unit.method.frame_max or self.frame_max
        replaced = None
        if (fault := self.proxy.fault) is not None and unit.method is not None:
            replaced = fault(self, source, unit)
        if replaced is None:
            self.send(target, unit.raw)
        else:
            self.send(target, b"".join(each.encode(self.frame_max) for each in replaced))


def units(source, connection):
    """What comes from one side, until it ends."""
    stream = connection.makefile("rb")
    if source == CLIENT:
        header = stream.read(PROTOCOL_HEADER_SIZE)
        yield Unit(0, None, header)
        if header != rawamqp.PROTOCOL_HEADER:
            # Nothing that follows is known to be frames.
            while data := stream.read1():
                yield Unit(0, None, data)
            return
    pending = {}
    while len(head := stream.read(FRAME_HEADER.size)) == FRAME_HEADER.size:
        kind, channel, size = FRAME_HEADER.unpack(head)
        rest = stream.read(size + 1)
        raw = head + rest
        if (unit := pending.pop(channel, None)) is not None:
            if not add_content(unit, kind, raw):
                pending[channel] = unit
                continue
            yield unit
            continue
        unit = Unit(channel, decode(raw) if kind == rawamqp.METHOD else None, raw)
        if unit.is_a(*WITH_CONTENT[source]):
            pending[channel] = unit
        else:
            yield unit
    # The broker's answer to another protocol is shorter than a frame.
    yield Unit(0, None, head)


def decode(raw):
    """The method in a frame; None if pika cannot read it."""
    try:
        index, = struct.unpack_from(">I", raw, FRAME_HEADER.size)
        # pika's own decoder wants methods that can be made without arguments.
        method = object.__new__(spec.methods[index])
        return method.decode(raw[:-1], FRAME_HEADER.size + 4)
    except (AMQPError, KeyError, IndexError, struct.error, UnicodeDecodeError):
        return None


def add_content(unit, kind, raw):
    """Adds a frame to a method that has content; True once nothing more is due."""
    unit.raw += raw
    if kind == rawamqp.HEADER and unit.properties is None:
        header = pika_frame.decode_frame(raw)[1]
        unit.properties, unit.body_size = header.properties, header.body_size
    elif kind == rawamqp.BODY and unit.properties is not None:
        unit.body += raw[FRAME_HEADER.size:-1]
    else:
        # Not what is due: it goes on as it came, and the broker will say so.
        unit.method = None
        return True
    return len(unit.body) >= unit.body_size


class FaultProxy:
    """Listens on a port of its own; `fault` may be changed at any time.

    With TLS, `server_context` is what clients meet and `client_context` what the broker does.
    """

    def __init__(self, broker_address, server_context=None, client_context=None):
        self.broker_address = broker_address
        self.contexts = server_context, client_context
        # Called with the session, the sender and the unit; returns what goes on instead, or None.
        self.fault = None
        # Exceptions that a fault raised itself, which would end a connection and so pass for one.
        self.errors = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        server_context, client_context = self.contexts
        try:
            broker = socket.create_connection(self.broker_address)
            for each in (client, broker):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if server_context:
                client = server_context.wrap_socket(client, server_side=True)
                broker = client_context.wrap_socket(broker, server_hostname="localhost")
            Session(client, broker, self).run()
        except OSError:
            client.close()

    def close(self):
        """Takes no more connections."""
        self.listener.close()
