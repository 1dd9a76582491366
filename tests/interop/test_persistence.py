"""Sessions and retained messages over a restart, as the clients that people use see them."""

import json
import os
import random
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

import rawmqtt as raw
from pahoclient import V5, V311, Client, texts
from peers import DEADLINE, Mockforge, Mosquitto, Process, free_port, needs, run, wait_until
from test_full_disk import small_disk  # noqa: F401
from test_mqttjs import node  # noqa: F401

HERE = Path(__file__).parent
# Longer than what `relaxed` may lose, by far.
LAG = 0.6
BY_SIGTERM, BY_KILL = signal.SIGTERM, signal.SIGKILL

both = pytest.mark.parametrize("version", [V311, V5])
any_end = pytest.mark.parametrize("ending", [BY_SIGTERM, BY_KILL], ids=["sigterm", "kill-9"])
any_durability = pytest.mark.parametrize("durability", ["relaxed", "strict"])


class Lives:
    """One server after the other with the same port and the same store."""

    def __init__(self, folder):
        self.store, self.port = folder / "store", free_port()
        self.durability = "strict"
        self.running = ExitStack()
        self.server = None

    def start(self, *flags, durability=None, store=None, **variables):
        self.durability = durability or self.durability
        self.server = self.running.enter_context(
            Mockforge(
                *["--durability", self.durability, *flags],
                store=store or self.store,
                port=self.port,
                **variables,
            )
        )
        return self.server

    def end(self, ending):
        if ending == BY_KILL and self.durability == "relaxed":
            time.sleep(LAG)
        code = self.server.end(ending)
        assert code == (0 if ending == BY_SIGTERM else -ending), self.server.output
        assert no_errors(self.server), self.server.output

    def restart(self, ending, **given):
        self.end(ending)
        return self.start(**given)

    @property
    def sessions(self):
        return self.store / "sessions"


def no_errors(server):
    return "ERROR" not in server.output and "panicked" not in server.output


@pytest.fixture
def lives(tmp_path):
    made = Lives(tmp_path)
    with made.running:
        yield made


@pytest.fixture
def client(lives):
    """Makes clients that find the server wherever it is, and ends them."""
    with ExitStack() as clients:
        yield lambda *arguments, **given: clients.enter_context(Client(lives, *arguments, **given))


def ended(client):
    """Waits until paho has noticed that its server is gone."""
    return client.wait_closed()


def published(lives, *messages, qos=1, **given):
    """Publishes and waits for every acknowledgement."""
    with Client(lives, V5) as publisher:
        publisher.connect()
        sent = [publisher.send(topic, payload, qos, **given) for topic, payload in messages]
        for each in sent:
            assert publisher.wait_published(each) in (0, 0x10)


def retained(lives, topic_filter="#"):
    """All retained messages that a new client is sent: payloads by topic."""
    with Client(lives, V5) as reader:
        reader.connect()
        reader.subscribe(topic_filter)
        published(lives, ("$end", "end"), retain=False)
        reader.subscribe("$end")
        published(lives, ("$end", "end"), retain=False)
        return {message.topic: message.payload.decode() for message in reader.hear_until_topic("$end")}


# -- mosquitto's clients


@any_durability
@any_end
@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_what_mosquitto_pub_was_told_is_there_for_mosquitto_sub(lives, durability, ending, version):
    lives.start(durability=durability)
    sub, pub = needs("mosquitto_sub"), needs("mosquitto_pub")

    def subscribe(*flags):
        expiry = ["-x", "3600"] if version == "mqttv5" else []
        command = [sub, "-p", lives.port, "-V", version, "-c", "-i", "x", "-q", 1, *expiry, "-t", "house/#", *flags]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout.splitlines(), done.stderr

    assert subscribe("-E")[0] == 0
    for qos, text in [(1, "one"), (2, "two"), (0, "not kept"), (1, "three")]:
        subprocess.run([pub, "-p", str(lives.port), "-V", version, "-q", str(qos), "-t", "house/x", "-m", text], check=True)
    subprocess.run([pub, "-p", str(lives.port), "-q", "1", "-r", "-t", "state", "-m", "on"], check=True)
    lives.restart(ending)
    code, lines, errors = subscribe("-C", 3, "-W", DEADLINE)
    assert (code, lines) == (0, ["one", "two", "three"]), errors
    one = [sub, "-p", str(lives.port), "-t", "#", "--retained-only", "-C", "1", "-W", str(DEADLINE), "-v"]
    done = subprocess.run(one, capture_output=True, text=True, timeout=60)
    assert done.stdout == "state on\n", done.stderr


# -- paho


@both
@any_durability
@any_end
def test_a_queue_waits_in_order_with_all_that_belongs_to_it(lives, client, version, durability, ending):
    lives.start(durability=durability)
    away = client(version, "away", session=True)
    assert not away.connect().session_present
    away.subscribe("a/+", 2)
    away.disconnect()
    properties = {"ContentType": "text/plain", "UserProperty": [("k", "1"), ("k", "2")], "CorrelationData": b"\0\xff"}
    count = 300
    with Client(lives, V5) as publisher:
        publisher.connect()
        sent = []
        for number in range(count):
            # Short ones, and some that are kept apart.
            size = 5000 if number % 50 == 0 else 10
            payload = f"{number} " + "x" * size
            sent.append(publisher.send(f"a/{number % 3}", payload, 1 + number % 2, **properties))
        wait_until(lambda: all(each.is_published() for each in sent), "all acknowledgements")
    lives.restart(ending)
    assert away.connect().session_present
    published(lives, ("a/end", "end"), qos=2)
    heard = away.hear_until_topic("a/end")
    for qos in (1, 2):
        numbers = [int(message.payload.split()[0]) for message in heard if message.qos == qos]
        assert numbers == list(range(qos - 1, count, 2))
    assert len(heard) == count and not any(message.retain for message in heard)
    if version == V5:
        for message in heard:
            assert message.properties.ContentType == "text/plain"
            assert message.properties.UserProperty == properties["UserProperty"]
            assert message.properties.CorrelationData == properties["CorrelationData"]


@both
@any_end
@pytest.mark.parametrize(
    "qos,broken,copies", [(1, "_handle_pubackcomp", 2), (2, "_handle_pubrec", 1), (2, "_send_pubrel", 1), (2, "_handle_pubackcomp", 1)]
)
def test_a_publishers_exchange_goes_on_where_it_was_cut(lives, client, version, ending, qos, broken, copies):
    lives.start()
    listener, publisher = client(version, "listener", session=True), client(version, "publisher", session=True)
    listener.connect()
    listener.subscribe("t")
    publisher.connect()
    publisher.break_at(broken)
    sent = publisher.send("t", "important", qos)
    publisher.wait_closed()
    lives.restart(ending)
    ended(listener)
    assert listener.connect().session_present and publisher.connect().session_present
    publisher.wait_published(sent)
    publisher.publish("t", "end", 2)
    # What the listener acknowledged at QoS 1 just before the end may come again.
    heard = [message for message in listener.hear_until_end() if not (message.dup and qos == 1)]
    assert texts(heard) == ["important"] * copies


@both
@any_end
@pytest.mark.parametrize("qos,broken,copies", [(1, "_send_puback", 2), (2, "_send_pubrec", 1), (2, "_send_pubcomp", 1)])
def test_a_subscribers_exchange_goes_on_where_it_was_cut(lives, client, version, ending, qos, broken, copies):
    lives.start()
    listener = client(version, "listener", session=True)
    listener.connect()
    listener.subscribe("t")
    listener.break_at(broken)
    published(lives, ("t", "important"), qos=qos)
    listener.wait_closed()
    lives.restart(ending)
    assert listener.connect().session_present
    published(lives, ("t", "end"), qos=2)
    heard = listener.hear_until_end()
    assert texts(heard) == ["important"] * copies
    # That was the last of it.
    lives.restart(ending)
    ended(listener)
    assert listener.connect().session_present
    published(lives, ("t", "end"), qos=2)
    assert listener.hear_until_end() == []


@any_end
async def test_the_packets_of_cut_exchanges_are_those_that_the_standard_asks_for(lives, ending):
    """The identifiers are the same, PUBLISH has DUP, and PUBREL comes in its place."""
    lives.start()
    client = await raw.Client.connected(lives.port, "x", clean=False)
    await client.subscribe("t/#", 2)
    published(lives, ("t/1", "unanswered"), ("t/2", "received"), qos=2)
    published(lives, ("t/3", "at least once"))
    first, second, third = [await client.hear(raw.PUBLISH) for _ in range(3)]
    client.send(raw.acknowledge(raw.PUBREC, second.identifier))
    released = await client.hear(raw.PUBREL)
    assert released.identifier == second.identifier
    # One of its own, answered and not released.
    client.publish("u", "mine", 2, 77)
    assert (await client.hear(raw.PUBREC)).identifier == 77
    lives.restart(ending)
    await client.ended()

    client = await raw.Client.connected(lives.port, "x", clean=False)
    assert client.connack.session_present
    again = [await client.hear() for _ in range(3)]
    # Where among the others PUBREL comes is left open by the standard.
    (release,) = [packet for packet in again if packet.kind == raw.PUBREL]
    assert release.identifier == second.identifier
    found = [(packet.identifier, packet.dup, packet.payload) for packet in again if packet.kind == raw.PUBLISH]
    assert found == [(first.identifier, True, b"unanswered"), (third.identifier, True, b"at least once")]
    with Client(lives, V5) as witness:
        witness.connect()
        witness.subscribe("u")
        # Known, so it is not passed on again.
        client.publish("u", "mine", 2, 77, dup=True)
        assert (await client.hear(raw.PUBREC)).identifier == 77
        client.send(raw.acknowledge(raw.PUBREL, 77))
        assert (await client.hear(raw.PUBCOMP)).identifier == 77
        client.publish("u", "end", 2, 77)
        assert (await client.hear(raw.PUBREC)).identifier == 77
        assert witness.hear_until_end() == []
    client.close()


@any_end
def test_subscriptions_are_as_they_were_left(lives, client, ending):
    lives.start()
    away = client(V5, "away", session=True)
    away.connect()
    away.subscribe("gone", 1)
    away.subscribe("kept/+", 1, identifier=7, retainAsPublished=True)
    away.subscribe("lower", 1)
    away.subscribe("lower", 0)
    assert away.unsubscribe("gone") == [0]
    away.disconnect()
    lives.restart(ending)
    lives.restart(ending)
    listed = lives.server.rest("/mqtt/subscriptions")["subscriptions"]
    assert sorted(entry["filter"] for entry in listed) == ["kept/+", "lower"]
    assert away.connect().session_present
    published(lives, ("gone", "a"), ("kept/x", "b"), ("lower", "c"), retain=True)
    published(lives, ("kept/x", "end"))
    heard = away.hear_until_end()
    assert sorted((m.topic, m.qos, m.retain) for m in heard) == [("kept/x", 1, True), ("lower", 0, False)]
    assert next(m for m in heard if m.topic == "kept/x").properties.SubscriptionIdentifier == [7]


@any_end
def test_shared_subscriptions_share_on(lives, client, ending):
    lives.start()
    members = [client(V5, f"member-{number}", session=True) for number in range(2)]
    for member in members:
        member.connect()
        member.subscribe("$share/group/job/#", 1)
        member.disconnect()
    published(lives, *[("job/x", str(number)) for number in range(20)])
    lives.restart(ending)
    for member in members:
        assert member.connect().session_present
    published(lives, *[("job/x", str(number)) for number in range(20, 40)])
    published(lives, *[("job/x", "end") for _ in range(40)])
    heard = [texts(member.hear_until_end()) for member in members]
    assert sorted(map(int, heard[0] + heard[1])) == list(range(40))


@any_durability
@any_end
def test_retained_messages_are_those_of_last(lives, durability, ending):
    lives.start(durability=durability)
    published(lives, *[(f"r/{number}", f"old {number}") for number in range(200)], retain=True)
    published(lives, *[(f"r/{number}", f"new {number}") for number in range(100)], retain=True)
    published(lives, *[(f"r/{number}", "") for number in range(0, 200, 2)], retain=True)
    lives.server.rest("/mqtt/publish", {"topic": "r/api", "payload": {"on": True}, "qos": 1, "retain": True}, "POST")
    expected = {f"r/{number}": f"{'new' if number < 100 else 'old'} {number}" for number in range(1, 200, 2)}
    expected["r/api"] = '{"on":true}'
    lives.restart(ending)
    assert retained(lives, "r/#") == expected
    lives.restart(ending)
    assert retained(lives, "r/#") == expected


def test_a_clean_start_forgets_on_disk_too(lives, client):
    lives.start()
    away = client(V5, "away", session=True)
    away.connect()
    away.subscribe("t")
    away.disconnect()
    published(lives, ("t", "old"))
    lives.restart(BY_KILL)
    # A session of no time.
    with Client(lives, V5, "away") as again:
        assert not again.connect().session_present
    lives.restart(BY_KILL)
    assert lives.server.rest("/mqtt/subscriptions").get("subscriptions", []) == []
    assert not away.connect().session_present


# -- what passes while nobody is there


@any_end
def test_times_pass_while_the_server_is_down(lives, client, ending):
    lives.start()
    short, long = [client(V5, name, session=True, SessionExpiryInterval=wait) for name, wait in [("short", 2), ("long", 300)]]
    for each in (short, long):
        each.connect()
        each.subscribe("t", 1)
        each.disconnect()
    published(lives, ("t", "fleeting"), MessageExpiryInterval=2)
    published(lives, ("t", "lasting"), MessageExpiryInterval=300)
    published(lives, ("r/fleeting", "x"), retain=True, MessageExpiryInterval=2)
    published(lives, ("r/lasting", "x"), retain=True, MessageExpiryInterval=300)
    lives.end(ending)
    time.sleep(3)
    lives.start()
    assert not short.connect().session_present
    assert long.connect().session_present
    published(lives, ("t", "end"))
    (message,) = long.hear_until_end()
    assert message.payload == b"lasting" and 200 < message.properties.MessageExpiryInterval <= 297
    assert retained(lives, "r/#") == {"r/lasting": "x"}


@any_end
def test_a_will_with_a_delay_comes_after_the_restart(lives, client, ending):
    lives.start()
    observer = client(V5, "observer", session=True)
    observer.connect()
    observer.subscribe("will/#", 1)
    mortals = {}
    for name, delay in [("dropped", 2), ("connected", 2), ("returns", 4)]:
        mortal = client(V5, name, session=True).will(f"will/{name}", name, 1, WillDelayInterval=delay)
        mortal.connect()
        mortals[name] = mortal
    for name in ("dropped", "returns"):
        mortals[name].drop()
    # As durable as an acknowledgement that comes later.
    published(lives, ("x", "x"), qos=2, retain=True)
    lives.restart(ending)
    ended(observer)
    assert mortals["returns"].connect().session_present
    assert observer.connect().session_present
    assert {observer.hear().payload, observer.hear().payload} == {b"dropped", b"connected"}
    time.sleep(4)
    published(lives, ("will/x", "end"))
    assert observer.hear_until_end() == [], "who came back in time has no Will"


# -- the end


@any_durability
def test_sigterm_says_so_to_clients_and_ends_with_0(lives, client, durability):
    server = lives.start(durability=durability)
    listener, older = client(V5, "listener", session=True), client(V311, "older", session=True)
    for each in (listener, older):
        each.connect()
        each.subscribe("t", 1)
    published(lives, ("t", "x"))
    server.child.send_signal(BY_SIGTERM)
    assert listener.wait_closed() == 0x8B
    older.wait_closed()
    assert server.wait() == 0
    assert no_errors(server), server.output


def test_sigterm_waits_for_nobody_who_does_not_read(lives, client):
    server = lives.start()
    with socket.socket() as deaf:
        # As little as the system holds for it.
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", lives.port))
        deaf.sendall(raw.connect("deaf", clean=False) + raw.subscribe("flood", 1))
        server.wait_for_subscription("flood")
        published(lives, *[("flood", "x" * 50_000) for _ in range(200)])
        # `wait` has a bound.
        assert server.end(BY_SIGTERM) == 0, server.output
    lives.start()
    returned = client(V311, "deaf", session=True)
    assert returned.connect().session_present
    published(lives, ("flood", "end"))
    assert len(returned.hear_until_end()) == 200


# -- the folder


def test_a_second_server_is_told_whose_folder_it_is(lives, client):
    first = lives.start()
    away = client(V5, "away", session=True)
    away.connect()
    away.subscribe("t")
    flags = ["--mqtt-port", 0, "--http-port", 0, "--grpc-port", 0, "--durability", "strict"]
    code, _, errors = run("serve", "--mqtt", *flags, env={"MOCKFORGE_STORE_PATH": str(lives.store)}, cwd=lives.store.parent)
    assert code not in (0, 101, -signal.SIGABRT)
    assert str(lives.store) in errors and "another" in errors, errors
    published(lives, ("t", "still here"))
    assert away.hear().payload == b"still here"
    assert no_errors(first), first.output


@pytest.mark.parametrize(
    "arguments,variables,place",
    [
        (["--durability", "stricter"], {}, "--durability"),
        ([], {"MOCKFORGE_MQTT_DURABILITY": "always"}, "MOCKFORGE_MQTT_DURABILITY"),
        (["--config", "wrong.yaml"], {}, "wrong.yaml"),
    ],
)
def test_a_misspelt_durability_is_an_error_that_names_the_place(tmp_path, arguments, variables, place):
    (tmp_path / "wrong.yaml").write_text("mqtt:\n  durability: strikt\n")
    code, _, errors = run("serve", "--mqtt", "--mqtt-port", 0, *arguments, env=variables, cwd=tmp_path)
    assert code not in (0, 101)
    assert place in errors and "none, relaxed or strict" in errors, errors


def test_without_durability_nothing_is_opened(lives, client):
    for _ in range(2):
        lives.start(durability="none")
        away = client(V5, "away", session=True)
        assert not away.connect().session_present
        away.subscribe("t")
        published(lives, ("t", "x"), retain=True)
        lives.end(BY_SIGTERM)
        ended(away)
    assert not lives.sessions.exists()


def test_a_proxy_keeps_nothing(lives):
    with Mosquitto() as mosquitto:
        lives.start("--upstream", mosquitto.url)
        published(lives, ("t", "x"), retain=True)
        lives.end(BY_SIGTERM)
    assert not lives.sessions.exists()


def filled(lives, client):
    """A store with something in it, of a server that has ended."""
    lives.start()
    away = client(V5, "away", session=True)
    away.connect()
    away.subscribe("t", 1)
    away.disconnect()
    published(lives, *[("t", f"{number} " + "x" * 3000) for number in range(1000)])
    published(lives, *[(f"r/{number}", "x" * 100) for number in range(1000)], retain=True)
    lives.end(BY_SIGTERM)
    return away


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def overwrite(path, part):
    """Garbage over the middle of what is used of a file."""
    content = bytearray(path.read_bytes())
    used = len(content.rstrip(b"\0"))
    begin, size = int(used * part), max(used // 8, 1)
    content[begin : begin + size] = random.Random(1).randbytes(len(content[begin : begin + size]))
    path.write_bytes(content)


def cut(path, part):
    os.truncate(path, int(path.stat().st_size * part))


DAMAGES = {
    "garbage at the beginning": lambda folder: overwrite(folder / "db", 0),
    "garbage in the middle": lambda folder: overwrite(folder / "db", 0.5),
    "garbage at the end": lambda folder: overwrite(folder / "db", 0.9),
    "half of it": lambda folder: cut(folder / "db", 0.5),
    "a tenth of it": lambda folder: cut(folder / "db", 0.1),
    "nothing of it": lambda folder: cut(folder / "db", 0),
    "no db": lambda folder: (folder / "db").unlink(),
    "another file": lambda folder: (folder / "db").write_text("not a database\n" * 1000),
    "conf cut": lambda folder: cut(folder / "conf", 0.5),
    "conf empty": lambda folder: cut(folder / "conf", 0),
    "conf of garbage": lambda folder: (folder / "conf").write_bytes(b"\xff" * 100),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_set_aside_and_said_to_be(lives, client, damage):
    away = filled(lives, client)
    DAMAGES[damage](lives.sessions)
    damaged = set(contents(lives.sessions))
    server = lives.start()
    aside = list(lives.store.glob("sessions.damaged-*"))
    if aside:
        assert len(aside) == 1 and str(aside[0]) in server.output, server.output
        # sled repairs what it opens, and makes its snapshots anew.
        missing = damaged - set(contents(aside[0]))
        assert all(name.startswith("snap.") for name in missing), missing
        assert not away.connect().session_present
        assert retained(lives) == {}
        # What comes now is kept as ever.
        away.subscribe("t", 1)
        away.disconnect()
        published(lives, ("t", "new"))
        lives.server.end(BY_KILL)
        server = lives.start()
        assert str(aside[0]) not in server.output
        assert away.connect().session_present
        assert away.hear().payload == b"new"
    else:
        # Not so damaged that anything would be missing.
        assert away.connect().session_present, server.output
        published(lives, ("t", "end"))
        assert [int(text.split()[0]) for text in texts(away.hear_until_end())] == list(range(1000))
        assert len(retained(lives, "r/#")) == 1000


def test_each_damaged_store_has_a_folder_of_its_own(lives):
    for number in range(3):
        lives.start()
        published(lives, (f"r/{number}", "x"), retain=True)
        lives.server.end(BY_SIGTERM)
        (lives.sessions / "db").write_bytes(b"garbage" * 100_000)
    lives.start()
    assert len(list(lives.store.glob("sessions.damaged-*"))) == 3


# -- a full disk


def test_on_a_full_disk_acknowledgements_wait_and_the_rest_goes_on(lives, client, small_disk):  # noqa: F811
    server = lives.start(store=small_disk)
    away = client(V5, "away", session=True)
    away.connect()
    away.subscribe("kept", 1)
    away.disconnect()
    publisher = client(V5, "publisher")
    publisher.connect()
    sent = []

    def is_acknowledged(info, seconds):
        try:
            info.wait_for_publish(seconds)
        except RuntimeError:
            return False
        return info.is_published()

    while len(sent) < 3000:
        sent.append(f"{len(sent)} ".encode() + os.urandom(10_000))
        waiting = publisher.send("kept", sent[-1], 1)
        if not is_acknowledged(waiting, 3):
            break
    else:
        pytest.fail("the disk does not fill up")
    server.wait_for("ERROR")
    # Of nobody's session, so it waits for nothing.
    with Client(lives, V5) as talker, Client(lives, V311) as listener:
        listener.connect()
        talker.connect()
        listener.subscribe("live", 0)
        for number in range(50):
            talker.send("live", str(number), 0)
            assert listener.hear().payload == str(number).encode()
    assert not waiting.is_published()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert is_acknowledged(waiting, DEADLINE), server.output
    assert publisher.publish("kept", "end", 1) == 0
    assert server.output.count("ERROR") == 1, server.output
    server.end(BY_KILL)
    lives.start(store=small_disk)
    assert away.connect().session_present
    assert [message.payload for message in away.hear_until_end()] == sent


def test_sigterm_on_a_full_disk_is_bounded_and_says_what_is_lost(lives, client, small_disk):  # noqa: F811
    server = lives.start(store=small_disk)
    away = client(V5, "away", session=True)
    away.connect()
    away.subscribe("kept", 1)
    away.disconnect()
    publisher = client(V5, "publisher")
    publisher.connect()
    for _ in range(3000):
        publisher.send("kept", os.urandom(10_000), 1)
        if "ERROR" in server.output:
            break
        time.sleep(0.01)
    server.wait_for("ERROR")
    server.end(BY_SIGTERM)
    assert "lost" in server.output, server.output


# -- what others see


@any_end
def test_figures_and_lists_show_what_is_there(lives, client, ending):
    figures = {"MOCKFORGE_MQTT_SYS_INTERVAL_SECS": "1"}
    lives.start(**figures)
    for number in range(3):
        away = client(V5, f"away-{number}", session=True)
        away.connect()
        away.subscribe(f"t/{number}", 1)
        away.disconnect()
    published(lives, ("t/1", "x"), ("t/1", "y"))
    published(lives, ("r/1", "x"), ("r/2", "x"), retain=True)

    def seen():
        code, listed, errors = lives.server.ask("mqtt", "clients", "-o", "json")
        assert code == 0, errors
        code, status, errors = lives.server.ask("mqtt", "status", "-o", "json")
        assert code == 0, errors
        stats = json.loads(status)["stats"]
        kept = ["sessions", "subscriptions_active", "retained_messages", "retained_bytes", "queued"]
        return {
            "clients": json.loads(listed)["clients"],
            "subscriptions": lives.server.rest("/mqtt/subscriptions")["subscriptions"],
            "stats": {name: stats[name] for name in kept},
        }

    before = seen()
    assert [client["queued"] for client in before["clients"]] == [0, 2, 0]
    assert before["stats"]["retained_messages"] == 2
    await_figures(lives)
    lives.restart(ending, **figures)
    await_figures(lives)
    assert seen() == before


def await_figures(lives):
    """Waits until `$SYS` says what is kept."""
    expected = {"subscriptions/count": "3", "retained messages/count": "2", "clients/disconnected": "3"}
    with Client(lives, V5) as reader:
        reader.connect()
        for name in expected:
            reader.subscribe(f"$SYS/broker/{name}")
        found = {}

        def said():
            while not reader.messages.empty():
                message = reader.hear()
                found[message.topic.removeprefix("$SYS/broker/")] = message.payload.decode()
            # Its own subscriptions are not kept.
            return found == {**expected, "subscriptions/count": "6"}

        wait_until(said, f"figures: {found}")



@any_end
@pytest.mark.parametrize("version", [4, 5])
def test_mqttjs_goes_on_where_it_was_cut(lives, node, ending, version):  # noqa: F811
    lives.start()
    with Process(node, HERE / "mqttjs_restart.js", lives.port, version) as script:
        script.wait_for("end it")
        lives.restart(ending)
        assert script.wait(40) == 0, script.output
