//! An environment of the function: how long it lives, and what it knows.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use crate::checker::Invocation;

/// An environment.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) number: u64,
    /// Rings when it dies.
    pub(crate) died: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    /// When it dies, if it does.
    pub(crate) crash: Option<CrashPlan>,
    dead: bool,
    /// When its invocation began.
    pub(crate) began: Timestamp,
    /// When a read of the pause parameter failed.
    pub(crate) unreadable_at: Timestamp,
}

/// When an environment dies.
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

    /// Counts a call. Returns at which moment of it the environment dies, if it does.
    pub(crate) fn count_call(&self) -> Option<CrashPoint> {
        let crash = &mut self.state().crash;
        let crash = crash.as_mut()?;
        crash.calls = crash.calls.saturating_sub(1);
        (crash.calls == 0).then_some(crash.point)
    }

    /// Ends it: no call of it gets out any more.
    pub(crate) fn end(&self) {
        self.state().dead = true;
        self.died.notify_one();
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state().dead
    }
}
