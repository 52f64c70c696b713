"""Google's discovery documents as a judge: which method a request is, what is wrong
with its parameters and its body, and what is wrong with an answer.

The documents are those of the package google-api-python-client (Apache-2.0); its
client, which is the vendor's own, must send the same as we got.
"""

import json
import re
import urllib.parse
from pathlib import Path

import googleapiclient
import googleapiclient.discovery
import httplib2

DOCUMENTS = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"


class Method:
    def __init__(self, api: str, path: list, described: dict, common: dict):
        self.api = api
        self.path = path
        self.described = described
        self.name = ".".join(path)
        self.parameters = described.get("parameters", {})
        # Parameters that every method has.
        self.common = common

    def __repr__(self):
        return self.name

    def takes(self, given: dict) -> bool:
        """Whether the parts of a path fit this method's patterns."""
        return all(re.fullmatch(self.parameters[k].get("pattern", ".*"), v) for k, v in given.items())


class Api:
    """One service."""

    def __init__(self, name: str, version: str):
        self.document = json.loads((DOCUMENTS / f"{name}.{version}.json").read_text())
        self.name = name
        self.schemas = self.document["schemas"]
        self.prefix = "/" + self.document["servicePath"]
        self.methods: list = []
        self.collect(self.document, [])
        self.service = None

    def collect(self, resource: dict, path: list) -> None:
        for name, method in resource.get("methods", {}).items():
            found = Method(self.name, path + [name], method, self.document["parameters"])
            # `{project}` is one part of a path, `{+name}` several.
            pattern = re.sub(
                r"\\{(\\\+)?(\w+)\\}",
                lambda m: f"(?P<{m[2]}>{'.+' if m[1] else '[^/:]+'})",
                re.escape(self.prefix + method["path"]),
            )
            self.methods.append((method["httpMethod"], re.compile(pattern + r"\Z"), found))
        for name, below in resource.get("resources", {}).items():
            self.collect(below, path + [name])

    def find(self, verb: str, path: str):
        """The method of a request and its parameters in the path."""
        best = None
        for http, pattern, method in self.methods:
            found = pattern.match(path) if http == verb else None
            if found and self.prefix == "/" and not method.takes(found.groupdict()):
                # Services that share a prefix tell their paths apart by patterns alone.
                continue
            # Literal parts before parameters: `…/family/x` is no image's name.
            if found and (best is None or len(pattern.pattern) > len(best[2].pattern)):
                best = (method, {k: urllib.parse.unquote(v) for k, v in found.groupdict().items()}, pattern)
        return best[:2] if best else None

    def check_parameters(self, method: Method, given: dict, query: list) -> list:
        wrong = []
        for name, value in list(given.items()) + query:
            described = method.parameters.get(name) or method.common.get(name)
            if described is None:
                wrong.append(f"{name}: no such parameter")
                continue
            wrong += self.check_text(described, value, name)
        names = [n for n, _ in query]
        wrong += [f"{n}: stands there twice" for n in set(names) if names.count(n) > 1]
        for name, described in method.parameters.items():
            if described.get("required") and name not in given and name not in names:
                wrong.append(f"{name}: is missing")
        return wrong

    @staticmethod
    def check_text(described: dict, value: str, at: str) -> list:
        kind = described.get("type")
        if kind == "integer" and not re.fullmatch(r"-?\d+", value):
            return [f"{at}: {value!r} is no number"]
        if kind == "boolean" and value not in ("true", "false"):
            return [f"{at}: {value!r} is no boolean"]
        if "pattern" in described and not re.fullmatch(described["pattern"], value):
            return [f"{at}: {value!r} does not fit {described['pattern']}"]
        if "enum" in described and value not in described["enum"]:
            return [f"{at}: {value!r} is none of {described['enum']}"]
        return []

    def check(self, described: dict, value, at: str, sent: bool) -> list:
        """What is wrong with a value. `sent`: by a client, who must not send what only
        the vendor says."""
        if "$ref" in described:
            return self.check(self.schemas[described["$ref"]], value, at, sent)
        kind = described.get("type")
        wrong = []
        if kind == "object":
            if not isinstance(value, dict):
                return [f"{at}: {value!r} is no object"]
            known = described.get("properties", {})
            other = described.get("additionalProperties")
            for name, below in value.items():
                here = f"{at}.{name}"
                if name in known:
                    says = known[name]
                    words = says.get("description", "")
                    if sent and (says.get("readOnly") or "utput only" in words[:40] or words.startswith("[Output Only]")):
                        wrong.append(f"{here}: is the vendor's to say")
                    wrong += self.check(says, below, here, sent)
                elif other is not None:
                    wrong += self.check(other, below, here, sent)
                else:
                    wrong.append(f"{here}: no such field")
        elif kind == "array":
            if not isinstance(value, list):
                return [f"{at}: {value!r} is no list"]
            for i, below in enumerate(value):
                wrong += self.check(described["items"], below, f"{at}[{i}]", sent)
        elif kind == "string":
            if not isinstance(value, str):
                return [f"{at}: {value!r} is no text"]
            if described.get("format") in ("int64", "uint64") and not re.fullmatch(r"-?\d+", value):
                wrong.append(f"{at}: {value!r} is no number as text")
            # In answers, names of the vendor's own kinds do not fit their own patterns.
            if sent:
                wrong += self.check_text(described, value, at)
            elif "enum" in described and value not in described["enum"]:
                wrong.append(f"{at}: {value!r} is none of {described['enum']}")
        elif kind == "integer":
            if isinstance(value, bool) or not isinstance(value, int):
                wrong.append(f"{at}: {value!r} is no whole number")
            elif described.get("format") == "int32" and not -(2**31) <= value < 2**31:
                wrong.append(f"{at}: {value} is too large")
        elif kind == "number":
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                wrong.append(f"{at}: {value!r} is no number")
        elif kind == "boolean":
            if not isinstance(value, bool):
                wrong.append(f"{at}: {value!r} is no boolean")
        elif kind != "any":
            wrong.append(f"{at}: the document has {kind!r}, which this judge does not know")
        return wrong

    def check_request(self, method: Method, given: dict, query: list, body: bytes, base: str) -> list:
        wrong = self.check_parameters(method, given, query)
        described = method.described.get("request")
        document = None
        if described is None:
            if body:
                wrong.append("a body where there is none")
        else:
            try:
                document = json.loads(body)
            except ValueError:
                return wrong + ["the body is no JSON"]
            wrong += self.check(described, document, method.name, True)
        if not wrong:
            wrong += self.against_their_client(method, given, query, document, base)
        return wrong

    def against_their_client(self, method: Method, given: dict, query: list, body, base: str) -> list:
        """The vendor's own client must send the same."""
        if self.service is None:
            self.service = googleapiclient.discovery.build_from_document(self.document, http=httplib2.Http())
        at = self.service
        for part in method.path[:-1]:
            at = getattr(at, part)()
        arguments = dict(given) | dict(query)
        for name, value in arguments.items():
            kind = (method.parameters.get(name) or method.common.get(name))["type"]
            arguments[name] = int(value) if kind == "integer" else value
        if body is not None:
            arguments["body"] = body
        theirs = getattr(at, method.path[-1])(**arguments)
        uri = urllib.parse.urlsplit(theirs.uri)
        # It names the form of the answer, of which there is one.
        sent = sorted(p for p in urllib.parse.parse_qsl(uri.query) if p[0] != "alt")
        ours = sorted(p for p in query if p[0] != "alt")
        path = urllib.parse.unquote(base)
        if (theirs.method, urllib.parse.unquote(uri.path), sent) != (method.described["httpMethod"], path, ours):
            return [f"the vendor's client would send {theirs.method} {theirs.uri}"]
        if body is not None and json.loads(theirs.body) != body:
            return [f"the vendor's client would send {theirs.body}"]
        return []

    def check_answer(self, method: Method, body: bytes) -> list:
        described = method.described.get("response")
        if described is None:
            return []
        try:
            return self.check(described, json.loads(body), method.name, False)
        except ValueError:
            return ["the answer is no JSON"]
