//! What ingest-fn writes changes only on purpose, and keys of every version are accepted.

use testing::golden::Golden;

use crate::{KEY, NEXT_KEY, TestApp};

#[tokio::test(start_paused = true)]
async fn queue_and_quarantine_messages_are_unchanged() {
    let golden = Golden::newest().unwrap();
    let event = golden.read("event.webhook.json").unwrap();
    let event = event.split_once(r#","event":"#).unwrap().1.strip_suffix('}').unwrap();
    let long = "a".repeat(2 << 20);
    let cases: [(&str, &[u8]); 4] = [
        ("event.webhook.json", event.as_bytes()),
        ("quarantine.ingest.json", r#"{"content":{"conversationId":"c-1"},"note":"é"}"#.as_bytes()),
        ("quarantine.ingest.base64.json", b"\xff\x00"),
        ("quarantine.ingest.truncated.json", long.as_bytes()),
    ];
    for (name, body) in cases {
        let app = TestApp::new();
        app.post(KEY, body).await;
        assert_eq!(
            short(&app.messages().remove(0).body),
            golden.read(name).unwrap(),
            "{name} is no longer written as in {}: see CONTRIBUTING.md, Change a wire format",
            golden.version
        );
    }
}

/// The same text with each long run of `a` shortened to four.
fn short(text: &str) -> String {
    let mut short = String::new();
    for letter in text.chars() {
        if letter != 'a' || !short.ends_with("aaaa") {
            short.push(letter);
        }
    }
    short
}

#[tokio::test(start_paused = true)]
async fn the_keys_of_every_version_are_accepted() {
    for golden in Golden::all().unwrap() {
        let app = TestApp::with_keys(&golden.read("webhook-keys").unwrap());
        for key in [KEY, NEXT_KEY] {
            assert_eq!(app.status(key).await, 200, "{}", golden.version);
        }
    }
}
