"""The same clients at two brokers at once: what comes back from the second is compared with the first."""

import json
import subprocess

import pytest

from peers import ROOT, Mockforge, Mosquitto, free_port, needs, run

SAMPLE = ROOT / "recordings" / "sensor-fleet.json"


def replay(first, second, *arguments, cwd):
    command = ["mqtt", "replay", "--input", SAMPLE, "--target", first, "--target", second, "--speed", "10"]
    return run(*command, "-o", "json", *arguments, cwd=cwd)


def retain(broker, topic):
    command = [needs("mosquitto_pub"), "-p", str(broker.port), "-t", topic, "-m", "left over", "-r", "-q", "1"]
    subprocess.run(command, check=True, timeout=20)


@pytest.mark.parametrize("level", ["count", "payload", "packets"])
def test_brokers_that_do_the_same_pass(tmp_path, level):
    with Mosquitto() as first, Mosquitto() as second:
        code, output, errors = replay(first.url, second.url, "--verify", level, cwd=tmp_path)
    assert code == 0, output + errors
    report = json.loads(output)
    verification = report["verification"]
    assert report["target"] == f"{first.url} and {second.url}"
    assert verification["passed"] and verification["matched"] == verification["expected"] > 5


def test_an_upgrade_to_another_broker_passes(tmp_path):
    with Mosquitto() as first, Mockforge() as second:
        code, output, errors = replay(first.url, second.url, cwd=tmp_path)
    assert code == 0, output + errors
    # Messages are compared if nothing else is said.
    assert json.loads(output)["verification"]["level"] == "payload"


@pytest.mark.parametrize("where, kind", [(0, "missing"), (1, "unexpected")])
def test_what_only_one_of_them_sends_is_named_with_its_target(tmp_path, where, kind):
    with Mosquitto() as first, Mosquitto() as second:
        retain([first, second][where], "sensors/left/over")
        reports = ["--html", "out.html", "--junit", "out.xml"]
        code, output, errors = replay(first.url, second.url, *reports, cwd=tmp_path)
    assert code == 1, output + errors
    differences = json.loads(output)["verification"]["differences"]
    assert {(one["kind"], one["subject"]) for one in differences} == {(kind, "sensors/left/over")}
    page = (tmp_path / "out.html").read_text()
    assert first.url in page and second.url in page


def test_one_that_cannot_be_reached_ends_both(tmp_path):
    nobody = f"mqtt://127.0.0.1:{free_port()}"
    with Mosquitto() as broker:
        for targets in ([broker.url, nobody], [nobody, broker.url]):
            code, output, errors = replay(*targets, cwd=tmp_path)
            assert code == 3 and nobody in errors, output + errors


def test_what_cannot_be_compared_is_refused(tmp_path):
    first, second = "mqtt://127.0.0.1:1", "mqtt://127.0.0.1:2"
    for arguments, why in [
        (["--mode", "client", "--verify", "none"], "two targets are compared"),
        (["--mode", "publish"], "--mode client"),
        (["--target", "mqtt://127.0.0.1:3"], "--target may be given twice"),
    ]:
        code, _, errors = replay(first, second, *arguments, cwd=tmp_path)
        assert code == 2 and why in errors, errors
    code, _, errors = replay(first, first, cwd=tmp_path)
    assert code == 2 and "other_target" in errors, errors


def test_a_report_of_the_run_before_does_not_stand_for_one_that_read_nothing(tmp_path):
    (tmp_path / "out.xml").write_text('<testsuites tests="1" failures="0" errors="0"/>')
    damaged = tmp_path / "damaged.json"
    damaged.write_bytes(SAMPLE.read_bytes()[:-200])
    command = ["mqtt", "replay", "--input", damaged, "--mode", "client", "--junit", "out.xml"]
    with Mosquitto() as first, Mosquitto() as second:
        code, _, errors = run(*command, "--target", first.url, "--target", second.url, cwd=tmp_path)
    assert code == 5, errors
    assert not (tmp_path / "out.xml").exists()
