//! `make simulate`.

fn main() {
    let seeds: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(10);
    let from: u64 = std::env::args().nth(2).and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut tally = simulation::Tally::default();
    for seed in from..from + seeds {
        let began = std::time::Instant::now();
        let keep = if seeds == 1 { simulation::Keep::Shown } else { simulation::Keep::Nothing };
        let report = simulation::run(seed, keep);
        eprintln!("{seed}: {:?} of {:?}, {:?}", began.elapsed(), report.lasted, report.violation);
        tally.merge(&report.tally);
    }
    for (what, times) in tally.iter() {
        eprintln!("{times:>9} {what}");
    }
}
