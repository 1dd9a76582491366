"""Metrics as Prometheus' own tools see them, and the dashboard and rules against a real Prometheus that scrapes a real server."""

import json
import math
import re
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import pytest

from pahoclient import V5, Client
from peers import DEADLINE, ROOT, Mockforge, Process, free_port, needs, wait_until
from test_webhooks import Sink

RULES = ROOT / "deploy/prometheus/rules.yml"
CONFIG = ROOT / "deploy/prometheus/prometheus.yml"
DASHBOARD = ROOT / "deploy/grafana/mockforge.json"


def promtool(*arguments, given=None):
    done = subprocess.run(
        [needs("promtool"), *map(str, arguments)], input=given, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def expressions():
    """Title of the panel and what it queries, for each of the dashboard's targets."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])]


def in_words(expression):
    """With the dashboard's variables filled in."""
    for name, value in [("$job", "mockforge"), ("$instance", ".*"), ("$__rate_interval", "30s")]:
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


class Prometheus(Process):
    def __init__(self, folder, target):
        self.port = free_port()
        config = CONFIG.read_text().replace("localhost:3000", target).replace("rules.yml", str(RULES))
        config = config.replace("scrape_interval: 15s", "scrape_interval: 1s\n  evaluation_interval: 1s")
        (folder / "prometheus.yml").write_text(config)
        super().__init__(
            needs("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            cwd=folder,
        )

    def ask(self, path, **query):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            pytest.fail(f"{query}: {error.read().decode()}")

    def values(self, expression):
        """Of an expression that has to parse."""
        return [float(one["value"][1]) for one in self.ask("query", query=expression)["result"]]

    def is_ready(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=DEADLINE).status == 200
        except OSError:
            return False

    def is_scraping(self):
        return self.is_ready() and self.values('up{job="mockforge"} == 1') == [1.0]


def everything(folder, sink):
    """A server on which each of its figures moves."""
    settings = folder / "mockforge.yaml"
    settings.write_text(
        f"""
mqtt:
  max_connections: 3
  mocks:
    - {{id: echo, topic: ask, response: {{topic: answer, payload: yes}}}}
  webhooks:
    - {{id: told, topic: ask, url: "http://127.0.0.1:{sink.port}/"}}
  chaos:
    rules:
      - {{id: late, match: {{topic: slow}}, actions: [{{latency: {{min_ms: 1, max_ms: 2}}}}]}}
  durability: relaxed
"""
    )
    return Mockforge("--config", settings)


def test_the_metrics_page_is_as_prometheus_wants_it(tmp_path):
    with Sink() as sink, everything(tmp_path, sink) as server, Client(server, V5, "c") as client:
        client.connect()
        client.subscribe("#")
        client.publish("ask", "?", 1)
        client.hear()
        page = server.metrics()
        assert promtool("check", "metrics", given=page) == ""
        for name in ["topic", "client"]:
            assert not re.search(rf"[{{,]{name}\w*=", page), f"a label {name}"


def test_the_readme_has_every_metric_and_no_other(tmp_path):
    with Sink() as sink, everything(tmp_path, sink) as server, Client(server, V5, "c") as client:
        client.connect()
        client.subscribe("#")
        client.publish("ask", "?", 1)
        client.publish("slow", "?", 1)
        for _ in range(3):
            client.hear()
        sink.hear()
        wait_until(lambda: 'mqtt_faults_total{rule="late"' in server.metrics(), "the fault")
        page = server.metrics()
    served = {}
    for line in page.splitlines():
        if line.startswith("# HELP"):
            _, _, name, about = line.split(" ", 3)
            served[name] = ["", about.rstrip("."), set()]
        elif line.startswith("# TYPE"):
            _, _, name, kind = line.split(" ")
            served[name][0] = kind
        else:
            name = line.split("{")[0].split(" ")[0]
            family = name if name in served else re.sub("_(bucket|sum|count)$", "", name)
            labels = line[line.index("{") : line.rindex("}")] if "{" in line else ""
            served[family][2] |= set(re.findall(r"[{,](\w+)=", labels)) - {"le"}
    rows = re.findall(r"(?m)^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|$", (ROOT / "README.md").read_text())
    told = {name: [kind, about, set(re.findall(r"`(\w+)`", labels))] for name, kind, labels, about in rows}
    told = {name: row for name, row in told.items() if row[0] in ("counter", "gauge", "untyped", "histogram")}
    assert told == served


def test_rules_and_the_sample_of_a_scrape_are_valid_and_alerts_say_what_they_should():
    promtool("check", "rules", RULES)
    promtool("check", "config", CONFIG)
    promtool("test", "rules", ROOT / "tests/data/prometheus-rules.yml")


# What a broker that is well has no data of, and a proxy's or a tracer's.
EMPTY = {
    "Proxy latency",
}


def test_dashboard_and_rules_find_what_a_real_prometheus_scrapes(tmp_path):
    with Sink() as sink, everything(tmp_path, sink) as server, Client(server, V5, "c") as client:
        client.connect()
        client.subscribe("#")
        target = f"127.0.0.1:{server.http}"
        with Prometheus(tmp_path, target) as prometheus:
            wait_until(prometheus.is_scraping, f"a scrape: {prometheus.output}")
            for _ in range(2):
                server.rest("/recordings", {"name": "r"})
                for topic in ["ask", "slow", "t"] * 3:
                    client.publish(topic, "x", 1)
                server.rest("/recordings/r:stop", {})
                replay = server.rest("/replays", {"recording": "r", "speed": 100.0})
                wait_until(lambda: "report" in server.rest(f"/replays/{replay['id']}"), "the replay's end")
                server.rest("/recordings/r", method="DELETE")
                begun = prometheus.values("vector(time())")[0]
                wait_until(
                    lambda: (prometheus.values('timestamp(up{job="mockforge"})') or [0])[0] > begun, "another scrape"
                )
            for title, expression in expressions():
                found = prometheus.values(in_words(expression))
                assert found, f"{title}: nothing for {expression}"
                assert title in EMPTY or not all(map(math.isnan, found)), f"{title}: {found} for {expression}"
            for title, expression, least in [
                ("connections", 'mqtt_connections_total{status="active"}', 1),
                ("messages", "sum(mqtt_messages_published_total)", 18),
                ("mocks", 'sum(mqtt_mocks_fired_total{mock="echo"})', 6),
                ("faults", 'sum(mqtt_faults_total{rule="late", action="latency"})', 6),
                ("webhooks", 'sum(mqtt_webhook_deliveries_total{webhook="told", outcome="delivered"})', 6),
                ("replays", 'sum(mqtt_replays_total{outcome="passed"})', 2),
                ("lateness", "sum(mqtt_replay_lateness_seconds_count)", 18),
                ("recorder", "sum(mqtt_recorder_events_total)", 18),
            ]:
                assert sum(prometheus.values(expression)) >= least, title
            groups = wait_until(
                lambda: [group for group in prometheus.ask("rules")["groups"] if group["lastEvaluation"][:4] != "0001"],
                "rules to be evaluated",
            )
            rules = [rule for group in groups for rule in group["rules"]]
            assert len(groups) == 2 and rules
            for rule in rules:
                assert rule["health"] == "ok", rule
                prometheus.values(rule["query"])
            recorded = prometheus.values("mockforge:messages_published:rate5m")
            assert recorded and recorded[0] > 0
            firing = [alert for alert in prometheus.ask("alerts")["alerts"] if alert["state"] == "firing"]
            assert firing == []
            assert prometheus.end(signal.SIGTERM) == 0
