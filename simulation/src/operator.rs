//! The operator and Gladly's webhooks: what is done to the relay from outside.

use std::sync::Arc;

use serde_json::json;
use shared::{Origin, QueueMessage};
use tokio::{task::spawn_local, time::sleep};

use crate::{
    checker::Accepted,
    eventbridge,
    fakes::instant,
    function::Function,
    mapping::settled,
    plan::{Arrival, Deed, Meaning, Upstream, Word},
    world::{BREAKER, PAUSE, World},
};

/// Puts the events into the queue as ingest-fn does.
pub(crate) async fn arrive(world: Arc<World>) {
    for (at, arrival) in &world.plan.arrivals {
        sleep(at.saturating_sub(world.elapsed())).await;
        let now = world.now();
        match arrival {
            Arrival::Event { id, conversation, json } => {
                let is_new = !world.state().checker.events.contains_key(id);
                if is_new {
                    world.happen(json);
                }
                if !world.is_heard() {
                    world.note(|| format!("{id} does not come by webhook"));
                    world.count("events not sent");
                    world.accept(id, *conversation);
                    continue;
                }
                let text = json.to_string();
                let message = QueueMessage::wrap(&text, now, Origin::Webhook);
                let Ok(body) = message.and_then(|message| message.to_json()) else { continue };
                let kind = json["type"].as_str().unwrap_or_default().to_owned();
                let message =
                    world.aws.state().send("events", &body, vec![("type".into(), kind)], 0, now);
                world.note(|| format!("{id} is accepted as {message}"));
                world.count("events accepted");
                world.accept(id, *conversation);
            }
            Arrival::Foreign(text) => {
                world.aws.state().send("events", text, Vec::new(), 0, now);
                world.state().checker.foreign.insert(text.clone(), false);
            }
        }
    }
}

/// Does what the plan says, and resumes when all troubles are over.
pub(crate) async fn operate(world: Arc<World>, function: Arc<Function>) {
    for (at, deed) in &world.plan.deeds {
        sleep(at.saturating_sub(world.elapsed())).await;
        act(&world, &function, deed);
    }
    sleep(world.plan.calm.saturating_sub(world.elapsed())).await;
    world.note(|| "all troubles are over".into());
    for upstream in [Upstream::Gladly, Upstream::Destination] {
        act(&world, &function, &Deed::Token(upstream));
    }
    let running = Word::running(&mut world.state().rng);
    let last = if world.state().rng.bool() { Deed::Resume } else { Deed::Say(running) };
    act(&world, &function, &last);
}

fn act(world: &Arc<World>, function: &Arc<Function>, deed: &Deed) {
    world.note(|| format!("operator: {deed:?}"));
    match deed {
        Deed::Say(said) => world.say(said),
        Deed::Resume => {
            world.say(&Word { text: "running".into(), meaning: Meaning::Running });
            let closed = json!({"state": "closed"}).to_string();
            world.aws.put(BREAKER, &closed);
            world.see_breaker(&closed);
            world.state().changes.push(BREAKER);
            invoke(world, function, &json!({"task": "reconcile"}));
        }
        Deed::Invoke(payload) => {
            if payload["task"] == "redrive" {
                world.count("redrives");
            }
            invoke(world, function, payload);
        }
        Deed::Token(upstream) => {
            let name = if *upstream == Upstream::Gladly { "gladly" } else { "destination" };
            world.aws.put(&format!("/relay/{name}-token"), &world.token(*upstream));
        }
        Deed::Toggle(enabled) => {
            world.count("switched past the controller");
            let now = world.now();
            let settles_at = settled(&mut world.state().rng, now);
            let mapping = &mut world.aws.state().mapping;
            if mapping.enabled != *enabled {
                (mapping.enabled, mapping.settles_at) = (*enabled, settles_at);
            }
            world.state().checker.changed_at = now;
            world.switched.notify_waiters();
        }
        Deed::Deploy => {
            world.count("deploys");
            function.deploy();
        }
        Deed::SwitchOff { by_hand } => world.switch_off(*by_hand),
        Deed::SwitchOn => world.switch_on(),
        Deed::Recover { task, from } => {
            spawn_local(Arc::clone(world).ask(Arc::clone(function), task, instant(*from)));
        }
    }
}

fn invoke(world: &Arc<World>, function: &Arc<Function>, payload: &serde_json::Value) {
    spawn_local(eventbridge::run(Arc::clone(world), Arc::clone(function), payload.clone()));
}

impl World {
    /// From now on the event has to be delivered, or to stand in quarantine.
    fn accept(&self, id: &str, conversation: usize) {
        let accepted = Accepted { at: self.now(), conversation, deliveries: 0, quarantined: false };
        self.state().checker.events.entry(id.to_owned()).or_insert(accepted);
    }

    /// Writes the operator's word.
    fn say(&self, word: &Word) {
        self.count(match word.meaning {
            Meaning::Running => "resumes",
            Meaning::Held => "pauses",
            Meaning::HeldUntil(_) => "pauses until a time",
        });
        self.aws.put(PAUSE, &word.text);
        let now = self.now();
        let mut state = self.state();
        state.checker.words.push((now, word.meaning, word.text.clone()));
        state.checker.changed_at = now;
        state.changes.push(PAUSE);
    }
}
