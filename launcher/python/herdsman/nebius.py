"""Not carried over from dask-cloudprovider."""

raise ImportError(
    'herdsman has no NebiusCluster yet: say herdsman.Cluster with another provider, or provider="manual" with machines '
    "that you make at Nebius: `herdsman render --help`",
    name=__name__,
)
