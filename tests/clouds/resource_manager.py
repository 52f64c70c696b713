"""Azure Resource Manager, as far as a launcher sees it: tokens, groups, networks and
machines, which become what was asked for some time after the answer.

Every request and every answer is held against the vendor's model (`arm.py`). What is
made needs time, lists lag behind, things that hold each other cannot go, and a role
says who may do what. Paths under `/_/` that only this cloud has: `there`, `clear`,
`user`, `places`, `timing`, `network`, `pool`, `off`, `lock`, `page`, `expire`, `recorded`.
"""

import base64
import fnmatch
import ipaddress
import json
import secrets
import threading
import time
import urllib.parse
import uuid
from pathlib import Path

from arm import Model
from emulator import Cloud, Reply, Request, serve

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
TENANT = "66666666-7777-8888-9999-aaaaaaaaaaaa"
REGION = "eastus"
COMPUTE, NETWORK = "Microsoft.Compute", "Microsoft.Network"
VM, DISK = f"{COMPUTE}/virtualMachines", f"{COMPUTE}/disks"
NIC, ADDRESS = f"{NETWORK}/networkInterfaces", f"{NETWORK}/publicIPAddresses"
NSG, ASG = f"{NETWORK}/networkSecurityGroups", f"{NETWORK}/applicationSecurityGroups"
VNET, NAT = f"{NETWORK}/virtualNetworks", f"{NETWORK}/natGateways"
IDENTITY = "Microsoft.ManagedIdentity/userAssignedIdentities"

# Types: processors, GiB, graphics processors, architecture, zones, spot, price, spot price.
TYPES = {
    "Standard_B2s": (2, 4, 0, "x64", ["1", "2", "3"], False, 0.0416, None),
    "Standard_B2ms": (2, 8, 0, "x64", ["1", "2", "3"], False, 0.0832, None),
    "Standard_D2s_v5": (2, 8, 0, "x64", ["1", "2", "3"], True, 0.096, 0.0193),
    "Standard_D2as_v5": (2, 8, 0, "x64", ["1", "2"], True, 0.086, 0.0172),
    "Standard_D4s_v5": (4, 16, 0, "x64", ["1", "2", "3"], True, 0.192, 0.0386),
    "Standard_D2ps_v5": (2, 8, 0, "Arm64", ["1"], True, 0.077, 0.0154),
    "Standard_E2s_v5": (2, 16, 0, "x64", ["1", "2", "3"], True, 0.126, 0.0252),
    "Standard_NC4as_T4_v3": (4, 28, 1, "x64", ["1"], True, 0.526, 0.1),
    "Standard_F2s": (2, 4, 0, "x64", [], True, 0.1, 0.02),
}
# Not for this subscription.
RESTRICTED = "Standard_F2s"
IMAGES = {
    ("debian", "debian-13", "13-gen2"): ["0.20260801.2193", "0.20260901.2224"],
    ("debian", "debian-12", "12-gen2"): ["0.20260801.2193"],
    ("canonical", "ubuntu-24_04-lts", "server"): ["24.04.202609010"],
}


def error(status: int, code: str, message: str, headers=None) -> Reply:
    body = {"error": {"code": code, "message": message}}
    return Reply(status, json.dumps(body).encode(), {"content-type": "application/json", **(headers or {})})


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.reply = error(status, code, message)


def split(path: str) -> dict:
    """Group, kind and name of a resource's path."""
    parts = path.strip("/").split("/")
    low = [p.lower() for p in parts]
    found = {}
    if "resourcegroups" in low and len(parts) > low.index("resourcegroups") + 1:
        found["group"] = parts[low.index("resourcegroups") + 1]
    if "providers" in low:
        at = low.index("providers")
        found["kind"] = "/".join(parts[at + 1 : at + 3])
        found["name"] = parts[at + 3] if len(parts) > at + 3 else None
    return found


class Azure(Cloud):
    def __init__(self):
        self.model = Model()
        self.lock = threading.RLock()
        self.url = ""
        self.users = {"herdsman-test": ("not-a-secret", ["*"], ["/"])}
        self.tokens: dict = {}
        self.clear()

    def clear(self):
        self.groups: dict = {}
        self.things: dict = {}
        self.operations: dict = {}
        self.pages: dict = {}
        self.places = {"sold_out": [], "fails": [], "limit": 100, "addresses": 100}
        # Seconds until lists show it, an address is there, it is made, it is gone.
        self.timing = {"listed": 0.05, "address": 0.1, "ready": 0.3, "part": 0.05, "gone": 0.2}
        self.pool: dict = {}
        self.locked: set = set()
        self.recorded: dict = {}
        self.page = 20
        self.turn = 0

    # What the request is.

    def read(self, request: Request) -> None:
        self.url = f"http://{request.headers.get('host', '')}"
        query = dict(urllib.parse.parse_qsl(request.query, keep_blank_values=True))
        path = urllib.parse.unquote(request.path)
        request.facts = {"path": path, "query": query}
        if path.endswith("/oauth2/v2.0/token"):
            request.action = "token"
            request.facts = {"path": path}
        elif path == "/metadata/identity/oauth2/token":
            request.action = "identity"
        elif path == "/api/retail/prices":
            request.action = "prices"
        elif path == "/serial.log":
            request.action = "console"
            request.facts = {"authorized": "authorization" in request.headers}
        elif "/operations/" in path or "/operationresults/" in path:
            request.action = "operation"
        else:
            call, parts = self.model.find(request.method, path)
            request.action = call.name if call else f"{request.method} {path}"
            if path.lower() == f"/subscriptions/{SUBSCRIPTION}/providers/microsoft.authorization/permissions":
                request.action = "Permissions_ListForSubscription"
            body = json.loads(request.body) if request.body else None
            request.facts["body"] = body
            if request.action == "VirtualMachines_CreateOrUpdate":
                p = (body or {}).get("properties", {})
                request.facts["size"] = p.get("hardwareProfile", {}).get("vmSize")
                request.facts["priority"] = p.get("priority", "Regular")

    def violations(self, request: Request) -> list:
        if request.action in ("token", "identity", "prices", "console", "operation"):
            return []
        if request.action == "Permissions_ListForSubscription":
            # The model has it for groups and for what is in them; at a subscription it
            # is the same call.
            version = request.facts["query"].get("api-version")
            return [] if version == "2022-04-01" else [f"api-version {version}"]
        if "$skiptoken" in request.facts["query"]:
            return [] if request.facts["query"]["$skiptoken"] in self.pages else ["no such page was told of"]
        call, _ = self.model.find(request.method, request.facts["path"])
        if call is None:
            return [f"no call of the model is {request.method} {request.facts['path']}"]
        return self.model.request(call, request.facts["query"], request.facts.get("body"))

    def reply_violations(self, request: Request, reply: Reply) -> list:
        if reply.status >= 300 or request.action == "console":
            return []
        call, _ = self.model.find(request.method, request.facts.get("path", ""))
        body = json.loads(reply.body) if reply.body else None
        if call is None:
            return []
        if request.action in ("Permissions_ListForSubscription", "operation") or request.action in self.recorded:
            return []
        return [f"answer: {w}" for w in self.model.answer(call, body)]

    def fault(self, request: Request, fault: dict) -> Reply:
        return error(fault["status"], fault.get("code", "Fault"), fault.get("message", "a fault"), fault.get("headers"))

    # Who asks, and what he may do.

    def token(self, request: Request) -> Reply:
        form = dict(urllib.parse.parse_qsl(request.body.decode()))
        user = self.users.get(form.get("client_id"))
        good = (
            request.facts["path"] == f"/{TENANT}/oauth2/v2.0/token"
            and form.get("grant_type") == "client_credentials"
            and form.get("scope") == "https://management.azure.com/.default"
        )
        if not good:
            return Reply(400, json.dumps({"error": "invalid_request", "error_description": "AADSTS900144: bad"}).encode())
        if user is None or form.get("client_secret") != user[0]:
            said = "AADSTS7000215: Invalid client secret provided."
            return Reply(401, json.dumps({"error": "invalid_client", "error_description": said}).encode())
        return self.gives(form["client_id"])

    def identity(self, request: Request) -> Reply:
        if request.headers.get("metadata") != "true":
            return Reply(400, b'{"error":"invalid_request","error_description":"Required metadata header not specified"}')
        if request.facts["query"].get("resource") != "https://management.azure.com":
            return Reply(400, b'{"error":"invalid_resource","error_description":"bad"}')
        return self.gives("herdsman-test")

    def gives(self, client: str) -> Reply:
        claims = base64.urlsafe_b64encode(json.dumps({"appid": client, "tid": TENANT}).encode()).rstrip(b"=").decode()
        token = f"e30.{claims}.{secrets.token_urlsafe(16)}"
        self.tokens[token] = client
        body = {"token_type": "Bearer", "expires_in": 3599, "access_token": token}
        return Reply(200, json.dumps(body).encode(), {"content-type": "application/json"})

    def may(self, request: Request, action: str, scope: str, linked: bool = False) -> None:
        _, actions, scopes = self.users[request.client]
        allowed = any(fnmatch.fnmatch(action.lower(), a.lower()) for a in actions)
        if allowed and any(f"{scope}/".lower().startswith(f"{s.rstrip('/')}/".lower()) for s in scopes):
            return
        code = "LinkedAuthorizationFailed" if linked else "AuthorizationFailed"
        raise Refused(
            403,
            code,
            f"The client '{request.client}' with object id '{request.client}' does not have authorization to "
            f"perform action '{action}' over scope '{scope}' or the scope is invalid.",
        )

    # Time.

    def now(self):
        return time.monotonic()

    def tick(self):
        """Lets happen what has become due."""
        now = self.now()
        for key, thing in list(self.things.items()):
            if key not in self.things:
                continue
            if thing["gone_at"] is not None and now >= thing["gone_at"]:
                self.remove(key)
            elif thing["kind"] == VM and thing["fails"] and now >= thing["ready_at"] and thing["gone_at"] is None:
                thing["state"] = "Failed"
            elif now >= thing["ready_at"] and thing["gone_at"] is None and thing["state"] != "Failed":
                thing["state"] = "Succeeded"
        for name, group in list(self.groups.items()):
            if group["gone_at"] is not None and now >= group["gone_at"]:
                for key in [k for k, t in self.things.items() if t["group"].lower() == name]:
                    del self.things[key]
                del self.groups[name]

    def remove(self, key: str):
        thing = self.things.pop(key)
        if thing["kind"] == VM:
            for other in thing["hanging"]:
                self.things.pop(other, None)

    def wait(self, url_kind: str, action, status: int, body, bare=False) -> Reply:
        """An answer whose work goes on; `action()` says how it stands."""
        key = secrets.token_hex(8)
        self.operations[key] = action
        version = "2026-04-01"
        place = "operationresults" if bare else "operations"
        base = f"{self.url}/subscriptions/{SUBSCRIPTION}"
        where = f"{base}/{place}/{key}" if bare else f"{base}/providers/{url_kind}/locations/{REGION}/{place}/{key}"
        name = "location" if bare else "azure-asyncoperation"
        headers = {name: f"{where}?api-version={version}", "retry-after": "0"}
        return self.json(status, body, headers)

    def json(self, status: int, body, headers=None) -> Reply:
        self.turn += 1
        limits = {"x-ms-ratelimit-remaining-subscription-reads": str(11999 - self.turn % 1000)}
        data = b"" if body is None else json.dumps(body).encode()
        kind = {} if body is None else {"content-type": "application/json; charset=utf-8"}
        return Reply(status, data, {**kind, **limits, **(headers or {})})

    # Answers.

    def answer(self, request: Request) -> Reply:
        with self.lock:
            self.tick()
            if request.action == "token":
                return self.token(request)
            if request.action == "identity":
                return self.identity(request)
            if request.action == "prices":
                return self.prices(request)
            if request.action == "console":
                if request.facts["authorized"]:
                    return Reply(400, b"AuthenticationFailed: two kinds of credentials")
                return Reply(200, b"[    0.000000] Linux version\r\ncloud-init ran\r\n")
            bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
            if bearer not in self.tokens:
                return error(401, "InvalidAuthenticationToken", "The access token is invalid.")
            request.client = self.tokens[bearer]
            try:
                return self.dispatch(request)
            except Refused as refused:
                return refused.reply

    def dispatch(self, request: Request) -> Reply:
        path, query = request.facts["path"], request.facts["query"]
        if not path.lower().startswith(f"/subscriptions/{SUBSCRIPTION}"):
            return error(404, "SubscriptionNotFound", f"The subscription of '{path}' could not be found.")
        if "$skiptoken" in query:
            return self.more(query["$skiptoken"])
        if request.action == "operation":
            return self.operation(request)
        if request.action in self.recorded:
            return self.json(200, self.recorded[request.action])
        where = split(path)
        group = where.get("group")
        if group is not None and request.action not in ("ResourceGroups_CreateOrUpdate", "ResourceGroups_Delete"):
            if group.lower() not in self.groups:
                return error(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")
        name = request.action.split("_")[0] + "_" + request.action.split("_")[-1]
        handler = getattr(self, "do_" + request.action.lower(), None)
        if handler:
            return handler(request, where)
        if request.action.endswith("_CreateOrUpdate"):
            return self.put(request, where)
        if request.action.endswith("_Delete"):
            return self.delete(request, where)
        if request.action.endswith(("_List", "_ListAll", "_ListByResourceGroup")):
            return self.list_things(request, where)
        if request.action.endswith("_Get"):
            return self.get(request, where)
        return error(400, "InvalidResourceType", f"{name} is not emulated")

    def operation(self, request: Request) -> Reply:
        path = request.facts["path"]
        kind = COMPUTE if COMPUTE in path else NETWORK
        if "/operations/" in path:
            # Whoever began it may look at it, wherever his role is.
            self.may(request, f"{kind}/locations/operations/read", self.users[request.client][2][0])
        key = path.rsplit("/", 1)[1]
        how = self.operations.get(key)
        if how is None:
            return error(404, "OperationNotFound", "There is no such operation.")
        status, failure = how()
        if "/operationresults/" in path:
            return self.json(202 if status == "InProgress" else 200, None, {"retry-after": "0"})
        body = {"name": key, "status": status}
        if failure:
            body["error"] = failure
        return self.json(200, body, {"retry-after": "0"})

    def listed(self, items: list, more=None) -> Reply:
        rest = list(items)
        first, rest = rest[: self.page], rest[self.page :]
        body = {"value": first}
        if rest:
            token = secrets.token_urlsafe(12)
            self.pages[token] = rest, more
            body["nextLink"] = f"{self.url}{more}&$skiptoken={token}"
        return self.json(200, body)

    def more(self, token: str) -> Reply:
        if token not in self.pages:
            return error(400, "InvalidSkipToken", "no such page")
        return self.listed(*self.pages[token])

    def do_subscriptions_get(self, request, _):
        self.may(request, "Microsoft.Resources/subscriptions/read", request.facts["path"])
        body = {
            "id": f"/subscriptions/{SUBSCRIPTION}",
            "subscriptionId": SUBSCRIPTION,
            "displayName": "Test",
            "state": "Enabled",
            "tenantId": TENANT,
        }
        return self.json(200, body)

    def do_providers_get(self, request, where):
        self.may(request, "Microsoft.Resources/subscriptions/providers/read", request.facts["path"])
        name = request.facts["path"].rsplit("/", 1)[1]
        return self.json(200, {"namespace": name, "registrationState": "Registered", "resourceTypes": []})

    def permissions(self, request):
        self.may(request, "Microsoft.Authorization/permissions/read", request.facts["path"])
        actions = self.users[request.client][1]
        return self.listed([{"actions": actions, "notActions": [], "dataActions": [], "notDataActions": []}])

    def do_permissions_listforsubscription(self, request, _):
        return self.permissions(request)

    def do_permissions_listforresourcegroup(self, request, _):
        return self.permissions(request)

    # Groups.

    def group_body(self, group: dict) -> dict:
        return {
            "id": f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group['name']}",
            "name": group["name"],
            "type": "Microsoft.Resources/resourceGroups",
            "location": group["location"],
            "tags": group["tags"],
            "properties": {"provisioningState": "Deleting" if group["gone_at"] else "Succeeded"},
        }

    def do_resourcegroups_createorupdate(self, request, where):
        self.may(request, "Microsoft.Resources/subscriptions/resourceGroups/write", request.facts["path"])
        name, body = where["group"], request.facts["body"]
        old = self.groups.get(name.lower())
        if old and old["gone_at"]:
            raise Refused(409, "ResourceGroupBeingDeleted", f"The resource group '{name}' is in deprovisioning state.")
        group = {"name": name, "location": body["location"], "tags": body.get("tags", {}), "gone_at": None}
        self.groups[name.lower()] = group
        return self.json(200 if old else 201, self.group_body(group))

    def do_resourcegroups_delete(self, request, where):
        path, name = request.facts["path"], where["group"].lower()
        self.may(request, "Microsoft.Resources/subscriptions/resourceGroups/delete", path)
        if name not in self.groups:
            return error(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")
        if name in self.locked:
            raise Refused(409, "ScopeLocked", f"The scope '{path}' cannot perform delete operation because it is locked.")
        inside = [t for t in self.things.values() if t["group"].lower() == name]
        slow = self.timing["gone"] * (2 if any(t["kind"] == VM for t in inside) else 1)
        group = self.groups[name]
        group["gone_at"] = group["gone_at"] or self.now() + slow
        return self.wait("", lambda: ("InProgress" if name in self.groups else "Succeeded", None), 202, None, bare=True)

    def do_resourcegroups_list(self, request, _):
        self.may(request, "Microsoft.Resources/subscriptions/resourceGroups/read", request.facts["path"])
        return self.listed([self.group_body(g) for g in self.groups.values()], self.again(request))

    def again(self, request) -> str:
        return f"{request.path}?{request.query}"

    def resources(self, request, group):
        text = request.facts["query"].get("$filter", "")
        part = ""
        if text.startswith("substringof('") and text.endswith("', name)"):
            part = text.removeprefix("substringof('").removesuffix("', name)")
        elif text:
            raise Refused(400, "InvalidFilterInQueryString", "Invalid $filter in the query string.")
        found = []
        for t in self.shown():
            if group is None or t["group"].lower() == group.lower():
                if part.lower() in t["name"].lower():
                    keys = ("id", "name", "type", "location", "tags")
                    # Groups come back in capitals from here.
                    body = {k: v for k, v in self.body(t).items() if k in keys}
                    body["id"] = body["id"].replace(f"/resourceGroups/{t['group']}/", f"/resourceGroups/{t['group'].upper()}/")
                    found.append(body)
        return self.listed(found, self.again(request))

    def do_resources_list(self, request, _):
        self.may(request, "Microsoft.Resources/subscriptions/resources/read", request.facts["path"])
        return self.resources(request, None)

    def do_resources_listbyresourcegroup(self, request, where):
        self.may(request, "Microsoft.Resources/subscriptions/resourceGroups/resources/read", request.facts["path"])
        return self.resources(request, where["group"])

    # Things.

    def shown(self):
        now = self.now()
        return [t for t in self.things.values() if now >= t["listed_at"]]

    def body(self, t: dict) -> dict:
        body = {
            "id": t["id"],
            "name": t["name"],
            "type": t["kind"],
            "location": t["location"],
            "tags": t["tags"],
            "properties": {**t["properties"], "provisioningState": t["state"]},
        }
        for key in ("sku", "zones", "identity", "plan"):
            if t.get(key) is not None:
                body[key] = t[key]
        if t["kind"] in (NIC, ADDRESS):
            body["properties"] = self.network_properties(t, body["properties"])
        return body

    def network_properties(self, t: dict, properties: dict) -> dict:
        """Addresses are there a moment after what has them."""
        if self.now() >= t["address_at"]:
            return properties
        properties = json.loads(json.dumps(properties))
        properties.pop("ipAddress", None)
        for c in properties.get("ipConfigurations", []):
            c["properties"].pop("privateIPAddress", None)
        return properties

    def add(self, group, kind, name, body, wait, **more) -> dict:
        now = self.now()
        properties = {k: v for k, v in body.get("properties", {}).items()}
        thing = {
            "id": f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/{kind}/{name}",
            "group": group,
            "kind": kind,
            "name": name,
            "location": body.get("location", REGION),
            "tags": body.get("tags", {}),
            "properties": properties,
            "state": "Creating" if kind == VM else "Updating",
            "listed_at": now + self.timing["listed"],
            "address_at": now + self.timing["address"],
            "ready_at": now + wait,
            "gone_at": None,
            "fails": None,
            "hanging": [],
            "power": "running",
            **{k: body.get(k) for k in ("sku", "zones", "identity", "plan")},
            **more,
        }
        self.things[thing["id"].lower()] = thing
        return thing

    def need(self, request, identifier: str, action: str) -> dict:
        """Something that a request names: it has to be there, and to be ours to use."""
        kind = split(identifier)["kind"]
        self.may(request, f"{kind}/{action}", identifier, linked=True)
        if "/subnets/" in identifier:
            net, _, name = identifier.partition("/subnets/")
            thing = self.things.get(net.lower())
            subnets = (thing or {"properties": {}})["properties"].get("subnets", [])
            found = next((s for s in subnets if s["name"].lower() == name.lower()), None)
            if found is None:
                raise Refused(400, "InvalidResourceReference", f"Resource {identifier} referenced by this was not found.")
            return found
        thing = self.things.get(identifier.lower())
        if thing is None or thing["gone_at"]:
            raise Refused(400, "InvalidResourceReference", f"Resource {identifier} referenced by this was not found.")
        if thing["state"] == "Updating":
            raise Refused(429, "ReferencedResourceNotProvisioned", f"Resource {identifier} is not provisioned yet.")
        return thing

    def put(self, request, where):
        kind, name, group = where["kind"], where["name"], where["group"]
        body = request.facts["body"]
        self.may(request, f"{kind}/write", request.facts["path"])
        if body.get("location", "").lower() != REGION:
            raise Refused(400, "LocationNotAvailableForResourceType", f"{body.get('location')} is not available")
        p = body.get("properties", {})
        if kind == NSG:
            for rule in p.get("securityRules", []):
                r = rule["properties"]
                if "sourceAddressPrefix" in r and "sourceAddressPrefixes" in r:
                    raise Refused(400, "SecurityRuleParameterContainsUnsupportedValue", "one or the other")
                for key in ("sourceApplicationSecurityGroups", "destinationApplicationSecurityGroups"):
                    for asg in r.get(key, []):
                        self.need(request, asg["id"], "joinNetworkSecurityRule/action")
        if kind == NAT:
            for a in p.get("publicIpAddresses", []):
                self.need(request, a["id"], "join/action")
        if kind == VNET:
            for s in p.get("subnets", []):
                if "natGateway" in s["properties"]:
                    self.need(request, s["properties"]["natGateway"]["id"], "join/action")
        if kind == ADDRESS:
            self.count_addresses()
        identifier = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/{kind}/{name}"
        old = self.things.get(identifier.lower())
        if old and old["gone_at"]:
            raise Refused(409, "AnotherOperationInProgress", "Another operation on this is in progress.")
        thing = self.add(group, kind, name, body, self.timing["part"], listed_at=old["listed_at"] if old else self.now() + self.timing["listed"])
        if kind == VNET:
            for s in thing["properties"].get("subnets", []):
                s["id"] = f"{thing['id']}/subnets/{s['name']}"
        if kind == ADDRESS:
            thing["properties"]["ipAddress"] = self.public()
        key = thing["id"].lower()

        def how():
            t = self.things.get(key)
            return ("Succeeded" if t is None or t["state"] == "Succeeded" else "InProgress", None)

        return self.wait(NETWORK, how, 200 if old else 201, self.body(thing))

    def public(self) -> str:
        # Of a range that leads nowhere, so that nobody can answer in a machine's place.
        taken = {t["properties"].get("ipAddress") for t in self.things.values()}
        return next(str(a) for a in ipaddress.ip_network("240.0.0.0/24").hosts() if str(a) not in taken)

    def count_addresses(self, more: int = 1):
        used = sum(t["kind"] == ADDRESS for t in self.things.values())
        if used + more > self.places["addresses"]:
            raise Refused(400, "PublicIPCountLimitReached", f"Cannot create more than {self.places['addresses']} public IP addresses for this subscription in this region.")

    def users_of(self, identifier: str) -> list:
        """What names a thing, and so holds it."""
        low = identifier.lower()
        found = []
        for key, t in self.things.items():
            if key != low and f'"{low}' in json.dumps(t["properties"]).lower():
                text = json.dumps(t["properties"]).lower()
                if f'"{low}"' in text or f'"{low}/' in text:
                    found.append(t["name"])
        return found

    def delete(self, request, where):
        path, kind = request.facts["path"], where["kind"]
        self.may(request, f"{kind}/delete", path)
        thing = self.things.get(path.lower())
        if thing is None:
            return self.json(204, None)
        if where["group"].lower() in self.locked:
            raise Refused(409, "ScopeLocked", f"The scope '{path}' cannot perform delete operation because it is locked.")
        holders = [] if kind == NIC and "virtualMachine" not in thing["properties"] else self.users_of(thing["id"])
        if kind == NIC:
            holders = ["its machine"] if thing["properties"].get("virtualMachine") else []
        if kind in (NSG, VNET, ASG, NAT, ADDRESS, NIC) and holders:
            code = {
                NSG: "InUseNetworkSecurityGroupCannotBeDeleted",
                VNET: "InUseSubnetCannotBeDeleted",
                ASG: "InUseApplicationSecurityGroupCannotBeDeleted",
                NAT: "InUseNatGatewayCannotBeDeleted",
                ADDRESS: "PublicIPAddressCannotBeDeleted",
                NIC: "NicInUse",
            }[kind]
            raise Refused(400, code, f"{path} cannot be deleted because it is in use by {', '.join(holders)}.")
        if kind == DISK and thing["properties"].get("diskState") == "Attached":
            raise Refused(409, "OperationNotAllowed", "Disk is attached to a VM.")
        wait = self.timing["gone"] if kind == VM else self.timing["part"]
        thing["gone_at"] = thing["gone_at"] or self.now() + wait
        thing["state"] = "Deleting"
        key = thing["id"].lower()
        how = lambda: ("InProgress" if key in self.things else "Succeeded", None)  # noqa: E731
        return self.wait(COMPUTE if kind in (VM, DISK) else NETWORK, how, 202, None)

    def list_things(self, request, where):
        kind = where["kind"]
        self.may(request, f"{kind}/read", request.facts["path"])
        found = []
        for t in self.shown():
            if t["kind"].lower() == kind.lower() and where.get("group", t["group"]).lower() == t["group"].lower():
                body = self.body(t)
                if request.facts["query"].get("statusOnly") == "true":
                    body["properties"]["instanceView"] = self.view(t)
                found.append(body)
        return self.listed(found, self.again(request))

    def get(self, request, where):
        path, kind = request.facts["path"], where["kind"]
        if "/galleries/" in path.lower():
            kind += "/images" + ("/versions" if "/versions/" in path.lower() else "")
        self.may(request, f"{kind}/read", path)
        thing = self.things.get(path.lower())
        if thing is None:
            return error(404, "ResourceNotFound", f"The Resource '{kind}/{where['name']}' was not found.")
        return self.json(200, self.body(thing))

    # Machines.

    def do_virtualmachines_createorupdate(self, request, where):
        group, name, body, path = where["group"], where["name"], request.facts["body"], request.facts["path"]
        p = body["properties"]
        self.may(request, f"{VM}/write", path)
        self.may(request, f"{DISK}/write", path, linked=True)
        if body["location"].lower() != REGION:
            raise Refused(400, "LocationNotAvailableForResourceType", f"{body['location']} is not available")
        self.check_machine(name, body)
        size = p["hardwareProfile"]["vmSize"]
        spot = p.get("priority") == "Spot"
        old = self.things.get(path.lower())
        if old and old["gone_at"]:
            raise Refused(409, "OperationNotAllowed", "The VM is being deleted.")
        if old:
            if old["secret"] != p["osProfile"].get("customData"):
                raise Refused(409, "PropertyChangeNotAllowed", "Changing property 'osProfile.customData' is not allowed.")
            return self.json(200, self.body(old))
        how = {"size": size, "spot": spot, "zone": (body.get("zones") or [None])[0]}
        none = next((s for s in self.places["sold_out"] if all(how[k] == v for k, v in s.items() if k in how)), None)
        if none and none.get("leaves"):
            # So late that what the machine was to have is there already.
            for c in p["networkProfile"]["networkInterfaceConfigurations"]:
                self.interface(request, group, c)
            self.disk(group, body)
        if none:
            raise Refused(409, "SkuNotAvailable", f"The requested VM size '{size}' is currently not available in location '{REGION}'.")
        used = sum(TYPES[t["properties"]["hardwareProfile"]["vmSize"]][0] for t in self.things.values() if t["kind"] == VM)
        if used + TYPES[size][0] > self.places["limit"]:
            raise Refused(
                409,
                "OperationNotAllowed",
                "Operation could not be completed as it results in exceeding approved Total Regional Cores quota. "
                f"Current Limit: {self.places['limit']}, Current Usage: {used}, Additional Required: {TYPES[size][0]}.",
            )
        fails = next((f for f in self.places["fails"] if all(how[k] == v for k, v in f["where"].items())), None)
        nics = [self.interface(request, group, c) for c in p["networkProfile"]["networkInterfaceConfigurations"]]
        disk = self.disk(group, body)
        disk["properties"]["diskState"] = "Attached"
        properties = json.loads(json.dumps(p))
        properties["osProfile"].pop("customData", None)
        properties["networkProfile"] = {"networkInterfaces": [{"id": n["id"]} for n in nics]}
        properties["vmId"] = str(uuid.uuid4())
        vm = self.add(group, VM, name, {**body, "properties": properties}, self.timing["ready"])
        vm["secret"] = p["osProfile"].get("customData")
        vm["fails"] = fails
        if not self.bound(p["storageProfile"]["osDisk"], disk, vm):
            raise AssertionError("the disk outlives its machine")
        for n, c in zip(nics, p["networkProfile"]["networkInterfaceConfigurations"]):
            n["properties"]["virtualMachine"] = {"id": vm["id"].replace(f"/{group}/", f"/{group.upper()}/")}
            if c["properties"].get("deleteOption") == "Delete":
                vm["hanging"].append(n["id"].lower())
            for a in n["addresses"]:
                vm["hanging"].append(a)
        key = vm["id"].lower()

        def status():
            t = self.things.get(key)
            if t is None or t["state"] == "Succeeded":
                return "Succeeded", None
            if t["state"] == "Failed":
                return "Failed", {"code": fails["code"], "message": fails.get("message", "Allocation failed.")}
            return "InProgress", None

        return self.wait(COMPUTE, status, 201, self.body(vm))

    def disk(self, group: str, body: dict) -> dict:
        os_disk = body["properties"]["storageProfile"]["osDisk"]
        return self.add(group, DISK, os_disk["name"], {
            "location": body["location"],
            "tags": body.get("tags", {}),
            "properties": {
                "creationData": {"createOption": "FromImage"},
                "diskSizeGB": os_disk.get("diskSizeGB", 30),
                "diskState": "Unattached",
            },
        }, 0)

    @staticmethod
    def bound(os_disk, disk, vm) -> bool:
        if os_disk.get("deleteOption") == "Delete":
            vm["hanging"].append(disk["id"].lower())
            return True
        return False

    def check_machine(self, name: str, body: dict):
        p = body["properties"]
        profile = p["osProfile"]
        size = p["hardwareProfile"]["vmSize"]
        wrong = None
        if len(name) > 64 or len(profile["computerName"]) > 64:
            wrong = "InvalidParameter", "Linux host name cannot exceed 64 characters in length"
        elif size not in TYPES:
            wrong = "InvalidParameter", f"The value {size} provided for the VM size is not valid."
        elif size == RESTRICTED:
            raise Refused(409, "SkuNotAvailable", f"The requested size {size} is not available for this subscription")
        elif p.get("priority") == "Spot" and not TYPES[size][5]:
            wrong = "OperationNotAllowed", f"The VM size {size} cannot be a spot machine"
        elif p.get("evictionPolicy") and p.get("priority") != "Spot":
            wrong = "InvalidParameter", "evictionPolicy is for spot machines"
        linux = profile.get("linuxConfiguration", {})
        keys = linux.get("ssh", {}).get("publicKeys", [])
        if not linux.get("disablePasswordAuthentication") or not keys or "adminPassword" in profile:
            wrong = "InvalidParameter", "Authentication using either SSH or by user name and password must be enabled in Linux profile"
        for key in keys:
            if not key["keyData"].startswith(("ssh-rsa ", "ssh-ed25519 ")):
                wrong = "InvalidParameter", "The value of parameter linuxConfiguration.ssh.publicKeys.keyData is invalid."
            if key["path"] != f"/home/{profile['adminUsername']}/.ssh/authorized_keys":
                wrong = "InvalidParameter", "Destination path for SSH public keys is currently limited to its default value"
        try:
            if len(base64.b64decode(profile.get("customData", ""), validate=True)) > 65535:
                wrong = "InvalidParameter", "Custom data in OSProfile must be in Base64 encoding and with a maximum length of 87380 characters."
        except ValueError:
            wrong = "InvalidParameter", "Custom data in OSProfile must be in Base64 encoding"
        reference = p["storageProfile"]["imageReference"]
        if "publisher" in reference:
            key = tuple(reference[k].lower() for k in ("publisher", "offer", "sku"))
            if key not in IMAGES or reference["version"] not in ["latest", *IMAGES[key]]:
                raise Refused(404, "PlatformImageNotFound", f"The platform image '{':'.join(key)}' is not available.")
        if wrong:
            raise Refused(400, *wrong)

    def interface(self, request, group: str, config: dict) -> dict:
        p = config["properties"]
        root = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers"
        self.may(request, f"{NIC}/write", f"{root}/{NIC}/{config['name']}", linked=True)
        self.may(request, f"{NIC}/join/action", f"{root}/{NIC}/{config['name']}", linked=True)
        addresses = []
        if "networkSecurityGroup" in p:
            self.need(request, p["networkSecurityGroup"]["id"], "join/action")
        configs = []
        for c in p["ipConfigurations"]:
            ip = c["properties"]
            subnet = self.need(request, ip["subnet"]["id"], "subnets/join/action")
            for asg in ip.get("applicationSecurityGroups", []):
                self.need(request, asg["id"], "joinIpConfiguration/action")
            made = {
                "subnet": ip["subnet"],
                "primary": True,
                "privateIPAllocationMethod": "Dynamic",
                "privateIPAddress": self.private(subnet, config),
                "privateIPAddressVersion": "IPv4",
                "applicationSecurityGroups": ip.get("applicationSecurityGroups", []),
            }
            public = ip.get("publicIPAddressConfiguration")
            if public:
                self.may(request, f"{ADDRESS}/write", f"{root}/{ADDRESS}/{public['name']}", linked=True)
                self.may(request, f"{ADDRESS}/join/action", f"{root}/{ADDRESS}/{public['name']}", linked=True)
                self.count_addresses()
                a = self.add(group, ADDRESS, f"{public['name']}-{secrets.token_hex(4)}", {
                    "location": REGION,
                    "tags": public.get("tags", {}),
                    "sku": public["sku"],
                    "properties": {"publicIPAllocationMethod": "Static", "ipAddress": self.public()},
                }, 0)
                made["publicIPAddress"] = {"id": a["id"]}
                if public["properties"].get("deleteOption") == "Delete":
                    addresses.append(a["id"].lower())
            configs.append({"name": c["name"], "properties": made})
        # The vendor puts letters behind the names that it is given.
        nic = self.add(group, NIC, f"{config['name']}-{secrets.token_hex(4)}", {
            "location": REGION,
            "tags": config.get("tags", {}),
            "properties": {
                "ipConfigurations": configs,
                "networkSecurityGroup": p.get("networkSecurityGroup"),
                "primary": True,
            },
        }, 0)
        nic["addresses"] = addresses
        return nic

    def private(self, subnet: dict, config: dict) -> str:
        node = config.get("tags", {}).get("herdsman-node")
        if node in self.pool:
            return self.pool[node]
        taken = set()
        for t in self.things.values():
            for c in t["properties"].get("ipConfigurations", []):
                taken.add(c["properties"].get("privateIPAddress"))
        hosts = list(ipaddress.ip_network(subnet["properties"]["addressPrefix"]).hosts())
        return next(str(a) for a in hosts[3:] if str(a) not in taken)

    def view(self, t: dict) -> dict:
        now = {"Succeeded": "succeeded", "Creating": "creating", "Deleting": "deleting"}
        statuses = []
        if t["state"] == "Failed":
            f = t["fails"]
            statuses.append({"code": f"ProvisioningState/failed/{f['code']}", "level": "Error", "displayStatus": "Provisioning failed", "message": f.get("message", "Allocation failed.")})
        else:
            statuses.append({"code": f"ProvisioningState/{now.get(t['state'], 'updating')}", "level": "Info", "displayStatus": t["state"]})
            statuses.append({"code": f"PowerState/{t['power']}", "level": "Info", "displayStatus": t["power"]})
        return {"statuses": statuses}

    def do_virtualmachines_instanceview(self, request, where):
        self.may(request, f"{VM}/instanceView/read", request.facts["path"])
        thing = self.things.get(request.facts["path"].lower().removesuffix("/instanceview"))
        if thing is None:
            return error(404, "ResourceNotFound", "The Resource was not found.")
        return self.json(200, self.view(thing))

    def do_virtualmachines_retrievebootdiagnosticsdata(self, request, where):
        self.may(request, f"{VM}/retrieveBootDiagnosticsData/action", request.facts["path"])
        thing = self.things.get(request.facts["path"].rsplit("/", 1)[0].lower())
        if thing is None:
            return error(404, "ResourceNotFound", "The Resource was not found.")
        if not thing["properties"].get("diagnosticsProfile", {}).get("bootDiagnostics", {}).get("enabled"):
            return error(409, "OperationNotAllowed", "Boot diagnostics is not enabled for this VM.")
        return self.json(200, {"serialConsoleLogBlobUri": f"{self.url}/serial.log?sig={secrets.token_hex(8)}"})

    # The catalogue.

    def do_virtualmachineimages_list(self, request, _):
        path = request.facts["path"]
        self.may(request, f"{COMPUTE}/locations/publishers/artifacttypes/offers/skus/versions/read", path)
        parts = path.lower().split("/")
        at = {k: parts[parts.index(k) + 1] for k in ("publishers", "offers", "skus")}
        versions = IMAGES.get((at["publishers"], at["offers"], at["skus"]))
        if versions is None:
            return error(404, "NotFound", f"Artifact: VMImage was not found in {REGION} location.")
        if request.facts["query"].get("$orderby") == "name desc":
            versions = list(reversed(versions))
        top = int(request.facts["query"].get("$top", 100))
        return self.json(200, [{"id": f"{path}/{v}", "name": v, "location": REGION} for v in versions[:top]])

    def do_resourceskus_list(self, request, _):
        self.may(request, f"{COMPUTE}/skus/read", request.facts["path"])
        if request.facts["query"].get("$filter") != f"location eq '{REGION}'":
            return self.listed([])
        found = [{"resourceType": "disks", "name": "Standard_LRS", "locations": [REGION], "capabilities": []}]
        for name, (cpus, memory, gpus, arch, zones, spot, *_) in TYPES.items():
            can = {
                "vCPUs": cpus,
                "MemoryGB": memory,
                "CpuArchitectureType": arch,
                "HyperVGenerations": "V1,V2",
                "LowPriorityCapable": spot,
                "PremiumIO": True,
            }
            if gpus:
                can["GPUs"] = gpus
            restrictions = []
            if name == RESTRICTED:
                restrictions.append({
                    "type": "Location",
                    "values": [REGION],
                    "reasonCode": "NotAvailableForSubscription",
                    "restrictionInfo": {"locations": [REGION]},
                })
            found.append({
                "resourceType": "virtualMachines",
                "name": name,
                "tier": "Standard",
                "family": "standardDSv5Family" if "_D" in name else "standardOtherFamily",
                "locations": [REGION],
                "locationInfo": [{"location": REGION, "zones": zones}],
                "capabilities": [{"name": k, "value": str(v)} for k, v in can.items()],
                "restrictions": restrictions,
            })
        return self.listed(found, self.again(request))

    def do_usage_list(self, request, _):
        self.may(request, f"{COMPUTE}/locations/usages/read", request.facts["path"])
        used = sum(TYPES[t["properties"]["hardwareProfile"]["vmSize"]][0] for t in self.things.values() if t["kind"] == VM)
        names = {"cores": "Total Regional vCPUs", "standardDSv5Family": "Standard DSv5 Family vCPUs", "lowPriorityCores": "Total Regional Spot vCPUs"}
        return self.listed([
            {"unit": "Count", "currentValue": used, "limit": self.places["limit"], "name": {"value": k, "localizedValue": v}}
            for k, v in names.items()
        ])

    def prices(self, request) -> Reply:
        text = request.facts["query"].get("$filter", "")
        if f"armRegionName eq '{REGION}'" not in text or "serviceName eq 'Virtual Machines'" not in text:
            return Reply(400, b'{"Error":{"Code":"400","Message":"Invalid OData parameters supplied"}}')
        items = []
        for name, (*_, price, spot) in TYPES.items():
            if "armSkuName" in text and f"armSkuName eq '{name}'" not in text:
                continue
            short = name.removeprefix("Standard_").replace("_", " ")
            base = {
                "currencyCode": "USD",
                "armRegionName": REGION,
                "location": "US East",
                "serviceName": "Virtual Machines",
                "unitOfMeasure": "1 Hour",
                "type": "Consumption",
                "armSkuName": name,
                "productName": "Virtual Machines Series",
            }
            items.append({**base, "retailPrice": price, "unitPrice": price, "skuName": short, "meterName": short})
            items.append({**base, "retailPrice": price * 2, "productName": "Virtual Machines Series Windows", "skuName": short})
            items.append({**base, "retailPrice": price / 9, "skuName": f"{short} Low Priority"})
            if spot:
                items.append({**base, "retailPrice": spot, "skuName": f"{short} Spot"})
        at = int(request.facts["query"].get("$skip", 0))
        page = {"BillingCurrency": "USD", "Items": items[at : at + 10], "NextPageLink": None, "Count": 10}
        if at + 10 < len(items):
            page["NextPageLink"] = f"{self.url}{request.path}?{request.query.split('&$skip')[0]}&$skip={at + 10}"
        return Reply(200, json.dumps(page).encode(), {"content-type": "application/json"})

    # The test's own paths.

    def control(self, path: str, given):
        with self.lock:
            self.tick()
            what = path.removeprefix("/_/")
            if what == "there":
                return self.there()
            if what == "clear":
                self.clear()
            elif what == "user":
                # Somebody with these actions; none: everybody but the first goes.
                if given is None:
                    self.users = {"herdsman-test": self.users["herdsman-test"]}
                    return True
                client, secret = f"user-{len(self.users)}", secrets.token_hex(8)
                self.users[client] = (secret, given["actions"], given["scopes"])
                return {"id": client, "secret": secret}
            elif what == "places":
                self.places.update(given)
            elif what == "timing":
                self.timing.update(given)
            elif what == "page":
                self.page = given
            elif what == "pool":
                self.pool = given
            elif what == "lock":
                self.locked = {g.lower() for g in given}
            elif what == "network":
                self.groups[given["group"].lower()] = {"name": given["group"], "location": REGION, "tags": {}, "gone_at": None}
                subnets = [{"name": s, "properties": {"addressPrefix": a}} for s, a in given["subnets"].items()]
                net = self.add(given["group"], VNET, given["name"], {"properties": {"subnets": subnets}}, 0)
                for s in net["properties"]["subnets"]:
                    s["id"] = f"{net['id']}/subnets/{s['name']}"
                for name in given.get("firewalls", []):
                    self.add(given["group"], NSG, name, {"properties": {"securityRules": []}}, 0)
            elif what == "recorded":
                self.play(given)
            elif what == "off":
                for t in self.things.values():
                    if t["kind"] == VM and t["tags"].get("herdsman-node") == given:
                        t["power"] = "stopped"
            elif what == "expire":
                self.tokens = {}
            else:
                raise KeyError(path)
            return True

    def play(self, tags: dict) -> None:
        """Answers with what the vendor once answered to others: the recordings of Apache
        Libcloud's own tests, of which only the machine gets tags, as it is nobody's."""
        import libcloud

        folder = Path(libcloud.__file__).parent / "test" / "compute" / "fixtures" / "azure_arm"
        node = "_subscriptions_99999999_resourceGroups_000000_providers_Microsoft_"

        def recording(name: str):
            return json.loads((folder / f"{name}.json").read_text())

        machines = recording("_subscriptions_99999999_providers_Microsoft_Compute_virtualMachines")
        # The next page is at the vendor's own place.
        machines.pop("nextLink")
        for m in machines["value"]:
            m["tags"] = tags
            m["properties"]["instanceView"] = recording(
                f"{node}Compute_virtualMachines_test_node_1_InstanceView"
            )
        address = recording(
            "_subscriptions_99999999_resourceGroups_REVIZOR_providers_Microsoft_Network_publicIPAddresses_test_public_ip"
        )
        self.recorded = {
            "VirtualMachines_ListAll": machines,
            "NetworkInterfaces_ListAll": {"value": [recording(f"{node}Network_networkInterfaces_test_node_1_nic")]},
            "PublicIPAddresses_ListAll": {"value": [address]},
        }

    def there(self) -> dict:
        kinds = {"disks": DISK, "interfaces": NIC, "addresses": ADDRESS, "firewalls": NSG, "asgs": ASG, "networks": VNET, "gateways": NAT}
        found = {"groups": [self.group_body(g) for g in self.groups.values()]}
        for name, kind in kinds.items():
            found[name] = [self.body(t) for t in self.things.values() if t["kind"] == kind]
        found["machines"] = []
        for t in self.things.values():
            if t["kind"] != VM or t["gone_at"]:
                continue
            nic = next((n for n in self.things.values() if n["kind"] == NIC and n["id"] in json.dumps(t["properties"])), None)
            ip = nic["properties"]["ipConfigurations"][0]["properties"] if nic else {}
            found["machines"].append({
                "id": t["properties"]["vmId"],
                "resource": t["id"],
                "name": t["tags"].get("herdsman-node", t["name"]),
                "computer": t["properties"]["osProfile"]["computerName"],
                "size": t["properties"]["hardwareProfile"]["vmSize"],
                "zones": t.get("zones"),
                "spot": t["properties"].get("priority") == "Spot",
                "tags": t["tags"],
                "private": ip.get("privateIPAddress"),
                "public": "publicIPAddress" in ip,
                "groups": [g["id"] for g in ip.get("applicationSecurityGroups", [])],
                "state": t["state"],
                "user_data": base64.b64decode(t["secret"] or "").decode(),
            })
        return found


if __name__ == "__main__":
    serve(Azure())
