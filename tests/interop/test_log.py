"""The log: as JSON, and with what goes into it changed while the server runs."""

import json
import signal
import urllib.error

import pytest

from pahoclient import V5, Client
from peers import Mockforge, wait_until


def entries(server):
    """The lines of the log as JSON, without what is printed for people."""
    return [json.loads(line) for line in list(server.lines) if line.startswith("{")]


def test_each_line_is_an_object():
    with Mockforge("--log-format", "json", "--log", "debug") as server, Client(server, V5, "a \"quoted\" one") as client:
        client.connect()

        def connected():
            return [entry for entry in entries(server) if entry["message"] == "connected"]

        entry = wait_until(connected, "the log")[0]
        assert (entry["level"], entry["target"]) == ("INFO", "mockforge::server")
        assert entry["fields"]["client"] == 'a "quoted" one' and entry["timestamp"].endswith("Z")
        client.disconnect()
        assert server.end() == 0
        assert any(entry["level"] == "DEBUG" for entry in entries(server))
        printed = [line for line in server.lines if not line.startswith("{")]
        assert not any("INFO" in line or "DEBUG" in line for line in printed), printed


def test_what_goes_into_the_log_changes_while_the_server_runs(tmp_path):
    settings = tmp_path / "mockforge.yaml"
    settings.write_text("log: {level: info}\n")
    with Mockforge("--config", settings) as server:

        def connects_and_is_logged(name):
            with Client(server, V5, name) as client:
                client.connect()
                client.disconnect()
            # What is logged of it came before this answer.
            server.rest("/info")
            return f"client={name}" in server.output.replace("\x1b", "")

        def filter_is(expected):
            assert server.rest("/log") == {"filter": expected}
            code, out, _ = server.ask("log")
            assert (code, out) == (0, expected + "\n")

        filter_is("info")
        wait_until(lambda: connects_and_is_logged("one"), "a line")
        assert server.rest("/log", {"filter": "warn"}, "PUT") == {"filter": "warn"}
        filter_is("warn")
        assert not connects_and_is_logged("two")
        with pytest.raises(urllib.error.HTTPError) as refused:
            server.rest("/log", {"filter": "warn,mockforge=debgu"}, "PUT")
        told = json.load(refused.value)
        assert refused.value.code == 400 and "debgu" in json.dumps(told) and '"filter"' in json.dumps(told), told
        filter_is("warn")
        code, out, error = server.ask("log", "inof")
        assert code == 2 and 'did you mean "info"' in error, (code, error)
        assert server.ask("log", "info,mockforge::net=debug", "-o", "json")[:2] == (
            0,
            '{"filter":"info,mockforge::net=debug"}\n',
        )
        # Empty is what the settings say.
        assert server.ask("log", "")[:2] == (0, "info\n")
        settings.write_text("log: {level: error}\n")
        server.child.send_signal(signal.SIGHUP)
        wait_until(lambda: server.rest("/log")["filter"] == "error", "the settings to be in force")
        settings.write_text("log: {level: inof}\n")
        server.child.send_signal(signal.SIGHUP)
        server.wait_for("are refused")
        filter_is("error")
