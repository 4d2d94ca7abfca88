//! One simulation from start to end.

use std::{
    cell::RefCell,
    panic,
    sync::{Arc, Once},
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    task::spawn_local,
    time::{Instant, sleep},
};

use crate::{
    eventbridge,
    function::Function,
    history::{History, Keep, Tally},
    invariant::{self, Violation},
    mapping, operator,
    plan::Plan,
    sim::Simulation,
    virtual_time,
};

/// How long the backlog may take to drain: a record may wait for 72 minutes, the breaker for an
/// hour, a crashed batch for half an hour, each more than once.
const DRAIN_LIMIT: Duration = Duration::from_hours(12);
/// How often to check whether the simulation is done.
const CHECK_INTERVAL: Duration = Duration::from_mins(1);

thread_local! {
    /// Where this thread panicked.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The outcome of a seed.
#[derive(Debug)]
pub struct Report {
    /// Its number.
    pub seed: u64,
    /// The first invariant that did not hold.
    pub violation: Option<Violation>,
    /// The counts of what happened.
    pub tally: Tally,
    /// The history, if it was kept.
    pub history: Vec<String>,
    /// How long the simulation lasted in virtual time.
    pub lasted: Duration,
}

/// Runs a seed.
#[must_use]
pub fn run(seed: u64, keep: Keep) -> Report {
    run_planned(seed, keep, Plan::draw)
}

/// Runs a seed in a world where this many customers are deleted and this many merged while everything else goes on:
/// old events, pauses, redrives, backfills, imports and crashes.
#[must_use]
pub fn run_erasures(seed: u64, deletions: usize, merges: usize) -> Report {
    run_planned(seed, Keep::Lines, |rng| Plan::with_erasures(rng, deletions, merges))
}

fn run_planned(seed: u64, keep: Keep, plan: impl FnOnce(&mut Rng) -> Plan) -> Report {
    watch_for_panics();
    PANIC.take();
    let mut report = Report {
        seed,
        violation: None,
        tally: Tally::default(),
        history: Vec::new(),
        lasted: Duration::ZERO,
    };
    if let Some(violation) = virtual_time::run(seed, simulate(seed, keep, plan, &mut report)) {
        report.violation = Some(violation);
    }
    report
}

async fn simulate(seed: u64, keep: Keep, plan: impl FnOnce(&mut Rng) -> Plan, report: &mut Report) {
    let mut rng = Rng::with_seed(seed);
    let plan = plan(&mut rng);
    let sim = Simulation::new(rng, plan, keep);
    let began = Instant::now();
    sim.note(|| format!("{:?}", sim.plan));
    let function = Arc::new(Function::new(Arc::clone(&sim)));
    let both = || (Arc::clone(&sim), Arc::clone(&function));
    let (arrivals, first, second) = (Arc::clone(&sim), both(), both());
    let (schedule, changes, operator) = (both(), both(), both());
    let tasks = [
        spawn_local(operator::arrive(arrivals)),
        spawn_local(mapping::poll(first.0, first.1)),
        spawn_local(mapping::poll(second.0, second.1)),
        spawn_local(eventbridge::schedule(schedule.0, schedule.1)),
        spawn_local(eventbridge::changes(changes.0, changes.1)),
        spawn_local(operator::operate(operator.0, operator.1)),
    ];

    let limit = sim.plan.calm + DRAIN_LIMIT;
    loop {
        sleep(CHECK_INTERVAL).await;
        if let Some(panic) = PANIC.take() {
            sim.violate(invariant::NO_PANIC_OR_INVALID_CALL, || panic);
        }
        if sim.state().journal.violation.is_some() {
            break;
        }
        if sim.elapsed() > sim.plan.calm + CHECK_INTERVAL && sim.is_drained() {
            sim.check_end();
            break;
        }
        if sim.elapsed() > limit {
            sim.has_not_drained(DRAIN_LIMIT);
            break;
        }
    }
    for task in tasks {
        task.abort();
    }
    report.lasted = began.elapsed();
    let journal = &mut sim.state().journal;
    report.violation = journal.violation.take();
    report.tally = std::mem::take(&mut journal.tally);
    report.tally.add("messages repeated by SQS", sim.aws.state().sqs.repeated as u64);
    report.tally.add("messages moved by the redrive policy", sim.aws.state().sqs.redriven as u64);
    report.tally.add("switches that came too early", sim.aws.state().mapping.conflicts as u64);
    let history = std::mem::replace(&mut journal.history, History::new(keep));
    report.history = history.into_lines();
}

/// A panic inside a task ends in that task: this records it wherever it was.
fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            PANIC.with_borrow_mut(|noted| {
                noted.get_or_insert_with(|| panic.to_string());
            });
            before(panic);
        }));
    });
}
