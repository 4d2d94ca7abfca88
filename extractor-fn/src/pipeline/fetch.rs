//! Fetches everything that Gladly has about a conversation, in as few calls as possible.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use serde_json::value::{RawValue, to_raw_value};
use shared::{Clock, Id};
use tokio::{time::Instant, try_join};

use crate::{
    client::gladly::{Gladly, GladlyError, Profile},
    config::DeliveryOptions,
    gate::breaker::Upstream,
    pipeline::cache::Cached,
    pipeline::cache::bounded::{Bounded, Weight},
    pipeline::cache::names::NameList,
    pipeline::cache::parts::{Part, Parts},
    pipeline::context::BatchContext,
    pipeline::coverage::Shown,
    pipeline::deletions::Deletions,
    pipeline::event::{Event, ItemRef},
    pipeline::snapshot::{
        self, Conversation, SnapshotInput,
        customer::Customer,
        item::{Item, transcript_text},
    },
};

/// How long a customer is cached.
const CUSTOMER_TTL: SignedDuration = SignedDuration::from_mins(10);
/// How many customers are kept, and in how many bytes.
const CUSTOMERS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
const CUSTOMERS_BYTES: usize = 8 << 20;
/// How often a customer may have been merged into another.
const MAX_MERGES: usize = 3;
/// How many parts of one conversation are fetched at once: few, so that other conversations get
/// their turns between them.
const PARTS_AT_ONCE: usize = 4;
/// The most bytes of transcripts in a conversation; the rest is left out.
const TRANSCRIPTS_BYTES: usize = 4 << 20;
/// Once an event has been received this often, its conversation is delivered with the transcripts
/// that there was time for.
const LAST_TRY: u32 = 5;

/// Fetches conversations, and caches what they share.
pub(crate) struct Fetcher {
    gladly: Arc<Gladly>,
    options: DeliveryOptions,
    clock: Clock,
    agents: NameList,
    topics: NameList,
    inboxes: NameList,
    customers: Mutex<Bounded<Known>>,
    deletions: Arc<Deletions>,
    parts: Parts,
}

/// A cached lookup of a customer.
struct Known {
    cell: Arc<Cached<CustomerLookup>>,
    bytes: usize,
}

impl Weight for Known {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The result of looking up a customer.
enum CustomerLookup {
    /// The customer's JSON, as it is delivered.
    Customer(Arc<RawValue>),
    Merged(Id),
    Gone,
}

/// A conversation, fetched.
pub(crate) enum Fetched {
    Snapshot(Snapshot),
    /// Gladly no longer has it.
    Gone {
        /// Its customer is deleted, and all of their conversations with them, or merged, and one of two open
        /// conversations with them: Gladly itself is not at fault.
        is_explained: bool,
        customer_deleted: bool,
    },
    /// Its customer was deleted a moment ago, and Gladly may still show it: not before this long.
    Postponed(Duration),
}

/// A conversation as it is delivered.
pub(crate) struct Snapshot {
    pub(crate) fetched_at: Timestamp,
    pub(crate) json: Box<RawValue>,
    /// It has all items and transcripts, and everything that the events are about: it may cover others.
    pub(crate) is_complete: bool,
    pub(crate) shown: Shown,
    /// Ids of items that events are about and that Gladly does not show yet.
    pub(crate) missing: HashSet<Id>,
}

impl Fetcher {
    pub(crate) fn new(
        gladly: Arc<Gladly>,
        options: DeliveryOptions,
        deletions: Arc<Deletions>,
        clock: Clock,
    ) -> Self {
        Self {
            gladly,
            options,
            deletions,
            parts: Parts::new(clock.clone()),
            clock,
            agents: NameList::new("agents"),
            topics: NameList::new("topics"),
            inboxes: NameList::new("inboxes"),
            customers: Mutex::new(Bounded::new(CUSTOMERS, CUSTOMERS_BYTES)),
        }
    }

    pub(crate) fn gladly(&self) -> &Gladly {
        &self.gladly
    }

    /// Whether an earlier attempt fetched part of a conversation that was not delivered.
    pub(crate) fn is_unfinished(&self, conversation: &Id) -> bool {
        self.parts.has(conversation)
    }

    /// A conversation was delivered: its parts are no longer needed.
    pub(crate) fn finished(&self, conversation: &Id) {
        self.parts.forget(conversation);
    }

    /// Fetches the conversation that all of `events` are about.
    pub(crate) async fn fetch(
        &self,
        id: &Id,
        events: &[Event],
        context: &BatchContext,
    ) -> Result<Fetched, GladlyError> {
        let fetched_at = self.clock.now();
        let customers = || events.iter().filter_map(|event| event.customer.as_ref());
        let wait = |customer| self.deletions.wait(customer, fetched_at);
        if let Some(wait) = customers().filter_map(wait).max() {
            return Ok(Fetched::Postponed(wait));
        }
        let (conversation, list) =
            try_join!(self.gladly.conversation(id, context), self.gladly.items(id, context))?;
        let (Some(conversation), Some(list)) = (conversation, list) else {
            let second_look = events.iter().any(|event| !event.is_new());
            return Ok(match customers().next().cloned() {
                Some(customer) if self.deletions.contains(&customer) => {
                    Fetched::Gone { is_explained: true, customer_deleted: true }
                }
                Some(customer) if second_look => {
                    let (remains, seen) = self.look_up(customer.clone(), context).await?;
                    let customer_deleted = matches!(*seen, CustomerLookup::Gone);
                    let is_merged =
                        remains != customer || matches!(*seen, CustomerLookup::Merged(_));
                    Fetched::Gone { is_explained: customer_deleted || is_merged, customer_deleted }
                }
                _ => Fetched::Gone { is_explained: false, customer_deleted: false },
            });
        };
        context.served(Upstream::Gladly).await;
        let conversation =
            Conversation::read(&conversation).ok_or(GladlyError::Unreadable("a conversation"))?;
        let mut items = Item::list(&list.json).ok_or(GladlyError::Unreadable("a list of items"))?;

        let mut missing: HashMap<&Id, &ItemRef> = events
            .iter()
            .filter_map(|event| event.item.as_ref())
            .map(|item| (item.id(), item))
            .collect();
        for shown in items.iter().filter_map(|item| item.id()?.parse::<Id>().ok()) {
            missing.remove(&shown);
        }
        let closed_at = items.iter().filter_map(Item::closed_at).max();
        let ids = items.iter().rev().filter_map(Item::id);
        let shown = Shown::new(ids, conversation.is_closed(), closed_at);
        let mut cut_off = Vec::new();
        if list.truncated {
            // A truncated list may end before them.
            let wanted: Vec<_> = missing.drain().map(|(_, item)| item.clone()).collect();
            cut_off = stream::iter(wanted)
                .map(|item| self.item(id, item, context))
                .buffer_unordered(PARTS_AT_ONCE)
                .try_collect()
                .await?;
        }
        items.extend(cut_off.iter().filter_map(|json: &Arc<str>| Item::read(json)));

        let customer_id = conversation
            .customer_id()
            .or_else(|| events.iter().find_map(|event| event.customer.clone()));
        let is_last_try = events.iter().any(|event| event.receives >= LAST_TRY);
        let calls = items.iter().filter(|item| item.is_call());
        // The newest first: the events are about those.
        let calls = calls.rev().filter_map(|item| item.id()?.parse().ok()).collect();
        let agent: Vec<_> = conversation.agent_id().into_iter().collect();
        let inbox: Vec<_> = conversation.inbox_id().into_iter().collect();
        let topics = conversation.topic_ids().unwrap_or_default();
        let names = async |list: &NameList, ids: &[_]| {
            list.get(ids, &self.gladly, &self.clock, context).await.map_err(GladlyError::from)
        };
        let ((transcripts, is_cut), (customer_id, customer), agents, topics, inboxes) = try_join!(
            self.transcripts(id, calls, is_last_try, context),
            self.customer(customer_id, context),
            names(&self.agents, &agent),
            names(&self.topics, &topics),
            names(&self.inboxes, &inbox),
        )?;
        // Of a customer whom no event names, that is known only now.
        if customer_id.as_ref().is_some_and(|id| self.deletions.void(id, fetched_at)) {
            let wait = customer_id.and_then(|id| self.deletions.wait(&id, self.clock.now()));
            return Ok(Fetched::Postponed(wait.unwrap_or_default()));
        }
        let truncated = list.truncated || is_cut;
        let json = snapshot::build(SnapshotInput {
            id,
            fetched_at,
            customer_id: customer_id.as_ref(),
            conversation: &conversation,
            items,
            truncated,
            transcripts: &transcripts,
            customer: customer.as_deref(),
            agents: &agents,
            topics: &topics,
            inboxes: &inboxes,
            contact: self.options.contact,
            notes: self.options.notes,
        });
        Ok(Fetched::Snapshot(Snapshot {
            fetched_at,
            json: json
                .map_err(|_| GladlyError::Unreadable("a conversation that can be written"))?,
            is_complete: !truncated && missing.is_empty(),
            shown,
            missing: missing.into_keys().cloned().collect(),
        }))
    }

    /// An item of a conversation, as JSON; empty if there is none.
    async fn item(
        &self,
        conversation: &Id,
        item: ItemRef,
        context: &BatchContext,
    ) -> Result<Arc<str>, GladlyError> {
        let fetch = async {
            match &item {
                ItemRef::Message(id) => self.gladly.item(id, context).await,
                ItemRef::Note(id) if self.options.notes => {
                    self.gladly.note(conversation, id, context).await
                }
                ItemRef::Note(_) => Ok(None),
            }
        };
        self.part(conversation, Part::Item, item.id(), fetch).await
    }

    /// The transcripts of calls and voicemails, and whether some were left out.
    async fn transcripts(
        &self,
        conversation: &Id,
        items: Vec<Id>,
        is_last_try: bool,
        context: &BatchContext,
    ) -> Result<(HashMap<Id, Arc<str>>, bool), GladlyError> {
        let bytes = AtomicUsize::new(0);
        let (bytes, mut texts, mut is_cut) = (&bytes, HashMap::new(), false);
        let mut transcripts = stream::iter(items)
            .map(async |id| {
                let is_over = bytes.load(Ordering::Relaxed) >= TRANSCRIPTS_BYTES
                    || is_last_try && Instant::now() >= context.deadlines.begin;
                let text = match self.parts.get(conversation, Part::Transcript, &id) {
                    None if is_over => None,
                    None => {
                        let fetch = async {
                            let transcript = self.gladly.transcript(&id, context).await?;
                            Ok(transcript.as_deref().and_then(transcript_text))
                        };
                        Some(self.part(conversation, Part::Transcript, &id, fetch).await?)
                    }
                    known => known,
                };
                bytes.fetch_add(text.as_ref().map_or(0, |text| text.len()), Ordering::Relaxed);
                Ok::<_, GladlyError>((id, text))
            })
            .buffer_unordered(PARTS_AT_ONCE);
        while let Some((id, text)) = transcripts.try_next().await? {
            match text {
                Some(text) if !text.is_empty() => drop(texts.insert(id, text)),
                Some(_) => {}
                None => is_cut = true,
            }
        }
        Ok((texts, is_cut))
    }

    /// A part of a conversation; empty if Gladly does not have it. It is kept until the conversation
    /// is delivered.
    async fn part(
        &self,
        conversation: &Id,
        part: Part,
        id: &Id,
        fetch: impl Future<Output = Result<Option<String>, GladlyError>>,
    ) -> Result<Arc<str>, GladlyError> {
        if let Some(known) = self.parts.get(conversation, part, id) {
            return Ok(known);
        }
        let text: Arc<str> = fetch.await?.unwrap_or_default().into();
        self.parts.keep(conversation, part, id.clone(), Arc::clone(&text));
        Ok(text)
    }

    /// The customer's id after merges, and the customer. They have none if they are gone.
    async fn customer(
        &self,
        id: Option<Id>,
        context: &BatchContext,
    ) -> Result<(Option<Id>, Option<Arc<RawValue>>), GladlyError> {
        let Some(id) = id else {
            return Ok((None, None));
        };
        let (id, seen) = self.look_up(id, context).await?;
        Ok(match &*seen {
            CustomerLookup::Customer(customer) => (Some(id), Some(Arc::clone(customer))),
            CustomerLookup::Merged(into) => (Some(into.clone()), None),
            CustomerLookup::Gone => (Some(id), None),
        })
    }

    /// Looks up a customer, following at most [`MAX_MERGES`] merges: after those the result is
    /// [`CustomerLookup::Merged`]. With the id that was looked up last.
    async fn look_up(
        &self,
        mut id: Id,
        context: &BatchContext,
    ) -> Result<(Id, Arc<CustomerLookup>), GladlyError> {
        let mut merges = 0;
        loop {
            let known = self.customers().get(&id).map(|known| Arc::clone(&known.cell));
            let cell = known.unwrap_or_else(|| {
                let cell = Arc::default();
                self.keep(&id, &cell, 0);
                cell
            });
            let seen = cell.get(self.clock.now(), CUSTOMER_TTL, self.ask_for(&id, context)).await?;
            match &*seen {
                CustomerLookup::Merged(to) if merges < MAX_MERGES => id = to.clone(),
                CustomerLookup::Customer(customer) => {
                    self.keep(&id, &cell, customer.get().len());
                    return Ok((id, seen));
                }
                _ => return Ok((id, seen)),
            }
            merges += 1;
        }
    }

    /// Gladly shows nothing of the customer from then on: what is cached of them must not be delivered.
    pub(crate) fn deleted(&self, customer: &Id, at: Timestamp) {
        self.deletions.note(customer, at);
        self.customers().remove(customer);
    }

    /// The customer is now another one: they are looked up again.
    pub(crate) fn merged(&self, customer: &Id) {
        self.customers().remove(customer);
    }

    fn keep(&self, customer: &Id, cell: &Arc<Cached<CustomerLookup>>, bytes: usize) {
        self.customers().put(customer.clone(), Known { cell: Arc::clone(cell), bytes });
    }

    fn customers(&self) -> MutexGuard<'_, Bounded<Known>> {
        self.customers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask_for(
        &self,
        customer: &Id,
        context: &BatchContext,
    ) -> Result<CustomerLookup, GladlyError> {
        Ok(match self.gladly.customer(customer, context).await? {
            Profile::Found(profile) => {
                let read = Customer::read(&profile, customer, self.options.contact);
                let json = read.and_then(|customer| to_raw_value(&customer).ok());
                CustomerLookup::Customer(json.ok_or(GladlyError::Unreadable("a customer"))?.into())
            }
            Profile::Merged(to) => CustomerLookup::Merged(to),
            Profile::Gone => CustomerLookup::Gone,
        })
    }
}
