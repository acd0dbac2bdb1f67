"""The broker under test, and names and connections for the tests.

Without further words each test process starts an Isthmus of its own. With
ISTHMUS_TEST_AMQP=HOST:PORT the tests that speak nothing but AMQP run against that broker, and
those that need an Isthmus process are left out.
"""

import os
import ssl
import subprocess
import uuid
from pathlib import Path
from typing import NamedTuple

import pika
import pytest

from broker import Broker, binary
from helpers import VIA

EXTERNAL = os.environ.get("ISTHMUS_TEST_AMQP")


class Endpoint(NamedTuple):
    """Where AMQP 0-9-1 is spoken, and how."""

    host: str
    port: int
    is_isthmus: bool
    # The folder of `isthmus certs dev`, where TLS is spoken.
    certificates: Path | None = None
    # Whether clients show the certificate in it.
    is_mutual: bool = False

    @property
    def url(self):
        scheme = "amqps" if self.certificates else "amqp"
        return f"{scheme}://guest:guest@{self.host}:{self.port}//"

    def ssl_context(self):
        """What Python clients need for TLS; None where plain text is spoken."""
        if self.certificates is None:
            return None
        context = ssl.create_default_context(cafile=self.certificates / "ca.pem")
        if self.is_mutual:
            context.load_cert_chain(self.certificates / "client.pem",
                                    self.certificates / "client.key")
        return context

    @property
    def address(self):
        return self.host, self.port

    def proxy_contexts(self):
        """For what stands in between with TLS: the server's context and that of a client."""
        if self.certificates is None:
            return None, None
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(self.certificates / "server.pem", self.certificates / "server.key")
        return server, self.ssl_context()

    def connect(self, **parameters):
        """A pika connection as guest."""
        parameters.setdefault("heartbeat", 0)
        parameters.setdefault("socket_timeout", 5)
        parameters.setdefault("blocked_connection_timeout", 10)
        if context := self.ssl_context():
            parameters.setdefault("ssl_options", pika.SSLOptions(context, "localhost"))
        return pika.BlockingConnection(pika.ConnectionParameters(self.host, self.port, **parameters))


def pytest_collection_modifyitems(config, items):
    """Marks what needs nothing but an AMQP endpoint, and leaves the rest out of external runs."""
    kept, left_out = [], []
    for item in items:
        if "amqp" in item.fixturenames and "isthmus" not in item.fixturenames:
            item.add_marker(pytest.mark.peers)
        (kept if not EXTERNAL or item.get_closest_marker("peers") else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@pytest.fixture(scope="session")
def isthmus_of_session(tmp_path_factory):
    """One broker for all tests of this process that do not stop it."""
    with Broker(tmp_path_factory.mktemp("shared") / "data") as broker:
        yield broker
        assert broker.stop() == 0, broker.log()


@pytest.fixture
def isthmus(isthmus_of_session, tmp_path):
    """The shared Isthmus; a test in which it dies fails, and the next gets one with no past."""
    broker = isthmus_of_session
    yield broker
    if (exit_code := broker.process.poll()) is not None:
        last_words = "".join(broker.output[-20:])
        broker.data_dir = tmp_path / "data"
        broker.start()
        pytest.fail(f"the broker died with {exit_code}:\n{last_words}")


@pytest.fixture
def own_isthmus(tmp_path):
    """A broker of the test's own, started, which the test may stop, kill and restart."""
    with Broker(tmp_path / "data") as broker:
        yield broker


@pytest.fixture
def amqp(request):
    """The AMQP endpoint under test."""
    if EXTERNAL:
        host, port = EXTERNAL.rsplit(":", 1)
        return Endpoint(host, int(port), is_isthmus=False)
    return via(request, Endpoint(*request.getfixturevalue("isthmus").amqp, is_isthmus=True))


def via(request, endpoint):
    """The endpoint, or what stands in front of it."""
    lead = request.config.stash.get(VIA, None)
    return lead(endpoint) if lead else endpoint


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """An authority, a server's and a client's certificate."""
    directory = tmp_path_factory.mktemp("certificates") / "dev"
    subprocess.run([binary(), "certs", "dev", "--out", directory], check=True,
                   stdout=subprocess.DEVNULL)
    return directory


def _with_tls(tmp_path_factory, certificates, client_auth):
    settings = {
        "listeners.amqps": "127.0.0.1:0", "listeners.https": "off",
        "tls.certificate": certificates / "server.pem", "tls.key": certificates / "server.key",
        "tls.client_auth": client_auth, "tls.client_ca": certificates / "ca.pem",
    }
    with Broker(tmp_path_factory.mktemp("tls") / "data", settings) as broker:
        yield Endpoint("127.0.0.1", broker.ports["amqps"], True, certificates,
                       is_mutual=client_auth == "required")
        assert broker.stop() == 0, broker.log()


@pytest.fixture(scope="session")
def tls_isthmus(tmp_path_factory, certificates):
    """An Isthmus that speaks TLS and takes clients with or without a certificate."""
    yield from _with_tls(tmp_path_factory, certificates, "wanted")


@pytest.fixture(scope="session")
def mtls_isthmus_of_session(tmp_path_factory, certificates):
    yield from _with_tls(tmp_path_factory, certificates, "required")


@pytest.fixture
def mtls_isthmus(request, mtls_isthmus_of_session):
    """An Isthmus that wants a certificate of every client."""
    return via(request, mtls_isthmus_of_session)


@pytest.fixture(params=[pytest.param("amqp", marks=pytest.mark.peers), "tls_isthmus",
                        "mtls_isthmus"], ids=["plain", "tls", "mtls"])
def transport(request):
    """The broker under test over plain TCP, and an Isthmus over TLS without and with a
    certificate of the client."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def connection(amqp):
    """A connection that is closed after the test."""
    opened = amqp.connect()
    yield opened
    if opened.is_open:
        opened.close()


@pytest.fixture
def other_connection(amqp):
    """A second connection, for what one connection does to another."""
    opened = amqp.connect()
    yield opened
    if opened.is_open:
        opened.close()


@pytest.fixture
def channel(connection):
    """A channel of `connection`."""
    return connection.channel()


@pytest.fixture
def name():
    """A name nothing else uses."""
    return f"test.{uuid.uuid4().hex[:12]}"


@pytest.fixture
def queue(channel, name):
    """The name of an empty queue that goes with its connection."""
    channel.queue_declare(name, exclusive=True)
    return name
