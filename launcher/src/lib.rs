//! The launcher: the `herdsman` command and the library under it.

pub mod bootstrap;
pub mod cluster;
pub mod command;
pub mod config;
pub mod environment;
mod files;
pub mod link;
pub mod pki;
pub mod provider;
pub mod state;
pub mod ui;
