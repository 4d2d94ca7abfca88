//! The metrics that the functions log, in the emulated CloudWatch.

#![expect(clippy::unwrap_used, reason = "all of this crate is a test")]

use std::time::{Duration, Instant, SystemTime};

use local::{
    embedded_metrics::MetricsPublisher,
    stack::{Artifacts, EmulatedAws, Function, Settings, Stack},
};
use serde_json::{Value, json};
use tokio::{select, time::sleep};

/// The longest that a metric may take.
const WAIT_TIMEOUT: Duration = Duration::from_mins(1);

/// The sum of the metric `KeySlot` with these dimensions in the last ten minutes.
async fn key_slot(stack: &Stack<'_>, dimensions: &Value) -> f64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let request = json!({
        "Namespace": "GladlyRelay",
        "MetricName": "KeySlot",
        "Dimensions": dimensions,
        "Statistics": ["Sum"],
        "Period": 60,
        "StartTime": now - 600,
        "EndTime": now + 60,
    });
    let found = stack.aws().emulator().cloudwatch("GetMetricStatistics", request).await.unwrap();
    let points = found["Datapoints"].as_array().unwrap();
    points.iter().filter_map(|point| point["Sum"].as_f64()).sum()
}

/// Waits for the metric to have this sum.
async fn key_slot_reaches(stack: &Stack<'_>, dimensions: &Value, sum: f64) {
    let began = Instant::now();
    loop {
        let found = key_slot(stack, dimensions).await;
        if (found - sum).abs() < 0.1 {
            return;
        }
        assert!(began.elapsed() < WAIT_TIMEOUT && found < sum, "{found} of {sum}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_webhook_is_counted_once_by_its_keys_slot() {
    let artifacts = Artifacts::build().await.unwrap();
    let aws = EmulatedAws::start("embedded-metrics-test", &artifacts).await.unwrap();
    let mut settings = Settings::new("http://127.0.0.1:1", "http://127.0.0.1:1/deliveries");
    settings.webhook_keys.push("the-second-key-of-two-that-are-valid".to_owned());
    let stack = aws.deploy("embedded-metrics", &settings).await.unwrap();
    let function = stack.function_name(Function::Ingest);
    let dimensions = |slot: &str| {
        json!([
            {"Name": "FunctionName", "Value": function},
            {"Name": "Slot", "Value": slot},
        ])
    };
    let [first, second] = [dimensions("1"), dimensions("2")];
    let ping = async |key: &str| {
        let response = stack.post(key, r#"{"type":"PING"}"#).await.unwrap();
        assert_eq!(response.status, 200);
    };
    let posts = async {
        ping(&settings.webhook_keys[1]).await;
        key_slot_reaches(&stack, &second, 1.0).await;
        for count in 1..=3 {
            ping(&settings.webhook_keys[0]).await;
            // Each sum comes from several reads of the log, which must not count a line again.
            key_slot_reaches(&stack, &first, count.into()).await;
        }
    };
    select! {
        () = posts => {}
        never = MetricsPublisher::new(&stack).run() => match never {},
    }
    let sums = [key_slot(&stack, &first).await, key_slot(&stack, &second).await];
    assert!(
        sums.iter().zip([3.0, 1.0]).all(|(sum, wanted)| (sum - wanted).abs() < 0.1),
        "{sums:?}"
    );
    // A metric is of all its dimensions together.
    let of_the_function = json!([{"Name": "FunctionName", "Value": function}]);
    assert!(key_slot(&stack, &of_the_function).await < 0.1);
    stack.delete().await.unwrap();
}
