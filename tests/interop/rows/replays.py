from rows import BAD_TOKEN, Row, bad, refused

SPEC = {"recording": "parity", "speed": 2.0, "start_paused": True}
NOTHING = refused({"id": "nothing"}, "NOT_FOUND", "REPLAY_NOT_FOUND")
# Of a replay that is made anew, and of one that goes on.
MADE = ["id", "created_at", "ended_at", "elapsed", "span_actual", "p50", "p99", "max", "state"]


def paused(**more):
    def create(scene):
        replay = scene.call("Replays.CreateReplay", {"spec": SPEC})
        scene.wait("Replays.GetReplay", {"id": replay["id"]}, lambda replay: replay["progress"]["paused"])
        return {"id": replay["id"], **more}

    return create


def ended(**more):
    def play(scene):
        replay = scene.call("Replays.CreateReplay", {"spec": {**SPEC, "start_paused": False, "speed": 0.0}})
        scene.wait("Replays.GetReplay", {"id": replay["id"]}, lambda replay: replay["state"] == "REPLAY_STATE_COMPLETED")
        return {"id": replay["id"], **more}

    return play


BAD_SPECS = [
    bad({}, "spec"),
    refused({"spec": {"recording": "nothing"}}, "NOT_FOUND", "RECORDING_NOT_FOUND"),
    bad({"spec": {"recording": "parity", "speed": -1.0}}, "spec.speed"),
    bad({"spec": {"recording": "parity", "listen": "127.0.0.1:0"}}, "spec.listen"),
]
ROWS = {
    "Replays.CreateReplay": Row({"spec": SPEC}, differs=[*MADE, "progress"], bad=BAD_SPECS),
    "Replays.GetReplay": Row(ended(), differs=MADE, bad=[NOTHING]),
    "Replays.ListReplays": Row(lambda scene: ended()(scene) and {"states": ["REPLAY_STATE_CANCELLED"], "page_size": 2}, bad=[BAD_TOKEN]),
    "Replays.WatchReplay": Row(ended(), differs=MADE, bad=[NOTHING]),
    "Replays.CancelReplay": Row(paused(), differs=[*MADE, "progress", "report"], bad=[NOTHING]),
    "Replays.GetReplayReport": Row(ended(format="REPORT_FORMAT_JSON"), differs=["report"], bad=[NOTHING]),
    "Replays.PauseReplay": Row(paused(), differs=[*MADE, "progress"], bad=[NOTHING]),
    "Replays.ResumeReplay": Row(paused(), differs=[*MADE, "progress"], bad=[NOTHING]),
    "Replays.StepReplay": Row(paused(), differs=[*MADE, "progress"], bad=[NOTHING]),
    "Replays.BurstReplay": Row(paused(count=2), differs=[*MADE, "progress"], bad=[NOTHING]),
    "Replays.SetReplaySpeed": Row(paused(speed=0.5), differs=[*MADE, "progress"], bad=[bad({"id": "nothing"}, "speed")]),
    "Replays.SeekReplay": Row(
        paused(position="0.050s"), differs=[*MADE, "progress"], bad=[bad({"id": "x"}, "position")]
    ),
    "Replays.PlanReplay": Row({"spec": SPEC}, bad=BAD_SPECS),
}
