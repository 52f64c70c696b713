//! What a user may rely on: own certificates, orderly ends, commands that meet.

mod commands;
mod ends;
mod own;
mod settings;
mod user;
