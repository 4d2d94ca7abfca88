//! Runs the functions beside the same job in other languages and reports what each costs: see
//! `bench/run`, which builds them all first. `bench --check FOLDER [COMMAND…]` measures nothing, but has what was built
//! for Lambda do its job: see `tools/check-arm64`.

#![expect(clippy::cast_precision_loss, reason = "far less than 2^52 of anything")]

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
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    ingest::Measured,
    report::{Limit, Row, digits, machine, median, spread, table},
};

/// Between these lines `RESULTS.md` is overwritten; the rest is written by hand.
const MARKS: [&str; 2] =
    ["<!-- make bench writes this -->", "<!-- end of what make bench writes -->"];

/// What `--only` can name.
const PARTS: [&str; 4] = ["ingest", "package", "extractor", "drain"];

/// How often everything is measured.
struct Plan {
    rounds: u32,
    requests: u32,
    cold_starts: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut plan = Plan { rounds: 5, requests: 5_000, cold_starts: 16 };
    let mut only = None;
    let mut args = env::args().skip(1);
    if env::args().nth(1).as_deref() == Some("--check") {
        return check(&args.skip(1).collect::<Vec<_>>());
    }
    while let Some(arg) = args.next() {
        let count = match arg.as_str() {
            "--rounds" => &mut plan.rounds,
            "--requests" => &mut plan.requests,
            "--cold-starts" => &mut plan.cold_starts,
            "--only" => {
                only = args.next().filter(|part| PARTS.contains(&part.as_str()));
                only.as_ref().ok_or(format!("--only needs one of {}", PARTS.join(", ")))?;
                continue;
            }
            _ => {
                let known = "--rounds, --requests, --cold-starts, --only";
                return Err(format!("{arg} is none of {known}").into());
            }
        };
        let given = args.next().and_then(|number| number.parse().ok());
        *count = given.filter(|count| *count > 0).ok_or(format!("{arg} needs a number"))?;
    }

    let binaries = env::current_exe()?.parent().map(PathBuf::from).unwrap_or_default();
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let mut text = String::new();
    if wanted("ingest") {
        let measured = ingest::measure(&plan, &binaries)?;
        let rows = ingest_rows(&measured);
        let names = ["ingest-fn", "floor", "Node", "Python"];
        let limit = limit_of_cpu(&measured);
        let spread = spread(&rows);
        let body = [table(&names, &rows), INGEST.to_owned(), limit, "Spread:\n".into(), spread];
        text += &section("ingest-fn", &body);
    }
    if wanted("package") {
        let rows = [
            single(
                "ingest-fn, MiB",
                package::size(&binaries.join("ingest-fn"))?,
                &[Limit::AtMost(2.5)],
            ),
            single(
                "extractor-fn, MiB",
                package::size(&binaries.join("extractor-fn"))?,
                &[Limit::AtMost(4.5)],
            ),
        ];
        text += &section("Packages", &[table(&["zip"], &rows), PACKAGES.to_owned()]);
    }
    if wanted("extractor") {
        text += &section("extractor-fn", &extractor_tables(&plan, &binaries)?);
    }
    if wanted("drain") {
        text += &section("Draining what was held", &[drains(&binaries)?, DRAIN.to_owned()]);
    }
    let how = format!(
        "{} rounds of {} requests and {} more cold starts, the functions taking turns; medians",
        plan.rounds, plan.requests, plan.cold_starts
    );
    text += &machine(&how);
    eprintln!("\n{text}");
    if only.is_none() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md");
        let old = fs::read_to_string(&page)?;
        let parts = old.split_once(MARKS[0]).zip(old.split_once(MARKS[1]));
        let ((before, _), (_, after)) = parts.ok_or("RESULTS.md has lost its marks")?;
        fs::write(page, format!("{before}{}\n\n{text}\n{}{after}", MARKS[0], MARKS[1]))?;
    }
    Ok(())
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

fn section(title: &str, parts: &[String]) -> String {
    format!("## {title}\n\n{}\n", parts.join("\n"))
}

fn single(figure: &'static str, value: f64, limits: &[Limit]) -> Row {
    Row { figure, values: vec![("zip", vec![value])], limits: limits.to_vec() }
}

fn ingest_rows(all: &[Measured]) -> Vec<Row> {
    let row = |figure, of: fn(&Measured) -> &Vec<f64>, limits: &[Limit]| Row {
        figure,
        values: all.iter().map(|measured| (measured.name, of(measured).clone())).collect(),
        limits: limits.to_vec(),
    };
    let (times, less) = (Limit::Times, Limit::LessThan);
    vec![
        row(
            "cold start, ms",
            |of| &of.plain.cold_ms,
            &[times(2.5, "floor"), less(20.0, "Node"), less(30.0, "Python")],
        ),
        row(
            "cold start over TLS, ms",
            |of| &of.tls.cold_ms,
            &[less(10.0, "Node"), less(10.0, "Python")],
        ),
        row(
            "CPU per warm request, µs",
            |of| &of.plain.cpu_us,
            &[times(3.5, "floor"), less(8.0, "Node"), less(8.0, "Python")],
        ),
        row("the same over TLS, µs", |of| &of.tls.cpu_us, &[]),
        row(
            "memory, high-water mark, MiB",
            |of| &of.plain.memory_mib,
            &[Limit::AtMost(12.0), less(5.0, "Node")],
        ),
        row("the same over TLS, MiB", |of| &of.tls.memory_mib, &[]),
    ]
}

/// How much less CPU than the peers a request could take at the most.
fn limit_of_cpu(all: &[Measured]) -> String {
    let cpu = |name: &str| {
        let of = all.iter().find(|measured| measured.name == name);
        of.map_or(f64::NAN, |measured| median(&measured.plain.cpu_us))
    };
    let times = |name| digits(cpu(name) / cpu("floor"));
    format!(
        "The limit of CPU per warm request: Node takes {} × as much as the floor, Python {} ×. Whatever makes these exchanges \
         over sockets stays under that.\n",
        times("Node"),
        times("Python")
    )
}

fn extractor_tables(plan: &Plan, binaries: &Path) -> Result<[String; 2], Box<dyn Error>> {
    use extractor::{backfill, backlog, batch_of_500, snapshot, spread};

    let rounds = u64::from(plan.rounds) * 4;
    let (cost, alone) = batch_of_500(binaries, rounds)?;
    let one = |value| vec![("extractor-fn", vec![value])];
    let row = |figure, values, limits: &[Limit]| Row { figure, values, limits: limits.to_vec() };
    let sizes = [100, 1_000, 10_000];
    let [small, thousand, large] =
        sizes.map(|items| snapshot(binaries, items, 100_000 / items as u64));
    let (small, thousand, large) = (small?, thousand?, large?);
    let (few, many) = (spread(binaries, 50, rounds)?, spread(binaries, 500, rounds)?);
    let (first, second) = backlog(binaries, 20)?;
    let (little, million) = (backfill(binaries, 100_000)?, backfill(binaries, 1_000_000)?);
    let wall = vec![("extractor-fn", vec![cost.wall_ms]), ("beside it", vec![alone])];
    let pair = |ours, other| vec![("extractor-fn", vec![ours]), ("beside it", vec![other])];
    let linear = Limit::Times(10.0, "beside it");
    let rows = [
        row(
            "batch of 500 events on 100 conversations: CPU, ms",
            one(cost.cpu_ms),
            &[Limit::AtMost(150.0)],
        ),
        row("the same: memory, MiB", one(cost.memory_mib), &[Limit::AtMost(48.0)]),
        row(
            "the same: wall time, ms; beside it: its calls alone",
            wall,
            &[Limit::Times(1.3, "beside it")],
        ),
        row(
            "snapshot of 1,000 items: CPU, ms; beside it: of 100",
            pair(thousand.cpu_ms, small.cpu_ms),
            &[Limit::AtMost(10.0), linear],
        ),
        row(
            "snapshot of 10,000 items: CPU, ms; beside it: of 1,000",
            pair(large.cpu_ms, thousand.cpu_ms),
            &[],
        ),
        row("the same: memory, MiB", pair(large.memory_mib, thousand.memory_mib), &[linear]),
        row(
            "500 events on 500 conversations: CPU, ms; beside it: on 50",
            pair(many.cpu_ms, few.cpu_ms),
            &[linear],
        ),
        row("the same: memory, MiB", pair(many.memory_mib, few.memory_mib), &[linear]),
        row(
            "100,000 events in one environment: CPU per batch, ms; beside it: 10,000",
            pair(second.cpu_ms, first.cpu_ms),
            &[Limit::Times(1.1, "beside it")],
        ),
        row(
            "the same: memory, MiB",
            pair(second.memory_mib, first.memory_mib),
            &[Limit::AtMost(48.0)],
        ),
        row(
            "backfill of 1,000,000 events: memory, MiB; beside it: of 100,000",
            pair(million.memory_mib, little.memory_mib),
            &[Limit::AtMost(48.0)],
        ),
        row(
            "the same: CPU per event, µs",
            pair(million.cpu_us, little.cpu_us),
            &[Limit::Times(1.1, "beside it")],
        ),
        row("the same: events per second", pair(1e6 / million.seconds, 1e5 / little.seconds), &[]),
    ];
    let seconds = digits(million.seconds);
    let report = format!(
        "{EXTRACTOR} The backfill of a million took {seconds} s in {} invocations.\n",
        million.invocations
    );
    Ok([table(&["extractor-fn", "beside it"], &rows), report])
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

const INGEST: &str = "\
Cold start: from the start of the process to its first answer at the Runtime API, the keys read from SSM on the way.
CPU: user and system time of the process, its threads and children, as the kernel counts it. Memory: `VmHWM` after the
warm requests. AWS answers on loopback, in plain HTTP or over TLS 1.3 with a private authority, listed after all the
roots that the machine trusts, so reading those counts. Every function does the whole job: it checks the key over
SHA-256 digests in constant time, reads the event, wraps it in ASCII JSON, sends it to SQS, writes its metrics line; Node
runs AWS SDK v3 bundled by esbuild, Python boto3 under awslambdaric. The floor is a program of the standard library alone
that does the same exchanges in plain HTTP and nothing else.
";
const PACKAGES: &str =
    "Built for this machine; deflate at level 9, as one file named `bootstrap`.\n";
const EXTRACTOR: &str = "\
The Runtime API, SSM, SQS (10 ms), Gladly and the destination answer on loopback in plain HTTP. Gladly takes 20 ms a call in
the first three rows and no time in the others, and no quota limits the calls. Conversations have 10
items of 300 characters unless stated otherwise, and a customer each; no conversation occurs twice. The calls alone: eight
clients on plain sockets that only make the same calls in the same order, run in turn with the batches. A list
of Gladly's ends at 1,000 items; ten times that, six megabytes, is more than the processor's caches hold.";
const DRAIN: &str = "\
In the simulation, so the minutes are simulated; the extractor is the real one, one environment at 4 requests a second. Calls
beyond the needed: names once an hour, and customers that are fetched again after ten minutes.
";
