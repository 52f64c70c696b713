//! The agent: one program in each machine of a cluster.

pub mod client;
pub mod clock;
pub mod dask;
pub mod driver;
pub mod environment;
pub mod files;
pub mod firewall;
pub mod frame;
pub mod health;
pub mod hub;
pub mod identity;
pub mod keeper;
pub mod logs;
pub mod node;
pub mod service;
pub mod source;
