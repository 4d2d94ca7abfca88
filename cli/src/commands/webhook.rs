//! `webhook`: creates or updates the webhook at Gladly.

use serde_json::{Map, Value, json};
use shared::{ERASURE_EVENT_TYPES, LEGACY_EVENT_TYPE};

use crate::{
    Context,
    args::SettingsArgs,
    endpoint::{ping, webhook_url},
    error::{Error, Result},
    gladly::Gladly,
    gladly_webhook::{KEY_HEADER, MAX_WEBHOOKS, NO_ERASURES, Webhook, event_types, find, too_many},
    keys::Keys,
    settings::{self, Setting, Settings},
};

pub(crate) async fn run(context: &Context, args: &SettingsArgs) -> Result<()> {
    settings::check(args)?;
    let settings = Settings::new(context.relay().await?, args)?;
    let terminal = &context.terminal;
    let url = webhook_url(&settings.relay)?;
    let (keys, gladly) = terminal
        .during("reading the secrets", async {
            tokio::try_join!(
                settings.stored(terminal, Setting::WebhookKeys),
                settings.gladly(terminal)
            )
        })
        .await?;
    let keys = Keys::read(&keys.map_or_else(String::new, |keys| keys.value));
    let Some(key) = keys.newest() else {
        return Err(Error::failed(format!(
            "there is no webhook key in {}: {}.",
            settings.name(Setting::WebhookKeys),
            settings.relay.command("secrets")
        )));
    };
    // Gladly's own answer to an endpoint that does not work would only name the URL.
    let checks = async {
        tokio::try_join!(gladly.organization(), ping(&settings.relay, key, 1), gladly.webhooks())
    };
    let (organization, (), webhooks) =
        terminal.during("checking Gladly and the endpoint", checks).await?;

    let submitted = submit(&settings, &gladly, webhooks, &url, key);
    let (is_new, left_out) =
        terminal.during("waiting for Gladly, which sends a PING first", submitted).await?;
    context.holds("the webhook at Gladly is written");
    let webhook = gladly.webhook_at(&url).await?.filter(Webhook::is_enabled).ok_or_else(|| {
        Error::failed(
            "Gladly accepted the webhook, but does not list it as enabled: check it in Settings › Webhooks.",
        )
    })?;
    let done = if is_new { "Created" } else { "Updated" };
    terminal.say(&format!(
        "{done} the webhook of {organization} at {}; the relay answers its PING.",
        gladly.host
    ));
    let wanted = event_types(settings.relay.forwards_erasures());
    report(context, &webhook, &wanted, keys.active.len(), &left_out)
}

/// Creates the webhook, or changes the one that has this URL. Returns whether it is new, and the event
/// types that Gladly rejects.
async fn submit(
    settings: &Settings,
    gladly: &Gladly,
    webhooks: Vec<Webhook>,
    url: &str,
    key: &str,
) -> Result<(bool, Vec<String>)> {
    let count = webhooks.len();
    let object = |fields: Value| -> Map<String, Value> {
        if let Value::Object(fields) = fields { fields } else { Map::new() }
    };
    let wanted = event_types(settings.relay.forwards_erasures());
    let mut events: Vec<String> = wanted.iter().copied().map(str::to_owned).collect();
    if let Some(webhook) = find(webhooks, url) {
        let further = webhook.events().into_iter().filter(|kind| !wanted.contains(kind));
        events.extend(further.map(str::to_owned));
        let headers = json!({webhook.key_header()?: key});
        let fields = object(json!({"events": events, "headers": headers, "enabled": true}));
        let path = format!("webhooks/{}", webhook.id());
        return Ok((false, gladly.submit("PATCH", &path, &fields, url).await?));
    }
    if count >= MAX_WEBHOOKS {
        return Err(too_many());
    }
    let fields = object(json!({
        "name": format!("gladly-relay ({})", settings.relay.name),
        "url": url,
        "events": events,
        "headers": {KEY_HEADER: key},
        "enabled": true,
    }));
    Ok((true, gladly.submit("POST", "webhooks", &fields, url).await?))
}

/// Shows what there is at Gladly now.
fn report(
    context: &Context,
    webhook: &Webhook,
    wanted: &[&str],
    keys: usize,
    left_out: &[String],
) -> Result<()> {
    let terminal = &context.terminal;
    let header = webhook.key_header()?;
    let which = if keys > 1 { "the newer of two keys" } else { "the relay's key" };
    let events = webhook.events();
    let own = events.iter().filter(|kind| wanted.contains(kind)).count();
    let url = webhook.url();
    let further = events.len() - own;
    let further = if further > 0 { format!(", and {further} more") } else { String::new() };
    terminal.say(&format!("  name    {}", webhook.name()));
    terminal.say(&format!("  URL     {url}"));
    terminal.say(&format!("  header  {header}, {which}"));
    terminal.say(&format!("  events  {own} of {}{further}", wanted.len()));
    terminal.say("  state   enabled");
    for kind in left_out {
        let consequence = match &**kind {
            LEGACY_EVENT_TYPE => "CONTACT/MESSAGE_RECEIVED reports the same",
            erasure if ERASURE_EVENT_TYPES.contains(&erasure) => NO_ERASURES,
            _ => "the relay does not receive such events",
        };
        terminal
            .say(&format!("  {kind} was left out because Gladly rejects it here: {consequence}."));
    }
    if webhook.has_credentials() {
        terminal.say("  It also sends a user name and a password, which the relay ignores.");
    }
    terminal.result(
        "webhook",
        &json!({
            "id": webhook.id(), "name": webhook.name(), "url": url, "header": header,
            "events": events, "leftOut": left_out, "enabled": webhook.is_enabled(),
        }),
    );
    Ok(())
}
