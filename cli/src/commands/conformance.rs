//! `conformance`: whether a receiver does what docs/DELIVERY.md asks of it, tried with made-up deliveries.

mod delivery;
mod receiver;
mod scenario;
mod state;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::HttpUrl;

use crate::{
    Context,
    args::ConformanceArgs,
    commands::{
        conformance::{
            delivery::{Delivery, Scope},
            receiver::Receiver,
            scenario::{SCENARIOS, Scenario},
            state::{Expected, compare},
        },
        secrets::ask::check_destination_token,
    },
    error::{Error, Result},
    given::{self, Given},
    settings::{AUTHORIZATION, Setting},
    terminal::Mark,
};

/// Deliveries at a time, where several are sent at once.
const CONCURRENCY: usize = 8;
/// How many small deliveries are followed by a look at once after the answer.
const SMALL_READS: usize = 100;
/// How many that take long to store.
const LARGE_READS: usize = 5;
/// How many snapshots of one conversation are sent at once.
const RIVALS: usize = 40;

/// What a check has seen, or what was expected and seen instead.
type Finding = std::result::Result<String, String>;

pub(crate) async fn run(context: &Context, args: &ConformanceArgs) -> Result<()> {
    let receiver = receiver(context, args).await?;
    let run = format!("{:08x}", fastrand::u32(..));
    let scope = Scope::new(&run, Timestamp::now());
    check_access(&receiver, &scope).await?;
    context.terminal.say(&format!(
        "Sending made-up deliveries to {}; every id begins with {}.",
        args.receiver,
        scope.prefix()
    ));
    let kit = Kit { receiver, scope };
    let mut results = Vec::new();
    let mut report = |claim: &str, finding: Finding| {
        let (mark, detail) = match finding {
            Ok(seen) => (Mark::Good, seen),
            Err(difference) => (Mark::Wrong, difference),
        };
        context.terminal.mark(mark, &format!("{claim}: {detail}"));
        results.push(json!({"claim": claim, "ok": mark == Mark::Good, "detail": detail}));
    };
    let terminal = &context.terminal;
    report("a wrong token is refused", terminal.during("checking", kit.wrong_tokens()).await);
    report(
        "an unknown version of the schema is refused",
        terminal.during("checking", kit.unknown_version()).await,
    );
    for (number, (claim, scenario)) in SCENARIOS.iter().enumerate() {
        let scope = kit.scope.part(number);
        report(claim, terminal.during("checking", kit.scenario(&scope, *scenario)).await);
    }
    report(
        "a delivery is stored before it is answered",
        terminal.during("checking", kit.immediate_reads()).await,
    );
    report(
        "of snapshots that arrive at the same time the newest remains",
        terminal.during("checking", kit.rivals()).await,
    );
    report(
        "nothing of this run is shown after tombstones for all of it",
        terminal.during("erasing what was sent", kit.erase()).await,
    );
    let failed = results.iter().filter(|result| result["ok"] == false).count();
    context.terminal.result(
        "conformance",
        &json!({"receiver": args.receiver, "prefix": kit.scope.prefix(), "checks": results}),
    );
    match failed {
        0 => context.terminal.say(&format!("All {} checks passed.", results.len())),
        1 => return Err(Error::wrong(format!("1 of {} checks failed.", results.len()))),
        _ => return Err(Error::wrong(format!("{failed} of {} checks failed.", results.len()))),
    }
    Ok(())
}

/// The receiver that was given, with its token.
async fn receiver(context: &Context, args: &ConformanceArgs) -> Result<Receiver> {
    let beside = || {
        let path = args.receiver.split('?').next().unwrap_or_default();
        format!("{}/state", path.trim_end_matches('/'))
    };
    let state = args.state.clone().unwrap_or_else(beside);
    for (option, url) in [("--receiver", &args.receiver), ("--state", &state)] {
        let is_safe = url.parse::<HttpUrl>().is_ok_and(|url| url.is_https() || url.is_loopback());
        if !is_safe {
            return Err(Error::usage(format!(
                "{option}: expected an https:// URL, or one on this machine such as http://127.0.0.1:8080."
            )));
        }
    }
    let header = args.destination_token_header.as_deref().unwrap_or(AUTHORIZATION).trim();
    Setting::DestinationTokenHeader.check(header)?;
    let token = match Given::read(&context.terminal)?.destination_token {
        Some(token) => Some(token),
        None => context.terminal.ask_secret("Token of the receiver").await?,
    };
    let token = token.ok_or_else(|| {
        Error::usage("DESTINATION_TOKEN is missing: export it, or run this at a terminal.")
    })?;
    given::check("DESTINATION_TOKEN", &token)?;
    check_destination_token(&token, header)?;
    Ok(Receiver::new(&args.receiver, state, header, token))
}

/// Refuses a receiver whose state cannot be read: nothing could be concluded.
async fn check_access(receiver: &Receiver, scope: &Scope) -> Result<()> {
    let answer = receiver.read_state(scope.prefix()).await;
    match answer.map(|answer| answer.status) {
        Ok(200) => {}
        Ok(status @ (401 | 403)) => {
            return Err(Error::denied(format!(
                "the receiver rejects the token (HTTP {status}) for its state; is it the right one, and is the header?"
            )));
        }
        Ok(status) => {
            return Err(Error::failed(format!(
                "could not read the receiver's state (HTTP {status}); docs/DELIVERY.md describes what it has to \
                 answer, and --state where."
            )));
        }
        Err(reason) => return Err(Error::failed(format!("{reason}."))),
    }
    receiver
        .state(scope.prefix())
        .await
        .map(drop)
        .map_err(|reason| Error::failed(format!("{reason}.")))
}

/// A run against one receiver.
struct Kit {
    receiver: Receiver,
    scope: Scope,
}

impl Kit {
    async fn wrong_tokens(&self) -> Finding {
        let scope = self.scope.part("token");
        let delivery = Delivery::new("a delivery", &scope)
            .events([scope.event("e", "c", "included")])
            .conversations([scope.snapshot("c", "u", 10)]);
        let right = self.receiver.token();
        let longer = format!("{right}x");
        let shorter = right.get(..right.len() - 1).unwrap_or_default();
        let tokens = [
            ("no token", None),
            ("another token", Some("conformance-wrong-token")),
            ("the token and one character more", Some(&*longer)),
            ("the token without its last character", Some(shorter)),
        ];
        for (name, token) in tokens {
            match self.receiver.post(&delivery, token).await? {
                401 | 403 => {}
                status => return Err(format!("expected HTTP 401 or 403 for {name}, got {status}")),
            }
        }
        let state = self.receiver.state(scope.prefix()).await?;
        compare(&scope, &Expected::default(), &state).map_err(|difference| {
            format!("expected that nothing is stored with a wrong token; {difference}")
        })?;
        Ok("no token and 3 wrong ones".into())
    }

    async fn unknown_version(&self) -> Finding {
        let scope = self.scope.part("version");
        let delivery = Delivery::new("a delivery", &scope)
            .with("schema", "gladly-relay/delivery/999".into())
            .events([scope.event("e", "c", "included")])
            .conversations([scope.snapshot("c", "u", 10)]);
        match self.receiver.post(&delivery, Some(self.receiver.token())).await? {
            status @ (400 | 422) => {
                let state = self.receiver.state(scope.prefix()).await?;
                compare(&scope, &Expected::default(), &state).map_err(|difference| {
                    format!("expected that nothing of it is stored; {difference}")
                })?;
                Ok(format!("HTTP {status}"))
            }
            status => Err(format!("expected HTTP 400 or 422, got {status}")),
        }
    }

    /// Tries a scenario in each order of its deliveries.
    async fn scenario(&self, scope: &Scope, scenario: fn(&Scope) -> Scenario) -> Finding {
        let trial = scenario(scope);
        let orders = orders(trial.deliveries.len(), trial.any_order);
        let count = orders.len();
        let tried =
            stream::iter(orders.into_iter().enumerate()).map(|(number, order)| async move {
                let scope = scope.part(number);
                self.in_this_order(&scope, &scenario(&scope), &order).await
            });
        tried.buffered(CONCURRENCY).try_collect::<Vec<()>>().await?;
        Ok(match count {
            1 => "as expected".into(),
            _ => format!("as expected in {count} orders"),
        })
    }

    async fn in_this_order(
        &self,
        scope: &Scope,
        scenario: &Scenario,
        order: &[usize],
    ) -> std::result::Result<(), String> {
        let deliveries = || order.iter().filter_map(|index| scenario.deliveries.get(*index));
        for delivery in deliveries() {
            self.receiver.deliver(delivery).await?;
        }
        let expected = Expected::of(&scenario.deliveries, &scenario.shown);
        let state = self.receiver.state(scope.prefix()).await?;
        compare(scope, &expected, &state).map_err(|difference| {
            let sent: Vec<_> = deliveries().map(|delivery| &*delivery.label).collect();
            format!("{difference}; sent: {}", sent.join(", then "))
        })
    }

    /// Looks for what each delivery held, at once after its answer: many small ones, while others are on their way, and a
    /// few that take long to store, so that one which is answered too early is not there yet.
    async fn immediate_reads(&self) -> Finding {
        let scope = &self.scope.part("read");
        let small = stream::iter(0..SMALL_READS)
            .map(|number| self.immediate_read(scope.part(number), Vec::new(), Vec::new()))
            .buffered(CONCURRENCY);
        let large = stream::iter(0..LARGE_READS).map(|number| {
            let others = scope.part(format!("large{number}"));
            let name = |kind: char, number: usize| format!("{kind}{number}");
            let snapshots = (0..99).map(|it| others.snapshot(&name('c', it), &name('u', it), 10));
            let events =
                (0..400).map(|it| others.event(&name('e', it), &name('c', it % 99), "included"));
            self.immediate_read(others.part("last"), events.collect(), snapshots.collect())
        });
        let found: Vec<_> = small.chain(large.buffered(1)).try_collect().await?;
        let differences: Vec<_> = found.iter().flatten().collect();
        match &differences[..] {
            [] => Ok(format!("read {} times at once after the answer", found.len())),
            [first, ..] => Err(format!(
                "{first}, at once after the answer ({} of {} times)",
                differences.len(),
                found.len()
            )),
        }
    }

    /// Sends a delivery with a snapshot and an event after these, and reads them once it is answered. Returns how they differ.
    async fn immediate_read(
        &self,
        scope: Scope,
        mut events: Vec<Value>,
        mut snapshots: Vec<Value>,
    ) -> std::result::Result<Option<String>, String> {
        let (event, snapshot) = (scope.event("e", "c", "included"), scope.snapshot("c", "u", 10));
        let last = Delivery::new("the last ones", &scope).events([event.clone()]);
        let expected = Expected::of(&[last], std::slice::from_ref(&snapshot));
        events.push(event);
        snapshots.push(snapshot);
        let delivery = Delivery::new("a delivery", &scope).events(events).conversations(snapshots);
        self.receiver.deliver(&delivery).await?;
        let state = self.receiver.state(scope.prefix()).await?;
        Ok(compare(&scope, &expected, &state).err())
    }

    /// Sends snapshots of one conversation at the same time. What is shown is never older than what was answered.
    async fn rivals(&self) -> Finding {
        let scope = &self.scope.part("rivals");
        let sent = stream::iter(0..RIVALS).map(|number| async move {
            // Each second once, in an order without order: the step and the count have no common divisor.
            let second = i64::try_from(number * 17 % RIVALS).unwrap_or_default();
            let snapshot = scope.snapshot("c", "u", second);
            let expected = Expected::of(&[], std::slice::from_ref(&snapshot));
            let delivery = Delivery::new("a snapshot", scope).conversations([snapshot]);
            self.receiver.deliver(&delivery).await?;
            let state = self.receiver.state(scope.prefix()).await?;
            let shown = state.conversations.values().flatten().map(|it| it.fetched_at).max();
            let least = expected.shown.values().map(|it| it.fetched_at).max();
            if shown >= least {
                return Ok(());
            }
            Err(format!(
                "expected a snapshot fetched at {} or later, got {}",
                text(least),
                text(shown)
            ))
        });
        sent.buffered(CONCURRENCY).try_collect::<Vec<()>>().await?;
        let newest = scope.snapshot("c", "u", i64::try_from(RIVALS - 1).unwrap_or_default());
        let state = self.receiver.state(scope.prefix()).await?;
        compare(scope, &Expected::of(&[], &[newest]), &state)?;
        Ok(format!("{RIVALS} snapshots, {CONCURRENCY} at a time"))
    }

    /// Has everything forgotten that the run has sent and the receiver still shows.
    async fn erase(&self) -> Finding {
        let scope = &self.scope;
        let state = self.receiver.state(scope.prefix()).await?;
        let ids: Vec<_> = state.conversations.keys().map(|id| scope.name(id)).collect();
        for (number, ids) in ids.chunks(100).enumerate() {
            let tombstones = ids.iter().map(|id| scope.merged_conversation(id, "nothing"));
            let tombstones = tombstones.enumerate().map(|(at, mut tombstone)| {
                tombstone["eventId"] = scope.id(&format!("erased-{number}-{at}")).into();
                tombstone
            });
            self.receiver
                .deliver(&Delivery::new("tombstones", scope).tombstones(tombstones))
                .await?;
        }
        let state = self.receiver.state(scope.prefix()).await?;
        match state.conversations.len() {
            0 => Ok(format!("{} conversations erased", ids.len())),
            left => Err(format!("expected no conversation, got {left}")),
        }
    }
}

fn text(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "none".to_owned(), |time| time.to_string())
}

/// Every order of so many things, or the given one.
fn orders(count: usize, any: bool) -> Vec<Vec<usize>> {
    if !any {
        return vec![(0..count).collect()];
    }
    (0..count).fold(vec![Vec::new()], |orders, next| {
        let with_next = |order: Vec<usize>| {
            (0..=order.len()).map(move |place| {
                let mut order = order.clone();
                order.insert(place, next);
                order
            })
        };
        orders.into_iter().flat_map(with_next).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::commands::conformance::delivery::PREFIX;

    use super::*;

    #[test]
    fn every_order_is_tried_once() {
        assert_eq!(orders(3, false), [[0, 1, 2]]);
        let orders: BTreeSet<_> = orders(4, true).into_iter().collect();
        assert_eq!(orders.len(), 24);
    }

    #[test]
    fn ids_of_the_kit_are_recognisable_and_fit_the_schema() {
        let scope = Scope::new("01234567", "2026-01-01T00:00:00.5Z".parse().unwrap());
        let id = scope.part("version").part(23).id("deleted-again");
        assert!(id.starts_with(PREFIX) && id.parse::<shared::Id>().is_ok(), "{id}");
        assert_eq!(scope.second(5), "2025-12-31T23:00:05.000Z");
    }
}
