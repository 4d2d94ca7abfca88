//! `local demo`, `local up`, `local down`, `local env`, `local soak`, `local dashboard`: behind the make targets of the
//! same names.

use std::{
    env,
    error::Error,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use local::{
    command::{Command, UsageError},
    dashboard, demo,
    soak::{self, Plan},
    up::{self, Running, UpError},
};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = env::args_os().skip(1).map(|it| it.to_string_lossy().into_owned());
    let done = match Command::parse(arguments) {
        Ok(command) => run(command).await,
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", sentence(error.as_ref()));
            exit_code(error.as_ref())
        }
    }
}

async fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Demo(tour) => demo::demo(tour).await?,
        Command::Dashboard => dashboard::draw().await?,
        Command::Soak { seed, events, minutes, target } => {
            let length = Duration::from_mins(minutes.into());
            let plan = Plan::new(seed.into(), events as usize, length);
            soak::soak(&Plan { target, ..plan }).await?;
            print_line("No event was lost, and every invariant held.");
        }
        Command::Up => {
            let running = up::up().await?;
            let key = running.newest_key().await;
            print_line(&introduction(&running, &key));
        }
        Command::Serve => up::serve().await?,
        Command::Down if up::down().await? => print_line("The relay is down."),
        Command::Down => print_line("Nothing is running."),
        Command::Env => match Running::find().await {
            Some(running) => print_line(&running.exports()),
            None => return Err("nothing is running: start it with \"make up\"".into()),
        },
    }
    Ok(())
}

/// What "make up" prints.
fn introduction(running: &Running, key: &str) -> String {
    let Running { webhook_url, gladly_url, destination_url, page_url, aws_url, .. } = running;
    let emit = running.emit_command();
    format!(
        r#"
The relay is up. "make down" stops it and removes everything it created.

  Page         {page_url}  # webhooks, backlog, deliveries and conversations, in a browser
  Webhooks     {webhook_url}
  Gladly       {gladly_url}/_sim
  Destination  {destination_url}
  AWS          {aws_url}

Commands to try:

  {emit}  # Gladly sends a webhook
  curl {destination_url}  # what has arrived
  curl -H 'x-api-key: {key}' -d '{{"type":"PING"}}' {webhook_url}  # a webhook by hand; without the key: 401
  curl -H 'x-api-key: {key}' -d 'nonsense' {webhook_url}  # goes to quarantine
  make quarantine  # what is there, and why
  make pause REASON='trying it out'  # events are held
  make status
  make resume
  curl -H 'content-type: application/json' -d '{{"on":"GET /api/v1/*","times":2,"status":500}}' {gladly_url}/_sim/faults  # Gladly fails twice
  eval "$(make -s env)"  # for aws … and gladly-relay in this terminal"#
    )
}

/// Prints a line, unless standard output is closed (`make up | head`).
fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// An error with its causes, as one sentence.
fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn exit_code(error: &(dyn Error + 'static)) -> ExitCode {
    match error.downcast_ref::<UpError>() {
        Some(error) => error.exit_code().into(),
        None if error.is::<UsageError>() => ExitCode::from(2),
        None => ExitCode::FAILURE,
    }
}
