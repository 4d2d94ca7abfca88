//! Code alone, and the way back.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{
    allowed::policy_allows,
    deploy::Deploy,
    fake_aws::{relay_stack, unblob},
};

fn sha256(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(Sha256::digest(bytes))
}

/// With functions that run code with the hash `old`.
fn functions() -> Deploy {
    let deploy = Deploy::new();
    let runs =
        json!({"CodeSha256": "old", "Architectures": ["arm64"], "LastUpdateStatus": "Successful"});
    deploy.aws.answers("GetFunctionConfiguration", runs);
    deploy.aws.answers("PublishVersion", json!({"Version": "7"}));
    deploy.aws.answers("UpdateFunctionCode", json!({}));
    deploy
}

#[test]
fn code_alone_is_shipped_and_what_it_replaces_is_kept() {
    let deploy = functions();
    let ended = deploy.run(&["--code-only"]);
    assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
    assert!(
        ended.stdout.contains("ingest-fn: shipped; version 7 keeps what it ran.\n"),
        "{ended:?}"
    );
    assert!(ended.stdout.contains("gladly-relay deploy --roll-back --stack acme"), "{ended:?}");
    assert_eq!(deploy.sam_calls(), "", "no sam");
    let uploads = deploy.aws.calls("UpdateFunctionCode");
    let names: Vec<_> = uploads.iter().map(|call| call.text("FunctionName")).collect();
    assert_eq!(names, ["acme-IngestFunction-5E6F", "acme-ExtractorFunction-7A8B"]);
    let zip = unblob(&uploads[0].parameters["ZipFile"]);
    assert!(zip.starts_with(b"PK"));
    let kept = &deploy.aws.calls("PublishVersion")[0];
    assert_eq!(kept.text("CodeSha256"), "old");
    let description = kept.text("Description");
    assert!(description.ends_with(&format!(" by sha256 {}", sha256(&zip))), "{description}");
    assert!(description.len() <= 256);
    policy_allows("deploy --code-only", &deploy.aws.actions());

    // Once more: the same code is there already.
    let runs = json!({"CodeSha256": sha256(&zip), "Architectures": ["arm64"]});
    deploy.aws.answers("GetFunctionConfiguration", runs);
    let ended = deploy.run(&["--code-only", "--output", "json"]);
    assert_eq!(ended.json(), json!({"changed": false, "functions": []}));
    assert!(deploy.aws.calls("UpdateFunctionCode").is_empty());
}

#[test]
fn code_alone_is_refused_where_it_would_never_start_or_be_undone() {
    let deploy = functions();
    let runs = json!({"CodeSha256": "old", "Architectures": ["x86_64"]});
    deploy.aws.answers("GetFunctionConfiguration", runs);
    let refuses = |part: &str| {
        let ended = deploy.run(&["--code-only"]);
        assert!(ended.code == 1 && ended.stderr.contains(part), "{part}: {ended:?}");
        assert!(deploy.aws.calls("UpdateFunctionCode").is_empty());
    };
    refuses(
        "the stack is for x86_64, where it would never start; run \"make package ARCH=x86_64\".",
    );
    let mut stack = relay_stack("acme");
    stack["StackStatus"] = "UPDATE_IN_PROGRESS".into();
    deploy.stack(stack, "");
    refuses("is being changed");
    deploy.aws.no_stack();
    refuses("there is no stack acme");
}

#[test]
fn a_failure_halfway_states_what_holds() {
    let deploy = functions();
    deploy.aws.answers_by("UpdateFunctionCode", |call| {
        call.text("FunctionName").contains("Ingest").then(|| json!({}))
    });
    let ended = deploy.run(&["--code-only"]);
    let expected = "gladly-relay deploy: ingest-fn has the new code; but could not replace the code of extractor-fn: ";
    assert!(ended.code == 1 && ended.stderr.starts_with(expected), "{ended:?}");
}

#[test]
fn rolling_back_restores_the_code_that_was_replaced() {
    let deploy = functions();
    let zip = b"PK the former code".to_vec();
    let description =
        "replaced by gladly-relay deploy --code-only at 2026-01-01 00:00:00 UTC by sha256 old";
    let version = |number: &str, sha256: &str, description: &str| json!({"Version": number, "CodeSha256": sha256, "Description": description});
    let kept = version("7", &sha256(&zip), description);
    let latest = version("$LATEST", "old", "");
    let older = version("6", "older", "");
    deploy.aws.answers_by("ListVersionsByFunction", move |call| {
        if call.text("Marker").is_empty() {
            json!({"Versions": [latest, older], "NextMarker": "more"})
        } else {
            json!({"Versions": [kept]})
        }
    });
    let location = format!("{}/kept?X-Amz-Signature=secret", deploy.aws.url());
    deploy.aws.answers("GetFunction", json!({"Code": {"Location": location}}));
    deploy.aws.serves("/kept", &zip);
    let ended = deploy.run(&["--roll-back"]);
    assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
    assert!(ended.stdout.contains("ingest-fn: back to version 7 (replaced by gladly-relay deploy --code-only at 2026-01-01 00:00:00 UTC)\n"), "{ended:?}");
    assert_eq!(deploy.aws.calls("GetFunction")[0].text("Qualifier"), "7");
    let uploads = deploy.aws.calls("UpdateFunctionCode");
    assert_eq!(uploads.len(), 2);
    assert_eq!(unblob(&uploads[0].parameters["ZipFile"]), zip);
    policy_allows("deploy --roll-back", &deploy.aws.actions());

    // What is damaged is not uploaded, and the URL is not shown.
    deploy.aws.serves("/kept", b"something else");
    let ended = deploy.run(&["--roll-back"]);
    assert!(ended.code == 1 && ended.stderr.contains("damaged on the way"), "{ended:?}");
    assert!(!ended.stderr.contains("Signature"), "{ended:?}");
    assert!(deploy.aws.calls("UpdateFunctionCode").is_empty());

    // A full deployment in between is not undone.
    deploy.aws.answers(
        "GetFunctionConfiguration",
        json!({"CodeSha256": "deployed", "Architectures": ["arm64"]}),
    );
    let ended = deploy.run(&["--roll-back"]);
    assert!(
        ended.code == 1 && ended.stderr.contains("there is nothing to go back to"),
        "{ended:?}"
    );
}
