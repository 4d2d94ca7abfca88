//! Another integration beside the relay, within the same quota: who gets how much, and who gets 429s.
//!
//! Gladly counts 10 requests in each of its seconds, for everything that uses the organisation's API.

use std::{
    fmt::{self, Display},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use tokio::{task::spawn_local, time::sleep};

use crate::{
    function::Function,
    gladly::{Caller, SharedQuota},
    history::Keep,
    invariant::Violation,
    mapping, operator,
    plan::Plan,
    sim::Simulation,
    virtual_time,
};

/// The most requests a second of one environment: `GLADLY_REQUESTS_PER_SECOND`.
const REQUESTS_PER_SECOND: f64 = 4.0;
/// When the relay starts.
const START: Duration = Duration::from_mins(1);
/// What is counted begins this long after the start.
const SETTLING: Duration = Duration::from_mins(1);
/// What is counted lasts this long.
const COUNTED: Duration = Duration::from_mins(5);
/// The requests of this long are averaged.
const AVERAGED: Duration = Duration::from_secs(10);

/// A neighbour, and the relay beside it.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// The neighbour's requests per second.
    pub rate: f64,
    /// Whether its requests are independent of one another (Poisson), and not evenly paced.
    pub poisson: bool,
    /// The relay's environments that drain a backlog at once.
    pub environments: usize,
    /// Determines latencies, and when the neighbour and Gladly's seconds begin.
    pub seed: u64,
}

/// What happened beside a neighbour after the first minute.
#[derive(Debug)]
pub struct Neighbour {
    scenario: Scenario,
    /// The neighbour's requests, and how many of them were answered 429.
    pub requests: usize,
    /// Of those, 429s.
    pub throttled: usize,
    /// The relay's requests that were not answered 429, by environment.
    pub relay: Vec<usize>,
    /// The relay's 429s.
    pub relay_throttled: usize,
    /// When the relay had come up to 90 % of its cap over ten seconds, from its start.
    pub at_cap: Option<Duration>,
    /// An invariant that did not hold.
    pub violation: Option<Violation>,
}

#[expect(clippy::cast_precision_loss, reason = "far less than 2^52 requests")]
impl Neighbour {
    /// The fraction of the neighbour's requests that were answered 429.
    #[must_use]
    pub fn throttled_share(&self) -> f64 {
        self.throttled as f64 / self.requests.max(1) as f64
    }

    /// The relay's requests per second.
    #[must_use]
    pub fn relay_rate(&self) -> f64 {
        self.relay.iter().sum::<usize>() as f64 / COUNTED.as_secs_f64()
    }

    /// The relay's requests, as a fraction of what the neighbour leaves of the quota.
    #[must_use]
    pub fn use_of_rest(&self) -> f64 {
        self.relay_rate() / (SharedQuota::PER_SECOND as f64 - self.scenario.rate)
    }

    /// The relay's requests, as a fraction of its cap.
    #[must_use]
    pub fn use_of_cap(&self) -> f64 {
        self.relay_rate() / REQUESTS_PER_SECOND / self.scenario.environments.max(1) as f64
    }

    /// The smallest part that an environment has of the relay's requests.
    #[must_use]
    pub fn least_share(&self) -> f64 {
        let least = self.relay.iter().min().copied().unwrap_or_default();
        least as f64 / self.relay.iter().sum::<usize>().max(1) as f64
    }
}

impl Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scenario { rate, poisson, environments, seed } = self.scenario;
        let pace = if poisson { "at random" } else { "evenly" };
        write!(
            f,
            "{rate} a second {pace}, {environments} environments, seed {seed}: {:.2} % of the neighbour's requests \
             answered 429; the relay {:.2} a second, {:.0} % of the rest and {:.0} % of its cap, {} answered 429",
            100.0 * self.throttled_share(),
            self.relay_rate(),
            100.0 * self.use_of_rest(),
            100.0 * self.use_of_cap(),
            self.relay_throttled,
        )?;
        if environments > 1 {
            write!(f, ", least share {:.0} %", 100.0 * self.least_share())?;
        }
        if let Some(at) = self.at_cap {
            write!(f, ", 90 % of the cap after {} s", at.as_secs())?;
        }
        if let Some(violation) = &self.violation {
            write!(f, "\n{violation}")?;
        }
        Ok(())
    }
}

/// Drains a backlog beside a neighbour.
#[must_use]
pub fn neighbour(scenario: Scenario) -> Neighbour {
    let mut result = Neighbour {
        scenario,
        requests: 0,
        throttled: 0,
        relay: Vec::new(),
        relay_throttled: 0,
        at_cap: None,
        violation: None,
    };
    if let Some(violation) = virtual_time::run(scenario.seed, simulate(&mut result)) {
        result.violation = Some(violation);
    }
    result
}

#[expect(clippy::cast_precision_loss, reason = "far less than 2^52 requests")]
async fn simulate(result: &mut Neighbour) {
    let Scenario { rate, poisson, environments, seed } = result.scenario;
    let mut rng = Rng::with_seed(seed);
    // More than can be drained: three calls for each.
    let conversations = if environments == 0 { 1 } else { 1_500 };
    let plan = Plan::backlog(&mut rng, conversations, conversations);
    let sim = Simulation::new(rng.fork(), plan, Keep::Nothing);
    let offset = Duration::from_secs_f64(rng.f64());
    sim.state().gladly.shared = Some(SharedQuota::new(offset));
    let function = Arc::new(Function::new(Arc::clone(&sim)));

    operator::arrive(Arc::clone(&sim)).await;
    sleep(START.saturating_sub(sim.elapsed())).await;
    let began = sim.elapsed();
    let mut tasks: Vec<_> = (0..environments)
        .map(|_| spawn_local(mapping::poll(Arc::clone(&sim), Arc::clone(&function))))
        .collect();
    if rate > 0.0 {
        tasks.push(spawn_local(send(Arc::clone(&sim), rng, rate, poisson)));
    }
    sleep(SETTLING + COUNTED).await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);

    let mut state = sim.state();
    result.violation = state.journal.violation.take();
    let Some(quota) = state.gladly.shared.take() else { return };
    result.relay = vec![0; environments];
    for request in quota.requests.iter().filter(|request| request.at >= began + SETTLING) {
        match request.caller {
            Caller::Neighbour => {
                result.requests += 1;
                result.throttled += usize::from(!request.accepted);
            }
            Caller::Environment(_) if !request.accepted => result.relay_throttled += 1,
            Caller::Environment(number) => {
                let number = usize::try_from(number).unwrap_or_default();
                if let Some(count) = result.relay.get_mut(number) {
                    *count += 1;
                }
            }
        }
    }
    let accepted = quota.requests.iter().filter(|request| request.accepted);
    let times: Vec<_> = accepted
        .filter(|request| request.caller != Caller::Neighbour)
        .map(|request| request.at)
        .collect();
    result.at_cap = times.iter().copied().find(|end| {
        let averaged = times.iter().filter(|at| **at + AVERAGED > *end && **at <= *end);
        let wanted = 0.9 * REQUESTS_PER_SECOND * environments as f64 * AVERAGED.as_secs_f64();
        averaged.count() as f64 >= wanted
    });
    result.at_cap = result.at_cap.map(|at| at.saturating_sub(began));
}

/// The neighbour.
async fn send(sim: Arc<Simulation>, mut rng: Rng, rate: f64, poisson: bool) {
    let interval = 1.0 / rate;
    let mut next = sim.elapsed().as_secs_f64() + interval * rng.f64();
    loop {
        sleep(Duration::from_secs_f64(next).saturating_sub(sim.elapsed())).await;
        let now = sim.elapsed();
        if let Some(quota) = &mut sim.state().gladly.shared {
            quota.take(now, Caller::Neighbour);
        }
        next += if poisson { -interval * (1.0 - rng.f64()).ln() } else { interval };
    }
}
