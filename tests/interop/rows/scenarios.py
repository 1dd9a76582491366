from rows import BAD_TOKEN, Row, bad, refused

SCENARIO = {
    "scenario": "parity",
    "seed": 3,
    "clients": {"app": {"client_id": "app-{{run_id}}"}},
    "steps": [
        {"app.subscribe": "scenario/{{run_id}}"},
        {"app.publish": {"topic": "scenario/{{run_id}}", "payload": "on", "qos": 1}},
        {"expect": {"client": "app", "payload": "off", "within": "100ms"}, "on_failure": "continue"},
        {"expect": {"client": "app", "payload": "on"}},
    ],
}
WRONG = {"scenario": "x", "sed": 1, "steps": [{"wiat": "1s"}]}
NOTHING = refused({"id": "nothing"}, "NOT_FOUND", "RUN_NOT_FOUND")
# Of a run that is made anew.
MADE = ["id", "started_at", "ended_at", "took", "at", "summary", "topic", "report"]
BAD = [bad({}, "scenario"), bad({"scenario": WRONG}, "scenario.sed", "scenario.steps[0].wiat")]


def ended(**more):
    def play(scene):
        started = scene.call("Scenarios.RunScenario", {"scenario": SCENARIO})[0]["started"]
        return {"id": started["id"], **more}

    return play


ROWS = {
    "Scenarios.ValidateScenario": Row({"scenario": WRONG}, bad=[bad({}, "scenario")]),
    "Scenarios.RunScenario": Row({"scenario": SCENARIO}, differs=MADE, bad=[*BAD, bad({"scenario": SCENARIO, "target": "http://x"}, "target")]),
    "Scenarios.GetRun": Row(ended(), differs=MADE, bad=[NOTHING]),
    "Scenarios.ListRuns": Row(lambda scene: ended()(scene) and {"verdicts": ["SCENARIO_VERDICT_CANCELLED"], "page_size": 2}, bad=[BAD_TOKEN]),
    "Scenarios.CancelRun": Row(ended(), differs=MADE, bad=[NOTHING]),
    "Scenarios.GetRunReport": Row(ended(format="RUN_REPORT_FORMAT_JSON"), differs=MADE, bad=[NOTHING]),
}
