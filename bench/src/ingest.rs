//! ingest-fn beside the same job in other languages, beside the crates that it is made of, and above the least that the job
//! can cost.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    Plan,
    cgroup::Group,
    host::{Host, Outcome},
    process::{Function, Process},
    report::{
        Figure,
        Limit::{AtMost, LessThan, Times},
        Measurements, Table,
    },
    tls::Authority,
};

/// Requests before the counted ones, in which a runtime may still be compiling.
const WARM_UP: u32 = 500;
/// Requests under callgrind, which is fifty times slower and exact, before the counted ones and counted.
const CALLGRIND_REQUESTS: [u32; 2] = [20, 200];
/// Starts with a share of a processor, in a run.
const SLOW_STARTS: u32 = 8;
/// How long a function may take over its first answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
const KEY: &str = "bench-key-0123456789-0123456789-0123456789";
const KEYS_PARAMETER: &str = "/bench/webhook-keys";
/// The variable by which OpenSSL and rustls are given other root certificates.
const ROOTS: &str = "SSL_CERT_FILE";

const CRATES: &str = "crates alone";
const FLOOR: &str = "floor";

const COLD: Figure =
    Figure { name: "cold start, ms", limits: &[LessThan(20.0, "Node"), LessThan(30.0, "Python")] };
const COLD_TLS: Figure = Figure {
    name: "cold start over TLS, ms",
    limits: &[Times(1.2, CRATES), LessThan(20.0, "Node"), LessThan(30.0, "Python")],
};
/// By memory, in MB.
const SLOW: [(u32, Figure); 2] = [
    (
        256,
        Figure { name: "the same with the processor share of 256 MB, ms", limits: &[AtMost(60.0)] },
    ),
    (512, Figure { name: "the same with the processor share of 512 MB, ms", limits: &[] }),
];
const COLD_CPU: Figure = Figure { name: "CPU of a cold start over TLS, ms", limits: &[] };
const CPU: Figure = Figure {
    name: "CPU per warm request, µs",
    limits: &[Times(1.15, CRATES), LessThan(8.0, "Node")],
};
const CPU_TLS: Figure = Figure { name: "the same over TLS, µs", ..CPU };
const MEMORY: Figure = Figure { name: "peak memory, MiB", limits: &[AtMost(12.0)] };
const MEMORY_TLS: Figure = Figure { name: "the same over TLS, MiB", ..MEMORY };
const INSTRUCTIONS: Figure =
    Figure { name: "instructions per warm request, thousand", limits: &[] };
const COLD_INSTRUCTIONS: Figure =
    Figure { name: "instructions of a cold start over TLS, million", limits: &[] };

pub(crate) const TABLE: Table = Table {
    title: "ingest-fn",
    columns: &["ingest-fn", CRATES, FLOOR, "Node", "Python"],
    figures: &[
        COLD,
        COLD_TLS,
        SLOW[0].1,
        SLOW[1].1,
        COLD_CPU,
        CPU,
        CPU_TLS,
        MEMORY,
        MEMORY_TLS,
        INSTRUCTIONS,
        COLD_INSTRUCTIONS,
    ],
};

/// What one environment cost.
struct Cost {
    cold_ms: f64,
    memory_mib: f64,
    /// Of its whole life.
    cpu_us: f64,
}

/// Measures ingest-fn and all that is beside it, which take turns.
pub(crate) fn measure(plan: &Plan, binaries: &Path) -> Result<Measurements, Box<dyn Error>> {
    let authority = Authority::new()?;
    let functions = functions(binaries, &authority);
    for function in functions.iter().filter(|function| ![CRATES, FLOOR].contains(&function.name)) {
        live(function, None, 0, true)?;
    }
    let mut run = Measurements::default();
    let rounds = plan.rounds + plan.cold_starts;
    for round in 0..rounds {
        for function in &functions {
            eprint!("\ringest, round {} of {rounds}: {:<12}", round + 1, function.name);
            let secure = (Some(&authority), COLD_TLS, CPU_TLS, MEMORY_TLS);
            let mut wires = vec![(None, COLD, CPU, MEMORY)];
            wires.extend((function.name != FLOOR).then_some(secure));
            for (authority, cold, cpu, memory) in wires {
                let start = live(function, authority, 0, false)?;
                run.add(cold, function.name, start.cold_ms);
                if authority.is_some() {
                    run.add(COLD_CPU, function.name, start.cpu_us / 1e3);
                }
                if round < plan.rounds {
                    let short = live(function, authority, WARM_UP, false)?;
                    let long = live(function, authority, WARM_UP + plan.requests, false)?;
                    let each = (long.cpu_us - short.cpu_us) / f64::from(plan.requests);
                    run.add(cpu, function.name, each);
                    run.add(memory, function.name, long.memory_mib);
                }
            }
        }
    }
    slow_starts(&functions, &authority, &mut run)?;
    instructions(&functions, &authority, &mut run)?;
    eprintln!();
    Ok(run)
}

/// Cold starts with the share of a processor that Lambda gives, if control groups can be made here.
fn slow_starts(
    functions: &[Function],
    authority: &Authority,
    run: &mut Measurements,
) -> Result<(), Box<dyn Error>> {
    for (memory, figure) in SLOW {
        if let Err(err) = Group::new(memory) {
            eprintln!("\nno start with a share of a processor: no control group: {err}");
            return Ok(());
        }
        for round in 0..SLOW_STARTS {
            for function in functions.iter().filter(|function| function.name != FLOOR) {
                eprint!(
                    "\ringest, {memory} MB, {} of {SLOW_STARTS}: {:<12}",
                    round + 1,
                    function.name
                );
                let group = Group::new(memory)?;
                let start = live(&group.around(function), Some(authority), 0, false)?;
                run.add(figure, function.name, start.cold_ms);
            }
        }
    }
    Ok(())
}

/// Instructions of the process itself, which callgrind counts, if it is installed. It cannot follow Node's compiler.
fn instructions(
    functions: &[Function],
    authority: &Authority,
    run: &mut Measurements,
) -> Result<(), Box<dyn Error>> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("\nno instructions: valgrind is not installed");
        return Ok(());
    }
    let file = env::temp_dir().join(format!("gladly-relay-bench-{}-callgrind", process::id()));
    let count = |function: &Function, tls: Option<&Authority>, requests| {
        let out = format!("--callgrind-out-file={}", file.display());
        live(&function.under(&["valgrind", "--tool=callgrind", &out]), tls, requests, false)?;
        let counted = fs::read_to_string(&file)?;
        fs::remove_file(&file)?;
        let total = counted.lines().find_map(|line| line.strip_prefix("totals: "));
        Ok::<f64, Box<dyn Error>>(total.ok_or("callgrind counted nothing")?.parse()?)
    };
    let native = functions.iter().filter(|function| !["Node", "Python"].contains(&function.name));
    for function in native {
        eprint!("\ringest, instructions: {:<20}", function.name);
        let [before, counted] = CALLGRIND_REQUESTS;
        let short = count(function, None, before)?;
        let long = count(function, None, before + counted)?;
        run.add(INSTRUCTIONS, function.name, (long - short) / f64::from(counted) / 1e3);
        if function.name != FLOOR {
            let start = count(function, Some(authority), 0)?;
            run.add(COLD_INSTRUCTIONS, function.name, start / 1e6);
        }
    }
    Ok(())
}

/// Whether ingest-fn answers and stores as it has to when it is started by this command, in plain HTTP and over TLS.
pub(crate) fn check(program: PathBuf, args: Vec<String>) -> Result<(), Box<dyn Error>> {
    let authority = Authority::new()?;
    let function = Function {
        name: "ingest-fn",
        program,
        args,
        directory: PathBuf::from("."),
        settings: settings(ROOTS, &authority.bundle),
    };
    for tls in [None, Some(&authority)] {
        live(&function, tls, 0, true)?;
    }
    Ok(())
}

fn settings(trust: &'static str, roots: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("WEBHOOK_KEYS_PARAMETER", KEYS_PARAMETER.to_owned()),
        (trust, roots.display().to_string()),
    ]
}

fn functions(binaries: &Path, authority: &Authority) -> [Function; 5] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let function =
        |name, program, args: &[&str], directory: &str, (trust, roots): (_, &Path)| Function {
            name,
            program,
            args: args.iter().map(ToString::to_string).collect(),
            directory: root.join(directory),
            settings: settings(trust, roots),
        };
    let python = root.join("../.tools/bench-python/bin/python");
    let (node, script) = ("node".into(), ["dist/index.mjs"]);
    let module = ["-m", "awslambdaric", "handler.handler"];
    let (alone, bundle) = (&*authority.alone, &*authority.bundle);
    let native = |name, file| function(name, binaries.join(file), &[], ".", (ROOTS, bundle));
    [
        native("ingest-fn", "ingest-fn"),
        native(CRATES, "crates-alone"),
        native(FLOOR, "floor"),
        function("Node", node, &script, "peers/node", ("NODE_EXTRA_CA_CERTS", alone)),
        function("Python", python, &module, "peers/python", ("AWS_CA_BUNDLE", bundle)),
    ]
}

/// The whole life of an environment: its first answer, and as many more as there are `requests`; before them, if wanted,
/// those that show whether it does the `whole_job`.
fn live(
    function: &Function,
    tls: Option<&Authority>,
    requests: u32,
    whole_job: bool,
) -> Result<Cost, Box<dyn Error>> {
    let tls = tls.map(|authority| authority.server.clone());
    let (host, addresses) = Host::start(&[(KEYS_PARAMETER, KEY)], tls, Duration::ZERO)?;
    host.give(&event(0));
    let began = Instant::now();
    let process = Process::start(function, &addresses)?;
    let failed = |err: Box<dyn Error>| -> Box<dyn Error> {
        format!("{}: {err}; its output:{}", function.name, process.last_lines()).into()
    };

    let outcome = host.outcome(RESPONSE_TIMEOUT).map_err(failed)?;
    let cold = outcome.at - began;
    queued(&outcome).map_err(failed)?;
    if host.reads() == 0 && function.name != CRATES {
        return Err(failed("it never read the keys".into()));
    }
    if whole_job {
        keeps_the_contract(&host).map_err(failed)?;
    }
    for number in 1..=requests {
        host.give(&event(number));
        host.outcome(RESPONSE_TIMEOUT).and_then(|outcome| queued(&outcome)).map_err(failed)?;
    }
    let memory_mib = process.memory()?;
    let cpu_us = process.end()?.as_secs_f64() * 1e6;
    Ok(Cost { cold_ms: cold.as_secs_f64() * 1e3, memory_mib, cpu_us })
}

fn queued(outcome: &Outcome) -> Result<(), Box<dyn Error>> {
    expect_response(outcome, 200, "queued", Some("events"))
}

/// A few requests whose responses show whether a peer does the whole job.
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
        expect_response(&host.outcome(RESPONSE_TIMEOUT)?, status, word, queue)?;
    }
    Ok(())
}

fn expect_response(
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
