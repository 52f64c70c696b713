//! What attackers may try at the hub's port, with real sockets against the real
//! program. Dask takes no part but in the last of them.

mod channels;
mod dask;
mod enrol;
mod http;
mod input;
mod load;
mod replay;
mod requests;
mod revoked;
mod roles;
mod secrets;
mod sessions;
mod tls;
