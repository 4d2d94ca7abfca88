//! The time ranges that are still to be recovered from Gladly, and how far each has come.
//!
//! [`Ranges`] keeps an invariant: *everything requested that is in no range is queued*. Each
//! operation preserves it, so that none of them loses a range:
//!
//! - [`Ranges::add`], [`Ranges::open`] and [`Ranges::merge`] only make ranges larger;
//! - [`Ranges::close`] ends a gap that lasts, once Gladly sends again;
//! - [`Ranges::advance`] alone makes ranges smaller, by what its caller has queued, and only while
//!   the range is exactly as it was when the caller began: a concurrent change wins.
//!
//! Merging two versions of the same ranges takes the earlier mark. That queues events again, which
//! is harmless, and loses none.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::Id;

/// The longest document, in bytes. SSM accepts 4,096 characters.
const TEXT_LIMIT: usize = 3_900;

/// Ranges, oldest first, of which no two overlap or touch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Ranges {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<Range>,
}

/// One range: `from..to` is still to be queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    /// Its requested start: everything from here to `from` is queued.
    pub(crate) since: Timestamp,
    /// The mark: everything before it is done.
    pub(crate) from: Timestamp,
    /// Its requested end; for a gap that lasts, the earliest possible one.
    pub(crate) to: Timestamp,
    /// The gap still lasts: it has no end yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) lasts: bool,
    /// How far the export job after the mark has been read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<JobMark>,
}

/// Part of an export job's file: everything before the offset is queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobMark {
    pub(crate) id: Id,
    /// In bytes; a line begins there, unless it is within one that is too long to be returned.
    pub(crate) offset: u64,
}

impl Range {
    fn new(from: Timestamp, to: Option<Timestamp>) -> Self {
        Self { since: from, from, to: to.unwrap_or(from), lasts: to.is_none(), job: None }
    }

    pub(crate) fn end(&self) -> Timestamp {
        if self.lasts { Timestamp::MAX } else { self.to }
    }

    fn touches(&self, other: &Self) -> bool {
        self.from <= other.end() && other.from <= self.end()
    }

    /// One range that covers both.
    fn join(&self, other: &Self) -> Self {
        let bounds = |range: &Self| (range.since, range.from, range.end());
        Self {
            since: self.since.min(other.since),
            from: self.from.min(other.from),
            to: self.to.max(other.to),
            lasts: self.lasts || other.lasts,
            // A job's progress holds only for exactly these bounds.
            job: self.job.clone().zip(other.job.clone()).and_then(|(job, other_job)| {
                let same = bounds(self) == bounds(other) && job.id == other_job.id;
                same.then(|| JobMark { offset: job.offset.min(other_job.offset), id: job.id })
            }),
        }
    }
}

impl Ranges {
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Range> {
        self.ranges.iter()
    }

    /// What is left of a requested range.
    pub(crate) fn within(&self, from: Timestamp, to: Timestamp) -> impl Iterator<Item = &Range> {
        self.ranges.iter().filter(move |range| range.from < to && range.end() > from)
    }

    /// Adds a range. An unfinished one with the same start continues from its mark.
    pub(crate) fn add(&mut self, from: Timestamp, to: Option<Timestamp>) {
        let added = Range::new(from, to);
        match self.ranges.iter().position(|known| known.since == from) {
            Some(index) if self.ranges[index].end() >= added.end() => {
                // A gap that lasts must not end before this.
                self.ranges[index].to = self.ranges[index].to.max(added.to);
            }
            Some(index) => {
                let known = self.ranges.remove(index);
                self.insert(Range {
                    job: None,
                    ..known.join(&Range { from: known.from, ..added })
                });
            }
            None => self.insert(added),
        }
    }

    /// Adds a gap that began then and still lasts, unless it is already known: then it continues from
    /// its mark.
    pub(crate) fn open(&mut self, from: Timestamp) {
        if !self.ranges.iter().any(|known| known.lasts && known.since <= from) {
            self.add(from, None);
        }
    }

    /// Ends the gap that lasts, if there is one, but not before the end of another range that was
    /// merged into it.
    pub(crate) fn close(&mut self, to: Timestamp) {
        for range in self.ranges.iter_mut().filter(|range| range.lasts) {
            (range.to, range.lasts) = (range.to.max(to), false);
        }
        self.ranges.retain(|range| range.from < range.end());
    }

    /// Advances a range's mark from where it was when the work began. Returns what is left of the
    /// range; `None`, without a change, if it is no longer the same.
    pub(crate) fn advance(
        &mut self,
        began: &Range,
        from: Timestamp,
        job: Option<JobMark>,
    ) -> Option<Range> {
        let index = self.ranges.iter().position(|range| range == began)?;
        let left = Range { from: from.max(began.from), job, ..began.clone() };
        if left.from >= left.end() {
            self.ranges.remove(index);
        } else {
            self.ranges[index] = left.clone();
        }
        Some(left)
    }

    /// Adds everything that another version has.
    pub(crate) fn merge(&mut self, other: Self) {
        other.ranges.into_iter().for_each(|range| self.insert(range));
    }

    /// Adds a range. One parameter holds some thirty: beyond that the two closest are merged, which
    /// also queues the events between them.
    fn insert(&mut self, mut new: Range) {
        self.ranges.retain(|known| {
            let apart = !known.touches(&new);
            if !apart {
                new = known.join(&new);
            }
            apart
        });
        self.ranges.push(new);
        self.ranges.sort_by_key(|range| range.from);
        while self.text().len() > TEXT_LIMIT && self.ranges.len() > 1 {
            let between = |index: &usize| {
                self.ranges[index + 1].from.duration_since(self.ranges[*index].end())
            };
            let closest = (0..self.ranges.len() - 1).min_by_key(between).unwrap_or_default();
            let second = self.ranges.remove(closest + 1);
            self.ranges[closest] = self.ranges[closest].join(&second);
        }
    }

    /// The document.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// `since from to` of every range; `to` is -1 while it lasts.
    fn shown(ranges: &Ranges) -> Vec<(i64, i64, i64)> {
        let to = |range: &Range| if range.lasts { -1 } else { range.to.as_second() };
        ranges.iter().map(|r| (r.since.as_second(), r.from.as_second(), to(r))).collect()
    }

    fn first(ranges: &Ranges) -> Range {
        ranges.iter().next().unwrap().clone()
    }

    #[test]
    fn ranges_stay_apart_until_they_touch_and_each_keeps_its_mark() {
        let mut ranges = Ranges::default();
        ranges.add(at(100), Some(at(200)));
        ranges.add(at(300), None);
        assert_eq!(shown(&ranges), [(100, 100, 200), (300, 300, -1)]);
        ranges.advance(&first(&ranges), at(150), None).unwrap();
        ranges.add(at(100), Some(at(180)));
        assert_eq!(shown(&ranges)[0], (100, 150, 200), "requested again, it continues");
        ranges.add(at(100), Some(at(220)));
        assert_eq!(shown(&ranges)[0], (100, 150, 220), "and may end later");
        ranges.add(at(50), Some(at(160)));
        assert_eq!(shown(&ranges)[0], (50, 50, 220), "an older one is done from its begin");
        ranges.close(at(400));
        ranges.add(at(210), Some(at(300)));
        assert_eq!(shown(&ranges), [(50, 50, 400)]);
    }

    #[test]
    fn a_gap_that_lasts_continues_from_its_mark_at_every_watch() {
        let mut ranges = Ranges::default();
        ranges.open(at(100));
        ranges.advance(&first(&ranges), at(500), None).unwrap();
        ranges.open(at(100));
        ranges.open(at(200));
        assert_eq!(shown(&ranges), [(100, 500, -1)]);
        // Ended too early, by a watch with an older observation.
        ranges.close(at(600));
        ranges.open(at(100));
        assert_eq!(shown(&ranges), [(100, 500, -1)]);
        ranges.close(at(700));
        ranges.advance(&first(&ranges), at(700), None).unwrap();
        assert!(ranges.is_empty());
    }

    #[test]
    fn the_end_of_a_gap_does_not_end_a_range_merged_into_it() {
        let mut ranges = Ranges::default();
        ranges.open(at(100));
        ranges.add(at(150), Some(at(200)));
        ranges.close(at(120));
        assert_eq!(shown(&ranges), [(100, 100, 200)]);

        let mut ranges = Ranges::default();
        ranges.open(at(100));
        ranges.add(at(100), Some(at(200)));
        ranges.close(at(120));
        assert_eq!(shown(&ranges), [(100, 100, 200)], "also where both begin together");
    }

    #[test]
    fn a_mark_advances_only_from_where_it_was() {
        let mut ranges = Ranges::default();
        ranges.add(at(100), Some(at(200)));
        let began = first(&ranges);
        for change in [
            (|ranges: &mut Ranges| ranges.add(at(50), Some(at(120)))) as fn(&mut Ranges),
            |ranges| ranges.add(at(150), Some(at(300))),
            |ranges| drop(ranges.advance(&first(ranges), at(110), None)),
        ] {
            let mut changed = ranges.clone();
            change(&mut changed);
            let before = changed.clone();
            assert_eq!(changed.advance(&began, at(200), None), None);
            assert_eq!(changed, before);
        }
        assert!(ranges.advance(&began, at(200), None).is_some());
        assert!(ranges.is_empty());
    }

    #[test]
    fn a_jobs_progress_counts_only_for_the_same_bounds() {
        let mut ranges = Ranges::default();
        ranges.add(at(100), Some(at(200)));
        let job = |offset| Some(JobMark { id: "j-1".parse().unwrap(), offset });
        ranges.advance(&first(&ranges), at(100), job(70)).unwrap();
        let mut other = ranges.clone();
        other.advance(&first(&other), at(100), job(90)).unwrap();
        other.merge(ranges.clone());
        assert_eq!(first(&other).job, job(70));
        for (from, to) in [(100, 300), (50, 150), (150, 250)] {
            let mut wider = ranges.clone();
            wider.add(at(from), Some(at(to)));
            assert_eq!(first(&wider).job, None);
        }
    }

    #[test]
    fn the_document_fits_into_its_parameter_and_still_covers_everything() {
        let mut ranges = Ranges::default();
        for n in 0..500 {
            ranges.add(at(n * 1_000), Some(at(n * 1_000 + 10 + n % 7)));
        }
        assert!(ranges.text().len() <= TEXT_LIMIT, "{}", ranges.text().len());
        assert!(ranges.iter().count() > 20);
        for n in 0..500 {
            let [from, to] = [n * 1_000, n * 1_000 + 10 + n % 7].map(at);
            assert!(ranges.iter().any(|range| range.from <= from && to <= range.end()), "{n}");
        }
    }

    /// What two writers do, in seconds of a hundred.
    #[derive(Debug, Clone)]
    enum Step {
        Add(i64, i64),
        Open(i64),
        Close(i64),
        /// Queues this much of the oldest range and advances it, in a copy that may be stale.
        Queue(i64),
        /// Merges the other's ranges.
        Merge,
    }

    fn step() -> impl Strategy<Value = (bool, Step)> {
        let step = prop_oneof![
            (0..90_i64, 1..10_i64).prop_map(|(from, length)| Step::Add(from, from + length)),
            (0..100_i64).prop_map(Step::Open),
            (0..100_i64).prop_map(Step::Close),
            (1..20_i64).prop_map(Step::Queue),
            Just(Step::Merge),
        ];
        (any::<bool>(), step)
    }

    proptest! {
        #[test]
        fn everything_requested_is_queued_or_in_a_range(steps in prop::collection::vec(step(), 1..40)) {
            let mut copies = [Ranges::default(), Ranges::default()];
            let (mut requested, mut queued) = ([[false; 100]; 2], [false; 100]);
            let mut open: [Option<i64>; 2] = [None; 2];
            for (second, step) in steps {
                let this = usize::from(second);
                let other = copies[1 - this].clone();
                let ranges = &mut copies[this];
                match step {
                    Step::Add(from, to) => {
                        ranges.add(at(from), Some(at(to)));
                        (from..to).for_each(|n| requested[this][usize::try_from(n).unwrap()] = true);
                    }
                    Step::Open(from) => {
                        ranges.open(at(from));
                        open[this] = Some(open[this].map_or(from, |known| known.min(from)));
                    }
                    Step::Close(to) => {
                        ranges.close(at(to));
                        if let Some(from) = open[this].take() {
                            (from..to).for_each(|n| requested[this][usize::try_from(n).unwrap()] = true);
                        }
                    }
                    Step::Queue(length) => {
                        let Some(began) = ranges.iter().next().cloned() else { continue };
                        let reached = (began.from.as_second() + length).min(100);
                        let reached = at(reached).min(began.end());
                        let done = began.from.as_second()..reached.as_second();
                        done.for_each(|n| queued[usize::try_from(n).unwrap()] = true);
                        prop_assert!(ranges.advance(&began, reached, None).is_some());
                    }
                    Step::Merge => {
                        ranges.merge(other);
                        let theirs = requested[1 - this];
                        for (mine, theirs) in requested[this].iter_mut().zip(theirs) {
                            *mine |= theirs;
                        }
                        open[this] = open[this].into_iter().chain(open[1 - this]).min();
                    }
                }
                for (ranges, (requested, open)) in copies.iter().zip(requested.iter().zip(open)) {
                    let all: Vec<_> = ranges.iter().collect();
                    prop_assert!(all.windows(2).all(|two| two[0].end() < two[1].from), "{:?}", all);
                    for n in 0..100_i64 {
                        let index = usize::try_from(n).unwrap();
                        let wanted = requested[index] || open.is_some_and(|from| from <= n);
                        let there = ranges.iter().any(|r| (r.from..r.end()).contains(&at(n)));
                        prop_assert!(!wanted || there || queued[index], "{} of {:?}", n, all);
                    }
                }
            }
        }
    }
}
