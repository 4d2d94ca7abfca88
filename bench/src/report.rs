//! The table, and the machine it was made on.

use std::{fmt::Write, fs, process::Command, thread};

/// What was measured of one function, a value a process.
#[derive(Default)]
pub(crate) struct Samples {
    pub(crate) cold_ms: Vec<f64>,
    pub(crate) cpu_us: Vec<f64>,
    pub(crate) memory_mib: Vec<f64>,
}

/// A row of the table.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) of: fn(&Samples) -> &Vec<f64>,
}

/// `RESULTS.md`. The first function is ours, the second the floor, the others are peers.
pub(crate) fn report(names: &[&str], samples: &[Samples], figures: &[Figure], how: &str) -> String {
    let mut text = "# Benchmark\n\n`make bench` wrote this page.\n\n| figure |".to_owned();
    let ours = names.first().copied().unwrap_or_default();
    for name in names {
        let _ = write!(text, " {name} |");
    }
    for name in &names[1..] {
        let ratio = if *name == "floor" {
            format!("{ours} ÷ {name}")
        } else {
            format!("{name} ÷ {ours}")
        };
        let _ = write!(text, " {ratio} |");
    }
    let _ = writeln!(text, "\n|---|{}", "---:|".repeat(names.len() * 2 - 1));
    for figure in figures {
        let medians: Vec<f64> = samples.iter().map(|all| median((figure.of)(all))).collect();
        let _ = write!(text, "| {} |", figure.name);
        for median in &medians {
            let _ = write!(text, " {} |", digits(*median));
        }
        for (name, median) in names.iter().zip(&medians).skip(1) {
            let floor = *name == "floor";
            let ratio = if floor { medians[0] / median } else { median / medians[0] };
            let _ = write!(text, " {} |", digits(ratio));
        }
        text.push('\n');
    }
    let _ = writeln!(text, "\nSpread (lowest to highest):\n");
    for figure in figures {
        let spread = names.iter().zip(samples).map(|(name, all)| {
            let all = (figure.of)(all);
            let (low, high) = (
                all.iter().copied().fold(f64::MAX, f64::min),
                all.iter().copied().fold(0.0, f64::max),
            );
            format!("{name} {}–{}", digits(low), digits(high))
        });
        let _ = writeln!(text, "- {}: {}", figure.name, spread.collect::<Vec<_>>().join(", "));
    }
    let _ = writeln!(text, "\n{HOW}\nThis run: {how}.\n\n{}", machine());
    text
}

const HOW: &str = "\
Cold start: from the start of the process to its first answer at the Runtime API, the keys read from SSM on the way.
CPU: user and system time of the process, its threads and children, as the kernel counts it. Memory: `VmHWM` after the
warm requests. AWS and the Runtime API answer on loopback in plain HTTP. Every function does the whole job: it checks
the key over SHA-256 digests in constant time, reads the event, wraps it in ASCII JSON, sends it to SQS, writes its
metrics line; Node runs AWS SDK v3 bundled by esbuild, Python boto3 under awslambdaric. The floor does the same
exchanges and nothing else.
";

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Three digits that count.
fn digits(value: f64) -> String {
    let places = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.places$}")
}

fn machine() -> String {
    let line = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split(':').nth(1).unwrap_or("unknown").trim().to_owned()
    };
    let told = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    let root = env!("CARGO_MANIFEST_DIR");
    let version = |file: &str, name: &str| {
        let text = fs::read_to_string(format!("{root}/{file}")).unwrap_or_default();
        let line = text.lines().find(|line| line.trim().starts_with(name)).unwrap_or_default();
        let version = line.trim().trim_start_matches(name).trim_end_matches(',').replace('"', "");
        version.trim_start_matches([':', '=', ' ']).to_owned()
    };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let cores = thread::available_parallelism().map_or(0, usize::from);
    format!(
        "| | |\n|---|---|\n\
         | command | `make bench` |\n| date | {} |\n| machine | {cores} cores, {}, Linux {} |\n\
         | load average at the end | {load} |\n\
         | Rust | {} |\n| Node | {}, SDK {} |\n| Python | {}, boto3 {}, awslambdaric {} |",
        told("date", &["-u", "+%F"]),
        line("/proc/cpuinfo", "model name"),
        told("uname", &["-r"]),
        told("rustc", &["--version"]),
        told("node", &["--version"]),
        version("peers/node/package.json", "\"@aws-sdk/client-sqs\""),
        told(&format!("{root}/../.tools/bench-python/bin/python"), &["--version"]),
        version("peers/python/requirements.txt", "boto3="),
        version("peers/python/requirements.txt", "awslambdaric="),
    )
}
