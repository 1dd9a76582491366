"""What recordings begin with, what they leave out, deliveries of another broker, and the flight recorder, with mosquitto's
clients."""

import base64
import json
import os
import signal
import subprocess
import time

from peers import Mockforge, Mosquitto, Process, binary, needs, run, wait_until


def publish(port, topic, payload, *flags):
    subprocess.run([needs("mosquitto_pub"), "-p", str(port), "-t", topic, "-m", payload, *flags], check=True, timeout=20)


def subscriber(port, *flags):
    return Process(needs("mosquitto_sub"), "-p", port, *flags)


def exported(server, name, folder):
    code, _, errors = server.ask("recordings", "export", name, "--output", folder / f"{name}.json")
    assert code == 0, errors
    return json.loads((folder / f"{name}.json").read_text())


def kinds(session):
    return [event.get("kind") or event["type"] for event in session["events"]]


def states(session):
    """What was in force: who had subscribed to what, and what was retained."""

    def shown(event):
        if event["type"] == "SUBSCRIBE":
            return event["client_id"], [subscription["filter"] for subscription in event["filters"]]
        return event["topic"], event["payload"]

    return [shown(event) for event in session["events"] if event.get("kind") == "STATE"]


def stop(server, name):
    return server.rest(f"/recordings/{name}:stop", {}, method="POST")


def test_a_recording_of_the_broker_begins_with_what_is_in_force(tmp_path):
    with Mockforge() as server, subscriber(server.port, "-t", "a/+", "-q", "1", "-i", "watcher"):
        server.wait_for_subscription("a/+")
        publish(server.port, "a/kept", "on", "-r")
        publish(server.port, "a/also-kept", "on", "-r")
        server.rest("/recordings", {"name": "late"}, method="POST")
        publish(server.port, "a/live", "1", "-q", "1")
        stop(server, "late")
        session = exported(server, "late", tmp_path)
    assert kinds(session)[:2] == ["ANCHOR", "OPEN"]
    assert states(session) == [("watcher", ["a/+"]), ("a/also-kept", "on"), ("a/kept", "on")]
    last = max(number for number, kind in enumerate(kinds(session)) if kind == "STATE")
    assert last < kinds(session).index("CONNECT"), "what was in force comes before what followed"


def test_a_proxy_says_what_it_cannot_know(tmp_path):
    with Mosquitto() as mosquitto:
        publish(mosquitto.port, "a/kept", "on", "-r")
        with Mockforge("--upstream", mosquitto.url) as proxy, subscriber(proxy.port, "-t", "b", "-i", "watcher"):
            proxy.wait_for_subscription("b")
            answer = proxy.rest("/recordings", {"name": "late"}, method="POST")
            stop(proxy, "late")
            session = exported(proxy, "late", tmp_path)
    assert states(session) == [("watcher", ["b"])]
    assert "retained" in answer["notes"][0]


def test_only_the_clients_and_types_that_are_asked_for_are_kept(tmp_path):
    with Mockforge() as server:
        wanted = {"clients": ["dev-*"], "types": ["PACKET_TYPE_PUBLISH"], "topics": ["a/#"]}
        server.rest("/recordings", {"name": "some", "filter": wanted}, method="POST")
        publish(server.port, "a/1", "kept", "-i", "dev-1", "-q", "1")
        publish(server.port, "b/1", "topic", "-i", "dev-1", "-q", "1")
        publish(server.port, "a/2", "client", "-i", "other", "-q", "1")
        stop(server, "some")
        session = exported(server, "some", tmp_path)
    assert {connection["client_id"] for connection in session["connections"]} == {"dev-1"}
    assert [connection["conn"] for connection in session["connections"]] == [1, 2]
    assert [event["payload"] for event in session["events"] if event.get("type") == "PUBLISH"] == ["kept"]
    assert "PUBACK" not in kinds(session)


def test_a_sample_is_whole_sessions_and_the_same_ones_each_time(tmp_path):
    def recorded(server, name, sample):
        server.rest("/recordings", {"name": name, "filter": {"sample": sample}}, method="POST")
        for number in range(20):
            publish(server.port, "a", str(number), "-i", f"dev-{number}")
        stop(server, name)
        session = exported(server, name, tmp_path)
        connections = {connection["conn"]: connection["client_id"] for connection in session["connections"]}
        published = [connections[event["conn"]] for event in session["events"] if event.get("type") == "PUBLISH"]
        assert sorted(published) == sorted(connections.values())
        return set(published)

    with Mockforge() as server:
        half = recorded(server, "half", 0.5)
        again = recorded(server, "again", 0.5)
        more = recorded(server, "more", 0.8)
    assert 3 <= len(half) <= 17
    assert half == again
    assert half <= more


def test_deliveries_of_another_broker_are_recorded_and_a_lost_connection_is_a_gap(tmp_path):
    with Mosquitto() as mosquitto:
        publish(mosquitto.port, "a/kept", "kept", "-r", "-q", "1")
        output = tmp_path / "deliveries.json"
        with Process(
            *[binary(), "mqtt", "record", "--output", output, "--broker", mosquitto.url, "--subscribe", "a/#"],
            *["--subscribe", "b", "-o", "json"],
            cwd=tmp_path,
            env={"MOCKFORGE_STORE_PATH": str(tmp_path / "store"), "MOCKFORGE_HTTP_PORT": "1", "MOCKFORGE_GRPC_PORT": "1"},
        ) as record:
            record.wait_for("until Ctrl-C")
            publish(mosquitto.port, "a/live", "two", "-q", "2")
            publish(mosquitto.port, "c", "not asked for", "-q", "1")
            publish(mosquitto.port, "b", "last", "-q", "1")
            time.sleep(0.5)
            code = record.end(signal.SIGINT)
        assert code == 0, record.output
        session = json.loads(output.read_text())
    assert session["source"] == {"kind": "subscriber", "upstream": mosquitto.url}
    assert session["gaps"] == 0
    delivered = [event for event in session["events"] if event.get("type") == "PUBLISH"]
    assert {event["dir"] for event in delivered} == {"s2c"}
    assert [(event["topic"], event["qos"], event["retain"]) for event in delivered] == [
        ("a/kept", 1, True),
        ("a/live", 2, False),
        ("b", 1, False),
    ]
    assert kinds(session)[-2:] == ["DISCONNECT", "CLOSE"]


def test_a_broker_that_is_not_there_or_refuses_leaves_no_recording(tmp_path):
    environment = {"MOCKFORGE_STORE_PATH": str(tmp_path / "store"), "MOCKFORGE_HTTP_PORT": "1", "MOCKFORGE_GRPC_PORT": "1"}
    output = tmp_path / "nothing.json"
    code, _, errors = run(
        *["mqtt", "record", "--output", output, "--broker", "mqtt://127.0.0.1:1", "--subscribe", "#"],
        env=environment,
        cwd=tmp_path,
    )
    assert code == 3, errors
    assert not output.exists()
    code, listed, errors = run("recordings", "ls", "-o", "json", env=environment, cwd=tmp_path)
    assert (code, json.loads(listed)["recordings"]) == (0, []), errors


def snapshots(server):
    return [entry["name"] for entry in server.rest("/recordings")["recordings"] if entry["name"].startswith("flight-")]


def test_a_snapshot_has_what_was_in_force_when_its_window_began(tmp_path):
    with Mockforge("--ring", "1MiB", "--ring-duration", "2s") as server:
        with subscriber(server.port, "-t", "a/+", "-i", "watcher"):
            server.wait_for_subscription("a/+")
            publish(server.port, "a/kept", "on", "-r")
            server.rest("/mqtt/publish", {"topic": "a/by-api", "payload": "on", "retain": True}, method="POST")
            publish(server.port, "a/old", "gone by then")
            time.sleep(3)
            publish(server.port, "a/new", "there")
            code, printed, errors = server.ask("recordings", "snapshot", "--name", "last", "-o", "json")
        assert code == 0, errors
        assert json.loads(printed)["state"] == "RECORDING_STATE_COMPLETE"
        session = exported(server, "last", tmp_path)
    assert kinds(session)[:2] == ["ANCHOR", "OPEN"]
    assert session["connections"][0]["client_id"] == "watcher"
    assert states(session) == [("watcher", ["a/+"]), ("a/by-api", "on"), ("a/kept", "on")]
    topics = [event["topic"] for event in session["events"] if event.get("type") == "PUBLISH"]
    assert "a/old" not in topics
    assert topics.count("a/new") == 2, "published, and delivered to a client whose connection was there before"
    assert session["events"][-2] == {**session["events"][-2], "kind": "MARK", "label": "snapshot"}


def test_sigusr1_and_triggers_write_snapshots(tmp_path):
    settings = tmp_path / "mockforge.yaml"
    settings.write_text(
        "recorder:\n"
        "  ring_bytes: 1048576\n"
        "  ring_cooldown_secs: 0\n"
        "  ring_triggers:\n"
        "    - on: error\n"
        "    - topic: alarms/#\n"
        "      when: {payload: {$.level: {gte: 3}}}\n"
    )

    def marks():
        found = []
        for name in snapshots(server):
            found += server.rest(f"/recordings/{name}/summary").get("marks", [])
        return found

    with Mockforge("--config", settings) as server:
        publish(server.port, "alarms/a", '{"level": 2}')
        publish(server.port, "alarms/a", '{"level": 3}')
        wait_until(lambda: any("alarms/a" in mark for mark in marks()), "the snapshot of an alarm")
        with subscriber(server.port, "-t", "x", "-i", "twin", "-V", "5"):
            server.wait_for_subscription("x")
            publish(server.port, "x", "1", "-i", "twin", "-V", "5")
            wait_until(lambda: any("session taken over" in mark for mark in marks()), "the snapshot of a takeover")
        server.child.send_signal(signal.SIGUSR1)
        wait_until(lambda: "SIGUSR1" in marks(), "the snapshot of a signal")
    with Mockforge() as server:
        code, _, errors = server.ask("recordings", "snapshot")
        assert code != 0
        assert "--ring" in errors


def test_old_recordings_go_when_the_store_is_over_its_limit(tmp_path):
    with Mockforge(MOCKFORGE_STORE_MAX_BYTES="30000") as server:
        for number in range(4):
            server.rest("/recordings", {"name": f"r{number}"}, method="POST")
            for _ in range(2):
                # Not compressible.
                publish(server.port, "a", base64.b64encode(os.urandom(6000)).decode())
            stop(server, f"r{number}")
        names = lambda: [entry["name"] for entry in server.rest("/recordings")["recordings"]]
        wait_until(lambda: "r0" not in names(), "the oldest to go")
        assert "r3" in names()
        server.wait_for("recording deleted: over the limit")
