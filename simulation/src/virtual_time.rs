//! A simulation's thread: its clock, and its random numbers.

use tokio::{runtime::Builder, task::LocalSet};

use crate::invariant::{NO_PANIC_OR_INVALID_CALL, Violation};

/// Runs a simulation to its end on a paused clock. The random numbers of the extractor and the SDK,
/// which use the thread's generator, come from the seed. Returns what kept it from running.
pub(crate) fn run(seed: u64, simulation: impl Future<Output = ()>) -> Option<Violation> {
    fastrand::seed(seed);
    match Builder::new_current_thread().enable_time().start_paused(true).build() {
        Ok(runtime) => {
            LocalSet::new().block_on(&runtime, simulation);
            None
        }
        Err(err) => Some(Violation {
            invariant: NO_PANIC_OR_INVALID_CALL,
            how: format!("no runtime: {err}"),
        }),
    }
}
