//! `version`: of this program and of the stack.

use serde_json::json;
use shared::{Status, Task};

use crate::{Context, error::Result};

pub(crate) async fn run(context: &Context) -> Result<()> {
    let program = env!("CARGO_PKG_VERSION");
    context.terminal.say(&format!("gladly-relay {program}"));
    let relay = match context.relay().await {
        Ok(relay) => relay,
        Err(error) => {
            context.terminal.say(&format!("The stack's version is unknown: {}", error.sentence));
            context.terminal.result("version", &json!({"program": program}));
            return Ok(());
        }
    };
    let task = relay.task::<Status>(&Task::Status);
    let version = context.terminal.during("asking the relay", task).await?.relay_version;
    context.terminal.say(&format!("stack {} in {} {version}", relay.name, relay.session.region));
    context
        .terminal
        .result("version", &json!({"program": program, "stack": relay.name, "relay": version}));
    Ok(())
}
