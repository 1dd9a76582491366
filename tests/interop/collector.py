"""A small OpenTelemetry collector of public packages: gRPC and HTTP, with what it is sent kept."""

import http.server
import queue
import threading
from concurrent import futures

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from peers import DEADLINE

TRACES = trace_service_pb2.ExportTraceServiceRequest, trace_service_pb2.ExportTraceServiceResponse
METRICS = metrics_service_pb2.ExportMetricsServiceRequest, metrics_service_pb2.ExportMetricsServiceResponse


class Collector:
    """`headers` are those of the last request."""

    def __init__(self):
        self.spans, self.metrics, self.headers, self.resource = queue.Queue(), queue.Queue(), {}, {}
        collector = self

        class Traces(trace_service_pb2_grpc.TraceServiceServicer):
            def Export(self, request, context):
                collector.headers = dict(context.invocation_metadata())
                return collector.take(request, TRACES[1])

        class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
            def Export(self, request, context):
                return collector.take(request, METRICS[1])

        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), self.server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), self.server)
        self.grpc = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                kinds = {"/v1/traces": TRACES, "/v1/metrics": METRICS}
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.headers = {name.lower(): value for name, value in self.headers.items()}
                if self.path not in kinds or self.headers["Content-Type"] != "application/x-protobuf":
                    return self.send_error(404)
                request, answer = kinds[self.path]
                taken = collector.take(request.FromString(body), answer).SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(taken)))
                self.end_headers()
                self.wfile.write(taken)

            def log_message(self, *_):
                pass

        self.web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.web.daemon_threads = True
        self.http = self.web.server_address[1]
        threading.Thread(target=self.web.serve_forever, daemon=True).start()

    def take(self, request, answer):
        if isinstance(request, TRACES[0]):
            for of_resource in request.resource_spans:
                self.resource = attributes(of_resource.resource)
                for scope in of_resource.scope_spans:
                    assert scope.scope.name == "mockforge"
                    for span in scope.spans:
                        self.spans.put(span)
        else:
            for of_resource in request.resource_metrics:
                found = {metric.name: metric for scope in of_resource.scope_metrics for metric in scope.metrics}
                self.metrics.put(found)
        return answer()

    def span(self, name, **wanted):
        """The next span of that name with those attributes, dots spelled `__`; others before it are dropped."""
        wanted = {key.replace("__", "."): value for key, value in wanted.items()}
        while True:
            span = self.spans.get(timeout=DEADLINE)
            if span.name == name and wanted.items() <= attributes(span).items():
                return span

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop(None)
        self.web.shutdown()
        self.web.server_close()


def attributes(of):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}


def numbers(metric):
    """Values by labels, of a gauge or a sum."""
    data = getattr(metric, metric.WhichOneof("data"))
    return {
        tuple(sorted(attributes(point).items())): getattr(point, point.WhichOneof("value")) for point in data.data_points
    }
