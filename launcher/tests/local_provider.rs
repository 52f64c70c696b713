//! The provider `local` for real: the agent's own keeper, a shell script in
//! place of the agent, both kinds of network. What a test leaves behind is a
//! failure of that test.
//!
//! The keeper's program is built here unless `HERDSMAN_TEST_AGENT` names one.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests, which clippy does not know for such"
)]

mod local;
