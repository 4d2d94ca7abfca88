//! ingest-fn beside the same job in other languages, and above the least that the job can cost.

use std::{
    error::Error,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    Plan,
    host::{Host, Outcome},
    process::{Function, Process},
    report::Samples,
    tls::Authority,
};

/// Requests before the counted ones, in which a runtime may still be compiling.
const WARM_UP: u32 = 500;
/// How long a function may take over its first answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
const KEY: &str = "bench-key-0123456789-0123456789-0123456789";
const KEYS_PARAMETER: &str = "/bench/webhook-keys";

/// What was measured of one function.
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) plain: Samples,
    pub(crate) tls: Samples,
}

/// Measures ingest-fn, the floor under it and its peers, which take turns.
pub(crate) fn measure(plan: &Plan, binaries: &Path) -> Result<Vec<Measured>, Box<dyn Error>> {
    let authority = Authority::new()?;
    let functions = functions(binaries, &authority);
    let measured = |function: &Function| Measured {
        name: function.name,
        plain: Samples::default(),
        tls: Samples::default(),
    };
    let mut all: Vec<_> = functions.iter().map(measured).collect();
    let rounds = plan.rounds + plan.cold_starts;
    for round in 0..rounds {
        for (function, measured) in functions.iter().zip(&mut all) {
            eprint!("\ringest, round {} of {rounds}: {:<10}", round + 1, function.name);
            let requests = if round < plan.rounds { plan.requests } else { 0 };
            let first = round == 0 && function.name != "floor";
            live(function, None, requests, first, &mut measured.plain)?;
            if function.name != "floor" {
                live(function, Some(&authority), requests, false, &mut measured.tls)?;
            }
        }
    }
    eprintln!();
    Ok(all)
}

/// Whether ingest-fn answers and stores as it has to when it is started by this command, in plain HTTP and over TLS.
pub(crate) fn check(program: PathBuf, args: Vec<String>) -> Result<(), Box<dyn Error>> {
    let authority = Authority::new()?;
    let function = Function {
        name: "ingest-fn",
        program,
        args,
        directory: PathBuf::from("."),
        settings: vec![
            ("WEBHOOK_KEYS_PARAMETER", KEYS_PARAMETER.to_owned()),
            ("SSL_CERT_FILE", authority.bundle.display().to_string()),
        ],
    };
    for tls in [None, Some(&authority)] {
        live(&function, tls, 0, true, &mut Samples::default())?;
    }
    Ok(())
}

fn functions(binaries: &Path, authority: &Authority) -> Vec<Function> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bundle = authority.bundle.display().to_string();
    let alone = authority.alone.display().to_string();
    let function = |name, program, args: &[&str], directory: &str, trusts| Function {
        name,
        program,
        args: args.iter().map(ToString::to_string).collect(),
        directory: root.join(directory),
        settings: vec![("WEBHOOK_KEYS_PARAMETER", KEYS_PARAMETER.to_owned()), trusts],
    };
    let python = root.join("../.tools/bench-python/bin/python");
    let (node, script) = ("node".into(), ["dist/index.mjs"]);
    let module = ["-m", "awslambdaric", "handler.handler"];
    vec![
        function(
            "ingest-fn",
            binaries.join("ingest-fn"),
            &[],
            ".",
            ("SSL_CERT_FILE", bundle.clone()),
        ),
        function("floor", binaries.join("floor"), &[], ".", ("UNUSED", String::new())),
        function("Node", node, &script, "peers/node", ("NODE_EXTRA_CA_CERTS", alone)),
        function("Python", python, &module, "peers/python", ("AWS_CA_BUNDLE", bundle)),
    ]
}

/// Starts a function and measures its first answer, and as many more as there are `requests`.
fn live(
    function: &Function,
    tls: Option<&Authority>,
    requests: u32,
    first: bool,
    samples: &mut Samples,
) -> Result<(), Box<dyn Error>> {
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
    if host.reads() == 0 {
        return Err(failed("it never read the keys".into()));
    }
    samples.cold_ms.push(cold.as_secs_f64() * 1e3);
    if first {
        keeps_the_contract(&host).map_err(failed)?;
    }
    if requests == 0 {
        return Ok(());
    }

    let mut cpu = Duration::ZERO;
    for number in 1..=WARM_UP + requests {
        if number == WARM_UP + 1 {
            cpu = process.cpu();
        }
        host.give(&event(number));
        host.outcome(RESPONSE_TIMEOUT).and_then(|outcome| queued(&outcome)).map_err(failed)?;
    }
    let cpu = process.cpu().saturating_sub(cpu);
    samples.cpu_us.push(cpu.as_secs_f64() * 1e6 / f64::from(requests));
    samples.memory_mib.push(process.memory());
    Ok(())
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
