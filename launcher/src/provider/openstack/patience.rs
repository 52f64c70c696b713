//! Waiting for what the vendor's parts tell each other, with an end.

use std::time::Duration;

use tokio::time::Instant;

/// A wait that is begun.
#[derive(Debug)]
pub(super) struct Patience {
    end: Instant,
    pause: Duration,
    longest: Duration,
}

/// For what is known everywhere after seconds.
pub(super) fn short() -> Patience {
    Patience::within(Duration::from_secs(60), Duration::from_secs(5))
}

/// For machines to come or to go. One call looks at all of them, so that it may be asked
/// often.
pub(super) fn long() -> Patience {
    Patience::within(Duration::from_secs(300), Duration::from_secs(3))
}

/// For what a call made whose answer was lost, to be seen.
pub(super) fn lost() -> Patience {
    Patience::within(Duration::from_secs(6), Duration::from_secs(2))
}

/// How often something is asked for whose answers are lost, and which is not seen.
pub(super) const ASKED: u32 = 3;

impl Patience {
    fn within(whole: Duration, longest: Duration) -> Self {
        Self {
            end: Instant::now() + whole,
            pause: Duration::from_millis(400),
            longest,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// A pause, longer each time.
    pub(super) async fn pause(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 3 / 2).min(self.longest);
    }
}
