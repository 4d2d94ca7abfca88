//! The circuit breaker: holds extraction while an upstream cannot work for any conversation, and
//! ends the hold once it can. Its state is a parameter of its own, next to the operator's.

use std::{
    collections::HashSet,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use lru::LruCache;
pub(crate) use shared::{BreakerState as State, NONE_FOUND, OpenState, Upstream};
use shared::{Clock, Id, Parameter, ParameterError, error_chain};
use tracing::{error, info};

/// An upstream is down once it has only failed for this long, with [`OUTAGE_CONVERSATIONS`] or more.
const OUTAGE_DURATION: SignedDuration = SignedDuration::from_mins(2);
/// One conversation that keeps failing is not an outage: it may be the conversation's own fault.
const OUTAGE_CONVERSATIONS: usize = 2;
/// Failures further apart than this are not one outage. What failed is retried after 30 s and 60 s,
/// ± 20 %, and at the end of [`OUTAGE_DURATION`], so failures of a lasting outage are closer together.
const OUTAGE_GAP: SignedDuration = SignedDuration::from_mins(5);
/// How much later than [`OUTAGE_DURATION`] a retry comes that is to decide about an outage: SQS counts
/// in seconds.
const DECISION_MARGIN: SignedDuration = SignedDuration::from_secs(1);
/// An upstream that denied this many conversations and served none is itself at fault.
pub(crate) const DENIALS: usize = 10;
/// A breaker that opens again within this time of its closing closed too early.
const RELAPSE_WINDOW: SignedDuration = SignedDuration::from_hours(1);
/// How many failed conversations are kept per upstream, about a hundred bytes each.
const MAX_FAILED: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// What opens the circuit breaker.
#[derive(Debug, Clone)]
pub(crate) struct FatalError {
    pub(crate) upstream: Upstream,
    pub(crate) reason: String,
    /// It counts only while the breaker is half-open.
    pub(crate) in_trial: bool,
}

/// The breaker as one environment sees it.
pub(crate) struct Breaker {
    parameter: Parameter<State>,
    clock: Clock,
    /// The state last seen.
    last: Mutex<State>,
    /// One per upstream.
    histories: [Mutex<History>; 2],
}

/// An upstream's results, as far as this environment has seen them.
struct History {
    failure_window: FailureWindow,
    /// Conversations denied since it last served one: rejected by the destination, or answered 404. At
    /// most [`DENIALS`] of them.
    denied: HashSet<Id>,
    successes: Successes,
    /// The number of successes when a conversation last failed.
    failed: LruCache<Id, u64>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            failure_window: FailureWindow::default(),
            denied: HashSet::new(),
            successes: Successes::default(),
            failed: LruCache::new(MAX_FAILED),
        }
    }
}

/// An upstream's transient failures since its last success.
#[derive(Default)]
struct FailureWindow {
    since: Option<Timestamp>,
    last: Timestamp,
    conversations: HashSet<Id>,
}

impl FailureWindow {
    /// Adds a failure. Returns whether this is now an outage: several conversations, for long enough.
    fn failed<'a>(
        &mut self,
        conversations: impl IntoIterator<Item = &'a Id>,
        now: Timestamp,
    ) -> bool {
        if self.since.is_some() && now.duration_since(self.last) > OUTAGE_GAP {
            *self = Self::default();
        }
        self.last = now;
        for conversation in conversations {
            if self.conversations.len() < OUTAGE_CONVERSATIONS {
                self.conversations.insert(conversation.clone());
            }
        }
        let since = *self.since.get_or_insert(now);
        self.conversations.len() >= OUTAGE_CONVERSATIONS
            && now.duration_since(since) >= OUTAGE_DURATION
    }

    /// How long until a further failure can show an outage. `None` if none runs, or if it already could.
    fn decides_in(&self, now: Timestamp) -> Option<SignedDuration> {
        let left = OUTAGE_DURATION - now.duration_since(self.since?);
        left.is_positive().then(|| left + DECISION_MARGIN)
    }
}

/// Conversations that succeeded at an upstream, each with its number in the count.
#[derive(Default)]
struct Successes {
    count: u64,
    latest: Option<(Id, u64)>,
    /// The latest one of another conversation.
    other: Option<(Id, u64)>,
}

impl Successes {
    fn add(&mut self, conversation: &Id) {
        self.count += 1;
        match &mut self.latest {
            Some((latest, at)) if latest == conversation => *at = self.count,
            latest => self.other = latest.replace((conversation.clone(), self.count)),
        }
    }

    /// The number of the latest success of a conversation other than this one.
    fn of_another(&self, than: &Id) -> u64 {
        let another = [&self.latest, &self.other].into_iter().flatten();
        another.filter(|(id, _)| id != than).map(|(_, at)| *at).next().unwrap_or_default()
    }
}

impl Breaker {
    pub(crate) fn new(parameter: Parameter<State>, clock: Clock) -> Self {
        Self {
            parameter: parameter.with_default(State::ABSENT),
            clock,
            last: Mutex::new(State::ABSENT),
            histories: Default::default(),
        }
    }

    /// The state, at most [`PAUSE_TTL`](crate::gate::PAUSE_TTL) old.
    pub(crate) async fn value(&self) -> Result<Arc<State>, ParameterError> {
        self.parameter.value().await.inspect(|state| self.seen(state))
    }

    /// When it last changed, as far as this environment has seen; `None` if it never opened.
    pub(crate) async fn changed_at(&self) -> Option<Timestamp> {
        self.parameter.last().await?.1
    }

    /// The current state.
    pub(crate) async fn fetch(&self) -> Result<Arc<State>, ParameterError> {
        let (state, _) = self.parameter.fetch().await?;
        self.seen(&state);
        Ok(state)
    }

    /// Resets the counts when the state has changed, also by another invocation. Denials are reset
    /// only when it closes: then a call succeeded, or the operator decided so.
    fn seen(&self, state: &State) {
        {
            let mut last = self.last();
            if *last == *state {
                return;
            }
            last.clone_from(state);
        }
        for upstream in Upstream::BOTH {
            let mut record = self.record(upstream);
            record.failure_window = FailureWindow::default();
            if matches!(state, State::Closed { .. }) {
                record.denied.clear();
            }
        }
    }

    fn last(&self) -> MutexGuard<'_, State> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, upstream: Upstream) -> MutexGuard<'_, History> {
        self.histories[upstream as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current time, to the second: people read it.
    fn now(&self) -> Timestamp {
        let now = self.clock.now();
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }

    /// Why the breaker is half-open, if it is.
    pub(crate) fn trial(&self) -> Option<OpenState> {
        match &*self.last() {
            State::HalfOpen(open_state) => Some(open_state.clone()),
            State::Closed { .. } | State::Open(_) | State::Invalid => None,
        }
    }

    /// Whether the breaker is half-open for this upstream.
    pub(crate) fn is_on_trial(&self, upstream: Upstream) -> bool {
        self.trial().is_some_and(|open_state| open_state.cause == upstream)
    }

    /// An upstream answered, so it is up.
    pub(crate) fn answered(&self, upstream: Upstream) {
        self.record(upstream).failure_window = FailureWindow::default();
    }

    /// An upstream served a conversation: Gladly has it, or the destination accepted it. That ends a
    /// trial.
    pub(crate) async fn served(&self, upstream: Upstream) {
        {
            let mut record = self.record(upstream);
            record.failure_window = FailureWindow::default();
            record.denied.clear();
        }
        if let Some(open_state) = self.trial().filter(|open_state| open_state.cause == upstream) {
            self.close(Some(open_state.wait_seconds)).await;
        }
    }

    /// An upstream denied a conversation. Returns whether it has denied so many since it served one
    /// that the upstream itself is at fault. Each counts once: Gladly is asked again for what it lacks,
    /// and the events of one that the destination rejects come in many batches.
    pub(crate) fn denied(&self, upstream: Upstream, conversation: &Id) -> bool {
        let mut record = self.record(upstream);
        if record.denied.len() < DENIALS {
            record.denied.insert(conversation.clone());
        }
        record.denied.len() >= DENIALS
    }

    /// Whether at most one conversation was denied since one was served.
    pub(crate) fn denied_one(&self, upstream: Upstream) -> bool {
        self.record(upstream).denied.len() <= 1
    }

    /// An upstream failed transiently with these conversations. Returns whether it is down: it has
    /// failed for several conversations and for long enough, or during a trial.
    pub(crate) fn failed<'a>(
        &self,
        upstream: Upstream,
        conversations: impl IntoIterator<Item = &'a Id>,
    ) -> bool {
        self.is_on_trial(upstream)
            || self.record(upstream).failure_window.failed(conversations, self.clock.now())
    }

    /// How long until a further failure of an upstream can open the breaker, if it only failed for less
    /// than two minutes so far. On a quiet stack that failure is a retry, which must not come later.
    pub(crate) fn decides_in(&self, upstream: Upstream) -> Option<SignedDuration> {
        self.record(upstream).failure_window.decides_in(self.clock.now())
    }

    /// An upstream succeeded with these conversations.
    pub(crate) fn succeeded<'a>(
        &self,
        upstream: Upstream,
        conversations: impl Iterator<Item = &'a Id>,
    ) {
        let mut record = self.record(upstream);
        conversations.for_each(|conversation| record.successes.add(conversation));
    }

    /// The number of those successes.
    pub(crate) fn successes(&self, upstream: Upstream) -> u64 {
        self.record(upstream).successes.count
    }

    /// Notes that an upstream failed with a conversation. Returns the number of successes when it
    /// last failed with it, if it did.
    pub(crate) fn note_failure(&self, upstream: Upstream, conversation: &Id) -> Option<u64> {
        let mut record = self.record(upstream);
        let successes = record.successes.count;
        record.failed.put(conversation.clone(), successes)
    }

    /// Whether an upstream succeeded with another conversation after this many successes.
    pub(crate) fn another_succeeded(&self, upstream: Upstream, than: &Id, since: u64) -> bool {
        self.record(upstream).successes.of_another(than) > since
    }

    /// Holds extraction. An open breaker stays as it is.
    pub(crate) async fn open(&self, error: &FatalError) {
        let (now, reason) = (self.now(), error.reason.clone());
        let open_state = match self.fetch().await.as_deref() {
            Ok(State::Open(_)) => return,
            Ok(State::HalfOpen(open_state)) if open_state.cause == error.upstream => {
                open_state.extend(reason, now)
            }
            // The trial is over: it succeeded in another environment.
            Ok(_) | Err(_) if error.in_trial => return,
            Ok(State::Closed { closed_at: Some(at), wait_seconds })
                if now.duration_since(*at) < RELAPSE_WINDOW =>
            {
                OpenState::first(error.upstream, reason, now, *wait_seconds)
            }
            // An unreadable state does not prevent opening.
            Ok(_) | Err(_) => OpenState::first(error.upstream, reason, now, None),
        };
        self.write(State::Open(open_state)).await;
    }

    /// Keeps it open for longer: its cause still exists.
    pub(crate) async fn keep_open(&self, open_state: &OpenState, reason: &str) {
        self.write(State::Open(open_state.extend(reason.to_owned(), self.now()))).await;
    }

    /// Starts a trial.
    pub(crate) async fn half_open(&self, open_state: &OpenState) {
        self.write(State::HalfOpen(open_state.clone())).await;
    }

    /// Ends the hold. The last wait is recorded for a relapse.
    pub(crate) async fn close(&self, wait_seconds: Option<u32>) {
        self.write(State::Closed { closed_at: Some(self.now()), wait_seconds }).await;
    }

    async fn write(&self, state: State) {
        self.seen(&state);
        let text = serde_json::to_string(&state).unwrap_or_default();
        match self.parameter.write(text).await {
            Ok(()) => match &state {
                State::Open(OpenState { cause, reason, retry_at, .. }) => error!(
                    breaker.cause = %cause,
                    breaker.retry_at = %retry_at,
                    reason,
                    "the circuit breaker is open"
                ),
                State::HalfOpen(OpenState { cause, .. }) => {
                    info!(breaker.cause = %cause, "the circuit breaker is half-open");
                }
                State::Closed { .. } | State::Invalid => {
                    info!("the circuit breaker is closed");
                }
            },
            Err(err) => error!(error = error_chain(&err), "could not change the circuit breaker"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_far_apart_are_not_an_outage() {
        let ids = ["a", "b"].map(|id| id.parse::<Id>().unwrap());
        let down = |gaps: &[i64]| {
            let (mut failure_window, mut now) = (FailureWindow::default(), Timestamp::UNIX_EPOCH);
            let mut down = failure_window.failed([&ids[0]], now);
            for (gap, id) in gaps.iter().zip(ids.iter().rev().cycle()) {
                now += SignedDuration::from_secs(*gap);
                down = failure_window.failed([id], now);
            }
            down
        };
        assert!(!down(&[3 * 3_600]), "two blips");
        assert!(!down(&[301]));
        assert!(!down(&[119]), "not two minutes yet");
        assert!(down(&[120]));
        assert!(down(&[30, 60, 120]), "as events are retried");
        assert!(!down(&[60, 3_600, 60]), "each a minute long, an hour apart");
    }

    #[test]
    fn a_success_of_another_conversation_is_distinguished_from_its_own() {
        let [a, b] = ["a", "b"].map(|id| id.parse::<Id>().unwrap());
        let mut successes = Successes::default();
        assert_eq!(successes.of_another(&a), 0);
        successes.add(&a);
        assert_eq!((successes.of_another(&a), successes.of_another(&b)), (0, 1));
        successes.add(&b);
        successes.add(&b);
        assert_eq!((successes.of_another(&a), successes.of_another(&b)), (3, 1));
        successes.add(&a);
        assert_eq!((successes.of_another(&a), successes.of_another(&b)), (3, 4));
    }
}
