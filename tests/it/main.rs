//! End-to-end tests: real programs, real TLS, real Dask.

mod basics;
mod cluster;
mod dashboard;
mod environment;
mod fuzz;
mod trouble;
