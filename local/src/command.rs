//! The command line of `local`.

use std::{
    fmt::{self, Display, Formatter},
    ops::RangeInclusive,
};

use crate::{demo::Tour, soak::Target};

/// What the program is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Show the relay at work.
    Demo(Tour),
    /// Draw the dashboard.
    Dashboard,
    /// Run the relay under load and faults.
    Soak {
        /// The seed of all random choices.
        seed: u32,
        /// How many events are sent.
        events: u32,
        /// How long that takes.
        minutes: u32,
        /// Where deliveries go.
        target: Target,
    },
    /// Start the relay in the background.
    Up,
    /// Run in the background by [`Command::Up`].
    Serve,
    /// Stop it.
    Down,
    /// Print the environment in which other programs find it.
    Env,
}

/// Why the arguments are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// No command, or an unknown one.
    #[error("{}expected one of: demo, dashboard, soak, up, down, env", unknown(.0))]
    Command(String),
    /// An argument after the last that the command takes.
    #[error("unexpected argument \"{argument}\": local {command} takes {taken}")]
    Unexpected {
        /// The command.
        command: &'static str,
        /// What it takes.
        taken: &'static str,
        /// The argument.
        argument: String,
    },
    /// Not the name of a tour.
    #[error("invalid TOUR \"{0}\": expected \"full\" or nothing")]
    Tour(String),
    /// Not a kind of destination.
    #[error("invalid DESTINATION \"{0}\": expected \"https\" or \"bucket\"")]
    Destination(String),
    /// Not a number, or out of range.
    #[error("invalid {name} \"{text}\": expected a number from {} to {}", range.start(), range.end())]
    Number {
        /// What the number is of.
        name: &'static str,
        /// The argument.
        text: String,
        /// What is accepted.
        range: RangeInclusive<u32>,
    },
}

fn unknown(command: &str) -> impl Display {
    fmt::from_fn(move |f: &mut Formatter<'_>| {
        if command.is_empty() { Ok(()) } else { write!(f, "unknown command \"{command}\": ") }
    })
}

impl Command {
    /// Parses the arguments, without the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, UsageError> {
        let mut arguments = arguments.into_iter();
        let name = arguments.next().unwrap_or_default();
        let (command, name, taken) = match name.as_str() {
            "demo" => (Self::Demo(tour(arguments.next())?), "demo", "one tour"),
            "dashboard" => (Self::Dashboard, "dashboard", "no arguments"),
            "soak" => {
                let soak = Self::Soak {
                    seed: number("SEED", arguments.next(), 1, 0..=u32::MAX)?,
                    events: number("EVENTS", arguments.next(), 30_000, 1..=1_000_000)?,
                    minutes: number("MINUTES", arguments.next(), 10, 1..=24 * 60)?,
                    target: target(arguments.next())?,
                };
                (soak, "soak", "a seed, a number of events, a number of minutes and a destination")
            }
            "up" => (Self::Up, "up", "no arguments"),
            "serve" => (Self::Serve, "serve", "no arguments"),
            "down" => (Self::Down, "down", "no arguments"),
            "env" => (Self::Env, "env", "no arguments"),
            _ => return Err(UsageError::Command(name)),
        };
        match arguments.next() {
            Some(argument) => Err(UsageError::Unexpected { command: name, taken, argument }),
            None => Ok(command),
        }
    }
}

fn tour(argument: Option<String>) -> Result<Tour, UsageError> {
    match argument {
        None => Ok(Tour::Short),
        Some(tour) if tour == "full" => Ok(Tour::Full),
        Some(tour) => Err(UsageError::Tour(tour)),
    }
}

fn target(argument: Option<String>) -> Result<Target, UsageError> {
    match argument {
        None => Ok(Target::Https),
        Some(target) if target == "https" => Ok(Target::Https),
        Some(target) if target == "bucket" => Ok(Target::Bucket),
        Some(target) => Err(UsageError::Destination(target)),
    }
}

fn number(
    name: &'static str,
    argument: Option<String>,
    default: u32,
    range: RangeInclusive<u32>,
) -> Result<u32, UsageError> {
    let Some(text) = argument else { return Ok(default) };
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(UsageError::Number { name, text, range }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        let arguments = line.split_whitespace().map(str::to_owned);
        Command::parse(arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn every_command_is_known() {
        let to = |target, seed, events, minutes| Command::Soak { seed, events, minutes, target };
        let soak = |seed, events, minutes| to(Target::Https, seed, events, minutes);
        for (line, command) in [
            ("demo", Command::Demo(Tour::Short)),
            ("demo full", Command::Demo(Tour::Full)),
            ("dashboard", Command::Dashboard),
            ("soak", soak(1, 30_000, 10)),
            ("soak 0", soak(0, 30_000, 10)),
            ("soak 7 1 1", soak(7, 1, 1)),
            ("soak 4294967295 1000000 1440", soak(u32::MAX, 1_000_000, 1_440)),
            ("soak 7 1 1 https", soak(7, 1, 1)),
            ("soak 7 1 1 bucket", to(Target::Bucket, 7, 1, 1)),
            ("up", Command::Up),
            ("serve", Command::Serve),
            ("down", Command::Down),
            ("env", Command::Env),
        ] {
            assert_eq!(parse(line), Ok(command), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused_in_one_sentence_with_what_is_valid() {
        for (line, sentence) in [
            ("", "expected one of: demo, dashboard, soak, up, down, env"),
            (
                "pu",
                r#"unknown command "pu": expected one of: demo, dashboard, soak, up, down, env"#,
            ),
            ("demo Full", r#"invalid TOUR "Full": expected "full" or nothing"#),
            ("demo full 2", r#"unexpected argument "2": local demo takes one tour"#),
            ("up now", r#"unexpected argument "now": local up takes no arguments"#),
            ("down all", r#"unexpected argument "all": local down takes no arguments"#),
            ("env -x", r#"unexpected argument "-x": local env takes no arguments"#),
            ("soak -1", r#"invalid SEED "-1": expected a number from 0 to 4294967295"#),
            ("soak 1 0", r#"invalid EVENTS "0": expected a number from 1 to 1000000"#),
            ("soak 1 1000001", r#"invalid EVENTS "1000001": expected a number from 1 to 1000000"#),
            ("soak 1 1 ten", r#"invalid MINUTES "ten": expected a number from 1 to 1440"#),
            ("soak 1 1 1 s3", r#"invalid DESTINATION "s3": expected "https" or "bucket""#),
            (
                "soak 1 1 1 https 1",
                r#"unexpected argument "1": local soak takes a seed, a number of events, a number of minutes and a destination"#,
            ),
        ] {
            assert_eq!(parse(line), Err(sentence.to_owned()), "{line}");
        }
    }
}
