"""OpenTelemetry: what a collector gets of messages, calls and figures, and what becomes of them where there is none."""

import json
import time
import urllib.request

import grpc
import pytest

from collector import Collector, attributes, numbers
from pahoclient import V5, Client
from peers import DEADLINE, Mockforge, free_port, wait_until
from test_webhooks import Sink

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CONTEXT = f"00-{TRACE}-{PARENT}-01"
FAST = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "200"}


def exporting(collector, protocol):
    port = collector.grpc if protocol == "grpc" else collector.http
    return {
        **FAST,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=a%20b",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
        "OTEL_SERVICE_NAME": "broker-under-test",
    }


@pytest.fixture(params=["grpc", "http/protobuf"])
def protocol(request):
    return request.param


def joins(span):
    return span.trace_id.hex() == TRACE and span.parent_span_id.hex() == PARENT


def test_a_message_with_a_traceparent_joins_its_trace(protocol):
    with Collector() as collector, Mockforge(**exporting(collector, protocol)) as server:
        with Client(server, V5, "reader") as reader, Client(server, V5, "shop") as shop:
            reader.connect(), shop.connect()
            reader.subscribe("orders/#")
            before = time.time_ns()
            shop.publish("orders/1", "none", 1)
            shop.publish("orders/2", "12345", 1, UserProperty=[("traceparent", CONTEXT), ("tracestate", "a=b")])
            shop.publish("orders/3", "bad", 1, UserProperty=("traceparent", CONTEXT[:-1]))
            span = collector.span("publish")
            after = time.time_ns()
            assert joins(span) and len(span.span_id) == 8 and span.kind == span.SPAN_KIND_SERVER
            assert before <= span.start_time_unix_nano <= span.end_time_unix_nano <= after
            assert attributes(span) == {
                "messaging.system": "mqtt",
                "messaging.operation.name": "publish",
                "messaging.operation.type": "send",
                "messaging.destination.name": "orders/2",
                "messaging.client.id": "shop",
                "messaging.message.body.size": 5,
                "mqtt.qos": 1,
                "mqtt.receivers": 1,
            }
            assert collector.headers["x-tenant"] == "a b"
            assert collector.resource["service.name"] == "broker-under-test"
            assert collector.resource["deployment.environment"] == "test"
            # It goes on as it came.
            heard = [reader.hear() for _ in range(3)][1]
            assert heard.properties.UserProperty == [("traceparent", CONTEXT), ("tracestate", "a=b")]
            # One that is not sampled elsewhere is not here.
            shop.publish("orders/4", "x", 1, UserProperty=("traceparent", CONTEXT[:-1] + "0"))
            shop.publish("orders/5", "x", 1, UserProperty=("traceparent", CONTEXT))
            assert attributes(collector.span("publish"))["messaging.destination.name"] == "orders/5"


def test_what_follows_from_a_message_is_part_of_its_trace(tmp_path):
    (tmp_path / "mockforge.yaml").write_text(
        """
mqtt:
  mocks:
    - {id: echo, topic: ask, response: {topic: answer, payload: yes}}
  webhooks:
    - {topic: ask, url: "http://127.0.0.1:%d/"}
"""
    )
    text = (tmp_path / "mockforge.yaml").read_text()
    with Sink() as sink, Collector() as collector:
        (tmp_path / "mockforge.yaml").write_text(text % sink.port)
        settings = ["--config", tmp_path / "mockforge.yaml"]
        with Mockforge(*settings, **exporting(collector, "grpc")) as server, Client(server, V5, "c") as client:
            client.connect()
            client.subscribe("answer")
            client.publish("ask", "?", 1, UserProperty=[("traceparent", CONTEXT), ("tracestate", "a=b")])
            assert client.hear().properties.UserProperty == [("traceparent", CONTEXT), ("tracestate", "a=b")]
            assert joins(collector.span("publish", messaging__destination__name="answer"))
            _, _, headers, _ = sink.hear()
            assert (headers["traceparent"], headers["tracestate"]) == (CONTEXT, "a=b")
            # Nothing is made up.
            client.publish("ask", "?", 1)
            assert not hasattr(client.hear().properties, "UserProperty")
            assert sink.hear()[2]["traceparent"] is None


def test_a_proxy_has_a_span_of_a_message_that_passes():
    with Mockforge() as upstream, Collector() as collector:
        with Mockforge("--upstream", upstream.url, **exporting(collector, "grpc")) as proxy:
            with Client(proxy, V5, "c") as client:
                client.connect()
                client.subscribe("t")
                client.publish("t", "abc", 2, UserProperty=("traceparent", CONTEXT))
                assert client.hear().properties.UserProperty == [("traceparent", CONTEXT)]
                span = collector.span("publish")
                found = attributes(span)
                assert joins(span) and (found["messaging.client.id"], found["mqtt.qos"]) == ("c", 2)
                assert "mqtt.receivers" not in found
                for direction in ["client_to_server", "server_to_client"]:
                    line = f'mqtt_proxy_latency_seconds_count{{direction="{direction}"}} 1'
                    wait_until(lambda: line in proxy.metrics().splitlines(), line)


def test_calls_join_the_callers_trace_over_grpc_and_rest(protocol):
    with Collector() as collector, Mockforge(**exporting(collector, protocol)) as server:

        def get(path, **headers):
            request = urllib.request.Request(f"http://127.0.0.1:{server.http}/__mockforge{path}", headers=headers)
            try:
                return urllib.request.urlopen(request, timeout=DEADLINE).status
            except urllib.error.HTTPError as error:
                return error.code

        assert get("/mqtt/clients/nobody", traceparent=CONTEXT) == 404
        span = collector.span("mockforge.mqtt.v1.Broker/GetClient")
        assert joins(span) and span.kind == span.SPAN_KIND_SERVER
        # The caller's error is none of the server's.
        assert (attributes(span)["rpc.grpc.status_code"], span.status.code) == (5, 0)
        assert get("/info") == 200
        span = collector.span("mockforge.mqtt.v1.Admin/GetServerInfo")
        assert span.parent_span_id == b"" and span.trace_id.hex() != TRACE
        assert attributes(span) == {
            "rpc.system": "grpc",
            "rpc.service": "mockforge.mqtt.v1.Admin",
            "rpc.method": "GetServerInfo",
            "rpc.grpc.status_code": 0,
        }
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
            call = channel.unary_unary("/mockforge.mqtt.v1.Broker/GetStats")
            call(b"", metadata=[("traceparent", CONTEXT)], timeout=DEADLINE)
        assert joins(collector.span("mockforge.mqtt.v1.Broker/GetStats", rpc__grpc__status_code=0))


def test_a_replay_is_a_span_of_whoever_asked_for_it():
    with Collector() as collector, Mockforge(**exporting(collector, "grpc")) as server:
        with Client(server, V5, "c") as client:
            server.rest("/recordings", {"name": "r"})
            client.connect()
            client.publish("t", "x", 1)
            server.rest("/recordings/r:stop", {})
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.http}/__mockforge/replays",
            data=json.dumps({"recording": "r", "speed": 100.0}).encode(),
            headers={"traceparent": CONTEXT},
        )
        urllib.request.urlopen(request, timeout=DEADLINE).close()
        seen = [collector.spans.get(timeout=DEADLINE)]
        while not {"replay", "mockforge.mqtt.v1.Replays/CreateReplay"} <= {span.name for span in seen}:
            seen.append(collector.spans.get(timeout=DEADLINE))
        spans = {span.name: span for span in seen}
        call, replay = spans["mockforge.mqtt.v1.Replays/CreateReplay"], spans["replay"]
        assert joins(call) and replay.trace_id == call.trace_id and replay.parent_span_id == call.span_id
        assert attributes(replay)["mockforge.replay.outcome"] == "passed"
        assert attributes(replay)["mockforge.replay.sent"] == 1


def test_metrics_are_those_of_the_metrics_page(protocol):
    with Collector() as collector, Mockforge(**exporting(collector, protocol)) as server:
        with Client(server, V5, "c") as client:
            client.connect()
            client.subscribe("t")
            for _ in range(5):
                client.publish("t", "x", 1)
                client.hear()

            def counted():
                found = collector.metrics.get(timeout=DEADLINE)
                is_there = numbers(found["mqtt_messages_delivered_total"])[(("qos", "1"),)] == 5
                return found if is_there else None

            found = wait_until(counted, "the messages in the metrics")
            page = server.metrics()
        assert numbers(found["mqtt_messages_published_total"]) == {(("qos", q),): n for q, n in [("0", 0), ("1", 5), ("2", 0)]}
        assert numbers(found["mqtt_connections_total"])[(("status", "active"),)] == 1
        assert found["mqtt_messages_published_total"].sum.is_monotonic
        assert found["mqtt_connections_total"].WhichOneof("data") == "gauge"
        # No observable instrument takes a histogram: it is what it is on the page.
        buckets = numbers(found["mqtt_proxy_latency_seconds_bucket"])
        assert any(("le", "+Inf") in labels for labels in buckets)
        lines = [line for line in page.splitlines() if not line.startswith("#")]
        with_samples = {line.split("{")[0].split(" ")[0] for line in lines}
        assert found.keys() <= with_samples


def test_a_collector_that_is_down_is_told_once_and_nothing_waits_for_it():
    variables = {**FAST, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_BSP_MAX_QUEUE_SIZE": "5"}
    variables["OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"] = "grpc"
    with Mockforge(**variables) as server, Client(server, V5, "c") as client:
        client.connect()
        for _ in range(50):
            client.publish("t", "x", 1, UserProperty=("traceparent", CONTEXT))
        server.wait_for("traces are not taken by")
        server.wait_for("metrics are not taken by")

        def dropped():
            found = [line for line in server.metrics().splitlines() if line.startswith("mockforge_spans_dropped_total ")]
            return int(found[0].split()[1]) >= 35

        wait_until(dropped, "spans beyond the queue to be counted")
        # Many attempts later.
        time.sleep(0.5)
        assert (server.output.count("traces are not"), server.output.count("metrics are not")) == (1, 1)
        begun = time.monotonic()
        client.disconnect()
        assert server.end() == 0 and time.monotonic() - begun < 8


def test_what_is_left_is_sent_at_the_end():
    with Collector() as collector:
        variables = {**exporting(collector, "grpc"), "OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
        with Mockforge(**variables) as server, Client(server, V5, "c") as client:
            client.connect()
            client.publish("t", "x", 1, UserProperty=("traceparent", CONTEXT))
            client.disconnect()
            assert server.end() == 0, server.output
        assert joins(collector.span("publish"))
        found = collector.metrics.get(timeout=DEADLINE)
        assert numbers(found["mqtt_messages_published_total"])[(("qos", "1"),)] == 1


@pytest.mark.parametrize("off", [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}])
def test_nothing_is_exported_unless_asked_for(off):
    with Collector() as collector:
        variables = {**exporting(collector, "grpc"), **off}
        if not off:
            variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = ""
        with Mockforge(**variables) as server, Client(server, V5, "c") as client:
            client.connect()
            client.publish("t", "x", 1, UserProperty=("traceparent", CONTEXT))
            assert server.end() == 0
        assert collector.spans.empty() and collector.metrics.empty()


def test_a_wrong_variable_is_told_and_ignored():
    with Mockforge(OTEL_TRACES_SAMPLER="sometimes", OTEL_TRACES_EXPORTER="zipkin") as server:
        server.wait_for("OTEL_TRACES_EXPORTER is ignored: expected otlp or none, found \"zipkin\"")
