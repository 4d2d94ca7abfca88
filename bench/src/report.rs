//! The tables, and the machine they were made on.

use std::{env, fmt::Write, fs, process::Command, thread};

/// What was measured of one function, a value a process.
#[derive(Default)]
pub(crate) struct Samples {
    pub(crate) cold_ms: Vec<f64>,
    pub(crate) cpu_us: Vec<f64>,
    pub(crate) memory_mib: Vec<f64>,
}

/// What a figure must reach.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// At most this much.
    AtMost(f64),
    /// At most this multiple of the other one.
    Times(f64, &'static str),
    /// The other one has at least this multiple.
    LessThan(f64, &'static str),
}

impl Limit {
    fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("≤ {most}"),
            Self::Times(most, name) => format!("≤ {most} × {name}"),
            Self::LessThan(least, name) => format!("{name} ≥ {least} ×"),
        }
    }

    /// What was reached, and whether it suffices.
    fn check(self, ours: f64, other: impl Fn(&str) -> f64) -> (String, bool) {
        match self {
            Self::AtMost(most) => (digits(ours), ours <= most),
            Self::Times(most, name) => {
                let ratio = ours / other(name);
                (format!("{} ×", digits(ratio)), ratio <= most)
            }
            Self::LessThan(least, name) => {
                let ratio = other(name) / ours;
                (format!("{name} {} ×", digits(ratio)), ratio >= least)
            }
        }
    }
}

/// A row: a figure by the names of what it was measured of, the relay's first.
pub(crate) struct Row {
    pub(crate) figure: &'static str,
    pub(crate) values: Vec<(&'static str, Vec<f64>)>,
    pub(crate) limits: Vec<Limit>,
}

/// A table with a column for each name.
pub(crate) fn table(names: &[&str], rows: &[Row]) -> String {
    let mut text = format!("| figure | {} | must reach | reached | |\n", names.join(" | "));
    let _ = writeln!(text, "|---|{}---|---|---|", "---:|".repeat(names.len()));
    for row in rows {
        let value = |name: &str| {
            let of = row.values.iter().find(|(whose, _)| *whose == name);
            of.map_or(f64::NAN, |(_, values)| median(values))
        };
        let shown = |name: &&str| {
            let value = value(name);
            if value.is_nan() { "–".to_owned() } else { digits(value) }
        };
        let values: Vec<_> = names.iter().map(shown).collect();
        let ours = value(names[0]);
        let checked: Vec<_> = row.limits.iter().map(|limit| limit.check(ours, value)).collect();
        let wanted: Vec<_> = row.limits.iter().map(|limit| limit.text()).collect();
        let reached: Vec<_> = checked.iter().map(|(reached, _)| reached.as_str()).collect();
        let met = if checked.iter().all(|(_, met)| *met) { "✓" } else { "✗" };
        let met = if checked.is_empty() { "" } else { met };
        let (values, wanted, reached) = (values.join(" | "), wanted.join(", "), reached.join(", "));
        let _ = writeln!(text, "| {} | {values} | {wanted} | {reached} | {met} |", row.figure);
    }
    text
}

/// From the lowest to the highest value of each.
pub(crate) fn spread(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows.iter().filter(|row| row.values.iter().any(|(_, values)| values.len() > 1)) {
        let spread =
            row.values.iter().filter(|(_, values)| !values.is_empty()).map(|(name, values)| {
                let low = values.iter().copied().fold(f64::MAX, f64::min);
                let high = values.iter().copied().fold(0.0, f64::max);
                format!("{name} {}–{}", digits(low), digits(high))
            });
        let _ = writeln!(text, "- {}: {}", row.figure, spread.collect::<Vec<_>>().join(", "));
    }
    text
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Three significant digits.
pub(crate) fn digits(value: f64) -> String {
    let places = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.places$}")
}

/// The command of the run.
fn command() -> String {
    let options: Vec<_> = env::args().skip(1).collect();
    if options.is_empty() {
        "make bench".into()
    } else {
        format!("bench/run {}", options.join(" "))
    }
}

/// What the run was made with.
pub(crate) fn machine(how: &str) -> String {
    let line = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split(':').nth(1).unwrap_or("unknown").trim().to_owned()
    };
    let output = |program: &str, args: &[&str]| {
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
         | command | `{}` |\n| date | {} |\n| machine | {cores} cores, {}, Linux {} |\n\
         | load average at the end | {load} |\n| how often | {how} |\n\
         | Rust | {} |\n| Node | {}, SDK {} |\n| Python | {}, boto3 {}, awslambdaric {} |\n",
        command(),
        output("date", &["-u", "+%F"]),
        line("/proc/cpuinfo", "model name"),
        output("uname", &["-r"]),
        output("rustc", &["--version"]),
        output("node", &["--version"]),
        version("peers/node/package.json", "\"@aws-sdk/client-sqs\""),
        output(&format!("{root}/../.tools/bench-python/bin/python"), &["--version"]),
        version("peers/python/requirements.txt", "boto3="),
        version("peers/python/requirements.txt", "awslambdaric="),
    )
}
