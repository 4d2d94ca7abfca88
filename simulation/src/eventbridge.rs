//! EventBridge: the schedule, and parameter changes whose events come late, twice or never.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{task::spawn_local, time::sleep};

use crate::{
    constants::GATE_ALONE,
    function::{Failure, Function, seconds},
    sim::Simulation,
};

/// Invokes the function on schedule, mostly.
pub(crate) async fn schedule(sim: Arc<Simulation>, function: Arc<Function>) {
    loop {
        sleep(sim.plan.interval).await;
        if sim.goes_wrong(sim.plan.skipped) {
            sim.count("skipped schedules");
            continue;
        }
        spawn_local(run(Arc::clone(&sim), Arc::clone(&function), json!({"task": "reconcile"})));
    }
}

/// Invokes the function with changes of parameters.
pub(crate) async fn changes(sim: Arc<Simulation>, function: Arc<Function>) {
    loop {
        sleep(Duration::from_millis(500)).await;
        let changed = std::mem::take(&mut sim.state().changes);
        for name in changed {
            if sim.goes_wrong(sim.plan.lost) {
                sim.count("lost parameter events");
                continue;
            }
            let times = if sim.goes_wrong(0.05) { 2 } else { 1 };
            for _ in 0..times {
                let late = sim.time_between(200, if sim.goes_wrong(0.2) { 90_000 } else { 3_000 });
                let (sim, function) = (Arc::clone(&sim), Arc::clone(&function));
                spawn_local(async move {
                    sleep(late).await;
                    sim.count("parameter events");
                    let event = json!({
                        "version": "0", "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
                        "detail-type": "Parameter Store Change", "source": "aws.ssm",
                        "account": "123456789012", "time": seconds(sim.now()), "region": "eu-west-1",
                        "resources": [format!("arn:aws:ssm:eu-west-1:123456789012:parameter{name}")],
                        "detail": {"operation": "Update", "name": name, "type": "String"},
                    });
                    run(sim, function, event).await;
                });
            }
        }
    }
}

/// One invocation that is neither waited for nor repeated.
pub(crate) async fn run(sim: Arc<Simulation>, function: Arc<Function>, payload: Value) {
    if GATE_ALONE {
        return;
    }
    let what = payload["task"].as_str().unwrap_or("change").to_owned();
    match function.invoke(&payload).await {
        Ok((began, answer)) => {
            sim.note(|| format!("{what}: {answer}"));
            if what == "reconcile" || what == "change" {
                let mapping = {
                    let mapping = &sim.aws.state().mapping;
                    (mapping.enabled, mapping.settles_at)
                };
                sim.check(|checker, cx| checker.check_aligned(began, mapping, cx));
            }
        }
        Err(Failure::Refused(why)) => {
            sim.count("invocations that failed");
            sim.note(|| format!("{what} fails: {why}"));
        }
        Err(_) => {}
    }
}
