//! `local demo`, `local up`, `local down`, `local soak`, `local dashboard`: behind the make targets of the same names.

use std::{
    env,
    error::Error,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use local::{
    dashboard,
    demo::{self, Tour},
    soak::{self, Plan},
    up::{self, Running},
};

#[tokio::main]
async fn main() -> ExitCode {
    let command = env::args().nth(1).unwrap_or_default();
    let done = match command.as_str() {
        "demo" => {
            let full = env::args().nth(2).is_some_and(|tour| tour == "full");
            demo::demo(if full { Tour::Full } else { Tour::Short }).await.map_err(Into::into)
        }
        "dashboard" => dashboard::draw().await.map_err(Into::into),
        "soak" => run_soak().await,
        "up" => start().await,
        "down" => stop().await,
        // Run in the background by "up".
        "serve" => up::serve().await.map_err(Into::into),
        _ => {
            Err("expected one of: local demo, local dashboard, local soak, local up, local down"
                .into())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", sentence(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run_soak() -> Result<(), Box<dyn Error>> {
    let [seed, events, minutes] =
        [(2, "SEED", 1), (3, "EVENTS", 30_000), (4, "MINUTES", 10)].map(|(at, name, usual)| {
            match env::args().nth(at) {
                Some(text) => text.parse::<u32>().map_err(|_| format!("{name} must be a number")),
                None => Ok(usual),
            }
        });
    let minutes = Duration::from_mins(minutes?.max(1).into());
    soak::soak(&Plan::new(seed?.into(), events?.max(1) as usize, minutes)).await?;
    print_line("No event was lost, and every invariant held.");
    Ok(())
}

async fn start() -> Result<(), Box<dyn Error>> {
    let running = if let Some(running) = Running::find().await {
        running
    } else {
        print_line("Starting an emulated AWS, a Gladly simulator and a destination…");
        up::up().await?
    };
    let Running {
        webhook_url,
        webhook_key,
        gladly_url,
        conversation,
        destination_url,
        aws_url,
        ..
    } = &running;
    print_line(&format!(
        r#"
The relay is up. "make down" stops it and removes everything it created.

  Webhooks     {webhook_url}
  Gladly       {gladly_url}/_sim
  Destination  {destination_url}
  AWS          {aws_url}

Commands to try:

  # Emit an event at Gladly, which sends a webhook; then list what arrived.
  curl -d '{{"type":"CONVERSATION/CLOSED","conversation":"{conversation}"}}' -H 'content-type: application/json' {gladly_url}/_sim/emit
  curl {destination_url}

  # Post a webhook by hand: with the key, without it, and with an invalid body.
  curl -H 'x-api-key: {webhook_key}' -d '{{"type":"PING"}}' {webhook_url}
  curl -d '{{"type":"PING"}}' {webhook_url}
  curl -H 'x-api-key: {webhook_key}' -d 'nonsense' {webhook_url}
  make quarantine

  # Pause and resume: events that arrive in between are held. "make status" shows the current state.
  make pause REASON='trying it out'
  make resume

  # Make Gladly fail twice.
  curl -d '{{"on":"GET /api/v1/*","times":2,"status":500}}' -H 'content-type: application/json' {gladly_url}/_sim/faults

"make down" stops it."#
    ));
    Ok(())
}

async fn stop() -> Result<(), Box<dyn Error>> {
    match Running::find().await {
        Some(running) => {
            running.stop().await?;
            print_line("The relay is down.");
        }
        None => print_line("Nothing is running."),
    }
    Ok(())
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
