//! `make simulate`: many simulations, each from a seed, or one seed again, or a drain, alone or
//! beside a neighbour.
//!
//! Standard output is the functions' own, as on Lambda; everything else goes to standard error.

use std::{
    io::{IsTerminal as _, stderr},
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use shared::SettleWindow;
use simulation::{
    COVERAGE, Delays, Environments, Keep, LIVE_HEADER, Report, Scenario, Tally, drain, live,
    neighbour, run, sweep,
};
use tracing_subscriber::filter::LevelFilter;

const USAGE: &str = "usage: simulation [--seeds N] [--from SEED] | --seed SEED [--verbose] | --drain EVENTS [--conversations N] | --live CONVERSATIONS | --neighbour RATE [--seeds N]";
/// Lines of a failed seed's history that are shown.
const SHOWN_LINES: usize = 40;

/// The command's arguments.
#[derive(Default)]
struct Arguments {
    seeds: Option<u64>,
    from: Option<u64>,
    seed: Option<u64>,
    drain: Option<u64>,
    live: Option<u64>,
    conversations: Option<u64>,
    neighbour: Option<f64>,
    verbose: bool,
}

impl Arguments {
    fn read(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            let number = match &*word {
                "--verbose" => {
                    arguments.verbose = true;
                    continue;
                }
                "--neighbour" => {
                    let rate = words.next()?.parse().ok()?;
                    arguments.neighbour = Some(rate).filter(|rate| (0.0..10.0).contains(rate));
                    arguments.neighbour?;
                    continue;
                }
                "--seeds" => &mut arguments.seeds,
                "--from" => &mut arguments.from,
                "--seed" => &mut arguments.seed,
                "--drain" => &mut arguments.drain,
                "--live" => &mut arguments.live,
                "--conversations" => &mut arguments.conversations,
                _ => return None,
            };
            *number = Some(words.next()?.parse().ok()?);
        }
        Some(arguments)
    }
}

fn main() -> ExitCode {
    let Some(arguments) = Arguments::read(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Some(events) = arguments.drain {
        let conversations = arguments.conversations.unwrap_or(events.div_ceil(5));
        let drain = drain(events, conversations);
        eprintln!("{drain}");
        return if drain.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(conversations) = arguments.live {
        return follow(conversations);
    }
    if let Some(rate) = arguments.neighbour {
        return beside(rate, arguments.from.unwrap_or(0), arguments.seeds.unwrap_or(5));
    }
    let failed = match arguments.seed {
        Some(seed) => {
            let keep = if arguments.verbose { Keep::Shown } else { Keep::Lines };
            if arguments.verbose {
                tracing_subscriber::fmt()
                    .with_max_level(LevelFilter::INFO)
                    .with_writer(stderr)
                    .without_time()
                    .init();
            }
            let report = run(seed, keep);
            show(&report.tally, &[]);
            eprintln!("\nseed {seed} lasted {} minutes", report.lasted.as_secs() / 60);
            report.violation.is_some().then_some(report)
        }
        None => many(arguments.from.unwrap_or(0), arguments.seeds.unwrap_or(10_000)),
    };
    match failed {
        Some(report) => {
            explain(&report, arguments.verbose);
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

/// Follows the same conversations with every window, and with the default one in every environment.
fn follow(conversations: u64) -> ExitCode {
    let shipped = |settle_seconds, environments| (settle_seconds, Delays::AsShipped, environments);
    let both = [Environments::One, Environments::Two];
    let mut runs: Vec<_> = [0, 15, 60, 300, 900]
        .into_iter()
        .flat_map(|seconds| both.map(|environments| shipped(seconds, environments)))
        .collect();
    let default = SettleWindow::default().longest();
    let others = Environments::ALL.into_iter().filter(|kind| !both.contains(kind));
    runs.extend(others.map(|environments| shipped(default, environments)));
    for delays in [Delays::CloseLikeOthers, Delays::MessagesFirst] {
        runs.extend(both.map(|environments| (default, delays, environments)));
    }
    eprintln!("{conversations} conversations, each with every window X:\n\n{LIVE_HEADER}");
    let mut code = ExitCode::SUCCESS;
    for (settle_seconds, delays, environments) in runs {
        let live = live(conversations, settle_seconds, delays, environments);
        eprintln!("{live}");
        if let Some(violation) = &live.violation {
            eprintln!("{violation}");
            code = ExitCode::FAILURE;
        }
    }
    code
}

/// Drains beside a neighbour, which is evenly paced and then at random.
fn beside(rate: f64, from: u64, seeds: u64) -> ExitCode {
    let mut violated = false;
    for poisson in [false, true] {
        for environments in 0..=2 {
            for seed in from..from.saturating_add(seeds) {
                let result = neighbour(Scenario { rate, poisson, environments, seed });
                eprintln!("{result}");
                violated |= result.violation.is_some();
            }
        }
    }
    if violated { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn many(from: u64, seeds: u64) -> Option<Report> {
    let (done, began) = (AtomicU64::new(0), Instant::now());
    let (tally, failed) = sweep(from..from.saturating_add(seeds), |_| {
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if stderr().is_terminal() || done.is_multiple_of(1_000) {
            let end = if stderr().is_terminal() { '\r' } else { '\n' };
            eprint!("{done} of {seeds} seeds, {} s{end}", began.elapsed().as_secs());
        }
    });
    show(&tally, &COVERAGE);
    let done = done.into_inner();
    eprintln!("\nevery invariant held in {done} seeds, in {} s", began.elapsed().as_secs());
    // Run the seed a second time: the first run keeps no history.
    failed.map(|report| run(report.seed, Keep::Lines))
}

fn show(tally: &Tally, wanted: &[&str]) {
    for (what, times) in tally.iter() {
        eprintln!("{times:>10}  {what}");
    }
    for what in wanted.iter().filter(|what| tally.of(what) == 0) {
        eprintln!("     never  {what}");
    }
}

fn explain(report: &Report, shown: bool) {
    let seed = report.seed;
    if !shown {
        eprintln!("\nThe end of seed {seed}:");
        let first = report.history.len().saturating_sub(SHOWN_LINES);
        report.history[first..].iter().for_each(|line| eprintln!("{line}"));
    }
    match &report.violation {
        Some(violation) => {
            eprintln!(
                "\nSeed {seed} violates an invariant: {}.\n  {}",
                violation.invariant, violation.how
            );
        }
        None => eprintln!("\nSeed {seed} failed only once: it depends on more than its seed."),
    }
    eprintln!("Run it again with: make simulate SEED={seed}");
}
