//! The event source mapping, as Lambda's API shows it. It does not poll.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{ACCOUNT, Disorder, Fault, MAPPING, QUEUE_ARNS, REGION, State};

/// The mapping's place in the API.
const PATH: &str = "/2015-03-31/event-source-mappings";

/// The mapping between the events queue and the extractor.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Its UUID.
    pub id: String,
    /// The function's name.
    pub function: String,
    /// The queue's ARN.
    pub source: String,
    /// Whether it was last enabled.
    pub enabled: bool,
    /// When its last transition ends.
    pub settles_at: Timestamp,
    /// How long its transitions take.
    pub transition: SignedDuration,
    /// When calls switched it, and to what.
    pub switches: Vec<(Timestamp, bool)>,
    /// Calls that came during a transition.
    pub conflicts: usize,
}

impl Default for Mapping {
    fn default() -> Self {
        Self {
            id: MAPPING.into(),
            function: "extractor".into(),
            source: format!("{QUEUE_ARNS}events"),
            enabled: true,
            settles_at: Timestamp::MIN,
            transition: SignedDuration::ZERO,
            switches: Vec::new(),
            conflicts: 0,
        }
    }
}

impl Mapping {
    /// Its state, as Lambda names it.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> &'static str {
        match (self.enabled, now < self.settles_at) {
            (true, false) => "Enabled",
            (false, false) => "Disabled",
            (true, true) => "Enabling",
            (false, true) => "Disabling",
        }
    }

    /// Begins a transition, unless there is nothing to change.
    pub fn switch(&mut self, enabled: bool, now: Timestamp) {
        if self.enabled != enabled {
            self.enabled = enabled;
            self.settles_at = now.saturating_add(self.transition).unwrap_or(Timestamp::MAX);
        }
    }

    fn json(&self, now: Timestamp) -> Value {
        json!({
            "UUID": self.id,
            "State": self.state(now),
            "EventSourceArn": self.source,
            "FunctionArn": format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{}", self.function),
            "BatchSize": 500,
            "LastModified": 0,
        })
    }
}

/// The action and the resource of a request, as IAM has them.
pub(super) fn permission(method: &str, uri: &str) -> (String, String) {
    let rest = uri.split_once(PATH).map(|(_, rest)| rest.trim_matches('/'));
    match (method, rest) {
        ("GET", Some(rest)) if rest.is_empty() || rest.starts_with('?') => {
            ("lambda:ListEventSourceMappings".into(), "*".into())
        }
        ("PUT", Some(id)) => (
            "lambda:UpdateEventSourceMapping".into(),
            format!("arn:aws:lambda:{REGION}:{ACCOUNT}:event-source-mapping:{id}"),
        ),
        other => panic!("the relay never makes this call: {other:?}"),
    }
}

impl State {
    pub(super) fn lambda(
        &mut self,
        method: &str,
        uri: &str,
        asked: &Value,
        now: Timestamp,
    ) -> Result<Value, Fault> {
        let rest = uri.split_once(PATH).map(|(_, rest)| rest);
        match (method, rest) {
            ("GET", Some(rest)) if rest.is_empty() || rest.starts_with(['?', '/']) => {
                let query = rest.trim_start_matches(['/', '?']).replace("%3A", ":");
                let wanted = |(name, value): (&str, &str)| match name {
                    "FunctionName" => value == self.mapping.function,
                    "EventSourceArn" => value == self.mapping.source,
                    "MaxItems" => true,
                    other => panic!("the relay never uses this query parameter: {other}"),
                };
                let matches = query.split('&').filter_map(|pair| pair.split_once('=')).all(wanted);
                let found = matches.then(|| self.mapping.json(now));
                Ok(json!({"EventSourceMappings": found.into_iter().collect::<Vec<_>>()}))
            }
            ("PUT", Some(rest)) if rest.trim_matches('/') == self.mapping.id => {
                let enabled = asked["Enabled"].as_bool();
                let Some(enabled) =
                    enabled.filter(|_| asked.as_object().is_some_and(|asked| asked.len() == 1))
                else {
                    panic!("the relay only enables and disables the mapping: {asked}");
                };
                if now < self.mapping.settles_at {
                    self.mapping.conflicts += 1;
                    return Err(Fault::Refused(409, "ResourceInUseException"));
                }
                if let Some(Disorder { rng, .. }) = &mut self.disorder {
                    // Mostly seconds, at times as long as it gets.
                    let longest = if rng.u32(0..5) == 0 { 60_000 } else { 6_000 };
                    self.mapping.transition = SignedDuration::from_millis(rng.i64(1_000..longest));
                }
                self.mapping.switches.push((now, enabled));
                self.mapping.switch(enabled, now);
                Ok(self.mapping.json(now))
            }
            other => panic!("the relay never makes this call: {other:?}"),
        }
    }
}
