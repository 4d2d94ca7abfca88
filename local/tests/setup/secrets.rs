//! `make secrets`.

use std::path::PathBuf;

use testing::fault::Fault;

use crate::sandbox::Sandbox;

#[tokio::test]
async fn secrets_are_checked_written_encrypted_and_shown_nowhere() {
    let sandbox = Sandbox::new("secrets").await;
    // Two stacks: the one there is, and one whose names and addresses come from the environment.
    let names = ["/fresh/gladly-token", "/fresh/destination-token", "/fresh/webhook-keys"];
    let token = sandbox.settings.gladly_token.clone();
    let fresh = [
        ("STACK", "fresh"),
        ("GLADLY_TOKEN_PARAMETER", names[0]),
        ("DESTINATION_TOKEN_PARAMETER", names[1]),
        ("WEBHOOK_KEYS_PARAMETER", names[2]),
        ("GLADLY_HOST", sandbox.gladly.url()),
        ("GLADLY_EMAIL", &sandbox.settings.gladly_email),
        ("GLADLY_TOKEN", &token),
        ("DESTINATION_TOKEN", "a token of the destination"),
    ];
    let but = |name: &'static str, value: &'static str| {
        fresh
            .iter()
            .copied()
            .filter(move |(n, _)| *n != name)
            .chain([(name, value)])
            .collect::<Vec<_>>()
    };
    let none = "An error occurred (ParameterNotFound) when calling the GetParameter operation: ";
    sandbox.prepare("get-parameter.error", none);
    let none = "An error occurred (ValidationError) when calling the DescribeStacks operation: Stack with id fresh does not exist";
    sandbox.prepare("describe-stacks.error", none);
    for (environment, complaint) in [
        (
            but("GLADLY_TOKEN", "another-token-than-gladlys"),
            "refuses the token of relay@example.com",
        ),
        (but("GLADLY_TOKEN", ""), "GLADLY_TOKEN is missing"),
        (but("GLADLY_TOKEN", "a-first-line\na-second"), "must be one line of plain characters"),
        (but("DESTINATION_TOKEN", ""), "DESTINATION_TOKEN is missing"),
        (but("GLADLY_EMAIL", "nobody"), "is no e-mail address"),
        (but("GLADLY_HOST", "https://acme.gladly.com"), "without https://"),
        (but("GLADLY_HOST", "acme.gladly.com.example.org"), "must be one under gladly.com"),
        (but("GLADLY_HOST", "gladly.com.evil@127.0.0.1"), "must be one under gladly.com"),
        (but("GLADLY_HOST", "http://10.0.0.1:80"), "must be one under gladly.com"),
        (but("GLADLY_HOST", "http://127.0.0.1:1"), "Gladly is out of reach at 127.0.0.1"),
        (but("WEBHOOK_KEY", "only-thirty-one-characters-long"), "at least 32 characters"),
        (but("WEBHOOK_KEY", "'0123456789abcdef0123456789abcdef'"), "no quotation marks around it"),
        (but("WEBHOOK_KEYS_PARAMETER", "keys"), "must be the name of an SSM parameter"),
        (but("WEBHOOK_KEYS_PARAMETER", "/aws/keys"), "but not with /aws or /ssm"),
        (but("GLADLY_TOKEN_PARAMETER", "/SSM-relay/token"), "but not with /aws or /ssm"),
        (but("STACK", "Aws-relay"), "STACK must not begin with aws or ssm"),
        (but("MAKEFLAGS", " -- GLADLY_TOKEN=typed"), "stands in the shell's history"),
        (but("STACK", "--help"), "STACK must be a stack's name"),
    ] {
        sandbox.run("secrets", &environment).await.complains(complaint);
    }
    let calls = sandbox.gladly.traffic().calls("").len();
    sandbox.gladly.fault(Fault::redirect(302, "http://127.0.0.1:1/elsewhere").times(1));
    sandbox.run("secrets", &fresh).await.complains("answers with a redirect");
    assert_eq!(sandbox.gladly.traffic().calls("").len(), calls + 1);
    sandbox.forget("get-parameter.error");
    sandbox.forget("describe-stacks.error");
    for name in names {
        assert_eq!(sandbox.parameter(name).await, None, "nothing was written before all was right");
    }

    sandbox
        .run("secrets", &fresh)
        .await
        .tells(&["Gladly knows relay@example.com", "Next: make package"]);
    let written = sandbox.parameter(names[0]).await;
    assert_eq!(written, Some(("SecureString".to_owned(), token.clone())));
    let written = sandbox.parameter(names[1]).await;
    assert_eq!(written, Some(("SecureString".to_owned(), "a token of the destination".to_owned())));
    let (kind, key) = sandbox.parameter(names[2]).await.unwrap();
    assert_eq!((kind.as_str(), key.len()), ("SecureString", 64));
    assert_eq!(sandbox.files_with(&key), Vec::<PathBuf>::new());

    // What there is is kept, and a key in use is not simply replaced.
    let again = sandbox.run("secrets", &but("GLADLY_TOKEN", "")).await;
    assert!(!again.shown.contains(&key));
    assert_eq!(again.shown.matches("kept").count(), 3, "{again:?}");
    sandbox
        .run("secrets", &but("WEBHOOK_KEY", "generate"))
        .await
        .complains("make rotate-key STACK=fresh");
    assert_eq!(sandbox.parameter(names[2]).await.unwrap().1, key);

    // Of the stack that runs here everything is known.
    let ended =
        sandbox.run("secrets", &[("DESTINATION_TOKEN", "a new one of the destination")]).await;
    ended.tells(&[
        "/secrets/gladly-token                kept",
        "/secrets/destination-token           written",
    ]);
    let written = sandbox.parameter("/secrets/destination-token").await.unwrap();
    assert_eq!(written, ("SecureString".to_owned(), "a new one of the destination".to_owned()));

    sandbox.stack.delete_parameter(names[1]).await.unwrap();
    sandbox.stack.put_parameter(names[1], "in-the-clear").await.unwrap();
    sandbox.run("secrets", &fresh).await.complains("stored in the clear");
    sandbox.prepare("put-parameter.error", "An error occurred (AccessDeniedException) when calling the PutParameter operation: User: ada is not authorized to perform: ssm:PutParameter on resource: x");
    let ended =
        sandbox.run("secrets", &[("DESTINATION_TOKEN", "one more of the destination")]).await;
    ended.complains("you lack the permission ssm:PutParameter");
    sandbox.prepare("configure", "enabled\n");
    sandbox.run("secrets", &fresh).await.complains("cli_history disabled");
}

/// Types into a terminal: the arguments are what to wait for and what to type then, in turn.
const TYPIST: &str = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.executable, [sys.executable, "tools/setup", sys.argv[1]])
shown, seen = b"", 0
words = iter(sys.argv[2:])
try:
    for wanted, typed in zip(words, words):
        while wanted.encode() not in shown[seen:]:
            shown += os.read(terminal, 1024)
        seen = len(shown)
        os.write(terminal, typed.encode() + b"\n")
    while True:
        shown += os.read(terminal, 1024)
except OSError:
    pass
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

#[tokio::test]
async fn secrets_typed_at_a_terminal_are_not_shown_there() {
    let sandbox = Sandbox::new("typed").await;
    let (token, sink) = (sandbox.settings.gladly_token.clone(), "typed-for-the-destination");
    for name in ["gladly-token", "destination-token", "webhook-keys"] {
        sandbox.stack.delete_parameter(&format!("/typed/{name}")).await.unwrap();
    }
    let typed = ["API user", token.as_str(), "destination", sink, "makes a strong one", ""];
    let arguments: Vec<_> = ["-c", TYPIST, "secrets"].into_iter().chain(typed).collect();
    let ended = sandbox.python(&arguments, &[]).await;
    ended.tells(&["/typed/webhook-keys                  written"]);
    assert!(!ended.shown.contains(sink), "{ended:?}");
    assert_eq!(sandbox.parameter("/typed/destination-token").await.unwrap().1, sink);
    assert_eq!(sandbox.keys().await.len(), 64);
}
