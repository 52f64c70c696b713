//! What goes wrong, told so that its user knows what failed, why, what was done
//! about it, and what to try.

mod blows;
mod damage;
mod start;
