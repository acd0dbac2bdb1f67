"""What three nodes promise while they are killed, paused and restarted: nothing confirmed is lost.

With ISTHMUS_REWRITE_DOCS=1 the long form writes the outages into docs/reliability.md.
"""

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from cluster import Cluster
from clusterload import Load, held, histogram, summary
from helpers import eventually

SOAK = os.environ.get("ISTHMUS_SOAK") == "1"
ROOT = Path(__file__).resolve().parents[2]
# Where the long forms write their figures.
RESULTS = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "test-results"
DOCUMENT = ROOT / "docs/reliability.md"
BEGIN = "<!-- written by tests/python/test_cluster_kills.py -->\n"
END = "<!-- the end of what is written -->\n"
# The width of a histogram's steps, and the longest of its bars in characters.
STEP_S = 0.25
BAR = 40
IS_DEBUG = "debug" in os.environ.get("ISTHMUS_BIN", "")

KILLS = 200 if SOAK else 5
DISASTERS = 100 if SOAK else 2
PAUSE_S = 60 if SOAK else 5
OUTAGE_MAX_S = 5
# A debug build takes longer for everything that is not waiting.
MEDIAN_MAX_S = 4 if IS_DEBUG else 2
SMALL = {"storage.segment_bytes": "4 MiB", "storage.checkpoint_after_bytes": "4 MiB"}

pytestmark = [pytest.mark.serial, pytest.mark.timeout(3600 if SOAK else 90)]


@pytest.fixture
def cluster(tmp_path):
    """Three nodes, with checkpoints so small that they happen in between."""
    with Cluster(tmp_path, SMALL) as cluster:
        yield cluster


def write_figures(name, figures):
    """Prints the figures of a long form, and keeps them as JSON and as a table."""
    text = table(figures)
    print(text)
    if not SOAK:
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
    (RESULTS / f"{name}.md").write_text(text)


def table(figures):
    """A histogram as a table with bars, without the empty steps at its beginning."""
    steps = figures["histogram"]
    while steps and not steps[0][1]:
        steps = steps[1:]
    most = max((count for _, count in steps), default=1)
    lines = ["| outage | kills | |", "| ---: | ---: | :--- |"]
    for bound, count in steps:
        bar = "█" * -(-count * BAR // most)
        lines.append(f"| {bound / 1000 - STEP_S:.2f} to {bound / 1000:.2f} s | {count} | {bar} |")
    return "\n".join(lines) + "\n"


def rewrite_document(figures):
    """Writes the outages of a long form into the document, if that is asked for."""
    if not (SOAK and os.environ.get("ISTHMUS_REWRITE_DOCS")):
        return
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    assert after, f"{DOCUMENT} has no {BEGIN.strip()} and {END.strip()}"
    words = (f"{figures['count']} kills, {figures['confirmed']:,} publishes confirmed, 0 lost: "
             f"median {figures['median_ms'] / 1000:.2f} s, p99 {figures['p99_ms'] / 1000:.2f} s, "
             f"longest {figures['longest_ms'] / 1000:.2f} s.")
    DOCUMENT.write_text(f"{before}{BEGIN}\n{words}\n\n{table(figures)}\n{END}{after}")


def same_everywhere(cluster, queue):
    """Has every node lead in turn, and shows that each holds the same; returns it."""
    found = {}
    for number in cluster.nodes:
        node = cluster.transfer(number)
        found[number] = held(node, queue)
    first, *others = found.values()
    assert all(other == first for other in others), {
        number: (len(each), each[:5]) for number, each in found.items()}
    return first


@pytest.mark.soak
def test_the_leader_is_killed_again_and_again(cluster):
    seed = random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)
    outages = []
    with Load(cluster.nodes.values(), "kills") as load:
        for kill in range(KILLS):
            time.sleep(rng.uniform(0.3, 0.8))
            leader = cluster.leader()
            killed_s = time.monotonic()
            cluster.kill(leader.number)
            outages.append(load.outage_s(killed_s))
            cluster.start_nodes(leader.number)
            cluster.wait_whole()
            assert load.promise.violations == [], f"kill {kill}, seed {seed}"
        violations = load.settle_account(cluster)
    figures = summary(outages) | {"histogram": histogram(outages, STEP_S), "seed": seed,
                                  "confirmed": len(load.promise.confirmed)}
    print(summary(outages), f"seed {seed}")
    write_figures("failover", figures)
    assert violations == [], f"seed {seed}"
    rewrite_document(figures)
    assert len(load.promise.confirmed) > KILLS * 50, "too little load to show anything"
    assert figures["median_ms"] < MEDIAN_MAX_S * 1000, figures
    assert figures["p99_ms"] < OUTAGE_MAX_S * 1000, figures


@pytest.mark.soak
def test_all_nodes_are_killed_at_once(cluster):
    rng = random.Random()
    with Load(cluster.nodes.values(), "all", consumes=False) as load:
        for _ in range(DISASTERS):
            time.sleep(rng.uniform(0.2, 0.5))
            killed_s = time.monotonic()
            cluster.kill(*cluster.nodes)
            cluster.start_nodes()
            cluster.wait_whole()
            load.outage_s(killed_s)
        load.stop()
    cluster.wait_whole()
    numbers = same_everywhere(cluster, "all")
    assert load.promise.confirmed <= set(numbers), "confirmed messages are lost"
    assert len(numbers) == len(set(numbers)), "a message is there twice"


@pytest.mark.soak
def test_one_node_is_killed_while_another_is_paused(cluster):
    rng = random.Random()
    with Load(cluster.nodes.values(), "pair", consumes=False) as load:
        for turn in range(DISASTERS):
            time.sleep(rng.uniform(0.2, 0.5))
            leader = cluster.leader()
            paused = cluster.standby()
            killed = leader if turn % 2 == 0 else cluster.standby(other_than=(paused,))
            paused.pause()
            time.sleep(rng.uniform(0.1, 0.4))
            cluster.kill(killed.number)
            # One of three is left: nothing may be confirmed.
            alone_s = time.monotonic()
            time.sleep(1)
            assert load.confirmed_between(alone_s + 0.1, time.monotonic()) == 0
            paused.resume()
            back_s = time.monotonic()
            load.outage_s(back_s)
            cluster.start_nodes()
            cluster.wait_whole()
        load.stop()
    numbers = same_everywhere(cluster, "pair")
    assert load.promise.confirmed <= set(numbers), "confirmed messages are lost"
    assert len(numbers) == len(set(numbers)), "a message is there twice"


@pytest.mark.soak
def test_a_leader_that_was_paused_accepts_nothing(cluster):
    stale = cluster.leader()
    with Load([stale], "paused.stale", consumes=False, stall_s=PAUSE_S + 20) as at_stale, \
            Load(cluster.nodes.values(), "paused") as load:
        paused_s = time.monotonic()
        stale.pause()
        outage_s = load.outage_s(paused_s)
        time.sleep(max(0.0, paused_s + PAUSE_S - time.monotonic()))
        new = cluster.leader(among=[node for node in cluster.nodes.values() if node is not stale])
        term = new.status()["term"]
        # What a client of the stale leader had sent meanwhile waits in its socket.
        resumed_s = time.monotonic()
        stale.resume()
        cluster.wait_whole()
        assert cluster.leader() is not stale
        # Its clients are sent away, and served by the new one through it.
        at_stale.outage_s(resumed_s)
        assert new.status()["term"] == term, "the stale leader has deposed the new one"
        assert at_stale.settle_account(cluster) == []
        assert load.settle_account(cluster) == []
    print(f"outage {outage_s * 1000:.0f} ms with a leader paused")
    assert outage_s < OUTAGE_MAX_S


@pytest.mark.soak
def test_dead_letters_survive_their_leaders(cluster):
    kills = 100 if SOAK else 3
    queues = ["dying", "dead.middle", "dead.last"]
    connection = cluster.leader().connect()
    channel = connection.channel()
    channel.queue_declare(queues[2], durable=True)
    channel.queue_declare(queues[1], durable=True, arguments={
        "x-message-ttl": 300, "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queues[2]})
    arguments = {"x-message-ttl": 50, "x-dead-letter-exchange": "",
                 "x-dead-letter-routing-key": queues[1]}
    connection.close()
    with Load(cluster.nodes.values(), queues[0], consumes=False, arguments=arguments) as load:
        for _ in range(kills):
            time.sleep(random.uniform(0.2, 0.6))
            leader = cluster.leader()
            killed_s = time.monotonic()
            cluster.kill(leader.number)
            load.outage_s(killed_s)
            cluster.start_nodes()
            cluster.wait_whole()
        load.stop()
    leader = cluster.leader()
    connection = leader.connect()
    channel = connection.channel()
    eventually(lambda: not any(
        channel.queue_declare(queue, passive=True).method.message_count for queue in queues[:2]),
        within_s=15)
    connection.close()
    numbers = held(leader, queues[2])
    lost = load.promise.confirmed - set(numbers)
    assert not lost, f"{len(lost)} of {len(load.promise.confirmed)} lost: {sorted(lost)[:10]}"
    print(f"{len(load.promise.confirmed)} confirmed, {len(numbers) - len(set(numbers))} twice")


@pytest.mark.soak
def test_nodes_are_restarted_one_after_the_other(cluster, tmp_path):
    rounds = 10 if SOAK else 1
    outages, switchovers = [], []
    with Load(cluster.nodes.values(), "rolling") as load:
        for _ in range(rounds):
            # Each leader in turn hands over to the next; the last has been restarted as a standby.
            for node in (*cluster.nodes.values(), cluster.nodes[1]):
                was_leader = cluster.leader() is node
                begun_s = time.monotonic()
                node.begin_stop()
                outage_s = load.outage_s(begun_s)
                assert node.end_stop() == 0, node.log()
                cluster.start_nodes()
                cluster.wait_whole()
                (switchovers if was_leader else outages).append(outage_s)
        violations = load.settle_account(cluster)
    print(f"outages as a leader goes {switchovers}, as a standby goes {outages}")
    if switchovers:
        write_figures("rolling-restart", {"histogram": histogram(switchovers, STEP_S)} |
                      summary(switchovers))
    assert violations == []
    assert max(switchovers + outages) < OUTAGE_MAX_S
    assert max(switchovers, default=0) < (2 if IS_DEBUG else 0.5), "the planned switchover is slow"


def test_data_of_the_released_format_opens_as_a_cluster_of_one(tmp_path):
    fixture = ROOT / "src/broker/tests/fixtures/v2"
    alone = Cluster(tmp_path, size=1)
    alone.lay_out()
    node = alone.nodes[1]
    node.data_dir.mkdir(parents=True)
    for file in fixture.iterdir():
        if file.name != "expected.txt":
            shutil.copy(file, node.data_dir)
    try:
        alone.start_nodes()
        leader = alone.wait_whole(15)
        alone.wait_for_guest()
        queues = leader.api("/api/queues", user=ADMIN)
        assert queues, "what was in it is not there"
        with Load([leader], "after") as load:
            time.sleep(0.2)
            assert load.settle_account(alone) == []
        leader.restart()
        assert leader.api("/api/queues", user=ADMIN), "it does not open again"
    finally:
        print(alone.logs())
        alone.close()


ADMIN = "Basic Z3Vlc3Q6Z3Vlc3Q="
