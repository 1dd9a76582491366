import base64
import json

from rows import BAD_TOKEN, Row, bad, refused

SESSION = json.dumps(
    {"version": 1, "messages": [{"t_ms": 10 * n, "topic": f"parity/{n % 2}", "payload": str(n), "qos": 1} for n in range(10)]}
).encode()
NOTHING = refused({"id": "nothing"}, "NOT_FOUND", "RECORDING_NOT_FOUND")
# Of a recording that is made anew.
MADE = ["id", "name", "started_at", "duration", "sha256", "events", "bytes", "packets", "connections", "edits"]


def pieces(name, content=SESSION):
    """A file in two pieces."""
    cut = [content[: len(content) // 2], content[len(content) // 2 :]]
    return [{"name": name, "file": {"data": base64.b64encode(piece).decode()}} for piece in cut]


def imported(name, **more):
    def bring(scene):
        scene.forget("Recordings.DeleteRecording", name)
        scene.call("Recordings.ImportRecording", pieces(name))
        return {"id": name, **more}

    return bring


def running(name, **more):
    def start(scene):
        ended(name)(scene)
        scene.call("Recordings.StartRecording", {"name": name})
        return {"id": name, **more}

    return start


def ended(name, request=None):
    def end(scene):
        scene.ask("Recordings.StopRecording", {"id": name})
        scene.forget("Recordings.DeleteRecording", name)
        return request

    return end


def several(scene):
    for name in ["parity-one", "parity-two"]:
        imported(name)(scene)
    scene.forget("Recordings.DeleteRecording", "parity-merged")
    return {"ids": ["parity-one", "parity-two"], "name": "parity-merged"}


def one_made_of(name, request):
    def bring(scene):
        scene.forget("Recordings.DeleteRecording", name)
        imported("parity-one")(scene)
        return {**request, "id": "parity-one", "name": name}

    return bring


ROWS = {
    "Recordings.StartRecording": Row(
        ended("parity-new", {"name": "parity-new", "topics": ["parity/#"], "redaction": {"rules": ["username=remove"]}}),
        differs=MADE,
        bad=[bad({"name": "a/b"}, "name"), bad({"name": "n", "topics": ["#/a"]}, "topics[0]")],
    ),
    "Recordings.SnapshotRecording": Row(ended("parity-last", {"name": "parity-last"}), differs=MADE, bad=[bad({"name": "a/b"}, "name")]),
    "Recordings.StopRecording": Row(
        running("parity-new"), differs=MADE, bad=[NOTHING, refused({"id": "parity"}, "FAILED_PRECONDITION", "RECORDING_ENDED")]
    ),
    "Recordings.MarkRecording": Row(
        running("parity-new", label="here"), differs=MADE, bad=[bad({"id": "parity", "label": ""}, "label")]
    ),
    "Recordings.GetRecording": Row({"id": "parity"}, bad=[NOTHING]),
    "Recordings.GetSummary": Row({"id": "parity", "filter": {"topics": ["parity/1"]}}, bad=[NOTHING]),
    "Recordings.InferMocks": Row({"id": "parity", "telemetry": True}, bad=[NOTHING]),
    "Recordings.ListRecordings": Row({"states": ["RECORDING_STATE_COMPLETE"], "page_size": 2}, bad=[BAD_TOKEN]),
    "Recordings.DeleteRecording": Row(imported("parity-gone"), bad=[NOTHING]),
    "Recordings.ListEvents": Row(
        {"id": "parity", "filter": {"topics": ["parity/1"], "types": ["PACKET_TYPE_PUBLISH"]}, "page_size": 2},
        bad=[NOTHING, bad({"id": "parity", "page_token": "!"}, "page_token"), bad({"id": "parity", "filter": {"topics": ["#a"]}}, "filter.topics[0]")],
    ),
    "Recordings.ReadEvents": Row({"id": "parity", "filter": {"topics": ["parity/0"]}}, bad=[NOTHING]),
    "Recordings.TailEvents": Row(
        running("parity-new", filter={"topics": ["parity/tail"]}),
        differs=["seq", "at", "connection"],
        happen=lambda scene: scene.connect("tailed").publish("parity/tail", "x", 0),
        bad=[NOTHING, refused({"id": "parity"}, "FAILED_PRECONDITION", "RECORDING_ENDED")],
    ),
    "Recordings.ExportRecording": Row({"id": "parity", "format": "RECORDING_FORMAT_NDJSON"}, bad=[NOTHING]),
    "Recordings.ImportRecording": Row(
        lambda scene: scene.forget("Recordings.DeleteRecording", "parity-come") or pieces("parity-come"),
        differs=["id", "started_at", "sha256"],
        bad=[
            refused(pieces("bad", b"this is no recording"), "INVALID_ARGUMENT", "UNSUPPORTED_FILE"),
            bad(pieces("a/b"), "name"),
        ],
    ),
    "Recordings.TrimRecording": Row(
        one_made_of("parity-less", {"filter": {"topics": ["parity/1"]}}), differs=[*MADE, "tool_version"], bad=[bad({"id": "parity"}, "filter")]
    ),
    "Recordings.MergeRecordings": Row(several, differs=MADE, bad=[bad({"ids": ["parity"]}, "ids")]),
    "Recordings.RedactRecording": Row(
        one_made_of("parity-clean", {"redaction": {"rules": ["topic:parity/+=hash"], "key": "aw=="}}),
        differs=MADE,
        bad=[bad({"id": "parity"}, "redaction.rules"), bad({"id": "parity", "redaction": {"rules": ["topic"]}}, "redaction.rules[0]")],
    ),
    "Recordings.CheckRecording": Row({"id": "parity"}, bad=[NOTHING]),
    "Recordings.CompareRecordings": Row(
        {"first": "parity", "second": "parity", "reports": ["REPORT_FORMAT_JUNIT"]},
        differs=["report"],
        bad=[bad({"first": "parity"}, "second"), refused({"first": "parity", "second": "x"}, "NOT_FOUND", "RECORDING_NOT_FOUND")],
    ),
}
