"""Webhooks: what the guide prints, receivers that are slow, fail or are gone, and what that does to MQTT."""

import hashlib
import hmac
import http.server
import json
import queue
import statistics
import threading
import time

import pytest

from pahoclient import V5, Client
from peers import DEADLINE, Mockforge, free_port, wait_until


class Sink:
    """An HTTP server that keeps what it gets; `answer` says what it answers, or waits."""

    def __init__(self, port=0, answer=lambda number: 200):
        self.requests = queue.Queue()
        sink = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with sink.lock:
                    sink.count += 1
                    number = sink.count
                sink.requests.put((self.command, self.path, self.headers, body))
                status = answer(number)
                if status is None:
                    sink.ended.wait(DEADLINE)
                    status = 200
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    pass

            do_GET = do_POST = do_PUT = handle_any

            def log_message(self, *_):
                pass

        self.lock, self.count, self.ended = threading.Lock(), 0, threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()

    def hear(self):
        return self.requests.get(timeout=DEADLINE)


def served(folder, text):
    (folder / "mockforge.yaml").write_text(text)
    return Mockforge("--config", folder / "mockforge.yaml")


GUIDE = """
mqtt:
  webhooks:
    - topic: "orders/+/created"
      url: "http://localhost:8080/webhook/order"
      method: POST
      headers:
        X-Source: "mqtt"
"""


def test_the_guides_webhook_posts_the_message(tmp_path):
    with Sink() as sink, served(tmp_path, GUIDE.replace("8080", str(sink.port))) as server, Client(server, V5, "shop") as shop:
        shop.connect()
        shop.publish("orders/7/created", '{"total":9.5}', 1, UserProperty=("trace", "1"), ContentType="application/json")
        method, path, headers, body = sink.hear()
        assert (method, path, headers["X-Source"]) == ("POST", "/webhook/order", "mqtt")
        assert headers["Content-Type"] == "application/json"
        told = json.loads(body)
        assert told.pop("timestamp").endswith("Z")
        assert told == {
            "topic": "orders/7/created",
            "payload": {"total": 9.5},
            "payload_encoding": "json",
            "qos": 1,
            "retain": False,
            "client_id": "shop",
            "properties": {"content_type": "application/json", "user": [{"name": "trace", "value": "1"}]},
        }
        shop.publish("orders/7/deleted", "x", 1)
        shop.publish("orders/8/created", b"\xff\x00", 1)
        told = json.loads(sink.hear()[3])
        assert (told["topic"], told["payload"], told["payload_encoding"]) == ("orders/8/created", "/wA=", "base64")
        assert sink.requests.empty()


def test_templates_conditions_and_the_signature(tmp_path):
    text = """
mqtt:
  webhooks:
    - id: big
      topic: "orders/{{number}}/created"
      when: {payload: {$.total: {gte: 10}}}
      url: "http://127.0.0.1:%d/orders/{{number}}?by={{client_id}}"
      method: PUT
      secret: sesame
      body: {total: "{{payload.total}}", said: "{{payload.said}}"}
"""
    with Sink() as sink, served(tmp_path, text % sink.port) as server, Client(server, V5, "shop") as shop:
        shop.connect()
        shop.publish("orders/1/created", '{"total": 9, "said": "no"}', 1)
        shop.publish("orders/2/created", '{"total": 10, "said": "\\"yes\\""}', 1)
        method, path, headers, body = sink.hear()
        assert (method, path) == ("PUT", "/orders/2?by=shop")
        assert json.loads(body) == {"total": "10", "said": '"yes"'}
        stamp, signature = (part.split("=", 1)[1] for part in headers["X-Mockforge-Signature"].split(","))
        assert signature == hmac.new(b"sesame", f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
        assert abs(int(stamp) - time.time()) < DEADLINE
        # Counted when our answer has been read, which is after we sent it.
        wait_until(lambda: server.rest("/webhooks/big")["delivered"] == 1, "the delivery to be counted")
        assert "sesame" not in json.dumps(server.rest("/webhooks/big"))


def test_a_receiver_that_fails_is_tried_again_and_the_log_says_so(tmp_path):
    text = "mqtt:\n  webhooks:\n    - {id: w, topic: a, url: 'http://127.0.0.1:%d/', retries: 3, backoff_ms: 20}\n"
    with Sink(answer=lambda number: 200 if number == 3 else 500) as sink, served(tmp_path, text % sink.port) as server:
        with Client(server, V5, "c") as client:
            client.connect()
            client.publish("a", "first", 1)
            attempts = [sink.hear() for _ in range(3)]
            assert len({body for _, _, _, body in attempts}) == 1
            # Four attempts, then it is given up.
            client.publish("a", "second", 1)
            given_up = [sink.hear() for _ in range(4)][0][3]
        wait_until(lambda: server.rest("/webhooks/w")["failed"] == 1, "the second message to be given up")
        newest, oldest = server.rest("/webhooks/w/deliveries")["deliveries"]
        assert (oldest["state"], oldest["attempts"], oldest["status"]) == ("DELIVERY_STATE_DELIVERED", 3, 200)
        assert (newest["state"], newest["attempts"], newest["status"]) == ("DELIVERY_STATE_FAILED", 4, 500)
        again = server.rest(f"/webhooks/w/deliveries/{newest['id']}:redeliver", {})
        assert again["id"] != newest["id"] and sink.hear()[3] == given_up
        code, output, errors = server.ask("webhooks", "deliveries", "w")
        assert code == 0 and "failed" in output, errors


def test_a_receiver_that_is_gone_or_answers_never_costs_mqtt_nothing(tmp_path):
    """Side by side on one server: topics with a webhook beside topics without. Queues stay within their limits."""
    text = f"""
mqtt:
  webhooks:
    - {{id: never, topic: "hooked/#", url: "http://127.0.0.1:%d/", timeout_ms: 60000, queue: 100}}
    - {{id: gone, topic: "hooked/#", url: "http://127.0.0.1:{free_port()}/", queue: 100, backoff_ms: 10000}}
"""
    with Sink(answer=lambda number: None) as sink, served(tmp_path, text % sink.port) as server:
        with Client(server, V5, "c") as client:
            client.connect()
            times = {"hooked": [], "plain": []}
            for number in range(600):
                for kind in times:
                    begin = time.perf_counter()
                    client.publish(f"{kind}/{number}", "x" * 100, 1)
                    times[kind].append(time.perf_counter() - begin)
        medians = {kind: statistics.median(of_kind) for kind, of_kind in times.items()}
        print(f"median round trip: {medians['hooked'] * 1e6:.0f} µs with, {medians['plain'] * 1e6:.0f} µs without webhooks")
        hooks = {hook["id"]: hook for hook in server.rest("/webhooks")["webhooks"]}
        for hook in hooks.values():
            assert hook["delivered"] == 0 and hook["failed"] == 0
            assert hook["queued"] <= 101 and hook["queued"] + hook["dropped"] == 600
        assert 'mqtt_webhook_deliveries_total{webhook="never",outcome="dropped"}' in server.metrics()
        assert server.end() == 0
