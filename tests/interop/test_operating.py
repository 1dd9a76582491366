"""A running server operated from the shell: what happens is printed, clients are sent away, replays are driven, it is stopped."""

import json
import subprocess

from peers import DEADLINE, Mockforge, Process, binary, needs, wait_until


def publish(port, topic, payload):
    command = [needs("mosquitto_pub"), "-p", str(port), "-i", "pub", "-t", topic, "-m", payload, "-q", "1"]
    subprocess.run(command, check=True, timeout=DEADLINE)


def test_what_happens_is_printed_and_a_client_is_sent_away():
    with Mockforge() as server:
        at = ["--server", f"127.0.0.1:{server.grpc}"]
        kinds = ["--kind", "client_connected", "--kind", "client_disconnected", "--kind", "subscribed", "--client", "sub*"]
        subscriber = [needs("mosquitto_sub"), "-p", server.port, "-i", "sub", "-t", "a/#", "-E"]
        with Process(binary(), *at, "events", *kinds, "-n", 3) as events:
            # Whoever looks is there some time after it was started.
            def seen():
                subprocess.run([*map(str, subscriber)], check=True, timeout=DEADLINE)
                return events.child.poll() is not None

            wait_until(seen, "three events")
            words = [line.split()[1:] for line in events.lines]
            assert sorted(words[:3])[-1] == ["subscribed", "sub", "a/#", "qos", "0"], events.lines
        with Process(needs("mosquitto_sub"), "-p", server.port, "-i", "sub", "-t", "a/#") as client:
            server.wait_for_subscription("a/#")
            with Process(binary(), *at, "events", "-o", "json", "--kind", "client_disconnected", "-n", 1) as events:

                def gone():
                    code, out, errors = server.ask("mqtt", "disconnect", "sub", "--with-will")
                    assert (code, out) == (0, "disconnected sub\n") or "no client" in errors, errors
                    return events.child.poll() is not None

                wait_until(gone, "the event")
                assert json.loads(events.lines[0])["client_disconnected"]["client_id"] == "sub"
        code, _, errors = server.ask("mqtt", "disconnect", "nobody")
        assert code == 2 and "nobody" in errors
        code, _, errors = server.ask("events", "--kind", "clientconnected")
        assert code == 2 and 'did you mean "client_connected"?' in errors


def test_replays_are_driven_and_the_server_is_stopped():
    with Mockforge() as server:
        server.rest("/recordings", {"name": "three"}, "POST")
        for number in range(3):
            publish(server.port, "t", str(number))
        server.rest("/recordings/three:stop", {}, "POST")
        spec = {"recording": "three", "target": f"mqtt://127.0.0.1:{server.port}", "start_paused": True}
        id = server.rest("/replays", spec, "POST")["id"]

        def ask(*words):
            code, out, errors = server.ask("replays", *words)
            assert code == 0, errors
            return out

        sent = lambda: json.loads(ask("show", id, "-o", "json"))["progress"]["sent"]
        ask("step", id)
        wait_until(lambda: sent() == 1, "a message")
        assert "1 of 3" in ask("ls") and "paused" in ask("show", id)
        assert "max" in ask("speed", id, "max")
        ask("burst", id, "1")
        wait_until(lambda: sent() == 2, "another message")
        ask("resume", id)
        wait_until(lambda: "completed: passed" in ask("show", id), "the end")
        assert "sent 3 of 3 messages" in ask("report", id)
        assert server.ask("replays", "cancel", "nothing")[0] == 2
        assert server.ask("shutdown") == (0, "", "")
        assert server.child.wait(DEADLINE) == 0
