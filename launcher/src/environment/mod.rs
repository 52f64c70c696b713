//! What the laptop's Python has, and how it gets to the nodes.
//!
//! ```text
//! interpreter ─▶ scan ─▶ lock (uv) ─▶ build (uv) ─▶ bundle: manifest + blobs, by hash
//!      │           │        │
//!  which Python   rows with a reason each           credentials travel beside it, never inside
//! ```
//!
//! The interpreter that pickles is the one that counts: everything starts from
//! what is installed there, a project's lock file is used only where both agree.

mod archive;
mod build;
pub mod copy;
pub mod error;
mod follow;
mod given;
mod ignore;
mod index;
pub mod interpreter;
mod layout;
mod lock;
mod marker;
mod metadata;
pub mod modules;
mod netrc;
mod plan;
mod repack;
pub mod scan;
mod shim;
#[cfg(test)]
mod testing;
mod uv;
pub mod versions;
mod warm;
mod why;

pub use copy::{Action, Blob, Content, Copy, EnvRequest, Row, prepare};
pub use error::Error;
pub use given::PACK;
pub use interpreter::{Interpreter, Variables, find_interpreter, variables};
pub use modules::project_of;
pub use uv::{HERDSMAN_UV, find_uv};
pub use versions::{installed_versions, key_versions};
pub use warm::warm;
pub use why::{Why, mismatch, why};
