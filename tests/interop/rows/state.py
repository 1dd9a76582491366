from rows import BAD_TOKEN, Row, bad, refused

ENTRY = {"scope": "client:dev/1 %", "key": "a/b:c"}
NO_SCOPE = bad({"scope": "nowhere", "key": "a"}, "scope")
NOTHING = refused({"scope": "global", "key": "nothing"}, "NOT_FOUND", "STATE_NOT_FOUND")


def kept(scene):
    scene.call("State.SetState", {**ENTRY, "value": {"a": [1, "x"]}})
    return ENTRY


ROWS = {
    "State.GetState": Row(kept, bad=[NO_SCOPE, NOTHING]),
    "State.SetState": Row(
        {**ENTRY, "value": 21.5},
        bad=[NO_SCOPE, bad(ENTRY, "value")],
    ),
    "State.DeleteState": Row(kept, bad=[NO_SCOPE, NOTHING]),
    "State.ListState": Row(lambda scene: {"scope": kept(scene)["scope"]}, bad=[BAD_TOKEN, bad({"scope": "x"}, "scope")]),
    "State.ResetState": Row(lambda scene: kept(scene) and {}),
}
