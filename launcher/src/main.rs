//! Entry of `herdsman`.

fn main() {}
