//! Waiting for what a vendor does in its own time, with an end.

use std::time::Duration;

use tokio::time::Instant;

/// A wait that is begun.
#[derive(Debug)]
pub(in super::super) struct Patience {
    end: Instant,
    pause: Duration,
}

/// First pause of a wait.
const FIRST: Duration = Duration::from_millis(300);
/// Longest.
const LONGEST: Duration = Duration::from_secs(5);

impl Patience {
    /// For what is known everywhere after seconds.
    pub(in super::super) fn short() -> Self {
        Self::of(Duration::from_secs(60))
    }

    /// For machines to be made or to go.
    pub(in super::super) fn long() -> Self {
        Self::of(Duration::from_secs(240))
    }

    fn of(time: Duration) -> Self {
        Self {
            end: Instant::now() + time,
            pause: FIRST,
        }
    }

    /// A pause, longer each time; false when the time is over.
    pub(in super::super) async fn goes_on(&mut self) -> bool {
        if Instant::now() >= self.end {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 3 / 2).min(LONGEST);
        true
    }
}
