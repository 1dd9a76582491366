"""A byte-for-byte TCP forwarder that keeps what passed: the witness on either side of a proxy."""

import asyncio
import threading


class Wiretap:
    """Forwards loopback connections to `target` and keeps each one's bytes by direction."""

    def __init__(self, target):
        self.target = target
        self.connections = []  # of {"c2s": bytearray, "s2c": bytearray}
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server = asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result(10)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _listen(self):
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _accept(self, reader, writer):
        kept = {"c2s": bytearray(), "s2c": bytearray()}
        self.connections.append(kept)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(
            self._pump(reader, far_writer, kept["c2s"]), self._pump(far_reader, writer, kept["s2c"])
        )

    async def _pump(self, reader, writer, kept):
        try:
            while piece := await reader.read(65536):
                kept.extend(piece)
                writer.write(piece)
                await writer.drain()
            writer.write_eof()
        except (ConnectionError, OSError):
            writer.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.server.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    def by_client(self):
        """The kept bytes by the client identifier in each connection's CONNECT."""
        return {client_identifier(kept["c2s"]): kept for kept in self.connections if kept["c2s"]}


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
