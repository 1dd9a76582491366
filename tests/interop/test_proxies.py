"""Several proxies in one server, between mosquitto's clients and mosquitto brokers."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

from peers import DEADLINE, Mockforge, Mosquitto, Process, accepts, needs, wait_until


def subscribe(port, name, count):
    """Prints `count` messages, and ends."""
    return Process(needs("mosquitto_sub"), "-p", port, "-i", name, "-t", "t/#", "-v", "-q", 1, "-C", count, "-W", DEADLINE)


def publish(port, topic, payload, qos=1):
    command = [needs("mosquitto_pub"), "-p", str(port), "-t", topic, "-m", payload, "-q", str(qos)]
    subprocess.run(command, check=True, timeout=DEADLINE)


def add(server, name, broker):
    """The port of a new proxy."""
    proxy = server.rest("/proxies", {"id": name, "upstream": broker.url}, "POST")
    return int(proxy["address"].rsplit(":", 1)[1])


def wait_for(server, proxy, client):
    """Until the only client of a proxy is that one, and has a subscription."""

    def there():
        connections = server.rest(f"/proxies/{proxy}/connections")["connections"]
        return [(one["client_id"], one["subscriptions"]) for one in connections] == [(client, 1)]

    wait_until(there, f"{client} at {proxy}")


def test_two_at_a_time_beside_the_broker():
    with Mosquitto() as first, Mosquitto() as second, Mockforge() as server:
        code, out, err = server.ask("proxies", "add", first.url, "--id", "one", "-o", "json")
        assert code == 0, err
        one = int(json.loads(out)["address"].rsplit(":", 1)[1])
        ports = {"own": server.port, "one": one, "two": add(server, "two", second)}
        server.rest("/recordings", {"name": "all"}, "POST")
        with subscribe(ports["own"], "sub-own", 3) as own, subscribe(one, "sub-one", 3) as at_one, subscribe(
            ports["two"], "sub-two", 3
        ) as at_two:
            server.wait_for_subscription("t/#")
            wait_for(server, "one", "sub-one")
            wait_for(server, "two", "sub-two")
            for number in range(3):
                for name, port in ports.items():
                    publish(port, f"t/{name}", str(number))
            for name, child in {"own": own, "one": at_one, "two": at_two}.items():
                assert child.wait() == 0
                assert child.lines == [f"t/{name} {number}" for number in range(3)]
        recording = server.rest("/recordings/all:stop", {}, "POST")
        assert recording["connections"] == 12
        code, out, err = server.ask("recordings", "export", "all", "--output", "-", "--format", "json")
        assert code == 0, err
        exported = json.loads(out)
        assert len({connection["conn"] for connection in exported["connections"]}) == 12
        opened = [event for event in exported["events"] if event.get("kind") == "OPEN"]
        assert {event.get("upstream") for event in opened} == {None, first.url, second.url}


def test_a_rule_of_chaos_for_one_of_them():
    with Mosquitto() as broker, Mockforge() as server:
        one, two = add(server, "one", broker), add(server, "two", broker)
        rule = {"id": "gone", "match": {"proxy": "one", "types": "PUBLISH"}, "actions": ["drop"]}
        server.rest("/chaos/rules", rule, "POST")
        with subscribe(two, "sub", 1) as heard, subscribe(server.port, "own", 1) as own:
            wait_for(server, "two", "sub")
            server.wait_for_subscription("t/#")
            publish(one, "t/lost", "x", qos=0)
            publish(two, "t/kept", "y")
            publish(server.port, "t/own", "z")
            assert (heard.wait(), own.wait()) == (0, 0)
            assert (heard.lines, own.lines) == (["t/kept y"], ["t/own z"])
        [fault] = server.rest("/chaos/faults")["faults"]
        assert fault["rule"] == "gone"
        code, out, err = server.ask("chaos", "ls")
        assert code == 0 and "through one" in out, out + err


def test_switched_off_and_on_again_at_the_same_port():
    with Mosquitto() as broker, Mockforge() as server:
        port = add(server, "p", broker)
        with subscribe(port, "a", 1) as child:
            wait_for(server, "p", "a")
            assert server.ask("proxies", "disable", "p")[0] == 0
            assert not accepts(port)
            assert server.rest("/proxies/p/connections")["connections"] == []
            assert server.ask("proxies", "enable", "p")[0] == 0
            # It connects again by itself.
            wait_for(server, "p", "a")
            publish(port, "t/x", "y")
            assert child.wait() == 0 and child.lines == ["t/x y"]


def test_updates_of_parts_at_once_all_count():
    with Mosquitto() as first, Mosquitto() as second, Mockforge() as server, ThreadPoolExecutor() as pool:
        add(server, "one", first)
        for enabled, broker in [(False, second), (True, first)] * 5:
            parts = [{"enabled": enabled}, {"upstream": broker.url}]
            list(pool.map(lambda part: server.rest("/proxies/one", part, "PATCH"), parts))
            proxy = server.rest("/proxies/one")
            assert (proxy["enabled"], proxy["upstream"]) == (enabled, broker.url)
