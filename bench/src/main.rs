//! Runs the functions beside the same job in other languages and reports what each costs: see
//! `bench/run`, which builds them all first. `bench --check FOLDER [COMMAND…]` measures nothing, but has what was built
//! for Lambda do its job: see `tools/check-arm64`.

#![expect(clippy::cast_precision_loss, reason = "far less than 2^52 of anything")]

mod cgroup;
mod extractor;
mod gladly;
mod host;
mod http;
mod ingest;
mod package;
mod process;
mod report;
mod tls;

use std::{
    env,
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::report::{Figure, Limit, Measurements, Table, machine};

/// Between these lines the sections of `RESULTS.md` are overwritten; the rest is written by hand.
const MARKS: [&str; 2] =
    ["<!-- make bench writes this -->", "<!-- end of what make bench writes -->"];

/// What `--only` can name.
const PARTS: [&str; 4] = ["ingest", "package", "extractor", "drain"];

/// How often everything is measured, and what alone.
struct Plan {
    /// Processes, each of which measures the whole table.
    runs: u32,
    rounds: u32,
    requests: u32,
    cold_starts: u32,
    only: Option<String>,
}

impl Plan {
    fn read(mut args: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut plan = Self { runs: 3, rounds: 3, requests: 3_000, cold_starts: 16, only: None };
        while let Some(arg) = args.next() {
            let count = match arg.as_str() {
                "--runs" => &mut plan.runs,
                "--rounds" => &mut plan.rounds,
                "--requests" => &mut plan.requests,
                "--cold-starts" => &mut plan.cold_starts,
                "--only" => {
                    let part = args.next().filter(|part| PARTS.contains(&part.as_str()));
                    plan.only =
                        Some(part.ok_or(format!("--only needs one of {}", PARTS.join(", ")))?);
                    continue;
                }
                _ => {
                    let known = "--runs, --rounds, --requests, --cold-starts, --only";
                    return Err(format!("{arg} is none of {known}").into());
                }
            };
            let given = args.next().and_then(|number| number.parse().ok());
            *count = given.filter(|count| *count > 0).ok_or(format!("{arg} needs a number"))?;
        }
        Ok(plan)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }

    /// Measures a table in this many processes, one after the other.
    fn run(&self, part: &str) -> Result<Vec<Measurements>, Box<dyn Error>> {
        let measure = |number| {
            eprintln!("{part}, run {number} of {}", self.runs);
            let run = Command::new(env::current_exe()?)
                .args([MEASURE, "--only", part])
                .args(["--rounds", &self.rounds.to_string()])
                .args(["--requests", &self.requests.to_string()])
                .args(["--cold-starts", &self.cold_starts.to_string()])
                .stderr(Stdio::inherit())
                .output()?;
            if !run.status.success() {
                return Err(format!("run {number} of {part} failed").into());
            }
            Ok(serde_json::from_slice(&run.stdout)?)
        };
        (1..=self.runs).map(measure).collect()
    }
}

/// Measures one table once, and prints the values for the process that starts it.
const MEASURE: &str = "--measure";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = env::args().skip(1).collect();
    let binaries = env::current_exe()?.parent().map(PathBuf::from).unwrap_or_default();
    match args.split_first() {
        Some((first, rest)) if first == "--check" => check(rest),
        Some((first, rest)) if first == MEASURE => {
            let plan = Plan::read(rest.iter().cloned())?;
            let run = if plan.wants("ingest") {
                ingest::measure(&plan, &binaries)?
            } else {
                extractor::measure(&plan, &binaries)?
            };
            Ok(serde_json::to_writer(io::stdout(), &run)?)
        }
        _ => report(&Plan::read(args.into_iter())?, &binaries),
    }
}

/// Measures what the plan wants, and overwrites its sections.
fn report(plan: &Plan, binaries: &Path) -> Result<(), Box<dyn Error>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md");
    let write = |title: &str, parts: &[&str]| -> Result<(), Box<dyn Error>> {
        let body = parts.join("\n");
        eprintln!("\n## {title}\n\n{body}");
        let text = fs::read_to_string(&page)?;
        let text = with_section(&text, title, &body).ok_or("RESULTS.md has lost its marks")?;
        Ok(fs::write(&page, text)?)
    };
    let tables = [("ingest", ingest::TABLE, INGEST), ("extractor", extractor::TABLE, EXTRACTOR)];
    for (part, table, about) in tables {
        if plan.wants(part) {
            let runs = plan.run(part)?;
            let how = format!(
                "{} runs, of {} rounds of {} requests and {} more cold starts",
                plan.runs, plan.rounds, plan.requests, plan.cold_starts
            );
            let spread = format!("Spread, over all runs:\n\n{}", table.spread(&runs));
            write(table.title, &[&table.rows(&runs), about, &spread, &machine(&how)])?;
        }
    }
    if plan.wants("package") {
        let mut run = Measurements::default();
        for (figure, file) in PACKAGE.figures.iter().zip(["ingest-fn", "extractor-fn"]) {
            run.add(*figure, PACKAGE.columns[0], package::size(&binaries.join(file))?);
        }
        write(
            PACKAGE.title,
            &[&PACKAGE.rows(&[run]), PACKAGES, &machine("built for this machine")],
        )?;
    }
    if plan.wants("drain") {
        write("Draining what was held", &[&drains(binaries)?, DRAIN, &machine("simulated")])?;
    }
    Ok(())
}

/// The text with this section between the marks, in the place of one with the same title or after the others.
fn with_section(text: &str, title: &str, body: &str) -> Option<String> {
    let (before, rest) = text.split_once(MARKS[0])?;
    let (written, after) = rest.split_once(MARKS[1])?;
    let mut sections: Vec<_> = written.split("\n## ").skip(1).map(str::trim_end).collect();
    let section = format!("{title}\n\n{}", body.trim_end());
    match sections.iter().position(|old| old.lines().next() == Some(title)) {
        Some(place) => sections[place] = &section,
        None => sections.push(&section),
    }
    let mut written = MARKS[0].to_owned();
    for section in sections {
        written.extend(["\n\n## ", section]);
    }
    Some(format!("{before}{written}\n\n{}{after}", MARKS[1]))
}

/// Runs the bootstraps of a folder under a command, of which each is an argument more: what is built for another machine
/// needs an emulator.
fn check(args: &[String]) -> Result<(), Box<dyn Error>> {
    let [folder, command @ ..] = args else { return Err("--check needs a folder".into()) };
    let started = |function: &str| {
        let bootstrap = Path::new(folder).join(function).join("bootstrap");
        let mut words = command.to_vec();
        words.push(bootstrap.display().to_string());
        (PathBuf::from(words.remove(0)), words)
    };
    let (program, args) = started("ingest-fn");
    ingest::check(program, args)?;
    eprintln!("ingest-fn: answers, queues and quarantines, in plain HTTP and over TLS");
    let (program, args) = started("extractor-fn");
    extractor::check(program, args)?;
    eprintln!("extractor-fn: forwards a batch");
    Ok(())
}

/// What the simulation reports of two backlogs.
fn drains(binaries: &Path) -> Result<String, Box<dyn Error>> {
    let simulation = binaries.join("../debug/simulation");
    let mut text = String::new();
    for events in ["10000", "100000"] {
        eprintln!("drain, {events} events");
        let run = Command::new(&simulation).args(["--drain", events]).output()?;
        let report = String::from_utf8_lossy(&run.stderr);
        if !run.status.success() {
            return Err(format!("the drain of {events} failed: {report}").into());
        }
        text.extend(report.lines().map(|line| format!("    {line}\n")));
        text.push('\n');
    }
    Ok(text)
}

const PACKAGE: Table = Table {
    title: "Packages",
    columns: &["zip"],
    figures: &[
        Figure { name: "ingest-fn, MiB", limits: &[Limit::AtMost(2.5)] },
        Figure { name: "extractor-fn, MiB", limits: &[Limit::AtMost(4.5)] },
    ],
};

const INGEST: &str = "\
A figure is the median of the runs' medians. Each run is a process of its own that measures the whole table, all taking turns; what
is reached is the worst and the best of the runs' ratios of medians, and the worst decides.

- **Cold start**: from the start of the process to its first answer at the Runtime API. All but the crates alone read the webhook keys
  from SSM on the way. With a processor's share: in a control group with 256/1769 or 512/1769 of a core and a period of 20 ms, over TLS,
  entered by a shell, whose start counts. Lambda gives the init phase more, so this is the worst case.
- **CPU**: user and system time that the kernel reports (`getrusage`) of the process once it has ended and been waited for. A warm
  request is the difference between a life of 500 requests and a longer one, divided by the requests more, which are stated below.
- **Instructions**: callgrind's count, without the kernel's: the difference between 20 requests and 220 in plain HTTP.
- **Memory**: `VmHWM` after the last request.
- **ingest-fn, Node and Python** do the whole job: they check the key over SHA-256 digests in constant time, read the event, wrap it in
  ASCII JSON, send it to SQS, write their metrics line. Node runs AWS SDK v3 bundled by esbuild, Python boto3 under awslambdaric.
- **The crates alone** are lambda_runtime and aws-sdk-sqs (`bench/src/bin/crates-alone.rs`), built by the same profile, with the
  configuration that `aws_config::load_defaults` gives: they wrap the event in the same message and send it to SQS, and nothing else.
- **The floor** is a program of the standard library alone that makes the same exchanges in plain HTTP, each by one write, and nothing
  else.

AWS answers on loopback, in plain HTTP or over TLS 1.3 with a private authority, listed after all the roots that the machine trusts, so
reading those counts.
";
const PACKAGES: &str =
    "Built for this machine; deflate at level 9, as one file named `bootstrap`.\n";
const EXTRACTOR: &str = "\
The Runtime API, SSM, SQS (10 ms), Gladly and the destination answer on loopback in plain HTTP. Gladly takes 20 ms a call in
the first three rows and no time in the others, and no quota limits the calls. Conversations have 10
items of 300 characters unless stated otherwise, and a customer each; no conversation occurs twice. The calls alone: eight
clients on plain sockets that only make the same calls in the same order, run in turn with the batches. A list
of Gladly's ends at 1,000 items; ten times that, six megabytes, is more than the processor's caches hold.
";
const DRAIN: &str = "\
In the simulation, so the minutes are simulated; the extractor is the real one, one environment at 4 requests a second. Calls
beyond the needed: names once an hour, and customers that are fetched again after ten minutes.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_replaces_its_older_one_alone() {
        let page =
            |sections: &str| format!("before\n{}\n\n{sections}\n\n{}\nafter\n", MARKS[0], MARKS[1]);
        let old = page("## one\n\n1\n\n## two\n\n2");
        let one = with_section(&old, "one", "new\n").unwrap();
        assert_eq!(one, page("## one\n\nnew\n\n## two\n\n2"));
        assert_eq!(with_section(&one, "one", "1").unwrap(), old);
        let three = with_section(&old, "three", "3").unwrap();
        assert_eq!(three, page("## one\n\n1\n\n## two\n\n2\n\n## three\n\n3"));
    }
}
