"""Starting, stopping and restarting: what survives, what is refused, and what it costs."""

import os
import socket
import statistics
import subprocess
import urllib.error

import pika
import pytest

import rawamqp
from broker import Broker, DidNotStart, binary
from conftest import Endpoint
from helpers import eventually, exchange_exists, get_all, message_count, queue_exists

START_MS_MAX = 200
IDLE_RSS_KIB_MAX = 30 * 1024
HALF_OPEN_KIB_MAX = 64
PERSISTENT = pika.BasicProperties(delivery_mode=2)


def connect(broker):
    """A pika connection to a broker of the test's own."""
    return Endpoint(*broker.amqp, is_isthmus=True).connect()


def test_durable_things_survive_a_clean_restart_and_others_do_not(own_isthmus):
    connection = connect(own_isthmus)
    channel = connection.channel()
    channel.exchange_declare("durable", "topic", durable=True)
    channel.exchange_declare("transient", "topic", durable=False)
    channel.queue_declare("durable", durable=True, arguments={"x-max-length": 100})
    channel.queue_declare("transient", durable=False)
    channel.queue_declare("exclusive", durable=True, exclusive=True)
    channel.queue_bind("durable", "durable", "a.#")
    channel.confirm_delivery()
    for number in range(10):
        channel.basic_publish("durable", "a.b", b"%d" % number, PERSISTENT)
    channel.basic_publish("durable", "a.b", b"transient")
    channel.basic_publish("", "transient", b"x", PERSISTENT)
    first = channel.basic_get("durable")[0]
    channel.basic_ack(first.delivery_tag)
    channel.basic_get("durable")
    connection.close()

    own_isthmus.restart()
    connection = connect(own_isthmus)
    channel = connection.channel()
    channel.queue_declare("durable", durable=True, arguments={"x-max-length": 100})
    channel.exchange_declare("durable", "topic", durable=True)
    assert not exchange_exists(connection, "transient")
    assert not queue_exists(connection, "transient")
    assert not queue_exists(connection, "exclusive")
    got = channel.basic_get("durable", auto_ack=True)
    assert got[2] == b"1" and got[0].redelivered, "it was delivered before the restart"
    assert get_all(channel, "durable") == [b"%d" % number for number in range(2, 10)]
    channel.confirm_delivery()
    channel.basic_publish("durable", "a.c", b"still bound", PERSISTENT)
    assert get_all(channel, "durable") == [b"still bound"]
    connection.close()


def test_deleted_and_purged_things_stay_gone(own_isthmus):
    connection = connect(own_isthmus)
    channel = connection.channel()
    channel.confirm_delivery()
    for queue in ("kept", "deleted", "purged", "unbound"):
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, "amq.fanout")
    channel.basic_publish("amq.fanout", "", b"to all", PERSISTENT)
    channel.queue_delete("deleted")
    channel.queue_purge("purged")
    channel.queue_unbind("unbound", "amq.fanout")
    own_isthmus.kill()

    own_isthmus.start()
    connection = connect(own_isthmus)
    channel = connection.channel()
    assert not queue_exists(connection, "deleted")
    counts = [message_count(channel, queue) for queue in ("kept", "purged", "unbound")]
    assert counts == [1, 0, 1]
    channel.confirm_delivery()
    channel.basic_publish("amq.fanout", "", b"after", PERSISTENT)
    counts = [message_count(channel, queue) for queue in ("kept", "purged", "unbound")]
    assert counts == [2, 1, 1]


def test_properties_and_bodies_survive_a_kill(own_isthmus):
    properties = pika.BasicProperties(
        delivery_mode=2, headers={"k": [1, {"deep": "é"}]}, correlation_id="c", priority=3,
        message_id="m", timestamp=1700000000, content_type="text/plain")
    bodies = [b"", b"small", os.urandom(300_000)]
    channel = connect(own_isthmus).channel()
    channel.queue_declare("q", durable=True)
    channel.confirm_delivery()
    for body in bodies:
        channel.basic_publish("", "q", body, properties)
    own_isthmus.kill()
    own_isthmus.start()
    channel = connect(own_isthmus).channel()
    for body in bodies:
        _, got_properties, got_body = channel.basic_get("q", auto_ack=True)
        assert (got_properties, got_body) == (properties, body)


def test_dead_lettered_messages_survive_a_kill_with_their_history(own_isthmus):
    channel = connect(own_isthmus).channel()
    channel.queue_declare("dead", durable=True)
    channel.queue_declare("work", durable=True, arguments={
        "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    channel.confirm_delivery()
    channel.basic_publish("", "work", b"poison", PERSISTENT)
    channel.basic_reject(channel.basic_get("work")[0].delivery_tag, requeue=False)
    eventually(lambda: message_count(channel, "dead") == 1)
    # A message confirmed later was written later, so once it is confirmed the move is written too.
    channel.basic_publish("", "work", b"marker", PERSISTENT)
    own_isthmus.kill()
    own_isthmus.start()
    channel = connect(own_isthmus).channel()
    _, properties, body = channel.basic_get("dead", auto_ack=True)
    assert body == b"poison" and properties.headers["x-death"][0]["reason"] == "rejected"
    assert get_all(channel, "work") == [b"marker"]


def test_a_clean_stop_closes_connections_politely(own_isthmus):
    with rawamqp.Connection(own_isthmus.amqp) as raw:
        raw.login()
        own_isthmus.begin_stop()
        assert raw.expect_close().code == 320
        assert own_isthmus.end_stop() == 0, own_isthmus.log()


def test_a_clean_stop_does_not_wait_for_ever_for_silent_clients(own_isthmus):
    with rawamqp.Connection(own_isthmus.amqp) as raw, rawamqp.Connection(own_isthmus.amqp):
        raw.login()
        assert own_isthmus.stop() == 0, own_isthmus.log()


def refused_start(broker):
    """The one line with which a broker that cannot start ends."""
    with pytest.raises(DidNotStart) as raised, broker:
        pass
    assert raised.value.exit_code > 0, raised.value
    reasons = [line for line in raised.value.output.splitlines() if line.startswith("isthmus: ")]
    assert len(reasons) == 1 and "panicked" not in raised.value.output, raised.value.output
    return reasons[0]


def test_a_second_broker_on_the_same_data_is_refused(own_isthmus):
    line = refused_start(Broker(own_isthmus.data_dir))
    assert str(own_isthmus.data_dir) in line
    assert own_isthmus.get_json("/health/ready")["role"]


def test_a_port_in_use_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:{}".format(taken.getsockname()[1])
        assert address in refused_start(Broker(tmp_path / "data", amqp=address))


def test_an_unwritable_data_directory_is_named(tmp_path):
    (tmp_path / "data").write_text("a file, not a folder")
    assert str(tmp_path / "data") in refused_start(Broker(tmp_path / "data"))


def test_an_unknown_setting_is_refused(tmp_path):
    broker = Broker(tmp_path / "data", settings={"listeners.amqq": "127.0.0.1:0"})
    assert "amqp" in refused_start(broker), "the nearest key is suggested"


def run(*arguments, **environment):
    """Runs the binary to its end."""
    return subprocess.run([str(binary()), *arguments], timeout=10, text=True, check=False,
                          capture_output=True, env=os.environ | environment)


def test_check_accepts_a_good_file_and_names_the_fault_of_a_bad_one(tmp_path):
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text('[listeners]\namqp = "127.0.0.1:5672"\nhttp = "off"\n')
    bad.write_text('[listeners]\namqq = "127.0.0.1:5672"\n')
    assert run("check", str(good)).returncode == 0
    refused = run("check", str(bad))
    assert refused.returncode != 0
    assert "amqq" in refused.stderr and "amqp" in refused.stderr


def test_a_configuration_file_and_the_environment_count(tmp_path, monkeypatch):
    """The command line wins over the environment, which wins over the file."""
    config = tmp_path / "isthmus.toml"
    config.write_text('[listeners]\namqp = "127.0.0.1:1"\nhttp = "127.0.0.1:1"\n')
    monkeypatch.setenv("ISTHMUS__LISTENERS__HTTP", "off")
    broker = Broker(tmp_path / "data")
    del broker.settings["listeners.http"]
    command = broker.command() + ["--config", str(config)]
    broker.command = lambda: command
    with broker:
        assert "amqp" in broker.ports and "http" not in broker.ports
        assert broker.stop() == 0


def test_a_listener_may_be_off(tmp_path):
    with Broker(tmp_path / "data", settings={"listeners.http": "off"}) as broker:
        assert "http" not in broker.ports
        connect(broker).close()


def test_the_data_directory_is_private(own_isthmus):
    assert own_isthmus.data_dir.stat().st_mode & 0o777 == 0o700


def test_health_and_metrics(isthmus):
    assert isthmus.get("/health/live")[0] == 200
    assert isthmus.get_json("/health/ready")["role"]
    status, metrics = isthmus.get("/metrics")
    assert status == 200 and "# TYPE " in metrics and "isthmus_" in metrics
    with pytest.raises(urllib.error.HTTPError) as raised:
        isthmus.get("/no-such-page")
    assert raised.value.code in (401, 404)


@pytest.mark.serial
def test_a_start_on_an_empty_directory_takes_little_time(tmp_path):
    """The median of five, from the spawn of the process to its line in the log."""
    took_ms = []
    for number in range(5):
        with Broker(tmp_path / str(number)) as broker:
            took_ms.append(broker.ready_after_s * 1000)
    assert statistics.median(took_ms) <= START_MS_MAX, took_ms


@pytest.mark.serial
def test_an_idle_broker_takes_little_memory(own_isthmus):
    connect(own_isthmus).close()
    # What a password took to be verified is kept for a second, for the next one.
    eventually(lambda: own_isthmus.rss_kib() <= IDLE_RSS_KIB_MAX)


@pytest.mark.serial
def test_connections_before_login_take_little_memory(own_isthmus):
    """Two hundred of them, each with most of a start-ok of the largest size allowed."""
    count = 200
    connect(own_isthmus).close()
    before_kib = own_isthmus.rss_kib()
    half_open = []
    try:
        for _ in range(count):
            raw = rawamqp.Connection(own_isthmus.amqp)
            half_open.append(raw)
            raw.start()
            payload = bytes(rawamqp.FRAME_MIN_SIZE - rawamqp.FRAME_OVERHEAD)
            raw.send(rawamqp.frame(rawamqp.METHOD, 0, payload)[:-100])
        connect(own_isthmus).close()
        grown_kib = own_isthmus.rss_kib() - before_kib
    finally:
        for raw in half_open:
            raw.socket.close()
    assert grown_kib <= count * HALF_OPEN_KIB_MAX, f"{grown_kib / count:.1f} KiB each"
