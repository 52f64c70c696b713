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

pub mod error;
pub mod interpreter;
mod layout;
mod shim;
#[cfg(test)]
mod testing;
pub mod versions;

pub use error::Error;
pub use interpreter::{Interpreter, find_interpreter};
pub use versions::{installed_versions, key_versions};
