"""DigitalOcean, as its OpenAPI document and its prose describe it: droplets that are
there before they have addresses and before lists show them, tags that belong to the
account, firewalls that hold for tags, scopes of tokens, pages, and a limit of calls.
"""

import argparse
import datetime
import io
import ipaddress
import itertools
import sys
import tarfile
import threading
import time
import uuid
from pathlib import Path

import yaml

from emulator import Reply, Request, serve
from openapi import Document, Rest, reply

MODEL = Path(__file__).parent / "models" / "digitalocean-openapi-2026-08-07.tar.xz"
REGIONS = ("nyc3", "fra1", "sgp1")


def document() -> Document:
    with tarfile.open(fileobj=io.BytesIO(MODEL.read_bytes()), mode="r:xz") as tar:
        texts = {m.name.removeprefix("./"): tar.extractfile(m).read() for m in tar if m.isfile()}
    # As YAML 1.2 has it: a droplet that is `off` is no boolean.
    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        yaml_implicit_resolvers = {
            first: [(tag, regexp) for tag, regexp in pairs if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
            for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    return Document("specification/DigitalOcean-public.v2.yaml", lambda name: yaml.load(texts[name], Loader))


def size(slug, cpus, gib, disk, price, available=True, regions=REGIONS, kind="Basic", gpus=None):
    body = {
        "slug": slug,
        "memory": gib * 1024,
        "vcpus": cpus,
        "disk": disk,
        "transfer": 1.0,
        "price_monthly": price * 672,
        "price_hourly": price,
        "regions": list(regions),
        "available": available,
        "description": kind,
    }
    if gpus:
        body["gpu_info"] = {"count": gpus, "model": "nvidia_h100", "vram": {"amount": 80, "unit": "gib"}}
    return body


SIZES = [
    size("s-1vcpu-1gb", 1, 1, 25, 0.00893),
    size("s-2vcpu-2gb", 2, 2, 60, 0.02679),
    size("s-2vcpu-4gb", 2, 4, 80, 0.03571),
    size("s-2vcpu-4gb-intel", 2, 4, 120, 0.04762),
    size("s-2vcpu-4gb-old", 2, 4, 80, 0.01, available=False),
    size("s-4vcpu-8gb", 4, 8, 160, 0.07143),
    size("g-4vcpu-16gb", 4, 16, 50, 0.1875, kind="General Purpose"),
    size("s-8vcpu-16gb", 8, 16, 320, 0.14286, regions=("fra1",)),
    size("gpu-h100x1-80gb", 20, 240, 720, 3.39, regions=("nyc3",), kind="H100 GPU - 1X", gpus=1),
]
# Fillers, so that a list has more than a page where pages are small.
SIZES += [size(f"c-{n}", n, 2 * n, 25, 0.0625 * n / 2, kind="CPU-Optimized") for n in (2, 4, 8, 16, 32)]


def image(number, slug, distribution, name, public=True, regions=REGIONS):
    return {
        "id": number,
        "name": name,
        "type": "base" if public else "snapshot",
        "distribution": distribution,
        "slug": slug,
        "public": public,
        "regions": list(regions),
        "created_at": "2026-06-04T22:23:02Z",
        "min_disk_size": 10,
        "size_gigabytes": 2.34,
        "description": name,
        "tags": [],
        "status": "available",
    }


IMAGES = [
    image(101, "debian-12-x64", "Debian", "12 x64"),
    image(102, "debian-13-x64", "Debian", "13 x64"),
    image(103, "ubuntu-22-04-x64", "Ubuntu", "22.04 (LTS) x64"),
    image(104, "ubuntu-24-04-x64", "Ubuntu", "24.04 (LTS) x64"),
    image(105, "ubuntu-25-10-x64", "Ubuntu", "25.10 x64"),
    image(201, None, "Debian", "herdsman-baked", public=False, regions=("nyc3",)),
]
KEYS = [{"id": 512189, "fingerprint": "3b:16:bf:e4:8b:00:8b:b8:59:8c:a9:d3:f0:19:45:fa", "public_key": "ssh-rsa A", "name": "mine"}]
VPCS = [
    {
        "id": str(uuid.uuid5(uuid.NAMESPACE_DNS, region + name)),
        "urn": f"do:vpc:{uuid.uuid5(uuid.NAMESPACE_DNS, region + name)}",
        "name": f"{name}-{region}",
        "description": "",
        "region": region,
        "ip_range": f"10.{100 + i}.0.0/20",
        "default": name == "default",
        "created_at": "2020-03-13T19:20:47Z",
    }
    for i, (region, name) in enumerate(itertools.product(REGIONS, ("default", "other")))
]
# What a token has to have besides the operation's own scope.
ALL = "*"


def error(status: int, ident: str, message: str, **headers: str) -> Reply:
    return reply(status, {"id": ident, "message": message}, **headers)


class DigitalOcean(Rest):
    shown = ("names", "region", "size", "image", "tags", "name", "vpc_uuid", "ssh_keys", "monitoring", "ipv6",
             "public_networking", "with_droplet_agent", "inbound_rules", "outbound_rules", "backups")

    def __init__(self):
        super().__init__(document())
        self.turn = threading.RLock()
        self.clear()

    def clear(self):
        with self.turn:
            self.droplets: dict = {}
            self.tags: set = set()
            self.firewalls: dict = {}
            self.actions: dict = {}
            self.numbers = itertools.count(3164444)
            self.hosts = itertools.count(2)
            self.tokens = {"dop_v1_test": [ALL]}
            self.calls: list = []
            # Seconds: until lists show it, until it has addresses, until it is gone.
            self.timing = {"listed": 0.15, "ready": 0.3, "gone": 0.2}
            self.places = {"sold_out": [], "limit": 25, "fail": 0, "fewer": 0}
            self.burst = {"calls": 100000, "seconds": 60}
            self.pool: dict = {}

    def routes(self):
        return {
            "GET /v2/account": self.account,
            "GET /v2/account/keys": lambda r: self.page(r, "ssh_keys", KEYS),
            "GET /v2/account/keys/{ssh_key_identifier}": self.key,
            "GET /v2/actions/{action_id}": self.action,
            "GET /v2/droplets": self.list_droplets,
            "POST /v2/droplets": self.create,
            "DELETE /v2/droplets": self.delete_by_tag,
            "GET /v2/droplets/{droplet_id}": self.get_droplet,
            "DELETE /v2/droplets/{droplet_id}": self.delete_droplet,
            "GET /v2/firewalls": lambda r: self.page(r, "firewalls", list(self.firewalls.values())),
            "POST /v2/firewalls": self.make_firewall,
            "PUT /v2/firewalls/{firewall_id}": self.change_firewall,
            "DELETE /v2/firewalls/{firewall_id}": self.delete_firewall,
            "GET /v2/images": self.list_images,
            "GET /v2/images/{image_id}": self.get_image,
            "GET /v2/sizes": lambda r: self.page(r, "sizes", SIZES),
            "GET /v2/tags": lambda r: self.page(r, "tags", [self.tag(t) for t in sorted(self.tags)]),
            "POST /v2/tags": self.make_tag,
            "GET /v2/tags/{tag_id}": self.get_tag,
            "DELETE /v2/tags/{tag_id}": self.delete_tag,
            "GET /v2/vpcs": lambda r: self.page(r, "vpcs", VPCS),
            "GET /v2/vpcs/{vpc_id}": self.get_vpc,
        }

    # === who asks ===

    def refused(self, request: Request):
        with self.turn:
            now = time.monotonic()
            self.calls = [t for t in self.calls if now - t < self.burst["seconds"]]
            if len(self.calls) >= self.burst["calls"]:
                wait = max(1, round(self.burst["seconds"] - (now - self.calls[0]) + 0.5))
                return error(429, "too_many_requests", "API Rate limit exceeded.", **self.headers(), **{"retry-after": str(wait)})
            self.calls.append(now)
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        request.scopes = self.tokens.get(token)
        if request.scopes is None:
            return error(401, "unauthorized", "Unable to authenticate you", **self.headers())
        missing = [s for s in self.needed(request) if not self.has(request, s)]
        if missing:
            return error(403, "forbidden", f"You are missing the required permission {missing[0]}", **self.headers())
        return None

    @staticmethod
    def has(request: Request, scope: str) -> bool:
        return ALL in request.scopes or scope in request.scopes

    def needed(self, request: Request) -> list:
        """The operation's scopes as the document has them, and those of its fields."""
        scopes = [s for need in request.operation[1].get("security", []) for s in need.get("bearer_auth", [])]
        body = request.json if isinstance(request.json, dict) else {}
        if request.action == "POST /v2/droplets":
            scopes += ["image:read"]
            scopes += ["tag:create"] if body.get("tags") else []
            scopes += ["ssh_key:read"] if body.get("ssh_keys") else []
            scopes += ["vpc:read"] if body.get("vpc_uuid") else []
        if request.action in ("POST /v2/firewalls", "PUT /v2/firewalls/{firewall_id}") and body.get("tags"):
            scopes += ["tag:create", "tag:read"]
        if "tag_name" in dict(request.facts["pairs"]):
            scopes += ["tag:read"]
        return scopes

    def headers(self):
        left = max(0, self.burst["calls"] - len(self.calls))
        reset = int(time.time()) + 1
        return {"ratelimit-limit": "5000", "ratelimit-remaining": str(left), "ratelimit-reset": str(reset)}

    # === what there is ===

    def page(self, request: Request, field: str, entries: list) -> Reply:
        pairs = dict(request.facts["pairs"])
        number, each = int(pairs.get("page", 1)), int(pairs.get("per_page", 20))
        pages: dict = {}
        at = f"https://api.digitalocean.com{request.path}?per_page={each}&page="
        if number * each < len(entries):
            pages = {"next": f"{at}{number + 1}", "last": f"{at}{-(-len(entries) // each)}"}
        body = {field: entries[(number - 1) * each : number * each], "meta": {"total": len(entries)}}
        return reply(200, {**body, "links": {"pages": pages} if pages else {}})

    def account(self, request: Request) -> Reply:
        body = {
            "droplet_limit": self.places["limit"],
            "floating_ip_limit": 5,
            "email": "sammy@example.com",
            "uuid": "b6fr89dbf6d9156cace5f3c78dc9851d957381ef",
            "email_verified": True,
            "status": "active",
            "status_message": "",
            "team": {"uuid": "5df3e3004a17e242b7c20ca6c9fc25b701a47ece", "name": "My Team"},
        }
        return reply(200, {"account": body})

    def key(self, request: Request, ident: str) -> Reply:
        found = [k for k in KEYS if ident in (str(k["id"]), k["fingerprint"])]
        return reply(200, {"ssh_key": found[0]}) if found else self.nothing()

    @staticmethod
    def nothing() -> Reply:
        return error(404, "not_found", "The resource you were accessing could not be found.")

    def list_images(self, request: Request) -> Reply:
        pairs = dict(request.facts["pairs"])
        found = [i for i in IMAGES if i["public"]]
        if pairs.get("private") == "true":
            found = [i for i in IMAGES if not i["public"]]
        return self.page(request, "images", found)

    def get_image(self, request: Request, ident: str) -> Reply:
        found = [i for i in IMAGES if ident in (str(i["id"]), i["slug"])]
        return reply(200, {"image": found[0]}) if found else self.nothing()

    def get_vpc(self, request: Request, ident: str) -> Reply:
        found = [v for v in VPCS if v["id"] == ident]
        return reply(200, {"vpc": found[0]}) if found else self.nothing()

    # === tags ===

    def tag(self, name: str) -> dict:
        count = sum(name in d["tags"] and not self.is_gone(d) for d in self.droplets.values())
        body: dict = {"count": count, "droplets": {"count": count}}
        return {"name": name, "resources": body}

    def make_tag(self, request: Request) -> Reply:
        with self.turn:
            name = request.json["name"]
            self.tags.add(name)
            return reply(201, {"tag": self.tag(name)})

    def get_tag(self, request: Request, name: str) -> Reply:
        return reply(200, {"tag": self.tag(name)}) if name in self.tags else self.nothing()

    def delete_tag(self, request: Request, name: str) -> Reply:
        with self.turn:
            if name not in self.tags:
                return self.nothing()
            self.tags.discard(name)
            for droplet in self.droplets.values():
                droplet["tags"] = [t for t in droplet["tags"] if t != name]
            for firewall in self.firewalls.values():
                firewall["tags"] = [t for t in firewall["tags"] if t != name]
            return reply(204)

    # === firewalls ===

    def wrong_tags(self, body: dict) -> list:
        named = set(body.get("tags") or [])
        for rule in [*(body.get("inbound_rules") or []), *(body.get("outbound_rules") or [])]:
            named |= set((rule.get("sources") or rule.get("destinations") or {}).get("tags") or [])
        return sorted(named - self.tags)

    def make_firewall(self, request: Request) -> Reply:
        body = request.json
        with self.turn:
            wrong = self.wrong_tags(body)
            if wrong:
                return error(422, "unprocessable_entity", f"tags must exist: {wrong[0]}")
            if any(f["name"] == body["name"] for f in self.firewalls.values()):
                return error(409, "conflict", "duplicate name")
            if len(body.get("tags") or []) > 5:
                return error(422, "unprocessable_entity", "a firewall takes 5 tags")
            ident = str(uuid.uuid4())
            self.firewalls[ident] = self.firewall(ident, body)
            return reply(202, {"firewall": self.firewalls[ident]})

    @staticmethod
    def firewall(ident: str, body: dict) -> dict:
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "id": ident,
            "status": "waiting",
            "created_at": now,
            "pending_changes": [],
            "droplet_ids": body.get("droplet_ids") or [],
            "name": body["name"],
            "tags": body.get("tags") or [],
            "inbound_rules": body.get("inbound_rules") or [],
            "outbound_rules": body.get("outbound_rules") or [],
        }

    def change_firewall(self, request: Request, ident: str) -> Reply:
        with self.turn:
            if ident not in self.firewalls:
                return self.nothing()
            self.firewalls[ident] = self.firewall(ident, request.json)
            return reply(200, {"firewall": self.firewalls[ident]})

    def delete_firewall(self, request: Request, ident: str) -> Reply:
        with self.turn:
            return reply(204) if self.firewalls.pop(ident, None) else self.nothing()

    # === droplets ===

    def is_gone(self, d: dict) -> bool:
        return d["gone"] is not None and time.monotonic() >= d["gone"]

    def is_listed(self, d: dict) -> bool:
        return time.monotonic() >= d["made"] + self.timing["listed"] and not self.is_gone(d)

    def is_ready(self, d: dict) -> bool:
        return time.monotonic() >= d["made"] + self.timing["ready"] and not d["fails"]

    def show(self, d: dict, request: Request) -> dict:
        kind = next(s for s in SIZES if s["slug"] == d["size"])
        v4 = []
        if self.is_ready(d):
            v4 = [{"ip_address": d["private"], "netmask": "255.255.240.0", "gateway": "", "type": "private"}]
            if d["public"]:
                public = {"ip_address": d["public"], "netmask": "255.255.240.0", "gateway": "192.0.2.1", "type": "public"}
                v4.insert(0, public)
        return {
            "id": d["id"],
            "name": d["name"],
            "memory": kind["memory"],
            "vcpus": kind["vcpus"],
            "disk": kind["disk"],
            "locked": not self.is_ready(d),
            "status": d["status"] or ("active" if self.is_ready(d) else "new"),
            "created_at": d["created_at"],
            "features": ["private_networking"],
            "backup_ids": [],
            "next_backup_window": None,
            "snapshot_ids": [],
            "image": d["image"],
            "volume_ids": [],
            "size": kind,
            "size_slug": kind["slug"],
            "networks": {"v4": v4, "v6": []},
            "region": {"name": d["region"], "slug": d["region"], "features": [], "available": True, "sizes": []},
            # Who may not read tags is not told of them.
            "tags": d["tags"] if self.has(request, "tag:read") else [],
            "vpc_uuid": d["vpc"],
        }

    def create(self, request: Request) -> Reply:
        body = request.json
        with self.turn:
            kind = next((s for s in SIZES if s["slug"] == body["size"]), None)
            if kind is None or body.get("region") not in kind["regions"]:
                return error(422, "unprocessable_entity", "You specified an invalid size for Droplet creation.")
            if not kind["available"] or kind["slug"] in self.places["sold_out"]:
                return error(422, "unprocessable_entity", "Size is not available in this region.")
            found = [i for i in IMAGES if body["image"] in (i["id"], i["slug"])]
            if not found or body["region"] not in found[0]["regions"]:
                return error(422, "unprocessable_entity", "You specified an invalid image for Droplet creation.")
            names = body.get("names") or [body.get("name")]
            if len(names) > 10:
                return error(422, "unprocessable_entity", "Too many names; at most 10 are allowed")
            if len(body.get("user_data", "").encode()) > 64 * 1024:
                return error(422, "unprocessable_entity", "User data is too long")
            alive = sum(not self.is_gone(d) for d in self.droplets.values())
            if alive + len(names) > self.places["limit"]:
                message = "creating this/these droplet(s) will exceed your droplet limit"
                return error(422, "unprocessable_entity", message)
            vpc = body.get("vpc_uuid") or next(v["id"] for v in VPCS if v["region"] == body["region"] and v["default"])
            if not any(v["id"] == vpc and v["region"] == body["region"] for v in VPCS):
                return error(422, "unprocessable_entity", "Failed to resolve VPC")
            self.tags |= set(body.get("tags") or [])
            if self.places["fewer"] > 0 and len(names) > 1:
                names = names[: -self.places["fewer"]]
                self.places["fewer"] = 0
            made, links = [], []
            for name in names:
                droplet = self.make(name, body, found[0], vpc)
                action = next(self.numbers)
                self.actions[action] = droplet["id"]
                links.append({"id": action, "rel": "create", "href": f"https://api.digitalocean.com/v2/actions/{action}"})
                made.append(self.show(droplet, request))
            if "names" in body:
                return reply(202, {"droplets": made, "links": {"actions": links}})
            return reply(202, {"droplet": made[0], "links": {"actions": links}})

    def make(self, name: str, body: dict, image: dict, vpc: str) -> dict:
        ident, host = next(self.numbers), next(self.hosts)
        network = next(ipaddress.ip_network(v["ip_range"]) for v in VPCS if v["id"] == vpc)
        fails = self.places["fail"] > 0
        self.places["fail"] -= int(fails)
        private, public = str(network[host]), f"192.0.2.{host}"
        if name in self.pool:
            private = public = self.pool[name]
        droplet = {
            "id": ident,
            "name": name,
            "size": body["size"],
            "image": image,
            "region": body["region"],
            "tags": list(body.get("tags") or []),
            "user_data": body.get("user_data", ""),
            "vpc": vpc,
            "private": private,
            "public": None if body.get("public_networking") is False else public,
            "made": time.monotonic(),
            "gone": None,
            "fails": fails,
            "status": None,
            "created_at": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        self.droplets[ident] = droplet
        return droplet

    def action(self, request: Request, ident: str) -> Reply:
        d = self.droplets.get(self.actions.get(int(ident)))
        if d is None:
            return self.nothing()
        status = "errored" if d["fails"] else "completed" if self.is_ready(d) else "in-progress"
        body = {
            "id": int(ident),
            "status": status,
            "type": "create",
            "started_at": d["created_at"],
            "completed_at": None if status == "in-progress" else d["created_at"],
            "resource_id": d["id"],
            "resource_type": "droplet",
            "region_slug": d["region"],
        }
        return reply(200, {"action": body})

    def list_droplets(self, request: Request) -> Reply:
        pairs = dict(request.facts["pairs"])
        with self.turn:
            found = [d for d in self.droplets.values() if self.is_listed(d)]
            if "tag_name" in pairs:
                found = [d for d in found if pairs["tag_name"] in d["tags"]]
            wants = pairs.get("type") == "gpus"
            found = [d for d in found if d["size"].startswith("gpu-") == wants]
            return self.page(request, "droplets", [self.show(d, request) for d in found])

    def get_droplet(self, request: Request, ident: str) -> Reply:
        d = self.droplets.get(int(ident))
        return self.nothing() if d is None or self.is_gone(d) else reply(200, {"droplet": self.show(d, request)})

    def end(self, d: dict) -> None:
        if d["gone"] is None:
            d["gone"] = time.monotonic() + self.timing["gone"]

    def delete_droplet(self, request: Request, ident: str) -> Reply:
        with self.turn:
            d = self.droplets.get(int(ident))
            if d is None or self.is_gone(d):
                return self.nothing()
            if not self.is_ready(d) and not d["fails"]:
                return error(422, "unprocessable_entity", "Droplet already has a pending event.")
            self.end(d)
            return reply(204)

    def delete_by_tag(self, request: Request) -> Reply:
        with self.turn:
            name = dict(request.facts["pairs"])["tag_name"]
            if name not in self.tags:
                return self.nothing()
            for d in self.droplets.values():
                # What is being made is passed over.
                if name in d["tags"] and self.is_ready(d):
                    self.end(d)
            return reply(204)

    # === for tests ===

    def fault(self, request: Request, fault: dict) -> Reply:
        return error(fault["status"], fault.get("code", "server_error"), fault.get("message", "made by the test"),
                     **self.headers(), **fault.get("headers", {}))

    def control(self, path: str, given: object) -> object:
        with self.turn:
            if path == "/_/clear":
                self.clear()
            elif path in ("/_/timing", "/_/places", "/_/burst"):
                getattr(self, path[3:]).update(given)
            elif path == "/_/tokens":
                self.tokens = given
            elif path == "/_/pool":
                self.pool = given
            elif path == "/_/off":
                for d in self.droplets.values():
                    if d["name"] == given:
                        d["status"] = "off"
            elif path == "/_/there":
                return self.there()
            else:
                return super().control(path, given)
        return True

    def there(self) -> dict:
        """All that is left, with who gets in where."""
        machines = []
        for d in self.droplets.values():
            if d["gone"] is not None:
                continue
            walls = [f for f in self.firewalls.values() if set(f["tags"]) & set(d["tags"])]
            rules = [r for f in walls for r in f["inbound_rules"]]
            machines.append({**{k: d[k] for k in ("id", "name", "size", "region", "tags", "user_data", "private", "public")},
                             "image": d["image"]["slug"] or d["image"]["name"], "inbound": rules, "walls": len(walls)})
        return {"machines": machines, "firewalls": list(self.firewalls.values()), "tags": sorted(self.tags)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    args = parser.parse_args()
    serve(DigitalOcean(), args.latency)
    sys.exit(0)
