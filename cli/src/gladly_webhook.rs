//! The webhooks at Gladly, as far as setting one up and checking it need them.

use serde_json::{Map, Value, json};
use shared::{ERASURE_EVENT_TYPES, LEGACY_EVENT_TYPE, REQUIRED_EVENT_TYPES};

use crate::{
    error::{Error, Result, full_stop},
    gladly::Gladly,
};

/// How many webhooks an organisation may have.
pub(crate) const MAX_WEBHOOKS: usize = 20;
/// The header that carries the key.
pub(crate) const KEY_HEADER: &str = "x-api-key";

/// What follows if Gladly does not report deletions or merges of customers.
pub(crate) const NO_ERASURES: &str = "the destination does not learn of them";

/// A webhook as Gladly lists it.
#[derive(Debug, Clone)]
pub(crate) struct Webhook(Value);

impl Webhook {
    fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    fn texts(&self, field: &str) -> Vec<&str> {
        self.0[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    pub(crate) fn id(&self) -> &str {
        self.text("id")
    }

    pub(crate) fn url(&self) -> &str {
        self.text("url").trim_end_matches('/')
    }

    /// Its name, or its id.
    pub(crate) fn name(&self) -> &str {
        if self.text("name").is_empty() { self.id() } else { self.text("name") }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.0["enabled"] == true
    }

    /// Since when Gladly has it disabled, after five failures of an event.
    pub(crate) fn disabled_at(&self) -> Option<&str> {
        self.0["disabledAtDueToRetryLimit"].as_str()
    }

    pub(crate) fn has_credentials(&self) -> bool {
        self.0["hasCredentials"] == true
    }

    pub(crate) fn events(&self) -> Vec<&str> {
        self.texts("events")
    }

    /// The headers that carry a key, as they are spelled at Gladly.
    pub(crate) fn key_headers(&self) -> Vec<&str> {
        let mut names = self.texts("headerKeys");
        names.retain(|name| name.eq_ignore_ascii_case(KEY_HEADER));
        names
    }

    /// The one header to set, as it is spelled at Gladly: one in another spelling would be sent beside
    /// it, and the relay rejects both.
    pub(crate) fn key_header(&self) -> Result<&str> {
        match self.key_headers()[..] {
            [] => Ok(KEY_HEADER),
            [name] => Ok(name),
            ref names => Err(Error::failed(format!(
                "Gladly's webhook sends {}: remove all of them at Gladly, then try again.",
                names.join(" and ")
            ))),
        }
    }
}

/// Every event type that the relay subscribes to, the required ones first.
pub(crate) fn event_types(forwards_erasures: bool) -> Vec<&'static str> {
    let erasures = ERASURE_EVENT_TYPES.into_iter().filter(|_| forwards_erasures);
    REQUIRED_EVENT_TYPES.into_iter().chain([LEGACY_EVENT_TYPE]).chain(erasures).collect()
}

impl Gladly {
    pub(crate) async fn webhooks(&self) -> Result<Vec<Webhook>> {
        let answer = self.call("GET", "webhooks", None).await?;
        match answer.json() {
            Value::Array(webhooks) if answer.status == 200 => {
                Ok(webhooks.into_iter().map(Webhook).collect())
            }
            _ => Err(Error::failed(format!(
                "Gladly does not list the webhooks: it answered HTTP {}.",
                answer.status
            ))),
        }
    }

    /// The webhook with this URL.
    pub(crate) async fn webhook_at(&self, url: &str) -> Result<Option<Webhook>> {
        Ok(find(self.webhooks().await?, url))
    }

    /// Creates or changes a webhook, without the event types that Gladly rejects, which it returns.
    pub(crate) async fn submit(
        &self,
        method: &str,
        path: &str,
        settings: &Map<String, Value>,
        url: &str,
    ) -> Result<Vec<String>> {
        let mut settings = settings.clone();
        let mut left_out = Vec::new();
        loop {
            let answer = self.call(method, path, Some(&Value::Object(settings.clone()))).await?;
            if answer.status < 300 {
                return Ok(left_out);
            }
            if answer.status == 404 {
                return Err(Error::failed("the webhook was just deleted at Gladly; try again."));
            }
            let errors = errors(&answer.json());
            let wanted: Vec<String> = settings.get("events").map_or_else(Vec::new, texts);
            let rejected = rejected_types(&errors, &wanted);
            let kept: Vec<_> = wanted.into_iter().filter(|kind| !rejected.contains(kind)).collect();
            if rejected.is_empty() || kept.is_empty() {
                return Err(explained(&errors, url));
            }
            settings.insert("events".into(), json!(kept));
            left_out.extend(rejected);
        }
    }
}

/// The webhook with this URL.
pub(crate) fn find(webhooks: Vec<Webhook>, url: &str) -> Option<Webhook> {
    webhooks.into_iter().find(|webhook| webhook.url() == url)
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Gladly's errors, which come as a list or alone, with or without a frame.
fn errors(body: &Value) -> Vec<Value> {
    let found = body.get("errors").unwrap_or(body);
    match found {
        Value::Array(errors) => errors.iter().filter(|error| error.is_object()).cloned().collect(),
        Value::Object(_) => vec![found.clone()],
        _ => Vec::new(),
    }
}

/// The event types that these errors are about.
fn rejected_types(errors: &[Value], wanted: &[String]) -> Vec<String> {
    let text = json!(errors).to_string();
    if !text.to_lowercase().contains("event") {
        return Vec::new();
    }
    let (named, others): (Vec<String>, Vec<String>) =
        wanted.iter().cloned().partition(|kind| text.contains(&**kind));
    if named.len() > wanted.len() / 2 {
        // It lists what it accepts.
        return others;
    }
    let is_about_events =
        |error: &Value| error["attr"].as_str().is_some_and(|attr| attr.starts_with("event"));
    if named.is_empty() && errors.iter().any(is_about_events) {
        // Those that not every organisation is offered, one kind after the other.
        let optional = [&[LEGACY_EVENT_TYPE][..], &ERASURE_EVENT_TYPES].into_iter();
        let mut wanted = optional
            .map(|types| wanted.iter().filter(|kind| types.contains(&&***kind)).cloned().collect());
        return wanted.find(|types: &Vec<_>| !types.is_empty()).unwrap_or_default();
    }
    named
}

/// Why Gladly does not accept a webhook, with what to do.
fn explained(errors: &[Value], url: &str) -> Error {
    let part = |error: &Value, field: &str| error[field].as_str().unwrap_or_default().to_owned();
    let details: Vec<_> = errors
        .iter()
        .map(|error| {
            let detail = part(error, "detail");
            if detail.is_empty() { part(error, "code") } else { detail }
        })
        .filter(|detail| !detail.is_empty())
        .collect();
    let details =
        if details.is_empty() { "it gives no reason".to_owned() } else { details.join("; ") };
    let about: Vec<_> = errors
        .iter()
        .flat_map(|error| ["attr", "code", "detail"].map(|field| part(error, field)))
        .collect();
    let about = about.join(" ").to_lowercase();
    if about.contains("taken") {
        return Error::failed(format!(
            "another webhook of your organisation already has the URL {url}, although Gladly does not list it \
             for this user: delete it in Settings › Webhooks, then try again."
        ));
    }
    if about.contains("too_long") && !about.contains("name") || about.contains("20") {
        return too_many();
    }
    if about.contains("url") || about.contains("ping") {
        return Error::failed(format!(
            "Gladly's PING to {url} was not answered as Gladly requires, although the relay answers this \
             program's ({details}); try again, and if it recurs, check that the URL can be reached from the \
             internet."
        ));
    }
    Error::failed(format!("Gladly does not accept the webhook: {}", full_stop(&details)))
}

/// There is no room for another webhook.
pub(crate) fn too_many() -> Error {
    Error::failed(format!(
        "there are {MAX_WEBHOOKS} webhooks, and Gladly allows no more: delete one in Settings › Webhooks."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejected_event_types_are_named_or_are_those_that_an_error_does_not_list() {
        let wanted: Vec<_> = ["A/A", "B/B", "C/C", LEGACY_EVENT_TYPE].map(str::to_owned).into();
        let rejected = |error: Value| rejected_types(&errors(&error), &wanted);
        let named = json!({"errors": [{"attr": "events", "detail": "B/B is no event"}]});
        assert_eq!(rejected(named), ["B/B"]);
        let listed = json!([{"attr": "events", "detail": "is not one of A/A, B/B, C/C"}]);
        assert_eq!(rejected(listed), [LEGACY_EVENT_TYPE]);
        let silent = json!({"attr": "events[3]", "code": "invalid"});
        assert_eq!(rejected(silent), [LEGACY_EVENT_TYPE]);
        for other in [json!({"attr": "url"}), json!("nonsense"), Value::Null] {
            assert!(rejected(other).is_empty());
        }
    }
}
