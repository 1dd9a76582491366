"""What each action of chaos does, at the client's end, in a broker and in proxies before mosquitto and before a broker of ours.

One server of each kind serves all tests: rules are made while clients are connected, and `reset` takes them away.
"""

import asyncio
import itertools
import json
import re
import time
from contextlib import ExitStack

import pytest

from chaotic import KINDS, Chaotic, Listener, assert_distribution, lognormal, normal, until_end
from peers import DEADLINE, wait_until
from rawmqtt import (
    CONNACK,
    DISCONNECT,
    GOODBYE,
    PING,
    PINGRESP,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    V5,
    V311,
    Client,
    Ended,
    acknowledge,
    connect,
    framed,
    publish,
    subscribe,
    text,
)

versions = pytest.mark.parametrize("version", [V311, V5], ids=["3.1.1", "5"])


@pytest.fixture(scope="module", params=KINDS)
def shared(request, tmp_path_factory):
    with Chaotic(request.param, tmp_path_factory.mktemp("chaos")) as started:
        yield started


@pytest.fixture
def server(shared):
    yield shared
    shared.reset()
    wait_until(lambda: shared.chaos["held_packets"] == 0, "nothing to be held back")


NUMBERS = itertools.count(1)


@pytest.fixture
def name():
    """A client identifier and topic that no other test has."""
    return f"c{next(NUMBERS)}"


async def device(server, name, version=V311, topic=None, qos=0, **given):
    """A client that hears its own topic; rules come after it."""
    client = await Client.connected(server.port, name, version, **given)
    await client.subscribe(topic or name, qos)
    return client


def payloads(came):
    return [packet.payload for packet in came if packet.kind == PUBLISH]


def kinds(came):
    return [packet.kind for packet in came]


# ---- packets that wait


async def test_latency_holds_back_messages_and_all_behind_them(server, name):
    client = await device(server, name)
    server.rule({"latency": 300}, client=name, direction="s2c", types="publish")
    begin = time.monotonic()
    client.send(PING)
    pong = await client.hear(PINGRESP)
    client.publish(name, "1")
    client.send(PING)
    message, behind = await client.hear(), await client.hear()
    assert (message.kind, behind.kind) == (PUBLISH, PINGRESP)
    assert message.at - begin >= 0.3 and behind.at >= message.at
    assert pong.at < message.at - 0.2
    # The other way it is as fast as ever: what matches is one direction.
    assert {(f.direction, f.action) for f in server.faults(client=name)[-1:]} == {("s2c", "latency")}


async def test_latency_never_reorders_a_connection(server, name):
    client = await device(server, name)
    server.rule({"latency": {"min_ms": 0, "max_ms": 200}}, client=name, direction="s2c", types="publish")
    begin = time.monotonic()
    client.send(*(publish(name, b"%d" % n) for n in range(200)))
    came = [await client.hear(PUBLISH) for _ in range(200)]
    assert payloads(came) == [b"%d" % n for n in range(200)]
    faults = server.faults(client=name)[-200:]
    # Each waits for its own delay, and for those before it.
    until = 0
    for packet, fault in zip(came, faults):
        until = max(until, fault.detail["ms"] / 1000)
        assert packet.at - begin >= fault.detail["ms"] / 1000
    assert came[-1].at - begin >= until and until > 0.15


@pytest.mark.parametrize(
    "given,cumulative",
    [
        ({"mean_ms": 20, "sd_ms": 5}, normal(20, 5)),
        ({"median_ms": 10, "sigma": 0.5}, lognormal(10, 0.5)),
        ({"min_ms": 5, "max_ms": 25}, lambda value: min(max((value - 5) / 20, 0), 1)),
    ],
    ids=["normal", "lognormal", "uniform"],
)
async def test_latency_is_distributed_as_configured(server, name, given, cumulative):
    """What clients see of it stands in `test_chaos.py`; here what is drawn, and that nothing comes before its time."""
    count, clients = 50, [await device(server, f"{name}-{n}") for n in range(60)]
    last = server.last_fault()
    server.rule({"latency": given}, client=f"{name}-*", direction="s2c", types="publish")

    async def one(client):
        times = []
        for _ in range(count):
            begin = time.monotonic()
            client.publish(client.name, "x")
            times.append((await client.hear(PUBLISH)).at - begin)
        return times

    measured = await asyncio.gather(*map(one, clients))
    drawn = {client.name: [] for client in clients}
    for fault in server.faults(last, client=f"{name}-*"):
        drawn[fault.client].append(fault.detail["ms"])
    for client, times in zip(clients, measured):
        assert len(times) == len(drawn[client.name])
        assert all(seconds * 1000 >= ms for seconds, ms in zip(times, drawn[client.name]))
    assert_distribution([ms for each in drawn.values() for ms in each], cumulative, json.dumps(given))


async def test_bandwidth_is_a_line_of_that_speed(server, name):
    client = await device(server, name)
    server.rule({"bandwidth": {"bytes_per_s": 10_000}}, client=name, direction="s2c", types="publish")
    size = len(publish(name, bytes(500)))
    begin = time.monotonic()
    client.send(*[publish(name, bytes(500))] * 20)
    came = [await client.hear(PUBLISH) for _ in range(20)]
    for number, packet in enumerate(came, 1):
        assert packet.at - begin >= number * size / 10_000, f"packet {number} came early"
    assert came[-1].at - begin < 20 * size / 10_000 + DEADLINE / 2


async def test_slices_come_one_after_the_other(server, name):
    client = await device(server, name)
    server.rule({"slice": {"size": 10, "delay": "40ms"}}, client=name, direction="s2c", types="publish")
    size = len(publish(name, bytes(45)))
    client.pieces.clear()
    client.publish(name, bytes(45))
    whole = await client.hear(PUBLISH)
    assert whole.payload == bytes(45)
    pieces = -(-size // 10)
    assert sum(length for _, length in client.pieces) == size
    # Some may be read at once if this process was busy, but never before their time.
    assert len(client.pieces) > 1 and client.pieces[0][1] % 10 == 0
    begin, came = client.pieces[0][0], 0
    for at, length in client.pieces:
        came += length
    assert client.pieces[-1][0] - begin >= (pieces - 1) * 0.04 - 0.039 * (client.pieces[0][1] // 10 - 1) - 0.01


async def test_an_acknowledgement_can_wait_by_itself(server, name):
    client = await device(server, name)
    server.rule({"delay_ack": {"ms": 400}}, client=name, types="puback")
    begin = time.monotonic()
    client.publish(name, "1", 1, 7)
    message = await client.hear()
    assert message.payload == b"1"
    client.publish(name, "2")
    assert (await client.hear()).payload == b"2"
    ack = await client.hear()
    assert (ack.kind, ack.identifier) == (PUBACK, 7) and ack.at - begin >= 0.4 > message.at - begin


async def test_what_is_held_back_is_seen_and_let_go_by_reset_which_closes_nothing(server, name):
    client, other = await device(server, name), await device(server, f"{name}-other")
    server.rule({"latency": 600_000}, client=name, direction="s2c", types="publish")
    client.send(*(publish(name, b"%d" % n) for n in range(5)), PING)
    other.publish(other.name, "x")
    assert (await other.hear(PUBLISH)).payload == b"x"
    # Five messages, and what came behind them.
    wait_until(lambda: server.chaos["held_packets"] == 6, "six packets to be held back")
    held = 5 * len(publish(name, b"0")) + 2
    assert server.chaos["held_bytes"] == held == server.metric("mqtt_chaos_held_bytes")
    assert server.metric("mqtt_chaos_held_packets") == 6
    assert await client.silent(0.2)
    status = server.reset()
    assert (status["rules"], status["enabled"], status.get("active", False)) == (0, True, False)
    assert payloads(await client.until_pong()) == [b"%d" % n for n in range(5)]
    assert await client.ping() == [] and await other.ping() == []
    assert server.rest("/chaos/rules").get("rules", []) == []
    wait_until(lambda: server.metric("mqtt_chaos_held_packets") == 0, "nothing to be held back")


# ---- packets that vanish, come twice, or in another order


@pytest.mark.parametrize(
    "when,dropped",
    [
        ({"first_n": 3}, {1, 2, 3}),
        ({"every_nth": 3}, {3, 6, 9, 12}),
        ({"after_n": 8}, {9, 10, 11, 12}),
        ({"max_count": 2}, {1, 2}),
        ({"every_nth": 2, "after_n": 3, "max_count": 3}, {4, 6, 8}),
        ({"every_nth": 2, "first_n": 7}, {2, 4, 6}),
    ],
    ids=str,
)
@pytest.mark.parametrize("direction", ["c2s", "s2c"])
async def test_conditions_count_a_clients_packets_over_all_its_connections(server, name, when, dropped, direction):
    client = await device(server, name)
    twin = await device(server, f"{name}-twin")
    server.rule("drop", client=f"{name}*", direction=direction, types="publish", when=when)
    heard = {client.name: [], twin.name: []}
    for number in range(1, 13):
        # Another client that the rule is for has counts of its own.
        for each in (client, twin):
            each.publish(each.name, str(number))
            heard[each.name] += payloads(await each.ping())
        if number % 5 == 0:
            client.break_off()
            client = await device(server, name)
    expected = [b"%d" % number for number in range(1, 13) if number not in dropped]
    assert heard == {client.name: expected, twin.name: expected}
    assert [f.nth for f in server.faults(client=name)] == sorted(dropped)


async def test_a_rule_is_for_what_it_matches_alone(server, name):
    client = await Client.connected(server.port, name)
    await client.subscribe("#", 1)
    server.rule("drop", client=[f"{name}x", name[:-1] + "*"], topic=[f"{name}/+/a", "none"], qos=[1, 2], direction="c2s")
    said = []
    for number, (topic, qos) in enumerate([("1/a", 0), ("1/a", 1), ("2/a", 1), ("2/b", 1), ("1/a", 2), ("a", 1)], 1):
        client.publish(f"{name}/{topic}", f"{topic} {qos}", qos, number)
        said += await client.ping()
    mine = [p for p in said if p.kind != PUBLISH or p.topic.startswith(name)]
    assert payloads(mine) == [b"1/a 0", b"2/b 1", b"a 1"]
    assert [f.nth for f in server.faults(client=name)] == [2, 3, 5]


async def test_drop_loses_what_is_sent_until_it_is_sent_again(server, name):
    """An acknowledgement by the client: the message comes again with DUP upon the next connection."""
    client = await device(server, name, clean=False, qos=1)
    server.rule("drop", client=name, direction="c2s", types="puback", when={"first_n": 1})
    for payload in ("1", "2"):
        client.publish(name, payload)
    client.publish(name, "1", 1, 1)
    client.publish(name, "2", 1, 2)
    for _ in range(2):
        message = [packet for packet in await client.ping() if packet.kind == PUBLISH and packet.qos]
        client.send(*(acknowledge(PUBACK, packet.identifier) for packet in message))
    await client.ping()
    client.break_off()
    client = await Client.connected(server.port, name, clean=False)
    assert client.connack.session_present
    again = await client.hear(PUBLISH)
    assert (again.payload, again.dup, again.qos) == (b"1", True, 1)
    client.send(acknowledge(PUBACK, again.identifier))
    assert payloads(await client.ping()) == []


async def test_duplicate_passes_a_packet_on_again(server, name):
    client = await device(server, name, qos=1)
    server.rule({"duplicate": {"count": 2}}, client=name, direction="s2c", types="publish")
    client.publish(name, "0")
    client.publish(name, "1", 1, 1)
    came = [packet for packet in await client.ping() if packet.kind == PUBLISH]
    assert [(p.payload, p.qos, p.dup) for p in came] == [
        *[(b"0", 0, False)] * 3,
        *[(b"1", 1, False), (b"1", 1, True), (b"1", 1, True)],
    ]
    assert len({p.identifier for p in came if p.qos}) == 1


@pytest.mark.parametrize("qos,heard,acks", [(0, 2, []), (1, 2, [PUBACK] * 2), (2, 1, [PUBREC] * 2)])
async def test_a_duplicate_from_the_client_is_served_as_one(server, name, qos, heard, acks):
    """QoS 2 is what tells the broker that it is the same."""
    listener = await Listener.of(server.port, f"{name}-listener", name)
    client = await Client.connected(server.port, name)
    server.rule("duplicate", client=name, direction="c2s", types="publish")
    client.publish(name, "x", qos, 7)
    came = await client.ping()
    assert kinds(came) == acks and {packet.identifier for packet in came} <= {7}
    if qos == 2:
        client.send(acknowledge(PUBREL, 7))
        assert (await client.hear(PUBCOMP)).identifier == 7
    await client.ping()
    assert await listener.nothing() == [b"x"] * heard


async def test_duplicate_ack_acknowledges_more_than_once(server, name):
    client = await device(server, name)
    server.rule({"duplicate_ack": {"count": 3}}, client=name, types=["PUBACK", "SUBACK"])
    client.publish(f"{name}/x", "x", 1, 9)
    assert [(p.kind, p.identifier) for p in await client.ping()] == [(PUBACK, 9)] * 4
    client.send(subscribe(f"{name}/y", 0, 10))
    assert [(p.kind, p.identifier) for p in await client.ping()] == [(SUBACK, 10)] * 4


async def test_withhold_ack_swallows_any_acknowledgement(server, name):
    client = await device(server, name)
    server.rule("withhold_ack", client=name, direction="s2c")
    client.publish(f"{name}/x", "x", 1, 1)
    client.publish(f"{name}/x", "x", 2, 2)
    client.send(subscribe(f"{name}/y", 0, 3), PING)
    client.publish(name, "end")
    # Messages are no acknowledgements.
    assert (await client.hear()).payload == b"end"
    assert await client.silent(0.2)
    assert {f.type for f in server.faults(client=name)} == {"PUBACK", "PUBREC", "SUBACK", "PINGRESP"}


async def test_reorder_lets_others_overtake_as_far_as_mqtt_permits(server, name):
    client = await device(server, name, topic=f"{name}/#")
    server.rule({"reorder": {"window": 1}}, client=name, direction="s2c", topic=f"{name}/late")
    for topic in ("late", "a", "b"):
        client.publish(f"{name}/{topic}", topic)
    assert payloads([await client.hear(PUBLISH) for _ in range(3)]) == [b"a", b"late", b"b"]
    # Those of one topic and QoS stay in order.
    for number in range(10):
        client.publish(f"{name}/late", str(number))
    assert payloads([await client.hear(PUBLISH) for _ in range(10)]) == [b"%d" % n for n in range(10)]


async def test_reorder_with_a_wider_window_and_in_violation_of_mqtt(server, name):
    client = await device(server, name)
    first = "violate-" + name
    server.rule({"reorder": {"window": 4, "violate": True}}, client=name, direction="s2c", types="publish", id=first, when={"every_nth": 5})
    client.send(*(publish(name, b"%d" % n) for n in range(1, 501)))
    came = [int(payload) for payload in payloads([await client.hear(PUBLISH) for _ in range(500)])]
    assert sorted(came) == list(range(1, 501))
    # A hundred draws from four: one that misses any is no accident.
    behind = {f.nth: f.detail["behind"] for f in server.faults(rule=first)}
    assert list(behind) == list(range(5, 501, 5)) and set(behind.values()) == {1, 2, 3, 4}
    for number, overtaken_by in behind.items():
        expected = [n for n in range(number + 1, number + overtaken_by + 1) if n <= 500]
        before = came[: came.index(number)]
        assert set(expected) <= set(before) and all(n < number or n in expected for n in before), number
    # What nobody overtakes goes on by itself.
    server.rule({"reorder": {"window": 1, "max_ms": 300}}, client=name, direction="s2c", types="publish")
    begin = time.monotonic()
    client.publish(name, "alone")
    assert (await client.hear(PUBLISH)).at - begin >= 0.3


# ---- packets that are not what they were


@pytest.mark.parametrize("direction", ["c2s", "s2c"])
async def test_corrupt_changes_the_bytes_that_the_journal_says(server, name, direction):
    client = await device(server, name)
    server.rule({"corrupt": {"bytes": 3, "part": "payload"}}, client=name, direction=direction, types="publish")
    sent = publish(name, bytes(range(50)))
    client.send(sent)
    came = (await client.hear(PUBLISH)).raw
    [fault] = server.faults(client=name)
    changes = fault.detail["changes"]
    assert len({position for position, _ in changes}) == 3 and all(mask for _, mask in changes)
    expected = bytearray(sent)
    for position, mask in changes:
        assert position >= len(sent) - 50
        expected[position] ^= mask
    assert came == expected


async def test_corrupt_of_anything_else_spares_the_fixed_header(server, name):
    client = await device(server, name)
    server.rule({"corrupt": {"bytes": 500}}, client=name, direction="s2c", types="publish")
    sent = publish(name, bytes(20))
    client.send(sent)
    came = (await client.hear()).raw
    assert came[:2] == sent[:2] and all(one != other for one, other in zip(came[2:], sent[2:]))


@pytest.mark.parametrize("direction", ["c2s", "s2c"])
async def test_truncate_takes_the_end_and_the_length_along(server, name, direction):
    client = await device(server, name)
    server.rule({"truncate": {"bytes": 3, "reframe": True}}, client=name, direction=direction, types="publish")
    client.publish(name, "0123456789")
    assert (await client.hear(PUBLISH)).payload == b"0123456"
    assert await client.ping() == []


async def test_truncate_without_the_length_takes_what_follows_for_the_rest(server, name):
    client = await device(server, name)
    server.rule({"truncate": {"bytes": 2}}, client=name, direction="s2c", types="publish")
    client.publish(name, "0123456789")
    client.send(PING)
    # The answer to the PING fills the gap.
    assert (await client.hear(PUBLISH)).payload == b"01234567\xd0\x00"
    assert (await client.ping()) == []
    # Towards the server, the message lacks what comes next.
    server.reset()
    server.rule({"truncate": {"bytes": 2}}, client=name, direction="c2s", types="publish")
    client.publish(name, "0123456789")
    client.send(PING)
    assert (await client.hear(PUBLISH)).payload == b"01234567\xc0\x00"


@pytest.mark.parametrize("code", [0x97, "quota_exceeded", "Quota-Exceeded", "0x97", "151"])
async def test_reason_code_is_what_an_acknowledgement_says(server, name, code):
    client = await device(server, name, V5)
    server.rule({"reason_code": code}, client=name, types="puback")
    client.publish(f"{name}/x", "x", 1, 5)
    ack = await client.hear(PUBACK)
    assert (ack.identifier, ack.reason) == (5, 0x97)
    # The server has it all the same.
    client.publish(name, "x", 1, 6)
    assert payloads(await client.ping()) == [b"x"]


@versions
async def test_reason_code_of_a_suback(server, name, version):
    client = await device(server, name, version)
    server.rule({"reason_code": 0x80}, client=name, types="suback")
    client.send(subscribe(f"{name}/x", 1, 5, version))
    assert (await client.hear(SUBACK)).reason == 0x80


async def test_reason_codes_are_only_where_the_version_has_them(server, name):
    client = await device(server, name, V311)
    server.rule({"reason_code": 0x87}, client=name, types="puback")
    client.publish(f"{name}/x", "x", 1, 5)
    assert (await client.hear(PUBACK)).raw == acknowledge(PUBACK, 5)
    assert server.faults(client=name) == []


# ---- connections that end


async def watcher(server, name):
    """Hears of the Will of `name`."""
    return await Listener.of(server.port, f"{name}-watcher", f"will/{name}")


async def wills(server, listener, name):
    """Wills that were published, once the server has noticed that the connection is over."""
    if server.kind != "before mosquitto":
        broker = server if server.kind == "broker" else server.upstream
        is_there = lambda: any(
            entry["client_id"] == name and entry.get("connected") for entry in broker.rest("/mqtt/clients").get("clients", [])
        )
        wait_until(lambda: not is_there(), f"{name} to be gone")
    else:
        await asyncio.sleep(0.5)
    return await listener.nothing()


@versions
@pytest.mark.parametrize("mode,how", [("rst", "rst"), ("fin", "fin"), ("mqtt5", "fin"), (None, "rst")])
@pytest.mark.parametrize("direction", ["c2s", "s2c"])
async def test_disconnect_ends_the_connection_behind_the_packet(server, name, version, mode, how, direction):
    listener = await Listener.of(server.port, f"{name}-listener", name)
    gone = await watcher(server, name)
    client = await device(server, name, version, will=(f"will/{name}", "gone"))
    action = {"disconnect": {"mode": mode} if mode else {}}
    server.rule(action, client=name, direction=direction, types="publish")
    client.publish(name, "x")
    came, end = await until_end(client)
    assert end == how and not client.rest
    # What was processed is there, and the client has got what was on its way to it.
    assert await listener.hear(1) == [b"x"]
    expected = [PUBLISH] if direction == "s2c" else []
    if mode == "mqtt5" and version == V5:
        expected.append(DISCONNECT)
        assert came[-1].reason == 0x8B
    assert kinds(came) == expected
    assert await gone.hear(1) == [b"gone"]
    # Nothing but the connection is over.
    client = await device(server, name, version)
    client.close()


async def test_a_disconnect_packet_is_never_put_inside_of_another_packet(server, name):
    client = await device(server, name, V5)
    server.rule({"disconnect": {"mode": "mqtt5", "at_byte": 5}}, client=name, direction="s2c", types="publish")
    message = publish(name, "0123456789", version=V5)
    client.send(message)
    came, end = await until_end(client)
    assert (came, client.rest, end) == ([], message[:5], "fin")


async def test_disconnect_says_the_reason_that_is_wanted(server, name):
    client = await device(server, name, V5)
    server.rule({"disconnect": {"mode": "mqtt5", "reason": "server_busy"}}, client=name, direction="s2c", types="publish")
    client.publish(name, "x")
    came, end = await until_end(client)
    assert (kinds(came), came[-1].reason, end) == ([PUBLISH, DISCONNECT], 0x89, "fin")


@pytest.mark.parametrize("mode", ["rst", "fin"])
@pytest.mark.parametrize("at_byte", [0, 1, 5, 1_000_000])
async def test_at_byte_cuts_inside_of_a_packet_to_the_client(server, name, at_byte, mode):
    client = await device(server, name)
    server.rule({"disconnect": {"at_byte": at_byte, "mode": mode}}, client=name, direction="s2c", types="publish")
    message = publish(name, "0123456789")
    client.send(message)
    came, end = await until_end(client)
    assert end == mode
    if at_byte < len(message):
        assert came == [] and client.rest == message[:at_byte]
    else:
        assert [packet.raw for packet in came] == [message] and not client.rest


@pytest.mark.parametrize("at_byte", [0, 1, 5])
async def test_at_byte_cuts_inside_of_a_packet_from_the_client(server, name, at_byte):
    """The server has a packet that is never whole: the message is not heard, the Will is."""
    listener, gone = await Listener.of(server.port, f"{name}-listener", name), await watcher(server, name)
    client = await device(server, name, will=(f"will/{name}", "gone"))
    server.rule({"disconnect": {"at_byte": at_byte}}, client=name, direction="c2s", types="publish")
    client.publish(name, "0123456789")
    assert await until_end(client) == ([], "rst")
    assert await gone.hear(1) == [b"gone"]
    assert await listener.nothing() == []


@pytest.mark.parametrize("mode", ["rst", "fin"])
@pytest.mark.parametrize("direction,at_byte", [("c2s", None), ("s2c", None), ("s2c", 3), ("c2s", 3)])
async def test_a_disconnect_can_spare_the_will(server, name, mode, direction, at_byte):
    gone = await watcher(server, name)
    for will in (True, False):
        client = await device(server, name, will=(f"will/{name}", f"{will}"))
        details = {"will": will, "mode": mode, **({} if at_byte is None else {"at_byte": at_byte})}
        rule = server.rule({"disconnect": details}, client=name, direction=direction, types="publish")
        client.publish(name, "x")
        assert (await until_end(client))[1] == mode
        assert await wills(server, gone, name) == ([b"True"] if will else [])
        server.rest(f"/chaos/rules/{rule}", method="DELETE")


@versions
@pytest.mark.parametrize("reason,code,code3", [(None, 0x88, 3), ("not_authorized", 0x87, 5), (0x85, 0x85, 2)])
async def test_refuse_connect_answers_in_the_servers_place(server, name, version, reason, code, code3):
    """The server knows nothing of it: the client that is connected by that name stays."""
    first = await device(server, name, version)
    server.rule({"refuse_connect": {"reason": reason} if reason else {}}, client=name, when={"first_n": 2})
    for _ in range(2):
        client = await Client.open(server.port, name, version)
        client.send(connect(name, version))
        came, end = await until_end(client)
        assert (kinds(came), end) == ([CONNACK], "fin")
        assert (came[0].session_present, came[0].reason) == (False, code if version == V5 else code3)
    assert await first.ping() == []
    third = await Client.connected(server.port, name, version)
    assert await third.ping() == []
    # Now another one has taken over.
    assert (await until_end(first))[1] is not None


async def test_blackhole_swallows_what_both_sides_send_for_a_while(server, name):
    client, other = await device(server, name, qos=1, clean=False), await Client.connected(server.port, f"{name}-other")
    server.rule({"blackhole": {"duration": "700ms"}}, client=name, direction="c2s", types="publish", when={"first_n": 1})
    begin = time.monotonic()
    client.publish(name, "1", 1, 1)
    client.send(PING)
    other.publish(name, "2")
    await other.ping()
    assert await client.silent(0.3)
    assert time.monotonic() - begin < 0.7, "this machine is too slow to tell"
    await asyncio.sleep(0.5)
    # Open as ever; what was swallowed is gone.
    assert await client.ping() == []
    client.publish(name, "3", 1, 3)
    came = await client.ping()
    assert payloads(came) == [b"3"] and [p.identifier for p in came if p.kind == PUBACK] == [3]


async def test_blackhole_lasts_until_reset(server, name):
    client = await device(server, name)
    server.rule("blackhole", client=name, direction="s2c", types="publish")
    client.publish(name, "1")
    client.send(PING)
    assert await client.silent(0.4)
    server.reset()
    assert await client.ping() == []
    client.publish(name, "2")
    assert (await client.hear(PUBLISH)).payload == b"2"


async def test_a_client_behind_a_blackhole_is_gone_for_the_server_when_its_keep_alive_is_over(server, name):
    """TCP stays open towards the client, which hears of nothing."""
    gone = await watcher(server, name)
    client = await device(server, name, will=(f"will/{name}", "gone"), keep_alive=1)
    server.rule("blackhole", client=name, direction="c2s", types="pingreq")
    client.send(PING)
    assert await gone.hear(1) == [b"gone"]


# ---- sessions and what a server says of itself


@versions
async def test_takeover_looks_like_another_client_of_that_name(server, name, version):
    gone = await watcher(server, name)
    client = await device(server, name, version, will=(f"will/{name}", "gone"))
    server.rule("takeover", client=name, direction="s2c", types="publish")
    client.publish(name, "x")
    came, end = await until_end(client)
    assert kinds(came) == ([PUBLISH, DISCONNECT] if version == V5 else [PUBLISH])
    assert version != V5 or came[-1].reason == 0x8E
    assert end == "fin"
    assert await gone.hear(1) == [b"gone"]


@versions
async def test_lose_session_has_the_server_forget_it(server, name, version):
    other = await Client.connected(server.port, f"{name}-other")
    client = await device(server, name, version, qos=1, clean=False)
    rule = server.rule("lose_session", client=name, when={"max_count": 1})
    client.send(GOODBYE)
    await client.ended()
    other.publish(name, "while it was away", 1, 1)
    await other.ping()
    client = await Client.connected(server.port, name, version, clean=False)
    assert not client.connack.session_present
    # Neither what waited nor the subscription is left.
    other.publish(name, "after it came back", 1, 2)
    await other.ping()
    assert await client.ping() == []
    assert [(f.rule, f.action, f.type) for f in server.faults(client=name)] == [(rule, "lose_session", "CONNECT")]
    # It is a session like any other from here on, and the rule is spent.
    await client.subscribe(name, 1)
    client.break_off()
    client = await Client.connected(server.port, name, version, clean=False)
    assert client.connack.session_present
    other.publish(name, "heard", 1, 3)
    assert (await client.hear(PUBLISH)).payload == b"heard"


async def test_lose_session_of_a_client_that_is_connected_still(server, name):
    first = await device(server, name, qos=1, clean=False)
    server.rule("lose_session", client=name)
    second = await Client.connected(server.port, name, clean=False)
    assert not second.connack.session_present
    await first.ended()


async def test_capabilities_are_what_a_connack_says(server, name):
    said = {
        "session_present": True,
        "session_expiry_interval": 7,
        "receive_maximum": 3,
        "maximum_qos": 1,
        "retain_available": False,
        "maximum_packet_size": 1000,
        "topic_alias_maximum": 2,
        "wildcard_subscription_available": False,
        "subscription_identifiers_available": False,
        "shared_subscription_available": False,
        "server_keep_alive": 9,
    }
    before = await Client.connected(server.port, name, V5)
    server.rule({"capabilities": said}, client=name)
    after = await Client.connected(server.port, name, V5)
    assert (before.connack.session_present, after.connack.session_present) == (False, True)
    kept = {key: value for key, value in before.connack.properties.items() if key not in after.connack.properties}
    assert kept == {}
    told = {0x11: 7, 0x21: 3, 0x24: 1, 0x25: 0, 0x27: 1000, 0x22: 2, 0x28: 0, 0x29: 0, 0x2A: 0, 0x13: 9}
    assert {key: after.connack.properties[key] for key in told} == told
    # Saying isn't enforcing, and the rest of the packet is as it was.
    rest = {key: value for key, value in after.connack.properties.items() if key not in told}
    assert rest == {key: value for key, value in before.connack.properties.items() if key not in told}
    third = await Client.connected(server.port, name, V311)
    assert third.connack.session_present and third.connack.reason == 0


# ---- beside the actions


@pytest.mark.parametrize("direction", ["c2s", "s2c"])
async def test_who_gets_messages_by_topic_alias_knows_the_topic_though_the_first_one_is_lost(server, name, direction):
    """The alias was set by a packet that did not come."""
    alias = b"\x23\x00\x01"
    listener = await Client.connected(server.port, f"{name}-listener", V5)
    if direction == "s2c":
        listener.break_off()
        listener = await Client.open(server.port, f"{name}-listener", V5)
        # Topic Alias Maximum 1.
        listener.send(framed(0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x03\x22\x00\x01" + text(listener.name)))
        await listener.hear(CONNACK)
    await listener.subscribe(f"{name}/#")
    client = await Client.connected(server.port, name, V5)
    suffers = name if direction == "c2s" else listener.name
    server.rule("drop", client=suffers, direction=direction, topic=f"{name}/a", when={"first_n": 1})
    client.publish(f"{name}/a", "1", properties=alias)
    client.publish("", "2", properties=alias)
    client.publish("", "3", properties=alias)
    await client.ping()
    came = [packet for packet in await listener.ping() if packet.kind == PUBLISH]
    assert payloads(came) == [b"2", b"3"]
    # By name once, by alias from then on.
    assert came[0].topic == f"{name}/a" and came[1].topic in (f"{name}/a", "")
    faults = server.faults(client=suffers)
    assert [(f.topic, f.nth) for f in faults] == [(f"{name}/a", 1)]


async def test_a_rule_that_comes_in_the_middle_of_a_packet_is_for_the_next_one(server, name):
    client = await device(server, name)
    packet = publish(name, "0123456789")
    client.send(packet[:7])
    await asyncio.sleep(0.1)
    server.rule("duplicate", client=name, direction="c2s", types="publish")
    client.send(packet[7:], publish(name, "next"))
    assert payloads(await client.ping()) == [b"0123456789", b"next", b"next"]


@versions
async def test_nothing_is_lost_or_out_of_order_where_chaos_is_switched_on_and_off(server, name, version):
    """Under traffic in both directions, with what is held back each time."""
    client = await device(server, name, version, qos=1)
    server.rule({"latency": {"min_ms": 0, "max_ms": 20}}, client=name, types="publish")
    came, is_over = [], False

    async def switch():
        while not is_over:
            for verb in ("disable", "enable"):
                await asyncio.to_thread(server.rest, f"/chaos:{verb}", {})
            # Most of the time it is on.
            await asyncio.sleep(0.02)

    switching = asyncio.create_task(switch())
    for number in range(3000):
        client.publish(name, str(number), 1, number + 1)
        if number % 10 == 9:
            came += await client.ping()
            client.send(*(acknowledge(PUBACK, p.identifier) for p in came[-40:] if p.kind == PUBLISH and not hasattr(p, "done")))
            for packet in came[-40:]:
                packet.done = True
    is_over = True
    await switching
    came += await client.ping()
    assert payloads(came) == [b"%d" % number for number in range(3000)]
    assert [p.identifier for p in came if p.kind == PUBACK] == list(range(1, 3001))
    assert len(server.faults(client=name)) > 100


async def test_what_a_client_sent_before_it_left_arrives(server, name):
    listener = await Listener.of(server.port, f"{name}-listener", name)
    server.rule({"latency": 300}, client=name, direction="c2s", types="publish")
    client = await Client.connected(server.port, name)
    begin = time.monotonic()
    client.send(publish(name, "1"), publish(name, "2"), GOODBYE)
    client.close()
    message = await listener.client.hear(PUBLISH)
    assert message.payload == b"1" and message.at - begin >= 0.3
    assert await listener.hear(1) == [b"2"]


async def test_what_the_server_sent_before_it_ended_the_connection_arrives(server, name):
    client = await device(server, name, V5)
    server.rule({"latency": 300}, client=name, direction="s2c", types="publish")
    client.publish(name, "x")
    wait_until(lambda: server.chaos["held_packets"], "the message to be held back")
    if server.kind == "broker":
        server.rest(f"/mqtt/clients/{name}", method="DELETE")
    else:
        # Another connection of the same name has the upstream end this one.
        await Client.connected(server.port, name, V5)
    came, end = await until_end(client)
    assert kinds(came) in ([PUBLISH, DISCONNECT], [PUBLISH]) and end == "fin"


# ---- rules that change while clients are connected


async def test_rules_come_and_go_on_connections_that_are_open(server, name):
    """Idle ones, too: none of these clients sends anything between the changes."""
    listeners = [await device(server, f"{name}-{n}", version, topic=name) for n, version in enumerate([V311, V5, V311])]
    publisher = await Client.connected(server.port, f"{name}-publisher")

    async def heard(payload):
        publisher.publish(name, payload)
        await publisher.ping()
        return [payloads(await listener.ping()) for listener in listeners]

    assert await heard("1") == [[b"1"]] * 3
    rule = server.rule("drop", client=[f"{name}-0", f"{name}-1"], direction="s2c", types="publish")
    assert await heard("2") == [[], [], [b"2"]]
    shown = server.rest(f"/chaos/rules/{rule}")
    assert shown["faults"] == 2 and not shown.get("from_settings")
    changed = {"match": {"client": [f"{name}-2"], "direction": "s2c", "types": ["PUBLISH"]}, "actions": ["duplicate"]}
    server.rest(f"/chaos/rules/{rule}", changed, "PUT")
    assert await heard("3") == [[b"3"], [b"3"], [b"3", b"3"]]
    server.rest("/chaos:disable", {})
    assert await heard("4") == [[b"4"]] * 3
    server.rest("/chaos:enable", {})
    assert await heard("5") == [[b"5"], [b"5"], [b"5", b"5"]]
    server.rest(f"/chaos/rules/{rule}", {**changed, "enabled": False}, "PUT")
    assert await heard("6") == [[b"6"]] * 3
    server.rest(f"/chaos/rules/{rule}", {**changed, "enabled": True}, "PUT")
    assert await heard("7") == [[b"7"], [b"7"], [b"7", b"7"]]
    server.rest(f"/chaos/rules/{rule}", method="DELETE")
    assert await heard("8") == [[b"8"]] * 3


async def test_disable_lets_go_what_is_held_back(server, name):
    client = await device(server, name)
    server.rule({"latency": 600_000}, client=name, direction="s2c", types="publish")
    client.publish(name, "x")
    assert await client.silent(0.2)
    status = server.rest("/chaos:disable", {})
    assert (status["enabled"], status.get("active", False), status["rules"]) == (False, False, 1)
    assert (await client.hear(PUBLISH)).payload == b"x"
    assert server.rest("/chaos:enable", {})["active"]


async def test_the_command_line_does_it_all(server, name, tmp_path):
    client = await device(server, name)

    def ask(*arguments, code=0):
        said = server.ask("chaos", *arguments)
        assert said[0] == code, said
        return said[1]

    async def heard(payload):
        client.publish(name, payload)
        return payloads(await client.ping())

    rules = tmp_path / "rules.yaml"
    rules.write_text(f"- {{id: lose, match: {{client: {name}, types: PUBLISH, direction: s2c}}, actions: [drop]}}\n")
    ask("add", rules)
    assert await heard("1") == []
    assert re.search(r"(?m)^lose\s", ask("ls"))
    assert "drop" in ask("show", "lose")
    assert re.search(r"chaos is on, with 1 rule", ask("status"))
    faults = ask("faults", "--client", name)
    assert "lose" in faults and "drop" in faults and name in faults
    ask("disable", "lose")
    assert await heard("2") == [b"2"]
    ask("enable", "lose")
    ask("disable")
    assert await heard("3") == [b"3"]
    ask("enable")
    assert await heard("4") == []
    rules.write_text(f"id: lose\nmatch: {{client: {name}, types: [PUBLISH], direction: s2c}}\nactions: [duplicate]\n")
    assert server.ask("chaos", "add", rules)[0] != 0, "its id is taken"
    ask("update", rules)
    assert await heard("5") == [b"5", b"5"]
    ask("rm", "lose")
    assert await heard("6") == [b"6"]
    assert all(profile in ask("profiles") for profile in PROFILES)
    assert "3g" in ask("profile", "3g")
    assert json.loads(ask("status", "-o", "json"))["rules"] > 0
    ask("reset")
    assert json.loads(ask("status", "-o", "json"))["rules"] == 0
    assert await heard("7") == [b"7"]
    assert client.end is None


PROFILES = ["3g", "edge", "satellite", "lossy-wifi", "flaky-broker"]


def test_profiles_are_rules_that_do_something_and_let_most_through(tmp_path):
    """A server for each at once, since some networks are slow."""
    clients, messages = 50, 10

    async def one(server, number):
        """Messages to itself that came."""
        heard, client = 0, None
        for message in range(messages):
            try:
                if client is None:
                    client = await Client.open(server.port, f"c{number}")
                    client.send(connect(client.name))
                    assert (await client.hear(CONNACK)).reason == 0
                    client.send(subscribe(client.name))
                client.publish(client.name, str(message))
                client.send(PING)
                heard += len(payloads(await client.until_pong()))
            except (Ended, AssertionError, TimeoutError):
                client = None
        return heard

    async def all_of_them(servers):
        return [
            sum(counts)
            for counts in await asyncio.gather(
                *(asyncio.gather(*(one(server, number) for number in range(clients))) for server in servers)
            )
        ]

    with ExitStack() as stack:
        servers = [stack.enter_context(Chaotic("broker", tmp_path / profile)) for profile in PROFILES]
        for profile, server in zip(PROFILES, servers):
            listed = {each["name"]: each for each in server.rest("/chaos/profiles")["profiles"]}
            assert list(listed) == PROFILES
            ids = [rule["id"] for rule in server.rest("/chaos:applyProfile", {"name": profile})["rules"]]
            assert ids == [rule["id"] for rule in listed[profile]["rules"]]
            assert all(each.startswith(f"{profile}-") for each in ids)
            # Again, it stays one.
            server.rest("/chaos:applyProfile", {"name": profile})
            assert [rule["id"] for rule in server.rest("/chaos/rules")["rules"]] == ids
        for profile, server, heard in zip(PROFILES, servers, asyncio.run(all_of_them(servers))):
            faults = server.faults()
            print(f"{profile}: {heard} of {clients * messages} messages came; {len(faults)} faults")
            assert faults and {fault.rule for fault in faults} <= {rule["id"] for rule in server.rest("/chaos/rules")["rules"]}
            assert clients * messages / 2 < heard


async def test_what_is_wrong_with_a_rule_is_told_with_its_place(server):
    for rule, place in [
        ({"actions": []}, "rule.actions"),
        ({"actions": [{"latency": {"min_ms": 5}}]}, "rule.actions[0]"),
        ({"actions": ["withhold_ack"], "match": {"types": ["PUBLISH"]}}, "rule.match.types"),
        ({"actions": ["refuse_connect"], "match": {"direction": "s2c"}}, "rule.match.direction"),
        ({"actions": ["drop"], "match": {"topic": ["a/#/b"]}}, "rule.match.topic"),
        ({"actions": ["drop"], "when": {"probability": 1.5}}, "rule.when.probability"),
        ({"actions": ["drop", "lose_session"], "match": {"topic": "a"}}, "rule"),
        ({"actions": ["explode"]}, "rule.actions[0]"),
    ]:
        status, body = server.refused("/chaos/rules", rule)
        assert status == 400 and place in body, (rule, body)
    assert server.rest("/chaos/rules").get("rules", []) == []
