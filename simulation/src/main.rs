//! `make simulate`: many worlds, each from a seed, or one of them again, or a drain.
//!
//! Standard output is the functions' own, as on Lambda; everything else goes to standard error.

use std::{
    io::{IsTerminal as _, stderr},
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use simulation::{COVERAGE, Keep, Report, Tally, drain, run, sweep};
use tracing_subscriber::filter::LevelFilter;

const USAGE: &str = "usage: simulation [--seeds N] [--from SEED] | --seed SEED [--verbose] | --drain EVENTS [--conversations N]";
/// Lines of a failed seed's history that are shown.
const SHOWN_LINES: usize = 40;

/// What the command is asked for.
#[derive(Default)]
struct Asked {
    seeds: Option<u64>,
    from: Option<u64>,
    seed: Option<u64>,
    drain: Option<u64>,
    conversations: Option<u64>,
    verbose: bool,
}

impl Asked {
    fn read(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut asked = Self::default();
        while let Some(word) = words.next() {
            let number = match &*word {
                "--verbose" => {
                    asked.verbose = true;
                    continue;
                }
                "--seeds" => &mut asked.seeds,
                "--from" => &mut asked.from,
                "--seed" => &mut asked.seed,
                "--drain" => &mut asked.drain,
                "--conversations" => &mut asked.conversations,
                _ => return None,
            };
            *number = Some(words.next()?.parse().ok()?);
        }
        Some(asked)
    }
}

fn main() -> ExitCode {
    let Some(asked) = Asked::read(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Some(events) = asked.drain {
        let conversations = asked.conversations.unwrap_or(events.div_ceil(5));
        let drain = drain(events, conversations);
        eprintln!("{drain}");
        return if drain.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let failed = match asked.seed {
        Some(seed) => {
            let keep = if asked.verbose { Keep::Shown } else { Keep::Lines };
            if asked.verbose {
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
        None => many(asked.from.unwrap_or(0), asked.seeds.unwrap_or(10_000)),
    };
    match failed {
        Some(report) => {
            explain(&report, asked.verbose);
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
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
    // What is shown of a seed is its second run: the first one keeps no history.
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
        None => eprintln!("\nSeed {seed} failed once and not again: it depends on something else."),
    }
    eprintln!("Run it again with: make simulate SEED={seed}");
}
