//! Many seeds, on every core.

use std::{
    num::NonZeroUsize,
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use crate::{
    history::{Keep, Tally},
    seed::{Report, run},
};

/// The futures of a build without optimisation are large.
const STACK_BYTES: usize = 16 << 20;

/// Runs seeds until one fails. `progress` is called with every one that did not.
pub fn sweep(seeds: Range<u64>, progress: impl Fn(u64) + Sync) -> (Tally, Option<Report>) {
    let (next, stop) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let (tally, failed) = (Mutex::new(Tally::default()), Mutex::new(None::<Report>));
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let report = run(seed, Keep::Nothing);
            tally.lock().unwrap_or_else(PoisonError::into_inner).merge(&report.tally);
            if report.violation.is_none() {
                progress(seed);
                continue;
            }
            stop.store(true, Ordering::Relaxed);
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            // Of several failures the lowest seed, so that the same command reports the same seed.
            if failed.as_ref().is_none_or(|known| seed < known.seed) {
                *failed = Some(report);
            }
        }
    };
    thread::scope(|scope| {
        let count = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        for _ in 0..count {
            // If a thread cannot be started, the others share the work.
            let _ = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    (tally.into_inner().unwrap_or_else(PoisonError::into_inner), failed)
}
