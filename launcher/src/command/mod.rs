//! The verbs: arguments in, one call, output.

pub mod cli;
