"""The control plane as it describes itself by reflection: each rpc, over gRPC and over the REST twin that its annotation names.

What REST says of a message is worked out here a second time, from the contract's words alone, so that answers of both can be
compared as JSON.
"""

import base64
import json
import queue
import re
import subprocess
import urllib.parse

import grpc
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, empty_pb2, json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.unknown_fields import UnknownFieldSet
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from peers import DEADLINE, needs

PACKAGE = "mockforge.mqtt.v1."
JSON_PAYLOAD, JSON_VALUE = 50801, 50805  # the field options of options.proto
METHODS = ["get", "put", "post", "delete", "patch"]
# As google.rpc.Code documents them.
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}


class Contract:
    """All rpcs of the services that are ours, by `Service.Method`."""

    def __init__(self, channel):
        described = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(described)
        services = [name for name in described.get_services() if name.startswith(PACKAGE)]
        methods = [method for name in services for method in pool.FindServiceByName(name).methods]
        self.rpcs = {rpc.name: rpc for rpc in (Rpc(channel, method) for method in methods)}


class Rpc:
    def __init__(self, channel, method):
        self.service = method.containing_service
        self.name = f"{self.service.name}.{method.name}"
        described = descriptor_pb2.MethodDescriptorProto()
        method.CopyToProto(described)
        self.takes_stream, self.gives_stream = described.client_streaming, described.server_streaming
        self.input = message_factory.GetMessageClass(method.input_type)
        self.output = message_factory.GetMessageClass(method.output_type)
        # Parsed again where the annotation is known.
        options = descriptor_pb2.MethodOptions.FromString(described.options.SerializeToString())
        rule = options.Extensions[annotations_pb2.http]
        self.bindings = [(rule_method(rule), rule) for rule in [rule, *rule.additional_bindings] if rule_method(rule)]
        kind = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, False): channel.stream_unary,
            (True, True): channel.stream_stream,
        }[self.takes_stream, self.gives_stream]
        self._call = kind(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=self.input.SerializeToString,
            response_deserializer=self.output.FromString,
        )

    def message(self, request):
        return json_format.ParseDict(for_protobuf(self.input.DESCRIPTOR, request), self.input())

    def grpc(self, request):
        """What gRPC answers: a message as JSON, or a `Refusal`."""
        try:
            if self.gives_stream:
                return [as_json(answer) for answer in self._call(self.message(request), timeout=DEADLINE)]
            sent = iter([self.message(piece) for piece in request]) if self.takes_stream else self.message(request)
            return as_json(self._call(sent, timeout=DEADLINE))
        except grpc.RpcError as error:
            return Refusal.of_grpc(error)

    def grpc_stream(self, request, happen, count):
        """The first `count` answers; `happen` is called once the server has taken the call."""
        answers = self._call(self.message(request), timeout=DEADLINE)
        answers.initial_metadata()
        happen()
        heard = [as_json(next(answers)) for _ in range(count)]
        answers.cancel()
        return heard

    def grpc_both_ways(self, requests):
        """What is answered until the server ends the stream, each request being sent when the one before was answered."""
        answers, arrived = [], queue.Queue()

        def sent():
            for request in requests:
                yield self.message(request)
                arrived.get(timeout=DEADLINE)

        for answer in self._call(sent(), timeout=DEADLINE):
            answers.append(as_json(answer))
            arrived.put(None)
        return answers

    def http(self, base, request, binding=0):
        """The REST twin of a request: method, URL, JSON body or None."""
        method, rule = self.bindings[binding]
        rest = dict(request)
        path = re.sub(
            r"\{(\w+)\}", lambda found: urllib.parse.quote(str(rest.pop(found[1], "")), safe=""), getattr(rule, method)
        )
        if rule.body == "*":
            body, rest = rest, {}
        else:
            body = rest.pop(rule.body, None) if rule.body else None
        query = "&".join(parameters(rest))
        return method.upper(), f"{base}{path}" + (f"?{query}" if query else ""), body

    def rest(self, base, request, binding=0):
        """What REST answers by curl: JSON (a list for streams), or a `Refusal`."""
        if self.takes_stream:
            return self.upload(base, request)
        status, kind, body = curl(*self.http(base, request, binding))
        if status != 200:
            assert kind == "application/json", (status, kind, body)
            return Refusal.of_rest(status, json.loads(body))
        if self.output.DESCRIPTOR.full_name == "google.api.HttpBody":
            return {"content_type": kind, "data": body}
        if self.gives_stream:
            assert kind == "application/x-ndjson", kind
            return [json.loads(line) for line in body.splitlines()]
        assert kind == "application/json", kind
        return json.loads(body)

    def upload(self, base, request):
        """A file in pieces is one body over REST, and what goes with the first piece stands in the query."""
        [(method, rule)] = self.bindings
        pieces = [base64.b64decode(piece[rule.body]["data"]) for piece in request]
        method, url, _ = self.http(base, request[0])
        status, _, body = curl(method, url, b"".join(pieces), "application/octet-stream")
        return json.loads(body) if status == 200 else Refusal.of_rest(status, json.loads(body))

    def rest_stream(self, base, request, happen, count, events):
        """The first `count` answers, as server-sent events or as lines."""
        method, url, _ = self.http(base, request)
        accept = "text/event-stream" if events else "*/*"
        # The headers apart, because curl keeps them back until there is a body where both go the same way.
        command = [needs("curl"), "-sS", "-N", "-D", "/dev/stderr", "--max-time", str(DEADLINE), "-X", method]
        command += ["-H", f"Accept: {accept}", url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            try:
                status = child.stderr.readline()
                assert " 200 " in status, status
                headers = dict(line.strip().lower().split(": ", 1) for line in iter(child.stderr.readline, "\n"))
                assert headers["content-type"] == ("text/event-stream" if events else "application/x-ndjson")
                happen()
                lines = (line.strip() for line in child.stdout)
                if events:
                    lines = (line.removeprefix("data: ") for line in lines if line.startswith("data: "))
                return [json.loads(next(lines)) for _ in range(count)]
            finally:
                child.kill()


class Refusal:
    """An error: the name of its code, its message, reason and details, whoever said it."""

    def __init__(self, code, message, details):
        self.code, self.message, self.details = code, message, details

    @classmethod
    def of_grpc(cls, error):
        trailers = dict(error.trailing_metadata() or ())
        status = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))
        known = {kind.DESCRIPTOR.full_name: kind for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest)}
        details = []
        for detail in status.details:
            message = known[detail.TypeName()]()
            assert detail.Unpack(message)
            details.append({"@type": detail.type_url, **as_json(message)})
        return cls(error.code().name, error.details(), details)

    @classmethod
    def of_rest(cls, status, body):
        [code] = [code for code in grpc.StatusCode if code.value[0] == body["code"]]
        assert HTTP_STATUS[code.name] == status, (status, body)
        assert body.keys() == {"code", "message", "details"}
        return cls(code.name, body["message"], body["details"])

    @property
    def reason(self):
        return next((detail["reason"] for detail in self.details if "reason" in detail), None)

    @property
    def fields(self):
        return [one["field"] for detail in self.details for one in detail.get("field_violations", ())]

    def __eq__(self, other):
        return isinstance(other, Refusal) and vars(self) == vars(other)

    def __repr__(self):
        return f"{self.code} {self.message!r} {self.details}"


def curl(method, url, body, kind="application/json"):
    """(status, content type without parameters, body) of a request; bodies other than bytes go as JSON."""
    sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    command = [needs("curl"), "-sS", "--max-time", str(DEADLINE), "-X", method]
    command += ["-w", "\n%{http_code} %{content_type}", url]
    command += [] if sent is None else ["-H", f"Content-Type: {kind}", "--data-binary", "@-"]
    done = subprocess.run(command, input=sent or b"", capture_output=True)
    assert done.returncode == 0, done.stderr
    text, _, said = done.stdout.decode().rpartition("\n")
    status, _, kind = said.partition(" ")
    return int(status), kind.split(";")[0], text


def rule_method(rule):
    return next((method for method in METHODS if getattr(rule, method)), None)


def parameters(value, path=""):
    for name, inner in value.items():
        for one in inner if isinstance(inner, list) else [inner]:
            if isinstance(one, dict):
                yield from parameters(one, f"{path}{name}.")
            else:
                text = json.dumps(one) if isinstance(one, bool) else str(one)
                yield f"{path}{name}={urllib.parse.quote(text, safe='')}"


# ---- JSON


def carries(field, option):
    # Read as a message that knows no field: whether the option is known depends on what else was read in this process.
    options = empty_pb2.Empty.FromString(field.GetOptions().SerializeToString())
    return any(one.field_number == option and one.data for one in UnknownFieldSet(options))


def is_map(field):
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def for_protobuf(descriptor, value):
    """REST's JSON as protobuf's own: payloads in base64."""
    if descriptor.full_name.startswith("google."):
        return value
    said = {}
    for name, inner in value.items():
        if name.endswith("_base64") and name not in descriptor.fields_by_name:
            said[name.removesuffix("_base64")] = inner
            continue
        field = descriptor.fields_by_name[name]
        if carries(field, JSON_PAYLOAD):
            said[name] = base64.b64encode(payload_of_json(inner)).decode()
        elif carries(field, JSON_VALUE):
            said[name] = base64.b64encode(json.dumps(inner).encode()).decode()
        elif field.message_type is None:
            said[name] = inner
        elif is_map(field):
            entry = field.message_type.fields_by_name["value"].message_type
            said[name] = {key: for_protobuf(entry, one) if entry else one for key, one in inner.items()}
        elif isinstance(inner, list):
            said[name] = [for_protobuf(field.message_type, one) for one in inner]
        else:
            said[name] = for_protobuf(field.message_type, inner)
    return said


def payload_of_json(value):
    if value is None:
        return b""
    return value.encode() if isinstance(value, str) else json.dumps(value, separators=(",", ":")).encode()


def as_json(message):
    """A message as REST writes it."""
    descriptor = message.DESCRIPTOR
    if descriptor.full_name.startswith("google.protobuf."):
        return json_format.MessageToDict(message)
    if descriptor.full_name == "google.api.HttpBody":
        # Its extensions are not for REST.
        return {"content_type": message.content_type, "data": base64.b64encode(message.data).decode()}
    said = {}
    for field in descriptor.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if is_map(field):
            inner = field.message_type.fields_by_name["value"]
            said[field.name] = {str(key): scalar(inner, value[key]) for key in value}
        elif not field.has_presence and not isinstance(value, (str, bytes, int, float, bool)):
            said[field.name] = [scalar(field, one) for one in value]
        elif carries(field, JSON_VALUE):
            said[field.name] = value_as_json(value)
        elif carries(field, JSON_PAYLOAD):
            said.update(payload_as_json(field.name, value))
        else:
            said[field.name] = scalar(field, value)
    return said


def scalar(field, value):
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return as_json(value)
    if field.type == FieldDescriptor.TYPE_ENUM:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(value).decode()
    return value


def value_as_json(value):
    try:
        return json.loads(value)
    except ValueError:
        return value.decode()


def payload_as_json(name, payload):
    """The first of JSON value, string and base64 that gives back the exact bytes."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(payload).decode()}
    without_spaces = re.sub(r'("(?:[^"\\]|\\.)*")|[ \t\n\r]+', r"\1", text)
    if text[:1] in tuple("{[-0123456789tf") and without_spaces == text:
        try:
            return {name: json.loads(text)}
        except ValueError:
            pass
    return {name: text}


def differences(one, other, may_differ, path=""):
    """Where two answers differ, but for the values of fields that may (their kind may not)."""
    if type(one) is not type(other) and not {type(one), type(other)} <= {int, float}:
        return [f"{path}: {one!r} and {other!r}"]
    if path.rpartition(".")[2].split("[")[0] in may_differ:
        return []
    if isinstance(one, dict):
        found = [f"{path}: {sorted(one)} and {sorted(other)}"] if one.keys() != other.keys() else []
        return found + [
            text
            for name in one.keys() & other.keys()
            for text in differences(one[name], other[name], may_differ, f"{path}.{name}")
        ]
    if isinstance(one, list):
        found = [f"{path}: {len(one)} and {len(other)} entries"] if len(one) != len(other) else []
        return found + [
            text
            for index, pair in enumerate(zip(one, other))
            for text in differences(*pair, may_differ, f"{path}[{index}]")
        ]
    return [] if one == other else [f"{path}: {one!r} and {other!r}"]
