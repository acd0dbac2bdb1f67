"""Partitions between three nodes, by proxies in front of each: no minority confirms, one leader a
term, healed at once, nothing confirmed is lost."""

import contextlib
import os
import random
import threading
import time

import pytest

from cluster import Cluster
from clusterload import Load, held

SOAK = os.environ.get("ISTHMUS_SOAK") == "1"
ROUNDS = 40 if SOAK else 1
CUT_S = 10 if SOAK else 4
RUN_S = 14 * 180
HEALED_WITHIN_S = 5

pytestmark = [pytest.mark.serial, pytest.mark.soak, pytest.mark.timeout(3600 if SOAK else 90)]


@pytest.fixture(scope="module")
def formed(tmp_path_factory):
    """Three nodes whose peers reach them by proxies."""
    with Cluster(tmp_path_factory.mktemp("partitions"), is_proxied=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(formed):
    """The cluster, whole."""
    formed.heal()
    yield formed
    formed.heal()


class Watch:
    """Notes who says of itself that it leads in which term, for as long as it is open."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.leaders = {}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self.ended.wait(0.1):
            for status in self.cluster.statuses().values():
                if status.get("role") == "leader":
                    self.leaders.setdefault(status["term"], set()).add(status["member"])

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.ended.set()
        self.thread.join()
        if kind is None:
            assert self.leaders, "nobody led"
            twice = {term: who for term, who in self.leaders.items() if len(who) > 1}
            assert not twice, f"several leaders in a term: {twice}"


@contextlib.contextmanager
def loads(cluster, queue):
    """A load on each node, and none elsewhere: what each confirms is told apart."""
    with contextlib.ExitStack() as stack:
        yield {node.number: stack.enter_context(
            Load([node], f"{queue}.{node.number}", window=8, consumes=False))
            for node in cluster.nodes.values()}


def partition(cluster, queue, cut, minority, served):
    """Cuts, waits, heals, and judges. `minority` are the nodes that may confirm nothing, and
    `served` those that must serve clients all the same."""
    with Watch(cluster), loads(cluster, queue) as by_node:
        for _ in range(ROUNDS):
            time.sleep(0.2)
            cut_s = time.monotonic()
            cut()
            time.sleep(CUT_S)
            healed_s = time.monotonic()
            for number, load in by_node.items():
                # What had been on its way at the cut may still be confirmed.
                confirmed = load.confirmed_between(cut_s + 0.1, healed_s)
                if number in minority:
                    assert confirmed == 0, f"node {number}, alone, has confirmed {confirmed}"
                if number in served:
                    assert confirmed > 0, f"node {number} has confirmed nothing"
            for proxy in cluster.proxies.values():
                proxy.heal()
            for load in by_node.values():
                outage_s = load.outage_s(healed_s)
                assert outage_s < HEALED_WITHIN_S, f"healed after {outage_s:.1f} s"
            cluster.wait_whole()
        for load in by_node.values():
            load.stop()
    leader = cluster.wait_whole()
    for load in by_node.values():
        numbers = held(leader, load.queue)
        lost = load.promise.confirmed - set(numbers)
        assert not lost, f"{load.queue}: {len(lost)} lost: {sorted(lost)[:10]}"
        assert len(numbers) == len(set(numbers)), f"{load.queue}: a message is there twice"
    return {number: len(load.promise.confirmed) for number, load in by_node.items()}


def test_an_isolated_leader_confirms_nothing(cluster):
    leader = cluster.leader().number
    others = [number for number in cluster.nodes if number != leader]
    partition(cluster, "isolated", lambda: cluster.divide([leader], others), {leader},
              set(others))


def test_a_half_without_majority_confirms_nothing(cluster):
    standby = cluster.standby().number
    others = [number for number in cluster.nodes if number != standby]
    term = cluster.leader().status()["term"]
    partition(cluster, "halves", lambda: cluster.divide(others, [standby]), {standby},
              set(others))
    assert cluster.leader().status()["term"] == term, "who came back has deposed the leader"


def test_a_bridge_keeps_one_leader(cluster):
    # Two that do not hear each other, and both the third. The leader is at one end.
    leader = cluster.leader().number
    bridge = cluster.standby().number
    other = next(number for number in cluster.nodes if number not in (leader, bridge))
    partition(cluster, "bridge", lambda: cluster.cut((leader, other), (other, leader)), set(),
              {leader, bridge})


@pytest.mark.parametrize("deaf", ["leader", "standby"])
def test_one_way(cluster, deaf):
    # What the deaf one says is heard; it hears nothing.
    leader, standby = cluster.leader().number, cluster.standby().number
    number = leader if deaf == "leader" else standby
    others = [other for other in cluster.nodes if other != number]
    partition(cluster, f"deaf.{deaf}", lambda: cluster.cut(*((each, number) for each in others)),
              {number}, set(others))


def test_nobody_hears_anybody(cluster):
    partition(cluster, "apart", lambda: cluster.divide(*([n] for n in cluster.nodes)),
              set(cluster.nodes), set())


@pytest.mark.skipif(not SOAK, reason="a long form only")
def test_any_partitions_one_after_the_other(cluster):
    rng = random.Random()
    with Watch(cluster), loads(cluster, "any") as by_node, \
            Load(cluster.nodes.values(), "any.consumed") as consumed:
        until = time.monotonic() + RUN_S
        while time.monotonic() < until:
            pairs = [(a, b) for a in cluster.nodes for b in cluster.nodes if a != b]
            cluster.cut(*rng.sample(pairs, rng.randint(1, len(pairs))))
            if rng.random() < 0.3:
                rng.choice(cluster.running).pause()
            time.sleep(rng.uniform(0.1, 5))
            if rng.random() < 0.3:
                cluster.kill(rng.choice(cluster.running).number)
            healed_s = time.monotonic()
            cluster.heal()
            for load in (*by_node.values(), consumed):
                load.outage_s(healed_s)
            assert consumed.promise.violations == []
        for load in by_node.values():
            load.stop()
        assert consumed.settle_account(cluster) == []
    leader = cluster.wait_whole()
    for load in by_node.values():
        numbers = held(leader, load.queue)
        assert load.promise.confirmed <= set(numbers), f"{load.queue}: confirmed messages are lost"
        assert len(numbers) == len(set(numbers)), f"{load.queue}: a message is there twice"
