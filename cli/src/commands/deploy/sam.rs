//! The SAM CLI, which packages and prepares what is deployed.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use crate::{
    commands::deploy::samconfig::{SamConfigFile, quoted},
    error::{Error, Result, full_stop},
    session::Session,
};

/// The most that is repeated of what sam printed, in characters.
const MAX_REASON: usize = 600;

/// The program, for one stack.
pub(super) struct Sam<'a> {
    program: PathBuf,
    session: &'a Session,
    template: PathBuf,
}

impl<'a> Sam<'a> {
    /// Finds the program and the template.
    pub(super) fn new(session: &'a Session, template: &Path) -> Result<Self> {
        let folders = env::var_os("PATH").unwrap_or_default();
        let is_program = |path: &PathBuf| {
            fs::metadata(path)
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        };
        let mut candidates = env::split_paths(&folders).map(|folder| folder.join("sam"));
        let program = candidates.find(is_program).ok_or_else(|| {
            Error::failed(
                "cannot find the SAM CLI (\"sam\") on the PATH; install it, for example with \"pip install aws-sam-cli\".",
            )
        })?;
        // Absolute: sam looks for its configuration relative to the template.
        let template = fs::canonicalize(template).map_err(|err| {
            Error::usage(format!(
                "could not read the template {}: {err}; pass --template FILE, or change to the folder that holds it.",
                template.display()
            ))
        })?;
        Ok(Self { program, session, template })
    }

    /// The folder of the template.
    pub(super) fn folder(&self) -> &Path {
        self.template.parent().unwrap_or(Path::new("/"))
    }

    /// The template, region and login are always passed: a `.aws-sam/build/template.yaml` that an earlier
    /// "sam build" left, or a region from elsewhere, would win otherwise.
    fn command(&self, config: &SamConfigFile) -> Command {
        let Session { stack, region, profile, .. } = self.session;
        let mut command = Command::new(&self.program);
        command
            .arg("deploy")
            .arg("--template-file")
            .arg(&self.template)
            .arg("--config-file")
            .arg(&config.path)
            .args(["--stack-name", stack, "--region", region])
            .args(["--capabilities", "CAPABILITY_IAM"])
            .env("AWS_REGION", region)
            .env("AWS_DEFAULT_REGION", region)
            .kill_on_drop(true);
        if let Some(profile) = profile {
            command.args(["--profile", profile]).env("AWS_PROFILE", profile);
        }
        command
    }

    /// Has sam ask for every parameter, and deploy. These are proposed, or used where sam does not ask.
    pub(super) async fn guided(
        &self,
        config: &SamConfigFile,
        proposed: &BTreeMap<String, String>,
    ) -> Result<()> {
        let status = self
            .command(config)
            .arg("--guided")
            .arg("--parameter-overrides")
            .args(proposed.iter().map(|(name, value)| quoted(name, value)))
            .status()
            .await
            .map_err(|err| self.did_not_start(&err))?;
        if status.success() {
            Ok(())
        } else {
            Err(Error::failed(format!(
                "the stack {} was not deployed; the lines of sam above give the reason.",
                self.session.stack
            )))
        }
    }

    /// Has sam upload the packages and prepare a change, without executing it. What it printed.
    pub(super) async fn prepare(
        &self,
        config: &SamConfigFile,
        proposed: &BTreeMap<String, String>,
    ) -> Result<String> {
        let mut command = self.command(config);
        command.args([
            "--no-execute-changeset",
            "--no-fail-on-empty-changeset",
            "--no-progressbar",
        ]);
        if !config.config.as_ref().is_some_and(|config| config.has_bucket) {
            command.arg("--resolve-s3");
        }
        if !proposed.is_empty() {
            command
                .arg("--parameter-overrides")
                .args(proposed.iter().map(|(name, value)| quoted(name, value)));
        }
        let output =
            command.stdin(Stdio::null()).output().await.map_err(|err| self.did_not_start(&err))?;
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed).into_owned();
        if output.status.success() { Ok(printed) } else { Err(failed(&printed)) }
    }

    fn did_not_start(&self, err: &std::io::Error) -> Error {
        Error::failed(format!("could not start {}: {err}.", self.program.display()))
    }
}

/// The reason is what follows "Error:", else the last lines.
fn failed(printed: &str) -> Error {
    let start = printed
        .rfind("Error: ")
        .map_or_else(|| printed.len().saturating_sub(MAX_REASON), |start| start + "Error: ".len());
    let reason = String::from_utf8_lossy(printed.as_bytes().get(start..).unwrap_or_default());
    let reason: Vec<_> = reason.split_whitespace().collect();
    let reason: String = reason.join(" ").chars().take(MAX_REASON).collect();
    let reason = if reason.is_empty() { "it printed no reason".to_owned() } else { reason };
    Error::failed(format!("sam could not prepare the change: {}", full_stop(&reason)))
}

/// The change set that sam created, which it names by its ARN.
pub(super) fn created_change_set(printed: &str) -> Option<&str> {
    printed
        .split_whitespace()
        .rfind(|word| word.starts_with("arn:") && word.contains(":changeSet/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_change_set_is_the_one_that_sam_names() {
        const ARN: &str =
            "arn:aws:cloudformation:eu-west-1:123456789012:changeSet/samcli-deploy1767225600/0a1b";
        let printed = format!("Waiting…\n\nChangeset created successfully. {ARN}\n\n");
        assert_eq!(created_change_set(&printed), Some(ARN));
        assert_eq!(created_change_set("No changes to deploy. Stack acme is up to date"), None);
    }

    #[test]
    fn the_reason_of_sam_is_one_sentence() {
        let error =
            failed("Uploading\nError: Failed to create changeset for the stack: acme,\n  no\n");
        assert_eq!(
            error.sentence,
            "sam could not prepare the change: Failed to create changeset for the stack: acme, no."
        );
        assert!(failed("").sentence.contains("no reason"));
        assert!(failed(&"é".repeat(1_000)).sentence.contains('é'));
    }
}
