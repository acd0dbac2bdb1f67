"""STOMP by hand: frames as they stand, for what no client library sends or shows."""

import socket


class Frame:
    """A frame of the broker: its command, its headers, of which the first counts, its body.

    `pairs` has all headers in their order."""

    def __init__(self, data):
        head, _, body = data.partition(b"\n\n")
        lines = head.decode().split("\n")
        self.command = lines[0]
        self.pairs = [tuple(line.split(":", 1)) for line in lines[1:]]
        self.headers = {}
        for name, value in self.pairs:
            self.headers.setdefault(name, value)
        self.body = body

    def __repr__(self):
        return f"{self.command} {self.headers} {self.body!r}"


class Stomp:
    """A connection that sends what it is told to and reads frame by frame."""

    def __init__(self, port, version="1.2", connect=True, context=None, **headers):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.buffer = b""
        # Frames that came before a receipt that was waited for.
        self.early = []
        if connect:
            headers = {"accept-version": version, "host": "/", "login": "guest",
                       "passcode": "guest"} | headers
            self.send("CONNECT", **headers)
            self.connected = self.read("CONNECTED")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def write(self, data):
        self.socket.sendall(data)

    def send(self, command, body=b"", /, **headers):
        """Sends a frame; `_` in names of headers stands for `-`, `__` for `.`."""
        lines = [command]
        for name, value in headers.items():
            if value is not None:
                lines.append(f"{name.replace('__', '.').replace('_', '-')}:{value}")
        self.write("\n".join(lines).encode() + b"\n\n" + body + b"\0")

    def read(self, command=None, timeout=5):
        """The next frame, which must be of `command`."""
        frame = self.early.pop(0) if self.early else self._read(timeout)
        assert command in (None, frame.command), frame
        return frame

    def _read(self, timeout=5):
        self.socket.settimeout(timeout)
        while True:
            self.buffer = self.buffer.lstrip(b"\n")
            if (length := self._length()) is not None:
                frame, self.buffer = Frame(self.buffer[:length]), self.buffer[length + 1:]
                return frame
            data = self.socket.recv(65536)
            assert data, f"the broker hung up; left: {self.buffer!r}"
            self.buffer += data

    def _length(self):
        head, end, _ = self.buffer.partition(b"\n\n")
        if not end:
            return None
        for line in head.split(b"\n"):
            if line.startswith(b"content-length:"):
                length = len(head) + 2 + int(line.partition(b":")[2])
                return length if len(self.buffer) > length else None
        length = self.buffer.find(b"\0")
        return length if length >= 0 else None

    def reads_nothing(self, within_s=0.3):
        """Whether nothing but heart-beats comes for a while; what does is read next."""
        try:
            self.early.insert(0, self.read(timeout=within_s))
        except (socket.timeout, TimeoutError):
            return True
        return False

    def request(self, command, body=b"", /, **headers):
        """Sends a frame and waits for its receipt; messages may come before."""
        self.send(command, body, receipt="done", **headers)
        while (receipt := self._read()).command == "MESSAGE":
            self.early.append(receipt)
        assert receipt.command == "RECEIPT", receipt
        assert receipt.headers == {"receipt-id": "done"}, receipt

    def subscribe(self, destination, id="s", **headers):
        self.request("SUBSCRIBE", destination=destination, id=id, **headers)

    def refused(self, command, body=b"", /, **headers):
        """Sends a frame that is refused; returns the ERROR, behind which the broker hangs up."""
        self.send(command, body, receipt="done", **headers)
        error = self.read("ERROR")
        assert error.headers["receipt-id"] == "done", error
        assert self.socket.recv(1) == b"", "the connection goes on"
        return error.headers["message"] + ": " + error.body.decode()
