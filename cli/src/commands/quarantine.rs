//! `quarantine list`, `show`, `redrive` and `discard`.

use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use shared::{Discarded, QuarantineList, QuarantinedBody, Redriven, Selection, Task};

use crate::{
    Context,
    args::{DiscardArgs, QuarantineCommand, SelectionArgs},
    error::{Error, Result},
    relay::Relay,
    times::{count, minute},
};

pub(crate) async fn run(context: &Context, command: &QuarantineCommand) -> Result<()> {
    match command {
        QuarantineCommand::List => list(context).await,
        QuarantineCommand::Show { id } => show(context, id).await,
        QuarantineCommand::Redrive(selection) => redrive(context, selection).await,
        QuarantineCommand::Discard(args) => discard(context, args).await,
    }
}

async fn list(context: &Context) -> Result<()> {
    let relay = context.relay().await?;
    let task = relay.task::<QuarantineList>(&Task::Quarantine);
    let found = context.terminal.during("scanning the quarantine", task).await?;
    context.terminal.result("quarantine list", &found);
    let QuarantineList { total, messages } = &found.body;
    if messages.is_empty() {
        context.terminal.say("Nothing is in quarantine.");
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["ID", "REASON", "RECEIVED", "TYPE", "CONVERSATION", "DETAIL"]);
    for entry in messages {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        table.add_row([
            entry.id.clone(),
            entry.reason.clone(),
            minute(entry.received_at),
            text(&entry.event_type),
            text(&entry.conversation_id),
            entry.detail.clone(),
        ]);
    }
    for line in table.lines() {
        context.terminal.say(line.trim_end());
    }
    let shown = messages.len() as u64;
    if shown < *total {
        context.terminal.say(&format!("… and {}", count(total - shown, "more message")));
    }
    context.terminal.say(&format!(
        "{} in quarantine. Read one: {}.",
        count((*total).max(shown), "message"),
        relay.command("quarantine show ID")
    ));
    Ok(())
}

async fn show(context: &Context, id: &str) -> Result<()> {
    let relay = context.relay().await?;
    let task = Task::Show { id: id.to_owned() };
    let task = relay.task::<QuarantinedBody>(&task);
    let found = context.terminal.during("scanning the quarantine", task).await?;
    context.terminal.result("quarantine show", &found);
    let QuarantinedBody { entry, body, encoding } = &found.body;
    for (name, text) in [
        ("ID", Some(&entry.id)),
        ("Reason", Some(&entry.reason)),
        ("Detail", Some(&entry.detail)),
        ("Origin", Some(&entry.origin)),
        ("Type", entry.event_type.as_ref()),
        ("Conversation", entry.conversation_id.as_ref()),
        ("Encoding", encoding.as_ref()),
    ] {
        if let Some(text) = text {
            context.terminal.say(&format!("{name:<14}{text}"));
        }
    }
    context.terminal.say(&format!("{:<14}{}", "Received", minute(entry.received_at)));
    if entry.truncated {
        context.terminal.say("The body was too large and is truncated: it can never be redriven.");
    }
    context.terminal.say(&format!("\n{body}"));
    Ok(())
}

impl From<&SelectionArgs> for Selection {
    fn from(args: &SelectionArgs) -> Self {
        Self {
            id: args.id.clone(),
            reason: args.reason,
            conversation_id: args.conversation.clone(),
            max: args.max,
            dry_run: args.dry_run,
        }
    }
}

async fn redrive(context: &Context, args: &SelectionArgs) -> Result<()> {
    let relay = context.relay().await?;
    context.if_stopped("extractor-fn continues by itself");
    let task = Task::Redrive(args.into());
    let task = relay.task::<Redriven>(&task);
    let done = context.terminal.during("redriving", task).await?;
    context.terminal.result("quarantine redrive", &done);
    let Redriven { redriven, stayed, more } = done.body;
    let events = count(redriven, "event");
    context.terminal.say(&if args.dry_run {
        format!("{events} would go back to the events queue.")
    } else {
        format!("{events} went back to the events queue.")
    });
    if stayed > 0 {
        context.terminal.say(&format!(
            "{stayed} left in quarantine: truncated or not valid events. To delete them: {}.",
            relay.command("quarantine discard --reason …")
        ));
    }
    if more {
        context
            .terminal
            .say(&format!("There are more: {} again.", relay.command("quarantine redrive")));
    }
    Ok(())
}

async fn discard(context: &Context, args: &DiscardArgs) -> Result<()> {
    let selection = Selection::from(&args.selection);
    if selection.id.is_none() && selection.reason.is_none() && selection.conversation_id.is_none() {
        return Err(Error::usage(
            "expected --id, --reason or --conversation: what is discarded is gone for good.",
        ));
    }
    let relay = context.relay().await?;
    if !selection.dry_run {
        let counted = counted(context, &relay, &selection).await?;
        if counted == 0 {
            context.terminal.say("Nothing matches.");
            context.terminal.result("quarantine discard", &Discarded::default());
            return Ok(());
        }
        let messages = count(counted, "message");
        let question = format!("Delete {messages} for good?");
        context.terminal.confirm(&question, args.yes).await?;
    }
    context.if_stopped("extractor-fn continues by itself");
    let task = Task::Discard(selection.clone());
    let task = relay.task::<Discarded>(&task);
    let done = context.terminal.during("discarding", task).await?;
    context.terminal.result("quarantine discard", &done);
    let messages = count(done.body.discarded, "message");
    context.terminal.say(&if selection.dry_run {
        format!("{messages} would be deleted.")
    } else {
        format!("{messages} deleted.")
    });
    if done.body.more {
        context.terminal.say("There are more: run it again.");
    }
    Ok(())
}

async fn counted(context: &Context, relay: &Relay, selection: &Selection) -> Result<u64> {
    let task = Task::Discard(Selection { dry_run: true, ..selection.clone() });
    let task = relay.task::<Discarded>(&task);
    Ok(context.terminal.during("counting", task).await?.body.discarded)
}
