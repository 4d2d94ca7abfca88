//! `tools/deploy` refuses what would lose events, with an AWS CLI and a SAM CLI that only answer: a change set is nothing
//! that the emulated AWS could prepare.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

/// Stands for both. It notes the commands that change something.
const CLI: &str = r#"#!/bin/bash
set -eu
case "$2 $*" in
  *list-change-sets*) echo change-1 ;;
  *RetentionDays*) echo "$DAYS" ;;
  *PauseParameter*Scope*) echo "$WRITTEN" ;;
  *get-queue-attributes*) echo "$QUEUE" ;;
  *get-parameter*) echo "$STATE" ;;
  *describe-stack-resource*) echo name ;;
  *-change-set*) echo "$2" >>"$NOTES" ;;
esac
"#;

#[test]
fn a_deploy_that_would_lose_events_or_lift_a_pause_is_refused() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy");
    let _ = fs::remove_dir_all(&folder);
    let executable = |path: &str, text: &str| {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    executable("bin/aws", CLI);
    executable("bin/sam", "#!/bin/sh\n");
    for function in ["ingest-fn", "extractor-fn"] {
        executable(&format!("target/lambda/{function}/bootstrap"), "");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/deploy");
    let (kept, lowered) = ("4", "2");
    let (held, hidden, empty) = ("345600 3 0 0", "345600 0 2 1", "345600 0 0 0");
    let deleted = "would delete the older ones of the events held, 3 in all";
    let lifted = r#"would write "running" over it"#;
    for (days, queue, written, state, refusal) in [
        (kept, held, "", "paused", None),
        ("14", held, "", "running", None),
        (lowered, empty, "", "running", None),
        (lowered, held, "", "running", Some(deleted)),
        (lowered, hidden, "", "running", Some(deleted)),
        (kept, empty, "Properties", "running", None),
        (kept, empty, "Tags", "paused", Some(lifted)),
        (kept, empty, "Properties", r#"{"state":"paused"}"#, Some(lifted)),
    ] {
        let notes = folder.join("notes");
        fs::write(&notes, "").unwrap();
        let output = Command::new("bash")
            .arg(&script)
            .arg("acme")
            .current_dir(&folder)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", folder.join("bin").display()))
            .envs([("DAYS", days), ("QUEUE", queue), ("WRITTEN", written), ("STATE", state)])
            .env("NOTES", &notes)
            .output()
            .unwrap();
        let done = fs::read_to_string(&notes).unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        let case = format!("{days} days, {queue}, {written}, {state}: {complaint}");
        assert_eq!(output.status.success(), refusal.is_none(), "{case}");
        assert!(refusal.is_none_or(|refusal| complaint.contains(refusal)), "{case}");
        let wanted = if refusal.is_some() { "delete-change-set" } else { "execute-change-set" };
        assert_eq!(done.trim(), wanted, "{case}");
    }
}
