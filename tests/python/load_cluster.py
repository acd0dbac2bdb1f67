"""Speed of three nodes beside three of RabbitMQ with a quorum queue, on this machine.

    load_cluster.py [repeats]

Runs the load generator of ../shared/load, if it is there, against a cluster of the release build
and against one of Debian's rabbitmq-server, if it is installed, in turns, and prints one line for
each run. Figures mean something on a quiet machine only.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cluster import Cluster
from with_rabbitmq import RabbitMqCluster

ROOT = Path(__file__).resolve().parents[2]
LOAD = ROOT.parent / "shared/load"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
SCENARIOS = [
    ["amqp", "durable", "--size", "1024", "--window", "1000"],
    ["amqp", "lat", "--size", "1024", "--rate", "2000", "--durable"],
]
SHOWN = ("pub_per_s", "broker_cpu_s_per_M", "p50_us", "p99_us")


def run(name, port, pid, *options):
    """Every scenario against one node of a cluster."""
    for scenario in SCENARIOS:
        ran = subprocess.run(
            [TARGET / "load/release/load", *scenario, *options,
             "--broker", name, "--port", str(port), "--pid", str(pid)],
            check=True, capture_output=True, text=True)
        figures = json.loads(ran.stdout.splitlines()[-1])
        shown = {key: figures[key] for key in SHOWN if key in figures}
        print(name, " ".join(scenario[:2]), shown, flush=True)


def isthmus(directory):
    with Cluster(directory) as cluster:
        leader = cluster.leader()
        run("isthmus", leader.amqp[1], leader.process.pid)


def rabbitmq(directory):
    with contextlib.closing(RabbitMqCluster(directory, 3)) as cluster:
        node = cluster.nodes[0]
        run("rabbitmq", node.amqp_port, node.pid(), "--qtype", "quorum")


def main():
    if not LOAD.is_dir():
        print("no load generator at hand: skipped")
        return
    os.environ.setdefault("ISTHMUS_BIN", str(TARGET / "release/isthmus"))
    subprocess.run(["cargo", "build", "--quiet", "--release", "--manifest-path",
                    LOAD / "Cargo.toml"], check=True,
                   env=os.environ | {"CARGO_TARGET_DIR": str(TARGET / "load")})
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        for cluster in (isthmus, rabbitmq):
            if cluster is rabbitmq and not shutil.which("rabbitmq-server"):
                print("rabbitmq-server is not installed: left out")
                continue
            with tempfile.TemporaryDirectory(prefix="isthmus-load-") as directory:
                cluster(Path(directory))


if __name__ == "__main__":
    main()
