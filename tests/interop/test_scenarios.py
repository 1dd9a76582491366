"""Scenarios: one file run by the CLI alone, over REST and, step by step, from Python over gRPC, to the same verdict."""

import json
import re
import signal
import subprocess

import grpc
import pytest
import yaml

from contract import Contract, Refusal, curl
from junit import read_junit
from peers import ROOT, Mockforge, Process, binary, free_port, run, wait_until

FOLDER = ROOT / "tests" / "data" / "scenarios"
FILES = sorted(FOLDER.glob("*.yaml"))
# Steps that a person would look at, without what differs from run to run.
SHOWN = ["number", "kind", "name", "status"]


@pytest.fixture(scope="module")
def server():
    with Mockforge() as server:
        yield server


@pytest.fixture(scope="module")
def contract(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        yield Contract(channel)


class Outcome:
    """Verdict, exit code and steps of a run, however it was made."""

    def __init__(self, run, steps):
        self.verdict, self.exit_code = run["verdict"], run["exit_code"]
        self.seed, self.clients, self.expectations = run["seed"], run["clients"], run["expectations"]
        self.steps = steps

    @property
    def shown(self):
        return [tuple(step[key] for key in SHOWN) for step in self.steps]

    @property
    def failed(self):
        return [step for step in self.steps if step["status"].endswith("FAILED")]


def of_events(events):
    """A run that was told as RunScenario's events."""
    assert list(events[0]) == ["started"] and list(events[-1]) == ["finished"], events
    return Outcome(events[-1]["finished"], [event["step_ended"] for event in events if "step_ended" in event])


def by_cli(file, folder):
    """Alone, in a process that has no server."""
    with (folder / "out.ndjson").open("w") as out:
        command = [binary(), "-o", "json", "scenario", "run", file, "--junit", "out.xml"]
        done = subprocess.run(command, cwd=folder, stdout=out, stderr=subprocess.PIPE, text=True, timeout=120, env=quiet())
    outcome = of_events([json.loads(line) for line in (folder / "out.ndjson").read_text().splitlines()])
    assert done.returncode == outcome.exit_code, done.stderr
    return outcome


def quiet():
    """So that no server of another test is found."""
    import os

    return {**os.environ, "MOCKFORGE_GRPC_PORT": str(free_port())}


def by_rest(server, file):
    body = {"scenario": file.read_text()}
    status, kind, lines = curl("POST", f"http://127.0.0.1:{server.http}/__mockforge/scenarios:run", body)
    assert (status, kind) == (200, "application/x-ndjson"), lines
    return of_events([json.loads(line) for line in lines.splitlines()])


def by_driving(contract, file):
    """Sends one step after the other, each when the one before was answered."""
    scenario = yaml.safe_load(file.read_text())
    steps = scenario.pop("steps")
    rpc = contract.rpcs["Scenarios.DriveScenario"]
    drive = Drive(rpc)
    assert "started" in drive.tell({"start": {"scenario": scenario}})
    answers = []
    for number, step in enumerate(steps, 1):
        answer = drive.tell({"step": step})
        # Of a step with others in it, those come first.
        while True:
            answers.append(answer["step_ended"])
            if answer["step_ended"]["number"] == str(number):
                break
            answer = drive.hear()
    finished = drive.tell({"end": {}})["finished"]
    return Outcome(finished, answers)


class Drive:
    """A stream both ways: what is told is sent at once."""

    def __init__(self, rpc):
        import queue

        self.rpc, self.requests = rpc, queue.Queue()
        self.answers = rpc._call(iter(self.requests.get, None), timeout=120)

    def tell(self, request):
        self.requests.put(self.rpc.message(request))
        return self.hear()

    def hear(self):
        from contract import as_json

        return as_json(next(self.answers))


def test_a_fleet_passes_three_ways(server, contract, tmp_path):
    file = FOLDER / "fleet.yaml"
    outcomes = [by_cli(file, tmp_path), by_rest(server, file), by_driving(contract, file)]
    for outcome in outcomes:
        assert not outcome.failed, outcome.failed
        assert (outcome.verdict, outcome.exit_code) == ("SCENARIO_VERDICT_PASSED", 0)
        assert (outcome.seed, outcome.clients, outcome.expectations) == (7, 201, 5)
    assert outcomes[0].shown == outcomes[1].shown == outcomes[2].shown
    suite = read_junit(tmp_path / "out.xml")
    assert (suite.get("tests"), suite.get("failures")) == ("15", "0")


def test_a_fleet_fails_three_ways_and_says_where_and_what_came_nearest(server, contract, tmp_path):
    file = FOLDER / "fleet-degraded.yaml"
    outcomes = [by_cli(file, tmp_path), by_rest(server, file), by_driving(contract, file)]
    for outcome in outcomes:
        assert (outcome.verdict, outcome.exit_code) == ("SCENARIO_VERDICT_FAILED", 1)
        (failed,) = outcome.failed
        assert (failed["number"], failed["kind"], failed["name"]) == ("6", "expect", "one is degraded")
        nearest = failed["nearest"]
        assert (nearest["client"], nearest["topic"], nearest["payload"]) == ("app", "st/dev-3", '{"state":"degrading"}')
        assert nearest["differences"] == ['$.state is "degrading", not "degraded"']
        assert outcome.steps[-1]["status"].endswith("SKIPPED") and outcome.steps[-1]["text"] == "step 6 failed"
    assert outcomes[0].shown == outcomes[1].shown == outcomes[2].shown
    suite = read_junit(tmp_path / "out.xml")
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("7", "1", "1")
    (failure,) = suite.iter("failure")
    assert "expected at least 1 message" in failure.get("message") and "st/dev-3" in failure.text


def test_the_documented_example_passes(tmp_path):
    outcome = by_cli(FOLDER / "reconnect-storm.yaml", tmp_path)
    assert outcome.exit_code == 0, outcome.failed


def test_what_a_scenario_sets_is_gone_when_it_has_ended(server, contract):
    ask = lambda name: contract.rpcs[name].grpc({})
    seed = ask("Chaos.GetSeed")
    scenario = {
        "scenario": "sets",
        "seed": 5,
        "clients": {"app": {}},
        "steps": [
            {"chaos.set": {"id": "x", "actions": [{"latency": 1}]}},
            {"chaos.profile": "3g"},
            {"mock.set": {"id": "m", "topic": "q/{{id}}", "response": {"topic": "a/{{id}}", "payload": "{{id}}"}}},
            {"state.set": {"key": "k", "value": 1}},
            {"state.expect": {"key": "k", "value": {"gte": 1}}},
            {"app.subscribe": "a/#"},
            {"app.publish": {"topic": "q/7"}},
            {"expect": {"client": "app", "topic": "a/7", "payload": "7"}},
        ],
    }
    events = contract.rpcs["Scenarios.RunScenario"].grpc({"scenario": scenario})
    outcome = of_events(events)
    assert outcome.exit_code == 0, outcome.failed
    assert ask("Chaos.ListRules")["rules"] == [] and ask("Mocks.ListMocks")["mocks"] == []
    assert ask("State.ListState")["entries"] == [] and ask("Chaos.GetSeed") == seed
    assert not [c for c in ask("Broker.ListClients")["clients"] if c["connected"]]


def test_what_a_scenario_removes_is_there_again_when_it_has_ended(server, contract):
    ask = lambda name, request={}: contract.rpcs[name].grpc(request)
    mock = {"id": "kept", "topic": "q/+", "responses": [{"topic": "a", "payload": "1"}]}
    ask("Mocks.CreateMock", {"mock": mock})
    rule = {"id": "kept", "match": {"client": ["nobody"]}, "actions": [{"drop": {}}]}
    ask("Chaos.CreateRule", {"rule": rule})
    ask("State.SetState", {"scope": "global", "key": "kept", "value": 1})
    shown = lambda: (ask("Mocks.ListMocks")["mocks"], ask("Chaos.ListRules")["rules"], ask("State.ListState")["entries"])
    before = shown()
    assert [len(part) for part in before] == [1, 1, 1]
    scenario = {
        "scenario": "resets",
        "steps": [
            {"state.set": {"key": "new", "value": 1}},
            {"mock.reset": {}},
            {"state.reset": {}},
            {"chaos.reset": {}},
            {"state.set": {"key": "kept", "value": 2}},
            {"state.expect": {"key": "new", "value": {"exists": False}}},
        ],
    }
    outcome = of_events(ask("Scenarios.RunScenario", {"scenario": scenario}))
    assert outcome.exit_code == 0, outcome.failed
    assert shown() == before
    ask("Mocks.DeleteMock", {"id": "kept"}), ask("Chaos.DeleteRule", {"id": "kept"}), ask("State.ResetState")


def test_runs_that_change_the_same_things_put_back_what_was_there_before_the_first(contract):
    """Whichever of them ends first; and what somebody else changes meanwhile stays."""
    ask = lambda name, request={}: contract.rpcs[name].grpc(request)
    mock = lambda id, payload: {"id": id, "topic": "q/+", "responses": [{"topic": "a", "payload": payload}]}
    rule = lambda id: {"id": id, "match": {"client": ["nobody"]}, "actions": [{"drop": {}}]}
    for id in "xyz":
        ask("Mocks.CreateMock", {"mock": mock(id, "before")})
        ask("Chaos.CreateRule", {"rule": rule(id)})
    ask("State.SetState", {"scope": "global", "key": "k", "value": 1})
    shown = lambda: [ask("Mocks.ListMocks")["mocks"], ask("Chaos.ListRules")["rules"], ask("State.ListState")["entries"], ask("Chaos.GetSeed")]
    before = shown()
    try:
        for first_ends_first in (True, False):
            runs = [Drive(contract.rpcs["Scenarios.DriveScenario"]) for _ in range(2)]
            for seed, run in enumerate(runs):
                run.tell({"start": {"scenario": {"scenario": "shares"}, "allow_empty": True, "seed": seed}})
                for step in (
                    {"chaos.remove": "x"} if seed == 0 else {"chaos.set": {"id": "x", "actions": ["drop"]}},
                    {"chaos.set": {"id": "new", "actions": ["drop"]}},
                    {"mock.remove": "x"} if seed == 0 else {"mock.set": {"id": "x", "topic": "b"}},
                    {"mock.set": {"id": "new", "topic": "b"}},
                    {"state.set": {"key": "k", "value": seed + 10}},
                ):
                    assert run.tell({"step": step})["step_ended"]["status"].endswith("PASSED"), step
            for run in runs if first_ends_first else reversed(runs):
                assert shown() != before
                run.tell({"end": {}})
            assert shown() == before

        run = Drive(contract.rpcs["Scenarios.DriveScenario"])
        run.tell({"start": {"scenario": {"scenario": "overtaken"}, "allow_empty": True}})
        for step in ({"mock.remove": "y"}, {"mock.set": {"id": "z", "topic": "b"}}, {"chaos.remove": "y"}, {"state.set": {"key": "k", "value": 5}}):
            assert run.tell({"step": step})["step_ended"]["status"].endswith("PASSED"), step
        ask("Mocks.UpdateMock", {"id": "z", "mock": mock("z", "by hand")})
        ask("Chaos.CreateRule", {"rule": rule("y")})
        ask("State.SetState", {"scope": "global", "key": "k", "value": 7})
        run.tell({"end": {}})
        mocks, rules, state, seed = shown()
        assert [mock["id"] for mock in mocks] == ["x", "y", "z"] and mocks[2]["responses"][0]["payload"] == "by hand"
        assert [rule["id"] for rule in rules] == ["x", "z", "y"]
        assert state[0]["value"] == 7 and seed == before[3]
    finally:
        ask("Admin.Reset", {"mocks": True, "chaos": True, "state": True})


def test_settings_that_are_read_during_a_run_stay_when_it_ends():
    settings = {
        "mqtt": {
            "mocks": [{"id": id, "topic": "q", "response": {"topic": "a", "payload": "settings"}} for id in ("one", "two")],
            "chaos": {"rules": [{"id": id, "match": {"client": "nobody"}, "actions": ["drop"]} for id in ("one", "two")]},
        }
    }
    with Mockforge() as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        contract = Contract(channel)
        ask = lambda name, request={}: contract.rpcs[name].grpc(request)
        shown = lambda: (ask("Mocks.ListMocks")["mocks"], ask("Chaos.ListRules")["rules"])
        ids = lambda: [[thing["id"] for thing in things] for things in shown()]
        ask("Admin.ApplyConfig", {"yaml": yaml.safe_dump(settings)})
        before = shown()
        assert all(thing["from_settings"] for things in before for thing in things)
        changes = [{"mock.remove": "one"}, {"chaos.remove": "one"}, {"mock.set": {"id": "two", "topic": "b"}}, {"chaos.set": {"id": "two", "actions": ["drop"]}}]

        def run(meanwhile):
            drive = Drive(contract.rpcs["Scenarios.DriveScenario"])
            drive.tell({"start": {"scenario": {"scenario": "changes"}, "allow_empty": True}})
            for step in changes:
                assert drive.tell({"step": step})["step_ended"]["status"].endswith("PASSED"), step
            assert ids() == [["two"], ["two"]]
            meanwhile()
            drive.tell({"end": {}})

        run(lambda: None)
        # As it was in all that is shown, so the same settings can be applied again.
        assert shown() == before
        run(lambda: ask("Admin.ApplyConfig", {"yaml": yaml.safe_dump(settings)}))
        assert shown() == before
        for part in settings["mqtt"]["mocks"], settings["mqtt"]["chaos"]["rules"]:
            part.pop(0)
        run(lambda: ask("Admin.ApplyConfig", {"yaml": yaml.safe_dump(settings)}))
        assert ids() == [["two"], ["two"]]
        assert shown()[0][0]["topic"] == "q"


def test_a_cancelled_run_tells_of_all_steps_also_of_those_within_others(contract):
    steps = [
        {"repeat": {"times": 3, "steps": [{"parallel": [{"wait": "1ms"}, {"wait": "1h"}]}, {"wait": "1ms"}]}},
        {"repeat": {"times": 3, "steps": [{"mark": "never"}]}},
    ]
    drive = Drive(contract.rpcs["Scenarios.DriveScenario"])
    id = drive.tell({"start": {"scenario": {"scenario": "cancelled"}}})["started"]["id"]
    assert drive.tell({"step": steps[0]})["step_ended"]["number"] == "1.1.1"
    run = contract.rpcs["Scenarios.CancelRun"].grpc({"id": id})
    under_way, cancelled = "it was under way when the run was cancelled", "the run was cancelled"
    ended = [(step["number"], step["status"].rsplit("_")[-1], step["text"]) for step in run["steps"]]
    assert ended == [
        ("1.1.1", "PASSED", ""),
        ("1.1.2", "SKIPPED", under_way),
        ("1.1", "SKIPPED", under_way),
        ("1.2", "SKIPPED", cancelled),
        ("1", "SKIPPED", under_way),
    ]
    scenario = {"scenario": "fails", "steps": [{"mock.remove": "nothing"}, *steps]}
    events = contract.rpcs["Scenarios.RunScenario"].grpc({"scenario": scenario})
    ended = [(event["step_ended"]["number"], event["step_ended"]["status"].rsplit("_")[-1]) for event in events if "step_ended" in event]
    assert ended[0] == ("1", "FAILED")
    assert [number for number, status in ended[1:] if status == "SKIPPED"] == ["2.1.1", "2.1.2", "2.1", "2.2", "2", "3.1", "3"]


def test_a_long_run_is_told_to_its_end(contract):
    """However many steps: what a stream lacks, it says; and who drives misses nothing."""
    steps = [{"repeat": {"times": 5000, "steps": [{"state.set": {"key": "k", "value": 1}}]}}]
    events = contract.rpcs["Scenarios.RunScenario"].grpc({"scenario": {"scenario": "long", "steps": steps}, "allow_empty": True})
    told = len([event for event in events if "step_started" in event or "step_ended" in event])
    missed = sum(event["gap"]["missed"] for event in events if "gap" in event)
    assert told + missed == 2 * 5001
    assert events[-2]["step_ended"]["number"] == "1"
    run = contract.rpcs["Scenarios.GetRun"].grpc({"id": events[0]["started"]["id"]})
    assert (run["passed"], len(run["steps"]), run["left_out"]) == (5001, 2001, 3000)
    assert run["steps"][-1]["number"] == "1"

    drive = Drive(contract.rpcs["Scenarios.DriveScenario"])
    drive.tell({"start": {"scenario": {"scenario": "long"}, "allow_empty": True}})
    answer = drive.tell({"step": steps[0]})
    passes = []
    while answer["step_ended"]["number"] != "1":
        passes.append(answer["step_ended"]["pass"])
        answer = drive.hear()
    assert passes == list(range(1, 5001))
    assert drive.tell({"end": {}})["finished"]["passed"] == 5001


def test_record_replay_and_http_are_steps(contract, server):
    scenario = {
        "scenario": "tools",
        "clients": {"dev": {"count": 2}, "app": {}},
        "steps": [
            {"record": {"name": "of-{{scenario}}", "topics": ["r/#"]}},
            {"dev.publish": {"topic": "r/{{i}}", "payload": "{{n}}", "qos": 1, "count": 3}},
            {"mark": "half time"},
            {"record.stop": "of-{{scenario}}"},
            {"app.subscribe": "r/#"},
            {"replay": {"recording": "of-{{scenario}}", "speed": "max"}},
            {"expect": {"client": "app", "topic": "r/+", "count": 6}},
            {"http": {"url": f"http://127.0.0.1:{server.http}/__mockforge/recordings/of-tools", "expect": {"body": {"$.marks": {"exists": False}, "$.state": "RECORDING_STATE_COMPLETE"}}}},
            {"http": {"url": f"http://127.0.0.1:{server.http}/nothing", "expect": {"status": 404}}},
            {"repeat": {"times": 3, "steps": [{"app.publish": {"topic": "r/{{pass}}", "payload": "{{pass}}"}}, {"expect": {"client": "app", "topic": "r/{{pass}}"}}]}},
        ],
    }
    outcome = of_events(contract.rpcs["Scenarios.RunScenario"].grpc({"scenario": scenario}))
    assert outcome.exit_code == 0, outcome.failed
    assert [step["number"] for step in outcome.steps][-7:] == ["10.1", "10.2"] * 3 + ["10"]


@pytest.mark.parametrize(
    "text, code, printed",
    [
        ("scenario: x\nsteps:\n  - wait: 1ms\n", 4, "no step expects anything"),
        ("scenario: x\nsteps:\n  - wiat: 1ms\n", 2, r"s\.yaml:3:11: steps\[0\]\.wiat: unknown step \"wiat\"; did you mean \"wait\"\?"),
        ("scenario: x\nsteps: [", 2, r"s\.yaml:2:\d+: "),
        ("scenario: x\ntarget: mqtt://127.0.0.1:PORT\nclients: {a: {}}\nsteps:\n  - a.connect:\n", 3, "no client could connect"),
    ],
)
def test_exit_codes(tmp_path, text, code, printed):
    (tmp_path / "s.yaml").write_text(text.replace("PORT", str(free_port())))
    done = subprocess.run([binary(), "scenario", "run", "s.yaml"], cwd=tmp_path, capture_output=True, text=True, env=quiet(), timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    assert re.search(printed, done.stdout + done.stderr), done.stdout + done.stderr


def test_an_interrupted_run_ends_its_clients(server, contract, tmp_path):
    (tmp_path / "s.yaml").write_text(
        "scenario: long\nclients: {dev: {count: 20}}\nsteps:\n  - dev.connect:\n  - wait: 1h\n  - expect: {client: dev}\n"
    )
    with Process(binary(), "--server", f"127.0.0.1:{server.grpc}", "scenario", "run", tmp_path / "s.yaml") as process:
        process.wait_for("20 clients connected")
        assert process.end(signal.SIGINT) == 130
        assert "was cancelled" in process.output
    connected = lambda: [c for c in contract.rpcs["Broker.ListClients"].grpc({})["clients"] if c["connected"]]
    wait_until(lambda: not connected(), "clients to leave")


def test_reports_are_written_though_the_server_goes_away(tmp_path):
    """Whether it still says how the run ended, or does not."""
    (tmp_path / "s.yaml").write_text("scenario: lost\nclients: {a: {}}\nsteps:\n  - a.connect\n  - parallel: [{wait: 1h}]\n  - expect: {client: a}\n")
    for end, code in ((signal.SIGTERM, 130), (signal.SIGKILL, 3)):
        with Mockforge() as server:
            command = [binary(), "--server", f"127.0.0.1:{server.grpc}", "scenario", "run", "s.yaml", "--junit", "out.xml", "--json", "out.json"]
            with Process(*command, cwd=tmp_path) as process:
                process.wait_for("1 client connected")
                server.end(end)
                code_of = process.wait()
                assert code_of == code, process.output
        if end == signal.SIGKILL:
            assert "mockforge: the server went away before the run had ended" in process.output
        report = json.loads((tmp_path / "out.json").read_text())
        assert (report["verdict"], report["exit_code"]) == (("cancelled", 130) if code == 130 else ("lost", 3))
        assert (report["steps"][0]["number"], report["steps"][0]["status"]) == ("1", "passed")
        assert int(read_junit(tmp_path / "out.xml").get("failures")) == 1


def test_the_end_of_the_terminal_ends_a_run(server, contract, tmp_path):
    (tmp_path / "s.yaml").write_text("scenario: hung\nclients: {dev: {}}\nsteps:\n  - dev.connect\n  - wait: 1h\n  - expect: {client: dev}\n")
    with Process(binary(), "--server", f"127.0.0.1:{server.grpc}", "scenario", "run", tmp_path / "s.yaml") as process:
        process.wait_for("1 client connected")
        assert process.end(signal.SIGHUP) == 130
        assert "was cancelled" in process.output


def test_what_is_wrong_with_a_file_is_told_before_anything_is_started(tmp_path):
    (tmp_path / "s.yaml").write_text("scenario: x\nsteps: [{wiat: 1ms}]\n")
    done = subprocess.run([binary(), "-o", "json", "scenario", "run", "s.yaml"], cwd=tmp_path, capture_output=True, text=True, env=quiet(), timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    status = json.loads(line)
    assert status["code"] == 3 and status["details"][0]["field_violations"][0]["field"] == "steps[0].wiat"
    done = subprocess.run([binary(), "-o", "json", "scenario", "ls"], cwd=tmp_path, capture_output=True, text=True, env=quiet(), timeout=60)
    assert done.returncode == 3 and json.loads(done.stderr)["code"] == 14


def test_a_driver_is_told_of_steps_that_cannot_be_understood_and_goes_on(contract):
    drive = Drive(contract.rpcs["Scenarios.DriveScenario"])
    drive.tell({"start": {"scenario": {"scenario": "driven", "clients": {"app": {}}}}})
    refused = drive.tell({"step": {"app.subscrib": "a"}})["refused"]
    assert refused["problems"][0]["reason"] == 'unknown step "app.subscrib"; did you mean "app.subscribe"?'
    assert drive.tell({"step": {"app.subscribe": "a"}})["step_ended"]["status"].endswith("PASSED")
    assert drive.tell({"step": {"expect": {"client": "app", "count": 0, "for": "10ms"}}})["step_ended"]["status"].endswith("PASSED")
    assert drive.tell({"end": {}})["finished"]["verdict"] == "SCENARIO_VERDICT_PASSED"


def test_runs_are_listed_shown_and_reported_by_the_cli(server, contract):
    outcome = contract.rpcs["Scenarios.RunScenario"].grpc({"scenario": {"scenario": "listed", "steps": [{"wait": "1ms"}]}, "allow_empty": True})
    id = outcome[0]["started"]["id"]
    at = ["--server", f"127.0.0.1:{server.grpc}"]
    code, out, errors = run(*at, "scenario", "ls")
    assert code == 0 and re.search(rf"{id}  listed +passed", out), out + errors
    code, out, _ = run(*at, "scenario", "show", id)
    assert code == 0 and "1 wait" in out and "passed: 1 step passed" in out
    code, out, _ = run(*at, "scenario", "report", id, "--format", "junit")
    assert code == 0 and "<testsuites" in out
    assert isinstance(contract.rpcs["Scenarios.GetRun"].grpc({"id": "nothing"}), Refusal)
