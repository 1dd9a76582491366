"""What a message costs the broker in instructions, counted by valgrind: the same whatever else the
machine does, so that a change which makes messages dearer is seen where no clock could show it.

    python tests/interop/test_instructions.py BINARY ...   prints the figures of each binary
"""

import json
import re
import signal
import socket
import struct
import sys
import tempfile
from pathlib import Path

import pytest

from peers import ROOT, Process, accepts, binary, free_port, needs, wait_until

FIGURES = ROOT / "tests/data/instructions.json"
PAIRS, BATCH, SIZE = 10, 100, 64

# A message may cost so much more or less than the figures say.
TOLERANCE = 0.10


class Client:
    """Speaks just enough MQTT 3.1.1, over a socket that is read and written batch by batch."""

    def __init__(self, port, name):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""
        body = b"\0\4MQTT\4\2\0\0" + struct.pack(">H", len(name)) + name
        self.socket.sendall(bytes([0x10, len(body)]) + body)
        assert self.read(4) == b"\x20\2\0\0"

    def read(self, count):
        while len(self.rest) < count:
            more = self.socket.recv(1 << 16)
            assert more, "the broker has closed"
            self.rest += more
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def subscribe(self, topic, qos):
        body = b"\0\1" + struct.pack(">H", len(topic)) + topic + bytes([qos])
        self.socket.sendall(bytes([0x82, len(body)]) + body)
        assert self.read(5) == b"\x90\3\0\1" + bytes([qos])


def publish(topic, qos, identifier):
    number = struct.pack(">H", identifier) if qos else b""
    body = struct.pack(">H", len(topic)) + topic + number + b"x" * SIZE
    return bytes([0x30 | qos << 1, len(body)]) + body


def exchange(port, qos, batches):
    """Sends `batches` to each subscriber, the next one when the last one was acknowledged."""
    pairs = []
    for number in range(PAIRS):
        topic = b"bench/%02d" % number
        subscriber, publisher = Client(port, b"s%02d" % number), Client(port, b"p%02d" % number)
        subscriber.subscribe(topic, qos)
        pairs.append((subscriber, publisher, topic))
    for _ in range(batches):
        for subscriber, publisher, topic in pairs:
            packets = [publish(topic, qos, index + 1) for index in range(BATCH)]
            publisher.socket.sendall(b"".join(packets))
            got = subscriber.read(sum(map(len, packets)))
            if qos == 0:
                assert got == b"".join(packets)
                continue
            at, acks = 4 + len(topic), b""
            for packet in packets:
                acks += b"\x40\2" + got[at : at + 2]
                at += len(packet)
            subscriber.socket.sendall(acks)
            publisher.read(4 * BATCH)
    for subscriber, _, _ in pairs:
        # Its acknowledgements were handled before the answer to this.
        subscriber.socket.sendall(b"\xc0\0")
        assert subscriber.read(2) == b"\xd0\0"


def instructions(mockforge, qos, batches):
    """Of the whole process, from its start to its end."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "callgrind")
        command = [needs("valgrind"), "--tool=callgrind", f"--callgrind-out-file={out}", mockforge]
        command += ["--log", "warn", "serve", "--mqtt", "--mqtt-host", "127.0.0.1", "--mqtt-port", port]
        command += ["--http-port", "0", "--grpc-port", "0"]
        environment = {"MOCKFORGE_MQTT_SYS_INTERVAL_SECS": "0"}
        with Process(*command, cwd=folder, env=environment) as server:
            wait_until(lambda: accepts(port), "the broker under valgrind")
            exchange(port, qos, batches)
            server.child.send_signal(signal.SIGTERM)
            assert server.wait(120) == 0, server.output
        return int(re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.M).group(1))


def per_message(mockforge, qos):
    """What one more message costs: the start of the process, the connections and all else that does
    not grow with messages is the same in both runs."""
    few, many = 5, 45
    spent = instructions(mockforge, qos, many) - instructions(mockforge, qos, few)
    return spent / ((many - few) * PAIRS * BATCH)


@pytest.mark.parametrize("qos", [0, 1])
def test_a_message_costs_no_more_instructions_than_it_did(qos):
    mockforge = binary()
    if "release" not in mockforge:
        pytest.skip("only an optimised build can be compared")
    expected = json.loads(FIGURES.read_text())[f"pairs, QoS {qos}"]
    found = per_message(mockforge, qos)
    assert found <= expected * (1 + TOLERANCE), f"{found:.0f} instructions, {expected} are the figure"
    # So that the figures stay worth comparing with.
    assert found >= expected * (1 - TOLERANCE), f"{found:.0f} instructions: write it into {FIGURES}"


if __name__ == "__main__":
    for named in sys.argv[1:]:
        figures = [round(per_message(named, qos)) for qos in (0, 1)]
        print(named, *(f"QoS {qos}: {figure}" for qos, figure in enumerate(figures)), sep="  ")
