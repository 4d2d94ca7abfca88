//! `secrets`.

use std::path::PathBuf;

use serde_json::json;
use testing::fault::Fault;

use crate::sandbox::Sandbox;

/// The secrets of a stack that does not exist yet.
const FRESH: [&str; 3] =
    ["/fresh-1/gladly-token", "/fresh-1/destination-token", "/fresh-1/webhook-keys"];
const SECRETS: [&str; 3] = ["secrets", "--stack", "fresh-1"];

#[tokio::test]
async fn secrets_are_checked_written_encrypted_and_shown_nowhere() {
    let sandbox = Sandbox::new("secrets").await;
    let token = sandbox.settings.gladly_token.clone();
    let fresh = [
        ("GLADLY_HOST", sandbox.gladly.url()),
        ("GLADLY_EMAIL", &sandbox.settings.gladly_email),
        ("GLADLY_TOKEN", &token),
        ("DESTINATION_TOKEN", "a token of the destination"),
    ];
    let but = |name: &'static str, value: &'static str| {
        let others = fresh.iter().copied().filter(move |(n, _)| *n != name);
        others.chain([(name, value)]).collect::<Vec<_>>()
    };
    for (environment, code, part) in [
        (
            but("GLADLY_TOKEN", "another-token-than-gladlys"),
            3,
            "rejected the token of relay@example.com",
        ),
        (but("GLADLY_TOKEN", ""), 2, "GLADLY_TOKEN is missing"),
        (but("GLADLY_TOKEN", "a-first-line\na-second"), 2, "expected one line of printable ASCII"),
        (but("DESTINATION_TOKEN", ""), 2, "DESTINATION_TOKEN is missing"),
        (
            but("DESTINATION_TOKEN", "Bearer of-a-token"),
            2,
            "begins with \"Bearer \", which the relay adds",
        ),
        (but("GLADLY_EMAIL", "nobody"), 2, "expected the e-mail address of a Gladly user"),
        (but("GLADLY_EMAIL", ""), 2, "GLADLY_EMAIL is not set"),
        (but("GLADLY_HOST", ""), 2, "GLADLY_HOST is not set"),
        (but("GLADLY_HOST", "https://acme.gladly.com"), 2, "without https://"),
        (but("GLADLY_HOST", "acme.gladly.com.example.org"), 2, "expected a host under gladly.com"),
        (but("GLADLY_HOST", "gladly.com.evil@127.0.0.1"), 2, "expected a host under gladly.com"),
        (but("GLADLY_HOST", "http://10.0.0.1:80"), 2, "expected a host under gladly.com"),
        (
            but("GLADLY_HOST", "http://127.0.0.1:1"),
            1,
            "could not reach Gladly at http://127.0.0.1:1",
        ),
        (but("WEBHOOK_KEY", "only-thirty-one-characters-long"), 2, "at least 32 characters"),
        (but("WEBHOOK_KEY", "'0123456789abcdef0123456789abcdef'"), 2, "quotation marks around it"),
        (but("WEBHOOK_KEYS_PARAMETER", "keys"), 2, "expected the name of an SSM parameter"),
        (but("WEBHOOK_KEYS_PARAMETER", "/aws/keys"), 2, "but not with /aws or /ssm"),
        (but("GLADLY_TOKEN_PARAMETER", "/SSM-relay/token"), 2, "but not with /aws or /ssm"),
        (but("MAKEFLAGS", " -- GLADLY_TOKEN=typed"), 2, "is in the shell's history"),
    ] {
        sandbox.at_account(&SECRETS, &environment).await.fails(code, part);
    }
    for (stack, part) in
        [("Aws-relay", "cannot begin with aws or ssm"), ("-x y", "expected a stack's name")]
    {
        let arguments = ["secrets", &format!("--stack={stack}")];
        sandbox.at_account(&arguments, &fresh).await.fails(2, part);
    }
    let calls = sandbox.gladly.traffic().calls("").len();
    sandbox.gladly.fault(Fault::redirect(302, "http://127.0.0.1:1/elsewhere").times(1));
    sandbox.at_account(&SECRETS, &fresh).await.fails(1, "answers with a redirect");
    assert_eq!(sandbox.gladly.traffic().calls("").len(), calls + 1);
    for name in FRESH {
        assert_eq!(sandbox.parameter(name).await, None, "nothing was written before all was right");
    }

    sandbox.at_account(&SECRETS, &fresh).await.shows(&[
        "Gladly knows relay@example.com",
        "Next: make package, then gladly-relay deploy --stack fresh-1 --region us-east-1, then gladly-relay webhook",
    ]);
    let written = sandbox.parameter(FRESH[0]).await;
    assert_eq!(written, Some(("SecureString".to_owned(), token.clone())));
    let written = sandbox.parameter(FRESH[1]).await;
    assert_eq!(written, Some(("SecureString".to_owned(), "a token of the destination".to_owned())));
    let (kind, key) = sandbox.parameter(FRESH[2]).await.unwrap();
    assert_eq!((kind.as_str(), key.len()), ("SecureString", 64));
    assert_eq!(sandbox.files_with(&key), Vec::<PathBuf>::new());

    // What there is is kept, and a key in use is not simply replaced.
    let again = sandbox.at_account(&SECRETS, &but("GLADLY_TOKEN", "")).await;
    again.shows(&["/fresh-1/webhook-keys                kept, 1 key"]);
    assert!(!again.output.contains(&key));
    assert_eq!(again.output.matches("kept").count(), 3, "{again:?}");
    let generated = sandbox.at_account(&SECRETS, &but("WEBHOOK_KEY", "generate")).await;
    generated.fails(1, "gladly-relay rotate-key --stack fresh-1");
    assert_eq!(sandbox.parameter(FRESH[2]).await.unwrap().1, key);

    let json =
        sandbox.at_account(&["secrets", "--stack", "fresh-1", "--output", "json"], &fresh).await;
    assert_eq!(json.json()["result"], json!({"written": [], "kept": FRESH}));

    sandbox.stack.delete_parameter(FRESH[1]).await.unwrap();
    sandbox.stack.put_parameter(FRESH[1], "in-the-clear").await.unwrap();
    sandbox.at_account(&SECRETS, &fresh).await.fails(1, "stored in the clear");
}

#[tokio::test]
async fn the_secrets_of_what_make_up_started_are_replaced_one_by_one() {
    let sandbox = Sandbox::new("local-secrets").await;
    let environment = [("DESTINATION_TOKEN", "a new one of the destination")];
    sandbox.local(&["secrets"], &environment).await.shows(&[
        "/local-secrets/gladly-token          kept",
        "/local-secrets/destination-token     written",
        "Next: gladly-relay webhook gives Gladly the URL and the key.",
    ]);
    let written = sandbox.parameter("/local-secrets/destination-token").await.unwrap();
    assert_eq!(written, ("SecureString".to_owned(), "a new one of the destination".to_owned()));

    // A failure says what is written already.
    sandbox.front.refuse(
        "PutParameter",
        "destination-token",
        "AccessDeniedException",
        "User: ada is not authorized to perform: ssm:PutParameter on resource: x",
    );
    sandbox.stack.delete_parameter("/local-secrets/gladly-token").await.unwrap();
    let token = sandbox.settings.gladly_token.clone();
    let environment =
        [("GLADLY_TOKEN", &*token), ("DESTINATION_TOKEN", "one more of the destination")];
    sandbox.local(&["secrets"], &environment).await.fails(
        3,
        "/local-secrets/gladly-token is written; but could not write /local-secrets/destination-token: you lack \
         the permission ssm:PutParameter",
    );
}

#[tokio::test]
async fn the_destination_is_asked_whether_it_rejects_the_token() {
    let sandbox = Sandbox::new("tried").await;
    let head = |status| Fault::status(status).on("HEAD /deliveries");
    let environment = [("DESTINATION_TOKEN", "one that is to be tried")];
    let before = sandbox.parameter("/tried/destination-token").await;
    sandbox.destination.fault(head(401).times(1));
    sandbox
        .account(&["secrets"], &environment)
        .await
        .fails(3, "rejects the token in the header authorization");
    // It answers 401 without the token, so 403 is about the token.
    sandbox.destination.fault(head(403).times(1));
    sandbox.destination.fault(head(401).times(1));
    sandbox.account(&["secrets"], &environment).await.fails(3, "(HTTP 403)");
    assert_eq!(sandbox.parameter("/tried/destination-token").await, before);
    // A gateway that answers 403 to every method but POST proves nothing.
    sandbox.destination.fault(head(403).times(2));
    let ended = sandbox.account(&["secrets"], &environment).await;
    ended.shows(&["/tried/destination-token             written"]);
    assert!(ended.remarks.contains("with and without the token"), "{ended:?}");
    // A token that is kept keeps no other secret from being replaced.
    sandbox.destination.fault(head(401).times(1));
    let ended = sandbox.account(&["secrets"], &[]).await;
    ended.shows(&["/tried/destination-token             kept"]);
    assert!(ended.remarks.contains("is kept, although the destination"), "{ended:?}");
    // Not reachable from here.
    let environment = [
        ("DESTINATION_URL", "http://127.0.0.1:1/deliveries"),
        ("DESTINATION_TOKEN", "one that cannot be tried"),
        ("GLADLY_TOKEN", &sandbox.settings.gladly_token),
        ("GLADLY_HOST", sandbox.gladly.url()),
        ("GLADLY_EMAIL", "relay@example.com"),
    ];
    let ended = sandbox.at_account(&["secrets", "--stack", "tried-1"], &environment).await;
    ended.shows(&["/tried-1/destination-token           written"]);
    assert!(ended.remarks.contains("cannot be reached from here"), "{ended:?}");
}

#[tokio::test]
async fn a_bucket_needs_no_token() {
    let sandbox = Sandbox::new("no-token").await;
    let environment = [
        ("DESTINATION_URL", "s3://acme-conversations/gladly"),
        ("GLADLY_TOKEN", &sandbox.settings.gladly_token),
        ("GLADLY_HOST", sandbox.gladly.url()),
        ("GLADLY_EMAIL", "relay@example.com"),
    ];
    let ended = sandbox.at_account(&["secrets", "--stack", "no-token-1"], &environment).await;
    ended.shows(&[
        "Deliveries are written to s3://acme-conversations/gladly, which needs no token.",
        "/no-token-1/gladly-token             written",
        "/no-token-1/webhook-keys             written",
    ]);
    ended.prints_no(&["destination-token"]);
}

#[tokio::test]
async fn the_kms_key_is_kept_or_changed_on_request() {
    let sandbox = Sandbox::new("kms").await;
    let put = || sandbox.front.calls("PutParameter");
    let key_of = |call: &crate::aws::Call| {
        let body: serde_json::Value = serde_json::from_str(&call.body).unwrap();
        assert_eq!(body["Type"], "SecureString");
        body["KeyId"].clone()
    };
    let options = ["secrets", "--kms-key", "alias/own"];
    let environment = [("DESTINATION_TOKEN", "the first of the destination")];
    sandbox.account(&options, &environment).await.shows(&["written"]);
    assert_eq!(put().iter().map(key_of).collect::<Vec<_>>(), ["alias/own"; 3]);
    let environment = [("DESTINATION_TOKEN", "the second of the destination")];
    sandbox.account(&["secrets"], &environment).await.shows(&["written"]);
    assert_eq!(put().len(), 4);
    assert_eq!(key_of(&put()[3]), "alias/own");
    // Without the permission to read it, it would be replaced without notice.
    sandbox.front.deny("DescribeParameters", "ssm:DescribeParameters");
    let environment = [("DESTINATION_TOKEN", "the third of the destination")];
    sandbox.account(&["secrets"], &environment).await.fails(3, "ssm:DescribeParameters");
}
