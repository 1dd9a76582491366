"""A byte-for-byte TCP forwarder that keeps what passed: the witness on either side of a proxy."""

import asyncio
import socket
import struct
import threading


class Wiretap:
    """Forwards loopback connections to `target` and keeps each one's bytes by direction. Ends are passed on as they come: FIN
    as FIN, RST as RST."""

    def __init__(self, target):
        self.target = target
        self.connections = []  # of {"c2s": bytearray, "s2c": bytearray}
        self.open = set()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server = asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result(10)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _listen(self):
        return await self.loop.create_server(lambda: Side(self, None), "127.0.0.1", 0)

    def cut(self):
        """Resets all connections, for both sides."""

        def reset():
            for side in list(self.open):
                side.reset()

        self.loop.call_soon_threadsafe(reset)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.server.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    def by_client(self):
        """The kept bytes by the client identifier in each connection's CONNECT."""
        return {client_identifier(kept["c2s"]): kept for kept in self.connections if kept["c2s"]}


class Side(asyncio.Protocol):
    """One side of a connection; the first one has the other made."""

    def __init__(self, tap, other):
        self.tap, self.other, self.has_ended = tap, other, False
        self.kept = {"c2s": bytearray(), "s2c": bytearray()} if other is None else other.kept
        self.direction = "c2s" if other is None else "s2c"

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tap.open.add(self)
        if self.other is None:
            self.tap.connections.append(self.kept)
            transport.pause_reading()
            self.connecting = self.tap.loop.create_task(self._connect())
        else:
            self.other.other = self
            self.other.transport.resume_reading()
            if self.other not in self.tap.open:
                self.reset()

    async def _connect(self):
        try:
            await self.tap.loop.create_connection(lambda: Side(self.tap, self), "127.0.0.1", self.tap.target)
        except OSError:
            self.reset()

    def data_received(self, data):
        self.kept[self.direction].extend(data)
        self.other.transport.write(data)

    def pause_writing(self):
        self.other.transport.pause_reading()

    def resume_writing(self):
        self.other.transport.resume_reading()

    def eof_received(self):
        self.has_ended = True
        if self.other.has_ended:
            self.other.transport.close()
            return False
        self.other.transport.write_eof()
        return True

    def connection_lost(self, error):
        self.tap.open.discard(self)
        if self.other and self.other in self.tap.open:
            self.other.reset() if error else self.other.transport.close()

    def reset(self):
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def packets(stream):
    """Cuts a byte stream into MQTT packets."""
    found, at = [], 0
    while at < len(stream):
        length, shift, index = 0, 0, at + 1
        while True:
            byte = stream[index]
            length |= (byte & 0x7F) << shift
            shift, index = shift + 7, index + 1
            if not byte & 0x80:
                break
        assert index + length <= len(stream), f"the packet at byte {at} is cut"
        found.append(bytes(stream[at : index + length]))
        at = index + length
    return found


def client_identifier(stream):
    """The client identifier of the CONNECT a stream begins with."""
    connect = packets(stream[: 2 + stream[1]] if stream[1] < 0x80 else stream)[0]
    at = 2 if connect[1] < 0x80 else 3
    at += 2 + int.from_bytes(connect[at : at + 2], "big")  # protocol name
    version = connect[at]
    at += 4  # level, flags, keep alive
    if version == 5:
        at += 1 + connect[at]  # properties shorter than 128 bytes
    length = int.from_bytes(connect[at : at + 2], "big")
    return connect[at + 2 : at + 2 + length].decode()
