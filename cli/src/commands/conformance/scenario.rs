//! What is sent to a receiver, and what it must show afterwards.

use serde_json::{Value, json};

use crate::commands::conformance::delivery::{Delivery, Scope};

/// Deliveries, and the snapshots that remain. Every event of the deliveries remains once.
pub(super) struct Scenario {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) shown: Vec<Value>,
    /// Whether they may arrive in any order, so that each is tried.
    pub(super) any_order: bool,
}

impl Scenario {
    fn in_any_order(
        deliveries: impl IntoIterator<Item = Delivery>,
        shown: impl IntoIterator<Item = Value>,
    ) -> Self {
        Self { any_order: true, ..Self::in_order(deliveries, shown) }
    }

    fn in_order(
        deliveries: impl IntoIterator<Item = Delivery>,
        shown: impl IntoIterator<Item = Value>,
    ) -> Self {
        let (deliveries, shown) = (deliveries.into_iter().collect(), shown.into_iter().collect());
        Self { deliveries, shown, any_order: false }
    }
}

/// The claim that a scenario tries.
type Row = (&'static str, fn(&Scope) -> Scenario);

/// All scenarios.
pub(super) const SCENARIOS: &[Row] = &[
    ("a repeat of a delivery changes nothing", repeats),
    ("an event that comes in two deliveries is one event", repeated_event),
    ("a snapshot with a later fetchedAt replaces an earlier one", newest),
    ("fetchedAt is compared as a time, not as text", times),
    ("customer-deleted voids what was fetched before", deleted),
    ("the latest deletion of a customer counts", deleted_twice),
    ("the time of a deletion is compared as a time, not as text", deletion_times),
    ("customer-merged alone voids nothing, nor does the deletion of what was merged away", merged),
    ("customer-deleted reaches customers that were merged into it", deleted_after_merge),
    ("customer-deleted reaches customers that were merged into it through others", merge_chain),
    ("merges in a cycle end", merge_cycle),
    ("conversation-merged voids every snapshot of the conversation", merged_conversation),
    ("a delivery may hold snapshots and the tombstone that voids one of them", mixed),
    ("covered and gone events come without a snapshot and void nothing", covered),
    ("what version 1 may add is ignored", unknown),
    ("only the required fields are required", minimal),
    ("a gzipped delivery is accepted", gzip),
    ("100 conversations in one delivery are accepted", hundred),
    ("a conversation of 3 MB is accepted and kept whole, plain and gzipped", large),
];

fn repeats(scope: &Scope) -> Scenario {
    let snapshots = [scope.snapshot("c", "u", 10), scope.snapshot("d", "v", 10)];
    let delivery = Delivery::new("a delivery", scope)
        .events([scope.event("e", "c", "included"), scope.event("f", "d", "included")])
        .conversations(snapshots.clone())
        .tombstones([scope.deleted("v", 20)]);
    let [shown, _] = snapshots;
    Scenario::in_order([delivery.clone(), delivery.clone(), delivery], [shown])
}

fn repeated_event(scope: &Scope) -> Scenario {
    let snapshot = scope.snapshot("c", "u", 10);
    let mut again = scope.event("e", "c", "covered");
    again["heldMs"] = 5_000.into();
    let deliveries = [
        Delivery::new("an event with its snapshot", scope)
            .events([scope.event("e", "c", "included")])
            .conversations([snapshot.clone()]),
        Delivery::new("the same event, covered", scope).events([again]),
        Delivery::new("the same event beside another", scope)
            .events([scope.event("e", "c", "covered"), scope.event("f", "c", "covered")]),
    ];
    Scenario::in_any_order(deliveries, [snapshot])
}

fn newest(scope: &Scope) -> Scenario {
    let sent = |second| {
        Delivery::new(format!("fetched at {second} s"), scope)
            .conversations([scope.snapshot("c", "u", second)])
    };
    Scenario::in_any_order([sent(10), sent(20), sent(30)], [scope.snapshot("c", "u", 30)])
}

fn times(scope: &Scope) -> Scenario {
    // Each pair is a time and a later one, although most would sort otherwise as texts, or are equal in milliseconds or
    // microseconds.
    let pairs = [
        (scope.timestamp(5, "Z"), scope.timestamp(5, ".5Z")),
        (scope.timestamp(5, ".9Z"), scope.timestamp(5, ".900000001Z")),
        (scope.timestamp(5, ".123456788Z"), scope.timestamp(5, ".123456789Z")),
        (scope.timestamp(5, ".000999Z"), scope.timestamp(5, ".001Z")),
        (scope.timestamp(3_605, "+01:00"), scope.timestamp(6, "Z")),
        (scope.timestamp(5, "Z"), scope.timestamp(6 - 3_600, "-01:00")),
    ];
    let of = |times: Vec<&String>| {
        let named = times.into_iter().enumerate();
        named.map(|(n, time)| scope.snapshot_at(&format!("c{n}"), "u", time)).collect::<Vec<_>>()
    };
    let earlier = of(pairs.iter().map(|(earlier, _)| earlier).collect());
    let later = of(pairs.iter().map(|(_, later)| later).collect());
    let deliveries = [
        Delivery::new("the earlier ones", scope).conversations(earlier),
        Delivery::new("the later ones", scope).conversations(later.clone()),
    ];
    Scenario::in_any_order(deliveries, later)
}

fn deleted(scope: &Scope) -> Scenario {
    let stays =
        [scope.snapshot("c", "u", 20), scope.snapshot("e", "u", 20), scope.snapshot("f", "w", 10)];
    let [again, at_once, of_another] = stays.clone();
    let deliveries = [
        Delivery::new("fetched before the deletion", scope).conversations([
            scope.snapshot("c", "u", 10),
            scope.snapshot("d", "u", 10),
            of_another,
        ]),
        Delivery::new("the deletion alone", scope).tombstones([scope.deleted("u", 20)]),
        Delivery::new("fetched at its time", scope).conversations([again, at_once]),
    ];
    Scenario::in_any_order(deliveries, stays)
}

fn deleted_twice(scope: &Scope) -> Scenario {
    let stays = scope.snapshot("e", "u", 30);
    let mut later = scope.deleted("u", 20);
    later["eventId"] = scope.id("deleted-again").into();
    let deliveries = [
        Delivery::new("three snapshots", scope).conversations([
            scope.snapshot("c", "u", 5),
            scope.snapshot("d", "u", 15),
            stays.clone(),
        ]),
        Delivery::new("a deletion at 10 s", scope).tombstones([scope.deleted("u", 10)]),
        Delivery::new("a deletion at 20 s", scope).tombstones([later]),
    ];
    Scenario::in_any_order(deliveries, [stays])
}

fn deletion_times(scope: &Scope) -> Scenario {
    let at = scope.timestamp(10, ".500000001Z");
    let stays = scope.snapshot_at("d", "u", &at);
    let deliveries = [
        Delivery::new("snapshots", scope).conversations([
            scope.snapshot_at("c", "u", &scope.timestamp(10, "Z")),
            scope.snapshot_at("e", "u", &scope.timestamp(3_610, ".5+01:00")),
            stays.clone(),
        ]),
        Delivery::new("the deletion", scope).tombstones([scope.deleted_at("u", &at)]),
    ];
    Scenario::in_any_order(deliveries, [stays])
}

fn merged(scope: &Scope) -> Scenario {
    let stays = scope.snapshot("d", "into", 10);
    let deliveries = [
        Delivery::new("a snapshot of the survivor", scope).conversations([stays.clone()]),
        Delivery::new("the merge", scope).tombstones([scope.merged("from", "into")]),
        Delivery::new("the deletion of what was merged away", scope)
            .tombstones([scope.deleted("from", 20)]),
    ];
    Scenario::in_any_order(deliveries, [stays])
}

fn deleted_after_merge(scope: &Scope) -> Scenario {
    let stays = [scope.snapshot("d", "from", 30), scope.snapshot("e", "other", 10)];
    let deliveries = [
        Delivery::new("snapshots", scope)
            .conversations([scope.snapshot("c", "from", 10)].into_iter().chain(stays.clone())),
        Delivery::new("the merge", scope).tombstones([scope.merged("from", "into")]),
        Delivery::new("the deletion of the survivor", scope)
            .tombstones([scope.deleted("into", 20)]),
    ];
    Scenario::in_any_order(deliveries, stays)
}

fn merge_chain(scope: &Scope) -> Scenario {
    let deliveries = [
        Delivery::new("a snapshot of the first", scope)
            .conversations([scope.snapshot("c", "first", 10)]),
        Delivery::new("first into second", scope).tombstones([scope.merged("first", "second")]),
        Delivery::new("second into third", scope).tombstones([scope.merged("second", "third")]),
        Delivery::new("the deletion of the third", scope).tombstones([scope.deleted("third", 20)]),
    ];
    Scenario::in_any_order(deliveries, [])
}

fn merge_cycle(scope: &Scope) -> Scenario {
    let deliveries = [
        Delivery::new("a snapshot of the first", scope)
            .conversations([scope.snapshot("c", "first", 10)]),
        Delivery::new("first into second", scope).tombstones([scope.merged("first", "second")]),
        Delivery::new("second into first", scope).tombstones([scope.merged("second", "first")]),
        Delivery::new("the deletion of the second", scope)
            .tombstones([scope.deleted("second", 20)]),
    ];
    Scenario::in_any_order(deliveries, [])
}

fn merged_conversation(scope: &Scope) -> Scenario {
    let stays = scope.snapshot("into", "u", 10);
    let deliveries = [
        Delivery::new("both conversations", scope)
            .conversations([scope.snapshot("from", "u", 10), stays.clone()]),
        Delivery::new("the merge", scope).tombstones([scope.merged_conversation("from", "into")]),
        Delivery::new("a later snapshot of what was merged away", scope)
            .conversations([scope.snapshot("from", "u", 30)]),
    ];
    Scenario::in_any_order(deliveries, [stays])
}

fn mixed(scope: &Scope) -> Scenario {
    let stays = scope.snapshot("d", "u", 30);
    let delivery = Delivery::new("snapshots from before and after a deletion, with it", scope)
        .events([scope.event("e", "c", "included")])
        .conversations([scope.snapshot("c", "u", 10), stays.clone()])
        .tombstones([scope.deleted("u", 20), scope.merged("u", "v")]);
    Scenario::in_order([delivery], [stays])
}

fn covered(scope: &Scope) -> Scenario {
    let snapshot = scope.snapshot("c", "u", 10);
    let deliveries = [
        Delivery::new("a snapshot", scope)
            .events([scope.event("e", "c", "included")])
            .conversations([snapshot.clone()]),
        Delivery::new("a covered event", scope).events([scope.event("f", "c", "covered")]),
        Delivery::new("a gone event of another conversation", scope)
            .events([scope.event("g", "d", "gone")]),
    ];
    Scenario::in_any_order(deliveries, [snapshot])
}

fn unknown(scope: &Scope) -> Scenario {
    let mut event = scope.event("e", "c", "included");
    event["type"] = "ROBOT/PROMOTED".into();
    let mut snapshot = scope.snapshot("c", "u", 10);
    snapshot["status"] = "DREAMING".into();
    snapshot["items"][0]["type"] = "TELEPATHY".into();
    let mut deletion = scope.deleted("v", 20);
    let strange =
        json!({"kind": "inbox-deleted", "eventId": scope.id("inbox"), "at": scope.second(0)});
    for value in [&mut event, &mut snapshot, &mut deletion] {
        value["addedInVersion1"] = json!({"of": ["any", "type"]});
    }
    snapshot["items"][0]["addedInVersion1"] = true.into();
    snapshot["customAttributes"] =
        json!([{"id": "size", "value": 5}, {"id": "size", "value": {"of": "any type"}}]);
    let delivery = Delivery::new("a delivery with unknown fields, types and kinds", scope)
        .with("addedInVersion1", json!({"of": ["any", "type"]}))
        .events([event])
        .conversations([snapshot.clone(), scope.snapshot("d", "v", 10)])
        .tombstones([strange, deletion]);
    Scenario::in_order([delivery], [snapshot])
}

fn minimal(scope: &Scope) -> Scenario {
    let snapshot = json!({"id": scope.id("c"), "fetchedAt": scope.second(10), "items": [], "truncated": false});
    let mut event = scope.event("e", "c", "included");
    for name in ["timestamp", "content"] {
        event.as_object_mut().map(|fields| fields.remove(name));
    }
    let delivery = Delivery::new("a delivery without optional fields", scope)
        .events([event])
        .conversations([snapshot.clone()]);
    Scenario::in_order([delivery], [snapshot])
}

fn gzip(scope: &Scope) -> Scenario {
    let snapshot = scope.snapshot("c", "u", 10);
    let delivery = Delivery::new("a gzipped delivery", scope)
        .events([scope.event("e", "c", "included")])
        .conversations([snapshot.clone()]);
    Scenario::in_order([delivery.gzipped()], [snapshot])
}

fn hundred(scope: &Scope) -> Scenario {
    let snapshots: Vec<_> = (0..100)
        .map(|number| scope.snapshot(&format!("c{number}"), &format!("u{number}"), 10))
        .collect();
    let events = (0..100)
        .map(|number| scope.event(&format!("e{number}"), &format!("c{number}"), "included"));
    let delivery =
        Delivery::new("100 conversations", scope).events(events).conversations(snapshots.clone());
    Scenario::in_order([delivery], snapshots)
}

fn large(scope: &Scope) -> Scenario {
    let of = |conversation: &str| {
        let mut snapshot = scope.snapshot(conversation, "u", 10);
        // The text is there twice: as such, and in the content.
        let items =
            (0..300).map(|number| scope.item(number, &format!("{number} é 😀 ").repeat(400)));
        snapshot["items"] = items.collect();
        snapshot
    };
    let snapshots = [of("c"), of("d")];
    let [plain, gzipped] = snapshots.clone();
    let deliveries = [
        Delivery::new("a conversation of 3 MB", scope).conversations([plain]),
        Delivery::new("a gzipped conversation of 3 MB", scope).conversations([gzipped]).gzipped(),
    ];
    Scenario::in_order(deliveries, snapshots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_conversation_is_larger_than_what_the_relay_batches() {
        let scope = Scope::new("test", "2026-01-01T00:00:00Z".parse().unwrap());
        let sizes =
            large(&scope).deliveries.iter().map(|it| it.json.to_string().len()).collect::<Vec<_>>();
        assert!(sizes.iter().all(|size| (2_800_000..=3_600_000).contains(size)), "{sizes:?}");
    }
}
