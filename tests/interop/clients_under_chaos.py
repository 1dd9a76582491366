"""What becomes of clients that others wrote when chaos does something to them: a table of action × client library × outcome.

By hand, with the packages of `.ci/run`:

    NODE_PATH=target/interop/node_modules target/interop/venv/bin/python tests/interop/clients_under_chaos.py

writes `tests/data/clients-under-chaos.md` and prints it. Words behind the script's name choose rows. Nothing in the table is known
beforehand: everything is measured, at the client, at a peer that chaos leaves alone, and by a witness on the wire between.
"""

import asyncio
import collections
import importlib.metadata
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from peers import ROOT, Mockforge, needs, wait_until
from rawmqtt import CONNECT, PUBLISH, PUBREC, PUBREL, Client, acknowledge, publish, read_variable
from wiretap import Wiretap

TABLE = ROOT / "tests/data/clients-under-chaos.md"
KEEP_ALIVE = 5  # seconds; mosquitto_pub takes no less
# Messages of QoS 1 and of QoS 2, in either direction.
EACH = 5
# How long a client may take before it counts as hung: it notices by its keep alive that nothing comes, and connects again.
PATIENCE = 3 * KEEP_ALIVE

ONCE = {"first_n": 1}


class Row:
    """A rule. With `reconnects` the client has to connect again to meet it, and with `lasts` it is watched to the end
    of our patience, as what it does not get only shows then."""

    def __init__(self, title, action, direction=None, types=None, when=None, reconnects=False, lasts=False):
        self.title, self.reconnects, self.lasts = title, reconnects, lasts
        match = {"direction": direction, "types": types}
        self.rule = {"match": {k: v for k, v in match.items() if v}, "actions": [action], **({"when": when} if when else {})}
        if action is None:
            self.rule = None


ROWS = [
    Row("nothing", None),
    Row("nothing, but its connection is reset once by others", None, reconnects=True),
    Row("`latency` of 200 ms, messages to it", {"latency": 200}, "s2c", "publish"),
    Row("`drop` of its first message", "drop", "c2s", "publish", ONCE),
    Row("`drop` of the first message to it", "drop", "s2c", "publish", ONCE),
    Row("`duplicate`, its messages", "duplicate", "c2s", "publish"),
    Row("`duplicate`, messages to it", "duplicate", "s2c", "publish"),
    Row("`reorder` with `violate`, messages to it", {"reorder": {"violate": True}}, "s2c", "publish", {"every_nth": 3}),
    Row("`corrupt` of the payload, the first message to it", {"corrupt": {"part": "payload"}}, "s2c", "publish", ONCE),
    Row("`corrupt` of the whole body, the first message to it", {"corrupt": {"bytes": 1000}}, "s2c", "publish", ONCE),
    Row("`truncate`, the first message to it", {"truncate": {"bytes": 1}}, "s2c", "publish", ONCE),
    Row("`truncate`, its first message", {"truncate": {"bytes": 1}}, "c2s", "publish", ONCE),
    Row("`withhold_ack`, the first PUBACK to it", "withhold_ack", "s2c", "puback", ONCE),
    Row("`withhold_ack`, the first PUBREC to it", "withhold_ack", "s2c", "pubrec", ONCE),
    Row("`withhold_ack`, the first PUBCOMP to it", "withhold_ack", "s2c", "pubcomp", ONCE),
    Row("`withhold_ack`, its first PUBACK", "withhold_ack", "c2s", "puback", ONCE),
    Row("`withhold_ack`, its first PUBREC", "withhold_ack", "c2s", "pubrec", ONCE),
    Row("`withhold_ack`, the first CONNACK", "withhold_ack", "s2c", "connack", ONCE, reconnects=True),
    Row("`withhold_ack`, the first two PINGRESPs", "withhold_ack", "s2c", "pingresp", {"first_n": 2}, lasts=True),
    Row("`delay_ack` of 500 ms, PUBACK, PUBREC and PUBCOMP", {"delay_ack": 500}, "s2c", ["puback", "pubrec", "pubcomp"]),
    Row("`duplicate_ack`, PUBACK", "duplicate_ack", "s2c", "puback"),
    Row("`duplicate_ack`, PUBREC and PUBCOMP", "duplicate_ack", "s2c", ["pubrec", "pubcomp"]),
    Row("`reason_code` quota_exceeded, the first PUBACK", {"reason_code": "quota_exceeded"}, "s2c", "puback", ONCE),
    Row("`reason_code` quota_exceeded, the first PUBREC", {"reason_code": "quota_exceeded"}, "s2c", "pubrec", ONCE),
    Row("`reason_code` server_busy, the first CONNACK", {"reason_code": "server_busy"}, "s2c", "connack", ONCE, reconnects=True),
    Row("`disconnect` by RST behind its third message", "disconnect", "c2s", "publish", {"after_n": 2, "max_count": 1}),
    Row("`disconnect` by RST behind the third to it", "disconnect", "s2c", "publish", {"after_n": 2, "max_count": 1}),
    Row("`disconnect` by FIN behind its third message", {"disconnect": {"mode": "fin"}}, "c2s", "publish", {"after_n": 2, "max_count": 1}),
    Row("`disconnect` by DISCONNECT behind its third message", {"disconnect": {"mode": "mqtt5"}}, "c2s", "publish", {"after_n": 2, "max_count": 1}),
    Row("`disconnect` inside the third message to it", {"disconnect": {"at_byte": 5}}, "s2c", "publish", {"after_n": 2, "max_count": 1}),
    Row("`disconnect` inside its third message", {"disconnect": {"at_byte": 5}}, "c2s", "publish", {"after_n": 2, "max_count": 1}),
    Row("`takeover` behind its third message", "takeover", "c2s", "publish", {"after_n": 2, "max_count": 1}),
    Row("`refuse_connect`, twice", "refuse_connect", when={"first_n": 2}, reconnects=True),
    Row("`blackhole` for 2 s", {"blackhole": {"duration": "2s"}}, "c2s", "publish", ONCE),
    Row("`blackhole`, as long as the connection lasts", "blackhole", "c2s", "publish", ONCE),
    Row("`bandwidth` of 500 bytes a second, to it", {"bandwidth": {"bytes_per_s": 500}}, "s2c"),
    Row("`slice` into single bytes, 10 ms apart, to it", {"slice": {"size": 1, "delay": "10ms"}}, "s2c"),
    Row("`slow_subscriber` of 200 ms", {"slow_subscriber": {"delay_ms": 200}}),
    Row("`lose_session`, once", "lose_session", when=ONCE, reconnects=True),
    Row("`capabilities`: maximum_qos 0", {"capabilities": {"maximum_qos": 0}}, reconnects=True),
    Row("`capabilities`: receive_maximum 1", {"capabilities": {"receive_maximum": 1}}, reconnects=True),
    Row("`capabilities`: session_present false", {"capabilities": {"session_present": False}}, reconnects=True),
]


class Subject:
    """A client under chaos, told what to publish, and what happened to it as it sees it."""

    def __init__(self):
        self.acked, self.failed, self.heard, self.ready, self.gone = set(), set(), [], None, False

    def take(self, event):
        if "acked" in event:
            self.acked.add(event["acked"])
        elif "heard" in event:
            self.heard.append(event["heard"])
        elif "ready" in event:
            self.ready = event["ready"]
        elif "failed" in event:
            self.failed.add(event["failed"])

    def is_gone(self):
        return self.gone


class Paho(Subject):
    """paho-mqtt with its own reconnecting, as set by default."""

    def __init__(self, port, version, name):
        super().__init__()
        kept = {} if version == 5 else {"clean_session": False}
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5 if version == 5 else paho.MQTTv311, **kept)
        self.numbers = {}
        self.topic, is_subscribed = f"up/{name}", threading.Event()

        def connected(client, _, flags, reason, given):
            if not reason.is_failure and not is_subscribed.is_set():
                is_subscribed.set()
                client.subscribe(f"down/{name}", 2)

        def published(client, _, number, reason, given):
            self.take({"acked" if reason.value < 0x80 else "failed": self.numbers.get(number)})

        self.client.on_connect = connected
        self.client.on_subscribe = lambda _, __, number, codes, given: self.take({"ready": codes[0].value})
        self.client.on_publish = published
        self.client.on_message = lambda _, __, message: self.take({"heard": message.payload.decode("latin1")})
        properties = None
        if version == 5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 300
        clean = {"clean_start": False} if version == 5 else {}
        self.client.connect("127.0.0.1", port, KEEP_ALIVE, properties=properties, **clean)
        self.client.loop_start()

    def publish(self, qos, payload):
        try:
            sent = self.client.publish(self.topic, payload, qos)
            self.numbers[sent.mid] = payload
            # It may have been acknowledged before its number was known here. Without a connection it waits for one.
            if sent.rc == paho.MQTT_ERR_SUCCESS and sent.is_published():
                self.take({"acked": payload})
        except ValueError:
            self.take({"failed": payload})

    def is_gone(self):
        return not self.client._thread or not self.client._thread.is_alive()

    def end(self):
        self.client.disconnect()
        self.client.loop_stop()


class Child(Subject):
    """A client in a process of its own."""

    def start(self, *command):
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
        )
        threading.Thread(target=self._read, args=(child,), daemon=True).start()
        return child

    def _read(self, child):
        for line in child.stdout:
            self.read(child, line.rstrip("\n"))
        self.gone = True


class MqttJs(Child):
    """MQTT.js with its own reconnecting, as set by default."""

    def __init__(self, port, version, name):
        super().__init__()
        script = Path(__file__).with_name("chaos_subject.js")
        self.child = self.start(needs("node"), script, port, version, name, KEEP_ALIVE)

    def read(self, _, line):
        if line.startswith("{"):
            self.take(json.loads(line))

    def publish(self, qos, payload):
        self.child.stdin.write(f"{qos} {payload}\n")

    def end(self):
        self.child.stdin.close()
        self.child.wait(10)


class MosquittoClients(Child):
    """`mosquitto_sub`, and `mosquitto_pub` for each QoS."""

    def __init__(self, port, version, name):
        super().__init__()
        common = ["-p", port, "-V", "5" if version == 5 else "311", "-k", KEEP_ALIVE, "-d", "-c"]
        if version == 5:
            common += ["-x", 300]
        listener = ["-i", f"{name}-sub", "-t", f"down/{name}", "-q", 2, "-F", "HEARD %p"]
        by_line = [needs("stdbuf"), "-oL"]
        self.subscriber = self.start(*by_line, needs("mosquitto_sub"), *common, *listener)
        self.publishers = {
            qos: self.start(*by_line, needs("mosquitto_pub"), *common, "-i", f"{name}-pub{qos}", "-t", f"up/{name}", "-q", qos, "-l")
            for qos in (1, 2)
        }
        self.sent = {qos: {} for qos in (1, 2)}

    def read(self, child, line):
        if line.startswith("HEARD "):
            self.take({"heard": line[6:]})
        elif line.startswith("Subscribed"):
            self.take({"ready": 2})
        elif "sending PUBLISH" in line and child is not self.subscriber:
            # Client c sending PUBLISH (d0, q1, r0, m1, 'up/c', ... (6 bytes))
            qos = 1 if child is self.publishers[1] else 2
            number = line.split(", m")[1].split(",")[0]
            self.sent[qos].setdefault(number, len(self.sent[qos]))
        elif "received PUBACK" in line or "received PUBCOMP" in line:
            qos = 1 if child is self.publishers[1] else 2
            number = line.split("Mid: ")[1].split(",")[0].rstrip(")")
            if number in self.sent[qos]:
                self.take({"acked": f"up-{qos}-{self.sent[qos][number]}"})

    def publish(self, qos, payload):
        try:
            self.publishers[qos].stdin.write(f"{payload}\n")
        except OSError:
            self.take({"failed": payload})

    def end(self):
        for child in (self.subscriber, *self.publishers.values()):
            child.kill()
            child.wait(10)


LIBRARIES = {
    "paho-mqtt 3.1.1": (Paho, 4),
    "paho-mqtt 5": (Paho, 5),
    "MQTT.js 3.1.1": (MqttJs, 4),
    "MQTT.js 5": (MqttJs, 5),
    "mosquitto_pub/sub 3.1.1": (MosquittoClients, 4),
    "mosquitto_pub/sub 5": (MosquittoClients, 5),
}


class Peer:
    """Whom the subject talks to; chaos does nothing to it. Hears at QoS 0, so everything that was routed once."""

    def __init__(self, port, name):
        self.port, self.name, self.heard, self.answered = port, name, [], 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(20)

    async def _start(self):
        self.client = await Client.connected(self.port, f"peer-of-{self.name}")
        await self.client.subscribe(f"up/{self.name}")
        self.listening = self.loop.create_task(self._listen())

    async def _listen(self):
        while True:
            packet = await self.client.hear(seconds=3600)
            if packet.kind == PUBLISH:
                self.heard.append(packet.payload.decode("latin1"))
            elif packet.kind == PUBREC:
                self.client.send(acknowledge(PUBREL, packet.identifier))

    def publish(self, number, qos, payload):
        packet = publish(f"down/{self.name}", payload, qos, number)
        self.loop.call_soon_threadsafe(self.client.send, packet)

    async def _end(self):
        self.listening.cancel()
        await asyncio.gather(self.listening, return_exceptions=True)
        self.client.close()

    def end(self):
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(20)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(20)


def cut_into_packets(stream):
    """The whole packets a stream begins with."""
    at = 0
    while (length := read_variable(stream, at + 1)) and at + 1 + length[1] + length[0] <= len(stream):
        size = 1 + length[1] + length[0]
        yield bytes(stream[at : at + size])
        at += size


class OnTheWire:
    """What the witness saw so far: CONNECT packets, and by direction PUBLISH packets, and those of them with DUP."""

    def __init__(self, tap):
        self.connects, self.publishes, self.dups = 0, collections.Counter(), collections.Counter()
        for connection in list(tap.connections):
            for direction in ("c2s", "s2c"):
                for packet in cut_into_packets(bytes(connection[direction])):
                    kind = packet[0] >> 4
                    self.connects += kind == CONNECT and direction == "c2s"
                    self.publishes[direction] += kind == PUBLISH
                    self.dups[direction] += kind == PUBLISH and bool(packet[0] & 8)


def measure(server, library, row, number):
    """The outcome for one client in words."""
    make, version = LIBRARIES[library]
    name = f"subject-{number}"
    with Wiretap(server.port) as tap:
        peer, subject = Peer(server.port, name), make(tap.port, version, name)
        try:
            return observe(server, tap, peer, subject, row, name)
        finally:
            subject.end()
            peer.end()


def observe(server, tap, peer, subject, row, name):
    is_separate = isinstance(subject, MosquittoClients)
    connects = 3 if is_separate else 1
    wait_until(lambda: subject.ready is not None and OnTheWire(tap).connects >= connects, f"{name} to be subscribed")
    if row.rule:
        rule = json.loads(json.dumps(row.rule))
        rule["match"]["client"] = [name, f"{name}-*"]
        server.rest("/chaos/rules", {"id": name, **rule})
    before = OnTheWire(tap)
    own_cut = 0
    if row.reconnects:
        own_cut = connects
        tap.cut()
        time.sleep(0.1)
    up = [(qos, f"up-{qos}-{n}") for n in range(EACH) for qos in (1, 2)]
    down = [(qos, f"down-{qos}-{n}") for n in range(EACH) for qos in (1, 2)]
    for index, ((qos, sent), (_, said)) in enumerate(zip(up, down), 1):
        subject.publish(qos, sent)
        peer.publish(index, qos, said)
        time.sleep(0.05)
    everything = {payload for _, payload in up}, {payload for _, payload in down}

    def settled():
        is_answered = subject.acked | subject.failed >= everything[0]
        return is_answered and set(subject.heard) >= everything[1] and set(peer.heard) >= everything[0] - subject.failed

    def wait(seconds, stop):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not (stop and settled()) and not subject.is_gone():
            time.sleep(0.05)
        # What comes twice may come after all else.
        time.sleep(1)

    wait(PATIENCE, not row.lasts)
    first = OnTheWire(tap)
    words, was_gone = [], subject.is_gone()
    # Of its own accord: whatever we cut has to come back once, and that is not counted.
    again = first.connects - before.connects - own_cut
    if again > 0:
        words.append("reconnected" if again <= connects else f"reconnected {again} times")
    is_settled = settled()
    if was_gone:
        words.append("ended")
    elif not is_settled:
        waits = []
        if missing := everything[0] - subject.acked - subject.failed:
            waits.append(f"{len(missing)} unacknowledged")
        if missing := everything[1] - set(subject.heard):
            waits.append(f"{len(missing)} unheard")
        if missing := everything[0] - set(peer.heard) - subject.failed:
            waits.append(f"{len(missing)} not with its peer")
        words.append(f"hung ({', '.join(waits)})")
        # Whether another connection mends it.
        tap.cut()
        wait(PATIENCE, True)
    last = OnTheWire(tap)
    if not was_gone and not is_settled:
        words.append("mended by the next connection" if settled() else "not mended by the next connection")
    for direction, whose in (("c2s", "by it"), ("s2c", "to it")):
        if direction == "s2c" and "`duplicate`" in row.title:
            # These have DUP by chaos.
            continue
        if last.dups[direction]:
            words.append(f"redelivered {whose}")
        elif last.publishes[direction] > 2 * EACH and direction == "c2s":
            words.append(f"redelivered {whose} without DUP")
    for heard, sent, where in ((peer.heard, up, "from it"), (subject.heard, down, "to it")):
        counts = collections.Counter(heard)
        known = {payload: qos for qos, payload in sent}
        for qos in (1, 2):
            if twice := sum(counts[payload] > 1 for payload, of in known.items() if of == qos):
                words.append(f"duplicated {where} ({twice} of QoS {qos})")
            if lost := sum(not counts[payload] for payload, of in known.items() if of == qos):
                words.append(f"lost {where} ({lost} of QoS {qos})")
        if altered := sum(count for payload, count in counts.items() if payload not in known):
            words.append(f"altered {where} ({altered})")
        in_order = list(dict.fromkeys(payload for payload in heard if payload in known))
        if any([p for p in in_order if known[p] == q] != [p for o, p in sent if o == q and p in counts] for q in (1, 2)):
            words.append(f"out of order {where}")
    if subject.failed:
        words.append(f"told that {len(subject.failed)} failed")
    return ", ".join(words) or "unaffected"


def versions():
    js = subprocess.run([needs("node"), "-p", "require('mqtt/package.json').version"], capture_output=True, text=True, check=True)
    mosquitto = subprocess.run([needs("mosquitto_pub"), "--version"], capture_output=True, text=True).stdout.split()
    return {
        "paho-mqtt": importlib.metadata.version("paho-mqtt"),
        "MQTT.js": js.stdout.strip(),
        "mosquitto_pub and mosquitto_sub": mosquitto[2],
    }


def table(rows=ROWS, libraries=LIBRARIES, at_once=4):
    """All outcomes, by row and library."""
    outcomes, failures, numbers, lock = {}, [], iter(range(1, 10_000)), threading.Semaphore(at_once * len(libraries))
    with Mockforge() as server:

        def run(row, library, number):
            try:
                outcomes[row.title, library] = measure(server, library, row, number)
            except BaseException as error:  # whatever it is, the table isn't whole
                failures.append(f"{row.title}, {library}: {error!r}")
            finally:
                lock.release()

        threads = []
        for row in rows:
            for library in libraries:
                lock.acquire()
                thread = threading.Thread(target=run, args=(row, library, next(numbers)), daemon=True)
                thread.start()
                threads.append(thread)
        for thread in threads:
            thread.join()
    assert not failures, "\n".join(failures)
    return outcomes


def markdown(outcomes, rows, libraries):
    lines = ["| " + " | ".join(["what chaos does", *libraries]) + " |", "|" + "---|" * (len(libraries) + 1)]
    lines += ["| " + " | ".join([row.title, *(outcomes[row.title, library] for library in libraries)]) + " |" for row in rows]
    return "\n".join(lines) + "\n"


HEAD = """# Clients under chaos

What became of clients that others wrote when chaos did something to them, as `tests/interop/clients_under_chaos.py` measured it with
{versions}. Each client had a persistent session and reconnected as it does by default (keep alive {keep_alive} s); {each} messages of QoS 1 and
{each} of QoS 2 went either way.

- *reconnected*: by itself. *Ended*: its process or thread did, so that nobody reconnects.
- *hung*: not all was acknowledged and heard after {patience} s; then its connection was reset, and that *mended* it or not.
- *redelivered by it*, *to it*: PUBLISH packets on the wire again, with DUP as MQTT has it.
- *duplicated*, *lost*, *altered*, *out of order*, *from it*: what its peer heard; *to it*: what it heard. At QoS 2 the first three are a fault of
  somebody's, unless chaos made the messages so.
- *told that some failed*: by the library, to whoever published.
- *unaffected*: none of this.

"""


def main(words):
    rows = [row for row in ROWS if not words or any(word in row.title for word in words)]
    whole = markdown(table(rows), rows, LIBRARIES)
    print(whole)
    if not words:
        named = [f"{name} {version}" for name, version in versions().items()]
        head = HEAD.format(versions=", ".join(named), keep_alive=KEEP_ALIVE, each=EACH, patience=PATIENCE)
        TABLE.write_text(head + whole)


if __name__ == "__main__":
    main(sys.argv[1:])
