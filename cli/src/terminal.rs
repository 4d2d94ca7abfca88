//! What a person sees and is asked, and what a script reads.

use std::{
    collections::BTreeSet,
    env,
    io::{self, IsTerminal as _, Write as _},
    sync::{Mutex, PoisonError},
};

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde::Serialize;
use serde_json::json;
use tokio::time::Duration;

use crate::{
    args::Output,
    error::{Error, Result},
};

/// The version of the JSON that commands print: raised by a change that a script would misread.
pub(crate) const OUTPUT_VERSION: u32 = 1;
/// The shortest secret that is hidden wherever it occurs: a shorter one occurs by chance.
const MIN_SECRET: usize = 6;
/// After this long a step shows that it goes on.
const PROGRESS_DELAY: Duration = Duration::from_secs(2);

/// What a line is marked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Good,
    Wrong,
    Unsure,
}

/// Standard output and the terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    output: Output,
    /// Secrets, which are never shown, even if an answer repeats them.
    secrets: Mutex<BTreeSet<String>>,
}

impl Terminal {
    pub(crate) fn new(output: Output) -> Self {
        Self { output, secrets: Mutex::default() }
    }

    /// Whether a script reads the output: then nothing but one JSON document is printed there.
    pub(crate) fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    /// From now on this text is never shown.
    pub(crate) fn hide(&self, secret: &str) {
        let lines = secret.lines().map(str::trim).filter(|line| line.len() >= MIN_SECRET);
        self.secrets().extend(lines.map(str::to_owned));
    }

    fn secrets(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A text without secrets and without what could steer a terminal.
    pub(crate) fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        let mut secrets: Vec<_> = self.secrets().iter().cloned().collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        for secret in secrets {
            text = text.replace(&secret, "…");
        }
        let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
        text.chars().filter(|c| !steers(*c)).collect()
    }

    /// A line for people; for a script nothing.
    pub(crate) fn say(&self, line: &str) {
        if !self.is_json() {
            let _ = writeln!(anstream::stdout(), "{}", self.clean(line));
        }
    }

    /// A marked line for people.
    pub(crate) fn mark(&self, mark: Mark, line: &str) {
        let (word, color) = match mark {
            Mark::Good => ("ok", AnsiColor::Green),
            Mark::Wrong => ("WRONG", AnsiColor::Red),
            Mark::Unsure => ("?", AnsiColor::Yellow),
        };
        self.styled(color, &format!("{word:<6}"), line);
    }

    /// A line that begins in a color.
    pub(crate) fn styled(&self, color: AnsiColor, start: &str, line: &str) {
        if !self.is_json() {
            let style = Style::new().fg_color(Some(color.into()));
            let (start, line) = (self.clean(start), self.clean(line));
            let _ = writeln!(anstream::stdout(), "{style}{start}{style:#}{line}");
        }
    }

    /// A remark for people, beside the output.
    pub(crate) fn remark(&self, line: &str) {
        let _ = writeln!(anstream::stderr(), "{}", self.clean(line));
    }

    /// The result for a script.
    pub(crate) fn result(&self, command: &str, result: &impl Serialize) {
        if self.is_json() {
            let document = json!({"v": OUTPUT_VERSION, "command": command, "result": result});
            let _ = writeln!(io::stdout(), "{}", self.clean(&document.to_string()));
        }
    }

    /// Why the command failed.
    pub(crate) fn fail(&self, command: &str, error: &Error) {
        let style = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
        let sentence = self.clean(&error.sentence).replace('\n', " ");
        let _ = writeln!(anstream::stderr(), "{style}gladly-relay {command}:{style:#} {sentence}");
    }

    /// Whether a person can be asked.
    pub(crate) fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal() && !self.is_json()
    }

    /// Asks for a text; `None` without a terminal, or if nothing was entered.
    pub(crate) async fn ask(&self, question: &str) -> Option<String> {
        if !self.can_ask() {
            return None;
        }
        self.read_line(question).await
    }

    /// Reads a line; `None` at its end, or if nothing was entered.
    async fn read_line(&self, question: &str) -> Option<String> {
        let _ = write!(anstream::stderr(), "{}", self.clean(question));
        let _ = io::stderr().flush();
        let read = || {
            let mut line = String::new();
            io::stdin().read_line(&mut line).ok().filter(|read| *read > 0).map(|_| line)
        };
        let line = tokio::task::spawn_blocking(read).await.ok().flatten()?;
        Some(line.trim().to_owned()).filter(|line| !line.is_empty())
    }

    /// Asks a question whose answer is no unless it is yes.
    pub(crate) async fn agrees(&self, question: &str) -> bool {
        let answer = self.ask(&format!("{question} [y/N] ")).await.unwrap_or_default();
        matches!(&*answer.to_ascii_lowercase(), "y" | "yes")
    }

    /// Asks before something that cannot be undone.
    ///
    /// # Errors
    ///
    /// The person does not agree, or there is no terminal and `--yes` is missing.
    pub(crate) async fn confirm(&self, question: &str, yes: bool) -> Result<()> {
        if yes {
            return Ok(());
        }
        if !self.can_ask() {
            return Err(Error::usage(format!("{question} Without a terminal this needs --yes.")));
        }
        if self.agrees(question).await {
            Ok(())
        } else {
            Err(Error::failed("nothing was changed."))
        }
    }

    /// Asks for a secret, which is not echoed; `None` without a terminal, or if nothing was entered.
    pub(crate) async fn ask_secret(&self, question: &str) -> Result<Option<String>> {
        if !self.can_ask() {
            return Ok(None);
        }
        let silent = Silence::begin().map_err(|_| {
            Error::failed("a secret cannot be typed unseen here; export it as a variable instead.")
        })?;
        let typed = self.read_line(&format!("{question}: ")).await;
        drop(silent);
        self.hide(typed.as_deref().unwrap_or_default());
        Ok(typed)
    }

    /// Shows at a terminal that a step goes on, once it takes more than two seconds.
    pub(crate) async fn during<T>(&self, what: &str, step: impl Future<Output = T>) -> T {
        if !io::stderr().is_terminal() || env::var_os("TERM").is_some_and(|term| term == "dumb") {
            return step.await;
        }
        tokio::pin!(step);
        tokio::select! {
            done = &mut step => return done,
            () = tokio::time::sleep(PROGRESS_DELAY) => {}
        }
        let bar = ProgressBar::new_spinner().with_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        let done = step.await;
        bar.finish_and_clear();
        done
    }
}

/// While it lives the terminal does not echo, but for the end of a line. Ctrl-C drops the question and
/// with it this.
struct Silence(Termios);

impl Silence {
    /// Ends the echo before the question is shown: who answers at once would otherwise see it.
    fn begin() -> rustix::io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Now, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // An error here cannot be handled.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_control_characters_are_not_shown() {
        let terminal = Terminal::new(Output::Text);
        terminal.hide("long-secret\nlong-secret-and-more\nshort");
        let shown = terminal
            .clean("a long-secret-and-more, long-secret, short \u{1b}[2J\u{85}\u{7f}\u{8} é\t\n");
        assert_eq!(shown, "a …, …, short [2J é\t\n");
    }
}
