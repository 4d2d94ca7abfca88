//! The running system.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::webhook_keys;

use crate::{emulator::Client, up::folder::Folder};

/// How long the background process may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The addresses and the key, as the background process wrote them into `running.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    /// The URL that stops it on a POST. The path holds a random number, so that no web page can guess it.
    pub(super) stop: String,
    /// The webhook URL.
    pub webhook_url: String,
    /// The webhook key that it started with.
    pub webhook_key: String,
    /// The Gladly simulator.
    pub gladly_url: String,
    /// One of its conversations.
    pub conversation: String,
    /// The destination.
    pub destination_url: String,
    /// The page that shows what it does.
    pub page_url: String,
    /// The emulated AWS.
    pub aws_url: String,
    /// The stack's name.
    pub stack: String,
    /// The region that the emulated AWS has it in.
    pub region: String,
}

impl Running {
    /// The running system, if any.
    pub async fn find() -> Option<Self> {
        Self::find_in(&Folder::from_env().ok()?).await
    }

    pub(super) async fn find_in(folder: &Folder) -> Option<Self> {
        // Without the lock's holder, the file is a crashed process's.
        let running = folder.read_state().filter(|_| folder.is_locked())?;
        // Any request but the right POST is refused, which is a response too.
        http()?.get(&running.stop).send().await.ok()?;
        Some(running)
    }

    /// Asks it to stop. It may not be able to answer.
    pub(super) async fn request_stop(&self) {
        if let Some(http) = http() {
            let _ = http.post(&self.stop).send().await;
        }
    }

    /// The newest webhook key, which a rotation writes last; the one that it started with if the parameter cannot be read.
    pub async fn newest_key(&self) -> String {
        let newest = self.keys_parameter().await.and_then(|text| {
            webhook_keys(&text).filter_map(|line| line.key.ok()).last().map(str::to_owned)
        });
        newest.unwrap_or_else(|| self.webhook_key.clone())
    }

    async fn keys_parameter(&self) -> Option<String> {
        let name = format!("/{}/webhook-keys", self.stack);
        let request = json!({"Name": name, "WithDecryption": true});
        let found = Client::new(&self.aws_url).ok()?.ssm("GetParameter", request).await.ok()?;
        Some(found["Parameter"]["Value"].as_str()?.to_owned())
    }

    /// A command that makes Gladly send a webhook.
    #[must_use]
    pub fn emit_command(&self) -> String {
        let Self { conversation, gladly_url, .. } = self;
        format!(
            r#"curl -H 'content-type: application/json' -d '{{"type":"CONVERSATION/CLOSED","conversation":"{conversation}"}}' {gladly_url}/_sim/emit"#
        )
    }

    /// Commands for a shell, an export a line, with which the AWS CLI and `gladly-relay` work on it.
    #[must_use]
    pub fn exports(&self) -> String {
        let variables = [
            ("AWS_ENDPOINT_URL", self.aws_url.as_str()),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_REGION", &self.region),
            ("AWS_DEFAULT_REGION", &self.region),
            ("GLADLY_RELAY_STACK", &self.stack),
            ("GLADLY_RELAY_WEBHOOK_URL", &self.webhook_url),
        ];
        let lines = variables.map(|(name, value)| format!("export {name}={}", quoted(value)));
        lines.join("\n")
    }
}

fn http() -> Option<reqwest::Client> {
    reqwest::Client::builder().no_proxy().timeout(ANSWER_TIMEOUT).build().ok()
}

/// A text as one word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_any_value_as_one_word() {
        assert_eq!(quoted("http://localhost:1/a?b&c=$d"), "'http://localhost:1/a?b&c=$d'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
