//! `doctor`: checks everything, one line each, and shows a line as soon as those before it are done.

mod alarms;
mod arrivals;
mod destination;
mod extraction;
mod gladly;
mod keys;
mod stack;

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use serde_json::json;

use crate::{
    Context,
    args::SettingsArgs,
    error::{Error, NO_CREDENTIALS, Result, UNREACHABLE},
    settings::{self, Settings},
    terminal::{Mark, Terminal},
};

/// One finding.
#[derive(Debug)]
struct Line {
    mark: Mark,
    text: String,
}

/// What a check works with, and what it has found.
struct Check<'a> {
    settings: &'a Settings,
    terminal: &'a Terminal,
    /// Whether the stack is deployed: what needs its outputs is checked only then.
    is_deployed: bool,
    lines: Vec<Line>,
}

impl Check<'_> {
    fn good(&mut self, text: impl Into<String>) {
        self.lines.push(Line { mark: Mark::Good, text: text.into() });
    }

    /// Something is wrong; how to correct it follows a colon.
    fn wrong(&mut self, what: &str, remedy: &str) {
        self.lines.push(Line { mark: Mark::Wrong, text: format!("{what}: {remedy}") });
    }

    fn unsure(&mut self, text: impl Into<String>) {
        self.lines.push(Line { mark: Mark::Unsure, text: text.into() });
    }

    /// A command as it has to be typed.
    fn command(&self, command: &str) -> String {
        self.settings.relay.command(command)
    }

    /// The lines, up to where the check could not continue.
    fn end(mut self, what: &str, done: Result<()>) -> Vec<Line> {
        if let Err(error) = done {
            self.lines.push(unfinished(what, &error));
        }
        self.lines
    }
}

/// Why a check could not continue: wrong, unless it is about what this login may see.
fn unfinished(what: &str, error: &Error) -> Line {
    let sentence = error.sentence.trim_end_matches('.');
    let is_unseen = error.code.is_some() && !error.is_not_found()
        || [UNREACHABLE, NO_CREDENTIALS].iter().any(|part| error.sentence.contains(part));
    if let Some(permission) = &error.permission {
        let text = format!("{what}: cannot be checked: you lack the permission {permission}");
        return Line { mark: Mark::Unsure, text };
    }
    if is_unseen {
        Line { mark: Mark::Unsure, text: format!("{what}: cannot be checked: {sentence}") }
    } else {
        Line { mark: Mark::Wrong, text: sentence.to_owned() }
    }
}

pub(crate) async fn run(context: &Context, args: &SettingsArgs) -> Result<()> {
    settings::check(args)?;
    let settings = Settings::new(context.any_relay().await?, args)?;
    let terminal = &context.terminal;
    let check = || Check {
        settings: &settings,
        terminal,
        is_deployed: settings.relay.is_deployed(),
        lines: Vec::new(),
    };
    let mut checks: FuturesOrdered<BoxFuture<'_, Vec<Line>>> = [
        stack::examine(check()).boxed(),
        keys::examine(check()).boxed(),
        gladly::examine(check(), check()).boxed(),
        destination::examine(check()).boxed(),
        extraction::examine(check(), check()).boxed(),
        alarms::examine(check()).boxed(),
        alarms::examine_quota(check()).boxed(),
    ]
    .into_iter()
    .collect();

    let mut all = Vec::new();
    while let Some(lines) = terminal.during("checking", checks.next()).await {
        for line in lines {
            terminal.mark(line.mark, &line.text);
            all.push(line);
        }
    }
    let document: Vec<_> =
        all.iter().map(|line| json!({"mark": word(line.mark), "text": line.text})).collect();
    terminal.result("doctor", &document);
    let count = |mark| all.iter().filter(|line| line.mark == mark).count();
    match (count(Mark::Wrong), count(Mark::Unsure)) {
        (0, 0) => terminal.say("Nothing is wrong."),
        (0, _) => terminal.say("Nothing is wrong, as far as it could be checked."),
        (1, _) => return Err(Error::wrong("1 thing is wrong.")),
        (wrong, _) => return Err(Error::wrong(format!("{wrong} things are wrong."))),
    }
    Ok(())
}

/// A mark in JSON.
fn word(mark: Mark) -> &'static str {
    match mark {
        Mark::Good => "ok",
        Mark::Wrong => "WRONG",
        Mark::Unsure => "?",
    }
}
