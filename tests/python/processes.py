"""What runs in processes of its own; imports nothing that sets a home up."""

from dask.distributed import Client


def attached(cluster, queue):
    with Client(cluster) as client:
        queue.put((cluster._created, client.submit(sum, [1, 2]).result(60)))
    cluster.close()
