"""What traces cost the broker in instructions a message, beside the same without: counted by valgrind.

    python tests/interop/telemetry_cost.py BINARY ...   (optimised ones)

Messages are of MQTT 5 with 64 bytes of payload: without properties, with a User Property that is nobody's, and with a
`traceparent`; spans are exported to a collector of ours, whose work is not counted.
"""

import re
import signal
import socket
import struct
import sys
import tempfile
from pathlib import Path

import peers
from collector import Collector
from peers import Process, accepts, free_port, needs, wait_until

PAIRS, BATCH, SIZE = 10, 100, 64
# Under valgrind, on a machine that does other things.
peers.DEADLINE = 120
CONTEXT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def text(data):
    return struct.pack(">H", len(data)) + data


def user_property(name, value):
    return b"\x26" + text(name) + text(value)


PROPERTIES = {
    "no properties": b"",
    "another property": user_property(b"x-request1", b"y" * len(CONTEXT)),
    "a traceparent": user_property(b"traceparent", CONTEXT),
}


def packet(first, body):
    length = len(body)
    assert length < 1 << 14
    size = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
    return bytes([first]) + size + body


class Client:
    """Speaks just enough MQTT 5."""

    def __init__(self, port, name):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""
        self.ask(packet(0x10, text(b"MQTT") + b"\5\2\0\0\0" + text(name)))

    def read(self, count):
        while len(self.rest) < count:
            more = self.socket.recv(1 << 16)
            assert more, "the broker has closed"
            self.rest += more
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def ask(self, request):
        """Sends a packet whose answer is a short one."""
        self.socket.sendall(request)
        self.read(self.read(2)[1])

    def subscribe(self, topic, qos):
        self.ask(packet(0x82, b"\0\1\0" + text(topic) + bytes([qos])))


def publish(topic, qos, identifier, properties):
    number = struct.pack(">H", identifier) if qos else b""
    body = text(topic) + number + bytes([len(properties)]) + properties + b"x" * SIZE
    return packet(0x30 | qos << 1, body)


def exchange(port, qos, batches, properties):
    """Sends `batches` to each subscriber, the next one when the last one was acknowledged."""
    pairs = []
    for number in range(PAIRS):
        topic = b"bench/%02d" % number
        subscriber, publisher = Client(port, b"s%02d" % number), Client(port, b"p%02d" % number)
        subscriber.subscribe(topic, qos)
        pairs.append((subscriber, publisher, topic))
    for _ in range(batches):
        for subscriber, publisher, topic in pairs:
            packets = [publish(topic, qos, index + 1, properties) for index in range(BATCH)]
            publisher.socket.sendall(b"".join(packets))
            got = subscriber.read(sum(map(len, packets)))
            if qos == 0:
                continue
            at, acks = len(packets[0]) - SIZE - len(properties) - 1 - 2, b""
            for sent in packets:
                acks += b"\x40\2" + got[at : at + 2]
                at += len(sent)
            subscriber.socket.sendall(acks)
            publisher.read(4 * BATCH)
    for subscriber, _, _ in pairs:
        subscriber.ask(b"\xc0\0")


def instructions(mockforge, qos, batches, properties, variables):
    """Of the whole process, from its start to its end."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "callgrind")
        command = [needs("valgrind"), "--tool=callgrind", f"--callgrind-out-file={out}", mockforge]
        command += ["--log", "error", "serve", "--mqtt", "--mqtt-host", "127.0.0.1", "--mqtt-port", port]
        command += ["--http-port", "0", "--grpc-port", "0"]
        environment = {"MOCKFORGE_MQTT_SYS_INTERVAL_SECS": "0", **variables}
        with Process(*command, cwd=folder, env=environment) as server:
            wait_until(lambda: accepts(port), "the broker under valgrind")
            exchange(port, qos, batches, properties)
            server.child.send_signal(signal.SIGTERM)
            assert server.wait(120) == 0, server.output
        return int(re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.M).group(1))


def per_message(mockforge, qos, properties, variables):
    few, many = 5, 25
    spent = instructions(mockforge, qos, many, properties, variables)
    spent -= instructions(mockforge, qos, few, properties, variables)
    return spent / ((many - few) * PAIRS * BATCH)


if __name__ == "__main__":
    with Collector() as collector:
        exporting = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{collector.grpc}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            # Exporting is another thread's, and part of the figure: of all spans.
            "OTEL_BSP_MAX_QUEUE_SIZE": "1000000",
        }
        for named in sys.argv[1:]:
            for qos in (0, 1):
                for what, properties in PROPERTIES.items():
                    off, on = (per_message(named, qos, properties, given) for given in ({}, exporting))
                    print(f"{named}  QoS {qos}, {what}: {off:.0f} without, {on:.0f} with traces", flush=True)
