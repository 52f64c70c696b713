//! Entry of `herdsman-agent`.

fn main() {}
