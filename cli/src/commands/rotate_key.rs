//! `rotate-key`: replaces the webhook key in two steps, between which both keys are valid.

use jiff::Timestamp;
use serde_json::{Map, json};

use crate::{
    Context,
    args::RotateKeyArgs,
    arrivals::{Arrivals, KeyUse, NO_METRICS, Window, unknown_use},
    commands::secrets::ask::new_key,
    endpoint::{ping, webhook_url},
    error::{Error, Result},
    given::Given,
    keys::Keys,
    settings::{self, Setting, Settings},
    times::minute,
};

pub(crate) async fn run(context: &Context, args: &RotateKeyArgs) -> Result<()> {
    let given = Given::read(&context.terminal)?;
    settings::check(&args.settings)?;
    crate::keys::chosen(given.webhook_key.as_deref())?;
    let settings = Settings::new(context.relay().await?, &args.settings)?;
    // Nothing is changed where it could not be tried.
    webhook_url(&settings.relay)?;
    let (keys, written_at) = read(context, &settings).await?;
    match &keys.active[..] {
        [] => Err(Error::failed(format!(
            "there is no webhook key to rotate: {}.",
            settings.relay.command("secrets")
        ))),
        [old] => add(context, &settings, args, &given, old).await,
        [old, new, ..] => {
            Removal { context, settings: &settings, args, old, new, written_at }.run().await
        }
    }
}

/// The keys, and when they were written.
async fn read(context: &Context, settings: &Settings) -> Result<(Keys, Option<Timestamp>)> {
    let reading = settings.stored(&context.terminal, Setting::WebhookKeys);
    let stored = context.terminal.during("reading the keys", reading).await?;
    Ok(stored
        .map_or_else(Default::default, |stored| (Keys::read(&stored.value), stored.written_at)))
}

/// Writes the keys under the KMS key that encrypts them now.
async fn write(context: &Context, settings: &Settings, value: &str) -> Result<()> {
    let name = settings.name(Setting::WebhookKeys);
    let kms_keys = settings.kms_keys(std::slice::from_ref(&name)).await?;
    let kms_key = kms_keys.into_iter().next().flatten();
    let writing = settings.store(&name, value, kms_key.as_deref());
    context.terminal.during("writing the keys", writing).await
}

/// Step 1: a second key beside the first, which Gladly is to send.
async fn add(
    context: &Context,
    settings: &Settings,
    args: &RotateKeyArgs,
    given: &Given,
    old: &str,
) -> Result<()> {
    let terminal = &context.terminal;
    let question = "New webhook key (Enter generates one)";
    let key = new_key(terminal, given.webhook_key.as_deref(), question).await?;
    if key == old {
        return Err(Error::usage("expected a new webhook key, got the current one."));
    }
    let name = settings.name(Setting::WebhookKeys);
    write(context, settings, &format!("{old}\n{key}")).await?;
    context.holds("step 1 is done: both keys are valid");
    terminal.say(&format!(
        "Step 1 of 2: {name} holds a new key beside the old one, and both are valid."
    ));
    let waiting = ping(&settings.relay, &key, 2);
    terminal.during("waiting for the relay to read the new key", waiting).await?;
    let is_sent = send_new_key(context, settings, args, &key).await?;
    let command = settings.relay.command("rotate-key");
    terminal.say(&format!(
        "Step 2 removes the old key, once no event has come with it for a day: {command}."
    ));
    terminal.result("rotate-key", &json!({"step": 1, "keys": 2, "gladlySendsNewKey": is_sent}));
    Ok(())
}

/// Has Gladly send the new key, if that is wanted. Returns whether it does.
async fn send_new_key(
    context: &Context,
    settings: &Settings,
    args: &RotateKeyArgs,
    key: &str,
) -> Result<bool> {
    let terminal = &context.terminal;
    let name = settings.name(Setting::WebhookKeys);
    let webhook = settings.relay.command("webhook");
    let by_hand =
        format!("set the header x-api-key of the webhook at Gladly to the second line of {name}");
    let is_wanted = match args.header {
        Some(is_wanted) => is_wanted,
        None if terminal.can_ask() => {
            let question = "Have Gladly send the new key from now on? [Y/n] ";
            let answer = terminal.ask(question).await.unwrap_or_default().to_ascii_lowercase();
            matches!(&*answer, "" | "y" | "yes")
        }
        None => true,
    };
    if !is_wanted {
        terminal.say(&format!("Now {by_hand}, or run {webhook}."));
        return Ok(false);
    }
    let changed = terminal.during("changing the webhook at Gladly", change(context, settings, key));
    changed.await.map_err(|error| {
        let cause = error.sentence.trim_end_matches('.');
        let sentence = format!(
            "Gladly does not send the new key yet: {cause}; correct that, then run {webhook}, or {by_hand}."
        );
        Error { sentence, ..error }
    })?;
    terminal.say("Gladly sends the new key from now on.");
    Ok(true)
}

async fn change(context: &Context, settings: &Settings, key: &str) -> Result<()> {
    let url = webhook_url(&settings.relay)?;
    let gladly = settings.gladly(&context.terminal).await?;
    let webhook = gladly
        .webhook_at(&url)
        .await?
        .ok_or_else(|| Error::failed("Gladly has no webhook for this relay."))?;
    let mut fields = Map::new();
    fields.insert("headers".into(), json!({webhook.key_header()?: key}));
    let path = format!("webhooks/{}", webhook.id());
    gladly.submit("PATCH", &path, &fields, &url).await.map(drop)
}

/// Step 2: the old key is removed.
struct Removal<'a> {
    context: &'a Context,
    settings: &'a Settings,
    args: &'a RotateKeyArgs,
    old: &'a str,
    new: &'a str,
    written_at: Option<Timestamp>,
}

impl Removal<'_> {
    async fn run(&self) -> Result<()> {
        let terminal = &self.context.terminal;
        let relay = &self.settings.relay;
        let name = self.settings.name(Setting::WebhookKeys);
        let when = if self.args.force {
            "now, because of --force".to_owned()
        } else {
            format!("if no event came with it in {}", self.period())
        };
        terminal
            .say(&format!("Step 2 of 2: {name} holds two keys; the old one is removed {when}."));
        let waiting = ping(relay, self.new, 2);
        terminal.during("checking that the relay accepts the new key", waiting).await?;
        let now = Timestamp::now();
        match terminal.during("reading the metrics", Arrivals::read(relay, now)).await {
            Ok(arrivals) => {
                terminal.say(&format!("By the metrics, {}.", arrivals.describe(2, now)));
            }
            // Without metrics it asks, with the reason.
            Err(error) if error.sentence == NO_METRICS => {}
            Err(error) => terminal.remark(&error.sentence),
        }
        if self.args.force {
            self.check_webhook().await;
            terminal
                .confirm(
                    "Remove the old key now? Webhooks that Gladly still sends with it are rejected with HTTP 401 \
                     from then on.",
                    self.args.yes,
                )
                .await?;
        } else {
            let checking = self.check_use(now);
            terminal.during("reading the use of the keys", checking).await?;
        }
        // Another person may have been here in the meantime.
        let (keys, _) = read(self.context, self.settings).await?;
        if keys.active != [self.old, self.new] {
            return Err(Error::failed(format!("{name} has changed in the meantime; try again.")));
        }
        write(self.context, self.settings, self.new).await?;
        self.context.holds("the old key is removed");
        terminal.say(
            "The old key is removed, and is no longer valid within a minute. The rotation is done.",
        );
        terminal.result("rotate-key", &json!({"step": 2, "keys": 1}));
        Ok(())
    }

    fn period(&self) -> String {
        match self.args.days {
            1 => "the last day".to_owned(),
            days => format!("the last {days} days"),
        }
    }

    /// A webhook with the old key cannot be distinguished from one with the new key; a missing one can be.
    async fn check_webhook(&self) {
        let terminal = &self.context.terminal;
        let webhook = self.settings.relay.command("webhook");
        let found = async {
            let url = webhook_url(&self.settings.relay)?;
            self.settings.gladly(terminal).await?.webhook_at(&url).await
        };
        let warning = match terminal.during("checking the webhook at Gladly", found).await {
            Ok(Some(found)) if found.is_enabled() && !found.key_headers().is_empty() => return,
            Ok(Some(found)) if found.is_enabled() => {
                format!("the webhook at Gladly sends no header x-api-key: {webhook} sets it")
            }
            Ok(Some(_)) => format!("the webhook at Gladly is disabled: {webhook} enables it"),
            Ok(None) => format!("Gladly has no webhook for this relay: {webhook} creates it"),
            Err(error) => {
                format!("the webhook at Gladly could not be checked: {}", error.sentence)
            }
        };
        terminal.remark(&format!("Warning: {}.", warning.trim_end_matches('.')));
    }

    /// Fails while the old key may be needed.
    async fn check_use(&self, now: Timestamp) -> Result<()> {
        let relay = &self.settings.relay;
        let window = Window::days(self.args.days, now);
        let usage = KeyUse::read(relay, window).await.map_err(|error| {
            let error = unknown_use(error);
            let sentence = format!("{} {}", error.sentence, self.stays());
            Error { sentence, ..error }
        })?;
        if relay.session.is_local() && usage.is_empty() {
            return self.agree().await;
        }
        if let Some(last) = usage.last(0, Timestamp::MIN) {
            return Err(Error::failed(format!(
                "an event came with the old key in {}, the last one around {}: if Gladly has the new key, try \
                 again a day after that; if not, {} gives it the new one. {}",
                self.period(),
                minute(last),
                relay.command("webhook"),
                self.stays()
            )));
        }
        // An earlier rotation used the second line too.
        let since = self.written_at.map_or(Timestamp::MIN, |at| {
            let minute = at.as_second().div_euclid(60) * 60;
            let period = window.seconds_of_period();
            Timestamp::from_second(minute.div_euclid(period) * period).unwrap_or(at)
        });
        if usage.last(1, since).is_some() {
            return Ok(());
        }
        Err(Error::failed(format!(
            "no event came in {}, with the new key or the old one, which proves nothing: --days 7 checks further \
             back. {}",
            self.period(),
            self.stays()
        )))
    }

    fn stays(&self) -> String {
        format!(
            "Both keys stay valid; {} --force removes the old one regardless.",
            self.settings.relay.command("rotate-key")
        )
    }

    /// Asks where there are no metrics.
    async fn agree(&self) -> Result<()> {
        let terminal = &self.context.terminal;
        terminal.say(
            "This emulated AWS has no metrics of webhooks, so whether Gladly still sends the old key is \
             unknown.",
        );
        if terminal.agrees("Remove the old key?").await {
            Ok(())
        } else {
            Err(Error::failed(format!("the old key was not removed. {}", self.stays())))
        }
    }
}
