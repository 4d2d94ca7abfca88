//! What is typed at a terminal: hidden, asked again when wrong, and stopped with Ctrl-C.

use testing::root;

use crate::sandbox::{Ended, Sandbox};

const TYPIST: &str = include_str!("../typist.py");

const SECRETS: [&str; 3] = ["secrets", "--stack", "typed-1"];

async fn typed(
    sandbox: &Sandbox,
    arguments: &[&str],
    environment: &[(&str, &str)],
    words: &[&str],
) -> Ended {
    let program = env!("CARGO_BIN_EXE_gladly-relay");
    let count = (arguments.len() + 1).to_string();
    let mut all = vec!["-c", TYPIST, &count, program];
    all.extend(arguments.iter().chain(words));
    let mut account = sandbox.account_command(&[], environment);
    let mut command = tokio::process::Command::new(root().join(".tools/venv/bin/python"));
    command.args(&all).current_dir(&sandbox.folder).env_clear().env("TERM", "dumb");
    for (name, value) in account.as_std_mut().get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    sandbox.run(&mut command, environment).await
}

#[tokio::test]
async fn answers_are_checked_at_once_and_secrets_typed_are_not_echoed() {
    let sandbox = Sandbox::new("typed").await;
    let (url, token) = (sandbox.gladly.url(), sandbox.settings.gladly_token.as_str());
    let (wrong, sink) = ("typed-but-not-gladlys-token", "typed-for-the-destination");
    // Enter alone answers nothing.
    let words = ["Host of your Gladly", "https://acme.example.com", "without https://", ""];
    let ended = typed(&sandbox, &SECRETS, &[], &words).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    ended.prints(&["GLADLY_HOST is not set"]);

    let words = [
        ("Host of your Gladly", "http://127.0.0.1:1"),
        ("connection refused.\r\nHost of your Gladly", url),
        ("E-mail address", "nobody"),
        ("got \"nobody\".\r\nE-mail address", "relay@example.com"),
        ("Token of the Gladly API user: ", wrong),
        ("(Enter keeps relay@example.com)", ""),
        ("Token of the Gladly API user: ", token),
        ("Token of the destination: ", &format!("Bearer {sink}")),
        ("which the relay adds.\r\nToken of the destination: ", sink),
        ("Webhook key (Enter generates one): ", "too-short-a-key"),
        ("generates one.\r\nWebhook key (Enter generates one): ", ""),
    ];
    let words: Vec<_> = words.iter().flat_map(|(wanted, typed)| [*wanted, *typed]).collect();
    let ended = typed(&sandbox, &SECRETS, &[], &words).await;
    ended.shows(&["/typed-1/webhook-keys                written", "echoes"]).prints_no(&[
        sink,
        wrong,
        "too-short-a-key",
    ]);
    assert_eq!(sandbox.parameter("/typed-1/destination-token").await.unwrap().1, sink);
    assert_eq!(sandbox.parameter("/typed-1/webhook-keys").await.unwrap().1.len(), 64);

    // What there is is kept with Enter.
    let environment = [("GLADLY_HOST", url), ("GLADLY_EMAIL", "relay@example.com")];
    let words = ["Enter keeps the current one", "", "Enter keeps the current one", ""];
    let ended = typed(&sandbox, &SECRETS, &environment, &words).await;
    ended.shows(&["/typed-1/destination-token           kept"]);
}

#[tokio::test]
async fn ctrl_c_ends_every_question_and_shows_what_holds() {
    let sandbox = Sandbox::new("stopped").await;
    let environment = [
        ("GLADLY_HOST", sandbox.gladly.url()),
        ("GLADLY_EMAIL", "relay@example.com"),
        ("GLADLY_TOKEN", &sandbox.settings.gladly_token),
    ];
    let arguments = ["secrets", "--stack", "stopped-1"];
    let at_host = typed(&sandbox, &arguments, &[], &["Host of your Gladly", "\x03"]).await;
    let hidden =
        typed(&sandbox, &arguments, &environment, &["Token of the destination", "\x03"]).await;
    for ended in [at_host, hidden] {
        assert_eq!(ended.code, Some(130), "{ended:?}");
        ended.prints(&["gladly-relay secrets: stopped; nothing was changed.", "echoes"]);
    }
    sandbox.front.hang("PutParameter", "stopped-1/destination-token");
    let environment: Vec<_> =
        environment.into_iter().chain([("DESTINATION_TOKEN", "of-the-destination")]).collect();
    let words = ["Webhook key", "", "written", "\x03"];
    let ended = typed(&sandbox, &arguments, &environment, &words).await;
    assert_eq!(ended.code, Some(130), "{ended:?}");
    ended.prints(&["gladly-relay secrets: stopped; /stopped-1/gladly-token is written."]);
}

#[tokio::test]
async fn force_asks_at_a_terminal() {
    let sandbox = Sandbox::new("asked").await;
    let (old, new) = (&sandbox.settings.webhook_keys[0], "n".repeat(40));
    let keys = format!("{old}\n{new}");
    sandbox.stack.put_secret("/asked/webhook-keys", &keys).await.unwrap();
    let arguments = ["rotate-key", "--force", "--stack", "asked"];
    let ended = typed(&sandbox, &arguments, &[], &["from then on. [y/N]", "n"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    ended.prints(&["nothing was changed."]);
    assert_eq!(sandbox.keys().await, keys);
    let ended = typed(&sandbox, &arguments, &[], &["from then on. [y/N]", "y"]).await;
    ended.shows(&["The old key is removed"]);
    assert_eq!(sandbox.keys().await, new);
}
