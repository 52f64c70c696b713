//! The node: the side of the agent that every machine has. It takes part in the
//! cluster, starts Dask and obeys the hub.

pub mod phases;
pub mod session;
pub mod stream;
