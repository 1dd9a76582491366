"""What each rpc is asked by the parity test: a module a service, whose ROWS are by `Service.Method`."""

import importlib
import pkgutil


class Row:
    """How one rpc is tried.

    `request`: as REST's JSON; or a function of the scene that brings about what the call needs, each time before it, and
    answers the request. Of a client stream, the list of its pieces.
    `differs`: fields whose values may differ from call to call.
    `bad`: requests that are refused, each with the name of its code, its reason and, for BAD_FIELD, the fields.
    `happen`, of a stream that waits: a function of the scene that leads to its first `count` answers.
    `parts`: requests with an `update_mask`, which PATCH is sent as well.
    `alone`: whether each call needs a server for itself.
    `any`: whether no request can be wrong.
    """

    def __init__(self, request, differs=(), bad=(), happen=None, count=1, parts=(), alone=False, any=False):
        self.request, self.differs, self.bad = request, set(differs), bad
        self.happen, self.count, self.parts, self.alone, self.any = happen, count, parts, alone, any

    def ask(self, scene):
        return self.request(scene) if callable(self.request) else self.request


def bad(request, *fields):
    """A request that is refused because of these fields."""
    return request, "INVALID_ARGUMENT", "BAD_FIELD", list(fields)


def refused(request, code, reason):
    return request, code, reason, []


BAD_TOKEN = bad({"page_token": "!"}, "page_token")


def all_rows():
    modules = [importlib.import_module(f"rows.{found.name}") for found in pkgutil.iter_modules(__path__)]
    rows = {}
    for module in modules:
        assert not rows.keys() & module.ROWS.keys()
        rows.update(module.ROWS)
    return rows
