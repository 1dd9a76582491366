"""Two recordings compared: every exit code, and reports that others read."""

import copy
import json

import pytest

from junit import read_junit
from peers import ROOT, run


def sample():
    return json.loads((ROOT / "recordings" / "commands.json").read_text())


@pytest.fixture
def compare(tmp_path):
    """Compares two sessions, or a session with itself."""
    (tmp_path / "mockforge.yaml").write_text("store: {path: ./store}\n")

    def compared(first, second, *arguments):
        for name, session in [("first", first), ("second", second)]:
            file = tmp_path / f"{name}.json"
            session = copy.deepcopy(session)
            session.pop("id", None)
            file.write_text(json.dumps(session))
            code, _, errors = run("recordings", "import", file, "--name", name, cwd=tmp_path)
            assert code == 0, errors
        return run("recordings", "compare", "first", "second", *arguments, cwd=tmp_path)

    return compared


def delivery(session):
    return next(event for event in session["events"] if event.get("dir") == "s2c" and event.get("type") == "PUBLISH")


def changed(session):
    event = delivery(session)
    event.pop("raw", None)
    event["payload"], event["payload_encoding"] = '<b>"\n::error::&', "utf8"
    return event


def test_a_recording_is_what_it_is(compare, tmp_path):
    junit = tmp_path / "out.xml"
    code, out, errors = compare(sample(), sample(), "-o", "json", "--junit", junit)
    assert code == 0, out + errors
    report = json.loads(out)
    assert report["passed"] and report["matched"] == report["expected"] == report["observed"] > 100
    assert read_junit(junit).get("failures") == "0"


@pytest.mark.parametrize("level", ["payload", "packets"])
def test_what_changed_is_named_in_every_report(compare, tmp_path, level):
    other = sample()
    event = changed(other)
    files = [tmp_path / name for name in ["out.xml", "out.json", "out.html"]]
    flags = [flag for pair in zip(["--junit", "--json", "--html"], files) for flag in pair]
    code, out, errors = compare(sample(), other, "--level", level, *flags)
    assert code == 1, out + errors
    assert f"s2c {event['topic']}\n    payload: " in out and "\n::" not in out, out
    suite = read_junit(files[0])
    assert suite.get("failures") == "1" and suite.find("testcase/failure").get("type") == "changed"
    assert json.loads(files[1].read_text())["counts"] == {"changed": 1}
    page = files[2].read_text()
    assert "&lt;b&gt;" in page and "<b>" not in page and "http" not in page and "<script" not in page
    rules = tmp_path / "rules.yaml"
    rules.write_text(json.dumps([{"topic": event["topic"], "ignore": ["payload"]}]))
    code, out, errors = run("recordings", "compare", "first", "second", "--level", level, "--rules", rules, cwd=tmp_path)
    assert code == 0, out + errors


def test_having_nothing_to_compare_is_no_pass(compare, tmp_path):
    nothing = {**sample(), "events": [{"seq": 1, "t_ms": 0, "kind": "MARK", "label": "alone"}], "connections": []}
    junit = tmp_path / "out.xml"
    code, _, errors = compare(nothing, nothing, "--junit", junit)
    assert code == 4 and "nothing to compare" in errors
    assert read_junit(junit).get("failures") == "1"
    assert run("recordings", "compare", "first", "second", "--allow-empty", "--junit", junit, cwd=tmp_path)[0] == 0
    assert read_junit(junit).get("failures") == "0"


def test_a_recording_with_gaps_proves_nothing(compare, tmp_path):
    holey = sample()
    last = holey["events"][-1]
    holey["events"].append({"seq": last["seq"] + 1, "t_ms": last["t_ms"], "kind": "GAP", "events": 3, "bytes": 9})
    junit = tmp_path / "out.xml"
    code, out, errors = compare(sample(), holey, "--junit", junit)
    assert code == 5 and "second lacks 3 events" in errors, out + errors
    assert read_junit(junit).get("failures") == "1"


def test_what_cannot_be_asked_is_said_before_anything_is_read(compare, tmp_path):
    assert compare(sample(), sample(), "--level", "bytes")[0] == 2
    rules = tmp_path / "rules.yaml"
    rules.write_text("- {topics: a}")
    for flags, wanted in [
        (["--rules", rules], 'line 1, column 4: unknown key "topics"'),
        (["--rules", tmp_path / "none.yaml"], "none.yaml"),
        (["--html", tmp_path / "no" / "folder.html"], "folder.html"),
    ]:
        code, _, errors = run("recordings", "compare", "first", "second", *flags, cwd=tmp_path)
        assert code == 2 and wanted in errors, errors
    code, _, errors = run("recordings", "compare", "first", "third", cwd=tmp_path)
    assert code == 2 and "third" in errors
