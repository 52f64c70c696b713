"""OpenStack: Keystone, Nova, Neutron and Glance, as far as clusters need them, behind the
gate; requests and answers are held against the services' own schemas.

Semantics, from the services' documentation and code: a server has no address when it is
made, and may end in error; what was made a moment ago may be missing from lists; lists
come in pages; a group in use cannot be deleted; a second group of the same name can be
made; application credentials may be bound to access rules, which keystonemiddleware looks
at; roles; quotas; microversions.
"""

import argparse
import base64
import ipaddress
import json
import re
import threading
import time
import urllib.parse
import uuid
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from emulator import Cloud, Reply, Request, serve
from openstack_model import Model

REGIONS = ("RegionOne", "RegionTwo")
OLDEST, NEWEST = (2, 1), (2, 96)
# Versions of the metadata service.
METADATA = ("2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06", "2017-02-22", "2018-08-27")

# name: (id, vcpus, MiB, GiB, extra specs)
FLAVORS = {
    "m1.tiny": ("1", 1, 512, 1, {}),
    "m1.small": ("2", 1, 2048, 20, {}),
    "m1.medium": ("3", 2, 4096, 40, {}),
    "m1.large": ("4", 4, 8192, 80, {}),
    "c2.large": ("c2", 4, 8192, 0, {}),
    "m1.xlarge": ("5", 8, 16384, 160, {}),
    "g1.large": ("6", 8, 32768, 160, {"pci_passthrough:alias": "a100:1"}),
    "a1.large": ("7", 4, 8192, 80, {"trait:HW_ARCH_AARCH64": "required"}),
}


DOMAIN = {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, "domain")).replace("-", ""), "name": "Default"}


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def ident(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


IMAGES = [
    {"name": "Debian 13", "created_at": "2026-01-10T00:00:00Z", "min_disk": 2},
    {"name": "Debian 13", "created_at": "2026-06-10T00:00:00Z", "min_disk": 2},
    {"name": "Debian 13 arm", "created_at": "2026-07-10T00:00:00Z", "architecture": "aarch64"},
    {"name": "Ubuntu 24.04", "created_at": "2026-05-10T00:00:00Z", "os_distro": "ubuntu", "os_version": "24.04"},
    {"name": "Windows 2025", "created_at": "2026-05-11T00:00:00Z"},
    {"name": "mine", "created_at": "2026-05-12T00:00:00Z", "min_ram": 1024},
]


def image(i: int, of: dict) -> dict:
    ours = {
        "id": ident(f"image {i}"),
        "status": "active",
        "visibility": "public",
        "protected": False,
        "os_hidden": False,
        "min_disk": 0,
        "min_ram": 0,
        "owner": ident("glance").replace("-", ""),
        "size": 1 << 29,
        "container_format": "bare",
        "disk_format": "qcow2",
        "tags": [],
        "updated_at": of["created_at"],
        "schema": "/v2/schemas/image",
    }
    ours |= of
    ours |= {"self": f"/v2/images/{ours['id']}", "file": f"/v2/images/{ours['id']}/file"}
    return ours


class Fault(Exception):
    """An error of a service: status, kind, words."""

    def __init__(self, status: int, kind: str, words: str):
        super().__init__(words)
        self.status, self.kind, self.words = status, kind, words


NOVA = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    409: "conflictingRequest",
    413: "overLimit",
    429: "overLimit",
    503: "serviceUnavailable",
}


class Region:
    """What there is in one region."""

    def __init__(self):
        self.servers: dict = {}
        self.groups: dict = {}
        self.ports: dict = {}
        self.floating: dict = {}
        self.server_groups: dict = {}
        self.networks = {
            ident("private"): {"name": "private", "external": False, "shared": False, "cidr": "10.0.0.0/16"},
            ident("outside"): {"name": "outside", "external": True, "shared": False, "cidr": "198.51.100.0/24"},
        }
        self.routed = {ident("private")}
        self.subnets = {
            ident("private-subnet"): {"name": "private-subnet", "network": ident("private"), "cidr": "10.0.0.0/17"},
            ident("other-subnet"): {"name": "other-subnet", "network": ident("private"), "cidr": "10.0.128.0/17"},
        }
        self.next = 10
        self.limits = {"instances": 200, "cores": 800, "ram": 1 << 24, "security_group": 50, "floatingip": 20}
        self.zones = ["nova", "zone-b"]
        # (flavor, zone) that have no room; None stands for any.
        self.full: list = []
        self.spent: set = set()


class OpenStack(Cloud):
    def __init__(self, page: int, build: float, lag: float, host: str = "127.0.0.1"):
        self.model = Model(Path(__file__).parent / "models" / "openstack")
        self.lock = threading.RLock()
        self.host, self.page, self.build, self.lag = host, page, build, lag
        self.clear()

    def clear(self) -> None:
        self.regions = {r: Region() for r in REGIONS}
        self.tokens: dict = {}
        self.rules = None
        self.newest = NEWEST
        self.life = 3600.0
        self.stuck = False
        # Addresses by a machine's name, where a test has its own.
        self.addresses: dict = {}
        # The beginning of ports' hardware addresses, where machines have such ports.
        self.hardware: str | None = None
        self.asked: list = []

    # Reading

    def read(self, request: Request) -> None:
        request.facts["region"] = ""
        match = re.match(r"/(identity)(/.*)", request.path)
        service, path, region = "", request.path, ""
        if match:
            service, path = match.groups()
        else:
            match = re.match(r"/(RegionOne|RegionTwo)/(compute|network|image)(/.*)", request.path)
            if match:
                region, service, path = match.groups()
        request.facts |= {"service": service, "region": region, "path": path}
        parts = [p for p in path.split("/") if p][1:]
        shown = ["*" if re.fullmatch(r"[0-9a-f-]{32,36}", p) else p for p in parts]
        request.action = f"{request.method} {'/'.join(shown)}"
        if service == "compute":
            version = request.headers.get("openstack-api-version", "compute 2.1").split()[-1]
            request.facts["version"] = version
        if request.method == "POST" and service != "identity":
            body = json.loads(request.body)
            server = body.get("server")
            if server:
                request.facts["flavor"] = server.get("flavorRef")
                request.facts["zone"] = server.get("availability_zone")
                # What machines are told is secret.
                shown = {k: v for k, v in server.items() if k != "user_data"}
                request.facts["body"] = {**body, "server": shown}
                request.facts["node"] = server.get("name")
            else:
                request.facts["body"] = body

    def version(self, request: Request):
        if request.facts["service"] != "compute":
            return None
        return tuple(int(p) for p in request.facts["version"].split("."))

    def in_model(self, request: Request) -> str:
        return request.facts["path"]

    def violations(self, request: Request) -> list:
        service = request.facts["service"]
        if not service:
            return [f"{request.path} is no service's"]
        wrong = []
        if service == "compute":
            old = request.headers.get("x-openstack-nova-api-version")
            if old and old != request.facts["version"]:
                wrong.append(f"two versions: {old} and {request.facts['version']}")
        if service != "identity" and not request.headers.get("x-auth-token"):
            wrong.append("no token")
        if request.body and request.headers.get("content-type", "").split(";")[0] != "application/json":
            wrong.append("the body is not called JSON")
        return wrong + self.model.request(
            service, request.method, self.in_model(request), request.query, request.body, self.version(request)
        )

    def reply_violations(self, request: Request, reply: Reply) -> list:
        service = request.facts["service"]
        return self.model.reply(
            service, request.method, self.in_model(request), reply.status, reply.body, self.version(request)
        )

    # Answering

    def answer(self, request: Request) -> Reply:
        with self.lock:
            try:
                status, body = self.dispatch(request)
            except Fault as f:
                return self.failed(request, f)
        headers = {"content-type": "application/json"}
        if request.facts["service"] == "identity" and isinstance(body, tuple):
            body, headers["x-subject-token"] = body
        return Reply(status, b"" if body is None else json.dumps(body).encode(), headers)

    def failed(self, request: Request, f: Fault, headers: dict | None = None) -> Reply:
        service = request.facts["service"]
        if service == "network":
            body = {"NeutronError": {"type": f.kind, "message": f.words, "detail": ""}}
        elif service == "compute":
            name = NOVA.get(f.status, "computeFault")
            body = {name: {"code": f.status, "message": f.words}}
        elif service == "image":
            page = f"<html><head><title>{f.status} {f.kind}</title></head><body><h1>{f.kind}</h1>{f.words}</body></html>"
            return Reply(f.status, page.encode(), {"content-type": "text/html", **(headers or {})})
        else:
            body = {"error": {"code": f.status, "title": f.kind, "message": f.words}}
        return Reply(f.status, json.dumps(body).encode(), {"content-type": "application/json", **(headers or {})})

    def fault(self, request: Request, fault: dict) -> Reply:
        f = Fault(fault["status"], fault.get("code", "Error"), fault.get("message", "made by the test"))
        return self.failed(request, f, fault.get("headers"))

    def dispatch(self, request: Request):
        service, path = request.facts["service"], request.facts["path"]
        if service == "identity":
            if (request.method, path) == ("POST", "/v3/auth/tokens"):
                return self.token(json.loads(request.body)["auth"], request.headers.get("host", ""))
            raise Fault(404, "Not Found", "no such path")
        self.authorize(request)
        parts = [p for p in path.split("/") if p][1:]
        query = urllib.parse.parse_qs(request.query)
        body = json.loads(request.body) if request.body else None
        region = self.regions[request.facts["region"]]
        self.pass_time(region)
        handler = getattr(self, service)
        found = handler(region, request, parts, query, body)
        if found is None:
            raise Fault(404, "Not Found", f"no {request.method} {path} here")
        return found

    # Keystone

    def token(self, auth: dict, host: str):
        identity = auth["identity"]
        method = identity["methods"][0]
        unauthorized = Fault(401, "Unauthorized", "The request you have made requires authentication.")
        roles, credential = ["member", "reader"], None
        if method == "password":
            user = identity["password"]["user"]
            if user["password"] != "not-a-secret" or user.get("name") not in ("ann", "looker"):
                raise unauthorized
            if user["name"] == "looker":
                roles = ["reader"]
        elif method == "application_credential":
            given = identity["application_credential"]
            if given["secret"] != "not-a-secret" or given.get("id") not in ("whole", "bound"):
                raise unauthorized
            if "scope" in auth:
                raise Fault(401, "Unauthorized", "Application credentials cannot request a scope.")
            credential = {"id": given["id"], "name": given["id"], "restricted": True}
            if given["id"] == "bound":
                credential["access_rules"] = [{"id": ident(str(r)), **r} for r in self.rules or []]
        elif method == "token":
            if identity["token"]["id"] not in self.tokens:
                raise unauthorized
        else:
            raise unauthorized
        value = f"gAAAA{uuid.uuid4().hex}"
        end = datetime.now(timezone.utc) + timedelta(seconds=self.life)
        project, user = ident("geo").replace("-", ""), ident("ann").replace("-", "")
        catalog = [
            {
                "id": ident(service).replace("-", ""),
                "type": service,
                "name": name,
                "endpoints": [
                    {
                        "id": ident(f"{service}{region}{interface}").replace("-", ""),
                        "interface": interface,
                        "region": region,
                        "region_id": region,
                        "url": f"http://{host}/{region}/{service}{version}"
                        + ("" if interface == "public" else "/internal-only"),
                    }
                    for region in REGIONS
                    for interface in ("public", "internal")
                ],
            }
            for service, name, version in (
                ("compute", "nova", "/v2.1"),
                ("network", "neutron", ""),
                ("image", "glance", ""),
            )
        ]
        stamp = "%Y-%m-%dT%H:%M:%S.%fZ"
        token = {
            "methods": [method],
            "user": {"id": user, "name": "ann", "domain": DOMAIN},
            "audit_ids": [uuid.uuid4().hex[:22]],
            "expires_at": end.strftime(stamp),
            "issued_at": datetime.now(timezone.utc).strftime(stamp),
            "project": {"id": project, "name": "geo", "domain": DOMAIN},
            "is_domain": False,
            "roles": [{"id": ident(r).replace("-", ""), "name": r} for r in roles],
            "catalog": catalog,
        }
        if credential:
            token["application_credential"] = credential
        self.tokens[value] = {"end": time.monotonic() + self.life, "roles": roles, "credential": credential}
        return 201, ({"token": token}, value)

    def authorize(self, request: Request) -> None:
        """As keystonemiddleware and the services' default policies do."""
        token = self.tokens.get(request.headers.get("x-auth-token", ""))
        if token is None or token["end"] < time.monotonic():
            raise Fault(401, "Unauthorized", "The request you have made requires authentication.")
        rules = (token["credential"] or {}).get("access_rules")
        if rules is not None:
            fits = (
                r["method"] == request.method
                and r["service"] == request.facts["service"]
                and self.path_fits(r["path"], request.path)
                for r in rules
            )
            if not any(fits):
                raise Fault(401, "Unauthorized", "Token authorization failed")
        if request.method != "GET" and "member" not in token["roles"]:
            if request.facts["service"] == "network":
                raise Fault(403, "PolicyNotAuthorized", "rule:create is disallowed by policy")
            raise Fault(403, "forbidden", "Policy doesn't allow os_compute_api:servers:create to be performed.")

    @staticmethod
    def path_fits(pattern: str, path: str) -> bool:
        """`{name}` and `*` are one part of a path, `**` any number of them."""
        out = ""
        for piece in re.findall(r"\{[^}]*\}|\*\*|\*|[^{}*]", pattern):
            out += ".*" if piece == "**" else "[^/]+" if piece[0] in "{*" else re.escape(piece)
        return re.fullmatch(out, path) is not None

    # Time

    def pass_time(self, region: Region) -> None:
        at = time.monotonic()
        for server in list(region.servers.values()):
            age = at - server["made"]
            if server["gone"] is not None:
                if at >= server["gone"] and not self.stuck:
                    self.drop(region, server)
                continue
            if server["status"] != "BUILD":
                continue
            if server["room"] is False:
                if age > self.build / 2:
                    server["status"] = "ERROR"
                continue
            if not server["ports"] and age > self.build / 2:
                self.plug(region, server)
            if age > self.build:
                server["status"] = "ACTIVE"

    def plug(self, region: Region, server: dict) -> None:
        for asked in server["asked"]["networks"]:
            port = asked.get("port")
            if port is None:
                port = self.make_port(region, asked["uuid"], None, server["groups"], "", "")
                address = self.addresses.get(server["asked"]["name"])
                if address:
                    region.ports[port]["address"] = address
                region.ports[port]["of_nova"] = True
            region.ports[port] |= {"device_id": server["id"], "device_owner": "compute:nova"}
            server["ports"].append(port)

    def make_port(self, region, network, subnet, groups, name, description) -> str:
        if subnet in region.spent:
            raise Fault(
                409, "IpAddressGenerationFailure", f"No more IP addresses available on network {network}."
            )
        cidr = region.subnets[subnet]["cidr"] if subnet else region.networks[network]["cidr"]
        address = str(ipaddress.ip_network(cidr)[region.next])
        region.next += 1
        port = str(uuid.uuid4())
        region.ports[port] = {
            "id": port,
            "name": name,
            "description": description,
            "network": network,
            "address": address,
            "groups": groups,
            "device_id": "",
            "device_owner": "",
            "of_nova": False,
        }
        return port

    def drop(self, region: Region, server: dict) -> None:
        del region.servers[server["id"]]
        for port in server["ports"]:
            if port not in region.ports:
                continue
            if region.ports[port]["of_nova"]:
                self.drop_port(region, port)
            else:
                region.ports[port] |= {"device_id": "", "device_owner": ""}

    def drop_port(self, region: Region, port: str) -> None:
        del region.ports[port]
        for f in region.floating.values():
            if f["port"] == port:
                f["port"] = None

    # Nova

    def compute(self, region, request, parts, query, body):
        version = self.version(request)
        if not OLDEST <= version <= self.newest:
            newest = f"{self.newest[0]}.{self.newest[1]}"
            words = (
                f"Version {request.facts['version']} is not supported by the API. "
                f"Minimum is 2.1 and maximum is {newest}."
            )
            raise Fault(406, "computeFault", words)
        match (request.method, parts):
            case ("GET", ["servers", "detail"]):
                return self.list_servers(region, request, query, version)
            case ("POST", ["servers"]):
                return self.create_server(region, body, version)
            case ("GET", ["servers", id]):
                return 200, {"server": self.show(region, self.server(region, id), version)}
            case ("DELETE", ["servers", id]):
                server = self.server(region, id)
                if server["gone"] is None:
                    server["gone"] = time.monotonic() + self.build / 2
                return 204, None
            case ("POST", ["servers", id, "action"]):
                server = self.server(region, id)
                if server["status"] == "BUILD":
                    raise Fault(404, "itemNotFound", f"Instance {id} could not be found.")
                return 200, {"output": f"[    0.000000] Linux version 6.1\nboot of {server['asked']['name']}\n"}
            case ("GET", ["flavors", "detail"]):
                return self.pages(request, query, "flavors", [self.flavor(n, version) for n in FLAVORS], self.page)
            case ("GET", ["limits"]):
                return 200, self.limits(region)
            case ("GET", ["os-availability-zone"]):
                zones = [{"zoneName": z, "zoneState": {"available": True}, "hosts": None} for z in region.zones]
                return 200, {"availabilityZoneInfo": zones}
            case ("GET", ["os-keypairs", name]):
                if name != "ann-key":
                    raise Fault(404, "itemNotFound", f"Keypair {name} not found for user ann")
                return 200, {"keypair": {"name": name, "user_id": "ann", "deleted": False, "id": 1, "type": "ssh"}}
            case ("GET", ["os-server-groups"]):
                return 200, {"server_groups": [self.group_of_servers(g, version) for g in region.server_groups.values()]}
            case ("POST", ["os-server-groups"]):
                asked = body["server_group"]
                group = {"id": str(uuid.uuid4()), "name": asked["name"]}
                group["policy"] = asked["policy"] if version >= (2, 64) else asked["policies"][0]
                region.server_groups[group["id"]] = group
                return 200, {"server_group": self.group_of_servers(group, version)}
            case ("DELETE", ["os-server-groups", id]):
                if region.server_groups.pop(id, None) is None:
                    raise Fault(404, "itemNotFound", f"Instance group {id} could not be found.")
                return 204, None
        return None

    @staticmethod
    def group_of_servers(group: dict, version: tuple) -> dict:
        shown = {"id": group["id"], "name": group["name"], "members": []}
        if version >= (2, 64):
            return shown | {"policy": group["policy"], "rules": {}}
        return shown | {"policies": [group["policy"]], "metadata": {}}

    def server(self, region: Region, id: str) -> dict:
        if id not in region.servers:
            raise Fault(404, "itemNotFound", f"Instance {id} could not be found.")
        return region.servers[id]

    def list_servers(self, region, request, query, version):
        at = time.monotonic()
        found = [s for s in region.servers.values() if at - s["made"] >= self.lag]
        if version >= (2, 26):
            for tag in (t for value in query.get("tags", []) for t in value.split(",")):
                found = [s for s in found if tag in s["asked"].get("tags", [])]
        found.sort(key=lambda s: -s["made"])
        return self.pages(request, query, "servers", [self.show(region, s, version) for s in found], self.page)

    def pages(self, request, query, key, items, most):
        start = 0
        if "marker" in query:
            ids = [i["id"] for i in items]
            if query["marker"][0] not in ids:
                raise Fault(400, "badRequest", f"marker [{query['marker'][0]}] not found")
            start = ids.index(query["marker"][0]) + 1
        most = min(most, int(query.get("limit", [most])[0]))
        page = items[start : start + most]
        out = {key: page}
        if start + most < len(items):
            # The rest of the query is kept.
            kept = [(k, v) for k, v in urllib.parse.parse_qsl(request.query) if k != "marker"]
            more = urllib.parse.urlencode([*kept, ("marker", page[-1]["id"])])
            out[f"{key}_links"] = [{"rel": "next", "href": f"http://{request.headers['host']}{request.path}?{more}"}]
        return 200, out

    @staticmethod
    def flavor(name: str, version: tuple) -> dict:
        id, vcpus, ram, disk, specs = FLAVORS[name]
        shown = {
            "id": id,
            "name": name,
            "ram": ram,
            "vcpus": vcpus,
            "disk": disk,
            "OS-FLV-EXT-DATA:ephemeral": 0,
            "swap": 0,
            "rxtx_factor": 1.0,
            "os-flavor-access:is_public": True,
            "links": [],
        }
        if version >= (2, 61):
            shown["extra_specs"] = specs
        return shown

    def limits(self, region: Region) -> dict:
        used = {"cores": 0, "ram": 0}
        for s in region.servers.values():
            _, vcpus, ram, _, _ = FLAVORS[s["flavor"]]
            used = {"cores": used["cores"] + vcpus, "ram": used["ram"] + ram}
        absolute = {
            "maxTotalInstances": region.limits["instances"],
            "maxTotalCores": region.limits["cores"],
            "maxTotalRAMSize": region.limits["ram"],
            "maxTotalKeypairs": 100,
            "maxServerGroups": 10,
            "maxServerGroupMembers": 10,
            "maxServerMeta": 128,
            "totalInstancesUsed": len(region.servers),
            "totalCoresUsed": used["cores"],
            "totalRAMUsed": used["ram"],
            "totalServerGroupsUsed": len(region.server_groups),
        }
        return {"limits": {"absolute": absolute, "rate": []}}

    def create_server(self, region, body, version):
        asked = body["server"]
        bad = lambda words: Fault(400, "badRequest", words)  # noqa: E731
        flavor = next((n for n, f in FLAVORS.items() if f[0] == str(asked["flavorRef"])), None)
        if flavor is None:
            raise bad("Invalid flavorRef provided.")
        _, vcpus, ram, disk, _ = FLAVORS[flavor]
        disks = asked.get("block_device_mapping_v2", [])
        chosen = asked.get("imageRef") or next((d["uuid"] for d in disks if d["source_type"] == "image"), "")
        found = next((i for n, i in enumerate(map(image, range(len(IMAGES)), IMAGES)) if i["id"] == chosen), None)
        if found is None:
            raise bad("Invalid imageRef provided.")
        if ram < found["min_ram"]:
            raise bad("Flavor's memory is too small for requested image.")
        if not disks:
            if disk == 0:
                raise Fault(403, "forbidden", "Only volume-backed servers are allowed for flavors with zero disk.")
            if disk < found["min_disk"]:
                raise bad("Flavor's disk is too small for requested image. Flavor disk is too small")
        if asked.get("key_name") not in (None, "ann-key"):
            raise bad("Invalid key_name provided.")
        zone = asked.get("availability_zone")
        if zone is not None and zone not in region.zones:
            raise bad("The requested availability zone is not available")
        groups = []
        for g in asked.get("security_groups", []):
            of = [i for i, v in region.groups.items() if g["name"] in (i, v["name"])]
            if len(of) != 1:
                raise bad(f"Security group {g['name']} not found for project geo.")
            groups += of
        for n in asked["networks"]:
            if "uuid" in n and n["uuid"] not in region.networks:
                raise bad(f"Network {n['uuid']} could not be found.")
            if "uuid" in n and region.networks[n["uuid"]]["external"] and not region.networks[n["uuid"]]["shared"]:
                raise Fault(
                    403, "forbidden", f"It is not allowed to create an interface on external network {n['uuid']}"
                )
            if "port" in n and n["port"] not in region.ports:
                raise bad(f"Port id {n['port']} could not be found.")
            if "port" in n and region.ports[n["port"]]["device_id"]:
                raise Fault(409, "conflictingRequest", f"Port {n['port']} is still in use.")
        hints = body.get("os:scheduler_hints", {})
        if hints.get("group", "") and hints["group"] not in region.server_groups:
            raise bad(f"Instance group {hints['group']} could not be found.")
        used = self.limits(region)["limits"]["absolute"]
        for what, more, total, of in (
            ("instances", 1, "totalInstancesUsed", "instances"),
            ("cores", vcpus, "totalCoresUsed", "cores"),
            ("ram", ram, "totalRAMUsed", "ram"),
        ):
            if used[total] + more > region.limits[of]:
                words = (
                    f"Quota exceeded for {what}: Requested {more}, "
                    f"but already used {used[total]} of {region.limits[of]} {what}"
                )
                raise Fault(403, "forbidden", words)
        id = str(uuid.uuid4())
        room = not any(f in (None, flavor) and z in (None, zone) for f, z in region.full)
        region.servers[id] = {
            "id": id,
            "asked": asked,
            "hints": hints,
            "flavor": flavor,
            "image": chosen,
            "zone": zone or region.zones[0],
            "status": "BUILD",
            "room": room,
            "groups": groups,
            "ports": [],
            "made": time.monotonic(),
            "created": now(),
            "gone": None,
        }
        return 202, {
            "server": {
                "id": id,
                "links": [{"rel": "self", "href": f"http://nova/v2.1/servers/{id}"}],
                "OS-DCF:diskConfig": "MANUAL",
                "security_groups": [{"name": g} for g in groups],
                "adminPass": "not-a-secret",
            }
        }

    def show(self, region: Region, server: dict, version: tuple) -> dict:
        asked = server["asked"]
        addresses: dict = {}
        for port in server["ports"]:
            p = region.ports.get(port)
            if p is None:
                continue
            name = region.networks[p["network"]]["name"]
            mac = "fa:16:3e:00:00:01"
            one = lambda addr, kind: {  # noqa: E731
                "addr": addr,
                "version": 4,
                "OS-EXT-IPS:type": kind,
                "OS-EXT-IPS-MAC:mac_addr": mac,
            }
            of = addresses.setdefault(name, [])
            of.append(one(p["address"], "fixed"))
            of += [one(f["address"], "floating") for f in region.floating.values() if f["port"] == port]
        name = server["flavor"]
        id, vcpus, ram, disk, specs = FLAVORS[name]
        shown = {
            "id": server["id"],
            "name": asked["name"],
            "status": server["status"],
            "tenant_id": ident("geo").replace("-", ""),
            "user_id": ident("ann").replace("-", ""),
            "metadata": asked.get("metadata", {}),
            "hostId": "" if server["status"] == "BUILD" else ident("host").replace("-", ""),
            "image": {"id": server["image"], "links": []} if asked.get("imageRef") else "",
            "flavor": {"id": id, "links": []},
            "created": server["created"],
            "updated": server["created"],
            "addresses": addresses,
            "accessIPv4": "",
            "accessIPv6": "",
            "links": [],
            "OS-DCF:diskConfig": "MANUAL",
            "OS-EXT-AZ:availability_zone": server["zone"],
            "config_drive": "True" if asked.get("config_drive") else "",
            "key_name": asked.get("key_name"),
            "OS-SRV-USG:launched_at": None,
            "OS-SRV-USG:terminated_at": None,
            "security_groups": [{"name": g} for g in server["groups"]],
            "OS-EXT-STS:task_state": None,
            "OS-EXT-STS:vm_state": {"BUILD": "building", "ACTIVE": "active", "ERROR": "error"}[server["status"]],
            "OS-EXT-STS:power_state": 1 if server["status"] == "ACTIVE" else 0,
            "os-extended-volumes:volumes_attached": [],
        }
        if server["status"] == "BUILD":
            shown["OS-EXT-STS:task_state"], shown["progress"] = "spawning", 0
        if server["status"] == "ERROR":
            words = "No valid host was found. There are not enough hosts available."
            shown["fault"] = {"code": 500, "created": server["created"], "message": words}
        if server["gone"] is not None:
            shown["OS-EXT-STS:task_state"] = "deleting"
        if version >= (2, 26):
            shown["tags"] = asked.get("tags", [])
        if version >= (2, 47):
            shown["flavor"] = {
                "original_name": name,
                "vcpus": vcpus,
                "ram": ram,
                "disk": disk,
                "ephemeral": 0,
                "swap": 0,
                "extra_specs": specs,
            }
        return shown

    # Neutron

    def network(self, region, request, parts, query, body):
        get = lambda key: query.get(key, [None])[0]  # noqa: E731
        match (request.method, parts):
            case ("GET", ["networks"]):
                return 200, {"networks": [self.show_network(region, i) for i in region.networks]}
            case ("GET", ["subnets"]):
                return 200, {
                    "subnets": [
                        {
                            "id": i,
                            "name": s["name"],
                            "network_id": s["network"],
                            "cidr": s["cidr"],
                            "ip_version": 4,
                            "enable_dhcp": True,
                            "tenant_id": ident("geo").replace("-", ""),
                        }
                        for i, s in region.subnets.items()
                    ]
                }
            case ("GET", ["security-groups"]):
                all = [self.show_group(i, g) for i, g in region.groups.items()]
                if "name" in query:
                    all = [g for g in all if g["name"] in query["name"]]
                return 200, {"security_groups": all}
            case ("POST", ["security-groups"]):
                asked = body["security_group"]
                if len(region.groups) >= region.limits["security_group"]:
                    raise Fault(409, "OverQuota", "Quota exceeded for resources: ['security_group'].")
                id = str(uuid.uuid4())
                region.groups[id] = {"name": asked["name"], "description": asked.get("description", ""), "rules": []}
                for family in ("IPv4", "IPv6"):
                    self.add_rule(region, {"security_group_id": id, "direction": "egress", "ethertype": family})
                return 201, {"security_group": self.show_group(id, region.groups[id])}
            case ("DELETE", ["security-groups", id]):
                if id not in region.groups:
                    raise Fault(404, "SecurityGroupNotFound", f"Security group {id} does not exist")
                if any(id in p["groups"] for p in region.ports.values()):
                    raise Fault(409, "SecurityGroupInUse", f"Security Group {id} in use.")
                del region.groups[id]
                return 204, None
            case ("POST", ["security-group-rules"]):
                return 201, {"security_group_rule": self.add_rule(region, body["security_group_rule"])}
            case ("GET", ["ports"]):
                all = list(region.ports.values())
                for key in ("device_id", "name", "network_id"):
                    of = {"network_id": "network"}.get(key, key)
                    all = [p for p in all if get(key) in (None, p[of])]
                return 200, {"ports": [self.show_port(p) for p in all]}
            case ("POST", ["ports"]):
                asked = body["port"]
                subnet = asked["fixed_ips"][0]["subnet_id"] if asked.get("fixed_ips") else None
                groups = asked.get("security_groups", [])
                for g in groups:
                    if g not in region.groups:
                        raise Fault(404, "SecurityGroupNotFound", f"Security group {g} does not exist")
                port = self.make_port(
                    region, asked["network_id"], subnet, groups, asked.get("name", ""), asked.get("description", "")
                )
                return 201, {"port": self.show_port(region.ports[port])}
            case ("DELETE", ["ports", id]):
                if id not in region.ports:
                    raise Fault(404, "PortNotFound", f"Port {id} could not be found.")
                self.drop_port(region, id)
                return 204, None
            case ("GET", ["floatingips"]):
                all = [f for f in region.floating.values() if get("port_id") in (None, f["port"])]
                return 200, {"floatingips": [self.show_floating(region, f) for f in all]}
            case ("POST", ["floatingips"]):
                return 201, {"floatingip": self.make_floating(region, body["floatingip"])}
            case ("DELETE", ["floatingips", id]):
                if region.floating.pop(id, None) is None:
                    raise Fault(404, "FloatingIPNotFound", f"Floating IP {id} could not be found")
                return 204, None
            case ("GET", ["quotas", _, "details"]):
                quota = {
                    "security_group": (region.limits["security_group"], len(region.groups)),
                    "security_group_rule": (100, sum(len(g["rules"]) for g in region.groups.values())),
                    "port": (-1, len(region.ports)),
                    "floatingip": (region.limits["floatingip"], len(region.floating)),
                }
                shown = {k: {"limit": m, "used": u, "reserved": 0} for k, (m, u) in quota.items()}
                return 200, {"quota": shown}
        return None

    @staticmethod
    def show_network(region: Region, id: str) -> dict:
        n = region.networks[id]
        return {
            "id": id,
            "name": n["name"],
            "status": "ACTIVE",
            "admin_state_up": True,
            "shared": n["shared"],
            "router:external": n["external"],
            "is_default": n["external"],
            "subnets": [i for i, s in region.subnets.items() if s["network"] == id] or [ident(f"subnet of {id}")],
            "tenant_id": ident("geo").replace("-", ""),
            "mtu": 1450,
            "description": "",
        }

    @staticmethod
    def show_group(id: str, group: dict) -> dict:
        return {
            "id": id,
            "name": group["name"],
            "description": group["description"],
            "security_group_rules": group["rules"],
            "tenant_id": ident("geo").replace("-", ""),
            "stateful": True,
            "tags": [],
        }

    def add_rule(self, region: Region, asked: dict) -> dict:
        group = region.groups.get(asked["security_group_id"])
        if group is None:
            raise Fault(404, "SecurityGroupNotFound", f"Security group {asked['security_group_id']} does not exist")
        port = lambda key: int(asked[key]) if asked.get(key) is not None else None  # noqa: E731
        rule = {
            "security_group_id": asked["security_group_id"],
            "direction": asked["direction"],
            "ethertype": asked.get("ethertype", "IPv4"),
            "protocol": asked.get("protocol"),
            "port_range_min": port("port_range_min"),
            "port_range_max": port("port_range_max"),
            "remote_ip_prefix": asked.get("remote_ip_prefix"),
            "remote_group_id": asked.get("remote_group_id"),
            "description": "",
        }
        if rule["remote_ip_prefix"]:
            family = ipaddress.ip_network(rule["remote_ip_prefix"]).version
            if rule["ethertype"] != f"IPv{family}":
                raise Fault(400, "SecurityGroupRuleParameterConflict", "Conflicting value ethertype")
        same = [r for r in group["rules"] if {k: v for k, v in r.items() if k != "id"} == rule]
        if same:
            words = f"Security group rule already exists. Rule id is {same[0]['id']}."
            raise Fault(409, "SecurityGroupRuleExists", words)
        rule = {"id": str(uuid.uuid4()), **rule}
        group["rules"].append(rule)
        return rule

    @staticmethod
    def show_port(p: dict) -> dict:
        return {
            "id": p["id"],
            "name": p["name"],
            "description": p["description"],
            "network_id": p["network"],
            "device_id": p["device_id"],
            "device_owner": p["device_owner"],
            "status": "ACTIVE" if p["device_id"] else "DOWN",
            "admin_state_up": True,
            "fixed_ips": [{"ip_address": p["address"], "subnet_id": ident("private-subnet")}],
            "security_groups": p["groups"],
            "mac_address": "fa:16:3e:00:00:01",
            "tenant_id": ident("geo").replace("-", ""),
        }

    @staticmethod
    def show_floating(region: Region, f: dict) -> dict:
        port = region.ports.get(f["port"]) if f["port"] else None
        return {
            "id": f["id"],
            "floating_ip_address": f["address"],
            "floating_network_id": f["network"],
            "port_id": f["port"],
            "fixed_ip_address": port["address"] if port else None,
            "router_id": ident("router") if port else None,
            "status": "ACTIVE" if port else "DOWN",
            "description": f["description"],
            "tenant_id": ident("geo").replace("-", ""),
            "tags": [],
        }

    def make_floating(self, region: Region, asked: dict) -> dict:
        network, port = asked["floating_network_id"], asked.get("port_id")
        if not region.networks.get(network, {}).get("external"):
            raise Fault(400, "BadRequest", f"Bad floatingip request: Network {network} is not a valid external network.")
        if len(region.floating) >= region.limits["floatingip"]:
            raise Fault(409, "OverQuota", "Quota exceeded for resources: ['floatingip'].")
        if port:
            if port not in region.ports:
                raise Fault(404, "PortNotFound", f"Port {port} could not be found.")
            if region.ports[port]["network"] not in region.routed:
                words = f"External network {network} is not reachable from subnet {ident('private-subnet')}."
                raise Fault(404, "ExternalGatewayForFloatingIPNotFound", words)
            if any(f["port"] == port for f in region.floating.values()):
                words = f"Cannot associate floating IP with port {port}, as that fixed IP already has a floating IP."
                raise Fault(409, "FloatingIPPortAlreadyAssociated", words)
        id = str(uuid.uuid4())
        address = str(ipaddress.ip_network(region.networks[network]["cidr"])[region.next])
        region.next += 1
        region.floating[id] = {
            "id": id,
            "address": address,
            "network": network,
            "port": port,
            "description": asked.get("description", ""),
        }
        return self.show_floating(region, region.floating[id])

    # Glance

    def image(self, region, request, parts, query, body):
        if (request.method, parts) != ("GET", ["images"]):
            return None
        all = [image(i, of) for i, of in enumerate(IMAGES)]
        for key in ("status", "name"):
            all = [i for i in all if query.get(key, [i[key]])[0] == i[key]]
        if query.get("sort") == ["created_at:desc"]:
            all.sort(key=lambda i: i["created_at"], reverse=True)
        status, out = self.pages(request, query, "images", all, self.page + 1)
        links = out.pop("images_links", None)
        if links:
            out["next"] = "/v2/images?" + links[0]["href"].split("?")[1]
        return status, {**out, "first": "/v2/images", "schema": "/v2/schemas/images"}

    # The test's

    def control(self, path: str, given: object) -> object:
        with self.lock:
            if path == "/_/clear":
                self.clear()
            elif path == "/_/rules":
                self.rules = given
            elif path == "/_/newest":
                self.newest = (2, int(given))
            elif path == "/_/full":
                self.regions["RegionOne"].full = [tuple(f) for f in given]
            elif path == "/_/spent":
                self.regions["RegionOne"].spent = {ident(s) for s in given}
            elif path == "/_/limits":
                self.regions["RegionOne"].limits |= given
            elif path == "/_/unrouted":
                self.regions["RegionOne"].routed = set()
            elif path == "/_/provider":
                # A network that others made, with addresses that are reached as they are.
                region = self.regions["RegionOne"]
                region.networks = {
                    ident("provider"): {"name": "provider", "external": False, "shared": True, "cidr": given}
                }
                region.subnets = {ident("p"): {"name": "p", "network": ident("provider"), "cidr": given}}
            elif path == "/_/group":
                # One that others made.
                self.regions["RegionOne"].groups[ident(given)] = {"name": given, "description": "", "rules": []}
            elif path == "/_/addresses":
                self.addresses = dict(given)
            elif path == "/_/metadata":
                self.hardware = given.get("hardware")
                self.serve_metadata(given["address"], given["port"])
            elif path == "/_/asked-by-machines":
                return self.asked
            elif path == "/_/build":
                self.build = float(given)
            elif path == "/_/lag":
                self.lag = float(given)
            elif path == "/_/stuck":
                self.stuck = bool(given)
            elif path == "/_/there":
                return self.there(bool(given))
            else:
                return super().control(path, given)
        return True

    def there(self, told: bool) -> dict:
        """All that there is; with `told`, what machines were told as well."""
        out: dict = {"servers": [], "groups": [], "ports": [], "floating": [], "server_groups": []}
        for name, region in self.regions.items():
            self.pass_time(region)
            for s in region.servers.values():
                addresses = [region.ports[p]["address"] for p in s["ports"] if p in region.ports]
                told_it = base64.b64decode(s["asked"].get("user_data", "")).decode() if told else ""
                out["servers"].append(
                    {
                        "id": s["id"],
                        "region": name,
                        "name": s["asked"]["name"],
                        "status": s["status"],
                        "deleting": s["gone"] is not None,
                        "flavor": s["flavor"],
                        "zone": s["zone"],
                        "address": addresses[0] if addresses else None,
                        "metadata": s["asked"].get("metadata", {}),
                        "tags": s["asked"].get("tags", []),
                        "groups": [region.groups[g]["name"] for g in s["groups"] if g in region.groups],
                        "user_data": told_it,
                    }
                )
            for g in region.groups.values():
                rules = [r for r in g["rules"] if r["direction"] == "ingress"]
                out["groups"].append({"name": g["name"], "rules": rules, "description": g["description"]})
            out["ports"] += [p for p in region.ports.values() if p["description"]]
            out["floating"] += list(region.floating.values())
            out["server_groups"] += list(region.server_groups.values())
        return out


    # What machines ask: Nova's documentation, "Metadata".

    def serve_metadata(self, address: str, port: int) -> None:
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                found = cloud.metadata(self.client_address[0], self.path)
                cloud.asked.append([self.client_address[0], self.path, 404 if found is None else 200])
                self.send_response(404 if found is None else 200)
                body = b"" if found is None else found
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        server = ThreadingHTTPServer((address, port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def metadata(self, client: str, path: str) -> bytes | None:
        """Whoever asks is known by the address that it asks from."""
        with self.lock:
            region = self.regions["RegionOne"]
            ports = {p["device_id"] for p in region.ports.values() if p["address"] == client}
            server = next((s for s in region.servers.values() if s["id"] in ports), None)
        parts = [p for p in path.split("/") if p]
        if server is None or parts[:1] != ["openstack"]:
            return None
        if len(parts) == 1:
            return "\n".join([*METADATA, "latest"]).encode()
        if parts[1] not in (*METADATA, "latest"):
            return None
        asked = server["asked"]
        if len(parts) == 2:
            return b"meta_data.json\nuser_data\nnetwork_data.json\nvendor_data.json"
        match parts[2]:
            case "meta_data.json":
                document = {
                    "uuid": server["id"],
                    "name": asked["name"],
                    "hostname": asked["name"],
                    "availability_zone": server["zone"],
                    "launch_index": 0,
                    "project_id": ident("geo").replace("-", ""),
                    "meta": asked.get("metadata", {}),
                    "devices": [],
                    "random_seed": base64.b64encode(uuid.uuid4().bytes * 32).decode(),
                }
                return json.dumps(document).encode()
            case "user_data":
                return base64.b64decode(asked["user_data"]) if "user_data" in asked else None
            case "network_data.json":
                return json.dumps(self.network_data(client)).encode()
            case "vendor_data.json" | "vendor_data2.json":
                return b"{}"
        return None

    def network_data(self, client: str) -> dict:
        """A machine's port, which asks for its address as Neutron's networks have it.
        Machines whose network is others' to set up are told of none."""
        if self.hardware is None:
            return {"links": [], "networks": [], "services": []}
        mac = ":".join([self.hardware, *(f"{int(n):02x}" for n in client.split("."))])
        link = {"id": "tap0", "vif_id": ident(client), "type": "ovs", "mtu": 1450, "ethernet_mac_address": mac}
        network = {"id": "network0", "type": "ipv4_dhcp", "link": "tap0", "network_id": ident("private")}
        return {"links": [link], "networks": [network], "services": []}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--page", type=int, default=3, help="longest page of a list")
    parser.add_argument("--build", type=float, default=0.4, help="seconds until a machine runs")
    parser.add_argument("--lag", type=float, default=0.1, help="seconds until a machine is in lists")
    args = parser.parse_args()
    serve(OpenStack(args.page, args.build, args.lag), args.latency)
