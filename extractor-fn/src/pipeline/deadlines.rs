//! When each step of a batch has to end.

use tokio::time::{Duration, Instant};

/// The end of each step, so that nothing is started that cannot finish before Lambda ends the
/// invocation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// No conversation is begun after this.
    pub(crate) begin: Instant,
    /// What is not fetched by this returns to the queue.
    pub(crate) fetch: Instant,
    /// No delivery is begun after this.
    pub(crate) forward: Instant,
    /// Deliveries end by this.
    pub(crate) deliver: Instant,
    /// Records are settled by this.
    pub(crate) settle: Instant,
}

impl Deadlines {
    /// Each step's share is bounded, so a long invocation spends its time on fetching.
    pub(crate) fn new(left: Duration) -> Self {
        let share = |most: u64, part: u32| Duration::from_secs(most).min(left / part);
        let settle = Instant::now() + left - share(1, 20);
        let deliver = settle - share(9, 8);
        let forward = deliver - share(2, 20);
        let fetch = deliver - share(30, 4);
        let begin = fetch - share(15, 8);
        Self { begin, fetch, forward, deliver, settle }
    }
}
