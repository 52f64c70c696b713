//! How many tests with clusters run at once: they wait more than they compute, but
//! all of them share the computer's cores.

use std::sync::{Condvar, Mutex, PoisonError};

/// Tests that have a turn now.
static TAKEN: Mutex<usize> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

/// A test's turn, until this is dropped.
#[derive(Debug)]
pub struct Turn(());

/// Waits for a turn; as many tests as there are cores have one.
#[must_use]
pub fn turn() -> Turn {
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let free = GIVEN_BACK.wait_while(taken, |taken| *taken >= most);
    *free.unwrap_or_else(PoisonError::into_inner) += 1;
    Turn(())
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        GIVEN_BACK.notify_one();
    }
}
