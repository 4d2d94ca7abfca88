//! Customers whom Gladly deletes or merges, and the tombstones that must follow.

use std::time::Duration;

use fastrand::Rng;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::{
    constants::instant,
    plan::{Arrival, Conversation, ConversationKind, Erasure, Plan, moment},
};

/// The longest that Gladly goes on showing what it has deleted or merged.
const READ_LAG: Duration = Duration::from_secs(30);
/// From when on nothing that was deleted is fetched, by the contract.
const CERTAIN: SignedDuration = SignedDuration::from_secs(35);
const MINUTE: Duration = Duration::from_mins(1);

impl Erasure {
    /// The tombstones that must follow.
    pub(crate) fn tombstones(&self, plan: &Plan) -> Vec<Value> {
        let at = |later: SignedDuration| format!("{:.3}", instant(self.at) + later);
        let Some(into) = &self.into else {
            return vec![json!({
                "kind": "customer-deleted", "customerId": self.customer, "eventId": self.event,
                "at": at(CERTAIN),
            })];
        };
        let merged = |kind: &str, from: &str, into: &str| {
            let at = at(SignedDuration::ZERO);
            json!({"kind": kind, "from": from, "into": into, "eventId": self.event, "at": at})
        };
        let conversations = self.conversations.map(|both| {
            let [from, into] = both.map(|index| plan.conversations[index].id.as_str());
            merged("conversation-merged", from, into)
        });
        let customers = merged("customer-merged", &self.customer, into);
        [customers].into_iter().chain(conversations).collect()
    }

    fn json(&self, plan: &Plan, rng: &mut Rng) -> Value {
        let (kind, content) = match &self.into {
            None => ("CUSTOMER_PROFILE/DELETED", json!({"customerId": self.customer})),
            Some(into) => {
                let mut content =
                    json!({"sourceCustomerId": self.customer, "destinationCustomerId": into});
                if let Some([from, into]) = self.conversations {
                    content["sourceConversationId"] = json!(plan.conversations[from].id);
                    content["destinationConversationId"] = json!(plan.conversations[into].id);
                } else if rng.bool() {
                    content["sourceConversationId"] = json!("");
                }
                ("CUSTOMER/MERGED", content)
            }
        };
        let timestamp = instant(self.at).to_string();
        json!({"id": self.event, "type": kind, "timestamp": timestamp, "content": content})
    }
}

impl Plan {
    /// Some customers are deleted and some are merged, one in three of whom is deleted afterwards.
    pub(crate) fn draw_erasures(
        &mut self,
        rng: &mut Rng,
        span: Duration,
        (deletions, merges): (usize, usize),
    ) {
        for number in 0..deletions {
            let customer = format!("d-{number}");
            let at = moment(rng, Duration::ZERO, span);
            let shown_at = at + moment(rng, Duration::ZERO, READ_LAG);
            for _ in 0..rng.usize(1..3) {
                // Refused as long as it is there: its events are redriven after the deletion.
                let guilty = number < 4 && rng.u32(0..8) == 0;
                let kind =
                    if guilty { ConversationKind::Guilty(422) } else { ConversationKind::Plain };
                let index = self.add_conversation(&customer, kind, Some(shown_at));
                self.draw_events_before(rng, index, at);
            }
            self.draw_erasure(
                rng,
                Erasure {
                    customer,
                    at,
                    shown_at,
                    into: None,
                    conversations: None,
                    event: format!("deletion-{number}"),
                },
            );
        }
        for number in 0..merges {
            let (from, into) = (format!("m-{number}"), format!("n-{number}"));
            let at = moment(rng, Duration::ZERO, span);
            let shown_at = at + moment(rng, Duration::ZERO, READ_LAG);
            let both = [(&from, rng.bool().then_some(shown_at)), (&into, None)];
            let [source, remains] = both.map(|(customer, gone_from)| {
                self.add_conversation(customer, ConversationKind::Plain, gone_from)
            });
            for index in [source, remains] {
                self.draw_events_before(rng, index, at);
            }
            let conversations = both[0].1.map(|_| {
                let conversation = &mut self.conversations[remains];
                // For the items of the other one.
                let item = format!("{}-i-{}", conversation.id, conversation.items.len());
                conversation.items.push((shown_at, item));
                [source, remains]
            });
            let deleted_at = shown_at + moment(rng, Duration::ZERO, 10 * MINUTE);
            if rng.u32(0..3) == 0 {
                let shown_at = deleted_at + moment(rng, Duration::ZERO, READ_LAG);
                for index in [source, remains] {
                    self.conversations[index].gone_from.get_or_insert(shown_at);
                }
                self.draw_erasure(
                    rng,
                    Erasure {
                        customer: into.clone(),
                        at: deleted_at,
                        shown_at,
                        into: None,
                        conversations: None,
                        event: format!("deletion-after-{number}"),
                    },
                );
            }
            self.draw_erasure(
                rng,
                Erasure {
                    customer: from,
                    at,
                    shown_at,
                    into: Some(into),
                    conversations,
                    event: format!("merge-{number}"),
                },
            );
        }
        self.erasures.sort_by(|one, other| one.customer.cmp(&other.customer));
    }

    fn add_conversation(
        &mut self,
        customer: &str,
        kind: ConversationKind,
        gone_from: Option<Duration>,
    ) -> usize {
        let number = self.conversations.len();
        let customer = customer.to_owned();
        let conversation = Conversation::new(number, kind);
        self.conversations.push(Conversation { customer, gone_from, ..conversation });
        number
    }

    /// Events of a conversation, half of them in the last minute before this.
    fn draw_events_before(&mut self, rng: &mut Rng, index: usize, end: Duration) {
        for number in 0..rng.usize(1..4) {
            let from = if rng.bool() { end.saturating_sub(MINUTE) } else { Duration::ZERO };
            let at = moment(rng, from, end);
            let conversation = &mut self.conversations[index];
            let mut content =
                json!({"conversationId": conversation.id, "customerId": conversation.customer});
            let kind = if rng.bool() {
                let item = format!("{}-i-{}", conversation.id, conversation.items.len());
                content["messageId"] = json!(item);
                conversation.items.push((at, item));
                "MESSAGE/RECEIVED"
            } else {
                "TOPIC/ADDED"
            };
            let id = format!("e-of-{index}-{number}");
            let timestamp = instant(at).to_string();
            let json = json!({"id": id, "type": kind, "timestamp": timestamp, "content": content});
            // Some come after the customer's end.
            let late = at + moment(rng, Duration::ZERO, 2 * MINUTE / 60);
            self.arrivals.push((late, Arrival::Event { id, conversation: index, json }));
        }
        self.conversations[index].items.sort();
    }

    /// Gladly's event, which comes once or twice.
    fn draw_erasure(&mut self, rng: &mut Rng, erasure: Erasure) {
        let conversation = match erasure.conversations {
            Some([_, remains]) => remains,
            None => self.conversations.len() - 1,
        };
        let (id, json) = (erasure.event.clone(), erasure.json(self, rng));
        let late = erasure.at + moment(rng, Duration::ZERO, 2 * MINUTE / 60);
        let again = late + moment(rng, MINUTE, 20 * MINUTE);
        for at in [Some(late), (rng.u32(0..8) == 0).then_some(again)].into_iter().flatten() {
            let (id, json) = (id.clone(), json.clone());
            self.arrivals.push((at, Arrival::Event { id, conversation, json }));
        }
        self.erasures.push(erasure);
    }

    /// What becomes of a customer, if anything does.
    pub(crate) fn erasure(&self, customer: &str) -> Option<&Erasure> {
        let found = self.erasures.binary_search_by(|it| it.customer.as_str().cmp(customer));
        self.erasures.get(found.ok()?)
    }

    /// The deletion that reaches a customer: their own, or that of whom they were merged into.
    pub(crate) fn deletion(&self, customer: &str) -> Option<&Erasure> {
        let erasure = self.erasure(customer)?;
        erasure.into.as_ref().map_or(Some(erasure), |into| self.erasure(into))
    }
}
