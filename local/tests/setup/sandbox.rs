//! A stack, its Gladly, and a folder in which `tools/setup` runs.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use local::stack::{Artifacts, EmulatedAws, Function, Settings, Stack};
use serde_json::{Value, json};
use testing::gladly::{self, Gladly};
use tokio::{process::Command, sync::OnceCell};

/// Comes before the AWS CLI. It writes down what a list of processes shows, a call a file, gives the
/// answers that are prepared for a command (and the parameter or slot it names), and has the AWS CLI ask the emulator
/// for the rest.
const AWS: &str = r#"#!/bin/bash
set -eu
printf '%s\n' "$@" >"$NOTES/$$-$RANDOM"
env >>"$NOTES/$$-$RANDOM-environment"
if [ "${1-}" = configure ]; then cat "$ANSWERS/configure"; exit; fi
endpoint=(--endpoint-url "$ENDPOINT")
if [ "${1-}" = --endpoint-url ]; then endpoint=("$1" "$2"); shift 2; fi
one=' ' all=$*
case $all in
  *Name=Slot,Value=*) one=${all##*Name=Slot,Value=} ;;
  *"--name "*) one=${all##*--name } ;;
esac
one=${one%% *}
for answer in "$ANSWERS/$2-${one##*/}" "$ANSWERS/$2"; do
  if [ -e "$answer.error" ]; then cat "$answer.error" >&2; exit 254; fi
  if [ -e "$answer" ]; then cat "$answer"; exit; fi
done
exec "$AWS" "${endpoint[@]}" "$@"
"#;

/// The AWS of all tests.
async fn aws() -> &'static EmulatedAws {
    static EMULATED: OnceCell<EmulatedAws> = OnceCell::const_new();
    let start =
        async || EmulatedAws::start("setup", &Artifacts::build().await.unwrap()).await.unwrap();
    EMULATED.get_or_init(start).await
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// How a command ended, and what it showed.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) succeeded: bool,
    pub(crate) shown: String,
    pub(crate) complaint: String,
}

impl Ended {
    /// It failed, with one sentence that holds this.
    #[track_caller]
    pub(crate) fn complains(&self, part: &str) {
        assert!(!self.succeeded && self.complaint.contains(part), "{part}: {self:#?}");
        assert!(self.complaint.starts_with("make ") && self.complaint.lines().count() == 1);
    }

    #[track_caller]
    pub(crate) fn tells(&self, parts: &[&str]) {
        assert!(self.succeeded, "{self:#?}");
        for part in parts {
            assert!(self.shown.contains(part), "{part}: {self:#?}");
        }
    }
}

/// A stack, its Gladly, and a folder with the script as in the repository.
pub(crate) struct Sandbox {
    pub(crate) folder: PathBuf,
    pub(crate) stack: Stack<'static>,
    pub(crate) gladly: Gladly,
    pub(crate) settings: Settings,
    /// What may be seen nowhere.
    secrets: Vec<String>,
}

impl Sandbox {
    pub(crate) async fn new(name: &str) -> Self {
        Self::with(name, gladly::Options::default()).await
    }

    pub(crate) async fn with(name: &str, options: gladly::Options) -> Self {
        let mut settings = Settings::new("", "");
        let gladly = Gladly::start(gladly::Options {
            email: settings.gladly_email.clone(),
            token: settings.gladly_token.clone(),
            requests_per_second: None,
            ..options
        });
        let gladly = gladly.unwrap();
        gladly.url().clone_into(&mut settings.gladly_url);
        // Something that can be connected to.
        settings.destination_url = format!("{}/deliveries", gladly.url());
        let stack = aws().await.deploy(name, &settings).await.unwrap();
        stack.stop_schedule().await.unwrap();

        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("setup-{name}"));
        let _ = fs::remove_dir_all(&folder);
        for part in ["tools", "bin", "notes", "answers", "temporary", ".local/up"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        fs::copy(root().join("tools/setup"), folder.join("tools/setup")).unwrap();
        fs::write(folder.join("bin/aws"), AWS).unwrap();
        fs::set_permissions(folder.join("bin/aws"), fs::Permissions::from_mode(0o755)).unwrap();
        let (endpoint, url) = (aws().await.emulator().endpoint(), stack.webhook_url());
        let up = format!("endpoint={endpoint}\nstack={name}\nwebhook={url}\n");
        fs::write(folder.join(".local/up/aws.env"), up).unwrap();
        let secrets = vec![
            settings.gladly_token.clone(),
            settings.destination_token.clone(),
            settings.webhook_keys[0].clone(),
        ];
        let sandbox = Self { folder, stack, gladly, settings, secrets };
        sandbox.prepare("configure", "");
        sandbox
    }

    /// Spares the AWS CLI what is asked for again and again.
    pub(crate) fn shorten(&self, name: &str) {
        self.move_to_account(name);
        for (secret, value) in [
            ("webhook-keys", &self.settings.webhook_keys[0]),
            ("gladly-token", &self.settings.gladly_token),
        ] {
            let parameter = json!({"Parameter": {"Type": "SecureString", "Value": value}});
            self.prepare(&format!("get-parameter-{secret}"), &parameter.to_string());
        }
    }

    pub(crate) fn lengthen(&self) {
        for answer in
            ["describe-stacks", "get-parameter-webhook-keys", "get-parameter-gladly-token"]
        {
            self.forget(answer);
        }
    }

    /// Has the AWS CLI answer this to a command.
    pub(crate) fn prepare(&self, command: &str, answer: &str) {
        fs::write(self.folder.join("answers").join(command), answer).unwrap();
    }

    pub(crate) fn forget(&self, command: &str) {
        fs::remove_file(self.folder.join("answers").join(command)).unwrap();
    }

    /// Has the stack seem one of an account, with the URL that it has here.
    pub(crate) fn move_to_account(&self, name: &str) {
        let pairs = |key: &str, value: &str, pairs: &[(&str, &str)]| -> Value {
            pairs.iter().map(|(k, v)| json!({key: k, value: v})).collect()
        };
        let secret = |what: &str| format!("/{name}/{what}");
        let parameters = [
            ("GladlyHost", &*self.settings.gladly_url),
            ("GladlyEmail", &self.settings.gladly_email),
            ("DestinationUrl", &self.settings.destination_url),
            ("WebhookKeysParameter", &secret("webhook-keys")),
            ("GladlyTokenParameter", &secret("gladly-token")),
            ("DestinationTokenParameter", &secret("destination-token")),
        ];
        let outputs = [
            ("WebhookUrl", self.stack.webhook_url()),
            ("PauseParameterName", self.stack.pause_parameter()),
            ("EventsMappingId", self.stack.mapping_id()),
            ("IngestFunctionName", self.stack.function_name(Function::Ingest)),
        ];
        let stack = json!({
            "StackStatus": "UPDATE_COMPLETE",
            "Parameters": pairs("ParameterKey", "ParameterValue", &parameters),
            "Outputs": pairs("OutputKey", "OutputValue", &outputs),
        });
        self.prepare("describe-stacks", &json!({"Stacks": [stack]}).to_string());
    }

    pub(crate) async fn run(&self, command: &str, environment: &[(&str, &str)]) -> Ended {
        self.python(&["tools/setup", command], environment).await
    }

    pub(crate) async fn python(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        let tools = root().join(".tools/venv/bin");
        let output = Command::new(tools.join("python"))
            .args(arguments)
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.folder.join("bin").display()))
            .env("HOME", &self.folder)
            .env("TMPDIR", self.folder.join("temporary"))
            .env("NOTES", self.folder.join("notes"))
            .env("ANSWERS", self.folder.join("answers"))
            .env("ENDPOINT", aws().await.emulator().endpoint())
            .env("AWS", tools.join("aws"))
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .envs(environment.iter().copied())
            .stdin(std::process::Stdio::null())
            .output()
            .await
            .unwrap();
        let ended = Ended {
            succeeded: output.status.success(),
            shown: String::from_utf8(output.stdout).unwrap(),
            complaint: String::from_utf8(output.stderr).unwrap(),
        };
        let mut secrets = self.secrets.clone();
        let keys = self.keys().await;
        secrets.extend(keys.lines().map(str::to_owned));
        let given = ["GLADLY_TOKEN", "DESTINATION_TOKEN", "WEBHOOK_KEY"];
        let given = environment.iter().filter(|(name, _)| given.contains(name));
        secrets.extend(given.map(|(_, secret)| (*secret).to_owned()));
        secrets.retain(|secret| secret.len() > 8);
        for secret in &secrets {
            assert!(!format!("{}{}", ended.shown, ended.complaint).contains(secret), "{ended:?}");
            assert_eq!(self.files_with(secret), Vec::<PathBuf>::new(), "{arguments:?}");
        }
        ended
    }

    /// Files of the sandbox, the notes of calls among them, that hold this; but for the answers prepared here.
    pub(crate) fn files_with(&self, text: &str) -> Vec<PathBuf> {
        let (mut pending, mut found) = (vec![self.folder.clone()], Vec::new());
        while let Some(path) = pending.pop() {
            if path.ends_with("answers") {
                continue;
            }
            if path.is_dir() {
                pending.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else if String::from_utf8_lossy(&fs::read(&path).unwrap()).contains(text) {
                found.push(path);
            }
        }
        found
    }

    /// A parameter's type and value.
    pub(crate) async fn parameter(&self, name: &str) -> Option<(String, String)> {
        let body = json!({"Name": name, "WithDecryption": true});
        let found = aws().await.emulator().ssm("GetParameter", body).await.ok()?;
        let text = |field: &str| found["Parameter"][field].as_str().unwrap().to_owned();
        Some((text("Type"), text("Value")))
    }

    fn keys_parameter(&self) -> String {
        self.stack.pause_parameter().replace("/pause", "/webhook-keys")
    }

    pub(crate) async fn keys(&self) -> String {
        self.stack.parameter(&self.keys_parameter()).await.unwrap().unwrap_or_default()
    }

    /// What the relay answers a PING that comes with this key.
    pub(crate) async fn ping(&self, key: &str) -> u16 {
        self.stack.post(key, r#"{"type":"PING"}"#).await.unwrap().status
    }
}
