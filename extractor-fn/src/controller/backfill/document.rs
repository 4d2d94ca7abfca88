//! A document of ranges in a parameter that several invocations change concurrently.
//!
//! SSM has no compare-and-set: `PutParameter` replaces any value, but it returns the number of the
//! version that it wrote, and `GetParameterHistory` still has the previous versions. So a writer
//! that has read version 7 and wrote version 9 has replaced version 8 unread; it reads that one,
//! merges it, repeats its change and writes again.
//!
//! A writer may crash between the two, or never get its response. Therefore each version's
//! description names the version that its writer had read, and a reader merges those between. So,
//! for the ranges that a reader gets ([`Document::read`]) of version *n*, by induction over *n*:
//! every range that any version up to *n* added is in them, or what is missing of it was queued.
//!
//! - A writer makes one change of [`Ranges`] to what a reader gets of some version *b* < *n*, so its
//!   document covers all versions up to *b*, less what the change proves to be queued.
//! - A reader of *n* merges into it all documents of the versions between *b* and *n*, and merging
//!   only ever makes ranges larger. So it covers all versions up to *n*.
//!
//! Nothing in this depends on who writes: the schedule's progress, an operator's backfill or import
//! and the webhook monitor may write in any order, and any of them may crash at any point. The lease
//! only prevents that two of them do the same work.
//!
//! SSM keeps the last 100 versions, and no writer takes that long between its read and its write. A
//! deleted parameter restarts at version 1, so these documents are never deleted: the
//! empty one is `{}`.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicI64, Ordering},
};

use aws_sdk_ssm::{
    Client,
    operation::get_parameter::GetParameterError,
    types::{ParameterHistory, ParameterType},
};
use jiff::Timestamp;
use tracing::error;

use crate::controller::backfill::ranges::Ranges;

/// How often a change is rewritten because another writer intervened. After that it stays as it
/// is: the next reader merges what it replaced.
const MAX_WRITES: usize = 10;
/// Versions per page of the history: SSM's maximum.
const PAGE_VERSIONS: i32 = 50;
/// The start of a version's description. The number of the version that was read follows.
const DESCRIPTION_PREFIX: &str = "Written by gladly-relay after reading version ";

/// Why a parameter of the recovery could not be used.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} the parameter {name}")]
pub(crate) struct StoreError {
    action: &'static str,
    name: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl StoreError {
    pub(crate) fn new(
        action: &'static str,
        name: &str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { action, name: name.to_owned(), source: source.into() }
    }
}

/// Ranges in a parameter, or in memory.
pub(crate) enum Document {
    Stored(Stored),
    /// Of a dry run, which leaves no trace.
    InMemory(Mutex<Ranges>),
}

/// Ranges in a parameter.
pub(crate) struct Stored {
    ssm: Client,
    name: String,
    /// A version that replaced none unread: its history need not be read.
    clean: AtomicI64,
}

/// The parameter as found.
struct Found {
    /// The current document.
    stored: Ranges,
    /// The same, merged with every version that it replaced unread.
    merged: Ranges,
    /// 0 while there is no parameter.
    version: i64,
}

impl Document {
    pub(crate) fn new(ssm: Client, name: String) -> Self {
        Self::Stored(Stored { ssm, name, clean: AtomicI64::new(0) })
    }

    /// One range, in memory only.
    pub(crate) fn in_memory(from: Timestamp, to: Timestamp) -> Self {
        let mut ranges = Ranges::default();
        ranges.add(from, Some(to));
        Self::InMemory(Mutex::new(ranges))
    }

    /// The ranges that are still to be done.
    pub(crate) async fn read(&self) -> Result<Ranges, StoreError> {
        match self {
            Self::Stored(stored) => stored.find().await.map(|found| found.merged),
            Self::InMemory(ranges) => {
                Ok(ranges.lock().unwrap_or_else(PoisonError::into_inner).clone())
            }
        }
    }

    /// Changes the ranges, also concurrently with another invocation. The change may be applied more
    /// than once, each time to a later version; its last result is returned.
    pub(crate) async fn update<R>(
        &self,
        change: impl Fn(&mut Ranges) -> R,
    ) -> Result<R, StoreError> {
        match self {
            Self::Stored(stored) => stored.update(change).await,
            Self::InMemory(ranges) => {
                Ok(change(&mut ranges.lock().unwrap_or_else(PoisonError::into_inner)))
            }
        }
    }
}

impl Stored {
    async fn update<R>(&self, change: impl Fn(&mut Ranges) -> R) -> Result<R, StoreError> {
        let Found { mut stored, mut merged, mut version } = self.find().await?;
        let mut writes = 0;
        loop {
            let mut wanted = merged;
            let result = change(&mut wanted);
            if wanted == stored || writes == MAX_WRITES {
                return Ok(result);
            }
            let written = self.write(&wanted, version).await?;
            writes += 1;
            if written == version + 1 {
                self.clean.store(written, Ordering::Relaxed);
                return Ok(result);
            }
            merged = wanted.clone();
            let history = self.history().await?;
            between(&history, version, written).for_each(|text| merged.merge(self.parse(text)));
            (stored, version) = (wanted, written);
        }
    }

    async fn find(&self) -> Result<Found, StoreError> {
        let request = self.ssm.get_parameter().name(&self.name).with_decryption(true);
        // Boxed: the SDK's futures are large, and this one is part of many others.
        let answer = match Box::pin(request.send()).await {
            Ok(answer) => answer.parameter,
            Err(err)
                if err
                    .as_service_error()
                    .is_some_and(GetParameterError::is_parameter_not_found) =>
            {
                None
            }
            Err(err) => return Err(StoreError::new("read", &self.name, err)),
        };
        let version = answer.as_ref().map_or(0, |parameter| parameter.version);
        let stored = answer.and_then(|parameter| parameter.value);
        let stored = stored.map(|text| self.parse(&text)).unwrap_or_default();
        let mut merged = stored.clone();
        if version > 1 && version != self.clean.load(Ordering::Relaxed) {
            let history = self.history().await?;
            let read = history.iter().find(|entry| entry.version == version).and_then(read_before);
            let read = read.unwrap_or(version - 1);
            between(&history, read, version).for_each(|text| merged.merge(self.parse(text)));
            if merged == stored {
                self.clean.store(version, Ordering::Relaxed);
            }
        }
        Ok(Found { stored, merged, version })
    }

    /// Writes the document and returns its version.
    async fn write(&self, ranges: &Ranges, read: i64) -> Result<i64, StoreError> {
        let request = self.ssm.put_parameter().name(&self.name).value(ranges.text());
        let request = request.description(format!("{DESCRIPTION_PREFIX}{read}"));
        let request = request.overwrite(true).r#type(ParameterType::String);
        let written = Box::pin(request.send()).await;
        written
            .map(|answer| answer.version)
            .map_err(|err| StoreError::new("write", &self.name, err))
    }

    /// The versions that SSM still has, oldest first.
    async fn history(&self) -> Result<Vec<ParameterHistory>, StoreError> {
        let (mut versions, mut token) = (Vec::new(), None);
        loop {
            let request =
                self.ssm.get_parameter_history().name(&self.name).max_results(PAGE_VERSIONS);
            let page = Box::pin(request.set_next_token(token).send()).await;
            let page =
                page.map_err(|err| StoreError::new("read the history of", &self.name, err))?;
            versions.extend(page.parameters.unwrap_or_default());
            token = page.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(versions);
            }
        }
    }

    fn parse(&self, text: &str) -> Ranges {
        serde_json::from_str(text).unwrap_or_else(|_| {
            error!(parameter = self.name, "recovery parameter is malformed; treating it as empty");
            Ranges::default()
        })
    }
}

/// The documents of the versions after one that was read and before one that was written: the
/// invocation that wrote the latter replaced them unread.
fn between(history: &[ParameterHistory], read: i64, written: i64) -> impl Iterator<Item = &str> {
    let unread = history.iter().filter(move |entry| (read + 1..written).contains(&entry.version));
    unread.filter_map(|entry| entry.value())
}

/// The version that the writer of this one had read.
fn read_before(entry: &ParameterHistory) -> Option<i64> {
    entry.description()?.strip_prefix(DESCRIPTION_PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use shared::ssm_client;
    use testing::aws::{Aws, Fault};

    use super::*;

    const NAME: &str = "/relay/pause-backfill";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn document(aws: &Aws) -> Document {
        Document::new(ssm_client(&aws.config()), NAME.into())
    }

    fn shown(ranges: &Ranges) -> Vec<(i64, i64)> {
        ranges.iter().map(|range| (range.from.as_second(), range.end().as_second())).collect()
    }

    fn with(ranges: &[(i64, i64)]) -> Ranges {
        let mut document = Ranges::default();
        for (from, to) in ranges {
            document.add(at(*from), Some(at(*to)));
        }
        document
    }

    /// Another writer, which has read this version, writes these ranges once.
    async fn other(aws: &Aws, ranges: &[(i64, i64)], read: i64) {
        let Document::Stored(stored) = document(aws) else { panic!("stored") };
        stored.write(&with(ranges), read).await.unwrap();
    }

    #[tokio::test]
    async fn a_write_of_another_between_read_and_write_is_merged() {
        let aws = Aws::default();
        other(&aws, &[(10, 20)], 0).await;
        let mine = document(&aws);
        let range = mine.read().await.unwrap().iter().next().unwrap().clone();
        // The other comes between the first read and the first write, and once more before the second.
        aws.state().ssm_between =
            [with(&[(1, 5), (10, 20)]).text(), with(&[(10, 20), (30, 40)]).text()]
                .map(|text| (NAME.to_owned(), text))
                .into();
        let moved = mine.update(|ranges| ranges.advance(&range, at(20), None)).await.unwrap();
        assert!(moved.is_some());
        assert_eq!(shown(&mine.read().await.unwrap()), [(1, 5), (30, 40)]);
        assert_eq!(
            aws.state().parameters[NAME],
            with(&[(1, 5), (30, 40)]).text(),
            "as it is stored"
        );
    }

    #[tokio::test]
    async fn a_writer_that_crashes_before_it_merges_loses_nothing() {
        let aws = Aws::default();
        other(&aws, &[(10, 20)], 0).await;
        other(&aws, &[(10, 20), (30, 40)], 1).await;
        // It had finished the only range, and never got its response.
        other(&aws, &[], 1).await;
        assert_eq!(aws.state().parameters[NAME], "{}");
        let reader = document(&aws);
        assert_eq!(shown(&reader.read().await.unwrap()), [(10, 20), (30, 40)]);
        reader.update(|ranges| ranges.add(at(50), Some(at(60)))).await.unwrap();
        // Now the newest version has all of it, also for readers without the history.
        assert_eq!(aws.state().parameters[NAME], with(&[(10, 20), (30, 40), (50, 60)]).text());
    }

    #[tokio::test]
    async fn a_write_whose_answer_is_lost_counts_once() {
        let aws = Aws::default();
        let mine = document(&aws);
        mine.update(|ranges| ranges.add(at(10), Some(at(20)))).await.unwrap();
        aws.state().ssm_faults = [None, Some(Fault::Lost)].into();
        mine.update(|ranges| ranges.add(at(30), Some(at(40)))).await.unwrap();
        assert_eq!(shown(&mine.read().await.unwrap()), [(10, 20), (30, 40)]);
        let range = mine.read().await.unwrap().iter().next().unwrap().clone();
        aws.state().ssm_faults =
            [None, Some(Fault::Lost), Some(Fault::Lost), Some(Fault::Lost)].into();
        mine.update(|ranges| ranges.advance(&range, at(15), None)).await.unwrap_err();
        assert_eq!(shown(&document(&aws).read().await.unwrap()), [(15, 20), (30, 40)]);
    }

    #[tokio::test]
    async fn the_history_is_read_to_its_newest_page_and_only_when_it_is_needed() {
        let aws = Aws::default();
        for n in 0..130 {
            other(&aws, &[(10, 20 + n)], n).await;
        }
        other(&aws, &[(500, 600)], 129).await;
        let reader = document(&aws);
        assert_eq!(shown(&reader.read().await.unwrap()), [(10, 149), (500, 600)]);
        reader.update(|_| ()).await.unwrap();
        let before = aws.state().ssm_calls;
        for _ in 0..5 {
            reader.read().await.unwrap();
        }
        assert_eq!(aws.state().ssm_calls - before, 5, "its own write replaced none unread");
    }

    #[tokio::test]
    async fn the_changes_of_two_concurrent_writers_are_both_kept() {
        let aws = Aws::default();
        let writers: Vec<_> = (0..8).map(|_| document(&aws)).collect();
        let all = writers.iter().enumerate().map(async |(n, writer)| {
            let from = at(i64::try_from(n).unwrap() * 100);
            writer
                .update(|ranges| ranges.add(from, Some(from + jiff::SignedDuration::from_secs(50))))
                .await
        });
        let all: Result<Vec<_>, _> = futures::future::join_all(all).await.into_iter().collect();
        all.unwrap();
        assert_eq!(document(&aws).read().await.unwrap().iter().count(), 8);
    }
}
