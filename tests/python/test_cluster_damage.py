"""A bit flips on the disk of one node of three: it is noticed, the node never leads with it, the
others serve on, and it comes back by the documented procedure: emptied, it fetches everything."""

import os
import random
import subprocess

import pika
import pytest

from broker import DidNotStart, binary
from cluster import Cluster
from clusterload import Load, held
from helpers import eventually

SOAK = os.environ.get("ISTHMUS_SOAK") == "1"
FLIPS = 100 if SOAK else 5
KINDS = ["log-*.seg", "pages-*.pag", "checkpoint-*.ckp"]
JOINED_WITHIN_S = 30
# So small that most of what is held is in pages, and the log in several segments.
SMALL = {"storage.segment_bytes": "1 MiB", "storage.checkpoint_after_bytes": "1 MiB",
         "storage.body_cache_bytes": "8 MiB", "cluster.log_kept_bytes": "1 MiB"}
BALLAST = 1200
PERSISTENT = pika.BasicProperties(delivery_mode=2)

pytestmark = [pytest.mark.serial, pytest.mark.soak, pytest.mark.timeout(3600 if SOAK else 150)]


@pytest.fixture
def cluster(tmp_path):
    """Three nodes with a backlog."""
    with Cluster(tmp_path, SMALL) as cluster:
        connection = cluster.leader().connect()
        channel = connection.channel()
        channel.queue_declare("ballast", durable=True)
        channel.confirm_delivery()
        for number in range(BALLAST):
            body = number.to_bytes(8, "big") + os.urandom(16 << 10)
            channel.basic_publish("", "ballast", body, PERSISTENT)
        connection.close()
        for node in cluster.running:
            eventually(lambda: all(any(node.data_dir.glob(kind)) for kind in KINDS), 20)
        yield cluster


def flip(rng, file):
    """Flips any bit of a file; returns what flips it back."""
    at, bit = rng.randrange(file.stat().st_size), 1 << rng.randrange(8)

    def change():
        with open(file, "r+b") as opened:
            opened.seek(at)
            byte, = opened.read(1)
            opened.seek(at)
            opened.write(bytes([byte ^ bit]))
    change()
    return change


def verify(node):
    """Whether `isthmus storage verify` finds damage, and what it prints."""
    done = subprocess.run([binary(), "storage", "verify", node.data_dir], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=60)
    assert done.returncode in (0, 1), done.stdout
    return done.returncode == 1, done.stdout


def damage(rng, node, kind):
    """Flips a bit of a node that does not run, in a file of a kind, where it does harm: not in
    what is spare. Returns the file."""
    for _ in range(50):
        files = sorted(node.data_dir.glob(kind))
        assert files, f"no {kind} among {sorted(os.listdir(node.data_dir))}"
        file = rng.choice(files)
        flip_back = flip(rng, file)
        is_damaged, printed = verify(node)
        if is_damaged:
            assert file.name in printed, (file.name, printed)
            return file
        flip_back()
    raise AssertionError(f"50 flips in {kind} have done no harm")


def refuses_to_start(node, file):
    """It says where the damage is, and ends; it has led nobody."""
    with pytest.raises(DidNotStart) as refused:
        node.start()
    assert refused.value.exit_code not in (None, 0), refused.value.output
    assert file.name in node.log() and "offset" in node.log(), node.log()
    assert "was elected" not in node.log(), "it has led"


def start_empty(cluster, node):
    """The procedure of docs/operations/cluster.md: the data directory emptied, started again."""
    node.wipe()
    cluster.start_nodes(node.number)
    cluster.wait_whole(JOINED_WITHIN_S, voters=3)
    assert "damage" not in node.log(), node.log()


def the_same_everywhere(cluster, queue, confirmed):
    """Every node holds all that was confirmed, and the same."""
    found = {}
    for node in cluster.running:
        found[node.number] = held(cluster.transfer(node.number), queue)
        lost = confirmed - set(found[node.number])
        assert not lost, f"node {node.number}: {len(lost)} lost: {sorted(lost)[:10]}"
    first, *others = found.values()
    assert all(each == first for each in others), "nodes hold different things"


def test_a_flipped_bit_is_noticed_and_mended_from_the_others(cluster):
    seed = random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)
    print(f"seed {seed}")
    with Load(cluster.nodes.values(), "damaged", consumes=False) as load:
        for turn in range(FLIPS):
            node = cluster.leader() if turn % 3 == 0 else cluster.standby()
            before = len(load.promise.confirmed)
            assert node.stop() == 0, node.log()
            refuses_to_start(node, damage(rng, node, KINDS[turn % len(KINDS)]))
            eventually(lambda: len(load.promise.confirmed) > before + 10, 10)
            start_empty(cluster, node)
        load.stop()
    the_same_everywhere(cluster, "damaged", load.promise.confirmed)
    the_same_everywhere(cluster, "ballast", set(range(BALLAST)))


def flip_the_end(node):
    """Flips a bit of the last that is in the log, which a start takes for what a power cut leaves."""
    file = max(node.data_dir.glob("log-*.seg"))
    at = len(file.read_bytes().rstrip(b"\0")) - 20
    with open(file, "r+b") as opened:
        opened.seek(at)
        byte, = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte ^ 1]))


def test_a_node_that_lost_what_it_had_acknowledged_is_told_and_gets_it_again(tmp_path):
    """Its log ends before what it said it had: the node cannot know, and its leader does. Then the
    leader goes as well."""
    told = "ends before what it had acknowledged"
    with Cluster(tmp_path) as cluster, \
            Load(cluster.nodes.values(), "torn", consumes=False) as load:
        for _ in range(30):
            leader, node = cluster.leader(), cluster.standby()
            cluster.kill(node.number)
            flip_the_end(node)
            cluster.start_nodes(node.number)
            try:
                eventually(lambda: told in node.log(), 2)
                break
            except AssertionError:
                # What was flipped had not been acknowledged, or was sealed.
                cluster.wait_whole()
        assert told in node.log(), "nothing that was acknowledged was flipped"
        cluster.kill(leader.number)
        before = len(load.promise.confirmed)
        eventually(lambda: len(load.promise.confirmed) > before + 10, 10)
        cluster.heal()
        load.stop()
        # What was lost is there again.
        the_same_everywhere(cluster, "torn", load.promise.confirmed)
