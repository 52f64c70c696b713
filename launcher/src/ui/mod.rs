//! Everything that reaches the user's terminal goes through here: results to
//! stdout, the story to stderr, errors with a code and something to try.

mod clean;
mod error;
mod exit;
mod human;
mod printer;
mod progress;
mod table;

pub use clean::{clean, clean_lines};
pub use error::Error;
pub use exit::{Exit, exit_of};
pub use human::{age, bytes, seconds};
pub use printer::Printer;
pub use progress::Progress;
pub(crate) use progress::iso;
pub use table::Table;
