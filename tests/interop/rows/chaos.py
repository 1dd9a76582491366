from rows import BAD_TOKEN, Row, bad, refused

RULE = {
    "id": "parity",
    "match": {"client": ["device"], "topic": ["parity/chaos"], "types": ["PUBLISH"]},
    "when": {"every_nth": 2},
    "actions": [{"latency": {"min_ms": 1, "max_ms": 2}}, {"duplicate": {"count": 1}}],
}
NOTHING = refused({"id": "nothing"}, "NOT_FOUND", "RULE_NOT_FOUND")


def made(request=None):
    def make(scene):
        scene.call("Chaos.ResetChaos", {})
        scene.call("Chaos.CreateRule", {"rule": RULE})
        return {"id": "parity"} if request is None else request

    return make


def clean(request):
    def reset(scene):
        scene.call("Chaos.ResetChaos", {})
        return request

    return reset


def ready_to_fail(scene):
    clean({})(scene)
    scene.call("Chaos.CreateRule", {"rule": {"match": RULE["match"], "actions": [{"drop": {}}], "id": "dropping"}})
    scene.call("Chaos.EnableChaos", {})


def fail(scene):
    ready_to_fail(scene)
    scene.device.publish("parity/chaos", "x", 0)


def failed(scene):
    fail(scene)
    asked = {"filter": {"client": "dev*", "rule": "dropping", "action": "drop"}, "page_size": 1}
    scene.wait("Chaos.ListFaults", asked, lambda found: found["faults"])
    return asked


ROWS = {
    "Chaos.GetChaos": Row(made({}), differs=["faults"]),
    "Chaos.EnableChaos": Row({}, differs=["faults"]),
    "Chaos.DisableChaos": Row({}, differs=["faults"]),
    "Chaos.ResetChaos": Row(made({}), differs=["faults"]),
    "Chaos.ApplyProfile": Row(clean({"name": "3g"}), bad=[bad({}, "name"), bad({"name": "mobile-9g"}, "name")]),
    "Chaos.ListProfiles": Row({"page_size": 2}, bad=[BAD_TOKEN]),
    "Chaos.CreateRule": Row(
        clean({"rule": RULE}),
        bad=[bad({}, "rule"), bad({"rule": {"actions": [{"latency": {"min_ms": 5, "max_ms": 1}}]}}, "rule.actions[0].latency.min_ms")],
    ),
    "Chaos.GetRule": Row(made(), bad=[NOTHING]),
    "Chaos.ListRules": Row(made({"page_size": 1}), bad=[BAD_TOKEN]),
    "Chaos.UpdateRule": Row(
        made({"id": "parity", "rule": {**RULE, "enabled": False}}),
        parts=[made({"id": "parity", "rule": {"when": {"first_n": 3}}, "update_mask": "when.firstN,match"})],
        bad=[refused({"id": "nothing", "rule": {"actions": [{"drop": {}}]}}, "NOT_FOUND", "RULE_NOT_FOUND"), bad({"id": "a"}, "rule")],
    ),
    "Chaos.DeleteRule": Row(made(), bad=[NOTHING]),
    "Chaos.GetSeed": Row({}),
    "Chaos.SetSeed": Row({"seed": 18446744073709551615}, bad=[bad({}, "seed")]),
    "Chaos.ListFaults": Row(
        failed, differs=["number", "at", "nth", "connection", "next_page_token"], bad=[BAD_TOKEN, bad({"filter": {"direction": 9, "action": "explode"}}, "filter.action", "filter.direction")]
    ),
    "Chaos.WatchFaults": Row(
        {"filter": {"rule": "dropping"}},
        differs=["number", "at", "nth", "connection"],
        happen=fail,
        bad=[bad({"filter": {"direction": 9, "action": "explode"}}, "filter.action", "filter.direction")],
    ),
}
