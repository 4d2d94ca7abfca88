//! Runs the functions beside the same job in other languages and tells what each costs: see
//! `bench/run`, which builds them all first.

mod host;
mod http;
mod process;
mod report;

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    host::{Host, KEY, Outcome},
    process::{Function, Process},
    report::{Figure, Samples, report},
};

/// Requests before the counted ones, in which a runtime may still be compiling.
const WARM_UP: u32 = 500;

/// How often everything is measured.
struct Plan {
    rounds: u32,
    requests: u32,
    cold_starts: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut plan = Plan { rounds: 5, requests: 5_000, cold_starts: 16 };
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        let count = match arg.as_str() {
            "--rounds" => &mut plan.rounds,
            "--requests" => &mut plan.requests,
            "--cold-starts" => &mut plan.cold_starts,
            _ => return Err(format!("{arg} is none of --rounds, --requests, --cold-starts").into()),
        };
        let given = args.next().and_then(|number| number.parse().ok());
        *count = given.filter(|count| *count > 0).ok_or(format!("{arg} needs a number"))?;
    }

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let functions = ingest_functions(root)?;
    let mut samples: Vec<Samples> = functions.iter().map(|_| Samples::default()).collect();
    for round in 0..plan.rounds + plan.cold_starts {
        for (function, samples) in functions.iter().zip(&mut samples) {
            let warm = round < plan.rounds;
            eprint!(
                "\rround {} of {}: {:<10}",
                round + 1,
                plan.rounds + plan.cold_starts,
                function.name
            );
            measure(function, &plan, warm, round == 0, samples)?;
        }
    }
    eprintln!();

    let names: Vec<&str> = functions.iter().map(|function| function.name).collect();
    let how = format!(
        "{} rounds of {} requests and {} more cold starts, the functions taking turns; medians",
        plan.rounds, plan.requests, plan.cold_starts
    );
    let figures = [
        Figure { name: "cold start, ms", of: |samples| &samples.cold_ms },
        Figure { name: "CPU per warm request, µs", of: |samples| &samples.cpu_us },
        Figure { name: "memory, high-water mark, MiB", of: |samples| &samples.memory_mib },
    ];
    let text = report(&names, &samples, &figures, &how);
    eprintln!("{text}");
    fs::write(root.join("RESULTS.md"), text)?;
    Ok(())
}

/// ingest-fn, the floor under it, and its peers.
fn ingest_functions(root: &Path) -> Result<Vec<Function>, Box<dyn Error>> {
    let binaries = env::current_exe()?.parent().map(PathBuf::from).unwrap_or_default();
    let function = |name, program, args: &[&str], directory: &str| Function {
        name,
        program,
        args: args.iter().map(ToString::to_string).collect(),
        directory: root.join(directory),
    };
    let python = root.join("../.tools/bench-python/bin/python");
    let functions = vec![
        function("ingest-fn", binaries.join("ingest-fn"), &[], "."),
        function("floor", binaries.join("floor"), &[], "."),
        function("Node", "node".into(), &["dist/index.mjs"], "peers/node"),
        function("Python", python, &["-m", "awslambdaric", "handler.handler"], "peers/python"),
    ];
    Ok(functions)
}

/// Starts a function and measures its first answer, and many more where `warm`.
fn measure(
    function: &Function,
    plan: &Plan,
    warm: bool,
    first: bool,
    samples: &mut Samples,
) -> Result<(), Box<dyn Error>> {
    let (host, api, aws) = Host::start()?;
    host.give(&event(0));
    let began = Instant::now();
    let process = Process::start(function, api, aws)?;
    let failed = |err: Box<dyn Error>| -> Box<dyn Error> {
        format!("{}: {err}; it said:{}", function.name, process.said()).into()
    };

    let outcome = host.outcome().map_err(failed)?;
    let cold = outcome.at - began;
    queued(&outcome).map_err(failed)?;
    if host.keys_reads() == 0 {
        return Err(failed("it never read the keys".into()));
    }
    samples.cold_ms.push(cold.as_secs_f64() * 1e3);
    if first && function.name != "floor" {
        keeps_the_contract(&host).map_err(failed)?;
    }
    if !warm {
        return Ok(());
    }

    let mut cpu = Duration::ZERO;
    for number in 1..=WARM_UP + plan.requests {
        if number == WARM_UP + 1 {
            cpu = process.cpu();
        }
        host.give(&event(number));
        host.outcome().and_then(|outcome| queued(&outcome)).map_err(failed)?;
    }
    let cpu = process.cpu().saturating_sub(cpu);
    samples.cpu_us.push(cpu.as_secs_f64() * 1e6 / f64::from(plan.requests));
    samples.memory_mib.push(process.memory());
    Ok(())
}

fn queued(outcome: &Outcome) -> Result<(), Box<dyn Error>> {
    told(outcome, 200, "queued", Some("events"))
}

/// A few requests whose answers tell whether a peer does the whole job.
fn keeps_the_contract(host: &Host) -> Result<(), Box<dyn Error>> {
    let with = |key: &str, body: &str| {
        let mut event = event(0);
        event["headers"]["x-api-key"] = json!(key);
        event["body"] = json!(body);
        event
    };
    let cases = [
        (with("wrong", "{}"), 401, "unauthorized", None),
        (with(KEY, r#"{"type":"PING"}"#), 200, "pong", None),
        (with(KEY, r#"{"type":"A","content":{}}"#), 200, "ignored", None),
        (with(KEY, "no JSON"), 200, "quarantined", Some("quarantine")),
        (
            with(KEY, r#"{"type":"A","content":{"conversationId":"../x"}}"#),
            200,
            "quarantined",
            Some("quarantine"),
        ),
        (
            with(KEY, "{\"type\":\"é\u{ffff}\",\"content\":{\"conversationId\":\"c\"}}"),
            200,
            "queued",
            Some("events"),
        ),
    ];
    for (event, status, word, queue) in cases {
        host.give(&event);
        told(&host.outcome()?, status, word, queue)?;
    }
    Ok(())
}

fn told(
    outcome: &Outcome,
    status: u64,
    word: &str,
    queue: Option<&str>,
) -> Result<(), Box<dyn Error>> {
    let stored = outcome.message.as_ref().map(|(queue, _)| queue.as_str());
    let body = json!({"status": word}).to_string();
    if outcome.answer["statusCode"] != status || outcome.answer["body"] != body || stored != queue {
        return Err(format!("not {word}, {queue:?}: {} and {stored:?}", outcome.answer).into());
    }
    Ok(())
}

/// A webhook of Gladly's as the HTTP API passes it on.
fn event(number: u32) -> Value {
    let body = json!({
        "id": format!("ev-{number:019}"), "type": "CONTACT/MESSAGE_RECEIVED",
        "timestamp": "2026-11-22T15:04:05.487Z",
        "initiator": {"id": "cu-0123456789abcdef123", "type": "CUSTOMER"},
        "content": {
            "channel": "EMAIL", "contactId": "co-0123456789abcdef123",
            "conversationId": format!("cv-{number:019}"), "customerId": "cu-0123456789abcdef123",
            "messageId": format!("it-{number:019}"),
            "context": {"assignee": {"inboxId": "in-0123456789abcdef123"}},
        },
    });
    json!({
        "version": "2.0", "routeKey": "POST /webhooks/gladly", "rawPath": "/webhooks/gladly",
        "rawQueryString": "",
        "headers": {
            "accept": "*/*", "content-type": "application/json", "host": "a1b2c3d4e5.execute-api.eu-west-1.amazonaws.com",
            "content-length": body.to_string().len().to_string(), "user-agent": "Gladly",
            "x-amzn-trace-id": "Root=1-00000000-000000000000000000000000", "x-api-key": KEY,
            "x-forwarded-for": "192.0.2.1", "x-forwarded-port": "443", "x-forwarded-proto": "https",
        },
        "requestContext": {
            "accountId": "123456789012", "apiId": "a1b2c3d4e5",
            "domainName": "a1b2c3d4e5.execute-api.eu-west-1.amazonaws.com", "domainPrefix": "a1b2c3d4e5",
            "http": {"method": "POST", "path": "/webhooks/gladly", "protocol": "HTTP/1.1",
                     "sourceIp": "192.0.2.1", "userAgent": "Gladly"},
            "requestId": format!("r-{number}"), "routeKey": "POST /webhooks/gladly", "stage": "$default",
            "time": "22/Nov/2026:15:04:05 +0000", "timeEpoch": 1_795_359_845_487_u64,
        },
        "body": body.to_string(), "isBase64Encoded": false,
    })
}
