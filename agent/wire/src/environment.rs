//! The laptop's Python environment as it crosses to the nodes.
