"""The tables of keywords in `launcher/python/MIGRATING.md`, from the classes themselves.

python tests/python/keyword_tables.py      writes them
"""

import importlib
import re
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "launcher/python/MIGRATING.md"
MODULES = ("aws", "gcp", "azure", "digitalocean", "hetzner", "openstack")


def row(keyword, section):
    where = ", ".join(f"`{key}`" for key in keyword.to) or "–"
    name = f"`{keyword.name}`"
    if not keyword.keyword:
        name = f"`cloudprovider.{section}.{keyword.name}`"
    says = keyword.says if keyword.says and keyword.says != "as it was" else ""
    return f"| {name} | {where} | {says.replace('|', '/')} |"


def table(keywords, section):
    lines = ["| dask-cloudprovider | here | what is different |", "|--|--|--|"]
    return "\n".join([*lines, *(row(k, section) for k in keywords)])


def tables():
    from herdsman._dropin_common import COMMON

    parts = {"common": table(COMMON, "")}
    for module in MODULES:
        vendor = importlib.import_module(f"herdsman.{module}").VENDOR
        parts[vendor.name] = table(vendor.keywords, vendor.section)
    return parts


def filled(text):
    for name, lines in tables().items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = pattern.subn(lambda m, lines=lines: f"{m[1]}\n{lines}\n\n{m[2]}", text)
        assert count == 1, f"no place for {name}"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(filled(DOCUMENT.read_text()))
