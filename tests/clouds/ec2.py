"""EC2: moto's server, unmodified, behind the gate; each request is held against
botocore's service model.

What moto has not is answered here in the vendor's form: prices, and the quota of
processors.
"""

import argparse
import base64
import gzip
import json
import logging
import os
import sys
import tempfile
import threading
import urllib.parse
import urllib.request
import xml.etree.ElementTree
import xml.sax.saxutils
from pathlib import Path

# Images of our own, so that a family has an older and a newer one.
IMAGES = [
    {
        "ami_id": f"ami-0d1300000000000{n}a",
        "name": f"debian-13-amd64-2026{month}01-1000",
        "description": "Debian 13",
        "owner_id": "136693071363",
        "architecture": "x86_64",
        "root_device_name": "/dev/xvda",
        "root_device_type": "ebs",
        "state": "available",
        "public": True,
        "platform": None,
        "image_type": "machine",
        "hypervisor": "xen",
        "virtualization_type": "hvm",
        "creation_date": f"2026-{month}-01T00:00:00.000Z",
        "sriov": "simple",
        "product_codes": [],
        "image_location": "136693071363/debian",
    }
    for n, month in ((1, "01"), (2, "06"))
]
# What others start with where nobody names an image.
IMAGES.append(
    IMAGES[0]
    | {
        "ami_id": "ami-0d13000000000003a",
        "name": "ubuntu/images/hvm-ssd/ubuntu-focal-20.04-amd64-server-20250603",
        "description": "Ubuntu 20.04",
        "owner_id": "099720109477",
        "root_device_name": "/dev/sda1",
        "creation_date": "2025-06-03T00:00:00.000Z",
        "image_location": "099720109477/ubuntu",
    }
)
_images = tempfile.NamedTemporaryFile("w", suffix=".json", delete=True)
json.dump(IMAGES, _images)
_images.flush()
os.environ["MOTO_AMIS_PATH"] = _images.name

import botocore  # noqa: E402
from botocore.model import ServiceModel  # noqa: E402
from botocore.serialize import create_serializer  # noqa: E402
from botocore.validate import ParamValidator  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402

logging.getLogger("werkzeug").setLevel(logging.ERROR)

from emulator import Cloud, Reply, Request, serve  # noqa: E402

PRICES = {"t3.medium": "0.0416", "t3.large": "0.0832", "t3.xlarge": "0.1664", "m5.large": "0.096"}


def model(service: str) -> ServiceModel:
    folder = Path(botocore.__file__).parent / "data" / service
    newest = sorted(p for p in folder.iterdir() if p.is_dir())[-1]
    for name in ("service-2.json.gz", "service-2.json"):
        path = newest / name
        if path.exists():
            data = path.read_bytes()
            return ServiceModel(json.loads(gzip.decompress(data) if name.endswith("gz") else data), service)
    raise FileNotFoundError(newest)


def capitalized(name: str) -> str:
    return name[:1].upper() + name[1:]


class Query:
    """Forms of the query protocol, back into what they were made from."""

    def __init__(self, service: ServiceModel):
        self.service = service
        self.is_ec2 = service.metadata["protocol"] == "ec2"
        self.serializer = create_serializer(service.metadata["protocol"])

    def name(self, key: str, shape) -> str:
        if "queryName" in shape.serialization and self.is_ec2:
            return shape.serialization["queryName"]
        if "name" in shape.serialization:
            return capitalized(shape.serialization["name"]) if self.is_ec2 else shape.serialization["name"]
        return key

    def structure(self, shape, tree: dict, path: str, wrong: list) -> dict:
        known = {self.name(k, s): (k, s) for k, s in shape.members.items()}
        out = {}
        for name, below in tree.items():
            if name not in known:
                wrong.append(f"{path}{name}: no such parameter")
                continue
            key, member = known[name]
            out[key] = self.value(member, below, f"{path}{name}.", wrong)
        return out

    def value(self, shape, tree, path: str, wrong: list):
        kind = shape.type_name
        if kind == "structure":
            if not isinstance(tree, dict):
                wrong.append(f"{path} has no members")
                return {}
            return self.structure(shape, tree, path, wrong)
        if kind == "list":
            if not isinstance(tree, dict) or sorted(tree, key=int) != [str(i + 1) for i in range(len(tree))]:
                wrong.append(f"{path} is not numbered from 1")
                return []
            return [self.value(shape.member, tree[str(i + 1)], path, wrong) for i in range(len(tree))]
        if isinstance(tree, dict):
            wrong.append(f"{path} has members")
            return None
        if kind in ("integer", "long"):
            return int(tree) if tree.lstrip("-").isdigit() else wrong.append(f"{path} {tree!r} is no number")
        if kind in ("float", "double"):
            return float(tree)
        if kind == "boolean":
            return tree == "true" if tree in ("true", "false") else wrong.append(f"{path} {tree!r} is no boolean")
        if kind == "blob":
            return base64.b64decode(tree, validate=True)
        if shape.enum if hasattr(shape, "enum") else False:
            if tree not in shape.enum:
                wrong.append(f"{path} {tree!r} is none of {shape.enum}")
        return tree

    def check(self, action: str, form: dict) -> list:
        if action not in self.service.operation_names:
            return [f"{action}: no such action"]
        operation = self.service.operation_model(action)
        tree: dict = {}
        for key, value in form.items():
            parts = key.split(".")
            at = tree
            for part in parts[:-1]:
                at = at.setdefault(part, {})
                if not isinstance(at, dict):
                    return [f"{key}: both a value and members"]
            at[parts[-1]] = value
        wrong: list = []
        if operation.input_shape is None:
            return [f"{action} takes no parameters"] if form else []
        params = self.structure(operation.input_shape, tree, "", wrong)
        report = ParamValidator().validate(params, operation.input_shape)
        if report.has_errors():
            wrong.append(report.generate_report())
        if not wrong:
            # The vendor's own client must send the same.
            again = self.serializer.serialize_to_request(params, operation)["body"]
            sent = {k: str(v) for k, v in again.items() if k not in ("Action", "Version")}
            if sent != form:
                wrong.append(f"the vendor's client would send {sorted(set(sent.items()) ^ set(form.items()))}")
        return wrong


SERVICES = {name: model(name) for name in ("ec2", "sts", "pricing", "service-quotas", "ssm")}
# Names in signatures that differ from those of the models.
SIGNED = {"servicequotas": "service-quotas"}


def made(answer: bytes) -> list:
    """Machines in an answer to RunInstances."""
    found = []
    tree = xml.etree.ElementTree.fromstring(answer)
    for item in tree.iterfind("{*}instancesSet/{*}item"):
        text = {part.tag.rpartition("}")[2]: part.text for part in item}
        found.append({"id": text["instanceId"], "address": text["privateIpAddress"], "public": text.get("ipAddress")})
    return found


class Ec2(Cloud):
    def __init__(self):
        self.forked()
        self.tokens: dict = {}
        # Answers that others once got, by action.
        self.recorded: dict = {}
        # Machines that are left in one place, for one call.
        self.most = 1_000_000
        # Machines in order, with what they were told.
        self.made: list = []
        self.queries = {n: Query(m) for n, m in SERVICES.items() if m.metadata["protocol"] in ("ec2", "query")}

    def forked(self) -> None:
        self.making = threading.Lock()
        # What moto knows is the process's.
        self.moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self.moto.start()
        host, port = self.moto.get_host_and_port()
        self.upstream = f"http://{host}:{port}"

    def read(self, request: Request) -> None:
        scope = request.headers.get("authorization", "").partition("Credential=")[2].split(",")[0].split("/")
        request.facts["service"] = scope[3] if len(scope) > 3 else ""
        request.facts["region"] = scope[2] if len(scope) > 2 else ""
        target = request.headers.get("x-amz-target")
        if target:
            request.action = target.rsplit(".", 1)[-1]
            return
        pairs = urllib.parse.parse_qsl(request.body.decode(), keep_blank_values=True)
        form = dict(pairs)
        request.facts["double"] = len(pairs) != len(form)
        request.action = form.pop("Action", "")
        request.facts["version"] = form.pop("Version", "")
        request.facts["form"] = form
        for name in ("InstanceType", "MaxCount", "DryRun", "NetworkInterface.1.SubnetId"):
            if name in form:
                request.facts[name] = form[name]
        request.facts["market"] = form.get("InstanceMarketOptions.MarketType", "")

    def is_read(self, request: Request) -> bool:
        return request.action.startswith(("Describe", "Get", "List"))

    def violations(self, request: Request) -> list:
        wrong = []
        service = request.facts["service"]
        service = SIGNED.get(service, service)
        if service not in SERVICES:
            return [f"signed for {service!r}"]
        described = SERVICES[service]
        if "x-amz-target" in request.headers:
            prefix = described.metadata["targetPrefix"]
            if request.headers["x-amz-target"] != f"{prefix}.{request.action}":
                wrong.append(f"target {request.headers['x-amz-target']}")
            if request.action not in described.operation_names:
                return [f"{request.action}: no such action"]
            shape = described.operation_model(request.action).input_shape
            report = ParamValidator().validate(json.loads(request.body), shape)
            unknown = set(json.loads(request.body)) - set(shape.members)
            if unknown:
                wrong.append(f"unknown members {unknown}")
            if report.has_errors():
                wrong.append(report.generate_report())
            return wrong
        if request.facts["double"]:
            wrong.append("a parameter stands there twice")
        if request.facts["version"] != described.metadata["apiVersion"]:
            wrong.append(f"version {request.facts['version']}")
        return wrong + self.queries[service].check(request.action, request.facts["form"])

    def answer(self, request: Request) -> Reply:
        if request.action in self.recorded:
            return Reply(200, self.recorded[request.action], {"content-type": "text/xml;charset=UTF-8"})
        if request.action == "GetProducts":
            return self.prices(json.loads(request.body))
        if request.action == "GetServiceQuota":
            body = {"Quota": {"QuotaCode": json.loads(request.body)["QuotaCode"], "Value": 64.0}}
            return Reply(200, json.dumps(body).encode(), {"content-type": "application/x-amz-json-1.1"})
        if request.action == "RunInstances":
            # moto makes no two machines at once; and a call that comes again while it
            # is still at work has to meet the answer of the first.
            with self.making:
                return self.once(request)
        return self.once(request)

    def once(self, request: Request) -> Reply:
        token = request.facts.get("form", {}).get("ClientToken")
        if token in self.tokens:
            # moto makes new machines; the vendor answers as before.
            form, before = self.tokens[token]
            if form == request.facts["form"]:
                return before
            return self.fault(request, {"status": 400, "code": "IdempotentParameterMismatch"})
        reply = self.forward(request)
        if token and reply.status == 200:
            self.tokens[token] = (request.facts["form"], reply)
        if request.action == "RunInstances" and reply.status == 200:
            told = base64.b64decode(request.facts["form"].get("UserData", "")).decode()
            self.made += [{"user_data": told, **machine} for machine in made(reply.body)]
        return reply

    def forward(self, request: Request) -> Reply:
        # The host is part of what was signed.
        headers = {k: v for k, v in request.headers.items() if k not in ("content-length", "connection")}
        body = request.body
        form = request.facts.get("form", {})
        if request.action == "RunInstances" and form["MinCount"] != form["MaxCount"]:
            # moto makes as few as it may; the vendor as many as there are.
            given = min(int(form["MaxCount"]), max(int(form["MinCount"]), self.most))
            pairs = [(k, str(given) if k == "MinCount" else v) for k, v in urllib.parse.parse_qsl(body.decode())]
            body = urllib.parse.urlencode(pairs).encode()
        out = urllib.request.Request(self.upstream + request.path, body, headers, method=request.method)
        try:
            with urllib.request.urlopen(out) as answer:
                return Reply(answer.status, answer.read(), {"content-type": answer.headers.get("content-type", "")})
        except urllib.error.HTTPError as e:
            return Reply(e.code, e.read(), {"content-type": e.headers.get("content-type", "")})

    @staticmethod
    def prices(asked: dict) -> Reply:
        wanted = {f["Field"]: f["Value"] for f in asked.get("Filters", [])}
        entries = [
            json.dumps(
                {
                    "product": {"attributes": {"instanceType": name, "regionCode": wanted.get("regionCode")}},
                    "terms": {"OnDemand": {"A": {"priceDimensions": {"B": {"pricePerUnit": {"USD": price}}}}}},
                }
            )
            for name, price in PRICES.items()
            if wanted.get("instanceType", name) == name
        ]
        return Reply(200, json.dumps({"FormatVersion": "aws_v1", "PriceList": entries}).encode())

    def fault(self, request: Request, fault: dict) -> Reply:
        usual = "RequestLimitExceeded" if fault["status"] == 429 else "InternalError"
        code, text = fault.get("code", usual), fault.get("message", "made by the test")
        if "x-amz-target" in request.headers:
            body = json.dumps({"__type": code, "message": text})
        else:
            inner = f"<Error><Code>{code}</Code><Message>{xml.sax.saxutils.escape(text)}</Message></Error>"
            body = f"<Response><Errors>{inner}</Errors><RequestID>0</RequestID></Response>"
        return Reply(fault["status"], body.encode(), dict(fault.get("headers", {})))

    def control(self, path: str, given: object) -> object:
        if path == "/_/clear":
            # moto's own way to begin anew.
            urllib.request.urlopen(urllib.request.Request(self.upstream + "/moto-api/reset", b"", method="POST"))
            self.made = []
            self.recorded = {}
            return True
        if path == "/_/recorded":
            return self.play(given["files"], given["tags"])
        if path == "/_/made":
            # From the answers, so that nobody has to be asked for thousands of machines.
            return self.made[given:]
        if path == "/_/warm":
            # The first machine of all takes seconds, for all that is loaded then.
            self.client().run_instances(ImageId=IMAGES[0]["ami_id"], InstanceType="t3.large", MinCount=1, MaxCount=1)
            return True
        if path == "/_/group":
            return self.client().create_security_group(GroupName=given, Description=given)["GroupId"]
        if path == "/_/instances":
            return self.instances(bool(given))
        if path == "/_/most":
            self.most = given
            return True
        if path == "/_/profile":
            self.client("iam").create_instance_profile(InstanceProfileName=given)
            return True
        if path == "/_/user":
            return self.user(given)
        if path == "/_/network":
            return self.network(given)
        return super().control(path, given)

    def play(self, files: dict, tags: dict) -> bool:
        """Answers with what the vendor once answered to others: the recordings of Apache
        Libcloud's own tests, of which only machines without any get tags."""
        import libcloud

        folder = Path(libcloud.__file__).parent / "test" / "compute" / "fixtures" / "ec2"
        items = "".join(f"<item><key>{k}</key><value>{v}</value></item>" for k, v in tags.items())
        for action, name in files.items():
            text = (folder / name).read_text()
            if action == "DescribeInstances":
                text = text.replace("<tagSet/>", f"<tagSet>{items}</tagSet>")
            self.recorded[action] = text.encode()
        return True

    def user(self, policy: dict | None) -> dict | None:
        """A user who may do what a policy says, and nobody more: from now on moto looks
        at signatures and permissions, until there is no policy any more."""
        self.authorize("inf")
        if policy is None:
            return None
        client = self.client("iam")
        name = f"user-{len(client.list_users()['Users'])}"
        client.create_user(UserName=name)
        client.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
        key = client.create_access_key(UserName=name)["AccessKey"]
        self.authorize("0")
        return {"id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}

    def authorize(self, after: str) -> None:
        body = after.encode()
        url = self.upstream + "/moto-api/reset-auth"
        urllib.request.urlopen(urllib.request.Request(url, body, {"content-type": "text/plain"}, method="POST"))

    def client(self, service: str = "ec2"):
        """The vendor's own client, past the gate."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.upstream,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def network(self, given: dict) -> dict:
        """A network with this name, one subnet and one security group; their ids."""
        client = self.client()
        vpc = client.create_vpc(CidrBlock=given["network"])["Vpc"]["VpcId"]
        client.create_tags(Resources=[vpc], Tags=[{"Key": "Name", "Value": given["name"]}])
        subnet = client.create_subnet(VpcId=vpc, CidrBlock=given["subnet"], AvailabilityZone="us-east-1a")["Subnet"]
        group = client.create_security_group(GroupName=f"{given['name']}-mine", Description="mine", VpcId=vpc)
        return {"vpc": vpc, "subnet": subnet["SubnetId"], "group": group["GroupId"]}

    def instances(self, told: bool) -> dict:
        """All that there is; with `told`, what machines were told as well."""
        client = self.client()
        found = []
        for reservation in client.describe_instances()["Reservations"]:
            for i in reservation["Instances"]:
                value = ""
                if told:
                    asked = client.describe_instance_attribute(InstanceId=i["InstanceId"], Attribute="userData")
                    value = base64.b64decode(asked.get("UserData", {}).get("Value", "")).decode()
                found.append(
                    {
                        "id": i["InstanceId"],
                        "state": i["State"]["Name"],
                        "type": i["InstanceType"],
                        "address": i.get("PrivateIpAddress"),
                        "public": i.get("PublicIpAddress"),
                        "tags": {t["Key"]: t["Value"] for t in i.get("Tags", [])},
                        "groups": [g["GroupName"] for n in i.get("NetworkInterfaces", []) for g in n["Groups"]],
                        "user_data": value,
                    }
                )
        groups = client.describe_security_groups()["SecurityGroups"]
        ours = [g for g in groups if g["GroupName"].startswith("herdsman-")]
        return {"instances": found, "groups": [{"name": g["GroupName"], "rules": g["IpPermissions"]} for g in ours]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    args = parser.parse_args()
    serve(Ec2(), args.latency)
    sys.exit(0)
