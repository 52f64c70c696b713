//! What the end-to-end tests share.

pub mod attack;
pub mod azure;
pub mod clouds;
pub mod environment;
pub mod home;
pub mod index;
pub mod machines;
pub mod manual;
pub mod metadata;
pub mod mirror;
pub mod native;
pub mod trouble;
pub mod turn;
pub mod vendor;
