//! End-to-end tests: real programs, real TLS, real Dask.

mod attacks;
mod basics;
mod cluster;
mod dashboard;
mod environment;
mod fuzz;
mod manual;
mod qemu;
mod settings;
mod trouble;
mod user_data;
