//! The hub: what the scheduler's agent is to all others.
//!
//! ```text
//!            accept ── admission ── TLS ── peer ── authority ── routes
//!                                                                 │
//!   operator ─ install, status, retire … ──────────────┐          │
//!   node ───── enrol, renew, session ──────────────┐   │          │
//!                                                  ▼   ▼          ▼
//!                           registry (pure) ── journal (fsync) ── audit
//! ```
//!
//! Promises:
//! * Nothing is signed before the decision to sign it is on disk.
//! * About a node one decision is made at a time, until it is on disk.
//! * A serial is spent once; the same keys get the same answer, others an
//!   incident.
//! * Whoever is revoked loses live connections too.
//! * Everything the hub knows survives its restart, because the journal is
//!   replayed.

mod access;
pub mod admission;
pub mod audit;
pub mod authority;
pub mod batches;
pub mod blobs;
pub mod decisions;
pub mod ending;
pub mod events;
pub mod issue;
pub mod journal;
pub mod live;
pub mod registry;
pub mod routes;
pub mod server;
pub mod session;
pub mod streams;
pub mod turns;
pub mod upgrade;

mod core;
mod enrolment;
mod members;
mod reply;
mod retire;
mod revocation;
mod scheduler;
mod sessions;
mod status;

pub use core::{Hub, SchedulerCall, SchedulerLink};
