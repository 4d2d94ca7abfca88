//! The tables, and the machine they were made on.

use std::{collections::BTreeMap, env, fmt::Write, fs, process::Command, thread};

use serde::{Deserialize, Serialize};

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

    /// What each run reached, and whether the worst of them suffices.
    fn check(self, runs: &[Measurements], figure: Figure, ours: &str) -> (String, bool) {
        let of =
            |name: &'_ str| runs.iter().map(|run| run.median(figure, name)).collect::<Vec<_>>();
        let ours = of(ours);
        let ratios = |above: Vec<f64>, below: Vec<f64>| -> Vec<f64> {
            above.iter().zip(below).map(|(above, below)| above / below).collect()
        };
        let (reached, name, most) = match self {
            Self::AtMost(most) => (ours, None, most),
            Self::Times(most, name) => (ratios(ours, of(name)), Some(name), most),
            // Compared the other way round.
            Self::LessThan(least, name) => (ratios(of(name), ours), Some(name), -least),
        };
        let met = reached.iter().all(|value| value * most.signum() <= most);
        let text = range(&reached);
        (name.map_or(text.clone(), |name| format!("{name} {text} ×")), met)
    }
}

/// A row of a table.
#[derive(Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) limits: &'static [Limit],
}

/// A table with a column for each whose figures it compares; the first is the relay's.
pub(crate) struct Table {
    pub(crate) title: &'static str,
    pub(crate) columns: &'static [&'static str],
    pub(crate) figures: &'static [Figure],
}

/// What was measured in one process: the values of a figure, by whose they are.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Measurements(BTreeMap<String, BTreeMap<String, Vec<f64>>>);

impl Measurements {
    pub(crate) fn add(&mut self, figure: Figure, whose: &str, value: f64) {
        let figure = self.0.entry(figure.name.into()).or_default();
        figure.entry(whose.into()).or_default().push(value);
    }

    fn values(&self, figure: Figure, whose: &str) -> &[f64] {
        self.0.get(figure.name).and_then(|all| all.get(whose)).map_or(&[], Vec::as_slice)
    }

    fn median(&self, figure: Figure, whose: &str) -> f64 {
        median(self.values(figure, whose))
    }
}

impl Table {
    /// The table: of each figure the median of the runs' medians, and what the worst and the best run reached.
    pub(crate) fn rows(&self, runs: &[Measurements]) -> String {
        let (ours, lines) = (self.columns[0], "---:|".repeat(self.columns.len()));
        let mut text =
            format!("| figure | {} | must reach | reached | |\n", self.columns.join(" | "));
        let _ = writeln!(text, "|---|{lines}---|---|---|");
        for figure in self.figures {
            let value = |whose: &&str| {
                let medians: Vec<_> = runs.iter().map(|run| run.median(*figure, whose)).collect();
                digits(median(&medians))
            };
            let values: Vec<_> = self.columns.iter().map(value).collect();
            let wanted: Vec<_> = figure.limits.iter().map(|limit| limit.text()).collect();
            let checked = figure.limits.iter().map(|limit| limit.check(runs, *figure, ours));
            let (reached, met): (Vec<_>, Vec<_>) = checked.unzip();
            let mark = match met.iter().all(|met| *met) {
                _ if met.is_empty() => "",
                true => "✓",
                false => "✗",
            };
            let cells = [values.join(" | "), wanted.join(", "), reached.join(", "), mark.into()];
            let _ = writeln!(text, "| {} | {} |", figure.name, cells.join(" | "));
        }
        text
    }

    /// From the lowest to the highest value of each, in all runs.
    pub(crate) fn spread(&self, runs: &[Measurements]) -> String {
        let mut text = String::new();
        for figure in self.figures {
            let all = |whose: &&'static str| -> Option<(&str, Vec<f64>)> {
                let values = runs.iter().flat_map(|run| run.values(*figure, whose)).copied();
                let values: Vec<_> = values.collect();
                (!values.is_empty()).then_some((*whose, values))
            };
            let measured: Vec<_> = self.columns.iter().filter_map(all).collect();
            let Some((_, first)) = measured.first() else { continue };
            let ranges: Vec<_> = measured
                .iter()
                .map(|(whose, values)| format!("{whose} {}", range(values)))
                .collect();
            let _ =
                writeln!(text, "- {} ({} values): {}", figure.name, first.len(), ranges.join(", "));
        }
        text
    }
}

/// The lowest and the highest of them, or their one value.
fn range(values: &[f64]) -> String {
    let low = digits(values.iter().copied().fold(f64::NAN, f64::min));
    let high = digits(values.iter().copied().fold(f64::NAN, f64::max));
    if low == high { low } else { format!("{low}–{high}") }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Three significant digits, or a dash for what was not measured.
pub(crate) fn digits(value: f64) -> String {
    if value.is_nan() {
        return "–".into();
    }
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
        "{}, `{}`: {how}; {cores} cores, {}, Linux {}; load average at the end {load}; {}; Node {}, SDK {}; {}, boto3 {}, \
         awslambdaric {}.\n",
        output("date", &["-u", "+%F"]),
        command(),
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

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table = Table {
        title: "t",
        columns: &["ours", "theirs"],
        figures: &[
            Figure { name: "few", limits: &[Limit::AtMost(2.0)] },
            Figure {
                name: "both",
                limits: &[Limit::Times(1.2, "theirs"), Limit::LessThan(0.9, "theirs")],
            },
            Figure { name: "none", limits: &[Limit::AtMost(2.0)] },
        ],
    };

    fn rows(ours: [f64; 3]) -> Vec<String> {
        let run = |ours| {
            let mut run = Measurements::default();
            run.add(TABLE.figures[0], "ours", ours);
            run.add(TABLE.figures[1], "ours", ours);
            run.add(TABLE.figures[1], "theirs", 1.0);
            run
        };
        TABLE.rows(&ours.map(run)).lines().skip(2).map(str::to_owned).collect()
    }

    #[test]
    fn a_target_is_met_when_the_worst_run_meets_it() {
        assert_eq!(
            rows([1.0, 1.0, 1.1])[..2],
            [
                "| few | 1.00 | – | ≤ 2 | 1.00–1.10 | ✓ |",
                "| both | 1.00 | 1.00 | ≤ 1.2 × theirs, theirs ≥ 0.9 × | theirs 1.00–1.10 ×, theirs 0.91–1.00 × | ✓ |",
            ]
        );
        let rows = rows([1.0, 1.0, 2.1]);
        assert!(rows[..2].iter().all(|row| row.ends_with("✗ |")), "{rows:?}");
    }

    #[test]
    fn a_target_that_was_not_measured_is_not_met() {
        assert_eq!(rows([1.0; 3])[2], "| none | – | – | ≤ 2 | – | ✗ |");
    }
}
