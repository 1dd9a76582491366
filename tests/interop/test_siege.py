"""Small sieges: whoever attacks, an innocent pair gets its messages, limits hold, and what was taken is given back.

Nothing here passes or fails by time; `cargo bench --bench siege` measures what the innocent notice.
"""

import contextlib
import os
import re
import socket
import threading

import pytest

from peers import Mockforge, wait_until
from rawmqtt import PUBACK, PUBLISH, V5, acknowledge, connect, publish, subscribe

PATIENCE = 30


class Plain:
    """A blocking connection."""

    def __init__(self, port, source="127.0.0.1", receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.bind((source, 0))
        self.socket.connect(("127.0.0.1", port))

    @classmethod
    def connected(cls, port, name, source="127.0.0.1", **options):
        client = cls(port, source, **options)
        client.socket.sendall(connect(name))
        assert client.read(4) == b"\x20\x02\x00\x00"
        return client

    def read(self, count):
        found = b""
        while len(found) < count:
            part = self.socket.recv(count - len(found))
            assert part, f"ended after {found!r}"
            found += part
        return found

    def rest(self):
        """Everything to the end, FIN or RST, or until it is closed here."""
        found = b""
        try:
            while part := self.socket.recv(65536):
                found += part
        except TimeoutError:
            raise
        except OSError:
            pass
        return found

    def close(self):
        # A thread that reads would keep it open.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Innocents:
    """A publisher and a subscriber; `exchange` sends messages one by one and awaits each."""

    def __init__(self, port):
        self.subscriber = Plain.connected(port, "innocent-subscriber")
        self.subscriber.socket.sendall(subscribe("innocent/#", qos=1))
        assert self.subscriber.read(5)[-1] == 1
        self.publisher = Plain.connected(port, "innocent-publisher")
        self.count = 0

    def exchange(self, messages=20):
        for _ in range(messages):
            self.count += 1
            payload = f"{self.count:08}".encode()
            self.publisher.socket.sendall(publish("innocent/x", payload, qos=1, identifier=1))
            assert self.publisher.read(4)[0] >> 4 == PUBACK
            head = self.subscriber.read(2)
            body = self.subscriber.read(head[1])
            assert head[0] >> 4 == PUBLISH and body.endswith(payload), (head, body)
            self.subscriber.socket.sendall(acknowledge(PUBACK, int.from_bytes(body[-10:-8], "big")))


def descriptors(server):
    return len(os.listdir(f"/proc/{server.child.pid}/fd"))


def memory(server):
    """Resident bytes."""
    status = open(f"/proc/{server.child.pid}/status").read()
    return int(re.search(r"VmRSS:\s*(\d+)", status)[1]) << 10


@pytest.fixture
def siege():
    """A server with variables, an innocent pair, and the check at its end that nothing stays behind."""
    servers = []

    def begin(**variables):
        server = Mockforge(**{f"MOCKFORGE_MQTT_{key}": str(value) for key, value in variables.items()})
        servers.append(server)
        innocents = Innocents(server.port)
        innocents.exchange()
        return server, innocents, descriptors(server)

    yield begin
    for server in servers:
        server.__exit__()


def released(server, before):
    wait_until(lambda: descriptors(server) <= before, "the connections to be released")
    assert server.child.poll() is None


def test_a_flood_beyond_the_limit(siege):
    server, innocents, before = siege(MAX_CONNECTIONS=20)
    held = [Plain.connected(server.port, f"held-{number}") for number in range(18)]
    answers = []
    for number in range(300):
        client = Plain(server.port)
        client.socket.sendall(connect(f"beyond-{number}", version=V5))
        answers.append(client)
        if number % 50 == 0:
            innocents.exchange()
    heard = [client.rest() for client in answers]
    # Quota exceeded, or closed without a word.
    assert all(answer in (b"", b"\x20\x03\x00\x97\x00") for answer in heard), set(heard)
    assert any(heard)
    innocents.exchange()
    assert descriptors(server) <= before + 18 + 64
    for client in held + answers:
        client.close()
    released(server, before)
    Plain.connected(server.port, "later").close()


def test_an_address_that_connects_too_often(siege):
    server, innocents, before = siege(LIMITS_CONNECT_RATE_PER_ADDRESS=5, LIMITS_CONNECTIONS_PER_ADDRESS=10)
    attackers = []
    for number in range(200):
        client = Plain(server.port, source="127.0.0.66")
        client.socket.sendall(connect(f"often-{number}", version=V5))
        attackers.append(client)
    # Others are admitted all the while.
    others = [Plain.connected(server.port, f"other-{number}", source=f"127.0.1.{number + 1}") for number in range(20)]
    innocents.exchange()
    admitted = 0
    for client in attackers:
        client.socket.settimeout(1)
        try:
            answer = client.socket.recv(16)
        except (ConnectionError, TimeoutError):
            answer = b""
        if answer[:4] == b"\x20\x03\x00\x9f":
            continue
        admitted += answer[3:4] == b"\x00"
        assert answer[3:4] in (b"", b"\x00", b"\x97"), answer
    assert 5 <= admitted <= 10
    for client in attackers + others:
        client.close()
    released(server, before)


def test_slowloris(siege):
    server, innocents, before = siege(LIMITS_CONNECT_TIMEOUT_SECS=1)
    slow = [Plain(server.port) for _ in range(300)]
    packet = connect("x" * 1000)
    for byte in packet[:10]:
        for client in slow:
            try:
                client.socket.sendall(bytes([byte]))
            except ConnectionError:
                pass
        innocents.exchange(2)
    # Whatever they sent, their time ends.
    for client in slow:
        assert client.rest() == b""
        client.close()
    released(server, before)
    innocents.exchange()


def test_clients_that_fall_silent(siege):
    server, innocents, before = siege(LIMITS_CONNECT_TIMEOUT_SECS=1)
    silent = [Plain(server.port) for _ in range(200)]
    # A keep alive of one second, and no PINGREQ.
    for number in range(200):
        client = Plain(server.port)
        client.socket.sendall(connect(f"silent-{number}", keep_alive=1))
        assert client.read(4)[3] == 0
        silent.append(client)
    innocents.exchange()
    for client in silent:
        assert client.rest() == b""
        client.close()
    released(server, before)
    innocents.exchange()


@pytest.mark.parametrize("qos", [0, 1])
def test_clients_that_never_read(siege, qos):
    server, innocents, before = siege(LIMITS_WAITING_BYTES=8 << 20)
    unread = []
    for number in range(100):
        client = Plain.connected(server.port, f"unread-{number}", receive_buffer=4096)
        client.socket.sendall(subscribe("flood/#", qos=qos))
        # The last that it reads.
        assert client.read(5)[-1] == qos
        unread.append(client)
    at_first = memory(server)
    flooder = Plain.connected(server.port, "flooder")
    drain = threading.Thread(target=flooder.rest, daemon=True)
    drain.start()
    # 40 MB for each of them: beyond what the kernel takes.
    for number in range(4000):
        flooder.socket.sendall(publish("flood/x", b"x" * 10_000, qos=qos, identifier=1))
        if number % 200 == 0:
            innocents.exchange(2)
    innocents.exchange()
    # 8 MiB, a share of 64 KiB in three places for each, and what a process takes for itself.
    grown = memory(server) - at_first
    assert grown < (8 + 100 * 3 / 16 + 60) * (1 << 20), f"{grown >> 20} MiB"
    assert 'reason="queue_full"} 0' not in server.metrics()
    for client in unread + [flooder]:
        client.close()
    released(server, before)
    innocents.exchange()


def test_answers_that_are_never_read(siege):
    server, innocents, before = siege()
    at_first = memory(server)
    greedy = []
    for number in range(10):
        client = Plain.connected(server.port, f"greedy-{number}", receive_buffer=4096)
        client.socket.setblocking(False)
        greedy.append(client)
    pings = b"\xc0\x00" * 10_000
    for _ in range(20):
        for client in greedy:
            try:
                client.socket.send(pings)
            except (BlockingIOError, ConnectionError):
                pass
        innocents.exchange(2)
    grown = memory(server) - at_first
    assert grown < 10 * (3 << 20), f"{grown >> 20} MiB"
    for client in greedy:
        client.close()
    released(server, before)


def test_what_is_no_packet(siege):
    server, innocents, before = siege()
    garbage = [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        b"\x10\xff\xff\xff\xff\x7f",
        b"\x10\x0c\x00\x04MQTT\x09\x02\x00\x00\x00\x00",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        # 256 MiB are announced.
        b"\x10\xff\xff\xff\x7f",
        b"\x30\xff\xff\xff\x7f",
        connect("bad") + b"\x33\x05\x00\x01#\x00\x00\x00\x00",
        connect("bad") + b"\x82\xff\xff\xff\x7f",
        connect("bad") + connect("bad"),
    ]
    for round in range(30):
        clients = [Plain(server.port) for _ in garbage]
        for client, bytes_ in zip(clients, garbage):
            client.socket.sendall(bytes_)
        for client in clients:
            client.rest()
            client.close()
        innocents.exchange(2)
    released(server, before)


def test_a_proxy_is_besieged(siege):
    upstream, _, _ = siege()
    limits = {"LIMITS_CONNECT_TIMEOUT_SECS": "1", "MAX_CONNECTIONS": "300"}
    server = Mockforge("--upstream", upstream.url, **{f"MOCKFORGE_MQTT_{key}": value for key, value in limits.items()})
    try:
        innocents = Innocents(server.port)
        before = descriptors(server)
        slow = [Plain(server.port) for _ in range(200)]
        for client in slow:
            client.socket.sendall(b"\x10\x7f")
        innocents.exchange()
        beyond = [Plain(server.port) for _ in range(300)]
        for client in beyond:
            try:
                client.socket.sendall(connect("beyond", version=V5))
            except ConnectionError:
                pass
        innocents.exchange()
        for client in slow:
            assert client.rest() == b""
        for client in slow + beyond:
            client.close()
        released(server, before)
        innocents.exchange()
    finally:
        server.__exit__()
