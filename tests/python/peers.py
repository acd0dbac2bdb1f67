"""Peers from Debian's packages, each a process of its own on loopback ports the system picks."""

import os
import shutil
import signal
import socket
import subprocess
import time
from glob import glob
from pathlib import Path

from broker import Broker
from with_rabbitmq import RabbitMq, free_ports

READY_WITHIN_S = 60
STOPPED_WITHIN_S = 20


class Peer:
    """A process with its ports by protocol, and a folder with all it writes."""

    # What must be on the path, and the package that brings it.
    program, package = None, None

    def __init__(self, directory):
        self.directory = Path(directory)
        self.process = None
        self.ports = {}

    @classmethod
    def is_installed(cls):
        return shutil.which(cls.program) is not None

    def command(self):
        """Writes the configuration; the command line that serves with it."""
        raise NotImplementedError

    def start(self):
        command = self.command()
        with (self.directory / "output").open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True, env=self.environment())
        deadline = time.monotonic() + READY_WITHIN_S
        for port in self.ports.values():
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    if self.process.poll() is not None or time.monotonic() > deadline:
                        self.stop()
                        text = (self.directory / "output").read_text(errors="replace")
                        raise RuntimeError(f"{self.program} did not start:\n{text}") from None
                    time.sleep(0.1)
        return self

    def environment(self):
        return os.environ | {"HOME": str(self.directory)}

    def pid(self):
        return self.process.pid

    def stop(self):
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Mosquitto(Peer):
    program, package = "mosquitto", "mosquitto"

    @classmethod
    def is_installed(cls):
        return cls._path() is not None

    @staticmethod
    def _path():
        return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")

    def command(self):
        self.ports["mqtt"], = free_ports(1)
        config = self.directory / "mosquitto.conf"
        config.write_text(
            f"listener {self.ports['mqtt']} 127.0.0.1\nallow_anonymous true\npersistence false\n"
            "max_inflight_messages 1000\nmax_queued_messages 100000\nset_tcp_nodelay true\n"
            "log_type error\nlog_dest stderr\n")
        return [self._path(), "-c", str(config)]


class Nats(Peer):
    """NATS, by way of its MQTT."""

    program, package = "nats-server", "nats-server"

    def command(self):
        client, self.ports["mqtt"] = free_ports(2)
        config = self.directory / "nats.conf"
        config.write_text(
            f"listen: 127.0.0.1:{client}\nserver_name: bench\n"
            f"jetstream {{ store_dir: \"{self.directory}/js\" }}\n"
            f"mqtt {{ host: 127.0.0.1, port: {self.ports['mqtt']} }}\n")
        return ["nats-server", "-c", str(config)]


ACTIVEMQ = """<beans xmlns="http://www.springframework.org/schema/beans"
  xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xsi:schemaLocation="http://www.springframework.org/schema/beans
    http://www.springframework.org/schema/beans/spring-beans.xsd
    http://activemq.apache.org/schema/core
    http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="bench" useJmx="false"
    dataDirectory="{folder}/data">
    <persistenceAdapter><kahaDB directory="{folder}/data/kahadb"/></persistenceAdapter>
    <systemUsage><systemUsage>
      <memoryUsage><memoryUsage limit="1 gb"/></memoryUsage>
      <storeUsage><storeUsage limit="8 gb"/></storeUsage>
      <tempUsage><tempUsage limit="2 gb"/></tempUsage>
    </systemUsage></systemUsage>
    <transportConnectors>
      <transportConnector name="stomp"
        uri="stomp+nio://127.0.0.1:{stomp}?transport.tcpNoDelay=true"/>
    </transportConnectors>
  </broker>
</beans>
"""


class ActiveMq(Peer):
    program, package = "java", "activemq"
    HOME = "/usr/share/activemq"

    @classmethod
    def is_installed(cls):
        return shutil.which("java") is not None and Path(cls.HOME, "lib").is_dir()

    def command(self):
        self.ports["stomp"], = free_ports(1)
        config = self.directory / "activemq.xml"
        config.write_text(ACTIVEMQ.format(folder=self.directory, stomp=self.ports["stomp"]))
        jars = glob(f"{self.HOME}/lib/*.jar") + glob(f"{self.HOME}/lib/optional/*.jar")
        return ["java", "-Xms512m", "-Xmx2g", f"-Dactivemq.home={self.HOME}",
                f"-Dactivemq.base={self.directory}", f"-Djava.io.tmpdir={self.directory}",
                "-cp", ":".join(sorted(jars)), "org.apache.activemq.console.Main", "start",
                f"xbean:file:{config}"]


class Rabbit(Peer):
    """RabbitMQ with its plugins for MQTT and STOMP."""

    program, package = "rabbitmq-server", "rabbitmq-server"

    @classmethod
    def is_installed(cls):
        return bool(glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"))

    def start(self):
        config = ("tcp_listen_options.nodelay = true\n"
                  "mqtt.listeners.tcp.default = 127.0.0.1:{0}\n"
                  "mqtt.tcp_listen_options.nodelay = true\nmqtt.prefetch = 1000\n"
                  "stomp.listeners.tcp.default = 127.0.0.1:{1}\n"
                  "stomp.tcp_listen_options.nodelay = true\n"
                  "log.file.level = warning\n")
        self.server = RabbitMq(self.directory, config=config, more_ports=2,
                               plugins=("rabbitmq_mqtt", "rabbitmq_stomp")).start()
        mqtt, stomp = self.server.more_ports
        self.ports = {"amqp": self.server.amqp_port, "mqtt": mqtt, "stomp": stomp}
        deadline = time.monotonic() + READY_WITHIN_S
        for port in (mqtt, stomp):
            while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
                assert time.monotonic() < deadline, "RabbitMQ's plugins do not listen"
                time.sleep(0.1)
        return self

    def pid(self):
        return self.server.pid()

    def stop(self):
        self.server.stop()


class Isthmus(Peer):
    """The release build, with its defaults."""

    @classmethod
    def is_installed(cls):
        return True

    def start(self):
        self.broker = Broker(self.directory / "data").start()
        self.ports = self.broker.ports
        return self

    def pid(self):
        return self.broker.pid

    def stop(self):
        self.broker.stop()


PEERS = {"isthmus": Isthmus, "rabbitmq": Rabbit, "mosquitto": Mosquitto, "nats": Nats,
         "activemq": ActiveMq}
