//! What is done to the relay from outside: the events that arrive, and the operator's actions.

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
    world::World,
};

/// Puts the events into the queue as ingest-fn does.
pub(crate) async fn arrive(world: Arc<World>) {
    for (at, arrival) in &world.plan.arrivals {
        sleep(at.saturating_sub(world.elapsed())).await;
        let now = world.now();
        match arrival {
            Arrival::Event { id, conversation, json } => {
                if !world.state().checker.has_accepted(id) {
                    world.state().gladly.add_event(json);
                }
                if !comes_by_webhook(&world) {
                    world.note(|| format!("{id} does not come by webhook"));
                    world.count("events not sent");
                    world.state().checker.accept(id, *conversation, world.now());
                    continue;
                }
                let text = json.to_string();
                let message = QueueMessage::wrap(&text, now, Origin::Webhook);
                let Ok(body) = message.and_then(|message| message.to_json()) else { continue };
                let event_type = json["type"].as_str().unwrap_or_default().to_owned();
                let attributes = vec![("type".into(), event_type)];
                let message = world.aws.state().send("events", &body, attributes, 0, now);
                world.note(|| format!("{id} is accepted as {message}"));
                world.count("events accepted");
                world.state().checker.accept(id, *conversation, world.now());
            }
            Arrival::Foreign(text) => {
                world.aws.state().send("events", text, Vec::new(), 0, now);
                world.state().checker.accept_foreign(text);
            }
        }
    }
}

/// Whether an event that happens now comes by webhook.
fn comes_by_webhook(world: &World) -> bool {
    let now = world.elapsed();
    let fails = |outage: &Outage| !outage.by_hand && (outage.from..outage.to).contains(&now);
    !world.plan.outages.iter().any(fails) && world.state().gladly.is_webhook_on()
}

/// Does what the plan has for the operator, and resumes when all faults are over.
pub(crate) async fn operate(world: Arc<World>, function: Arc<Function>) {
    for (at, action) in &world.plan.actions {
        sleep(at.saturating_sub(world.elapsed())).await;
        act(&world, &function, action);
    }
    sleep(world.plan.calm.saturating_sub(world.elapsed())).await;
    world.note(|| "all faults are over".into());
    for upstream in [Upstream::Gladly, Upstream::Destination] {
        act(&world, &function, &Action::Token(upstream));
    }
    let running = PauseText::running(&mut world.state().rng);
    let last = if world.state().rng.bool() { Action::Resume } else { Action::WritePause(running) };
    act(&world, &function, &last);
}

fn act(world: &Arc<World>, function: &Arc<Function>, action: &Action) {
    world.note(|| format!("operator: {action:?}"));
    match action {
        Action::WritePause(text) => write_pause(world, text),
        Action::Resume => {
            write_pause(world, &PauseText { text: "running".into(), meaning: Meaning::Running });
            let closed = json!({"state": "closed"}).to_string();
            world.aws.put(BREAKER_PARAMETER, &closed);
            world.check(|checker, cx| checker.breaker_written(&closed, cx));
            world.state().changes.push(BREAKER_PARAMETER);
            invoke(world, function, &json!({"task": "reconcile"}));
        }
        Action::Invoke(payload) => {
            if payload["task"] == "redrive" {
                world.count("redrives");
            }
            invoke(world, function, payload);
        }
        Action::Token(upstream) => {
            let name = if *upstream == Upstream::Gladly { "gladly" } else { "destination" };
            world.aws.put(&format!("/relay/{name}-token"), &fakes::token(world, *upstream));
        }
        Action::Toggle(enabled) => {
            world.count("switched past the controller");
            let now = world.now();
            let settles_at = settled(&mut world.state().rng, now);
            let mapping = &mut world.aws.state().mapping;
            if mapping.enabled != *enabled {
                (mapping.enabled, mapping.settles_at) = (*enabled, settles_at);
            }
            world.state().checker.mapping_switched(now);
            world.switched.notify_waiters();
        }
        Action::Deploy => {
            world.count("deploys");
            function.deploy();
        }
        Action::SwitchOff { by_hand } => {
            world.count(if *by_hand {
                "webhooks switched off"
            } else {
                "webhooks disabled by Gladly"
            });
            world.state().gladly.switch_off(*by_hand, world.now());
        }
        Action::SwitchOn => world.state().gladly.switch_on(),
        Action::Recover { task, from } => {
            let (world, function) = (Arc::clone(world), Arc::clone(function));
            spawn_local(recover(world, function, task, instant(*from)));
        }
    }
}

fn invoke(world: &Arc<World>, function: &Arc<Function>, payload: &Value) {
    spawn_local(eventbridge::run(Arc::clone(world), Arc::clone(function), payload.clone()));
}

/// Writes the pause parameter.
fn write_pause(world: &World, pause: &PauseText) {
    world.count(match pause.meaning {
        Meaning::Running => "resumes",
        Meaning::Held => "pauses",
        Meaning::HeldUntil(_) => "pauses until a time",
    });
    world.aws.put(PAUSE_PARAMETER, &pause.text);
    let write = PauseWrite { at: world.now(), meaning: pause.meaning, text: pause.text.clone() };
    let mut state = world.state();
    state.checker.pause_written(write);
    state.changes.push(PAUSE_PARAMETER);
}

/// Asks for the recovery of a range until it is written down, as an operator does who gets no answer.
async fn recover(world: Arc<World>, function: Arc<Function>, task: &'static str, from: Timestamp) {
    world.state().recoveries += 1;
    let to = world.now();
    loop {
        let payload = json!({"task": task, "from": from.to_string(), "to": to.to_string()});
        let answer = function.invoke(&payload).await;
        world.note(|| format!("{task} from {from}: {answer:?}"));
        match answer {
            Ok(_) => break,
            Err(Failure::Refused(why)) if why.starts_with("the range is recorded") => break,
            // There is no export of it yet.
            Err(Failure::Refused(why)) if why.starts_with("from must be") => {
                world.state().recoveries -= 1;
                return;
            }
            Err(_) => sleep(Duration::from_secs(20)).await,
        }
    }
    world.count(if task == "import" { "imports" } else { "backfills" });
    let mut state = world.state();
    state.recoveries -= 1;
    if task == "import" {
        let end = to.min(EPOCH + EXPORT_PERIOD * exports(to));
        state.checker.want_import(&world.plan, &(from..end));
    }
}
