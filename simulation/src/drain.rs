//! Draining a backlog after a resume: the calls it takes, and its speed.

use std::{
    collections::BTreeSet,
    fmt::{self, Display},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use tokio::{task::spawn_local, time::sleep};

use crate::{
    function::Function,
    history::{Keep, Tally},
    invariant::Violation,
    mapping, operator,
    plan::Plan,
    sim::Simulation,
    virtual_time,
};

/// The most requests a second of one environment: `GLADLY_REQUESTS_PER_SECOND`.
const REQUESTS_PER_SECOND: f64 = 4.0;
/// When the drain starts: long after the backlog's last event.
const DRAIN_START: Duration = Duration::from_mins(10);

/// The result of a drain.
#[derive(Debug)]
pub struct Drain {
    /// Events in the backlog.
    pub events: u64,
    /// Conversations that they are about.
    pub conversations: u64,
    /// Customers of those.
    pub customers: u64,
    /// Calls to Gladly.
    pub calls: u64,
    /// 429s among the answers.
    pub throttled: u64,
    /// From the first call to the last delivery, in virtual time.
    pub lasted: Duration,
    /// An invariant that did not hold.
    pub violation: Option<Violation>,
}

impl Drain {
    /// Two calls per conversation, and one per customer.
    #[must_use]
    pub fn ideal(&self) -> u64 {
        2 * self.conversations + self.customers
    }

    /// Calls made for each that was needed.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "far less than 2^52 calls")]
    pub fn ratio(&self) -> f64 {
        self.calls as f64 / self.ideal().max(1) as f64
    }

    /// Calls per second, as a fraction of the relay's share.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "far less than 2^52 calls")]
    pub fn use_of_share(&self) -> f64 {
        self.calls as f64 / self.lasted.as_secs_f64() / REQUESTS_PER_SECOND
    }
}

impl Display for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, conversations, customers, calls, throttled, lasted, .. } = self;
        writeln!(f, "{events} events on {conversations} conversations of {customers} customers")?;
        writeln!(
            f,
            "{calls} calls to Gladly, {:.3} for each of the {} needed; {throttled} answered 429",
            self.ratio(),
            self.ideal()
        )?;
        write!(
            f,
            "{} minutes, {:.1} % of the share of {REQUESTS_PER_SECOND} a second",
            lasted.as_secs() / 60,
            100.0 * self.use_of_share()
        )?;
        if let Some(violation) = &self.violation {
            write!(f, "\n{violation}")?;
        }
        Ok(())
    }
}

/// Drains a backlog with one environment.
#[must_use]
pub fn drain(events: u64, conversations: u64) -> Drain {
    let mut drain = Drain {
        events,
        conversations,
        customers: 0,
        calls: 0,
        throttled: 0,
        lasted: Duration::ZERO,
        violation: None,
    };
    if let Some(violation) = virtual_time::run(events, simulate(&mut drain)) {
        drain.violation = Some(violation);
    }
    drain
}

async fn simulate(drain: &mut Drain) {
    let mut rng = Rng::with_seed(drain.events);
    let plan = Plan::backlog(&mut rng, drain.events, drain.conversations);
    let customers: BTreeSet<_> =
        plan.conversations.iter().map(|conversation| &conversation.customer).collect();
    drain.customers = customers.len() as u64;
    let sim = Simulation::new(rng, plan, Keep::Nothing);
    let function = Arc::new(Function::new(Arc::clone(&sim)));

    operator::arrive(Arc::clone(&sim)).await;
    sleep(DRAIN_START.saturating_sub(sim.elapsed())).await;
    let began = sim.elapsed();
    let polling = spawn_local(mapping::poll(Arc::clone(&sim), function));
    // Ten times as long as expected.
    let limit = Duration::from_secs(10 * drain.ideal()) / 4 + Duration::from_hours(1);
    while !sim.is_drained() && sim.elapsed() < began + limit {
        sleep(Duration::from_secs(1)).await;
    }
    drain.lasted = sim.elapsed().saturating_sub(began);
    if sim.is_drained() {
        sim.check_end();
    } else {
        sim.has_not_drained(drain.lasted);
    }
    polling.abort();
    let mut state = sim.state();
    drain.violation = state.journal.violation.take();
    let tally: &Tally = &state.journal.tally;
    drain.calls = tally.of("calls to Gladly");
    drain.throttled = tally.of("429s of Gladly's own");
}
