//! Authentication.

use std::time::Duration;

use serde_json::{Value, json};
use testing::aws::{Fault, THROTTLED};
use tokio::time::advance;

use crate::{EVENT, KEY, KEYS, NEXT_KEY, TestApp, answer, payload};

#[tokio::test(start_paused = true)]
async fn only_a_single_valid_key_is_accepted_and_nothing_else_is_stored() {
    let app = TestApp::new();
    let twice = format!("{KEY},{KEY}");
    let refused = [
        ("no headers at all", Value::Null),
        ("no key", json!({"content-type": "application/json"})),
        ("an empty key", json!({"x-api-key": ""})),
        ("a null key", json!({"x-api-key": null})),
        ("a wrong key", json!({"x-api-key": NEXT_KEY})),
        ("a beginning of the key", json!({"x-api-key": KEY[1..]})),
        ("more than the key", json!({"x-api-key": format!("{KEY}0")})),
        ("the key in capitals", json!({"x-api-key": KEY.to_uppercase()})),
        ("the key twice, as two values", json!({"x-api-key": KEY, "X-Api-Key": KEY})),
        ("the key twice, joined as the HTTP API does", json!({"x-api-key": twice})),
        ("the key twice, joined with a space", json!({"x-api-key": format!("{KEY}, {KEY}")})),
        ("a right and a wrong one", json!({"x-api-key": format!("{KEY},{NEXT_KEY}")})),
        ("a key outside ASCII", json!({"x-api-key": "k\u{e9}\u{1f600}".repeat(16)})),
        ("a key that is no header", json!({"x-api-key": format!("{KEY}\n")})),
        ("the key under another name", json!({"authorization": KEY, "x-api-keys": KEY})),
    ];
    for (name, headers) in &refused {
        for body in [EVENT.as_bytes(), br#"{"type":"PING"}"#, b"no JSON", b"\xff"] {
            let got = app.call(&payload(headers, body)).await;
            assert_eq!(got, (401, answer("unauthorized")), "{name}");
        }
    }
    assert_eq!(app.aws.state().sqs_calls, 0);

    let accepted = [
        ("capitals", json!({"X-API-KEY": KEY})),
        ("as documented", json!({"X-Api-Key": KEY, "Content-Type": "text/plain"})),
        ("beside a broken header", json!({"x-api-key": KEY, "b\u{e9}": "x", "": "", "n": null})),
    ];
    for (name, headers) in &accepted {
        let got = app.call(&payload(headers, EVENT.as_bytes())).await;
        assert_eq!(got, (200, answer("queued")), "{name}");
    }
    assert_eq!(app.messages().len(), accepted.len());
}

#[tokio::test(start_paused = true)]
async fn a_key_rotation_rejects_no_event() {
    let app = TestApp::new();
    assert_eq!((app.status(KEY).await, app.status(NEXT_KEY).await), (200, 401));

    // The wrong key above used up the early refresh: the next one may come 10 s later.
    advance(Duration::from_secs(10)).await;
    app.aws.put(KEYS, &format!("{NEXT_KEY}\n{KEY}\n"));
    assert_eq!(app.status(NEXT_KEY).await, 200, "a new key works immediately");
    assert_eq!(app.status(KEY).await, 200, "and so does the old one");

    app.aws.put(KEYS, NEXT_KEY);
    advance(Duration::from_secs(59)).await;
    assert_eq!((app.status(KEY).await, app.status(NEXT_KEY).await), (200, 200), "kept 60 s");
    advance(Duration::from_secs(1)).await;
    assert_eq!((app.status(KEY).await, app.status(NEXT_KEY).await), (401, 200), "withdrawn");
}

#[tokio::test(start_paused = true)]
async fn a_key_added_right_after_the_keys_were_read_works_at_once() {
    let app = TestApp::new();
    app.ingest.warm_up().await;
    assert_eq!(app.status(KEY).await, 200);
    app.aws.put(KEYS, &format!("{KEY}\n{NEXT_KEY}"));
    assert_eq!(app.status(NEXT_KEY).await, 200);
    assert_eq!(app.aws.state().ssm_calls, 2);
}

#[tokio::test(start_paused = true)]
async fn keys_are_cached_for_60_s_and_unknown_keys_cause_one_read_in_10_s() {
    let app = TestApp::new();
    app.ingest.warm_up().await;
    for _ in 0..59 {
        assert_eq!(app.status(KEY).await, 200);
        advance(Duration::from_secs(1)).await;
    }
    assert_eq!(app.aws.state().ssm_calls, 1, "kept");
    advance(Duration::from_secs(1)).await;
    assert_eq!(app.status(KEY).await, 200);
    assert_eq!(app.aws.state().ssm_calls, 2, "read again");

    for second in 0..40 {
        for guess in 0..3 {
            assert_eq!(app.status(&format!("{guess}{KEY}")).await, 401);
        }
        let early = second / 10 + 1;
        assert_eq!(app.aws.state().ssm_calls, 2 + early, "second {second}");
        advance(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn cached_keys_serve_while_ssm_fails_or_the_parameter_is_malformed() {
    let app = TestApp::new();
    assert_eq!(app.status(KEY).await, 200);
    let faults = [
        Fault::Refused(400, "AccessDeniedException"),
        Fault::Refused(400, "ParameterNotFound"),
        Fault::Refused(500, "InternalServerError"),
        Fault::Garbage(200),
        Fault::Garbage(502),
        Fault::Hang,
        Fault::Reset,
    ];
    for fault in faults {
        app.aws.state().ssm_fault = Some(fault);
        advance(Duration::from_hours(1)).await;
        let wanted = (200, 401, 200);
        let got = (app.status(KEY).await, app.status(NEXT_KEY).await, app.status(KEY).await);
        assert_eq!(got, wanted, "{fault:?}");
    }
    app.aws.state().ssm_fault = None;
    for corrupt in ["", "\n \n", "short", "0123456789abcdef0123456789abcde"] {
        app.aws.put(KEYS, corrupt);
        advance(Duration::from_hours(1)).await;
        assert_eq!((app.status(KEY).await, app.status(corrupt).await), (200, 401), "{corrupt:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_usable_key_requests_get_503_and_not_401() {
    let app = TestApp::with_keys("short-and-never-used");
    app.ingest.warm_up().await;
    let body = EVENT.as_bytes();
    let unavailable = (503, answer("unavailable"));
    assert_eq!(app.post("short-and-never-used", body).await, unavailable, "a short key");
    assert_eq!(app.receive_counted(body).await.1, "Unavailable=1");
    app.aws.put(KEYS, "");
    assert_eq!(app.post("", body).await, (401, answer("unauthorized")), "an empty key");
    for fault in [Fault::Refused(400, "AccessDeniedException"), Fault::Hang, Fault::Reset] {
        app.aws.state().ssm_fault = Some(fault);
        let began = tokio::time::Instant::now();
        assert_eq!(app.post(KEY, body).await, unavailable, "{fault:?}");
        assert!(began.elapsed() <= Duration::from_secs(4), "{fault:?}: {:?}", began.elapsed());
    }
    assert_eq!(app.aws.state().sqs_calls, 0);

    app.aws.state().ssm_fault = None;
    app.aws.put(KEYS, &format!("short\n{KEY}"));
    assert_eq!(app.status(KEY).await, 200, "the good key beside a short one");
    assert_eq!(app.status("short").await, 401);
}

#[tokio::test(start_paused = true)]
async fn throttled_cold_starts_get_their_keys_in_time() {
    for throttled in [1, 3, 10] {
        let app = TestApp::new();
        app.aws.state().ssm_faults = vec![Some(THROTTLED); throttled].into();
        let began = tokio::time::Instant::now();
        assert_eq!(app.status(KEY).await, 200, "{throttled}: the first request waits for them");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    for throttled in [1, 10, 20] {
        let app = TestApp::new();
        app.aws.state().ssm_faults = vec![Some(THROTTLED); throttled].into();
        let began = tokio::time::Instant::now();
        app.ingest.warm_up().await;
        assert!(began.elapsed() < Duration::from_secs(9), "Lambda allows 10 s");
        let calls = app.aws.state().ssm_calls;
        assert_eq!(calls, throttled + 1, "the warm-up has them");
        assert_eq!(app.status(KEY).await, 200);
        assert_eq!(app.aws.state().ssm_calls, calls);
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttled_ssm_delays_warm_up_and_first_response_less_than_gladlys_timeout() {
    let app = TestApp::new();
    app.aws.state().ssm_fault = Some(THROTTLED);
    let began = tokio::time::Instant::now();
    app.ingest.warm_up().await;
    assert_eq!(app.status(KEY).await, 503);
    assert!(began.elapsed() < Duration::from_secs(14), "{:?}", began.elapsed());
    app.aws.state().ssm_fault = None;
    assert_eq!(app.status(KEY).await, 200, "and the next request asks again");
}

#[tokio::test(start_paused = true)]
async fn the_slot_of_a_key_is_its_line() {
    let app = TestApp::with_keys(&format!("{NEXT_KEY}\n{KEY}\n"));
    assert_eq!(app.receive_counted(b"{\"type\":\"PING\"}").await.1, "KeySlot=1");
}
