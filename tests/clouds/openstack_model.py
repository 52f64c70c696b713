"""Requests and answers held against the services' own schemas, as OpenAPI has them.

Where the description is not what the service's code does, the difference is named here,
one by one, so that all else counts.
"""

import json
import lzma
import re
import urllib.parse
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator, FormatChecker

FILES = {
    "compute": "compute-v2.96",
    "identity": "identity-v3.14",
    "image": "image-v2.16",
    "network": "network-v2",
}
# Where paths of a service begin in its description.
ROOTS = {"compute": "/v2.1", "identity": "/v3", "image": "/v2", "network": "/v2.0"}
# Query parameters of all lists of Neutron that its description leaves out
# (API reference of Neutron, "Sorting" and "Pagination").
NEUTRON = {"limit", "marker", "page_reverse", "fields", "sort_key", "sort_dir"}

# Fields of answers that are lists, objects or numbers, of which the description makes text.
MORE_THAN_TEXT = {
    "port_details",
    "port_forwardings",
    "port_range_max",
    "port_range_min",
    "security_group_rules",
}
NULL_WHERE_UNSET = {
    "OS-EXT-STS:task_state",
    "OS-SRV-USG:launched_at",
    "OS-SRV-USG:terminated_at",
    "fixed_ip_address",
    "key_name",
    "protocol",
    "remote_group_id",
    "remote_ip_prefix",
}
# The image of a server whose disk is a volume is an empty text.
EMPTY_WHERE_UNSET = {"accessIPv4", "accessIPv6", "image"}

formats = FormatChecker()


@formats.checks("base64")
def is_base64(text) -> bool:
    if not isinstance(text, str):
        return True
    return len(text) % 4 == 0 and re.fullmatch(r"[A-Za-z0-9+/]*={0,2}", text) is not None


@formats.checks("uuid")
def is_uuid(text) -> bool:
    # oslo_utils.uuidutils.is_uuid_like(), which the services check with: with or without
    # hyphens. Keystone's own are without.
    return not isinstance(text, str) or re.fullmatch(r"[0-9a-fA-F]{32}", text.replace("-", "")) is not None


@formats.checks("name")
def is_name(text) -> bool:
    # nova/api/validation/parameter_types.py: no white space at either end.
    return not isinstance(text, str) or (text.strip() == text and text.isprintable() and text != "")


class Model:
    def __init__(self, folder: Path):
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self.documents = {}
        for service, name in FILES.items():
            with lzma.open(folder / f"{name}.yaml.xz") as f:
                # Through JSON, as dates would be no text.
                self.documents[service] = json.loads(json.dumps(yaml.load(f, Loader=loader), default=str))
        for document in self.documents.values():
            for name, schema in document["components"]["schemas"].items():
                if name.endswith("Response"):
                    self.mend(schema)
        self.validators: dict = {}
        self.routes = {
            service: [(self.pattern(path), path) for path in sorted(d["paths"], key=lambda p: p.count("{"))]
            for service, d in self.documents.items()
        }

    def mend(self, schema) -> None:
        """Answers where the description says less than the services do; each can be seen
        in the samples of their own documentation (nova's doc/api_samples, neutron's
        api-ref/source/v2/samples)."""
        if isinstance(schema, list):
            for one in schema:
                self.mend(one)
        if not isinstance(schema, dict):
            return
        # OpenAPI 3.0 had a switch there; and alternatives that a value may fit both.
        if isinstance(schema.get("exclusiveMinimum"), bool):
            del schema["exclusiveMinimum"]
        if isinstance(schema.get("oneOf"), list):
            schema["anyOf"] = schema.pop("oneOf")
        properties = schema.get("properties")
        if isinstance(properties, dict):
            for name, one in properties.items():
                if not isinstance(one, dict):
                    continue
                if name in MORE_THAN_TEXT:
                    one.pop("type", None)
                elif name in NULL_WHERE_UNSET and isinstance(one.get("type"), str):
                    one["type"] = [one["type"], "null"]
                elif name in EMPTY_WHERE_UNSET:
                    one.pop("format", None)
                    if one.get("type") == "object":
                        one["type"] = ["object", "string"]
        for one in schema.values():
            self.mend(one)

    @staticmethod
    def pattern(path: str):
        parts = re.split(r"(\{[^}]*\})", path.rstrip("/") or "/")
        return re.compile("".join("[^/]+" if p.startswith("{") else re.escape(p) for p in parts) + "/?$")

    def find(self, service: str, method: str, path: str):
        for pattern, name in self.routes[service]:
            if pattern.match(path):
                item = self.documents[service]["paths"][name]
                if method.lower() in item:
                    return name, item, item[method.lower()]
        return None

    def resolve(self, service: str, thing: dict) -> dict:
        while "$ref" in thing:
            at = self.documents[service]
            for part in thing["$ref"].split("/")[1:]:
                at = at[part]
            thing = at
        return thing

    def of_version(self, service: str, schema: dict, version: tuple | None) -> dict:
        """Of schemas by microversion, the one that counts."""
        found = self.resolve(service, schema)
        if found.get("x-openstack", {}).get("discriminator") != "microversion" or version is None:
            return schema
        for one in found["oneOf"]:
            span = self.resolve(service, one).get("x-openstack", {})
            low = tuple(map(int, str(span.get("min-ver", "2.1")).split(".")))
            high = tuple(map(int, str(span.get("max-ver", "2.999")).split(".")))
            if low <= version <= high:
                return one
        return {"not": {}}

    def check(self, service: str, schema: dict, value, version: tuple | None) -> list:
        chosen = self.of_version(service, schema, version)
        key = (service, json.dumps(chosen, sort_keys=True))
        if key not in self.validators:
            whole = {"allOf": [chosen], "components": self.documents[service]["components"]}
            self.validators[key] = Draft202012Validator(whole, format_checker=formats)
        wrong = []
        for e in self.validators[key].iter_errors(value):
            where = "/".join(map(str, e.absolute_path))
            wrong.append(f"{where}: {e.message[:300]}")
        return wrong

    def request(self, service, method, path, query, body, version) -> list:
        found = self.find(service, method, path)
        if found is None:
            return [f"{method} {path}: the description has no such call"]
        name, item, operation = found
        wrong = []
        known = {}
        for p in item.get("parameters", []) + operation.get("parameters", []):
            p = self.resolve(service, p)
            # Two are called parameters of the path by mistake.
            if p["in"] == "query" or (p["in"] == "path" and "{" + p["name"] + "}" not in name):
                known[p["name"]] = p["schema"]
        for key, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
            if service == "network" and key in NEUTRON:
                continue
            if key not in known:
                wrong.append(f"?{key}: no such parameter")
                continue
            schema = dict(known[key])
            if schema.get("type") == "integer":
                schema["type"], schema["pattern"] = "string", "^[0-9]+$"
            if schema.get("type") == "array":
                schema = schema["items"]
            if schema.get("format") == "regex":
                schema.pop("format")
            wrong += [f"?{key}{w}" for w in self.check(service, schema, value, None)]
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if body:
            try:
                value = json.loads(body)
            except ValueError as e:
                return [*wrong, f"the body is no JSON: {e}"]
            if content is None:
                wrong.append("the call has no body")
            else:
                wrong += self.body(service, content["schema"], value, version)
        elif content is not None:
            wrong.append("the body is missing")
        return wrong

    def body(self, service, schema, value, version) -> list:
        actions = schema.get("oneOf") if service == "compute" else None
        if actions and isinstance(value, dict) and len(value) == 1:
            # Nova's actions are told apart by their one key.
            name = next(iter(value))
            for one in actions:
                for of in self.alternatives(service, one):
                    if name in self.resolve(service, of).get("properties", {}):
                        return self.check(service, one, value, version)
            return [f"{name}: no such action"]
        wrong = self.check(service, schema, value, version)
        # Fields that no schema knows are taken in silence by some services.
        known = self.resolve(service, self.of_version(service, schema, version)).get("properties", {})
        for key, inner in value.items() if isinstance(value, dict) else ():
            if key not in known:
                wrong.append(f"{key}: no such field")
                continue
            fields = self.resolve(service, known[key]).get("properties")
            if fields and isinstance(inner, dict):
                wrong += [f"{key}.{f}: no such field" for f in inner if f not in fields]
        return wrong

    def alternatives(self, service, schema) -> list:
        found = self.resolve(service, schema)
        return found.get("oneOf", [found])

    def reply(self, service, method, path, status, body, version) -> list:
        found = self.find(service, method, path)
        if found is None:
            return [f"{method} {path}: the description has no such call"]
        responses = found[2]["responses"]
        # Keystone answers 201 to a question for a token (its API reference, "Password
        # authentication"), of which the description makes 200; and services delete with
        # 204, where some descriptions have no answer at all.
        if service == "identity" and status == 201:
            status = 200
        if status == 204 and not body:
            return []
        if service == "compute" and path.endswith("/action") and status == 200:
            # The only action with an answer that is used here: "Show Console Output" of the
            # API reference says 200.
            schema = {"$ref": "#/components/schemas/ServersActionOs-GetconsoleoutputResponse"}
            return self.check(service, schema, json.loads(body), version)
        if service == "compute" and path.endswith("/os-server-groups") and status == 200:
            # "Create Server Group" of the API reference says 200, as the code does.
            status = 201 if method == "POST" else 200
        if str(status) not in responses:
            return [] if status >= 400 else [f"status {status} is none of {sorted(responses)}"]
        content = self.resolve(service, responses[str(status)]).get("content", {}).get("application/json")
        if content is None or status >= 400:
            return []
        try:
            value = json.loads(body)
        except ValueError as e:
            return [f"the answer is no JSON: {e}"]
        return self.check(service, content["schema"], value, version)
