//! The table in which the function's environments share what the destination has accepted.
//!
//! It is a cache: whatever fails here costs calls to Gladly and nothing else.

use std::{
    array,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    config::{Builder, retry::RetryConfig, timeout::TimeoutConfig},
    error::{BuildError, SdkError},
    operation::{batch_get_item::BatchGetItemError, batch_write_item::BatchWriteItemError},
    primitives::Blob,
    types::{
        AttributeValue::{self, B, Bool, N, S},
        KeysAndAttributes, PutRequest, WriteRequest,
    },
};
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};
use shared::{Clock, ClockErrors, Id, error_chain};
use tracing::warn;

use crate::config::{Config, DeliveryOptions};

/// The most keys that DynamoDB reads in one request.
pub(crate) const MAX_READ: usize = 100;
/// The most items that DynamoDB writes in one request.
const MAX_WRITE: usize = 25;
/// A batch waits for a read this long at most; a healthy one takes some milliseconds.
const OPERATION_TIMEOUT: Duration = Duration::from_millis(500);
/// Leaves time for a second attempt after a connection that broke while the environment was frozen.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(400);
/// How long nothing is asked after a failure: otherwise every batch would wait for a store that is down.
const FAILURE_TTL: SignedDuration = SignedDuration::from_secs(30);
/// How long an item is used. DynamoDB removes it some time after that.
const ITEM_TTL: SignedDuration = SignedDuration::from_hours(24);

/// A complete snapshot that the destination has accepted, without its content.
#[derive(Debug, Clone)]
pub(crate) struct AcceptedSnapshot {
    pub(crate) conversation: Id,
    /// When its fetch began.
    pub(crate) fetched_at: Timestamp,
    /// Hashes of its newest items.
    pub(crate) items: Arc<[u64]>,
    /// The conversation is closed.
    pub(crate) is_closed: bool,
    /// When it was last closed.
    pub(crate) closed_at: Option<Timestamp>,
}

/// Why the table could not be read or written.
#[derive(Debug, thiserror::Error)]
enum StoreError {
    #[error("could not build the request")]
    Build(#[from] BuildError),
    #[error("could not read from DynamoDB")]
    Read(#[source] Box<SdkError<BatchGetItemError>>),
    #[error("could not write to DynamoDB")]
    Write(#[source] Box<SdkError<BatchWriteItemError>>),
}

/// The table.
pub(crate) struct CoverageStore {
    dynamodb: Client,
    table: String,
    scope: String,
    clock: Clock,
    /// When it last failed.
    failed_at: Mutex<Option<Timestamp>>,
}

impl CoverageStore {
    /// The table that the settings name, if they name one.
    pub(crate) fn new(aws: &SdkConfig, config: &Config, clock: Clock) -> Option<Self> {
        let table = config.coverage_table.as_ref()?.as_str().to_owned();
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT);
        let retries = RetryConfig::standard()
            .with_max_attempts(2)
            .with_initial_backoff(Duration::from_millis(20));
        let dynamodb = Builder::from(aws).timeout_config(timeouts.build()).retry_config(retries);
        let dynamodb = Client::from_conf(dynamodb.retry_classifier(ClockErrors).build());
        Some(Self { dynamodb, table, scope: scope(config), clock, failed_at: Mutex::default() })
    }

    /// The snapshots of these conversations, of which there are at most [`MAX_READ`] different ones.
    /// None after a failure.
    pub(crate) async fn read(
        &self,
        conversations: impl Iterator<Item = &Id>,
    ) -> Vec<AcceptedSnapshot> {
        let key = |id: &Id| HashMap::from([("conversation".into(), S(id.as_str().into()))]);
        let keys: Vec<_> = conversations.map(key).collect();
        if keys.is_empty() || self.has_failed() {
            return Vec::new();
        }
        let items = match self.get(keys).await {
            Ok(items) => items,
            Err(err) => {
                self.note_failure(&err);
                return Vec::new();
            }
        };
        items.iter().filter_map(|item| self.snapshot(item)).collect()
    }

    /// What is left unprocessed, as by a throttled partition, is as good as absent.
    async fn get(
        &self,
        keys: Vec<HashMap<String, AttributeValue>>,
    ) -> Result<Vec<HashMap<String, AttributeValue>>, StoreError> {
        let keys = KeysAndAttributes::builder().set_keys(Some(keys)).build()?;
        let request = self.dynamodb.batch_get_item().request_items(&self.table, keys);
        let answer = Box::pin(request.send()).await;
        let answer = answer.map_err(|err| StoreError::Read(Box::new(err)))?;
        Ok(answer.responses.and_then(|mut tables| tables.remove(&self.table)).unwrap_or_default())
    }

    /// Writes the snapshots of different conversations, at once. One that is older than what is there
    /// replaces it: that costs coverage only, and comparing would double the price.
    pub(crate) async fn write(&self, snapshots: &[AcceptedSnapshot]) {
        if self.has_failed() {
            return;
        }
        let written = join_all(snapshots.chunks(MAX_WRITE).map(|chunk| self.put(chunk))).await;
        // One line, however many requests failed.
        if let Some(err) = written.into_iter().find_map(Result::err) {
            self.note_failure(&err);
        }
    }

    async fn put(&self, snapshots: &[AcceptedSnapshot]) -> Result<(), StoreError> {
        let write = |snapshot| {
            let put = PutRequest::builder().set_item(Some(self.item(snapshot))).build()?;
            Ok(WriteRequest::builder().put_request(put).build())
        };
        let writes = snapshots.iter().map(write).collect::<Result<Vec<_>, BuildError>>()?;
        let request = self.dynamodb.batch_write_item().request_items(&self.table, writes);
        let answer = Box::pin(request.send()).await;
        answer.map(drop).map_err(|err| StoreError::Write(Box::new(err)))
    }

    fn item(&self, snapshot: &AcceptedSnapshot) -> HashMap<String, AttributeValue> {
        let AcceptedSnapshot { conversation, fetched_at, items, is_closed, closed_at } = snapshot;
        let items: Vec<u8> = items.iter().flat_map(|hash| hash.to_be_bytes()).collect();
        let expires_at = fetched_at.as_second() + ITEM_TTL.as_secs();
        let mut item = HashMap::from([
            ("conversation".into(), S(conversation.as_str().into())),
            ("scope".into(), S(self.scope.clone())),
            ("fetchedAt".into(), N(fetched_at.as_millisecond().to_string())),
            ("items".into(), B(Blob::new(items))),
            ("closed".into(), Bool(*is_closed)),
            ("expiresAt".into(), N(expires_at.to_string())),
        ]);
        if let Some(closed_at) = closed_at {
            item.insert("closedAt".into(), N(closed_at.as_millisecond().to_string()));
        }
        item
    }

    /// An item as a snapshot; `None` if it is not one of this scope, or too old.
    fn snapshot(&self, item: &HashMap<String, AttributeValue>) -> Option<AcceptedSnapshot> {
        let time = |name| {
            let millisecond = item.get(name)?.as_n().ok()?.parse().ok()?;
            Timestamp::from_millisecond(millisecond).ok()
        };
        let fetched_at: Timestamp = time("fetchedAt")?;
        let age = self.clock.now().duration_since(fetched_at);
        if *item.get("scope")?.as_s().ok()? != self.scope
            // One from the future would cover events that are still to come.
            || !(SignedDuration::ZERO..ITEM_TTL).contains(&age)
        {
            return None;
        }
        let items = item.get("items")?.as_b().ok()?.as_ref().as_chunks();
        Some(AcceptedSnapshot {
            conversation: item.get("conversation")?.as_s().ok()?.parse().ok()?,
            fetched_at,
            items: items.0.iter().copied().map(u64::from_be_bytes).collect(),
            is_closed: *item.get("closed")?.as_bool().ok()?,
            closed_at: time("closedAt"),
        })
    }

    /// Whether it has failed a moment ago.
    fn has_failed(&self) -> bool {
        let failed_at = *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.is_some_and(|at| self.clock.now().duration_since(at) < FAILURE_TTL)
    }

    fn note_failure(&self, err: &StoreError) {
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.clock.now());
        warn!(
            error = error_chain(err),
            "could not share coverage with the other environments; trying again in 30 s"
        );
    }
}

/// What a delivery depends on besides Gladly. An item of another scope does not count: after a
/// deployment that changes any of this, the destination gets every conversation again, as from an
/// environment whose memory is empty.
fn scope(config: &Config) -> String {
    // Compression is not among them: the destination has the same after it.
    let DeliveryOptions { contact, notes, gzip: _, erasures: _ } = config.delivery;
    let (gladly, destination) = (config.gladly.base(), config.destination.url());
    let text =
        format!("{}\n{gladly}\n{destination}\n{contact}\n{notes}", env!("CARGO_PKG_VERSION"));
    format!("{:016x}", stable_hash(&text))
}

/// A text's hash, for where the text itself would take too much room: the first 8 bytes of its
/// SHA-256, the same in every process and with every version of Rust.
pub(crate) fn stable_hash(text: &str) -> u64 {
    let digest = Sha256::digest(text);
    u64::from_be_bytes(array::from_fn(|index| digest[index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_the_same_everywhere() {
        // sha256("abc") by FIPS 180-2, appendix B.1.
        assert_eq!(stable_hash("abc"), 0xba78_16bf_8f01_cfea);
    }
}
