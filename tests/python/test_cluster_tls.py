"""TLS between the nodes of a cluster: both ends show certificates, which can be exchanged."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import time

import pika
import pytest

from cluster import Cluster, stranger, undisturbed, words
from clusterload import Load
from helpers import eventually

ADMIN = "Basic Z3Vlc3Q6Z3Vlc3Q="
CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]

pytestmark = [pytest.mark.serial, pytest.mark.timeout(90)]


def test_plain_text_meets_tls(tmp_path):
    certificates = make_certificates(tmp_path / "certificates", "node-4")
    with Cluster(tmp_path) as cluster:
        term = cluster.leader().status()["term"]
        with stranger(cluster, tmp_path, **tls_settings(certificates, "node-4")) as node:
            node.begin_start()
            words(node, "no member of a cluster yet", "TLS")
            words(cluster.leader(), "not let in", "TLS")
            undisturbed(cluster, term)


def test_peers_speak_tls_with_certificates_of_both(tmp_path, certificates, name):
    own = make_certificates(tmp_path / "certificates", "node-1", "node-2", "node-3")
    settings = {number: tls_settings(own, f"node-{number}") for number in (1, 2, 3)}
    clients = {
        "listeners.amqps": "127.0.0.1:0", "listeners.https": "off",
        "tls.certificate": certificates / "server.pem", "tls.key": certificates / "server.key",
        "tls.client_auth": "wanted", "tls.client_ca": certificates / "ca.pem",
    }
    with Cluster(tmp_path, clients, own_settings=settings) as cluster:
        leader = cluster.leader()
        with Load(cluster.nodes.values(), name) as load:
            time.sleep(0.3)
            assert load.settle_account(cluster) == []
        term = leader.status()["term"]
        # A certificate of another authority.
        other = make_certificates(tmp_path / "others", "node-4")
        with stranger(cluster, tmp_path, **tls_settings(other, "node-4")) as node:
            node.begin_start()
            words(node, "no member of a cluster yet", "certificate")
            words(leader, "not let in", "TLS")
        # No certificate at all.
        context = ssl.create_default_context(cafile=own / "ca.pem")
        with pytest.raises(OSError), socket.create_connection(
                ("127.0.0.1", leader.peer_port), timeout=5) as plain:
            with context.wrap_socket(plain, server_hostname="localhost") as secured:
                secured.sendall(b"ISTHPEER")
                if not secured.recv(1):
                    raise ConnectionError("closed")
        undisturbed(cluster, term)
        external_by_way_of_a_standby(cluster, certificates)


def external_by_way_of_a_standby(cluster, certificates):
    """A client's certificate is read where its TLS ends, and counts where it is served."""
    leader, standby = cluster.leader(), cluster.standby()
    # Its subject is a user that there is from the start.
    common_name = subject_of(certificates / "client.pem")
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    parameters = pika.ConnectionParameters(
        "localhost", standby.ports["amqps"], credentials=pika.credentials.ExternalCredentials(),
        ssl_options=pika.SSLOptions(context, "localhost"))
    connection = pika.BlockingConnection(parameters)
    listed = leader.api("/api/connections", user=ADMIN)
    assert [each["user"] for each in listed] == [common_name], listed
    connection.close()


def subject_of(certificate):
    """The common name in a certificate."""
    from cryptography import x509
    subject = x509.load_pem_x509_certificate(certificate.read_bytes()).subject
    return subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value


def test_certificates_of_peers_are_exchanged_while_they_run(tmp_path, name):
    """A rollover of the authority in three steps, and a renewal from the new one; after each every
    node is restarted in turn, which takes new connections in both directions."""
    names = ["node-1", "node-2", "node-3"]
    old = make_certificates(tmp_path / "old", *names)
    new = make_certificates(tmp_path / "new", *names)
    both = tmp_path / "both"
    both.mkdir()
    (both / "ca.pem").write_bytes((old / "ca.pem").read_bytes() + (new / "ca.pem").read_bytes())
    settings = {}
    for number, node in enumerate(names, 1):
        own = tmp_path / node
        shutil.copytree(old, own)
        settings[number] = tls_settings(own, node)
    read_again = "read the certificates for peers again"

    def exchange(cluster, source, *parts):
        marks = {number: len(node.output) for number, node in cluster.nodes.items()}
        for number, node in cluster.nodes.items():
            renew(settings[number], source, *parts)
        for number, node in cluster.nodes.items():
            eventually(lambda: any(read_again in line for line in node.output[marks[number]:]), 8)

    with Cluster(tmp_path, own_settings=settings) as cluster, \
            Load(cluster.nodes.values(), name) as load:
        exchange(cluster, both, "ca")
        exchange(cluster, new, "certificate", "key")
        meet_again(cluster)
        exchange(cluster, new, "ca")
        meet_again(cluster)
        # Renewal: others from the same authority; the signal is faster than the look at the files.
        sign(new, *names)
        marks = {number: len(node.output) for number, node in cluster.nodes.items()}
        for number, node in cluster.nodes.items():
            renew(settings[number], new, "certificate", "key")
            node.process.send_signal(signal.SIGHUP)
            eventually(lambda: any(read_again in line for line in node.output[marks[number]:]), 8)
        meet_again(cluster)
        make_certificates(tmp_path / "other", *names)
        # What does not fit together is not used.
        node = cluster.standby()
        renew(settings[node.number], tmp_path / "other", "certificate", "key")
        eventually(lambda: any("met with what was read before" in line for line in node.output), 8)
        cluster.kill(cluster.standby(other_than=(node,)).number)
        cluster.heal()
        assert load.settle_account(cluster) == []
    assert load.promise.confirmed


def renew(settings, source, *parts):
    """Replaces files of a node by those of the same names elsewhere, as one does."""
    for part in parts:
        path = settings[f"cluster.{part}"]
        fresh = path.with_suffix(".fresh")
        fresh.write_bytes((source / path.name).read_bytes())
        os.replace(fresh, path)


def meet_again(cluster):
    """Every connection between nodes is made anew, one node after the other."""
    for node in cluster.nodes.values():
        term = cluster.leader().status()["term"]
        was_leader = cluster.leader() is node
        cluster.kill(node.number)
        cluster.heal()
        if not was_leader:
            assert cluster.leader().status()["term"] == term


def make_certificates(directory, *names):
    """An authority, and a certificate from it for each name, for both ends of a connection."""
    directory.mkdir()
    openssl(directory, "req", "-x509", *CURVE, "-keyout", "ca.key", "-out", "ca.pem", "-days", 2,
            "-subj", "/CN=authority")
    sign(directory, *names)
    return directory


def openssl(directory, *words):
    """Runs it there."""
    subprocess.run(["openssl", *map(str, words)], check=True, cwd=directory,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def sign(directory, *names):
    """New keys and certificates, from the authority in `directory`."""
    for name in names:
        (directory / f"{name}.ext").write_text(
            "subjectAltName=IP:127.0.0.1,DNS:localhost\n"
            "extendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n")
        openssl(directory, "req", *CURVE, "-keyout", f"{name}.key", "-out", f"{name}.csr",
                "-subj", f"/CN={name}")
        openssl(directory, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey",
                "ca.key", "-CAcreateserial", "-out", f"{name}.pem", "-days", 2, "-extfile",
                f"{name}.ext")


def tls_settings(certificates, name):
    """What a node needs to speak TLS with its peers."""
    return {"cluster.tls": "on", "cluster.ca": certificates / "ca.pem",
            "cluster.certificate": certificates / f"{name}.pem",
            "cluster.key": certificates / f"{name}.key"}
