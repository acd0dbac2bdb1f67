"""Users of an OAuth 2.0 provider, and the limits of users and of virtual hosts."""

import base64
import json
import time
import urllib.error
import urllib.request

import jwt
import pika
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from broker import Broker
from helpers import channel_closes, connection_closes, eventually, message_count

ALL = "isthmus.configure:*/* isthmus.write:*/* isthmus.read:*/*"


class Provider:
    """Makes tokens; its public key is in a file."""

    def __init__(self, directory):
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        self.jwks_file = directory / "jwks.json"
        self.jwks_file.write_text(json.dumps({"keys": [{**public, "kid": "one", "use": "sig"}]}))

    def token(self, scope=ALL, user="ann", seconds=60, **claims):
        claims = {"sub": user, "aud": "isthmus", "iss": "https://provider", "scope": scope,
                  "exp": int(time.time()) + seconds, **claims}
        return jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": "one"})


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    return Provider(tmp_path_factory.mktemp("provider"))


@pytest.fixture(scope="module")
def broker(tmp_path_factory, provider):
    settings = {
        "auth.backends": "oauth2,internal",
        "auth.oauth2.jwks_file": provider.jwks_file,
        "auth.oauth2.resource_server_id": "isthmus",
        "auth.oauth2.issuer": "https://provider",
    }
    with Broker(tmp_path_factory.mktemp("users") / "data", settings) as broker:
        yield broker
        assert broker.stop() == 0, broker.log()


def connect(broker, user="guest", password="guest", **parameters):
    parameters.setdefault("heartbeat", 0)
    credentials = pika.PlainCredentials(user, password)
    return pika.BlockingConnection(pika.ConnectionParameters(
        *broker.amqp, credentials=credentials, socket_timeout=5, **parameters))


def with_token(broker, token, **parameters):
    return connect(broker, "", token, **parameters)


def api(broker, method, path, body=None, user="guest", password="guest"):
    """Status and JSON of a request to the management API."""
    url = f"http://127.0.0.1:{broker.ports['http']}/api/{path}"
    request = urllib.request.Request(url, method=method,
                                     data=None if body is None else json.dumps(body).encode())
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    request.add_header("authorization", f"Basic {basic}")
    request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            text = response.read()
            return response.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


@pytest.fixture
def limit(broker):
    """Sets a limit, which goes after the test."""
    paths = []

    def set_limit(kind, name, limit, value):
        path = f"{kind}-limits/{name}/{limit}"
        status, body = api(broker, "PUT", path, {"value": value})
        assert status in (201, 204), body
        paths.append(path)

    yield set_limit
    for path in paths:
        assert api(broker, "DELETE", path)[0] == 204


def test_a_token_logs_in_and_a_wrong_one_does_not(broker, provider, tmp_path):
    with with_token(broker, provider.token()) as connection:
        connection.channel().queue_declare("", exclusive=True)
    with connect(broker):
        pass
    stranger = Provider(tmp_path)
    for token in [stranger.token(), provider.token(aud="other"), provider.token(seconds=-1),
                  provider.token(iss="https://other"), "nonsense"]:
        with pytest.raises(pika.exceptions.ProbableAuthenticationError, match="403"):
            with_token(broker, token)


def test_scopes_are_permissions(broker, provider, name):
    own = f"isthmus.configure:%2F/{name}* isthmus.read:%2F/{name}* isthmus.write:%2F/{name}*"
    with with_token(broker, provider.token(own)) as connection:
        channel = connection.channel()
        channel.queue_declare(name, exclusive=True)
        channel.exchange_declare(f"{name}.x", "topic", auto_delete=True)
        channel.queue_bind(name, f"{name}.x", "#")
        channel.confirm_delivery()
        channel.basic_publish(f"{name}.x", "key", b"message")
        assert channel.basic_get(name, auto_ack=True)[2] == b"message"
        with channel_closes(403, "configure access to queue 'other' in vhost '/' refused for user 'ann'"):
            channel.queue_declare("other")
        channel = connection.channel()
        channel.confirm_delivery()
        with channel_closes(403, "write access to exchange 'amq.default'"):
            channel.basic_publish("", name, b"")


def test_a_scope_may_name_routing_keys(broker, provider, name):
    scope = (f"{ALL.replace('isthmus.write:*/*', '')} isthmus.write:*/amq.topic/new.* "
             f"isthmus.write:*/{name}")
    with with_token(broker, provider.token(scope)) as connection:
        channel = connection.channel()
        channel.queue_declare(name, exclusive=True)
        channel.queue_bind(name, "amq.topic", "#")
        channel.confirm_delivery()
        channel.basic_publish("amq.topic", "new.eu", b"1")
        assert message_count(channel, name) == 1
        with channel_closes(403, "topic 'old.eu' in exchange 'amq.topic'"):
            channel.basic_publish("amq.topic", "old.eu", b"2")


def test_a_token_is_renewed_or_the_connection_ends(broker, provider, name):
    ends = with_token(broker, provider.token(seconds=3))
    stays = with_token(broker, provider.token(seconds=3))
    stays.update_secret(provider.token(f"isthmus.configure:*/{name}", seconds=60), "expires soon")
    with connection_closes(320):
        ends.process_data_events(time_limit=10)
    channel = stays.channel()
    channel.queue_declare(name, exclusive=True)
    with channel_closes(403):
        channel.queue_declare("other")
    with connection_closes(530):
        stays.update_secret(provider.token(user="bob"), "another user")


def test_a_token_may_manage(broker, provider):
    token = provider.token("isthmus.tag:administrator")
    status, who = api(broker, "GET", "whoami", user="x", password=token)
    assert (status, who["name"]) == (200, "ann")
    assert api(broker, "GET", "users", user="x", password=token)[0] == 200
    assert api(broker, "GET", "whoami", user="x", password=provider.token())[0] == 403


def test_connections_of_a_user_are_limited(broker, limit):
    limit("user", "guest", "max-connections", 1)
    with connect(broker):
        with pytest.raises(pika.exceptions.ProbableAccessDeniedError, match="user connection limit"):
            connect(broker)
    eventually(lambda: not api(broker, "GET", "connections")[1])
    connect(broker).close()


def test_connections_of_a_virtual_host_are_limited_for_users_of_all_backends(broker, provider, limit):
    limit("vhost", "%2F", "max-connections", 1)
    with connect(broker):
        with pytest.raises(pika.exceptions.ProbableAccessDeniedError, match=r"connection limit \(1\)"):
            with_token(broker, provider.token())


def test_channels_of_a_user_are_limited_over_all_connections(broker, limit):
    limit("user", "guest", "max-channels", 3)
    with connect(broker) as one:
        two = connect(broker)
        one.channel()
        closed = one.channel()
        two.channel()
        closed.close()
        two.channel()
        with connection_closes(530):
            two.channel()
        # What the closed connection held is there again.
        one.channel()
        one.channel()


def test_queues_of_a_virtual_host_are_limited(broker, limit, name):
    most = len(api(broker, "GET", "queues")[1]) + 1
    limit("vhost", "%2F", "max-queues", most)
    with connect(broker) as connection:
        channel = connection.channel()
        channel.queue_declare(name, exclusive=True)
        channel.queue_declare(name, exclusive=True)
        for other in (f"{name}.2", ""):
            with channel_closes(406, rf"queue limit in vhost '/' \({most}\) is reached"):
                channel.queue_declare(other, exclusive=True)
            channel = connection.channel()


def test_unknown_limits_are_refused_with_those_there_are(broker):
    status, body = api(broker, "PUT", "user-limits/guest/max-queues", {"value": 1})
    assert status == 400
    assert "max-publishes-per-second" in json.dumps(body)


def timed_publish(channels, queue, count, body=b"x"):
    """Publishes in turns; seconds until all were confirmed."""
    started = time.monotonic()
    for i in range(count):
        channels[i % len(channels)].basic_publish("", queue, body)
    return time.monotonic() - started


@pytest.mark.serial
@pytest.mark.parametrize(("kind", "of"), [("user", "guest"), ("vhost", "%2F")])
def test_messages_a_second_are_limited_over_all_connections(broker, limit, name, kind, of):
    with connect(broker) as one, connect(broker) as two:
        channels = [one.channel(), two.channel()]
        channels[0].queue_declare(name)
        for channel in channels:
            channel.confirm_delivery()
        assert timed_publish(channels, name, 100) < 2
        limit(kind, of, "max-publishes-per-second", 50)
        # A bucket that nobody has drawn from may hold a second's worth.
        elapsed = timed_publish(channels, name, 150)
        assert 1.8 < elapsed < 4, elapsed
        assert message_count(channels[0], name) == 250, "nothing is lost"
        channels[0].queue_delete(name)


@pytest.mark.serial
def test_bytes_a_second_are_limited(broker, limit, name):
    with connect(broker) as connection:
        channel = connection.channel()
        channel.queue_declare(name, exclusive=True)
        channel.confirm_delivery()
        limit("user", "guest", "max-publish-bytes-per-second", 100_000)
        elapsed = timed_publish([channel], name, 30, bytes(10_000))
        assert 1.8 < elapsed < 4.5, elapsed


@pytest.mark.serial
def test_who_waits_for_his_quota_holds_up_nobody_and_stays_connected(broker, provider, limit, name):
    limit("user", "guest", "max-publishes-per-second", 2)
    with connect(broker, heartbeat=1) as publisher, with_token(broker, provider.token()) as other:
        channel = publisher.channel()
        channel.queue_declare(name)
        consumer = other.channel()
        for _ in range(12):
            channel.basic_publish("", name, b"x")
        # Others publish, settle and ask as ever.
        consumer.confirm_delivery()
        assert timed_publish([consumer], name, 50) < 2
        received = 0
        started = time.monotonic()
        while received < 62:
            assert time.monotonic() - started < 20
            publisher.process_data_events(time_limit=0)
            method, _, _ = consumer.basic_get(name)
            if method is None:
                time.sleep(0.05)
                continue
            consumer.basic_ack(method.delivery_tag)
            received += 1
        # Twelve at two a second, with at most a second's worth at once.
        assert time.monotonic() - started > 3
        assert publisher.is_open
        consumer.queue_delete(name)


@pytest.mark.serial
def test_a_quota_that_is_lifted_is_waited_for_no_longer(broker, name):
    path = "user-limits/guest/max-publishes-per-second"
    with connect(broker) as connection:
        channel = connection.channel()
        channel.queue_declare(name, exclusive=True)
        assert api(broker, "PUT", path, {"value": 0})[0] == 204
        channel.basic_publish("", name, b"x")
        connection.process_data_events(time_limit=1)
        with connect(broker) as other:
            other.channel()
        assert api(broker, "DELETE", path)[0] == 204
        assert message_count(channel, name) == 1
