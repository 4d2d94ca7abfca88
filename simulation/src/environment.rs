//! An execution environment of the function, and when it crashes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use crate::checker::Invocation;

/// An environment.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) number: u64,
    /// Notified when it crashes.
    pub(crate) died: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    /// When it crashes, if it does.
    pub(crate) crash: Option<CrashPlan>,
    dead: bool,
    /// When its invocation began.
    pub(crate) began: Timestamp,
    /// When a read of the pause parameter failed.
    pub(crate) unreadable_at: Timestamp,
}

/// When an environment crashes.
#[derive(Debug)]
pub(crate) struct CrashPlan {
    /// Calls until then, the last one included.
    pub(crate) calls: u32,
    /// The moment of the last one.
    pub(crate) point: CrashPoint,
}

/// A moment of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CrashPoint {
    /// It has no effect.
    Before,
    /// It has taken effect.
    After,
}

impl Environment {
    pub(crate) fn new(number: u64) -> Self {
        let state = State {
            crash: None,
            dead: false,
            began: Timestamp::MIN,
            unreadable_at: Timestamp::MIN,
        };
        Self { number, died: Notify::new(), state: Mutex::new(state) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The invocation that runs in it.
    pub(crate) fn invocation(&self) -> Invocation {
        Invocation { environment: self.number, began: self.state().began }
    }

    /// Counts a call. Returns the point of it at which the environment crashes, if it does.
    pub(crate) fn count_call(&self) -> Option<CrashPoint> {
        let crash = &mut self.state().crash;
        let crash = crash.as_mut()?;
        crash.calls = crash.calls.saturating_sub(1);
        (crash.calls == 0).then_some(crash.point)
    }

    /// Ends it: it makes no further calls.
    pub(crate) fn end(&self) {
        self.state().dead = true;
        self.died.notify_one();
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state().dead
    }
}
