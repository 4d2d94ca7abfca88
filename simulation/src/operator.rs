//! The arriving events, and the operator's actions.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use shared::{Origin, QueueMessage};
use tokio::{task::spawn_local, time::sleep};

use crate::{
    checker::PauseWrite,
    constants::{BREAKER_PARAMETER, EPOCH, PAUSE_PARAMETER, instant},
    eventbridge, fakes,
    function::{Failure, Function},
    gladly::{EXPORT_PERIOD, exports},
    mapping::settled,
    plan::{Action, Arrival, Meaning, Outage, PauseText, Upstream},
    sim::Simulation,
};

/// Puts the events into the queue as ingest-fn does.
pub(crate) async fn arrive(sim: Arc<Simulation>) {
    for (at, arrival) in &sim.plan.arrivals {
        sleep(at.saturating_sub(sim.elapsed())).await;
        let now = sim.now();
        match arrival {
            Arrival::Event { id, conversation, json } => {
                if !sim.state().checker.has_accepted(id) {
                    sim.state().gladly.add_event(json);
                }
                if !comes_by_webhook(&sim) {
                    sim.note(|| format!("{id} does not come by webhook"));
                    sim.count("events not sent");
                    sim.state().checker.accept(id, *conversation, sim.now());
                    continue;
                }
                let text = json.to_string();
                let message = QueueMessage::wrap(&text, now, Origin::Webhook);
                let Ok(body) = message.and_then(|message| message.to_json()) else { continue };
                let event_type = json["type"].as_str().unwrap_or_default().to_owned();
                let delay = sim.plan.delay(&event_type);
                let attributes = vec![("type".into(), event_type)];
                let message = sim.aws.state().send("events", &body, attributes, delay.into(), now);
                sim.note(|| format!("{id} is accepted as {message}"));
                sim.count("events accepted");
                sim.state().checker.accept(id, *conversation, sim.now());
            }
            Arrival::Foreign(text) => {
                sim.aws.state().send("events", text, Vec::new(), 0, now);
                sim.state().checker.accept_foreign(text);
            }
        }
    }
}

/// Whether an event that happens now comes by webhook.
fn comes_by_webhook(sim: &Simulation) -> bool {
    let now = sim.elapsed();
    let fails = |outage: &Outage| !outage.by_hand && (outage.from..outage.to).contains(&now);
    !sim.plan.outages.iter().any(fails) && sim.state().gladly.is_webhook_on()
}

/// Performs the operator's actions, and resumes when all faults are over.
pub(crate) async fn operate(sim: Arc<Simulation>, function: Arc<Function>) {
    for (at, action) in &sim.plan.actions {
        sleep(at.saturating_sub(sim.elapsed())).await;
        act(&sim, &function, action);
    }
    sleep(sim.plan.calm.saturating_sub(sim.elapsed())).await;
    sim.note(|| "all faults are over".into());
    for upstream in [Upstream::Gladly, Upstream::Destination] {
        act(&sim, &function, &Action::Token(upstream));
    }
    let running = PauseText::running(&mut sim.state().rng);
    let last = if sim.state().rng.bool() { Action::Resume } else { Action::WritePause(running) };
    act(&sim, &function, &last);
}

fn act(sim: &Arc<Simulation>, function: &Arc<Function>, action: &Action) {
    sim.note(|| format!("operator: {action:?}"));
    match action {
        Action::WritePause(text) => write_pause(sim, text),
        Action::Resume => {
            write_pause(sim, &PauseText { text: "running".into(), meaning: Meaning::Running });
            let closed = json!({"state": "closed"}).to_string();
            sim.aws.put(BREAKER_PARAMETER, &closed);
            sim.check(|checker, cx| checker.breaker_written(&closed, cx));
            sim.state().changes.push(BREAKER_PARAMETER);
            invoke(sim, function, &json!({"task": "reconcile"}));
        }
        Action::Invoke(payload) => {
            if payload["task"] == "redrive" {
                sim.count("redrives");
            }
            invoke(sim, function, payload);
        }
        Action::Token(upstream) => {
            let name = if *upstream == Upstream::Gladly { "gladly" } else { "destination" };
            sim.aws.put(&format!("/relay/{name}-token"), &fakes::token(sim, *upstream));
        }
        Action::Toggle(enabled) => {
            sim.count("mapping switched without the controller");
            let now = sim.now();
            let settles_at = settled(&mut sim.state().rng, now);
            let mapping = &mut sim.aws.state().mapping;
            if mapping.enabled != *enabled {
                (mapping.enabled, mapping.settles_at) = (*enabled, settles_at);
            }
            sim.state().checker.mapping_switched(now);
            sim.switched.notify_waiters();
        }
        Action::Deploy => {
            sim.count("deploys");
            function.deploy();
        }
        Action::SwitchOff { by_hand } => {
            sim.count(if *by_hand {
                "webhooks disabled by hand"
            } else {
                "webhooks disabled by Gladly"
            });
            sim.state().gladly.switch_off(*by_hand, sim.now());
        }
        Action::SwitchOn => sim.state().gladly.switch_on(),
        Action::Recover { task, from } => {
            let (sim, function) = (Arc::clone(sim), Arc::clone(function));
            spawn_local(recover(sim, function, task, instant(*from)));
        }
    }
}

fn invoke(sim: &Arc<Simulation>, function: &Arc<Function>, payload: &Value) {
    spawn_local(eventbridge::run(Arc::clone(sim), Arc::clone(function), payload.clone()));
}

/// Writes the pause parameter.
fn write_pause(sim: &Simulation, pause: &PauseText) {
    sim.count(match pause.meaning {
        Meaning::Running => "resumes",
        Meaning::Held => "pauses",
        Meaning::HeldUntil(_) => "pauses until a time",
    });
    sim.aws.put(PAUSE_PARAMETER, &pause.text);
    let write = PauseWrite { at: sim.now(), meaning: pause.meaning, text: pause.text.clone() };
    let mut state = sim.state();
    state.checker.pause_written(write);
    state.changes.push(PAUSE_PARAMETER);
}

/// Requests the recovery of a range until it is recorded, as an operator without a response does.
async fn recover(
    sim: Arc<Simulation>,
    function: Arc<Function>,
    task: &'static str,
    from: Timestamp,
) {
    sim.state().recoveries += 1;
    let to = sim.now();
    loop {
        let payload = json!({"task": task, "from": from.to_string(), "to": to.to_string()});
        let answer = function.invoke(&payload).await;
        sim.note(|| format!("{task} from {from}: {answer:?}"));
        match answer {
            // Recorded, also if it is postponed.
            Ok(_) => break,
            // Its export does not exist yet.
            Err(Failure::Refused(why)) if why.starts_with("from must be") => {
                sim.state().recoveries -= 1;
                return;
            }
            Err(_) => sleep(Duration::from_secs(20)).await,
        }
    }
    sim.count(if task == "import" { "imports" } else { "backfills" });
    let mut state = sim.state();
    state.recoveries -= 1;
    if task == "import" {
        let end = to.min(EPOCH + EXPORT_PERIOD * exports(to));
        state.checker.want_import(&sim.plan, &(from..end));
    }
}
