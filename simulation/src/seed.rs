//! One world from its beginning to its end.

use std::{
    cell::RefCell,
    panic,
    sync::{Arc, Once},
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    runtime::Builder,
    task::{LocalSet, spawn_local},
    time::{Instant, sleep},
};

use crate::{
    eventbridge,
    function::Function,
    history::{History, Keep, Tally},
    invariant::{self, Violation},
    mapping, operator,
    plan::Plan,
    world::World,
};

/// How long the backlog may take to drain: a record may wait for an hour and a fifth, the breaker
/// for one, a crashed batch for half of one, each more than once.
const DRAIN_LIMIT: Duration = Duration::from_hours(12);
/// How often the world is checked for its end.
const CHECK_INTERVAL: Duration = Duration::from_mins(1);

thread_local! {
    /// Where this thread panicked.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What became of a seed.
#[derive(Debug)]
pub struct Report {
    /// Its number.
    pub seed: u64,
    /// The first invariant that did not hold.
    pub violation: Option<Violation>,
    /// How often each thing happened.
    pub tally: Tally,
    /// What happened, if that was asked for.
    pub history: Vec<String>,
    /// How long the world lasted on its own clock.
    pub lasted: Duration,
}

/// Runs a seed.
#[must_use]
pub fn run(seed: u64, keep: Keep) -> Report {
    watch_for_panics();
    PANIC.take();
    // The extractor and the SDK draw from the thread's own dice.
    fastrand::seed(seed);
    let mut report = Report {
        seed,
        violation: None,
        tally: Tally::default(),
        history: Vec::new(),
        lasted: Duration::ZERO,
    };
    match Builder::new_current_thread().enable_time().start_paused(true).build() {
        Ok(runtime) => {
            LocalSet::new().block_on(&runtime, simulate(seed, keep, &mut report));
        }
        Err(err) => {
            report.violation =
                Some(Violation { invariant: invariant::SOUND, how: format!("no runtime: {err}") });
        }
    }
    report
}

async fn simulate(seed: u64, keep: Keep, report: &mut Report) {
    let mut rng = Rng::with_seed(seed);
    let plan = Plan::draw(&mut rng);
    let world = World::new(rng, plan, keep);
    let began = Instant::now();
    world.note(|| format!("{:?}", world.plan));
    let function = Arc::new(Function::new(Arc::clone(&world)));
    let both = || (Arc::clone(&world), Arc::clone(&function));
    let (arrivals, first, second) = (Arc::clone(&world), both(), both());
    let (schedule, changes, operator) = (both(), both(), both());
    let tasks = [
        spawn_local(operator::arrive(arrivals)),
        spawn_local(mapping::poll(first.0, first.1)),
        spawn_local(mapping::poll(second.0, second.1)),
        spawn_local(eventbridge::schedule(schedule.0, schedule.1)),
        spawn_local(eventbridge::changes(changes.0, changes.1)),
        spawn_local(operator::operate(operator.0, operator.1)),
    ];

    let limit = world.plan.calm + DRAIN_LIMIT;
    loop {
        sleep(CHECK_INTERVAL).await;
        if let Some(panic) = PANIC.take() {
            world.violate(invariant::SOUND, || panic);
        }
        if world.state().journal.violation.is_some() {
            break;
        }
        if world.elapsed() > world.plan.calm + CHECK_INTERVAL && world.is_drained() {
            world.check_end();
            break;
        }
        if world.elapsed() > limit {
            world.has_not_drained(DRAIN_LIMIT);
            break;
        }
    }
    for task in tasks {
        task.abort();
    }
    report.lasted = began.elapsed();
    let journal = &mut world.state().journal;
    report.violation = journal.violation.take();
    report.tally = std::mem::take(&mut journal.tally);
    report.tally.add("messages repeated by SQS", world.aws.state().sqs.repeated as u64);
    report.tally.add("messages moved by the redrive policy", world.aws.state().sqs.redriven as u64);
    report.tally.add("switches that came too early", world.aws.state().mapping.conflicts as u64);
    let history = std::mem::replace(&mut journal.history, History::new(keep));
    report.history = history.into_lines();
}

/// A panic inside a task ends in that task: it is noted here, wherever it was.
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
