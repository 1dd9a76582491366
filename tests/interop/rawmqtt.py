"""An MQTT client down to its bytes: it says what it is told to say, answers nothing by itself, and keeps what came and when."""

import asyncio
import socket
import time

V311, V5 = 4, 5

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = range(1, 12)
PINGREQ, PINGRESP, DISCONNECT, AUTH = range(12, 16)

WAIT = 20  # seconds for anything that should happen at once
# Identifiers from here on are `Client.subscribe`'s own, those below the tests'.
SUBSCRIBING = 60_000


def number(value, size=2):
    return value.to_bytes(size, "big")


def text(value):
    encoded = value if isinstance(value, bytes) else value.encode()
    return number(len(encoded)) + encoded


def variable(value):
    encoded = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        encoded.append(low | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def framed(first, body):
    return bytes([first]) + variable(len(body)) + body


def connect(client_id, version=V311, clean=True, keep_alive=0, will=None, expiry=300):
    """A CONNECT; `will` is (topic, payload), of QoS 1. A session that is kept is kept for `expiry` seconds."""
    flags = (0x02 if clean else 0) | (0x04 | 1 << 3 if will else 0)
    properties = b"" if version != V5 else b"\x00" if clean else b"\x05\x11" + number(expiry, 4)
    body = text("MQTT") + bytes([version, flags]) + number(keep_alive) + properties + text(client_id)
    if will:
        body += (b"\x00" if version == V5 else b"") + text(will[0]) + text(will[1])
    return framed(CONNECT << 4, body)


def publish(topic, payload=b"", qos=0, identifier=0, version=V311, dup=False, retain=False, properties=b""):
    body = text(topic) + (number(identifier) if qos else b"")
    body += variable(len(properties)) + properties if version == V5 else b""
    payload = payload.encode() if isinstance(payload, str) else payload
    return framed(PUBLISH << 4 | dup << 3 | qos << 1 | retain, body + payload)


def subscribe(topic_filter, qos=0, identifier=1, version=V311):
    body = number(identifier) + (b"\x00" if version == V5 else b"") + text(topic_filter) + bytes([qos])
    return framed(SUBSCRIBE << 4 | 2, body)


def acknowledge(kind, identifier):
    """PUBACK, PUBREC, PUBREL or PUBCOMP without a Reason Code, which is the same in all versions."""
    return framed(kind << 4 | (2 if kind == PUBREL else 0), number(identifier))


PING = framed(PINGREQ << 4, b"")
GOODBYE = framed(DISCONNECT << 4, b"")


class Packet:
    """A packet from the server and when its last byte came."""

    def __init__(self, raw, header, version, at):
        self.raw, self.at, self.version = raw, at, version
        self.kind, self.flags, self.body = raw[0] >> 4, raw[0] & 0x0F, raw[header:]

    def __repr__(self):
        return f"Packet({self.raw.hex(' ')})"

    @property
    def qos(self):
        return self.flags >> 1 & 3

    @property
    def dup(self):
        return bool(self.flags & 8)

    @property
    def topic(self):
        return self.body[2 : 2 + self._topic_length].decode()

    @property
    def payload(self):
        at = 2 + self._topic_length + (2 if self.qos else 0)
        if self.version == V5:
            length, size = read_variable(self.body, at)
            at += size + length
        return bytes(self.body[at:])

    @property
    def _topic_length(self):
        return int.from_bytes(self.body[:2], "big")

    @property
    def identifier(self):
        at = 2 + self._topic_length if self.kind == PUBLISH else 0
        return int.from_bytes(self.body[at : at + 2], "big")

    @property
    def reason(self):
        """The Reason Code, or Return Code, of a packet with one of them."""
        if self.kind == CONNACK:
            return self.body[1]
        if self.kind in (SUBACK, UNSUBACK):
            return self.body[-1]
        at = 0 if self.kind in (DISCONNECT, AUTH) else 2
        return self.body[at] if len(self.body) > at else 0

    @property
    def session_present(self):
        return bool(self.body[0] & 1)

    @property
    def properties(self):
        """Of a CONNACK of MQTT 5: the numbers by their identifiers."""
        length, size = read_variable(self.body, 2)
        at, found = 2 + size, {}
        end = at + length
        while at < end:
            name, at = self.body[at], at + 1
            wide = {0x11: 4, 0x27: 4, 0x21: 2, 0x22: 2, 0x13: 2}.get(name, 1)
            if name in (0x12, 0x1A, 0x1C, 0x1F, 0x15, 0x16):
                wide = 2 + int.from_bytes(self.body[at : at + 2], "big")
            elif name == 0x26:
                first = 2 + int.from_bytes(self.body[at : at + 2], "big")
                wide = first + 2 + int.from_bytes(self.body[at + first : at + first + 2], "big")
            found[name] = int.from_bytes(self.body[at : at + wide], "big")
            at += wide
        return found


def read_variable(data, at):
    """A Variable Byte Integer and its size; None where it is cut."""
    value = size = 0
    while at + size < len(data):
        byte = data[at + size]
        value |= (byte & 0x7F) << 7 * size
        size += 1
        if not byte & 0x80:
            return value, size
    return None


class Ended(Exception):
    """The connection is over; `how` is `fin` or `rst`."""

    def __init__(self, client):
        super().__init__(f"{client.name}: {client.end}, the rest is {bytes(client.rest).hex(' ')!r}")
        self.how = client.end


class Client(asyncio.Protocol):
    """One connection. What came is in `heard` until it is asked for; `rest` is what is no whole packet (yet)."""

    def __init__(self, name, version=V311):
        self.name, self.version = name, version
        self.heard, self.rest, self.pieces = [], bytearray(), []
        self.end = None
        self.last_identifier = SUBSCRIBING
        self.news = asyncio.Event()

    @classmethod
    async def open(cls, port, name, version=V311):
        """A connection without a CONNECT."""
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: cls(name, version), "127.0.0.1", port)
        return client

    @classmethod
    async def connected(cls, port, name, version=V311, **given):
        """A connection that the server has let in; its `connack`."""
        client = await cls.open(port, name, version)
        client.send(connect(name, version, **given))
        client.connack = await client.hear(CONNACK)
        assert client.connack.reason == 0, client.connack
        return client

    # -- what asyncio calls

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data):
        now = time.monotonic()
        self.pieces.append((now, len(data)))
        self.rest += data
        at = 0
        while len(self.rest) - at >= 2:
            length = read_variable(self.rest, at + 1)
            if length is None or len(self.rest) - at < 1 + length[1] + length[0]:
                break
            header = 1 + length[1]
            self.heard.append(Packet(bytes(self.rest[at : at + header + length[0]]), header, self.version, now))
            at += header + length[0]
        del self.rest[:at]
        self.news.set()

    def connection_lost(self, error):
        self.end = "rst" if error else "fin"
        self.news.set()

    # -- what tests call

    def send(self, *packets):
        self.transport.write(b"".join(packets))

    async def hear(self, kind=None, seconds=WAIT):
        """The next packet; of a kind, so that others stay where they are. Raises `Ended` if there will be none."""
        at = 0
        async with asyncio.timeout(seconds):
            while True:
                while at < len(self.heard):
                    if kind is None or self.heard[at].kind == kind:
                        return self.heard.pop(at)
                    at += 1
                if self.end:
                    raise Ended(self)
                self.news.clear()
                await self.news.wait()

    async def ended(self, seconds=WAIT):
        """Waits for the end of the connection: `fin` or `rst`."""
        async with asyncio.timeout(seconds):
            while not self.end:
                self.news.clear()
                await self.news.wait()
        return self.end

    async def subscribe(self, topic_filter, qos=0):
        self.last_identifier += 1
        self.send(subscribe(topic_filter, qos, self.last_identifier, self.version))
        answer = await self.hear(SUBACK)
        assert answer.identifier == self.last_identifier and answer.reason == qos, answer
        return answer

    def publish(self, topic, payload=b"", qos=0, identifier=0, **given):
        self.send(publish(topic, payload, qos, identifier, self.version, **given))

    async def ping(self):
        """A round trip; what came before its answer, in order, and the answer is gone from `heard`."""
        self.send(PING)
        return await self.until_pong()

    async def until_pong(self):
        pong = await self.hear(PINGRESP)
        before, self.heard = [p for p in self.heard if p.at <= pong.at], [p for p in self.heard if p.at > pong.at]
        return before

    async def silent(self, seconds):
        """Whether nothing comes, and the connection stays, for so long."""
        await asyncio.sleep(seconds)
        return not self.heard and not self.rest and self.end is None

    def close(self):
        self.transport.close()

    def break_off(self):
        """As if the client crashed."""
        self.transport.abort()
