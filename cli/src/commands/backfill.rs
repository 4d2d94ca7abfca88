//! `backfill` and `import`.

use jiff::{SignedDuration, Timestamp};
use shared::{Backfilled, RecoveryRange, Task};

use crate::{
    Context,
    args::RangeArgs,
    error::{Error, Result},
    times::{count, shown},
};

/// How far back Gladly lists events.
const EVENTS_WINDOW: SignedDuration = SignedDuration::from_hours(24);
/// How far back Gladly keeps its exports.
const EXPORTS_WINDOW: SignedDuration = SignedDuration::from_hours(14 * 24);

pub(crate) async fn backfill(context: &Context, args: &RangeArgs) -> Result<()> {
    let range = range(args, Timestamp::now(), EVENTS_WINDOW).map_err(|problem| {
        Error::usage(match problem {
            Problem::TooOld => {
                "Gladly lists the events of the last 24 hours only; \"gladly-relay import\" goes back 14 days.".into()
            }
            Problem::Other(sentence) => sentence,
        })
    })?;
    recover(context, "backfill", Task::Backfill(range)).await
}

pub(crate) async fn import(context: &Context, args: &RangeArgs) -> Result<()> {
    let range = range(args, Timestamp::now(), EXPORTS_WINDOW).map_err(|problem| {
        Error::usage(match problem {
            Problem::TooOld => {
                "Gladly keeps its exports for 14 days, and the range ends before that; read what is older at Gladly.".into()
            }
            Problem::Other(sentence) => sentence,
        })
    })?;
    recover(context, "import", Task::Import(range)).await
}

#[derive(Debug, PartialEq, Eq)]
enum Problem {
    /// Gladly has nothing of it any more.
    TooOld,
    Other(String),
}

/// The range that was asked for, refused before anything is called if nothing can come of it.
fn range(
    args: &RangeArgs,
    now: Timestamp,
    window: SignedDuration,
) -> std::result::Result<RecoveryRange, Problem> {
    let other = |sentence: &str| Problem::Other(sentence.to_owned());
    let since = args.since.map(|since| now - since);
    let from = args.from.or(since).ok_or_else(|| other("expected --from or --since."))?;
    if from >= now {
        return Err(other("--from is in the future."));
    }
    if let Some(to) = args.to {
        if from >= to {
            return Err(other("--from is not before --to."));
        }
        if to <= now - window {
            return Err(Problem::TooOld);
        }
    }
    Ok(RecoveryRange { from: Some(from), to: args.to, dry_run: args.dry_run })
}

async fn recover(context: &Context, command: &str, task: Task) -> Result<()> {
    let is_dry = matches!(
        &task,
        Task::Backfill(RecoveryRange { dry_run: true, .. })
            | Task::Import(RecoveryRange { dry_run: true, .. })
    );
    let relay = context.relay().await?;
    if !is_dry {
        context
            .if_stopped("extractor-fn continues by itself; \"gladly-relay status\" shows the rest");
    }
    let task = relay.task::<Backfilled>(&task);
    let done = context.terminal.during("reading from Gladly", task).await?;
    context.terminal.result(command, &done);
    let body = &done.body;
    let say = |line: &str| context.terminal.say(line);
    if body.cut {
        say(&format!(
            "Gladly has nothing older than {}: the range begins there.",
            shown(body.from)
        ));
        if command == "backfill" {
            say("For what is older: gladly-relay import, which goes back 14 days.");
        }
    }
    if body.invalid_lines > 0 {
        say(&format!("{} malformed at Gladly; ignored.", count(body.invalid_lines, "line")));
    }
    if body.missing_jobs > 0 {
        say(&format!("{} no longer at Gladly.", count(body.missing_jobs, "export job")));
    }
    let queued = count(body.queued, "event");
    if is_dry {
        say(&format!("{queued} would be queued."));
        return Ok(());
    }
    if let Some(reason) = &body.postponed {
        say(&format!("Accepted, but Gladly could not be read now: {reason}."));
        say(
            "It continues automatically, every five minutes; \"gladly-relay status\" shows the rest.",
        );
        return Ok(());
    }
    say(&match (body.done, body.settling) {
        (true, _) => format!("{queued} queued."),
        (false, true) => {
            format!("{queued} queued; events from the last minute follow automatically.")
        }
        (false, false) => format!("{queued} queued; the rest follows automatically, every minute."),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_makes_no_sense_is_refused() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let hours = |hours: i64| Some(now + SignedDuration::from_hours(hours));
        let asked = |from, to| {
            let args = RangeArgs { from, since: None, to, dry_run: false };
            range(&args, now, EVENTS_WINDOW)
        };
        assert_eq!(asked(hours(-48), hours(-25)), Err(Problem::TooOld));
        for (from, to) in
            [(hours(1), None), (hours(-1), hours(-2)), (hours(-1), hours(-1)), (None, None)]
        {
            assert!(matches!(asked(from, to), Err(Problem::Other(_))), "{from:?} {to:?}");
        }
        // What is older than Gladly's list may be where a range begins, and the future where it ends.
        assert_eq!(asked(hours(-99), hours(99)).map(|range| range.from), Ok(hours(-99)));
        let args = RangeArgs {
            from: None,
            since: Some(SignedDuration::from_hours(6)),
            to: None,
            dry_run: true,
        };
        let expected = RecoveryRange { from: hours(-6), to: None, dry_run: true };
        assert_eq!(range(&args, now, EVENTS_WINDOW), Ok(expected));
    }
}
