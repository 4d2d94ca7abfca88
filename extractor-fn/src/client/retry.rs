//! When and how often a call is attempted again.

use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use tokio::time::{Instant, sleep};

use crate::client::http::{Http, HttpError, Response, Wanted};

/// Attempts of one call.
const ATTEMPTS: u32 = 3;
/// The wait before the second attempt; it doubles from there.
const FIRST_WAIT: Duration = Duration::from_millis(300);

/// The attempts of one call and the time they may take together. Waits between them, such as for
/// the rate limiter, do not count.
pub(crate) struct Retry {
    left: u32,
    time: Duration,
    wait: Duration,
}

impl Retry {
    pub(crate) fn new(time: Duration) -> Self {
        Self { left: ATTEMPTS, time, wait: FIRST_WAIT }
    }

    /// One attempt, with a share of the time left so that another remains possible.
    pub(crate) async fn send(
        &mut self,
        http: &Http,
        request: HttpRequest,
        wanted: Wanted,
    ) -> Result<Response, HttpError> {
        let share = if self.left > 1 { self.time.mul_f64(0.6) } else { self.time };
        let began = Instant::now();
        let answer = http.exchange(request, wanted, share).await;
        self.time = self.time.saturating_sub(began.elapsed());
        answer
    }

    /// Waits before the next attempt, at least `retry_after`; returns `false` if there is none.
    pub(crate) async fn backoff(&mut self, retry_after: Option<Duration>) -> bool {
        self.left -= 1;
        let wait =
            self.wait.mul_f64(0.8 + 0.4 * fastrand::f64()).max(retry_after.unwrap_or_default());
        if self.left == 0 || wait >= self.time {
            return false;
        }
        sleep(wait).await;
        self.time -= wait;
        self.wait *= 2;
        true
    }
}

/// Whether a status is transient.
pub(crate) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}
