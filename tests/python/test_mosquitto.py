"""What people at a shell do with Debian's mosquitto_pub and mosquitto_sub (mosquitto-clients)."""

import json
import shutil
import subprocess

import pytest

from broker import Broker
from helpers import PATIENCE_S

pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(not (shutil.which("mosquitto_pub") and shutil.which("mosquitto_sub")),
                       reason="mosquitto-clients is not installed: make test-peers installs it")]

all_versions = pytest.mark.parametrize("version", ["mqttv31", "mqttv311", "mqttv5"])
WITHIN_S = 10


@pytest.fixture
def at(isthmus):
    """How the clients reach the broker."""
    return ["-h", "127.0.0.1", "-p", str(isthmus.ports["mqtt"]), "-u", "guest", "-P", "guest"]


def pub(*arguments, text=None):
    """Publishes; returns once the broker has answered, as the QoS asks."""
    return subprocess.run(["mosquitto_pub", *arguments], input=text, text=True, check=False,
                          timeout=WITHIN_S, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def publishes(*arguments, text=None):
    published = pub(*arguments, text=text)
    assert published.returncode == 0, published.stdout
    assert published.stdout == ""


class Subscriber:
    """A mosquitto_sub that runs, once all it asks for is subscribed."""

    def __init__(self, *arguments):
        # Debug output tells of the SUBACK; it stands between the messages, which begin with a brace.
        self._process = subprocess.Popen(
            ["stdbuf", "-oL", "mosquitto_sub", "-d", "-F", "%j", "-W", str(WITHIN_S), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.said = []
        for line in self._process.stdout:
            self.said.append(line)
            if line.startswith("Subscribed"):
                return
        pytest.fail("".join(self.said))

    def messages(self, exit_code=0):
        """All messages, once it has ended after as many as its -C says."""
        # Its -W ends it if nothing else does.
        lines = [*self.said, *self._process.stdout]
        self._process.wait(PATIENCE_S)
        assert self._process.returncode == exit_code, "".join(lines)
        return [json.loads(line) for line in lines if line.startswith("{")]

    def break_off(self):
        """SIGKILL: the connection ends without a DISCONNECT."""
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.break_off()


@all_versions
@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_lines_go_from_one_to_the_other(at, name, version, qos):
    how = [*at, "-V", version, "-q", qos]
    lines = [f"line {number}" for number in range(200)]
    with Subscriber(*how, "-t", f"{name}/+", "-C", "200") as subscriber:
        publishes(*how, "-t", f"{name}/x", "-l", text="".join(f"{line}\n" for line in lines))
        messages = subscriber.messages()
    assert [message["payload"] for message in messages] == lines
    assert {(each["topic"], each["qos"], each["retain"]) for each in messages} == {
        (f"{name}/x", int(qos), 0)}


@all_versions
def test_a_retained_message_waits_for_who_comes_later(at, name, version):
    how = [*at, "-V", version, "-q", "1", "-t", name]
    publishes(*how, "-r", "-m", "kept")
    with Subscriber(*how, "-C", "1") as subscriber:
        [message] = subscriber.messages()
    assert (message["payload"], message["retain"]) == ("kept", 1)
    publishes(*how, "-r", "-n")
    with Subscriber(*how, "-C", "1") as subscriber:
        publishes(*how, "-m", "live")
        assert [each["payload"] for each in subscriber.messages()] == ["live"]


@all_versions
def test_what_comes_while_a_client_is_away_waits_for_it(at, name, version):
    how = [*at, "-V", version, "-q", "2", "-t", name]
    lasting = ["-c", "-i", name[-20:]]
    subprocess.run(["mosquitto_sub", *how, *lasting, "-E"], check=True, timeout=WITHIN_S)
    for text in ("one", "two"):
        publishes(*how, "-m", text)
    with Subscriber(*how, *lasting, "-C", "2") as subscriber:
        assert [each["payload"] for each in subscriber.messages()] == ["one", "two"]
    # A client that comes clean ends its session.
    publishes(*how, "-i", name[-20:], "-m", "unheard")


@all_versions
def test_a_will_comes_when_the_client_is_killed(at, name, version):
    how = [*at, "-V", version, "-q", "1"]
    with Subscriber(*how, "-t", name, "-C", "1") as heir:
        with Subscriber(*how, "-t", f"{name}/other", "--will-topic", name, "--will-payload", "gone",
                        "--will-qos", "1") as dying:
            dying.break_off()
        assert [each["payload"] for each in heir.messages()] == ["gone"]


def test_members_of_a_group_share_its_lines(at, name):
    how = [*at, "-V", "mqttv5", "-q", "1"]
    group = ["-t", f"$share/{name}/{name}", "-W", "2"]
    members = [Subscriber(*how, *group) for _ in range(2)]
    publishes(*how, "-t", name, "-l", text="".join(f"{number}\n" for number in range(100)))
    parts = []
    for member in members:
        # It ends when its time is over, which it calls an error.
        parts.append([each["payload"] for each in member.messages(exit_code=27)])
    assert sorted(map(int, sum(parts, []))) == list(range(100))
    assert all(parts), "one has had them all"


def test_properties_of_5_0_are_told(at, name):
    how = [*at, "-V", "mqttv5", "-q", "1", "-t", name]
    with Subscriber(*how, "-C", "1", "-D", "subscribe", "subscription-identifier", "7") as subscriber:
        publishes(*how, "-m", "x", "-D", "publish", "content-type", "text/plain",
                  "-D", "publish", "response-topic", "reply", "-D", "publish", "correlation-data",
                  "c", "-D", "publish", "user-property", "one", "1")
        [message] = subscriber.messages()
    assert message["properties"] == {
        "content-type": "text/plain", "response-topic": "reply", "correlation-data": "c",
        "user-properties": {"one": "1"}, "subscription-identifier": 7}, message


@all_versions
def test_a_wrong_password_is_told(at, name, version):
    refused = pub(*at[:-1], "wrong", "-V", version, "-t", name, "-m", "x")
    assert refused.returncode != 0
    assert "bad user name or password" in refused.stdout.lower()


def test_over_tls(tmp_path, certificates, name):
    settings = {"listeners.mqtts": "127.0.0.1:0", "listeners.amqps": "off", "listeners.https": "off",
                "tls.certificate": certificates / "server.pem",
                "tls.key": certificates / "server.key"}
    with Broker(tmp_path / "data", settings) as broker:
        how = ["-h", "localhost", "-p", str(broker.ports["mqtts"]), "-u", "guest", "-P", "guest",
               "-q", "1", "--cafile", str(certificates / "ca.pem"), "-t", name]
        with Subscriber(*how, "-C", "1") as subscriber:
            publishes(*how, "-m", "secret")
            assert [each["payload"] for each in subscriber.messages()] == ["secret"]
