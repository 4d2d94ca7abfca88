//! `gladly-relay`, the operator's program: sets a relay up, watches it and operates it.
//!
//! A command is a module of `commands`. It reads what it needs through the `session` (one login, one
//! region) and the `relay` (a stack), and shows it on the `terminal`. Everything that fails is one error:
//! a sentence with what to do, and an exit code.

mod activity;
mod args;
mod arrivals;
mod bucket;
mod commands;
mod deliveries;
mod destination;
mod endpoint;
mod error;
mod given;
mod gladly;
mod gladly_webhook;
mod http;
mod keys;
mod logs;
mod metrics;
mod relay;
mod session;
mod settings;
mod terminal;
mod times;

use std::{
    ffi::OsString,
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use clap::Parser as _;

use crate::{
    args::{Cli, Global},
    error::{INTERRUPTED, Result},
    relay::Relay,
    session::Session,
    terminal::Terminal,
};

/// What every command works with.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) terminal: Terminal,
    /// What holds already, if the command fails or is stopped from here on.
    held: Mutex<String>,
    /// What happens if the command is stopped now.
    stopped: Mutex<String>,
}

impl Context {
    /// The relay's stack, deployed.
    pub(crate) async fn relay(&self) -> Result<Relay> {
        self.any_relay().await?.deployed()
    }

    /// The relay's stack, which may not exist yet.
    pub(crate) async fn any_relay(&self) -> Result<Relay> {
        let session = Session::open(&self.global).await?;
        self.terminal.during("looking up the stack", Relay::find(session)).await
    }

    /// Notes what holds from now on, to be shown if the command fails or is stopped: a clause ("the pause
    /// is written").
    pub(crate) fn holds(&self, what: &str) {
        what.clone_into(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes what happens if the command is stopped now: a clause ("extractor-fn continues by itself").
    pub(crate) fn if_stopped(&self, what: &str) {
        what.clone_into(&mut self.stopped.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn held(&self) -> String {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stopped(&self) -> String {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known = [self.held(), stopped].into_iter().filter(|known| !known.is_empty());
        let known = known.collect::<Vec<_>>().join(", and ");
        if known.is_empty() { "nothing was changed".into() } else { known }
    }
}

/// Runs the program with these arguments, the first of which is its name.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(err) => {
            let _ = err.print();
            // clap's own code for wrong usage is 2; help and version are 0.
            return ExitCode::from(u8::try_from(err.exit_code()).unwrap_or(2));
        }
    };
    let Cli { global, command } = cli;
    let name = command.name();
    let terminal = Terminal::new(global.output);
    let context = Context { global, terminal, held: Mutex::default(), stopped: Mutex::default() };
    let done = tokio::select! {
        done = commands::run(&context, command) => done,
        _ = tokio::signal::ctrl_c() => {
            context.terminal.remark(&format!("\ngladly-relay {name}: stopped; {}.", context.stopped()));
            return ExitCode::from(INTERRUPTED);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let kind = error.kind;
            let held = context.held();
            let error = if held.is_empty() { error } else { error.after(&held) };
            context.terminal.fail(name, &error);
            kind.into()
        }
    }
}
