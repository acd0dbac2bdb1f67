"""Runs the scenarios of docs/performance.md with isthmus-bench against Isthmus and its peers.

    load_peers.py [--install] [--only REGEX] [--brokers a,b] [--repeats N] [--seconds S] [--write]

Every broker that speaks a scenario's protocol has its turn before the next repeat begins, one
running at a time. The table has medians.
"""

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from broker import binary
from peers import PEERS

ROOT = Path(__file__).resolve().parents[2]
PERFORMANCE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- load-peers: written by tests/load-peers --write -->", "<!-- load-peers: end -->"

MQTT = ["--mqtt", "3.1.1", "--tolerate", "loss"]
DURABLE = ["--persistent", "--window", "1000", "--ack-every", "100", "--prefetch", "1000"]
RECEIPTS = ["--persistent", "--window", "1000", "--ack-every", "100"]
RATE = ["--rate", "2000"]

# Protocol, name, flags of `isthmus-bench run`.
SCENARIOS = [
    ("amqp", "AMQP, transient 16 B", ["--size", "16"]),
    ("amqp", "AMQP, transient 1 KiB", ["--size", "1k"]),
    ("amqp", "AMQP, transient 64 KiB", ["--size", "64k"]),
    ("amqp", "AMQP, durable 16 B, confirms", ["--size", "16", *DURABLE]),
    ("amqp", "AMQP, durable 1 KiB, confirms", ["--size", "1k", *DURABLE]),
    ("amqp", "AMQP, durable 64 KiB, confirms", ["--size", "64k", *DURABLE]),
    ("amqp", "AMQP, transient 1 KiB, 2,000/s", ["--size", "1k", *RATE]),
    ("amqp", "AMQP, durable 1 KiB, 2,000/s", ["--size", "1k", *RATE, *DURABLE]),
    ("mqtt", "MQTT, QoS 0, 16 B", ["--size", "16", *MQTT]),
    ("mqtt", "MQTT, QoS 0, 1 KiB", ["--size", "1k", *MQTT]),
    ("mqtt", "MQTT, QoS 1, 16 B", ["--size", "16", "--qos", "1", *MQTT]),
    ("mqtt", "MQTT, QoS 0, 16 B, 1 to 100", ["--size", "16", "--fan-out", "100", *MQTT]),
    ("mqtt", "MQTT, QoS 1, 16 B, 1 to 100",
     ["--size", "16", "--qos", "1", "--fan-out", "100", *MQTT]),
    ("stomp", "STOMP, transient 16 B", ["--size", "16"]),
    ("stomp", "STOMP, durable 1 KiB, receipts", ["--size", "1k", *RECEIPTS]),
]


def bench_binary():
    """ISTHMUS_BENCH_BIN, or what was built beside the broker."""
    path = Path(os.environ.get("ISTHMUS_BENCH_BIN") or binary().with_name("isthmus-bench"))
    if not path.exists():
        sys.exit(f"{path} is not there: cargo build --release --package isthmus-bench")
    return path


def measure(peer, protocol, flags, options):
    """One run; its result, or None with the reason told."""
    url = f"{protocol}://guest:guest@127.0.0.1:{peer.ports[protocol]}"
    command = [str(bench_binary()), "run", url, *flags, "--duration", f"{options.seconds}s",
               "--warm-up", f"{options.warm_up}s", "--drain", "10s", "--quiet", "--json", "-",
               "--broker-pid", str(peer.pid())]
    limit_s = options.seconds + options.warm_up + 60
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode != 0:
        print(f"  failed: {done.stderr.strip()}", file=sys.stderr)
        return None
    return json.loads(done.stdout)


def run_all(options):
    """The results of every scenario and broker."""
    results, failed = {}, []
    for repeat in range(options.repeats):
        for protocol, name, flags in SCENARIOS:
            if not re.search(options.only, name):
                continue
            for broker in options.brokers:
                with tempfile.TemporaryDirectory(prefix=f"isthmus-{broker}-") as directory:
                    peer = PEERS[broker](directory)
                    if not peer.is_installed() or not speaks(broker, protocol):
                        continue
                    peer.start()
                    try:
                        result = measure(peer, protocol, flags, options)
                    finally:
                        peer.stop()
                if result is None:
                    failed.append(f"{name} with {broker}")
                    continue
                results.setdefault((name, broker), []).append(result)
                rate = result["measured"]["received_per_second"]
                load = os.getloadavg()[0]
                print(f"{repeat + 1}  {name}  {broker}: {rate:,.0f}/s (load {load:.1f})",
                      file=sys.stderr)
    return results, failed


SPEAKS = {"isthmus": ("amqp", "mqtt", "stomp"), "rabbitmq": ("amqp", "mqtt", "stomp"),
          "mosquitto": ("mqtt",), "nats": ("mqtt",), "activemq": ("stomp",)}


def speaks(broker, protocol):
    return protocol in SPEAKS[broker]


def short(value):
    """Three digits and a unit of thousands."""
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g}"


def in_time(microseconds):
    return f"{microseconds / 1000:.3g} ms" if microseconds >= 1000 else f"{microseconds:.0f} µs"


def cell(results):
    """Median rate or latency, CPU-seconds per million, and resident memory."""
    def median(pick):
        return statistics.median(map(pick, results))
    cpu = median(lambda result: result["broker_process"]["cpu_seconds_per_million"])
    mb = median(lambda result: result["broker_process"]["peak_rss_bytes"]) / 1e6
    if results[0]["plan"]["rate"]:
        p50, p99 = (median(lambda result, mark=mark: result["latency_us"][mark])
                    for mark in ("p50", "p99"))
        first = f"p50 {in_time(p50)}, p99 {in_time(p99)}"
    else:
        first = short(median(lambda result: result["measured"]["received_per_second"])) + "/s"
    return f"{first} · {cpu:.2g} · {mb:.0f} MB"


def table(results, options):
    """The table, and how it was made."""
    brokers = [broker for broker in options.brokers if any(key[1] == broker for key in results)]
    lines = ["| | " + " | ".join(brokers) + " |", "|---" * (len(brokers) + 1) + "|"]
    for _, name, _ in SCENARIOS:
        cells = [cell(results[name, broker]) if (name, broker) in results else ""
                 for broker in brokers]
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    about = (f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} processors, Linux {platform.release()}; "
             f"medians of {options.repeats} runs of {options.seconds:g} s after "
             f"{options.warm_up:g} s: deliveries a second (or latency) · CPU-seconds of the broker "
             "per million · its peak resident memory.")
    return about + "\n\n" + "\n".join(lines)


def write(text):
    """Puts the table between its marks in docs/performance.md."""
    document = PERFORMANCE.read_text(encoding="utf-8")
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    PERFORMANCE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--install", action="store_true", help="install peers that are missing")
    parser.add_argument("--only", default="", metavar="REGEX", help="scenarios by their name")
    parser.add_argument("--brokers", default=",".join(PEERS), type=lambda text: text.split(","))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--warm-up", type=float, default=2)
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    options = parser.parse_args()
    # So that whatever runs is stopped then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    if unknown := set(options.brokers) - set(PEERS):
        parser.error(f"{', '.join(unknown)}: the brokers are {', '.join(PEERS)}")
    if options.install:
        packages = [PEERS[broker].package for broker in options.brokers if PEERS[broker].package]
        subprocess.run([ROOT / "tests" / "apt-install", *packages], check=True)
    for broker in options.brokers:
        if not PEERS[broker].is_installed():
            print(f"{broker} is not installed: left out (--install)", file=sys.stderr)
    results, failed = run_all(options)
    text = table(results, options)
    print(text)
    if options.write and not failed:
        write(text)
    if failed:
        sys.exit("failed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
