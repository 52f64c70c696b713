"""Not carried over from dask-cloudprovider."""

raise ImportError(
    "herdsman has no IBMCodeEngineCluster: it makes machines, and Code Engine has only containers. Say herdsman.Cluster "
    'with another provider, or provider="manual" with machines that you make at IBM: `herdsman render --help`',
    name=__name__,
)
