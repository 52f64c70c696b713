//! Waiting for what the vendor's parts tell each other, with an end.

use std::time::Duration;

use tokio::time::Instant;

/// A wait that is begun.
#[derive(Debug)]
pub(super) struct Patience {
    end: Instant,
    pause: std::sync::Mutex<Duration>,
}

/// Longest pause of a wait.
const LONGEST: Duration = Duration::from_secs(5);

/// For what is known everywhere after seconds.
pub(super) fn short() -> Patience {
    Patience::until(Duration::from_secs(60))
}

/// For machines to go, which have to shut down first.
pub(super) fn long() -> Patience {
    Patience::until(Duration::from_secs(300))
}

impl Patience {
    fn until(within: Duration) -> Self {
        Self {
            end: Instant::now() + within,
            pause: std::sync::Mutex::new(Duration::from_millis(500)),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// A pause, longer each time.
    pub(super) async fn pause(&self) {
        let pause = {
            let mut p = self.pause.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let now = *p;
            *p = (now * 3 / 2).min(LONGEST);
            now
        };
        tokio::time::sleep(pause).await;
    }
}
