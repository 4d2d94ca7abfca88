//! The program in a folder and an environment of its own.

#![allow(dead_code, reason = "no command needs every helper")]

use std::{
    ffi::OsStr,
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;

use crate::fake_aws::FakeAws;

/// The folder. It is removed with this.
pub(crate) struct Sandbox {
    pub(crate) folder: PathBuf,
    environment: Vec<(String, String)>,
}

/// How a command ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The result that a script reads.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let document: Value = serde_json::from_str(&self.stdout).expect(&self.stdout);
        assert_eq!(document["v"], 1);
        document["result"].clone()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Sandbox {
    /// With the aws as AWS, test credentials and nothing of the developer's own set-up.
    pub(crate) fn new(aws: &FakeAws) -> Self {
        let sandbox = Self::without_aws();
        let folder = sandbox.folder.display().to_string();
        sandbox
            .set("AWS_ENDPOINT_URL", aws.url())
            .set("AWS_ACCESS_KEY_ID", "AKIATEST")
            .set("AWS_SECRET_ACCESS_KEY", "test-secret-access-key")
            .set("AWS_REGION", "us-east-1")
            .set("AWS_CONFIG_FILE", &format!("{folder}/aws-config"))
            .set("AWS_SHARED_CREDENTIALS_FILE", &format!("{folder}/aws-credentials"))
    }

    /// Without login and region. `PATH` is the empty folder `bin`.
    pub(crate) fn without_aws() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Not in the target folder: above it may be what "make up" started.
        let folder =
            std::env::temp_dir().join(format!("gladly-relay-test-{}-{number}", process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("bin")).unwrap();
        let folder = folder.canonicalize().unwrap();
        let home = folder.display().to_string();
        Self { folder, environment: Vec::new() }
            .set("HOME", &home)
            .set("PATH", &format!("{home}/bin"))
            .set("AWS_EC2_METADATA_DISABLED", "true")
    }

    /// With this variable, in place of one of the same name.
    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(other, _)| other != name);
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Without this variable.
    pub(crate) fn unset(mut self, name: &str) -> Self {
        self.environment.retain(|(other, _)| other != name);
        self
    }

    /// Where something in the folder is.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// Writes a file with its folders.
    pub(crate) fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
    }

    /// Writes a program into `bin`.
    pub(crate) fn program(&self, name: &str, text: &str) {
        let path = Path::new("bin").join(name);
        self.write(path.to_str().unwrap(), text);
        let path = self.folder.join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A file's text; empty if there is none.
    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    /// The program with these arguments, not yet started, in a process group of its own and without a
    /// terminal.
    pub(crate) fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gladly-relay"));
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .process_group(0);
        command
    }

    /// Runs the program.
    pub(crate) fn run(&self, arguments: &[impl AsRef<OsStr>]) -> Ended {
        let output = self.command(arguments).output().unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

const TYPIST: &str = include_str!("../typist.py");

impl Sandbox {
    /// Runs the program at a terminal: waits for each text, and types the line beside it; `\x03` is Ctrl-C.
    /// Everything that the terminal shows is in `stdout`.
    pub(crate) fn run_at_terminal(&self, arguments: &[&str], typed: &[(&str, &str)]) -> Ended {
        let output = Command::new(python())
            .args(["-c", TYPIST, &(arguments.len() + 1).to_string()])
            .arg(env!("CARGO_BIN_EXE_gladly-relay"))
            .args(arguments)
            .args(typed.iter().flat_map(|(wanted, typed)| [*wanted, *typed]))
            .current_dir(&self.folder)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("TERM", "dumb")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n"),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Python of "make tools", else of the system: those that version managers put on the `PATH` need more of
/// the environment than the sandbox has.
pub(crate) fn python() -> PathBuf {
    let ours = testing::root().join(".tools/venv/bin/python");
    [ours, "/usr/bin/python3".into()].into_iter().find(|path| path.exists()).expect("Python")
}
