"""Google Compute Engine: operations that take their time, lists that learn of new
things late, pages, permissions, quota and capacity. Requests and answers are held
against the vendor's discovery documents, tokens against the key that signed them.

Time passes by the clock: what was asked for comes, whether or not anybody waits.
"""

import argparse
import base64
import hashlib
import json
import re
import sys
import threading
import time
import urllib.parse
import uuid
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from discovery import Api
from emulator import Cloud, Reply, Request, serve

PROJECT = "my-project"
HOST = "https://www.googleapis.com/compute/v1/"
ZONES = {
    "us-central1": ["us-central1-a", "us-central1-b", "us-central1-c", "us-central1-f"],
    "europe-west4": ["europe-west4-a", "europe-west4-b", "europe-west4-c"],
}
# name: processors, MB, shared, architecture, graphics processors
TYPES = {
    "e2-micro": (2, 1024, True, "X86_64", None),
    "e2-medium": (2, 4096, True, "X86_64", None),
    "e2-standard-2": (2, 8192, False, "X86_64", None),
    "e2-standard-4": (4, 16384, False, "X86_64", None),
    "e2-highmem-8": (8, 65536, False, "X86_64", None),
    "n1-standard-4": (4, 15360, False, None, None),
    "n2-standard-2": (2, 8192, False, "X86_64", None),
    "n2-standard-4": (4, 16384, False, "X86_64", None),
    "c4-standard-4": (4, 15360, False, "X86_64", None),
    "t2a-standard-2": (2, 8192, False, "ARM64", None),
    "g2-standard-4": (4, 16384, False, "X86_64", ("nvidia-l4", 1)),
}
ACCELERATORS = {"nvidia-tesla-t4": 4, "nvidia-l4": 8}
IMAGES = {
    "ubuntu-os-cloud": {
        "ubuntu-2404-noble-amd64-v20261101": ("ubuntu-2404-lts-amd64", "X86_64", "10"),
        "ubuntu-2404-noble-amd64-v20261115": ("ubuntu-2404-lts-amd64", "X86_64", "10"),
        "ubuntu-2404-noble-arm64-v20261115": ("ubuntu-2404-lts-arm64", "ARM64", "10"),
    },
    PROJECT: {"baked-1": ("baked", "X86_64", "45")},
}
SUBNETS = {
    PROJECT: [("default", "default"), ("apart", "other"), ("apart-too", "other")],
    "host-project": [("shared-a", "shared")],
}
# What a method needs, as its page in the reference says; for those that we use.
PERMISSIONS = {
    "instances.aggregatedList": ["compute.instances.list"],
    "instances.get": ["compute.instances.get"],
    "instances.delete": ["compute.instances.delete"],
    "instances.getSerialPortOutput": ["compute.instances.getSerialPortOutput"],
    "disks.aggregatedList": ["compute.disks.list"],
    "disks.delete": ["compute.disks.delete"],
    "firewalls.insert": ["compute.firewalls.create", "compute.networks.updatePolicy"],
    "firewalls.list": ["compute.firewalls.list"],
    "firewalls.get": ["compute.firewalls.get"],
    "firewalls.patch": ["compute.firewalls.get", "compute.firewalls.update", "compute.networks.updatePolicy"],
    "firewalls.delete": ["compute.firewalls.delete", "compute.networks.updatePolicy"],
    "globalOperations.aggregatedList": ["compute.globalOperations.list"],
    "globalOperations.list": ["compute.globalOperations.list"],
    "globalOperations.get": ["compute.globalOperations.get"],
    "globalOperations.wait": ["compute.globalOperations.get"],
    "zoneOperations.wait": ["compute.zoneOperations.get"],
    "machineTypes.list": ["compute.machineTypes.list"],
    "acceleratorTypes.list": ["compute.acceleratorTypes.list"],
    "subnetworks.list": ["compute.subnetworks.list"],
    "regions.get": ["compute.regions.get"],
    "projects.get": ["compute.projects.get"],
    "images.get": ["compute.images.get"],
    "images.getFromFamily": ["compute.images.getFromFamily"],
}
# Prices of parts; the rest of a catalogue's entry is the same for all.
SKUS = [
    ("E2 Instance Core running in Americas", "OnDemand", "h", 21_811_590),
    ("E2 Instance Ram running in Americas", "OnDemand", "GiBy.h", 2_923_530),
    ("Spot Preemptible E2 Instance Core running in Americas", "Preemptible", "h", 6_543_480),
    ("Spot Preemptible E2 Instance Ram running in Americas", "Preemptible", "GiBy.h", 877_060),
    ("N1 Predefined Instance Core running in Americas", "OnDemand", "h", 31_611_000),
    ("N1 Predefined Instance Ram running in Americas", "OnDemand", "GiBy.h", 4_237_000),
    ("N2 Custom Instance Core running in Americas", "OnDemand", "h", 33_191_000),
    ("Nvidia Tesla T4 GPU running in Americas", "OnDemand", "h", 350_000_000),
]


class Fault(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, reason: str, message: str):
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


def b64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def short(url: str) -> str:
    return url.rsplit("/", 1)[-1]


class Operation:
    """Something that is being done, and ends at a time."""

    def __init__(self, cloud, method, place, target, request_id, seconds, name=None):
        self.name = f"operation-{uuid.uuid4().hex[:24]}"
        self.cloud = cloud
        self.type = name or method
        self.place = place
        self.target = target
        self.request_id = request_id
        self.end = time.monotonic() + seconds
        self.errors: list = []
        self.http = None
        self.extra: dict = {}
        # What happens at its end.
        self.at_end = lambda: None

    def finish(self):
        at_end, self.at_end = self.at_end, lambda: None
        at_end()

    def is_done(self) -> bool:
        return time.monotonic() >= self.end

    def show(self, project: str) -> dict:
        done = self.is_done()
        out = {
            "kind": "compute#operation",
            "id": str(int(hashlib.sha256(self.name.encode()).hexdigest()[:15], 16)),
            "name": self.name,
            "operationType": self.type,
            "status": "DONE" if done else "RUNNING",
            "progress": 100 if done else 0,
            "targetLink": f"{HOST}projects/{project}/{self.target}",
            "selfLink": f"{HOST}projects/{project}/{self.place}/operations/{self.name}",
            "user": "tester@example.org",
        }
        if self.request_id:
            out["clientOperationId"] = self.request_id
        if self.place.startswith("zones/"):
            out["zone"] = f"{HOST}projects/{project}/{self.place}"
        if done and self.errors:
            out["error"] = {"errors": self.errors}
            out["httpErrorStatusCode"] = self.http
            out["httpErrorMessage"] = "made by the test"
        if done:
            out |= self.extra
        return out


class Gce(Cloud):
    def __init__(self, page: int):
        self.apis = [Api("compute", "v1"), Api("cloudresourcemanager", "v1"), Api("cloudbilling", "v1")]
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.page = page
        self.lock = threading.RLock()
        self.control("/_/clear", None)

    # What is asked for.

    def read(self, request: Request) -> None:
        request.facts["query"] = urllib.parse.parse_qsl(request.query, keep_blank_values=True)
        for api in self.apis:
            found = api.find(request.method, request.path)
            if found:
                method, given = found
                request.action = method.name
                request.facts |= {k: v for k, v in given.items()}
                request.facts["api"] = api.name
                break
        else:
            request.action = "token" if "token" in request.path else f"{request.method} {request.path}"
            return
        if request.body:
            try:
                request.facts["body"] = json.loads(request.body)
            except ValueError:
                return
            body = request.facts["body"]
            if not isinstance(body, dict):
                return
            inner = body.get("instanceProperties", body)
            if "machineType" in inner:
                request.facts["type"] = short(inner["machineType"])
                model = inner.get("scheduling", {}).get("provisioningModel", "STANDARD")
                request.facts["market"] = model

    def method(self, request: Request):
        for api in self.apis:
            found = api.find(request.method, request.path)
            if found:
                return api, *found
        return None

    def violations(self, request: Request) -> list:
        found = self.method(request)
        if found is None:
            return [] if request.action == "token" else [f"{request.method} {request.path}: no such method"]
        api, method, given = found
        return api.check_request(method, given, request.facts["query"], request.body, request.path)

    def reply_violations(self, request: Request, reply: Reply) -> list:
        found = self.method(request)
        if found is None or reply.status >= 300 or request.action in self.recorded:
            return []
        api, method, _ = found
        return [f"answer: {w}" for w in api.check_answer(method, reply.body)]

    # Who asks.

    def identify(self, request: Request) -> None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind != "Bearer" or not token:
            raise Fault(401, "required", "Login Required.")
        if token in self.tokens:
            return
        try:
            head, claims, signature = token.split(".")
            self.key.public_key().verify(
                b64(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
            )
            said = json.loads(b64(claims))
            assert json.loads(b64(head))["alg"] == "RS256"
            assert said["iss"] == said["sub"] == self.email()
            assert "https://www.googleapis.com/auth/cloud-platform" in said["scope"]
        except Exception as e:
            raise Fault(401, "authError", "Invalid Credentials") from e
        if not said["iat"] - 60 <= self.now() < said["exp"]:
            raise Fault(401, "authError", "Invalid Credentials")

    @staticmethod
    def email() -> str:
        return f"tester@{PROJECT}.iam.gserviceaccount.com"

    def now(self) -> float:
        return time.time() + self.skew

    def allow(self, needed: list, what: str) -> None:
        for permission in needed:
            if self.permissions is not None and permission not in self.permissions:
                raise Fault(403, "forbidden", f"Required '{permission}' permission for '{what}'")

    # What is answered.

    def answer(self, request: Request) -> Reply:
        with self.lock:
            self.pass_time()
        if request.action == "token":
            return self.token(request)
        try:
            self.identify(request)
            with self.lock:
                document = self.do(request)
        except Fault as e:
            return self.refusal(e.status, e.reason, e.message)
        wait = request.action.endswith("Operations.wait")
        while wait and document["status"] != "DONE" and time.monotonic() < self.until(request):
            time.sleep(0.01)
            with self.lock:
                self.pass_time()
                document = self.do(request)
        return Reply(200, json.dumps(document).encode(), self.headers())

    def until(self, request: Request) -> float:
        """A wait ends early at times, as the reference says."""
        return request.facts.setdefault("_end", time.monotonic() + self.longest_wait)

    def headers(self) -> dict:
        return {"content-type": "application/json; charset=UTF-8", "date": formatdate(self.now(), usegmt=True)}

    def refusal(self, status: int, reason: str, message: str, more=None) -> Reply:
        body = {
            "error": {
                "code": status,
                "message": message,
                "errors": [{"message": message, "domain": "global", "reason": reason}],
            }
        }
        return Reply(status, json.dumps(body).encode(), self.headers() | (more or {}))

    def fault(self, request: Request, fault: dict) -> Reply:
        if fault.get("operation"):
            # Accepted, and wrong later.
            self.broken.append({"code": fault["code"], "message": fault.get("message", "made by the test")})
            return self.answer(request)
        return self.refusal(
            fault["status"], fault.get("code", "backendError"), fault.get("message", "made by the test"), fault.get("headers")
        )

    def token(self, request: Request) -> Reply:
        said = dict(urllib.parse.parse_qsl(request.body.decode())) if request.body else {}
        if request.method == "POST":
            try:
                said = said or json.loads(request.body)
                said = said if "refresh_token" in said else json.loads(request.body)
            except ValueError:
                said = {}
            if said.get("refresh_token") != "refresh-me":
                body = {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
                return Reply(400, json.dumps(body).encode(), self.headers())
        elif request.headers.get("metadata-flavor") != "Google":
            return Reply(403)
        token = f"ya29.{uuid.uuid4().hex}"
        self.tokens.add(token)
        body = {"access_token": token, "expires_in": 3599, "token_type": "Bearer", "scope": "cloud-platform"}
        return Reply(200, json.dumps(body).encode(), self.headers() | {"metadata-flavor": "Google"})

    def pass_time(self) -> None:
        for operation in list(self.operations.values()):
            if operation.is_done():
                operation.finish()

    def do(self, request: Request) -> dict:
        facts = request.facts
        action = request.action
        project = facts.get("project") or facts.get("resource") or ""
        if action in PERMISSIONS and not (action.startswith("images.") and project == "ubuntu-os-cloud"):
            self.allow(PERMISSIONS[action], f"projects/{project}")
        if facts["api"] == "compute" and project not in (PROJECT, "host-project", "ubuntu-os-cloud"):
            raise Fault(404, "notFound", f"The resource 'projects/{project}' was not found")
        if action in self.recorded:
            return self.recorded[action]
        query = dict(facts["query"])
        handler = getattr(self, action.replace(".", "_"), None)
        if handler is None:
            raise Fault(501, "notImplemented", f"the emulator has no {action}")
        if "zone" in facts and not any(facts["zone"] in zones for zones in ZONES.values()):
            raise Fault(404, "notFound", f"The resource 'projects/{project}/zones/{facts['zone']}' was not found")
        return handler(facts, query)

    # Lists.

    def fits(self, filter: str, thing: dict) -> bool:
        if not filter:
            return True
        regex = re.fullmatch(r"(\w+) eq (\S+)", filter)
        if regex:
            return bool(re.fullmatch(regex[2], str(thing.get(regex[1], ""))))
        parts = re.split(r"\s+OR\s+|(?<=\))\s+(?=\()", filter)
        results = [self.fits_one(p.strip().removeprefix("(").removesuffix(")"), thing) for p in parts]
        return any(results) if " OR " in filter else all(results)

    @staticmethod
    def fits_one(text: str, thing: dict) -> bool:
        found = re.fullmatch(r"([\w.-]+)\s*(:|=|!=|>=|<=)\s*(\S+)", text)
        if not found:
            raise Fault(400, "invalid", f"Invalid value for field 'filter': '{text}'. Invalid list filter expression.")
        field, operator, wanted = found.groups()
        value = thing
        for i, part in enumerate(field.split(".")):
            value = value.get(part) if isinstance(value, dict) else None
        if operator == ":":
            return value is not None if wanted == "*" else wanted in str(value)
        if operator in (">=", "<="):
            return int(value) >= int(wanted) if operator == ">=" else int(value) <= int(wanted)
        return (str(value) == wanted) == (operator == "=")

    def pages(self, things: list, query: dict) -> tuple:
        start = int(query.get("pageToken", "0").removeprefix("page-"))
        size = min(int(query.get("maxResults", "500")), 500, self.page)
        end = start + size
        return things[start:end], f"page-{end}" if end < len(things) else None

    def listed(self, kind: str, things: list, query: dict) -> dict:
        found = [t for t in things if self.fits(query.get("filter", ""), t)]
        page, token = self.pages(found, query)
        out = {"kind": f"compute#{kind}List", "id": kind, "items": page, "selfLink": HOST}
        return out | ({"nextPageToken": token} if token else {})

    def aggregated(self, kind: str, key: str, things: list, query: dict) -> dict:
        found = [t for t in things if self.fits(query.get("filter", ""), t)]
        page, token = self.pages(found, query)
        items = {}
        for zones in ZONES.values():
            for zone in zones:
                nothing = {"code": "NO_RESULTS_ON_PAGE", "message": f"There are no results for scope 'zones/{zone}' on this page."}
                items[f"zones/{zone}"] = {"warning": nothing}
        for thing in page:
            scope = "zones/" + short(thing["zone"]) if "zone" in thing else "global"
            place = items.setdefault(scope, {})
            place.pop("warning", None)
            place.setdefault(key, []).append(thing)
        out = {"kind": f"compute#{kind}AggregatedList", "id": key, "items": items, "selfLink": HOST}
        return out | ({"nextPageToken": token} if token else {})

    # Operations.

    def started(self, facts: dict, query: dict, method: str, place: str, target: str, seconds=None, name=None) -> Operation:
        seconds = self.seconds if seconds is None else seconds
        operation = Operation(self, method, place, target, query.get("requestId"), seconds, name)
        self.operations[operation.name] = operation
        if query.get("requestId"):
            self.requests[query["requestId"]] = (facts.get("body"), operation)
        return operation

    def again(self, facts: dict, query: dict):
        """The operation of a request that came before."""
        before = self.requests.get(query.get("requestId"))
        if before is None:
            return None
        body, operation = before
        if body != facts.get("body"):
            raise Fault(400, "invalid", "Invalid value for field 'requestId': used for another request.")
        return operation.show(facts["project"])

    def spoil(self, operation: Operation) -> bool:
        if self.broken:
            operation.errors = [self.broken.pop(0)]
            operation.http = 503
            return True
        return False

    def zoneOperations_wait(self, facts, query):
        operation = self.operations.get(facts["operation"])
        if operation is None:
            raise Fault(404, "notFound", f"The resource '{facts['operation']}' was not found")
        return operation.show(facts["project"])

    globalOperations_wait = zoneOperations_get = globalOperations_get = zoneOperations_wait

    def globalOperations_aggregatedList(self, facts, query):
        shown = [o.show(facts["project"]) for o in self.operations.values()]
        return self.aggregated("operation", "operations", shown, query)

    def globalOperations_list(self, facts, query):
        shown = [o.show(facts["project"]) for o in self.operations.values() if o.place == "global"]
        return self.listed("operation", shown, query)

    # Machines.

    def instances_insert(self, facts, query):
        body = facts["body"]
        before = self.again(facts, query)
        if before:
            return before
        zone, name = facts["zone"], body["name"]
        self.may_create(body, zone, 1)
        if f"{zone}/{name}" in self.instances:
            raise Fault(409, "alreadyExists", f"The resource 'projects/{PROJECT}/zones/{zone}/instances/{name}' already exists")
        target = f"zones/{zone}/instances/{name}"
        operation = self.started(facts, query, "insert", f"zones/{zone}", target)
        if self.spoil(operation):
            return operation.show(facts["project"])
        if not self.take(zone, facts["type"], facts["market"], 1):
            operation.errors = [self.none_left(zone)]
            operation.http = 503
            return operation.show(facts["project"])
        self.place(zone, name, body, time.monotonic())
        operation.at_end = lambda: self.run(zone, name)
        return operation.show(facts["project"])

    def instances_bulkInsert(self, facts, query):
        body = facts["body"]
        before = self.again(facts, query)
        if before:
            return before
        zone = facts["zone"]
        names = list(body["perInstanceProperties"])
        count, least = int(body["count"]), int(body.get("minCount", body["count"]))
        if count != len(names):
            raise Fault(400, "invalid", "Invalid value for field 'resource.count'")
        properties = body["instanceProperties"]
        for value in (properties["machineType"], properties["disks"][0]["initializeParams"]["diskType"]):
            if "/" in value:
                raise Fault(400, "invalid", f"Invalid value '{value}': a name is wanted")
        self.may_create(properties, zone, count)
        exists = [n for n in names if f"{zone}/{n}" in self.instances]
        operation = self.started(
            facts, query, "insert", f"zones/{zone}", f"zones/{zone}/instances", self.seconds + self.each * count, "bulkInsert"
        )
        if exists:
            message = f"The resource 'projects/{PROJECT}/zones/{zone}/instances/{exists[0]}' already exists"
            operation.errors, operation.http = [{"code": "RESOURCE_ALREADY_EXISTS", "message": message}], 409
            return operation.show(facts["project"])
        if self.spoil(operation):
            return operation.show(facts["project"])
        made = 0
        while made < count and self.take(zone, facts["type"], facts["market"], 1):
            made += 1
        rolled_back = made < least
        if made < count:
            operation.errors, operation.http = [self.none_left(zone)], 503
            if rolled_back:
                text = f"Requested minimum count of {least} VMs could not be created."
                operation.errors.insert(0, {"code": "VM_MIN_COUNT_NOT_REACHED", "message": text})
        status = {
            "createdVmCount": 0 if rolled_back else made,
            "deletedVmCount": made if rolled_back else 0,
            "failedToCreateVmCount": count - made,
            "targetVmCount": count,
            "status": "DONE",
        }
        operation.extra = {"instancesBulkInsertOperationMetadata": {"perLocationStatus": {f"zones/{zone}": status}}}
        start = time.monotonic()
        if not rolled_back:
            # One after the other, whoever is still there to see it.
            for i, name in enumerate(names[:made]):
                self.coming.append((start + self.each * i, zone, name, properties))

            def all_run():
                # All of them have come by now, seen or not.
                self.visible()
                for name in names[:made]:
                    self.run(zone, name)

            operation.at_end = all_run
        return operation.show(facts["project"])

    def none_left(self, zone: str) -> dict:
        return {
            "code": "ZONE_RESOURCE_POOL_EXHAUSTED",
            "message": f"The zone 'projects/{PROJECT}/zones/{zone}' does not have enough resources available to fulfill the request.  Try a different zone, or try again later.",
        }

    def may_create(self, body: dict, zone: str, count: int) -> None:
        where = f"projects/{PROJECT}/zones/{zone}/instances"
        needed = ["compute.instances.create", "compute.disks.create", "compute.subnetworks.use"]
        if "metadata" in body:
            needed.append("compute.instances.setMetadata")
        if body.get("tags", {}).get("items"):
            needed.append("compute.instances.setTags")
        if body.get("labels"):
            needed.append("compute.instances.setLabels")
        if body["disks"][0]["initializeParams"].get("labels"):
            needed.append("compute.disks.setLabels")
        if body["networkInterfaces"][0].get("accessConfigs"):
            needed.append("compute.subnetworks.useExternalIp")
        if body.get("serviceAccounts"):
            needed += ["compute.instances.setServiceAccount", "iam.serviceAccounts.actAs"]
        self.allow(needed, where)
        kind = short(body["machineType"])
        if kind not in TYPES or (zone, kind) in self.absent:
            raise Fault(404, "notFound", f"The resource 'projects/{PROJECT}/zones/{zone}/machineTypes/{kind}' was not found")
        cards = body.get("guestAccelerators", [])
        scheduling = body.get("scheduling", {})
        if (cards or TYPES[kind][4]) and scheduling.get("onHostMaintenance") != "TERMINATE":
            raise Fault(400, "invalid", "Instances with guest accelerators do not support live migration.")
        if cards and not kind.startswith("n1-"):
            raise Fault(400, "invalid", f"[{kind}] do not support guest accelerators.")
        if scheduling.get("provisioningModel") == "SPOT" and scheduling.get("automaticRestart", True):
            raise Fault(400, "invalid", "Scheduling must have automaticRestart be false for spot instances.")
        if "instanceTerminationAction" in scheduling and scheduling.get("provisioningModel") != "SPOT" and "maxRunDuration" not in scheduling:
            raise Fault(400, "invalid", "instanceTerminationAction needs a limit of time")
        life = int(scheduling.get("maxRunDuration", {"seconds": "60"})["seconds"])
        if not 30 <= life <= 120 * 86400:
            raise Fault(400, "invalid", f"maxRunDuration {life}")
        disk = body["disks"][0]
        if kind.startswith("c4-") and not short(disk["initializeParams"]["diskType"]).startswith("hyperdisk"):
            raise Fault(400, "invalid", f"[pd-balanced] features are not compatible for creating instance with {kind}.")
        self.image(disk["initializeParams"]["sourceImage"])
        size = sum(len(i["value"]) for i in body["metadata"]["items"])
        if size > 512 * 1024 or any(len(i["value"]) > 262144 for i in body["metadata"]["items"]):
            raise Fault(400, "invalid", "metadata is too large")
        for key, value in body.get("labels", {}).items():
            if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key) or not re.fullmatch(r"[a-z0-9_-]{0,63}", value):
                raise Fault(400, "invalid", f"Invalid value for field 'labels': {key}={value}")
        cpus = TYPES[kind][0] * count
        used = sum(TYPES[short(i["machineType"])][0] for i in self.instances.values())
        if used + cpus > self.quota:
            raise Fault(403, "quotaExceeded", f"Quota 'CPUS' exceeded.  Limit: {self.quota:.1f} in region {zone[:-2]}.")

    def image(self, link: str) -> tuple:
        found = re.fullmatch(r"(?:https://[^/]+/compute/v1/)?projects/([^/]+)/global/images/(family/)?([^/]+)", link)
        if not found:
            raise Fault(400, "invalid", f"Invalid value '{link}': not an image")
        project, family, name = found.groups()
        there = IMAGES.get(project, {})
        if family:
            newest = sorted(n for n, (f, *_) in there.items() if f == name)
            if not newest:
                raise Fault(404, "notFound", f"The resource '{link}' was not found")
            name = newest[-1]
        elif name not in there:
            raise Fault(404, "notFound", f"The resource '{link}' was not found")
        return project, name

    def take(self, zone: str, kind: str, market: str, count: int) -> bool:
        """Whether there is room left for machines."""
        for rule in self.capacity:
            if rule.get("zone", zone) == zone and rule.get("type", kind) == kind and rule.get("market", market) == market:
                if rule["left"] < count:
                    return False
                rule["left"] -= count
        return True

    def place(self, zone: str, name: str, body: dict, asked: float) -> None:
        self.number += 1
        url = f"{HOST}projects/{PROJECT}/zones/{zone}/"
        # Where nobody says otherwise, nobody is reached there, and nobody else asked.
        private = self.addresses[name] if name in self.addresses else f"127.78.{self.number // 250}.{self.number % 250 + 2}"
        network = f"projects/{PROJECT}/global/networks/default"
        part = re.match(r"projects/([^/]+)/", body["networkInterfaces"][0].get("subnetwork", ""))
        if part:
            there = dict(SUBNETS[part[1]])
            network = f"projects/{part[1]}/global/networks/{there[short(body['networkInterfaces'][0]['subnetwork'])]}"
        interface = {
            "name": "nic0",
            "network": HOST + network,
            "networkIP": private,
        }
        if body["networkInterfaces"][0].get("accessConfigs"):
            interface["accessConfigs"] = [dict(body["networkInterfaces"][0]["accessConfigs"][0])]
        self.instances[f"{zone}/{name}"] = {
            "kind": "compute#instance",
            "id": str(10**18 + self.number),
            "name": name,
            "zone": url.rstrip("/"),
            "machineType": f"{url}machineTypes/{short(body['machineType'])}",
            "status": "STAGING",
            "labels": dict(body.get("labels", {})),
            "tags": {"items": list(body.get("tags", {}).get("items", []))},
            "metadata": body["metadata"],
            "scheduling": dict(body.get("scheduling", {})),
            "serviceAccounts": body.get("serviceAccounts", []),
            "networkInterfaces": [interface],
            "selfLink": f"{url}instances/{name}",
            "disks": [{"boot": True, "autoDelete": True, "source": f"{url}disks/{name}"}],
        }
        self.seen_from[f"{zone}/{name}"] = asked + self.lag
        self.bodies[name] = body
        self.disks[f"{zone}/{name}"] = {
            "kind": "compute#disk",
            "name": name,
            "zone": url.rstrip("/"),
            "sizeGb": body["disks"][0]["initializeParams"].get("diskSizeGb", "10"),
            "labels": dict(body["disks"][0]["initializeParams"].get("labels", {})),
            "users": [f"{url}instances/{name}"],
            "status": "READY",
        }

    def run(self, zone: str, name: str) -> None:
        i = self.instances.get(f"{zone}/{name}")
        if i is None or i["status"] != "STAGING":
            return
        i["status"] = "RUNNING"
        for config in i["networkInterfaces"][0].get("accessConfigs", []):
            config["natIP"] = self.public.get(name) or i["networkInterfaces"][0]["networkIP"].replace("127.78.", "127.77.")

    def visible(self) -> list:
        now = time.monotonic()
        for entry in [c for c in self.coming if c[0] <= now]:
            self.coming.remove(entry)
            self.place(*entry[1:], entry[0])
        return [i for k, i in self.instances.items() if self.seen_from[k] <= now]

    def instances_aggregatedList(self, facts, query):
        return self.aggregated("instance", "instances", self.visible(), query)

    def instance(self, facts) -> dict:
        self.visible()
        found = self.instances.get(f"{facts['zone']}/{facts['instance']}")
        if found is None:
            raise Fault(404, "notFound", f"The resource 'projects/{PROJECT}/zones/{facts['zone']}/instances/{facts['instance']}' was not found")
        return found

    def instances_get(self, facts, query):
        return self.instance(facts)

    def instances_getSerialPortOutput(self, facts, query):
        self.instance(facts)
        text = self.consoles.get(facts["instance"], "Booting from Hard Disk 0...\r\n")
        return {"kind": "compute#serialPortOutput", "contents": text, "start": "0", "next": str(len(text)), "selfLink": HOST}

    def instances_delete(self, facts, query):
        before = self.again(facts, query)
        if before:
            return before
        i = self.instance(facts)
        key = f"{facts['zone']}/{facts['instance']}"
        if i["status"] == "STOPPING":
            raise Fault(400, "resourceNotReady", f"The resource '{key}' is not ready")
        operation = self.started(facts, query, "delete", f"zones/{facts['zone']}", f"zones/{facts['zone']}/instances/{facts['instance']}")
        if self.spoil(operation):
            return operation.show(facts["project"])
        i["status"] = "STOPPING"

        def gone():
            self.instances.pop(key, None)
            if key in self.kept_disks or facts["instance"] in self.kept_disks:
                self.disks[key]["users"] = []
            else:
                self.disks.pop(key, None)

        operation.at_end = gone
        return operation.show(facts["project"])

    # Disks.

    def disks_aggregatedList(self, facts, query):
        return self.aggregated("disk", "disks", list(self.disks.values()), query)

    def disks_delete(self, facts, query):
        key = f"{facts['zone']}/{facts['disk']}"
        if key not in self.disks:
            raise Fault(404, "notFound", f"The resource '{key}' was not found")
        if self.disks[key]["users"]:
            raise Fault(400, "resourceInUseByAnotherResource", f"The disk resource '{key}' is already being used")
        operation = self.started(facts, query, "delete", f"zones/{facts['zone']}", f"zones/{facts['zone']}/disks/{facts['disk']}")
        operation.at_end = lambda: self.disks.pop(key, None)
        return operation.show(facts["project"])

    # Rules.

    def firewalls_insert(self, facts, query):
        before = self.again(facts, query)
        if before:
            return before
        body = facts["body"]
        if body["name"] in self.firewalls:
            raise Fault(409, "alreadyExists", f"The resource '{body['name']}' already exists")
        if not body.get("targetTags") or bool(body.get("allowed")) == bool(body.get("denied")):
            raise Fault(400, "invalid", "Invalid value for field 'resource'")
        if len({":" in r for r in body.get("sourceRanges", [])}) > 1:
            raise Fault(400, "invalid", "Invalid value for field 'resource.sourceRanges': both versions of IP")
        if len(body.get("description", "")) > 2048:
            raise Fault(400, "invalid", "Invalid value for field 'resource.description'")
        operation = self.started(facts, query, "insert", "global", f"global/firewalls/{body['name']}")
        if self.spoil(operation):
            return operation.show(facts["project"])
        url = f"{HOST}projects/{facts['project']}/global/"
        rule = {"kind": "compute#firewall", "id": str(self.number), "selfLink": f"{url}firewalls/{body['name']}", "disabled": False} | body
        rule["network"] = f"{HOST}{body['network']}"
        # Nobody else may have the name from now on.
        self.firewalls[body["name"]] = (facts["project"], None)
        operation.at_end = lambda: self.firewalls.__setitem__(body["name"], (facts["project"], rule))
        return operation.show(facts["project"])

    def rule(self, facts) -> dict:
        project, rule = self.firewalls.get(facts["firewall"], (None, None))
        if project != facts["project"]:
            raise Fault(404, "notFound", f"The resource '{facts['firewall']}' was not found")
        if rule is None:
            raise Fault(400, "resourceNotReady", f"The resource '{facts['firewall']}' is not ready")
        return rule

    def firewalls_list(self, facts, query):
        there = [r for p, r in self.firewalls.values() if r is not None and p == facts["project"]]
        return self.listed("firewall", there, query)

    def firewalls_get(self, facts, query):
        return self.rule(facts)

    def firewalls_patch(self, facts, query):
        rule = self.rule(facts)
        operation = self.started(facts, query, "patch", "global", f"global/firewalls/{facts['firewall']}")
        operation.at_end = lambda: rule.update(facts["body"])
        return operation.show(facts["project"])

    def firewalls_delete(self, facts, query):
        self.rule(facts)
        operation = self.started(facts, query, "delete", "global", f"global/firewalls/{facts['firewall']}")
        operation.at_end = lambda: self.firewalls.pop(facts["firewall"], None)
        return operation.show(facts["project"])

    # What there is to be had.

    def machineTypes_list(self, facts, query):
        zone = facts["zone"]
        shown = []
        for name, (cpus, memory, shared, arch, gpus) in TYPES.items():
            if (zone, name) in self.absent:
                continue
            entry = {
                "kind": "compute#machineType",
                "name": name,
                "guestCpus": cpus,
                "memoryMb": memory,
                "isSharedCpu": shared,
                "zone": zone,
                "selfLink": f"{HOST}projects/{PROJECT}/zones/{zone}/machineTypes/{name}",
            }
            if arch:
                entry["architecture"] = arch
            if gpus:
                entry["accelerators"] = [{"guestAcceleratorType": gpus[0], "guestAcceleratorCount": gpus[1]}]
            shown.append(entry)
        return self.listed("machineType", shown, query)

    def acceleratorTypes_list(self, facts, query):
        shown = [{"kind": "compute#acceleratorType", "name": n, "maximumCardsPerInstance": m} for n, m in ACCELERATORS.items()]
        return self.listed("acceleratorType", shown, query)

    def subnetworks_list(self, facts, query):
        project, region = facts["project"], facts["region"]
        shown = [
            {
                "kind": "compute#subnetwork",
                "name": name,
                "network": f"{HOST}projects/{project}/global/networks/{network}",
                "region": f"{HOST}projects/{project}/regions/{region}",
                "purpose": "PRIVATE",
            }
            for name, network in SUBNETS.get(project, [])
        ]
        return self.listed("subnetwork", shown, query)

    def images_getFromFamily(self, facts, query):
        return self.shown_image(*self.image(f"projects/{facts['project']}/global/images/family/{facts['family']}"))

    def images_get(self, facts, query):
        return self.shown_image(*self.image(f"projects/{facts['project']}/global/images/{facts['image']}"))

    @staticmethod
    def shown_image(project: str, name: str) -> dict:
        family, arch, size = IMAGES[project][name]
        return {
            "kind": "compute#image",
            "name": name,
            "family": family,
            "architecture": arch,
            "diskSizeGb": size,
            "status": "READY",
            "selfLink": f"{HOST}projects/{project}/global/images/{name}",
        }

    def regions_get(self, facts, query):
        region = facts["region"]
        if region not in ZONES:
            raise Fault(404, "notFound", f"The resource 'projects/{PROJECT}/regions/{region}' was not found")
        used = sum(TYPES[short(i["machineType"])][0] for i in self.instances.values())
        return {
            "kind": "compute#region",
            "name": region,
            "status": "UP",
            "zones": [f"{HOST}projects/{PROJECT}/zones/{z}" for z in ZONES[region]],
            "quotas": [
                {"metric": "CPUS", "limit": float(self.quota), "usage": float(used)},
                {"metric": "IN_USE_ADDRESSES", "limit": 64.0, "usage": 0.0},
                {"metric": "SSD_TOTAL_GB", "limit": 500.0, "usage": 120.0},
            ],
        }

    def projects_get(self, facts, query):
        return {"kind": "compute#project", "name": PROJECT, "quotas": [{"metric": "CPUS_ALL_REGIONS", "limit": 64.0, "usage": 0.0}]}

    def projects_testIamPermissions(self, facts, query):
        wanted = facts["body"]["permissions"]
        has = [p for p in wanted if self.permissions is None or p in self.permissions]
        # An empty list is left out.
        return {"permissions": has} if has else {}

    def services_skus_list(self, facts, query):
        shown = [
            {
                "name": f"services/6F81-5844-456A/skus/0000-0000-{i:04X}",
                "skuId": f"0000-0000-{i:04X}",
                "description": text,
                "category": {"serviceDisplayName": "Compute Engine", "resourceFamily": "Compute", "resourceGroup": "CPU", "usageType": usage},
                "serviceRegions": ["us-central1", "us-east1"],
                "serviceProviderName": "Google",
                "pricingInfo": [
                    {
                        "summary": "",
                        "currencyConversionRate": 1,
                        "effectiveTime": "2026-11-24T00:00:00Z",
                        "pricingExpression": {
                            "usageUnit": unit,
                            "displayQuantity": 1,
                            "tieredRates": [{"startUsageAmount": 0, "unitPrice": {"currencyCode": "USD", "units": "0", "nanos": nanos}}],
                        },
                    }
                ],
            }
            for i, (text, usage, unit, nanos) in enumerate(SKUS)
        ]
        start = int(query.get("pageToken") or 0)
        size = min(int(query.get("pageSize", "5000")), self.page)
        token = str(start + size) if start + size < len(shown) else ""
        return {"skus": shown[start : start + size], "nextPageToken": token}

    # What machines ask.

    def metadata(self, address: str, port: int) -> bool:
        """Starts the metadata server, which knows a machine by its address."""
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                status, text, kind = cloud.metadata_answer(self.client_address[0], self.path, self.headers)
                body = text.encode()
                self.send_response(status)
                self.send_header("Metadata-Flavor", "Google")
                self.send_header("Content-Type", kind)
                self.send_header("ETag", hashlib.sha256(body).hexdigest()[:16])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_PUT(self):
                # Guest attributes, which are off where nobody turns them on.
                self.rfile.read(int(self.headers.get("content-length") or 0))
                self.send_response(403)
                self.send_header("Content-Length", "0")
                self.end_headers()

        server = ThreadingHTTPServer((address, port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return True

    def tree(self, peer: str):
        """All that a machine can learn (cloud.google.com/compute/docs/metadata)."""
        for i in self.instances.values():
            interface = i["networkInterfaces"][0]
            if interface["networkIP"] == peer:
                configs = interface.get("accessConfigs", [])
                return {
                    "instance": {
                        "attributes": {m["key"]: m["value"] for m in i["metadata"]["items"]},
                        "hostname": f"{i['name']}.{short(i['zone'])}.c.{PROJECT}.internal",
                        "id": int(i["id"]),
                        "machineType": f"projects/1/machineTypes/{short(i['machineType'])}",
                        "maintenanceEvent": "NONE",
                        "name": i["name"],
                        "networkInterfaces": [
                            {"ip": peer, "accessConfigs": [{"externalIp": c.get("natIP", "")} for c in configs]}
                        ],
                        "preempted": "FALSE",
                        "tags": i["tags"]["items"],
                        "zone": f"projects/1/zones/{short(i['zone'])}",
                    },
                    "project": {"attributes": {}, "numericProjectId": 1, "projectId": PROJECT},
                }
        return None

    def metadata_answer(self, peer: str, path: str, headers) -> tuple:
        path, _, query = path.partition("?")
        asked = dict(urllib.parse.parse_qsl(query))
        if headers.get("metadata-flavor") != "Google" or headers.get("x-forwarded-for"):
            return 403, "Missing required header", "text/html"
        parts = [p for p in path.split("/") if p]
        if parts[:2] != ["computeMetadata", "v1"]:
            return 404, "", "text/html"
        if asked.get("wait_for_change") == "true" and "last_etag" in asked:
            # Nothing changes here.
            time.sleep(min(float(asked.get("timeout_sec", "60")), 60.0))
        with self.lock:
            self.metadata_log.append(f"{peer} {path}")
            at = self.tree(peer)
        for part in parts[2:]:
            words = part.split("-")
            camel = words[0] + "".join(w.capitalize() for w in words[1:])
            if isinstance(at, list):
                at = at[int(part)] if part.isdigit() and int(part) < len(at) else None
            elif isinstance(at, dict):
                at = at.get(part, at.get(camel))
            else:
                at = None
            if at is None:
                break
        if at is None:
            return 404, "", "text/html"
        if isinstance(at, (dict, list)):
            if asked.get("recursive", "").lower() == "true":
                return 200, json.dumps(at), "application/json"
            names = at if isinstance(at, dict) else range(len(at))
            return 200, "".join(f"{n}\n" for n in names), "application/text"
        return 200, str(at), "application/text"

    # What tests say.

    def play(self, files: dict, labels: dict) -> bool:
        """Answers with what the vendor once answered to others: the recordings of Apache
        Libcloud's own tests, of which only machines get labels, as they are nobody's."""
        import libcloud

        folder = Path(libcloud.__file__).parent / "test" / "compute" / "fixtures" / "gce"
        for action, name in files.items():
            self.recorded[action] = json.loads((folder / name).read_text())
        for place in self.recorded.get("instances.aggregatedList", {}).get("items", {}).values():
            for instance in place.get("instances", []):
                instance["labels"] = labels
        return True

    def control(self, path: str, given: object) -> object:
        with self.lock:
            return self.controlled(path, given)

    def controlled(self, path: str, given) -> object:
        if path == "/_/clear":
            self.instances, self.disks, self.firewalls, self.operations = {}, {}, {}, {}
            self.requests, self.seen_from, self.bodies, self.consoles = {}, {}, {}, {}
            self.coming, self.broken, self.capacity = [], [], []
            self.addresses, self.public, self.metadata_log = {}, {}, []
            self.tokens, self.absent, self.kept_disks = set(), set(), set()
            self.permissions, self.skew, self.number, self.recorded = None, 0.0, 0, {}
            self.quota, self.seconds, self.each, self.lag, self.longest_wait = 256, 0.1, 0.02, 0.05, 30.0
            return True
        if path == "/_/key":
            pem = self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            return {
                "type": "service_account",
                "project_id": PROJECT,
                "private_key_id": "1",
                "private_key": pem.decode(),
                "client_email": self.email(),
                "client_id": "1",
                "token_uri": "https://oauth2.googleapis.com/token",
                "universe_domain": "googleapis.com",
            }
        if path == "/_/metadata":
            return self.metadata(given["address"], given["port"])
        if path == "/_/asked-by-machines":
            return self.metadata_log
        if path == "/_/recorded":
            return self.play(given["files"], given["labels"])
        if path == "/_/set":
            for key, value in given.items():
                assert key in (
                    "permissions", "skew", "quota", "seconds", "each", "lag", "longest_wait", "capacity",
                    "addresses", "public", "page", "absent", "kept_disks", "consoles",
                ), key
                if key == "absent":
                    value = {tuple(v) for v in value}
                if key == "kept_disks":
                    value = set(value)
                setattr(self, key, value)
            return True
        if path == "/_/instances":
            self.pass_time()
            self.visible()
            shown = []
            for i in self.instances.values():
                told = {m["key"]: m["value"] for m in i["metadata"]["items"]}
                shown.append(
                    {
                        "name": i["name"],
                        "zone": short(i["zone"]),
                        "type": short(i["machineType"]),
                        "status": i["status"],
                        "labels": i["labels"],
                        "tags": i["tags"]["items"],
                        "address": i["networkInterfaces"][0]["networkIP"],
                        "user_data": told.get("user-data") if given else None,
                        "disk": self.disks[f"{short(i['zone'])}/{i['name']}"],
                    }
                )
            rules = [r for _, r in self.firewalls.values() if r is not None]
            busy = [o.name for o in self.operations.values() if not o.is_done()]
            free = [d for d in self.disks.values() if not d["users"]]
            return {"instances": shown, "rules": rules, "disks": free, "busy": len(busy) + len(self.coming)}
        return super().control(path, given)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--page", type=int, default=500)
    args = parser.parse_args()
    serve(Gce(args.page), args.latency)
    sys.exit(0)
