//! How the records of a batch have ended so far.

use crate::pipeline::{
    event::RecordIndex,
    settle::{Failure, Outcome},
};

/// A record's outcome, until everything that it asks for has ended.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// How many parts of it are still to end.
    open: usize,
    outcome: Option<Outcome>,
}

/// The outcome of each record. A record has ended well once all of its parts have.
pub(crate) struct Outcomes(Vec<Progress>);

impl Outcomes {
    pub(crate) fn new(records: usize) -> Self {
        Self(vec![Progress { open: 1, outcome: None }; records])
    }

    /// The record asks for this many things.
    pub(crate) fn expect(&mut self, record: RecordIndex, parts: usize) {
        self.0[record.0].open = parts;
    }

    /// Each of these parts has ended so. The first bad end of a record is its outcome.
    pub(crate) fn note(&mut self, ended: impl IntoIterator<Item = (RecordIndex, Outcome)>) {
        for (record, outcome) in ended {
            let progress = &mut self.0[record.0];
            progress.open = progress.open.saturating_sub(1);
            if matches!(progress.outcome, None | Some(Outcome::Delivered)) {
                progress.outcome = Some(outcome);
            }
        }
    }

    /// The final outcomes. A record with a part that never ended, after a panic for example, has
    /// failed.
    pub(crate) fn finish(self) -> Vec<Outcome> {
        let finish = |progress| match progress {
            Progress { outcome: Some(Outcome::Delivered) | None, open: 1.. }
            | Progress { outcome: None, .. } => Outcome::Failed(Failure::default()),
            Progress { outcome: Some(outcome), .. } => outcome,
        };
        self.0.into_iter().map(finish).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_delivered_once_all_of_it_is() {
        use Outcome::{Delivered, Held};
        let failed = || Outcome::Failed(Failure::default());
        for (ends, expected) in [
            (&[][..], failed()),
            (&[Delivered], failed()),
            (&[Delivered, Delivered], Delivered),
            (&[Delivered, Held], Held),
            (&[Held, Delivered], Held),
            (&[Held], Held),
        ] {
            let mut outcomes = Outcomes::new(2);
            outcomes.expect(RecordIndex(1), 2);
            outcomes.note(ends.iter().map(|end| (RecordIndex(1), end.clone())));
            let ended = format!("{:?}", outcomes.finish());
            assert_eq!(ended, format!("{:?}", [failed(), expected]));
        }
    }
}
