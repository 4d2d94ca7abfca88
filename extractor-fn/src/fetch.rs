//! Everything that Gladly has to say about a conversation, in as few calls as will do.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::{OptionFuture, try_join_all};
use jiff::{SignedDuration, Timestamp};
use lru::LruCache;
use serde_json::value::RawValue;
use shared::{Clock, Id};
use tokio::try_join;

use crate::{
    breaker::Side,
    config::Shape,
    fresh::Fresh,
    gladly::{Gladly, GladlyError, Profile},
    record::{Event, ItemRef},
    run::Run,
    snapshot::{self, Conversation, Customer, Ingredients, Item, Names},
};

/// How long names of agents, topics and inboxes are used.
const NAMES_AGE: SignedDuration = SignedDuration::from_hours(1);
/// How long a customer is used.
const CUSTOMER_AGE: SignedDuration = SignedDuration::from_mins(10);
/// How many customers are kept.
const CUSTOMERS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
/// How often a customer may have been merged into another.
const MOVES: usize = 3;

/// Fetches conversations, and keeps what many of them share.
pub(crate) struct Fetcher {
    gladly: Gladly,
    shape: Shape,
    clock: Clock,
    agents: Fresh<Names>,
    topics: Fresh<Names>,
    inboxes: Fresh<Names>,
    customers: Mutex<LruCache<Id, Arc<Fresh<Seen>>>>,
}

/// What Gladly said of a customer.
enum Seen {
    Customer(Arc<Customer>),
    Moved(Id),
    Gone,
}

/// A conversation, fetched.
pub(crate) enum Fetched {
    Snapshot(Snapshot),
    /// Gladly no longer has it.
    Gone {
        /// Nor its customer, with whom all of theirs went.
        with_customer: bool,
    },
}

/// A conversation as the destination gets it.
pub(crate) struct Snapshot {
    pub(crate) fetched_at: Timestamp,
    pub(crate) json: Box<RawValue>,
    /// Gladly gave only part of the items.
    pub(crate) truncated: bool,
    /// Ids of the items that the events told of and that Gladly does not show.
    pub(crate) missing: HashSet<Id>,
}

impl Fetcher {
    pub(crate) fn new(gladly: Gladly, shape: Shape, clock: Clock) -> Self {
        Self {
            gladly,
            shape,
            clock,
            agents: Fresh::default(),
            topics: Fresh::default(),
            inboxes: Fresh::default(),
            customers: Mutex::new(LruCache::new(CUSTOMERS)),
        }
    }

    pub(crate) fn gladly(&self) -> &Gladly {
        &self.gladly
    }

    /// Fetches the conversation that all of `events` are about.
    pub(crate) async fn fetch(
        &self,
        id: &Id,
        events: &[Event],
        run: &Run,
    ) -> Result<Fetched, GladlyError> {
        let fetched_at = self.clock.now();
        let (conversation, list) =
            try_join!(self.gladly.conversation(id, run), self.gladly.items(id, run))?;
        let (Some(conversation), Some(list)) = (conversation, list) else {
            let second_look = events.iter().any(|event| !event.is_new);
            let customer = events.iter().find_map(|event| event.customer.clone());
            let with_customer = match customer.filter(|_| second_look) {
                Some(customer) => matches!(*self.look_up(customer, run).await?, Seen::Gone),
                None => false,
            };
            return Ok(Fetched::Gone { with_customer });
        };
        run.served(Side::Gladly).await;
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
        let cut_off = if list.truncated {
            // The list may simply end before them.
            let wanted = missing.drain().map(|(_, item)| self.item(id, item, run));
            try_join_all(wanted).await?.into_iter().flatten().collect()
        } else {
            Vec::new()
        };
        items.extend(cut_off.iter().filter_map(|json| Item::read(json)));

        let customer_id = conversation
            .customer_id()
            .or_else(|| events.iter().find_map(|event| event.customer.clone()));
        let (transcripts, customer, agents, topics, inboxes) = try_join!(
            self.transcripts(&items, run),
            self.customer(customer_id, run),
            self.names(&self.agents, "agents", conversation.agent_id().is_some(), run),
            self.names(
                &self.topics,
                "topics",
                conversation.topic_ids().is_some_and(|ids| !ids.is_empty()),
                run
            ),
            self.names(&self.inboxes, "inboxes", conversation.inbox_id().is_some(), run),
        )?;
        let json = snapshot::build(Ingredients {
            id,
            fetched_at,
            conversation: &conversation,
            items,
            truncated: list.truncated,
            transcripts: &transcripts,
            customer: customer.as_deref(),
            agents: &agents,
            topics: &topics,
            inboxes: &inboxes,
            contact: self.shape.contact,
            notes: self.shape.notes,
        });
        Ok(Fetched::Snapshot(Snapshot {
            fetched_at,
            json: json
                .map_err(|_| GladlyError::Unreadable("a conversation that can be written"))?,
            truncated: list.truncated,
            missing: missing.into_keys().cloned().collect(),
        }))
    }

    async fn item(
        &self,
        conversation: &Id,
        item: &ItemRef,
        run: &Run,
    ) -> Result<Option<String>, GladlyError> {
        match item {
            ItemRef::Message(id) => self.gladly.item(id, run).await,
            ItemRef::Note(id) if self.shape.notes => self.gladly.note(conversation, id, run).await,
            ItemRef::Note(_) => Ok(None),
        }
    }

    /// What was said in the calls and voicemails that have a transcript.
    async fn transcripts(
        &self,
        items: &[Item<'_>],
        run: &Run,
    ) -> Result<HashMap<Id, String>, GladlyError> {
        let spoken = items.iter().filter(|item| item.is_spoken());
        let ids = spoken.filter_map(|item| item.id()?.parse::<Id>().ok());
        let transcripts = ids.map(async |id| {
            let transcript = self.gladly.transcript(&id, run).await?;
            let text = transcript.as_deref().and_then(snapshot::spoken);
            Ok::<_, GladlyError>(text.map(|text| (id, text)))
        });
        Ok(try_join_all(transcripts).await?.into_iter().flatten().collect())
    }

    /// The customer, wherever merging has taken them. `None` if they are gone.
    async fn customer(
        &self,
        id: Option<Id>,
        run: &Run,
    ) -> Result<Option<Arc<Customer>>, GladlyError> {
        let Some(id) = id else {
            return Ok(None);
        };
        Ok(match &*self.look_up(id, run).await? {
            Seen::Customer(customer) => Some(Arc::clone(customer)),
            Seen::Moved(_) | Seen::Gone => None,
        })
    }

    /// What Gladly says of a customer, wherever merging has taken them. After too many moves, that
    /// they moved.
    async fn look_up(&self, mut id: Id, run: &Run) -> Result<Arc<Seen>, GladlyError> {
        let mut moves = 0;
        loop {
            let kept = {
                let mut customers = self.customers.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(customers.get_or_insert(id.clone(), Arc::default))
            };
            let seen = kept.get(self.clock.now(), CUSTOMER_AGE, self.ask_for(&id, run)).await?;
            match &*seen {
                Seen::Moved(to) if moves < MOVES => id = to.clone(),
                _ => return Ok(seen),
            }
            moves += 1;
        }
    }

    async fn ask_for(&self, customer: &Id, run: &Run) -> Result<Seen, GladlyError> {
        Ok(match self.gladly.customer(customer, run).await? {
            Profile::Found(profile) => {
                let read = Customer::read(&profile, customer, self.shape.contact);
                Seen::Customer(Arc::new(read.ok_or(GladlyError::Unreadable("a customer"))?))
            }
            Profile::Moved(to) => Seen::Moved(to),
            Profile::Gone => Seen::Gone,
        })
    }

    /// Names of a kind, asked for only where they are wanted.
    async fn names(
        &self,
        kept: &Fresh<Names>,
        kind: &'static str,
        wanted: bool,
        run: &Run,
    ) -> Result<Arc<Names>, GladlyError> {
        let fetch = async {
            let list = self.gladly.list(kind, run).await?;
            snapshot::names(&list).ok_or(GladlyError::Unreadable("a list of names"))
        };
        let names = wanted.then(|| kept.get(self.clock.now(), NAMES_AGE, fetch));
        OptionFuture::from(names).await.unwrap_or_else(|| Ok(Arc::default()))
    }
}
