//! Names of agents, topics and inboxes. They are optional: if a list of them fails, no conversation
//! waits longer than for one call, and none fails.

use std::{borrow::Cow, collections::HashMap, num::NonZeroUsize, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use lru::LruCache;
use serde_json::value::RawValue;
use shared::{Clock, error_chain};
use tokio::sync::Mutex;
use tracing::warn;

use crate::{
    client::gladly::{Gladly, GladlyError},
    client::json::Fields,
    gate::{Interrupted, Permission},
    pipeline::cache::bounded::hash,
};

/// How long a list is cached.
const LIST_TTL: SignedDuration = SignedDuration::from_hours(1);
/// The least time between two reads of a list, for an id that it lacks or after a failure.
const MIN_REFRESH_INTERVAL: SignedDuration = SignedDuration::from_mins(1);
/// The most bytes kept of a list: some 30,000 names. Ids beyond them have no name.
const LIST_BYTES: usize = 4 << 20;
/// Bytes of an entry besides its texts.
const ENTRY_BYTES: usize = 80;
/// How many ids that the list lacks are kept.
const ABSENT_IDS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// A list's entries, by id.
#[derive(Debug, Default)]
pub(crate) struct Names(HashMap<Box<str>, Label>);

/// The name of one agent, topic or inbox.
#[derive(Debug, Default)]
pub(crate) struct Label {
    pub(crate) name: Option<Box<str>>,
    /// The topic that a topic is under.
    pub(crate) parent_id: Option<Box<str>>,
}

impl Names {
    /// `None` if it is not a list.
    pub(crate) fn read(list: &str) -> Option<Self> {
        let list: Vec<&RawValue> = serde_json::from_str(list).ok()?;
        let mut bytes = 0;
        let entries = list.into_iter().filter_map(|raw| {
            let fields = Fields::read(raw.get())?;
            let text = |name| fields.text(name).map(|text| Box::from(&*text));
            Some((text("id")?, Label { name: text("name"), parent_id: text("parentId") }))
        });
        let fits = |(id, label): &(Box<str>, Label)| {
            let texts = [Some(id), label.name.as_ref(), label.parent_id.as_ref()];
            bytes +=
                ENTRY_BYTES + texts.into_iter().flatten().map(|text| text.len()).sum::<usize>();
            bytes <= LIST_BYTES
        };
        Some(Self(entries.take_while(fits).collect()))
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Label> {
        self.0.get(id)
    }
}

/// A list of names, kept for an hour, and read again for an id that it lacks.
pub(crate) struct NameList {
    kind: &'static str,
    /// Locked during a read, so that many callers share one.
    kept: Mutex<Kept>,
}

struct Kept {
    /// The last list read successfully.
    names: Arc<Names>,
    read_at: Timestamp,
    failed_at: Timestamp,
    /// When it was last read for an id that it lacks.
    early_at: Timestamp,
    /// Hashes of the ids that a list read after their first lookup did not have.
    default: LruCache<u64, ()>,
}

impl NameList {
    /// A list of `agents`, `topics` or `inboxes`.
    pub(crate) fn new(kind: &'static str) -> Self {
        let never = Timestamp::MIN;
        let kept = Kept {
            names: Arc::default(),
            read_at: never,
            failed_at: never,
            early_at: never,
            default: LruCache::new(ABSENT_IDS),
        };
        Self { kind, kept: Mutex::new(kept) }
    }

    /// The names of these ids, where there are any.
    pub(crate) async fn get(
        &self,
        ids: &[Cow<'_, str>],
        gladly: &Gladly,
        clock: &Clock,
        permission: &impl Permission,
    ) -> Result<Arc<Names>, Interrupted> {
        if ids.is_empty() {
            return Ok(Arc::default());
        }
        let wanted_at = clock.now();
        let mut kept = self.kept.lock().await;
        let now = clock.now();
        if kept.is_due(ids, wanted_at, now) {
            let list = gladly.list(self.kind, permission).await;
            let names = list.and_then(|list| {
                Names::read(&list).ok_or(GladlyError::Unreadable("a list of names"))
            });
            match names {
                Ok(names) => {
                    kept.names = Arc::new(names);
                    kept.read_at = now;
                }
                Err(GladlyError::Interrupted(interrupted)) => return Err(interrupted),
                // Also for rejected credentials: a token may lack only the permission for this
                // list, and a token without any permission fails in the calls that matter.
                Err(err) => {
                    kept.failed_at = clock.now();
                    let error = error_chain(&err);
                    warn!(
                        gladly.list = self.kind,
                        error, "could not read names; using the cached list"
                    );
                }
            }
        }
        kept.note_absent(ids, wanted_at);
        Ok(Arc::clone(&kept.names))
    }
}

impl Kept {
    /// Whether to read the list now, for ids that were seen at `wanted_at`.
    fn is_due(&mut self, ids: &[Cow<'_, str>], wanted_at: Timestamp, now: Timestamp) -> bool {
        if within(self.failed_at, now, MIN_REFRESH_INTERVAL) {
            return false;
        }
        if !within(self.read_at, now, LIST_TTL) {
            return true;
        }
        let is_new =
            |id: &Cow<'_, str>| self.names.get(id).is_none() && !self.default.contains(&hash(id));
        let is_due = self.read_at < wanted_at
            && ids.iter().any(is_new)
            && !within(self.early_at, now, MIN_REFRESH_INTERVAL);
        if is_due {
            self.early_at = now;
        }
        is_due
    }

    /// Notes ids that do not exist: a list read after they were seen lacks them.
    fn note_absent(&mut self, ids: &[Cow<'_, str>], wanted_at: Timestamp) {
        if self.read_at >= wanted_at {
            for id in ids.iter().filter(|id| self.names.get(id).is_none()) {
                self.default.put(hash(id), ());
            }
        }
    }
}

/// Whether `then` is less than `age` ago; `false` if the clock was set back.
fn within(then: Timestamp, now: Timestamp, age: SignedDuration) -> bool {
    let ago = now.duration_since(then);
    !ago.is_negative() && ago < age
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_is_read_as_far_as_it_can_be() {
        let list = r#"[{"id":"a","name":"Ada"},null,7,{"name":"nobody"},{"id":"b","name":null},
                       {"id":"c","id":"d","name":"Dan","parentId":"a"}]"#;
        let names = Names::read(list).unwrap();
        let label =
            |id| names.get(id).map(|label| (label.name.as_deref(), label.parent_id.as_deref()));
        assert_eq!(label("a"), Some((Some("Ada"), None)));
        assert_eq!(label("b"), Some((None, None)));
        assert_eq!(label("c"), None);
        assert_eq!(label("d"), Some((Some("Dan"), Some("a"))));
        for list in ["null", "{}", r#"{"id":"a"}"#, "", "<html>"] {
            assert!(Names::read(list).is_none(), "{list}");
        }
    }

    #[test]
    fn a_list_is_bounded_in_bytes() {
        let entry = |n: usize| json!({"id": format!("t-{n}"), "name": "x".repeat(10_000)});
        let list = json!((0..1_000).map(entry).collect::<Vec<_>>()).to_string();
        let names = Names::read(&list).unwrap();
        assert!(names.get("t-0").is_some() && names.get("t-999").is_none());
        assert!((300..420).contains(&names.0.len()), "{}", names.0.len());
    }
}
