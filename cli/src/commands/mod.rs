//! The commands, each in a module of its own.

mod backfill;
mod conformance;
mod deploy;
mod doctor;
mod fleet;
mod pause;
mod policy;
mod quarantine;
mod rotate_key;
mod secrets;
mod status;
mod tail;
mod test;
mod trace;
mod version;
mod webhook;

use std::io;

use clap::CommandFactory as _;

use crate::{
    Context,
    args::{Cli, Command},
    error::{Error, Result},
};

/// Runs a command.
pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Secrets(args) => secrets::run(context, &args).await,
        Command::Webhook(settings) => webhook::run(context, &settings).await,
        Command::Doctor(settings) => doctor::run(context, &settings).await,
        Command::RotateKey(args) => rotate_key::run(context, &args).await,
        Command::Deploy(args) => deploy::run(context, &args).await,
        Command::Status(args) => status::run(context, &args).await,
        Command::Pause(args) => pause::pause(context, &args).await,
        Command::Resume => pause::resume(context).await,
        Command::Quarantine(command) => quarantine::run(context, &command).await,
        Command::Backfill(args) => backfill::backfill(context, &args).await,
        Command::Import(args) => backfill::import(context, &args).await,
        Command::Trace(args) => trace::trace(context, &args).await,
        Command::Replay(args) => trace::replay(context, &args).await,
        Command::Test(args) => test::run(context, &args).await,
        Command::Conformance(args) => conformance::run(context, &args).await,
        Command::Tail(args) => tail::run(context, &args).await,
        Command::Fleet => fleet::run(context).await,
        Command::Policy(args) => policy::run(context, &args).await,
        Command::Version => version::run(context).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "gladly-relay", &mut io::stdout());
            Ok(())
        }
        Command::Man => man(),
    }
}

/// Prints the manual page: the program's, then each command's.
fn man() -> Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut out = io::stdout().lock();
    let rendered = clap_mangen::Man::new(command.clone()).render(&mut out).and_then(|()| {
        command.get_subcommands().try_for_each(|each| {
            let full = each.get_bin_name().unwrap_or_else(|| each.get_name()).replace(' ', "-");
            clap_mangen::Man::new(each.clone()).title(full).render(&mut out)
        })
    });
    rendered.map_err(|err| Error::failed(format!("could not print the manual page: {err}.")))
}
