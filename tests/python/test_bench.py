"""isthmus-bench, against the broker and through a proxy that loses and repeats."""

import contextlib
import json
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from broker import binary

PROTOCOLS = ("amqp", "mqtt", "stomp")
PUBLISH = 3


def bench_binary():
    """ISTHMUS_BENCH_BIN, or what was built beside the broker."""
    if path := os.environ.get("ISTHMUS_BENCH_BIN"):
        return Path(path)
    beside = binary().with_name("isthmus-bench")
    assert beside.exists(), "not built: cargo build --release --package isthmus-bench"
    return beside


def bench(*arguments, **environment):
    """Runs it; the finished process."""
    return subprocess.run(
        [str(bench_binary()), *map(str, arguments)], capture_output=True, text=True, timeout=50,
        env={**os.environ, **environment}, check=False,
    )


def load(*arguments):
    """A load's exit code and its result."""
    done = bench("run", *arguments, "--quiet", "--json", "-", "--drain", "2s")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def urls(isthmus):
    return {name: f"{name}://guest:guest@127.0.0.1:{isthmus.ports[name]}" for name in PROTOCOLS}


LOADS = [
    ("amqp", ["--size", "16", "--messages", "20000"]),
    ("amqp", ["--persistent", "--window", "500", "--ack-every", "50", "--messages", "5000",
              "--producers", "2", "--addresses", "4", "--consumers", "3"]),
    ("amqp", ["--size", "100k-300k", "--fan-out", "2", "--messages", "50"]),
    ("amqp", ["--size", "16:8,1k:2", "--rate", "1000:500ms,500..2000:1s", "--warm-up", "0s"]),
    ("mqtt", ["--size", "16", "--messages", "20000"]),
    ("mqtt", ["--qos", "1", "--messages", "5000", "--mqtt", "3.1.1", "--consumers", "2"]),
    ("mqtt", ["--qos", "2", "--messages", "5000", "--window", "50"]),
    ("mqtt", ["--size", "64", "--fan-out", "10", "--messages", "1000"]),
    ("stomp", ["--size", "16", "--messages", "10000"]),
    ("stomp", ["--persistent", "--window", "100", "--ack-every", "20", "--messages", "2000",
               "--addresses", "2"]),
    ("stomp", ["--size", "64", "--fan-out", "5", "--messages", "1000"]),
]


@pytest.mark.parametrize(("protocol", "arguments"), LOADS, ids=lambda value: "-".join(value)
                         if isinstance(value, list) else value)
def test_every_message_is_accounted_for(urls, protocol, arguments):
    code, result = load(urls[protocol], *arguments)
    assert code == 0, result["failures"] + result["errors"]
    check, plan = result["check"], result["plan"]
    assert check["expected"] == check["received"] == check["sent"] * plan["fan_out"] > 0
    assert check["missing"] == check["duplicates"] == check["out_of_order"] == 0
    assert result["latency_us"]["count"] == check["received"]
    if plan["window"]:
        assert result["confirm_latency_us"]["count"] == check["sent"]
    if plan["messages"]:
        assert check["sent"] == plan["messages"]


def test_a_rate_is_kept(urls):
    code, result = load(urls["amqp"], "--rate", "2000", "--duration", "2s", "--warm-up", "0s")
    assert code == 0
    assert abs(result["check"]["sent"] - 4000) < 200
    assert result["sent_late_us"]["count"] == result["check"]["sent"]


def test_the_queues_are_gone_at_the_end(urls, isthmus):
    load(urls["amqp"], "--messages", "10", "--name", "bench.gone", "--run-id", "0badcafe")
    code, result = load(urls["amqp"], "--messages", "10", "--name", "bench.gone", "--no-declare",
                        "--consumers", "1")
    assert code == 1
    assert any("NOT_FOUND" in error for error in result["errors"]), result["errors"]


def test_producers_and_consumers_in_two_processes(urls):
    common = ["--name", "bench.two", "--run-id", "0000002a", "--size", "64", "--messages", "3000"]
    code, sent = load(urls["amqp"], *common, "--consumers", "0", "--keep")
    assert code == 0 and sent["check"]["sent"] == 3000
    code, received = load(urls["amqp"], *common, "--producers", "0")
    assert code == 0, received["failures"]
    assert received["check"]["received"] == received["check"]["expected"] == 3000


def test_messages_of_another_run_are_told_apart(urls):
    common = ["--name", "bench.other", "--size", "64", "--messages", "100"]
    load(urls["amqp"], *common, "--consumers", "0", "--keep")
    code, result = load(urls["amqp"], *common)
    assert code == 1
    assert result["check"]["corrupt"] == 100


def test_the_report_is_one_file_that_loads_nothing(urls, tmp_path):
    report = tmp_path / "report.html"
    load(urls["amqp"], "--messages", "5000", "--html", report)
    text = report.read_text(encoding="utf-8")
    assert text.count("<svg") == 3 and text.endswith("</html>\n")
    assert not any(word in text for word in ("<script", "href", "src=", "http:", "https:", "guest:"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_connections_open_stay_and_leave(urls, protocol):
    done = bench("connect", urls[protocol], "-n", "50", "--hold", "500ms", "--quiet", "--json", "-")
    result = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (result["opened"], result["failed"], result["dropped"]) == (50, 0, 0)


def test_credentials_may_be_in_the_environment_and_are_never_shown(isthmus):
    url = f"amqp://127.0.0.1:{isthmus.ports['amqp']}"
    good = bench("run", url, "--messages", "10", ISTHMUS_BENCH_USER="guest",
                 ISTHMUS_BENCH_PASSWORD="guest")
    assert good.returncode == 0, good.stderr
    bad = bench("run", url, ISTHMUS_BENCH_USER="guest", ISTHMUS_BENCH_PASSWORD="very-secret")
    assert bad.returncode == 3
    assert "ACCESS_REFUSED" in bad.stderr and "very-secret" not in bad.stderr + bad.stdout


def test_wrong_flags_are_exit_code_2():
    done = bench("run", "amqp://me:secret@localhost", "--qos", "1")
    assert done.returncode == 2
    assert "--qos is for mqtt" in done.stderr and "secret" not in done.stderr


def packets(buffer):
    """Takes the complete MQTT packets off the front of a buffer."""
    while len(buffer) >= 2:
        length, shift, at = 0, 0, 1
        while at < len(buffer):
            length |= (buffer[at] & 0x7f) << shift
            shift += 7
            at += 1
            if not buffer[at - 1] & 0x80:
                break
        else:
            return
        if len(buffer) < at + length:
            return
        yield bytes(buffer[:at + length])
        del buffer[:at + length]


@contextlib.contextmanager
def mqtt_proxy(port, fault):
    """Passes connections on to a broker; `fault(n, packet)` tells what the client gets for the nth
    PUBLISH that comes from it."""
    listener = socket.create_server(("127.0.0.1", 0))
    sockets = [listener]

    def pass_on(source, sink, is_from_broker):
        buffer, count = bytearray(), 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not is_from_broker:
                    sink.sendall(data)
                    continue
                buffer += data
                out = b""
                for packet in packets(buffer):
                    is_publish = packet[0] >> 4 == PUBLISH
                    out += fault(count, packet) if is_publish else packet
                    count += is_publish
                sink.sendall(out)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                broker = socket.create_connection(("127.0.0.1", port))
                sockets.extend((client, broker))
                for source, sink in ((client, broker), (broker, client)):
                    threading.Thread(target=pass_on, args=(source, sink, source is broker),
                                     daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"mqtt://guest:guest@127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def swapped():
    """Holds the hundredth message back until the next has gone."""
    held = []

    def fault(n, packet):
        if n == 100:
            held.append(packet)
            return b""
        return packet + held.pop() if held else packet
    return fault


FAULTS = {
    "loss": (lambda n, packet: b"" if n == 100 else packet, "missing"),
    "duplicates": (lambda n, packet: packet * (1 + (n == 100)), "duplicates"),
    "order": (swapped(), "out_of_order"),
    "change": (lambda n, packet: packet[:-1] + b"\x00" if n == 100 else packet, "corrupt"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_done_to_one_message_is_reported(isthmus, fault):
    perform, field = FAULTS[fault]
    with mqtt_proxy(isthmus.ports["mqtt"], perform) as url:
        code, result = load(url, "--messages", "300", "--size", "64")
        assert code == 1
        assert result["check"][field] == 1, result["check"]
        # A changed message is also one that did not come.
        others = {"missing", "duplicates", "out_of_order", "corrupt"} - {field}
        others -= {"missing"} if fault == "change" else set()
        assert not any(result["check"][other] for other in others), result["check"]


def test_loss_may_be_tolerated(isthmus):
    perform, _ = FAULTS["loss"]
    with mqtt_proxy(isthmus.ports["mqtt"], perform) as url:
        code, result = load(url, "--messages", "300", "--tolerate", "loss")
        assert (code, result["check"]["missing"]) == (0, 1)
