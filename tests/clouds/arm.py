"""Requests and answers against Azure's own model: the typed models and request
builders of its libraries for Python, which are generated from its specification.

A call's path, version and query are what the vendor's own builder makes of it; a body
is walked along the model's types. Names that a model does not know, fields that only
the vendor may set, missing ones, and values that no enumeration has are violations.
"""

import datetime
import enum
import importlib
import inspect
import re
import types
import typing
import urllib.parse

COMPUTE = "azure.mgmt.compute"
NETWORK = "azure.mgmt.network"
RESOURCES = "azure.mgmt.resource.resources"
SUBSCRIPTIONS = "azure.mgmt.resource.subscriptions"
AUTHORIZATION = "azure.mgmt.authorization.v2022_04_01"

# The vendor's name of a call: package, its builder, the model of what is sent, and that
# of what comes back; `[X]` is a list of X without a frame, `X*` one in pages.
CALLS = {
    "Subscriptions_Get": (SUBSCRIPTIONS, "subscriptions_get", None, "Subscription"),
    "ResourceGroups_CreateOrUpdate": (RESOURCES, "resource_groups_create_or_update", "ResourceGroup", "ResourceGroup"),
    "ResourceGroups_Delete": (RESOURCES, "resource_groups_delete", None, None),
    "ResourceGroups_List": (RESOURCES, "resource_groups_list", None, "ResourceGroup*"),
    "Resources_List": (RESOURCES, "resources_list", None, "GenericResourceExpanded*"),
    "Resources_ListByResourceGroup": (
        RESOURCES,
        "resources_list_by_resource_group",
        None,
        "GenericResourceExpanded*",
    ),
    "Providers_Get": (RESOURCES, "providers_get", None, "Provider"),
    "Permissions_ListForResourceGroup": (
        AUTHORIZATION,
        "permissions._permissions_operations.list_for_resource_group",
        None,
        "Permission*",
    ),
    "VirtualMachines_CreateOrUpdate": (
        COMPUTE,
        "virtual_machines_create_or_update",
        "VirtualMachine",
        "VirtualMachine",
    ),
    "VirtualMachines_Delete": (COMPUTE, "virtual_machines_delete", None, None),
    "VirtualMachines_List": (COMPUTE, "virtual_machines_list", None, "VirtualMachine*"),
    "VirtualMachines_ListAll": (COMPUTE, "virtual_machines_list_all", None, "VirtualMachine*"),
    "VirtualMachines_InstanceView": (
        COMPUTE,
        "virtual_machines_instance_view",
        None,
        "VirtualMachineInstanceView",
    ),
    "VirtualMachines_RetrieveBootDiagnosticsData": (
        COMPUTE,
        "virtual_machines_retrieve_boot_diagnostics_data",
        None,
        "RetrieveBootDiagnosticsDataResult",
    ),
    "VirtualMachineImages_List": (
        COMPUTE,
        "virtual_machine_images_list",
        None,
        "[VirtualMachineImageResource]",
    ),
    "Images_Get": (COMPUTE, "images_get", None, "Image"),
    "GalleryImages_Get": (COMPUTE, "gallery_images_get", None, "GalleryImage"),
    "GalleryImageVersions_Get": (COMPUTE, "gallery_image_versions_get", None, "GalleryImageVersion"),
    "SshPublicKeys_Get": (COMPUTE, "ssh_public_keys_get", None, "SshPublicKeyResource"),
    "ResourceSkus_List": (COMPUTE, "resource_skus_list", None, "ResourceSku*"),
    "Usage_List": (COMPUTE, "usage_list", None, "Usage*"),
    "Disks_ListByResourceGroup": (COMPUTE, "disks_list_by_resource_group", None, "Disk*"),
    "Disks_Delete": (COMPUTE, "disks_delete", None, None),
    "NetworkInterfaces_List": (NETWORK, "network_interfaces_list", None, "NetworkInterface*"),
    "NetworkInterfaces_ListAll": (NETWORK, "network_interfaces_list_all", None, "NetworkInterface*"),
    "NetworkInterfaces_Delete": (NETWORK, "network_interfaces_delete", None, None),
    "PublicIPAddresses_CreateOrUpdate": (
        NETWORK,
        "public_ip_addresses_create_or_update",
        "PublicIPAddress",
        "PublicIPAddress",
    ),
    "PublicIPAddresses_List": (NETWORK, "public_ip_addresses_list", None, "PublicIPAddress*"),
    "PublicIPAddresses_ListAll": (NETWORK, "public_ip_addresses_list_all", None, "PublicIPAddress*"),
    "PublicIPAddresses_Delete": (NETWORK, "public_ip_addresses_delete", None, None),
    "NetworkSecurityGroups_CreateOrUpdate": (
        NETWORK,
        "network_security_groups_create_or_update",
        "NetworkSecurityGroup",
        "NetworkSecurityGroup",
    ),
    "NetworkSecurityGroups_Delete": (NETWORK, "network_security_groups_delete", None, None),
    "ApplicationSecurityGroups_CreateOrUpdate": (
        NETWORK,
        "application_security_groups_create_or_update",
        "ApplicationSecurityGroup",
        "ApplicationSecurityGroup",
    ),
    "ApplicationSecurityGroups_Delete": (NETWORK, "application_security_groups_delete", None, None),
    "VirtualNetworks_CreateOrUpdate": (
        NETWORK,
        "virtual_networks_create_or_update",
        "VirtualNetwork",
        "VirtualNetwork",
    ),
    "VirtualNetworks_Get": (NETWORK, "virtual_networks_get", None, "VirtualNetwork"),
    "VirtualNetworks_Delete": (NETWORK, "virtual_networks_delete", None, None),
    "NatGateways_CreateOrUpdate": (NETWORK, "nat_gateways_create_or_update", "NatGateway", "NatGateway"),
    "NatGateways_Delete": (NETWORK, "nat_gateways_delete", None, None),
}

# Enumerations that the vendor calls out of date: the catalogue says what there is.
OPEN = {"VirtualMachineSizeTypes"}

# A value of the vendor's serializer's that can be told from a path's own text.
MARK = "zz{}zz"


class Call:
    """A call of the model: how it is recognized, and what it may carry."""

    def __init__(self, name: str):
        self.name = name
        package, builder, self.sent, self.answered = CALLS[name]
        self.package = package
        if "." in builder:
            folder, module, method = builder.split(".")
            operations = importlib.import_module(f"{package}.operations.{module}")
            build = getattr(operations, f"build_{method}_request")
        else:
            operations = importlib.import_module(f"{package}.operations._operations")
            build = getattr(operations, f"build_{builder}_request")
        given = {}
        for p in inspect.signature(build).parameters.values():
            if p.kind is not p.VAR_KEYWORD and p.name not in ("etag", "match_condition"):
                given[p.name] = self.value(p)
        request = build(**given)
        path, _, query = request.url.partition("?")
        self.method = request.method
        pairs = dict(urllib.parse.parse_qsl(query))
        pairs.update(getattr(request, "params", None) or {})
        self.version = pairs.pop("api-version")
        self.query = set(pairs)
        pattern = re.sub(r"zz(\w+?)zz", lambda m: f"(?P<{m[1]}>[^/]+)", re.escape(path))
        self.pattern = re.compile(pattern + "$", re.IGNORECASE)
        # Of several that fit, the one with the fewest open places is meant.
        self.open = len(re.findall(r"zz\w+?zz", path))

    @staticmethod
    def value(p):
        hint = str(p.annotation)
        if "bool" in hint:
            return True
        if "int" in hint:
            return 1
        return MARK.format(p.name)


class Model:
    def __init__(self):
        self.calls = sorted((Call(name) for name in CALLS), key=lambda c: c.open)
        self.hints: dict = {}

    def find(self, method: str, path: str) -> tuple:
        """The call that a request is, with the parts of its path."""
        for call in self.calls:
            found = call.pattern.match(path)
            if call.method == method and found:
                return call, found.groupdict()
        return None, {}

    def request(self, call: Call, query: dict, body) -> list:
        wrong = []
        if query.get("api-version") != call.version:
            wrong.append(f"api-version {query.get('api-version')}, and the model has {call.version}")
        for name in query:
            if name != "api-version" and name not in call.query:
                wrong.append(f"{name} is no parameter of {call.name}")
        if call.sent is None:
            if body is not None:
                wrong.append(f"{call.name} takes no body")
        elif body is None:
            wrong.append(f"{call.name} needs a body")
        else:
            self.walk(self.model(call, call.sent), body, call.sent, True, wrong)
        return wrong

    def answer(self, call: Call, body) -> list:
        wrong = []
        name = call.answered
        if name is None:
            return [] if body is None else [f"{call.name} answers with no body"]
        if name.startswith("["):
            self.walk(list[self.model(call, name[1:-1])], body, name, False, wrong)
        elif name.endswith("*"):
            if set(body) - {"value", "nextLink"}:
                wrong.append(f"{call.name}: a page has {sorted(body)}")
            self.walk(list[self.model(call, name[:-1])], body.get("value"), name, False, wrong)
        else:
            self.walk(self.model(call, name), body, name, False, wrong)
        return wrong

    @staticmethod
    def model(call: Call, name: str):
        return getattr(importlib.import_module(f"{call.package}.models"), name)

    def fields(self, cls) -> dict:
        """Names on the wire: type, whether only the vendor sets it, whether it must be
        there."""
        if cls not in self.hints:
            self.hints[cls] = self.old(cls) if hasattr(cls, "_attribute_map") else self.new(cls)
        return self.hints[cls]

    def new(self, cls) -> dict:
        cls()  # The library works out its fields at the first object.
        names: dict = {}
        for base in reversed(cls.__mro__):
            module = inspect.getmodule(base)
            if "__annotations__" not in vars(base) or base.__module__.endswith("model_base"):
                continue
            models = importlib.import_module(base.__module__.rpartition(".")[0])
            space = {**vars(typing), **vars(module), "_models": models, "datetime": datetime}
            for key, text in vars(base)["__annotations__"].items():
                if key.startswith("_"):
                    continue
                hint = typing.get_type_hints(
                    types.SimpleNamespace(__annotations__={key: text}), globalns=space
                )[key]
                names[key] = hint
        found = {}
        for key, rest in cls._attr_to_rest_field.items():
            hint = names.get(key, typing.Any)
            must = type(None) not in typing.get_args(hint)
            found[rest._rest_name] = (hint, rest._visibility == ["read"], must)
        return found

    @staticmethod
    def old(cls) -> dict:
        plain = {"str": str, "bool": bool, "int": int, "[str]": list[str]}
        rules = getattr(cls, "_validation", {})
        found = {}
        for key, entry in cls._attribute_map.items():
            rule = rules.get(key, {})
            found[entry["key"]] = (
                plain.get(entry["type"], typing.Any),
                rule.get("readonly", False),
                rule.get("required", False),
            )
        return found

    def walk(self, hint, value, at: str, sent: bool, wrong: list) -> None:
        origin = typing.get_origin(hint)
        args = [a for a in typing.get_args(hint) if a is not type(None)]
        if value is None or hint is typing.Any:
            if value is None and sent:
                wrong.append(f"{at} is null")
            return
        if origin in (typing.Union, types.UnionType):
            kinds = [a for a in args if inspect.isclass(a) and issubclass(a, enum.Enum) and a.__name__ not in OPEN]
            self.walk(kinds[0] if kinds else args[0], value, at, sent, wrong)
        elif origin is list:
            if not isinstance(value, list):
                wrong.append(f"{at} is no list")
                return
            for i, v in enumerate(value):
                self.walk(args[0], v, f"{at}[{i}]", sent, wrong)
        elif origin is dict:
            if not isinstance(value, dict):
                wrong.append(f"{at} is no object")
                return
            for k, v in value.items():
                self.walk(args[1], v, f"{at}[{k}]", sent, wrong)
        elif origin is typing.Literal:
            if value not in args:
                wrong.append(f"{at}: {value!r} is none of {args}")
        elif not inspect.isclass(hint):
            return
        elif issubclass(hint, enum.Enum):
            known = {str(m.value).lower() for m in hint}
            if not isinstance(value, str) or value.lower() not in known:
                wrong.append(f"{at}: {value!r} is none of {hint.__name__}")
        elif hasattr(hint, "_attribute_map") or any(b.__module__.endswith("model_base") for b in hint.__mro__):
            self.thing(hint, value, at, sent, wrong)
        elif hint is datetime.datetime:
            try:
                datetime.datetime.fromisoformat(str(value).replace("Z", "+00:00"))
            except ValueError:
                wrong.append(f"{at}: {value!r} is no time")
        elif hint is float:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                wrong.append(f"{at}: {value!r} is no number")
        elif hint is int:
            if isinstance(value, bool) or not isinstance(value, int):
                wrong.append(f"{at}: {value!r} is no whole number")
        elif hint in (str, bool) and not isinstance(value, hint):
            wrong.append(f"{at}: {value!r} is no {hint.__name__}")

    def thing(self, cls, value, at: str, sent: bool, wrong: list) -> None:
        if not isinstance(value, dict):
            wrong.append(f"{at} is no object")
            return
        fields = self.fields(cls)
        for name, v in value.items():
            if name not in fields:
                wrong.append(f"{at}.{name} is unknown to {cls.__name__}")
                continue
            hint, is_vendors, _ = fields[name]
            if sent and is_vendors:
                wrong.append(f"{at}.{name} is the vendor's to set")
            self.walk(hint, v, f"{at}.{name}", sent, wrong)
        for name, (_, is_vendors, must) in fields.items():
            if must and name not in value and not (sent and is_vendors):
                wrong.append(f"{at}.{name} is missing")
