"""Requests and answers against a vendor's OpenAPI document.

What the document says is looked at by `openapi-schema-validator`; besides, names that
it does not know are violations, as nothing else would notice a misspelt field.
"""

import json
import re
import urllib.parse

from openapi_schema_validator import OAS30Validator

from emulator import Cloud, Reply, Request

# Formats that the document describes looser than JSON schema's own checkers.
VALIDATOR = OAS30Validator


class Document:
    """A document, maybe of many files, read as far as it is needed.

    `load(name)` gives a file; the first is `root`.
    """

    def __init__(self, root: str, load):
        self.load = load
        self.files: dict = {}
        self.root = root
        self.whole: dict = {}
        self.operations: dict = {}
        for path, item in self.file(root)["paths"].items():
            pattern = re.sub(r"\{([^}]+)\}", lambda m: f"(?P<{re.sub(r'[^a-zA-Z0-9_]', '_', m[1])}>[^/]+)", path)
            if isinstance(item, dict):
                self.operations.setdefault(path, (re.compile(pattern), item))

    def file(self, name: str):
        if name not in self.files:
            self.files[name] = self.load(name)
        return self.files[name]

    def follow(self, ref: str, base: str) -> tuple:
        """What a reference means, and the file it stands in."""
        name, _, pointer = ref.partition("#")
        name = urllib.parse.urljoin(base, name) if name else base
        at = self.file(name)
        for part in pointer.strip("/").split("/") if pointer.strip("/") else []:
            at = at[urllib.parse.unquote(part).replace("~1", "/").replace("~0", "~")]
        return at, name

    def resolve(self, node, base: str, seen: tuple = ()):
        """A node with all its references followed."""
        if isinstance(node, list):
            return [self.resolve(n, base, seen) for n in node]
        if not isinstance(node, dict):
            return node
        if isinstance(node.get("$ref"), str):
            key = (base, node["$ref"])
            if key in seen:
                return {}
            if key not in self.whole:
                found, where = self.follow(node["$ref"], base)
                self.whole[key] = self.resolve(found, where, (*seen, key))
            return self.whole[key]
        # Examples are no part of what is promised, and have forms of their own.
        out = {k: self.resolve(v, base, seen) for k, v in node.items() if k not in ("example", "examples")}
        if out.get("nullable") is True and "allOf" in out and "type" not in out:
            # Strictly read, null would have to fit all parts, which no document means.
            return {"anyOf": [{k: v for k, v in out.items() if k != "nullable"}, {"enum": [None], "nullable": True}]}
        return out

    def find(self, method: str, path: str):
        """The operation of a request: its path in the document, itself, path parameters."""
        best = None
        for template, (pattern, item) in self.operations.items():
            match = pattern.fullmatch(path)
            if match and method.lower() in item:
                # A fixed word is better than a parameter.
                if best is None or template.count("{") < best[0].count("{"):
                    best = (template, item, match.groupdict())
        if best is None:
            return None
        template, item, params = best
        operation = self.resolve(item[method.lower()], self.root)
        shared = self.resolve(item.get("parameters", []), self.root)
        return template, {**operation, "parameters": [*shared, *operation.get("parameters", [])]}, params


def known(schema: dict) -> set | None:
    """Names that an object may have; None where any is right."""
    names = set(schema.get("properties", {}))
    some = bool(names)
    for key in ("allOf", "oneOf", "anyOf"):
        for part in schema.get(key, []):
            below = known(part)
            if below is not None:
                names |= below
                some = True
    extra = schema.get("additionalProperties")
    if extra not in (None, False):
        return None
    return names if some else None


def parts(schema: dict, name: str):
    """All that is said of a property."""
    if name in schema.get("properties", {}):
        yield schema["properties"][name]
    for key in ("allOf", "oneOf", "anyOf"):
        for part in schema.get(key, []):
            yield from parts(part, name)


def items(schema: dict):
    if "items" in schema:
        yield schema["items"]
    for key in ("allOf", "oneOf", "anyOf"):
        for part in schema.get(key, []):
            yield from items(part)


def unknown(schemas: list, value, path: str = "") -> list:
    """Names in a value that the document does not know."""
    wrong = []
    if isinstance(value, dict):
        names = [known(s) for s in schemas]
        if names and all(n is not None for n in names):
            allowed = set().union(*names)
            wrong += [f"{path}.{k}: no such field" for k in value if k not in allowed]
        for k, v in value.items():
            below = [p for s in schemas for p in parts(s, k)]
            if below:
                wrong += unknown(below, v, f"{path}.{k}")
    elif isinstance(value, list):
        below = [i for s in schemas for i in items(s)]
        for i, v in enumerate(value):
            if below:
                wrong += unknown(below, v, f"{path}[{i}]")
    return wrong


def check(schema: dict, value) -> list:
    found = VALIDATOR(schema).iter_errors(value)
    wrong = [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:300]}" for e in found]
    return wrong + unknown([schema], value)


def typed(schema: dict, text: str):
    """A parameter as what the document says it is."""
    kind = schema.get("type")
    if kind == "integer" and re.fullmatch(r"-?\d+", text):
        return int(text)
    if kind == "boolean" and text in ("true", "false"):
        return text == "true"
    return text


class Rest(Cloud):
    """A cloud whose model is such a document. Subclasses have a method for each
    operation, found by `routes()`: (method, path in the document) to a function."""

    # Beginning of all paths, which the document does not have.
    prefix = ""
    # Fields of bodies that go into the log.
    shown: tuple = ()

    def __init__(self, document: Document):
        self.document = document
        self.table = self.routes()

    def routes(self) -> dict:
        raise NotImplementedError

    def read(self, request: Request) -> None:
        path = request.path.removeprefix(self.prefix)
        request.facts["pairs"] = urllib.parse.parse_qsl(request.query, keep_blank_values=True)
        found = self.document.find(request.method, path)
        request.operation = found
        request.action = f"{request.method} {found[0] if found else path}"
        try:
            request.json = json.loads(request.body) if request.body else None
        except ValueError:
            request.json = None
        if isinstance(request.json, dict):
            request.facts["body"] = {k: v for k, v in request.json.items() if k in self.shown}

    def violations(self, request: Request) -> list:
        if request.operation is None:
            return [f"{request.action}: no such operation"]
        _, operation, params = request.operation
        wrong = []
        described = {(p["in"], p["name"]): p for p in operation["parameters"]}
        for name, text in params.items():
            p = described.get(("path", name))
            if p:
                wrong += check(p["schema"], typed(p["schema"], text))
        lists: dict = {}
        for name, text in request.facts["pairs"]:
            p = described.get(("query", name))
            if p is None:
                wrong.append(f"query {name}: no such parameter")
            elif p["schema"].get("type") == "array":
                lists.setdefault(name, []).append(typed(p["schema"].get("items", {}), text))
            else:
                wrong += [f"query {name}: {w}" for w in check(p["schema"], typed(p["schema"], text))]
        for name, values in lists.items():
            wrong += [f"query {name}: {w}" for w in check(described[("query", name)]["schema"], values)]
        for (where, name), p in described.items():
            if where == "query" and p.get("required") and name not in dict(request.facts["pairs"]):
                wrong.append(f"query {name} is missing")
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if request.body:
            if content is None:
                wrong.append("it takes no body")
            elif request.json is None:
                wrong.append("the body is no JSON")
            else:
                wrong += check(content["schema"], request.json)
            if not request.headers.get("content-type", "").startswith("application/json"):
                wrong.append("content-type")
        elif content is not None and operation["requestBody"].get("required", False):
            wrong.append("the body is missing")
        return wrong

    def reply_violations(self, request: Request, reply: Reply) -> list:
        if request.operation is None:
            return []
        responses = request.operation[1]["responses"]
        status = str(reply.status)
        described = responses.get(status) or responses.get(f"{status[0]}xx") or responses.get("default")
        if described is None:
            return [f"status {status} is none of {sorted(responses)}"]
        content = described.get("content", {}).get("application/json")
        if content is None:
            return [f"a body with status {status}"] if reply.body else []
        if not reply.body:
            return [f"no body with status {status}"]
        return [f"answer: {w}" for w in check(content["schema"], json.loads(reply.body))]

    def answer(self, request: Request) -> Reply:
        refused = self.refused(request)
        if refused is not None:
            return refused
        function = self.table.get(request.action)
        if function is None:
            raise NotImplementedError(request.action)
        params = request.operation[2]
        reply = function(request, *params.values())
        reply.headers = {**self.headers(), **reply.headers}
        return reply

    def refused(self, request: Request) -> Reply | None:
        """Where a request does not get so far as to be carried out."""
        return None

    def headers(self) -> dict:
        return {}


def reply(status: int, body: object = None, **headers: str) -> Reply:
    if body is None:
        return Reply(status, b"", headers)
    return Reply(status, json.dumps(body).encode(), {"content-type": "application/json", **headers})
