"""Hetzner Cloud, as its OpenAPI document and its prose describe it: servers with
actions that take time, names that are unique, networks that give addresses late,
firewalls that are in use, tokens that may only read, pages, and a limit of calls.
"""

import argparse
import datetime
import ipaddress
import itertools
import json
import lzma
import sys
import threading
import time
from pathlib import Path

from emulator import Reply, Request, serve
from openapi import Document, Rest, reply

MODEL = Path(__file__).parent / "models" / "hetzner-hcloud-2026-02-20.json.xz"
NOW = "2026-01-30T23:50:00+00:00"


def document() -> Document:
    return Document("hcloud.json", lambda _: json.loads(lzma.decompress(MODEL.read_bytes())))


def location(number, name, zone, city, country):
    return {
        "id": number,
        "name": name,
        "description": f"{city} DC Park 1",
        "country": country,
        "city": city,
        "latitude": 50.47612,
        "longitude": 12.370071,
        "network_zone": zone,
    }


LOCATIONS = [
    location(1, "fsn1", "eu-central", "Falkenstein", "DE"),
    location(2, "nbg1", "eu-central", "Nuremberg", "DE"),
    location(3, "hel1", "eu-central", "Helsinki", "FI"),
    location(4, "ash", "us-east", "Ashburn, VA", "US"),
]
EUROPE = ("fsn1", "nbg1", "hel1")


def money(net):
    return {"net": f"{net:.10f}", "gross": f"{net * 1.19:.16f}"}


def kind(number, name, cores, gib, disk, price, places=EUROPE, arch="x86", cpu="shared", old=()):
    ended = {"announced": "2026-01-01T00:00:00+00:00", "unavailable_after": "2026-03-01T00:00:00+00:00"}
    return {
        "id": number,
        "name": name,
        "description": name.upper(),
        "category": "Shared vCPU" if cpu == "shared" else "Dedicated vCPU",
        "cores": cores,
        "memory": float(gib),
        "disk": disk,
        "deprecated": bool(old),
        "deprecation": None,
        "architecture": arch,
        "cpu_type": cpu,
        "storage_type": "local",
        "prices": [
            {
                "location": p,
                "price_hourly": money(price),
                "price_monthly": money(price * 624),
                "included_traffic": 21990232555520,
                "price_per_tb_traffic": money(1.0),
            }
            for p in places
        ],
        "locations": [
            {"id": next(x["id"] for x in LOCATIONS if x["name"] == p), "name": p, "deprecation": ended if p in old else None}
            for p in places
        ],
    }


KINDS = [
    kind(22, "cpx11", 2, 2, 40, 0.0079),
    kind(104, "cx22", 2, 4, 40, 0.0060, old=EUROPE),
    kind(114, "cx23", 2, 4, 40, 0.0056),
    kind(45, "cax11", 2, 4, 40, 0.0053, arch="arm"),
    kind(109, "cpx22", 2, 4, 80, 0.0104, places=(*EUROPE, "ash")),
    kind(115, "cx33", 4, 8, 80, 0.0088, places=("fsn1", "nbg1")),
    kind(97, "ccx13", 2, 8, 80, 0.0200, cpu="dedicated"),
    kind(98, "ccx23", 4, 16, 160, 0.0392, cpu="dedicated", places=(*EUROPE, "ash")),
]


def image(number, name, flavor, version, arch="x86", kind="system", deprecated=None, description=None):
    return {
        "id": number,
        "type": kind,
        "status": "available",
        "name": name,
        "description": description or f"{flavor} {version}",
        "image_size": None,
        "disk_size": 5,
        "created": NOW,
        "created_from": None,
        "bound_to": None,
        "os_flavor": flavor,
        "os_version": version,
        "rapid_deploy": True,
        "protection": {"delete": False},
        "deprecated": deprecated,
        "deleted": None,
        "labels": {},
        "architecture": arch,
    }


IMAGES = [
    image(114690387, "debian-12", "debian", "12"),
    image(114690389, "debian-12", "debian", "12", arch="arm"),
    image(310557660, "debian-13", "debian", "13"),
    image(310557661, "debian-13", "debian", "13", arch="arm"),
    image(161547269, "ubuntu-24.04", "ubuntu", "24.04"),
    image(67794396, "ubuntu-22.04", "ubuntu", "22.04"),
    image(40093140, "docker-ce", "ubuntu", "26.04"),
    image(300000001, None, "debian", "13", kind="snapshot", description="herdsman-baked"),
]
KEYS = [{"id": 2323, "name": "mine", "fingerprint": "b7:2f:30:a0:2f:6c:58:6c:21:04:58:61:ba:06:3b:2f",
         "public_key": "ssh-ed25519 A", "labels": {}, "created": NOW}]


def error(status: int, code: str, message: str, **headers: str) -> Reply:
    return reply(status, {"error": {"code": code, "message": message, "details": None}}, **headers)


def selected(text: str | None, labels: dict) -> bool:
    """Label selectors: `k`, `!k`, `k==v`, `k!=v`, joined by commas."""
    for part in (text or "").split(","):
        if not part:
            continue
        if "!=" in part:
            k, v = part.split("!=")
            right = labels.get(k) != v
        elif "=" in part:
            k, v = part.replace("==", "=").split("=")
            right = labels.get(k) == v
        elif part.startswith("!"):
            right = part[1:] not in labels
        else:
            right = part in labels
        if not right:
            return False
    return True


class Hetzner(Rest):
    shown = ("name", "server_type", "location", "image", "labels", "networks", "firewalls", "public_net", "ssh_keys",
             "placement_group", "rules", "ip_range", "subnets", "type", "automount", "start_after_create")

    def __init__(self):
        super().__init__(document())
        self.turn = threading.RLock()
        self.clear()

    def clear(self):
        with self.turn:
            self.servers: dict = {}
            self.firewalls: dict = {}
            self.networks: dict = {}
            self.groups: dict = {}
            self.actions: dict = {}
            self.numbers = itertools.count(42)
            self.tokens = {"hz-test": "write"}
            self.calls: list = []
            # Seconds: until lists show it, until it is made and has addresses, until
            # it is gone.
            self.timing = {"listed": 0.15, "ready": 0.3, "gone": 0.2}
            self.places = {"sold_out": [], "limit": 25, "fail": 0, "protected": []}
            self.burst = {"calls": 3600, "a_second": 1000.0}
            self.level, self.at = 3600.0, time.monotonic()
            self.pool: dict = {}
            self.existing_network("office", "10.5.0.0/16")

    def routes(self):
        return {
            "GET /actions": self.list_actions,
            "GET /firewalls": lambda r: self.page(r, "firewalls", self.firewalls.values()),
            "POST /firewalls": self.make_firewall,
            "DELETE /firewalls/{id}": self.delete_firewall,
            "POST /firewalls/{id}/actions/set_rules": self.set_rules,
            "GET /images": self.list_images,
            "GET /images/{id}": lambda r, i: self.one("image", IMAGES, i),
            "GET /locations": lambda r: self.page(r, "locations", LOCATIONS),
            "GET /networks": lambda r: self.page(r, "networks", [self.network(n) for n in self.networks.values()]),
            "GET /networks/{id}": lambda r, i: self.one("network", [self.network(n) for n in self.networks.values()], i),
            "POST /networks": self.make_network,
            "DELETE /networks/{id}": self.delete_network,
            "GET /placement_groups": lambda r: self.page(r, "placement_groups", [self.group(g) for g in self.groups.values()]),
            "POST /placement_groups": self.make_group,
            "DELETE /placement_groups/{id}": self.delete_group,
            "GET /pricing": self.pricing,
            "GET /server_types": lambda r: self.page(r, "server_types", KINDS),
            "GET /servers": self.list_servers,
            "POST /servers": self.create,
            "GET /servers/{id}": self.get_server,
            "DELETE /servers/{id}": self.delete_server,
            "GET /ssh_keys": lambda r: self.page(r, "ssh_keys", KEYS),
            "GET /ssh_keys/{id}": lambda r, i: self.one("ssh_key", KEYS, i),
        }

    # === who asks ===

    def refused(self, request: Request):
        with self.turn:
            now = time.monotonic()
            self.level = min(self.burst["calls"], self.level + (now - self.at) * self.burst["a_second"])
            self.at = now
            if self.level < 1:
                return error(429, "rate_limit_exceeded", "limit of 3600 requests per hour reached", **self.headers())
            self.level -= 1
        token = self.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if token is None:
            return error(401, "unauthorized", "unable to authenticate", **self.headers())
        if token == "read" and request.method != "GET":
            message = "the token used for this request has read-only permissions"
            return error(403, "token_readonly", message, **self.headers())
        return None

    def headers(self):
        full = (self.burst["calls"] - self.level) / max(self.burst["a_second"], 1e-9)
        return {
            "RateLimit-Limit": str(self.burst["calls"]),
            "RateLimit-Remaining": str(int(self.level)),
            "RateLimit-Reset": str(int(time.time() + full)),
        }

    @staticmethod
    def nothing(what: str = "resource") -> Reply:
        return error(404, "not_found", f"{what} not found")

    def page(self, request: Request, field: str, entries) -> Reply:
        pairs = dict(request.facts["pairs"])
        entries = [e for e in entries if pairs.get("name") in (None, e.get("name"))]
        entries = [e for e in entries if selected(pairs.get("label_selector"), e.get("labels", {}))]
        number, each = int(pairs.get("page", 1)), min(50, int(pairs.get("per_page", 25)))
        last = max(1, -(-len(entries) // each))
        meta = {
            "page": number,
            "per_page": each,
            "previous_page": number - 1 if number > 1 else None,
            "next_page": number + 1 if number < last else None,
            "last_page": last,
            "total_entries": len(entries),
        }
        return reply(200, {field: entries[(number - 1) * each : number * each], "meta": {"pagination": meta}})

    def one(self, field: str, entries: list, ident: str) -> Reply:
        found = [e for e in entries if str(e["id"]) == ident]
        return reply(200, {field: found[0]}) if found else self.nothing(field)

    def list_images(self, request: Request) -> Reply:
        pairs = dict(request.facts["pairs"])
        fits = lambda i: all(pairs.get(k) in (None, i[k]) for k in ("type", "architecture", "status"))  # noqa: E731
        return self.page(request, "images", [i for i in IMAGES if fits(i)])

    def pricing(self, request: Request) -> Reply:
        of_ips = [
            {"location": x["name"], "price_hourly": money(0.0008), "price_monthly": money(0.5)} for x in LOCATIONS
        ]
        body = {
            "currency": "EUR",
            "vat_rate": "19.000000",
            "primary_ips": [{"type": "ipv4", "prices": of_ips}],
            "floating_ip": {"price_monthly": money(3.0)},
            "floating_ips": [],
            "image": {"price_per_gb_month": money(0.011)},
            "load_balancer_types": [],
            "server_backup": {"percentage": "20.0000000000"},
            "server_types": [],
            "volume": {"price_per_gb_month": money(0.044)},
        }
        return reply(200, {"pricing": body})

    # === actions ===

    def begin(self, command: str, resource: tuple, until: float, fails: dict | None = None) -> dict:
        ident = next(self.numbers)
        self.actions[ident] = {"command": command, "resource": resource, "until": until, "fails": fails}
        return self.action(ident)

    def action(self, ident: int) -> dict:
        a = self.actions[ident]
        over = time.monotonic() >= a["until"]
        return {
            "id": ident,
            "command": a["command"],
            "status": "running" if not over else "error" if a["fails"] else "success",
            "progress": 100 if over else 0,
            "started": NOW,
            "finished": NOW if over else None,
            "resources": [{"id": a["resource"][1], "type": a["resource"][0]}],
            "error": a["fails"] if over else None,
        }

    def list_actions(self, request: Request) -> Reply:
        wanted = [int(v) for k, v in request.facts["pairs"] if k == "id"]
        if not wanted:
            return error(400, "invalid_input", "id is missing")
        return reply(200, {"actions": [self.action(i) for i in wanted if i in self.actions]})

    # === networks, firewalls, groups ===

    def existing_network(self, name: str, ip_range: str) -> None:
        ident = next(self.numbers)
        self.networks[ident] = {"id": ident, "name": name, "ip_range": ip_range, "labels": {}, "zone": "eu-central",
                                "hosts": itertools.count(2)}

    def alive(self):
        return [s for s in self.servers.values() if not self.is_gone(s)]

    def network(self, n: dict) -> dict:
        gateway = str(ipaddress.ip_network(n["ip_range"])[1])
        subnet = {"type": "cloud", "ip_range": n["ip_range"], "network_zone": n["zone"], "gateway": gateway, "vswitch_id": None}
        return {
            "id": n["id"],
            "name": n["name"],
            "ip_range": n["ip_range"],
            "subnets": [subnet],
            "routes": [],
            "servers": [s["id"] for s in self.alive() if s["network"] == n["id"]],
            "load_balancers": [],
            "protection": {"delete": False},
            "labels": n["labels"],
            "created": NOW,
            "expose_routes_to_vswitch": False,
        }

    def make_network(self, request: Request) -> Reply:
        body = request.json
        with self.turn:
            if any(n["name"] == body["name"] for n in self.networks.values()):
                return error(409, "uniqueness_error", "name is already used")
            net = ipaddress.ip_network(body["ip_range"])
            subnets = body.get("subnets", [])
            if not net.is_private or any(not ipaddress.ip_network(s["ip_range"]).subnet_of(net) for s in subnets):
                return error(422, "invalid_input", "invalid input in field 'ip_range'")
            ident = next(self.numbers)
            zone = subnets[0]["network_zone"] if subnets else ""
            self.networks[ident] = {"id": ident, "name": body["name"], "ip_range": body["ip_range"],
                                    "labels": body.get("labels", {}), "zone": zone, "hosts": itertools.count(2)}
            return reply(201, {"network": self.network(self.networks[ident])})

    def delete_network(self, request: Request, ident: str) -> Reply:
        with self.turn:
            if self.networks.pop(int(ident), None) is None:
                return self.nothing("network")
            for s in self.servers.values():
                if s["network"] == int(ident):
                    s["network"] = None
            return reply(204)

    def make_firewall(self, request: Request) -> Reply:
        body = request.json
        with self.turn:
            if any(f["name"] == body["name"] for f in self.firewalls.values()):
                return error(409, "uniqueness_error", "name is already used")
            ident = next(self.numbers)
            self.firewalls[ident] = {"id": ident, "name": body["name"], "labels": body.get("labels", {}), "created": NOW,
                                     "rules": [self.rule(r) for r in body.get("rules", [])], "applied_to": []}
            return reply(201, {"firewall": self.firewalls[ident], "actions": []})

    @staticmethod
    def rule(r: dict) -> dict:
        return {"destination_ips": [], "source_ips": [], "description": None, "port": None, **r}

    def set_rules(self, request: Request, ident: str) -> Reply:
        with self.turn:
            if int(ident) not in self.firewalls:
                return self.nothing("firewall")
            self.firewalls[int(ident)]["rules"] = [self.rule(r) for r in request.json["rules"]]
            action = self.begin("set_firewall_rules", ("firewall", int(ident)), 0)
            return reply(201, {"actions": [action]})

    def delete_firewall(self, request: Request, ident: str) -> Reply:
        with self.turn:
            if int(ident) not in self.firewalls:
                return self.nothing("firewall")
            if any(int(ident) in s["firewalls"] for s in self.alive()):
                return error(422, "resource_in_use", "firewall is still in use")
            del self.firewalls[int(ident)]
            return reply(204)

    def group(self, g: dict) -> dict:
        servers = [s["id"] for s in self.alive() if s["group"] == g["id"]]
        return {"id": g["id"], "name": g["name"], "labels": g["labels"], "type": "spread", "created": NOW, "servers": servers}

    def make_group(self, request: Request) -> Reply:
        body = request.json
        with self.turn:
            if any(g["name"] == body["name"] for g in self.groups.values()):
                return error(409, "uniqueness_error", "name is already used")
            ident = next(self.numbers)
            self.groups[ident] = {"id": ident, "name": body["name"], "labels": body.get("labels", {})}
            return reply(201, {"placement_group": self.group(self.groups[ident]), "action": None})

    def delete_group(self, request: Request, ident: str) -> Reply:
        with self.turn:
            if int(ident) not in self.groups:
                return self.nothing("placement group")
            if self.group(self.groups[int(ident)])["servers"]:
                return error(422, "resource_in_use", "placement group is still in use")
            del self.groups[int(ident)]
            return reply(204)

    # === servers ===

    def is_gone(self, s: dict) -> bool:
        return s["gone"] is not None and time.monotonic() >= s["gone"]

    def is_listed(self, s: dict) -> bool:
        return time.monotonic() >= s["made"] + self.timing["listed"] and not self.is_gone(s)

    def is_ready(self, s: dict) -> bool:
        return time.monotonic() >= s["made"] + self.timing["ready"]

    def show(self, s: dict) -> dict:
        place = next(x for x in LOCATIONS if x["name"] == s["location"])
        status = "deleting" if s["gone"] is not None else s["status"] or ("running" if self.is_ready(s) else "initializing")
        private = []
        if self.is_ready(s) and s["network"] is not None:
            private = [{"network": s["network"], "ip": s["private"], "alias_ips": [], "mac_address": "86:00:ff:2a:7d:e1"}]
        return {
            "id": s["id"],
            "name": s["name"],
            "status": status,
            "created": NOW,
            "public_net": {
                "ipv4": s["ipv4"] and {"id": s["id"], "ip": s["ipv4"], "blocked": False, "dns_ptr": "x.example"},
                "ipv6": s["ipv6"] and {"id": s["id"], "ip": s["ipv6"], "blocked": False, "dns_ptr": []},
                "floating_ips": [],
                "firewalls": [{"id": f, "status": "applied"} for f in s["firewalls"]],
            },
            "private_net": private,
            "server_type": next(k for k in KINDS if k["name"] == s["kind"]),
            "datacenter": {
                "id": place["id"],
                "name": f"{place['name']}-dc1",
                "description": "x",
                "location": place,
                "server_types": {"supported": [], "available": [], "available_for_migration": []},
            },
            "location": place,
            "image": s["image"],
            "iso": None,
            "rescue_enabled": False,
            "locked": not self.is_ready(s),
            "backup_window": None,
            "outgoing_traffic": None,
            "ingoing_traffic": None,
            "included_traffic": 21990232555520,
            "protection": {"delete": s["name"] in self.places["protected"], "rebuild": False},
            "labels": s["labels"],
            "volumes": [],
            "load_balancers": [],
            "primary_disk_size": 40,
            "placement_group": self.group(self.groups[s["group"]]) if s["group"] in self.groups else None,
        }

    def create(self, request: Request) -> Reply:
        body = request.json
        with self.turn:
            if any(s["name"] == body["name"] for s in self.alive()):
                return error(409, "uniqueness_error", "server name is already used")
            found = next((k for k in KINDS if k["name"] == body["server_type"]), None)
            place = body.get("location", "fsn1")
            here = [x for x in found["locations"] if x["name"] == place] if found else []
            if not here or here[0]["deprecation"]:
                return error(422, "invalid_input", "unsupported location for server type")
            if [found["name"], place] in self.places["sold_out"] or found["name"] in self.places["sold_out"]:
                return error(412, "resource_unavailable", "The requested Server Type is temporarily unavailable")
            images = [i for i in IMAGES if body["image"] in (str(i["id"]), i["name"]) and i["architecture"] == found["architecture"]]
            if not images:
                return error(422, "invalid_input", "image not found")
            if len(body.get("user_data", "").encode()) > 32 * 1024:
                return error(422, "invalid_input", "user_data is too long")
            if len(self.alive()) >= self.places["limit"]:
                return error(403, "resource_limit_exceeded", "server limit exceeded")
            public = {"enable_ipv4": True, "enable_ipv6": True, **body.get("public_net", {})}
            walls = [f["firewall"] for f in body.get("firewalls", [])]
            if walls and not (public["enable_ipv4"] or public["enable_ipv6"]):
                return error(422, "private_net_only_server", "the server has no public interface")
            missing = [f for f in walls if f not in self.firewalls] or [n for n in body.get("networks", []) if n not in self.networks]
            missing = missing or [k for k in body.get("ssh_keys", []) if k not in ("mine",)]
            if missing:
                return error(404, "not_found", f"{missing[0]} not found")
            group = body.get("placement_group")
            if group is not None and len(self.group(self.groups[group])["servers"]) >= 10:
                return error(422, "placement_error", "an error during the placement occurred")
            return self.make(body, found, images[0], place, public, walls, group)

    def make(self, body, kind, image, place, public, walls, group) -> Reply:
        ident = next(self.numbers)
        network = (body.get("networks") or [None])[0]
        private = None
        if network is not None:
            n = self.networks[network]
            private = str(ipaddress.ip_network(n["ip_range"])[next(n["hosts"])])
        ipv4 = f"192.0.2.{ident % 250 + 1}"
        if body["name"] in self.pool:
            private = ipv4 = self.pool[body["name"]]
        fails = None
        if self.places["fail"] > 0:
            self.places["fail"] -= 1
            fails = {"code": "resource_unavailable", "message": "no host is left"}
        s = {
            "id": ident,
            "name": body["name"],
            "kind": kind["name"],
            "image": image,
            "location": place,
            "labels": body.get("labels", {}),
            "user_data": body.get("user_data", ""),
            "network": network,
            "private": private,
            "ipv4": ipv4 if public["enable_ipv4"] else None,
            "ipv6": f"2001:db8:0:{ident:x}::/64" if public["enable_ipv6"] else None,
            "firewalls": walls,
            "group": group,
            "made": time.monotonic() if not fails else float("inf"),
            "gone": None,
            "status": None,
        }
        self.servers[ident] = s
        end = time.monotonic() + self.timing["ready"]
        action = self.begin("create_server", ("server", ident), end, fails)
        more = [self.begin("start_server", ("server", ident), end)]
        if network is not None:
            more.append(self.begin("attach_to_network", ("server", ident), end))
        password = None if body.get("ssh_keys") else "not-a-password"
        return reply(201, {"server": self.show(s), "action": action, "next_actions": more, "root_password": password})

    def list_servers(self, request: Request) -> Reply:
        with self.turn:
            return self.page(request, "servers", [self.show(s) for s in self.servers.values() if self.is_listed(s)])

    def get_server(self, request: Request, ident: str) -> Reply:
        s = self.servers.get(int(ident))
        return self.nothing("server") if s is None or self.is_gone(s) else reply(200, {"server": self.show(s)})

    def delete_server(self, request: Request, ident: str) -> Reply:
        with self.turn:
            s = self.servers.get(int(ident))
            if s is None or self.is_gone(s):
                return self.nothing("server")
            if s["name"] in self.places["protected"]:
                return error(403, "protected", "server deletion is protected")
            if not self.is_ready(s) and s["made"] != float("inf"):
                return error(423, "locked", "server is locked")
            if s["gone"] is None:
                s["gone"] = time.monotonic() + self.timing["gone"]
            return reply(200, {"action": self.begin("delete_server", ("server", int(ident)), s["gone"])})

    # === for tests ===

    def fault(self, request: Request, fault: dict) -> Reply:
        code, text = fault.get("code", "service_error"), fault.get("message", "made by the test")
        return error(fault["status"], code, text, **self.headers(), **fault.get("headers", {}))

    def control(self, path: str, given: object) -> object:
        with self.turn:
            if path == "/_/clear":
                self.clear()
            elif path in ("/_/timing", "/_/places", "/_/burst"):
                getattr(self, path[3:]).update(given)
                self.level = min(self.level, self.burst["calls"])
            elif path == "/_/tokens":
                self.tokens = given
            elif path == "/_/pool":
                self.pool = given
            elif path == "/_/off":
                for s in self.servers.values():
                    if s["name"] == given:
                        s["status"] = "off"
            elif path == "/_/there":
                return self.there()
            else:
                return super().control(path, given)
        return True

    def there(self) -> dict:
        """All that is left, with who gets in where."""
        shown = ("id", "name", "kind", "location", "labels", "user_data", "private", "ipv4", "ipv6", "firewalls", "group", "network")
        machines = []
        for s in self.servers.values():
            if s["gone"] is None:
                rules = [r for f in s["firewalls"] for r in self.firewalls[f]["rules"]]
                machines.append({**{k: s[k] for k in shown}, "image": s["image"]["name"] or s["image"]["description"],
                                 "inbound": rules})
        networks = [self.network(n) for n in self.networks.values() if n["labels"]]
        return {"machines": machines, "firewalls": list(self.firewalls.values()), "networks": networks,
                "groups": [self.group(g) for g in self.groups.values()]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    args = parser.parse_args()
    serve(Hetzner(), args.latency)
    sys.exit(0)
