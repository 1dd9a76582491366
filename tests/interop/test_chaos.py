"""Chaos as a whole: what the guide prints, measured; the same again from the same seed; lost acknowledgements; recordings.

What each action does is in `test_chaos_actions.py`.
"""

import asyncio
import base64
import collections
import json
import random
import re
import signal
import statistics
import time
from contextlib import ExitStack, asynccontextmanager

import pytest

import pahoclient
import rawmqtt
from chaotic import (
    DIRECTIONS,
    KINDS,
    Chaotic,
    Follower,
    Listener,
    assert_distribution,
    assert_rate,
    by_client,
    uniform,
)
from peers import DEADLINE, Mockforge, Mosquitto, run, wait_until
from rawmqtt import (
    CONNACK,
    GOODBYE,
    PING,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    V5,
    V311,
    Client,
    Ended,
    acknowledge,
    publish,
)
from wiretap import Wiretap, packets

DISRUPTION = """
mqtt:
  chaos:
    enabled: true
    disconnect_probability: 0.05  # 5% chance of random disconnect
    packet_loss: 0.01             # 1% packet loss
    latency:
      min_ms: 10
      max_ms: 100
"""

SLOW = """
mqtt:
  chaos:
    slow_subscriber:
      enabled: true
      delay_ms: 5000          # Simulate slow consumer
      affected_topics:
        - "slow/#"
"""

broker_and_proxy = pytest.mark.parametrize("kind", ["broker", "before mosquitto"])
every_kind = pytest.mark.parametrize("kind", KINDS)


# ---- the guide's first block


class Echo:
    """Publishes to itself, one message at a time, and keeps what became of each and when. A PING behind a message tells
    that nothing more will come of it."""

    def __init__(self, port, name, qos):
        self.port, self.name, self.qos = port, name, qos
        self.client = None
        self.outcomes = []  # of (acknowledged, seconds until it came back or None, how the connection ended or None)
        self.pings = []  # seconds

    async def run(self, count):
        for _ in range(count):
            if self.client is None:
                self.client = await Client.connected(self.port, self.name)
                await self.client.subscribe(self.name, self.qos)
            begin = time.monotonic()
            await self.client.ping()
            self.pings.append(time.monotonic() - begin)
            await self.one(len(self.outcomes) + 1)
        if self.client:
            self.client.send(GOODBYE)

    async def one(self, number):
        client = self.client
        begin = time.monotonic()
        client.send(publish(self.name, str(number), self.qos, number), PING)
        try:
            came = await client.until_pong()
        except Ended:
            came = client.heard
            self.client = None
        echoes = [packet for packet in came if packet.kind == PUBLISH]
        acks = [packet.identifier for packet in came if packet.kind == PUBACK]
        assert len(echoes) <= 1 and acks in ([], [number]), came
        if echoes:
            assert echoes[0].payload == str(number).encode()
            if self.qos and client.end is None:
                client.send(acknowledge(PUBACK, echoes[0].identifier))
        self.outcomes.append((bool(acks), echoes[0].at - begin if echoes else None, client.end))

    def expected(self, journal):
        """What the journal has to say of drops and resets, going by what was seen here alone: nobody but the journal
        knows which way a message of QoS 0 was lost, so there, and only there, it is asked."""
        seen, came_down = [], 0
        for number, (acknowledged, echoed, ended) in enumerate(self.outcomes, 1):
            if ended and echoed is None:
                seen.append(("c2s", number, "disconnect"))
                continue
            lost_going_up = echoed is None and not acknowledged
            if lost_going_up and self.qos == 0:
                lost_going_up = ("c2s", number, "drop") in journal
            if lost_going_up:
                seen.append(("c2s", number, "drop"))
                continue
            came_down += 1
            if echoed is None:
                seen.append(("s2c", came_down, "drop"))
            elif ended:
                seen.append(("s2c", came_down, "disconnect"))
        return seen


@broker_and_proxy
def test_the_guides_disruption_as_printed_does_what_it_says_to_ten_thousand_publishes(kind, tmp_path):
    """Disconnects, losses and delays as clients saw them, against the settings, the journal and the metrics."""

    async def measure(server):
        echoes = [Echo(server.port, f"echo-{number}", number % 2) for number in range(100)]
        async with Follower(server) as journal, asyncio.TaskGroup() as tasks:
            for echo in echoes:
                tasks.create_task(echo.run(100))
        return echoes, journal.faults

    with Chaotic(kind, tmp_path, DISRUPTION) as server:
        echoes, faults = asyncio.run(measure(server))
        figures, published = server.fault_figures(), server.metrics()
    of_client = collections.defaultdict(list)
    for fault in faults:
        assert fault.type == "PUBLISH" and fault.topic == fault.client
        of_client[fault.client].append(fault)

    # The journal says exactly what clients saw: which message, which way, what.
    judged, seen, lasted, drawn, late = collections.Counter(), collections.Counter(), [], [], []
    for echo in echoes:
        cut_or_lost = {(f.direction, f.nth, f.action) for f in of_client[echo.name] if f.action != "latency"}
        expected = echo.expected(cut_or_lost)
        assert sorted(expected) == sorted(cut_or_lost), echo.name
        seen.update((direction, action) for direction, _, action in expected)
        delays = [f.detail["ms"] for f in of_client[echo.name] if f.action == "latency"]
        took = [seconds * 1000 for _, seconds, _ in echo.outcomes if seconds is not None]
        assert len(delays) == len(took)
        assert all(delay <= one for delay, one in zip(delays, took)), "something came before its time"
        lasted += [one - ping * 1000 for one, ping in zip(took, [p for p, o in zip(echo.pings, echo.outcomes) if o[1]])]
        late += [one - delay for one, delay in zip(took, delays)]
        drawn += delays
        came_up = 100 - sum(direction == "c2s" and action == "drop" for direction, _, action in expected)
        came_down = sum(o[1] is not None for o in echo.outcomes)
        judged["c2s"] += came_up
        judged["s2c"] += came_down
    ends = collections.Counter(outcome[2] for echo in echoes for outcome in echo.outcomes)
    assert ends == {None: ends[None], "rst": ends["rst"]}, "a disconnect is a reset"
    for action, rule in (("drop", "packet_loss"), ("disconnect", "disconnect_probability")):
        assert figures[rule, action] == seen["c2s", action] + seen["s2c", action]
    assert figures["latency", "latency"] == len(drawn)
    assert {rule for rule, _ in figures} == {"packet_loss", "disconnect_probability", "latency"}
    # What was not lost on its way was processed, also what the connection did not survive.
    if kind == "broker":
        for qos in (0, 1):
            of_qos = [f for echo in echoes if echo.qos == qos for f in of_client[echo.name]]
            lost = sum(f.direction == "c2s" and f.action == "drop" for f in of_qos)
            assert f'mqtt_messages_published_total{{qos="{qos}"}} {5000 - lost}\n' in published

    for direction, count in judged.items():
        assert_rate(seen[direction, "disconnect"], count, 0.05, f"disconnects {direction}")
    losses = seen["c2s", "drop"] + seen["s2c", "drop"]
    print(f"losses: {losses} of {10_000 + judged['s2c']} (too few to judge the rate: the next test does)")
    assert_distribution(drawn, uniform(10, 100), "delays that were drawn")
    print(f"late by {statistics.median(late):.2f} ms in the median, {max(late):.1f} ms at most")
    # A round trip without a delay is subtracted from each with one; the rest is the scheduler's.
    assert_distribution(lasted, uniform(10, 100), "delays that clients saw", slack=0.05)


@broker_and_proxy
def test_the_guides_packet_loss_is_as_configured_in_either_direction(kind, tmp_path):
    """Its key alone and five times the messages: one in a hundred takes many to be told from one in eighty."""
    clients, bursts, of = 50, 20, 50

    async def lose(port, name):
        client = await Client.connected(port, name)
        await client.subscribe(name)
        lost_up, lost_down, came_down = set(), set(), 0
        for burst in range(bursts):
            numbers = range(burst * of + 1, burst * of + of + 1)
            client.send(*(publish(name, str(n), 1, n) for n in numbers), PING)
            came = await client.until_pong()
            acked = {packet.identifier for packet in came if packet.kind == PUBACK}
            echoed = [int(packet.payload) for packet in came if packet.kind == PUBLISH]
            assert echoed == sorted(set(echoed)) and set(echoed) <= acked <= set(numbers)
            for n in numbers:
                if n not in acked:
                    lost_up.add(n)
                    continue
                came_down += 1
                if n not in echoed:
                    lost_down.add(came_down)
        client.send(GOODBYE)
        return name, lost_up, lost_down

    async def measure(server):
        async with Follower(server) as journal:
            lost = await asyncio.gather(*(lose(server.port, f"c{n}") for n in range(clients)))
        return lost, journal.faults

    with Chaotic(kind, tmp_path, "mqtt:\n  chaos:\n    packet_loss: 0.01\n") as server:
        lost, faults = asyncio.run(measure(server))
        figures = server.fault_figures()
    journal = {(f.client, f.direction, f.nth) for f in faults}
    assert len(journal) == len(faults)
    assert journal == {(name, "c2s", n) for name, up, _ in lost for n in up} | {
        (name, "s2c", n) for name, _, down in lost for n in down
    }
    assert figures == {("packet_loss", "drop"): len(faults)}
    up, down = (sum(len(each[index]) for each in lost) for index in (1, 2))
    total = clients * bursts * of
    assert_rate(up, total, 0.01, "losses c2s")
    assert_rate(down, total - up, 0.01, "losses s2c")


@every_kind
def test_what_is_lost_stays_in_flight_and_comes_again_with_dup(kind, tmp_path):
    """As on a real loss: the sender of QoS 1 or 2 keeps the message, and the next connection brings it."""

    async def lose(server):
        device = await Client.connected(server.port, "device", clean=False)
        await device.subscribe("down", 1)
        listener = await Listener.of(server.port, "listener", "up", 1)
        server.rule("drop", client="device", types="PUBLISH", when={"first_n": 1})
        device.publish("up", "1", 1, 7)
        assert [p.kind for p in await device.ping()] == [] and await listener.nothing() == []
        listener.client.publish("down", "2")
        listener.client.publish("down", "3", 1, 1)
        await listener.client.ping()
        # Of QoS 0 it would be gone: it was the first one.
        assert [p.payload for p in await device.ping()] == [b"3"]
        device.break_off()
        device = await Client.connected(server.port, "device", clean=False)
        assert device.connack.session_present
        device.publish("up", "1", 1, 7, dup=True)
        assert (await device.hear(PUBACK)).identifier == 7
        assert await listener.hear(1) == [b"1"]

    with Chaotic(kind, tmp_path) as server:
        asyncio.run(lose(server))


# ---- the guide's second block


async def arrivals(client, count):
    return [(packet.at, packet.payload) for packet in [await client.hear(PUBLISH) for _ in range(count)]]


@asynccontextmanager
async def steady(port, name, subscribers, topic):
    """Has a client publish to a topic every few milliseconds; yields where each subscriber's delays gather."""
    publisher = await Client.connected(port, name)
    delays, is_over = {subscriber.name: [] for subscriber in subscribers}, False

    async def send():
        while not is_over:
            publisher.publish(topic, repr(time.monotonic()))
            await asyncio.sleep(0.005)

    async def listen(subscriber):
        while True:
            packet = await subscriber.hear(PUBLISH, 600)
            if packet.topic == topic:
                delays[subscriber.name].append(packet.at - float(packet.payload))
            else:
                subscriber.slow.append((packet.at, packet.payload))

    for subscriber in subscribers:
        subscriber.slow = []
    listening = [asyncio.create_task(listen(subscriber)) for subscriber in subscribers]
    sending = asyncio.create_task(send())
    try:
        yield delays
    finally:
        is_over = True
        await sending
        for task in listening:
            task.cancel()


async def slow_and_fast(server):
    """Two messages for `slow/#` on the way to one of two subscribers of other things, too."""
    both, other = [await Client.connected(server.port, name) for name in ("both", "other")]
    for client, filters in ((both, ("slow/#", "fast")), (other, ("fast",))):
        for topic_filter in filters:
            await client.subscribe(topic_filter)
    publisher = await Client.connected(server.port, "publisher")
    async with steady(server.port, "steady", (both, other), "fast") as delays:
        await asyncio.sleep(2)
        before = {name: delays[name][:] for name in delays}
        begin = time.monotonic()
        for payload in ("one", "two"):
            publisher.publish(f"slow/{payload}", payload)
        await publisher.ping()
        async with asyncio.timeout(30):
            while len(both.slow) < 2:
                await asyncio.sleep(0.02)
        during = {name: delays[name][len(before[name]) :] for name in delays}
    return begin, both.slow, before, during


def test_the_guides_slow_subscriber_as_printed_slows_down_nothing_else(tmp_path):
    """Side by side: a subscriber with messages that wait, another without, before and while they wait. A broker and both
    proxies at once, since it takes ten seconds."""

    async def measure(servers):
        return await asyncio.gather(*(slow_and_fast(server) for server in servers))

    with ExitStack() as stack:
        servers = [stack.enter_context(Chaotic(kind, tmp_path / kind, SLOW)) for kind in KINDS]
        measured = asyncio.run(measure(servers))
        journals = [server.faults() for server in servers]
    for kind, (begin, slow, before, during), journal in zip(KINDS, measured, journals):
        (first, one), (second, two) = slow
        assert (one, two) == (b"one", b"two")
        assert first - begin >= 5 and second - begin >= 10
        assert second - begin < 10 + DEADLINE / 2
        assert [(f.rule, f.client, f.topic) for f in journal] == [
            ("slow_subscriber", "both", "slow/one"),
            ("slow_subscriber", "both", "slow/two"),
        ]
        for name in ("both", "other"):
            medians = [statistics.median(delays[name]) * 1000 for delays in (before, during)]
            print(f"{kind}: {name} gets other topics in {medians[0]:.2f} ms, and {medians[1]:.2f} ms while others wait")
            # A wait of five seconds that showed in one message of a thousand would show here.
            assert len(during[name]) > 500
            assert medians[1] < 3 * medians[0] + 5 and max(during[name]) < 2.5


@every_kind
def test_a_slow_subscriber_gets_at_most_one_message_in_each_delay(kind, tmp_path):
    """The guide's block with a shorter delay."""
    count, delay = 30, 0.05

    async def measure(server):
        subscribers = [await Client.connected(server.port, f"s{n}") for n in range(3)]
        for subscriber in subscribers:
            await subscriber.subscribe("slow/#", 1)
        publisher = await Client.connected(server.port, "publisher")
        begin = time.monotonic()
        for number in range(count):
            publisher.publish(f"slow/{number % 3}", str(number), number % 2, number + 1)
        return begin, await asyncio.gather(*(arrivals(subscriber, count) for subscriber in subscribers))

    with Chaotic(kind, tmp_path, SLOW.replace("5000", "50")) as server:
        begin, heard = asyncio.run(measure(server))
    for of_client in heard:
        assert [payload for _, payload in of_client] == [b"%d" % number for number in range(count)]
        for number, (at, _) in enumerate(of_client):
            assert at - begin >= (number + 1) * delay, f"message {number} came early"
        # Each waits for its own: three subscribers take no longer than one.
        assert of_client[-1][0] - begin < count * delay + DEADLINE / 2


def resident(process):
    """Bytes of memory."""
    with open(f"/proc/{process.child.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) * 1024


@every_kind
@pytest.mark.parametrize("qos", [0, 1])
def test_what_waits_for_a_slow_subscriber_is_bounded_and_can_be_seen(kind, qos, tmp_path):
    """Sixty mebibytes for a subscriber of which chaos holds back four."""
    limit, size, count = 4 << 20, 32 << 10, 1920

    async def flood(server):
        slow, other = [await Client.connected(server.port, name) for name in ("slow", "other")]
        await slow.subscribe("slow/#", qos)
        await other.subscribe("fast", qos)
        publisher = await Client.connected(server.port, "publisher")
        before = resident(server)
        for number in range(count):
            publisher.publish("slow/a", b"%08d" % number + bytes(size - 8), qos, number % 60000 + 1)
            if number % 20 == 19:
                await publisher.ping()
        grown = resident(server) - before
        chaos = server.chaos
        metrics = {name: server.metric(f"mqtt_chaos_held_{name}") for name in ("packets", "bytes")}
        assert (chaos["held_packets"], chaos["held_bytes"]) == (metrics["packets"], metrics["bytes"])
        # It is as full as it may be, by a packet more or less, and no fuller.
        assert limit - 2 * size < metrics["bytes"] < limit + 2 * size
        assert metrics["packets"] in (metrics["bytes"] // size, metrics["bytes"] // size + 1)
        print(f"{kind}, QoS {qos}: {metrics['bytes']} bytes held, memory grew by {grown >> 20} MiB")
        if kind == "broker":
            dropped = sum(map(int, re.findall(r"(?m)^mqtt_messages_dropped_total\{.*\} (\d+)$", server.metrics())))
            waiting = server.metric("mqtt_messages_queued") + server.metric("mqtt_messages_inflight")
            print(f"{dropped} dropped, {waiting} queued or in flight")
            assert dropped > 0
            if qos:
                # What chaos holds back is in flight for the broker.
                assert dropped + waiting == count
        # Its own limit, what the broker may queue for a client (16 MiB), buffers, and what an allocator keeps.
        # The journal has 16 MiB of its own.
        assert grown < (4 + 16 + 16 + 1 + 12) << 20
        other.heard.clear()
        publisher.publish("fast", "x", qos, 65_000)
        assert (await other.hear(PUBLISH, 4)).payload == b"x"
        assert not slow.heard and slow.end is None
        # What was held back is let go, in order, and the connection goes on.
        server.reset()
        numbers = []
        while len(numbers) < metrics["packets"]:
            packet = await slow.hear(PUBLISH)
            numbers.append(int(packet.payload[:8]))
            if qos:
                slow.send(acknowledge(PUBACK, packet.identifier))
        assert numbers == sorted(set(numbers)) and numbers[: metrics["packets"]] == list(range(metrics["packets"]))
        wait_until(lambda: server.metric("mqtt_chaos_held_bytes") == 0, "nothing to be held back")
        await slow.ping()

    with Chaotic(kind, tmp_path, SLOW) as server:
        asyncio.run(flood(server))


# ---- the same again


SAME = """
mqtt:
  seed: %d
  chaos:
    packet_loss: 0.1
    latency: {min_ms: 0, max_ms: 3}
    disconnect_probability: 0.03
    rules:
      - {id: twice, match: {types: publish}, when: {probability: 0.2}, actions: [duplicate]}
      - {id: bent, match: {direction: s2c, types: publish}, when: {probability: 0.2}, actions: [{corrupt: {bytes: 2, part: payload}}]}
      - {id: unheard, match: {types: puback}, when: {probability: 0.1}, actions: [withhold_ack]}
      - {id: third, match: {direction: c2s, types: publish}, when: {every_nth: 3, after_n: 10, max_count: 5}, actions: [{truncate: {bytes: 1, reframe: true}}]}
      - {id: shut, when: {every_nth: 4}, actions: [refuse_connect]}
"""
DEVICES = [f"dev-{number}" for number in range(6)]


async def act(port, name, messages=60):
    """Follows a script in lockstep, and answers as MQTT wants it: what it sends depends on what befalls it alone."""
    client, payload = None, random.Random(name)
    for number in range(1, messages + 1):
        try:
            while client is None:
                client = await Client.open(port, name)
                client.send(rawmqtt.connect(name))
                if (await client.hear(CONNACK)).reason == 0:
                    await client.subscribe(f"own/{name}", 1)
                else:
                    client = None
            client.publish(f"own/{name}", payload.randbytes(20), number % 3, number)
            while answers := [answer for packet in await client.ping() if (answer := answer_to(packet))]:
                client.send(*answers)
        except Ended:
            client = None
    if client:
        client.send(GOODBYE)
        client.close()


def answer_to(packet):
    if packet.kind == PUBLISH and packet.qos == 1:
        return acknowledge(PUBACK, packet.identifier)
    if packet.kind == PUBREC:
        return acknowledge(PUBREL, packet.identifier)
    return None


async def disturb(port, name):
    """Publishes to all of its kind and comes back from everything; as fast as the journal can be followed."""
    while True:
        try:
            client = await Client.connected(port, name)
            await client.subscribe("noise/#")
            while True:
                client.send(*(publish(f"noise/{name}", bytes(100), n % 2, n + 1) for n in range(100)))
                await client.ping()
                await asyncio.sleep(0.1)
        except (Ended, AssertionError):
            # Cut, or refused.
            continue


def perform(server, disturbers=0):
    """The journals of the scripted clients, with so many others that suffer the same rules."""

    async def play():
        async with Follower(server) as journal:
            noise = [asyncio.create_task(disturb(server.port, f"noise-{n}")) for n in range(disturbers)]
            await asyncio.gather(*(act(server.port, name) for name in DEVICES))
            for task in noise:
                task.cancel()
            await asyncio.gather(*noise, return_exceptions=True)
        return journal.faults

    faults = asyncio.run(play())
    disturbances = sum(fault.client.startswith("noise") for fault in faults)
    assert (disturbances > 100) == (disturbers > 0)
    print(f"{len(faults) - disturbances} faults of scripted clients, {disturbances} of others")
    return by_client(faults, DEVICES)


def in_any_order(journals):
    return {key: sorted(journal) for key, journal in journals.items()}


@every_kind
def test_the_same_seed_brings_the_same_faults_whatever_others_do(kind, tmp_path):
    runs = []
    for disturbers in (0, 8, 3):
        with Chaotic(kind, tmp_path, SAME % 42) as server:
            runs.append(perform(server, disturbers))
    first = runs[0]
    assert runs[1] == first and runs[2] == first
    # It is about something: each rule, nearly each client and direction.
    rules = collections.Counter(key[4] for journal in first.values() for key in journal)
    print(dict(rules))
    assert set(rules) == {
        *("packet_loss", "latency", "disconnect_probability", "twice", "bent", "unheard", "third", "shut"),
    }
    assert len({tuple(key[3:] for key in journal) for journal in first.values()}) == 2 * len(DEVICES)
    with Chaotic(kind, tmp_path, SAME % 43) as server:
        other = perform(server)
        assert all(other[key] != first[key] for key in first)
        # The seed can be set while the server runs, and all begins anew.
        code, _, errors = server.ask("chaos", "seed", "42")
        assert code == 0, errors
        assert perform(server) == first


def test_a_proxy_injects_what_a_broker_does(tmp_path):
    """Who serves the client doesn't matter, apart from the order in which it sends what it sends."""
    runs = []
    for kind in KINDS:
        with Chaotic(kind, tmp_path / kind, SAME % 7) as server:
            runs.append(in_any_order(perform(server)))
    assert runs[0] == runs[1] == runs[2]


@every_kind
def test_faults_of_a_recording_are_injected_again_without_any_rules(kind, tmp_path):
    store = tmp_path / "store"
    with Chaotic(kind, tmp_path, SAME % 42, "--record", "bad-day", store=store) as server:
        first = perform(server)
        assert server.end() == 0
    with Chaotic(kind, tmp_path, "mqtt: {seed: 1}\n", "--chaos-from", "bad-day", store=store) as server:
        assert server.rest("/chaos/rules").get("rules", []) == []
        status = server.chaos
        assert (status["script"], status["script_faults"]) == ("bad-day", sum(map(len, first.values())))
        assert perform(server) == first
        assert server.chaos["faults"] == status["script_faults"]
    # From a file as well.
    exported = tmp_path / "bad-day.json"
    code, _, errors = run("recordings", "export", "bad-day", "--output", exported, env={"MOCKFORGE_STORE_PATH": str(store)})
    assert code == 0, errors
    with Chaotic(kind, tmp_path, "mqtt: {seed: 2}\n", "--chaos-from", exported) as server:
        assert perform(server) == first


def replayed(server, folder, speed, disturbers=0):
    """The journals of those who hear a replay, each the messages of one of its clients, and of the replay itself."""
    clients, messages = 4, 160
    session = {
        "version": 1,
        "messages": [
            {"t_ms": n * 10, "client_id": f"c{n % clients}", "topic": f"own/{n % clients}", "payload": f"payload {n}", "qos": n // 4 % 3}
            for n in range(messages)
        ],
    }
    (folder / "s.json").write_text(json.dumps(session))

    async def play():
        listeners = [await Client.connected(server.port, f"sub-{n}") for n in range(clients)]
        for n, listener in enumerate(listeners):
            await listener.subscribe(f"own/{n}")
        async with Follower(server) as journal:
            noise = [asyncio.create_task(disturb(server.port, f"noise-{n}")) for n in range(disturbers)]
            command = ("mqtt", "replay", "--input", folder / "s.json", "--speed", speed, "--target", server.url)
            code, _, errors = await asyncio.to_thread(run, *command)
            assert code == 0, errors
            for listener in listeners:
                await listener.ping()
            for task in noise:
                task.cancel()
            await asyncio.gather(*noise, return_exceptions=True)
        return journal.faults

    faults = asyncio.run(play())
    heard = by_client(faults, [f"sub-{n}" for n in range(clients)])
    said = collections.defaultdict(list)
    for fault in faults:
        if fault.client.startswith("mf-"):
            said[fault.client.rsplit("-", 1)[1], fault.direction].append(fault.key[2:])
    return heard, said


REPLAYED = """
mqtt:
  seed: 5
  chaos:
    rules:
      - {id: lost, match: {%(match)s, types: publish, qos: 0}, when: {probability: 0.2}, actions: [drop]}
      - {id: late, match: {%(match)s, types: publish}, when: {probability: 0.5}, actions: [{latency: {min_ms: 0, max_ms: 20}}]}
      - {id: twice, match: {%(match)s, types: publish}, when: {probability: 0.2}, actions: [duplicate]}
      - {id: bent, match: {%(match)s, types: publish}, when: {probability: 0.3}, actions: [{corrupt: {part: payload}}]}
"""


@every_kind
def test_who_hears_a_replay_meets_the_same_faults_at_any_speed(kind, tmp_path):
    journals = []
    for speed, disturbers in ((1, 0), (4, 0), (4, 3)):
        with Chaotic(kind, tmp_path, REPLAYED % {"match": "direction: s2c"}) as server:
            journals.append(replayed(server, tmp_path, speed, disturbers)[0])
    assert sum(map(len, journals[0].values())) > 100
    assert journals[0] == journals[1] == journals[2]


@every_kind
def test_a_replay_meets_the_same_faults_at_any_speed(kind, tmp_path):
    journals = []
    for speed in (1, 4):
        with Chaotic(kind, tmp_path, REPLAYED % {"match": "direction: c2s"}) as server:
            journals.append(replayed(server, tmp_path, speed)[1])
    assert sum(map(len, journals[0].values())) > 50
    assert journals[0] == journals[1]


# ---- lost acknowledgements


@every_kind
@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize(
    "qos,lost,heard",
    [(1, PUBACK, 2), (2, PUBREC, 1), (2, PUBCOMP, 1)],
    ids=["PUBACK", "PUBREC", "PUBCOMP"],
)
def test_a_lost_acknowledgement_has_the_message_sent_again(kind, version, qos, lost, heard, tmp_path):
    """Down to the packets: QoS 1 is heard twice, QoS 2 once, and everything is acknowledged in the end."""
    name = {PUBACK: "puback", PUBREC: "pubrec", PUBCOMP: "pubcomp"}[lost]

    async def lose(server):
        listener = await Listener.of(server.port, "listener", "t", qos)
        device = await Client.connected(server.port, "device", version, clean=False)
        server.rule("withhold_ack", id="lost", client="device", direction="s2c", types=name, when={"first_n": 1})
        device.publish("t", "x", qos, 7)
        if lost == PUBCOMP:
            assert (await device.hear(PUBREC)).identifier == 7
            device.send(acknowledge(PUBREL, 7))
        assert [packet.kind for packet in await device.ping()] == []
        device.break_off()
        device = await Client.connected(server.port, "device", version, clean=False)
        assert device.connack.session_present
        if lost == PUBCOMP:
            device.send(acknowledge(PUBREL, 7))
        else:
            device.publish("t", "x", qos, 7, dup=True)
            if lost == PUBREC:
                assert (await device.hear(PUBREC)).identifier == 7
                device.send(acknowledge(PUBREL, 7))
        assert (await device.hear(PUBACK if qos == 1 else PUBCOMP)).identifier == 7
        assert await device.ping() == []
        # The listener takes part in QoS 2, too.
        came = []
        while answers := await listener.client.ping():
            came += [packet.payload for packet in answers if packet.kind == PUBLISH]
            kinds = {(PUBLISH, 1): PUBACK, (PUBLISH, 2): PUBREC, (PUBREL, 1): PUBCOMP}
            listener.client.send(*(acknowledge(kinds[p.kind, p.qos], p.identifier) for p in answers))
        assert came == [b"x"] * heard
        return [(fault.rule, fault.action, fault.type, fault.nth) for fault in server.faults()]

    with Chaotic(kind, tmp_path) as server:
        assert asyncio.run(lose(server)) == [("lost", "withhold_ack", name.upper(), 1)]


@every_kind
@pytest.mark.parametrize("version", [pahoclient.V311, pahoclient.V5], ids=["3.1.1", "5"])
@pytest.mark.parametrize("qos,lost,heard", [(1, "puback", 2), (2, "pubrec", 1), (2, "pubcomp", 1)])
def test_paho_sends_again_what_was_not_acknowledged(kind, version, qos, lost, heard, tmp_path):
    with Chaotic(kind, tmp_path) as server, Wiretap(server.port) as tap:
        with ExitStack() as stack:
            listener = stack.enter_context(pahoclient.Client(server, pahoclient.V311, "listener"))
            listener.connect()
            listener.subscribe("t", 2)
            device = stack.enter_context(pahoclient.Client(tap, version, "device", session=True))
            device.connect()
            server.rule("withhold_ack", client="device", direction="s2c", types=lost, when={"first_n": 1})
            sent = device.send("t", "x", qos)
            wait_until(lambda: server.faults(), "the acknowledgement to be lost")
            assert not sent.is_published()
            device.drop()
            assert device.connect().session_present
            device.wait_published(sent)
            device.publish("t", "end", 2)
            assert pahoclient.texts(listener.hear_until_end()) == ["x"] * heard
        first, second = (packets(connection["c2s"]) for connection in tap.connections)
        again = [packet for packet in second if packet[0] >> 4 == PUBLISH and packet.endswith(b"x")]
        if lost == "pubcomp":
            assert again == [] and second[1][0] >> 4 == PUBREL
        else:
            original = next(packet for packet in first if packet[0] >> 4 == PUBLISH)
            # The same packet, its DUP flag set.
            assert again == [bytes([original[0] | 8]) + original[1:]]


# ---- recordings


EVERYTHING = """
mqtt:
  seed: 1234567890123
  chaos:
    rules:
      - {id: shut, match: {client: dev}, when: {first_n: 1}, actions: [refuse_connect]}
      - {id: lost-up, match: {client: dev, direction: c2s, topic: lost}, actions: [drop]}
      - {id: lost-down, match: {client: dev, direction: s2c, topic: half}, actions: [drop]}
      - {id: bent-up, match: {client: dev, direction: c2s, topic: bent}, actions: [{corrupt: {part: payload}}]}
      - {id: bent-down, match: {client: dev, direction: s2c, topic: bent}, actions: [{corrupt: {part: payload}}]}
      - {id: short, match: {client: dev, direction: c2s, topic: short}, actions: [{truncate: {bytes: 2, reframe: true}}]}
      - {id: twice, match: {client: dev, direction: s2c, topic: twice}, actions: [duplicate]}
      - {id: late, match: {client: dev, direction: s2c, topic: late}, actions: [{latency: 100}]}
      - {id: unheard, match: {client: dev, types: puback}, when: {first_n: 1}, actions: [withhold_ack]}
      - {id: cut, match: {client: dev, direction: s2c, topic: cut}, actions: [{disconnect: {at_byte: 6}}]}
"""


def all_events(server, name):
    found, token = [], ""
    while True:
        page = server.rest(f"/recordings/{name}/events?page_size=1000" + (f"&page_token={token}" if token else ""))
        found += page.get("events", [])
        token = page.get("next_page_token")
        if not token:
            return found


@every_kind
def test_a_recording_says_what_a_client_sent_and_got_and_what_chaos_did_in_between(kind, tmp_path):
    """Byte for byte, by a witness between client and chaos, and of a proxy by another one behind it."""

    async def suffer(port):
        client = await Client.open(port, "dev")
        client.send(rawmqtt.connect("dev"))
        await client.ended()
        client = await Client.connected(port, "dev")
        await client.subscribe("#", 1)
        for number, topic in enumerate(["plain", "lost", "half", "bent", "short", "twice", "late", "plain"], 1):
            client.publish(topic, f"{topic} payload", number % 2, number)
            answers = [acknowledge(PUBACK, p.identifier) for p in await client.ping() if p.kind == PUBLISH and p.qos]
            client.send(*answers)
        await client.ping()
        client.publish("cut", "cut payload")
        await client.ended()

    with ExitStack() as stack:
        behind = []

        def watch(upstream):
            behind.append(stack.enter_context(Wiretap(upstream.port)))
            return behind[0]

        server = stack.enter_context(Chaotic(kind, tmp_path, EVERYTHING, between=watch, store=tmp_path / "store"))
        recording = server.rest("/recordings", {"name": "day"})
        assert recording["seed"] == 1234567890123
        tap = stack.enter_context(Wiretap(server.port))
        asyncio.run(suffer(tap.port))
        server.rest("/recordings/day:stop", {})
        events, faults = all_events(server, "day"), server.faults()
        code, shown, errors = server.ask("recordings", "show", "day")
        assert code == 0, errors

    # What the client sent and what it got.
    connections = collections.defaultdict(lambda: {"c2s": b"", "s2c": b""})
    for event in events:
        for part in ("packet", "raw"):
            if part in event:
                direction = DIRECTIONS[event[part]["direction"]]
                connections[event["connection"]][direction] += base64.b64decode(event[part]["raw"])
    assert [connections[number] for number in sorted(connections)] == [
        {direction: bytes(kept[direction]) for direction in kept} for kept in tap.connections
    ]
    # The faults of the journal, in the same order.
    recorded = [event["fault"] for event in events if "fault" in event]
    assert [recorded_key(fault) for fault in recorded] == [fault.key for fault in faults]
    rules = [fault["rule"] for fault in recorded]
    assert set(rules) == set(re.findall(r"id: ([a-z-]+)", EVERYTHING))
    assert [fault["nth"] for fault in recorded if fault["rule"] == "shut"] == [1]

    # Behind the packet from the client that it was done to, before what the client got in its place.
    def at(rule):
        return next(index for index, event in enumerate(events) if event.get("fault", {}).get("rule") == rule)

    for rule in ("lost-up", "bent-up", "short"):
        before = events[at(rule) - 1]["packet"]
        assert DIRECTIONS[before["direction"]] == "c2s" and before["publish"]["topic"] == rule.split("-")[0]
    sent = {fault["rule"]: base64.b64decode(fault["sent"]) for fault in recorded if "sent" in fault}
    received = {fault["rule"]: base64.b64decode(fault["received"]) for fault in recorded if "received" in fault}
    assert {"bent-up", "short"} <= set(sent) and not {"lost-up", "late", "twice"} & set(sent)
    assert received["bent-down"][-12:] == sent["bent-up"][-12:] != b"bent payload"
    assert received["lost-down"].endswith(b"half payload")
    assert "unheard" not in received or received["unheard"] == acknowledge(PUBACK, 1)
    assert sent["short"].endswith(b"short paylo")
    assert "late" not in received and "twice" not in received
    assert received["cut"].endswith(b"cut payload")
    # What was passed on is what came out behind.
    if behind:
        up = b"".join(bytes(kept["c2s"]) for kept in behind[0].connections)
        assert sent["bent-up"] in up and sent["short"] in up and b"lost payload" not in up
    # For people.
    for action in ("corrupt", "disconnect", "drop", "duplicate", "latency", "refuse_connect", "truncate", "withhold_ack"):
        assert re.search(rf"(?m)^{action} +\d+ +\d+$", shown), shown
    assert re.search(r"(?m)^seed +1234567890123$", shown)


def recorded_key(fault):
    return (
        fault["client_id"],
        DIRECTIONS[fault["direction"]],
        fault["type"].removeprefix("PACKET_TYPE_"),
        fault["nth"],
        fault["rule"],
        fault["action"],
        str(fault.get("detail", {})),
    )


# ---- settings


def test_the_settings_are_read_again_while_clients_are_connected(tmp_path):
    async def suffer(server):
        client = await Client.connected(server.port, "dev")
        await client.subscribe("t")

        async def heard():
            client.publish("t", "x")
            return len([packet for packet in await client.ping() if packet.kind == PUBLISH])

        server.rule("duplicate", id="own", client="dev", direction="s2c", types="publish")
        assert await heard() == 2
        for text, count, said in [
            ("mqtt: {chaos: {rules: [{id: more, match: {direction: s2c, types: publish}, actions: [{duplicate: {count: 2}}]}]}}\n", 4, "settings were read again"),
            ("mqtt: {chaos: {rules: [{id: more, actions: [explode]}]}}\n", 4, "explode"),
            ("mqtt: {chaos: {packet_loss: 1}}\n", 0, "settings were read again"),
            ("mqtt: {chaos: {enabled: false, packet_loss: 1}}\n", 1, "settings were read again"),
            ("mqtt: {}\n", 2, "settings were read again"),
        ]:
            lines = len(server.lines)
            (tmp_path / "mockforge.yaml").write_text(text)
            server.child.send_signal(signal.SIGHUP)
            await asyncio.to_thread(wait_until, lambda: any(said in line for line in server.lines[lines:]), said)
            # What is refused changes nothing; rules of the API stay.
            assert await heard() == count, text
        assert client.end is None

    with Chaotic("broker", tmp_path) as server:
        asyncio.run(suffer(server))


def test_what_is_wrong_with_chaos_is_told_with_its_place(tmp_path):
    for text, told in [
        ("mqtt:\n  chaos:\n    packet_los: 0.1\n", r'3:5: unknown key "packet_los" in mqtt\.chaos; did you mean "packet_loss"\?'),
        ("mqtt:\n  chaos:\n    packet_loss: 2\n", r"3:\d+: mqtt\.chaos\.packet_loss: "),
        ("mqtt:\n  chaos:\n    rules:\n      - {actions: [drap]}\n", r'4:\d+: mqtt\.chaos\.rules\[0\]\.actions\[0\].*drap.*"drop"'),
        ("mqtt:\n  chaos:\n    rules:\n      - {actions: [lose_session], match: {direction: s2c}}\n", r"4:\d+: mqtt\.chaos\.rules\[0\]\.match\.direction"),
        ("mqtt:\n  chaos:\n    latency: {min_ms: 10, max_ms: 5}\n", r"3:\d+: mqtt\.chaos\.latency"),
        ("mqtt:\n  chaos:\n    profile: 5g\n", r"3:\d+: mqtt\.chaos\.profile: .*5g.*3g"),
        ("mqtt:\n  chaos:\n    rules:\n      - {id: latency, actions: [drop]}\n", r"4:\d+: mqtt\.chaos\.rules\[0\]\.id"),
        ("mqtt:\n  chaos:\n    slow_subscriber: {delay_ms: 5, affected_topics: ['a/#/b']}\n", r"3:\d+: mqtt\.chaos\.slow_subscriber\.affected_topics"),
    ]:
        (tmp_path / "mockforge.yaml").write_text(text)
        code, _, errors = run("config", "check", "--config", tmp_path / "mockforge.yaml")
        assert code == 2, text
        assert re.search(told, errors), errors
