//! What the end-to-end tests share.

pub mod environment;
pub mod home;
pub mod index;
pub mod trouble;
