//! End-to-end tests: real programs, real TLS, real Dask.

mod attacks;
mod basics;
mod clouds;
mod cluster;
mod dashboard;
mod environment;
mod firewall;
mod fuzz;
mod machine;
mod manual;
mod qemu;
mod real;
mod settings;
mod sources;
mod trouble;
mod user_data;
