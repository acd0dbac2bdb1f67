"""A proxy in front of a node, for its peers, which passes nothing where a network would not.

Who calls is read from the peers' plain hello. What is cut is neither refused nor closed, as with a
network: it is kept, and passed on or forgotten once the cut is healed (a connection that has waited
is closed then, since TCP would have given it up or resent).
"""

import contextlib
import selectors
import socket
import struct
import threading

MAGIC = b"ISTHPEER"
# Magic, kind, length; then ranges of versions, the purpose, the cluster and the member.
NODE_AT = 8 + 1 + 2 + 8 + 1 + 16 + 8
HELLO_NEEDED = NODE_AT + 2


class Link:
    """One connection of a peer, and ours to the node."""

    def __init__(self, caller, node):
        self.caller = caller
        self.node = node
        self.source = None
        self.was_cut = False
        # Bytes on their way to each of the two.
        self.unsent = {caller: bytearray(), node: bytearray()}

    def other(self, end):
        """The other of the two sockets."""
        return self.node if end is self.caller else self.caller


class PeerProxy:
    """Listens on `port` for the peers of node `number`."""

    def __init__(self, port, number, target):
        self.port = port
        self.number = number
        self.target = target
        self.links = set()
        self.requests_cut = set()
        self.answers_cut = set()
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", port))
        self.is_closed = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def cut_requests(self, source):
        """Nothing that `source` says reaches the node by this proxy."""
        with self.lock:
            self.requests_cut.add(source)

    def cut_answers(self, source):
        """Nothing that the node answers reaches `source` by this proxy."""
        with self.lock:
            self.answers_cut.add(source)

    def heal(self):
        """Everything passes again."""
        with self.lock:
            self.requests_cut.clear()
            self.answers_cut.clear()

    def close(self):
        """Ends it, and all connections."""
        self.is_closed = True
        self.thread.join()

    def _run(self):
        self.selector = selectors.DefaultSelector()
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        while not self.is_closed:
            for key, _ in self.selector.select(0.005 if self._is_cut() else 0.05):
                if key.fileobj is self.listener:
                    self._accept()
                elif key.data in self.links:
                    self._read(key.data, key.fileobj)
            for link in list(self.links):
                self._pass_on(link)
        for link in list(self.links):
            self._end(link)
        self.listener.close()
        self.selector.close()

    def _is_cut(self):
        return bool(self.requests_cut or self.answers_cut or any(
            any(link.unsent.values()) for link in self.links))

    def _accept(self):
        with contextlib.suppress(OSError):
            caller, _ = self.listener.accept()
            try:
                node = socket.create_connection(self.target, timeout=2)
            except OSError:
                caller.close()
                return
            link = Link(caller, node)
            for end in (caller, node):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.selector.register(end, selectors.EVENT_READ, link)
            self.links.add(link)

    def _read(self, link, end):
        try:
            data = end.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # A cut network tells nobody that the other end is gone; the healed one does.
            if self._cut_to(link, link.other(end)):
                link.was_cut = True
                self.selector.unregister(end)
            else:
                self._flush(link, link.other(end))
                self._end(link)
            return
        link.unsent[link.other(end)] += data
        if end is link.caller and link.source is None:
            said = link.unsent[link.node]
            if not said.startswith(MAGIC):
                link.source = 0
            elif len(said) >= HELLO_NEEDED:
                link.source, = struct.unpack_from("<H", said, NODE_AT)

    def _cut_to(self, link, end):
        with self.lock:
            cut = self.requests_cut if end is link.node else self.answers_cut
            return link.source in cut

    def _pass_on(self, link):
        is_cut = False
        for end in (link.node, link.caller):
            if self._cut_to(link, end):
                is_cut = True
                link.was_cut = link.was_cut or bool(link.unsent[end])
            elif link.source is not None:
                self._flush(link, end)
        if link.was_cut and not is_cut:
            self._end(link)

    def _flush(self, link, end):
        # Until it is known who calls, nothing passes.
        if not (unsent := link.unsent[end]) or link.was_cut:
            return
        try:
            del unsent[:end.send(unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._end(link)

    def _end(self, link):
        if link not in self.links:
            return
        self.links.discard(link)
        for end in (link.caller, link.node):
            with contextlib.suppress(KeyError, ValueError):
                self.selector.unregister(end)
            end.close()
