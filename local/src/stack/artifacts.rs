//! The functions' binaries, and how they are packaged with the template.

use std::{
    env, fs,
    io::{self, Cursor, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use testing::root;
use tokio::process::Command;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::{emulator::Emulator, stack::StackError};

/// What runs here, as the Makefile builds it: selected together, so that every crate has the features that
/// it has in the tests (tests: `features`).
const RUN: [&str; 3] = ["--package=local", "--package=ingest-fn", "--package=extractor-fn"];

/// The two binaries that a stack is made of.
#[derive(Debug, Clone)]
pub struct Artifacts {
    /// The executable of ingest-fn.
    pub ingest: PathBuf,
    /// The executable of extractor-fn.
    pub extractor: PathBuf,
}

impl Artifacts {
    /// Builds both for this machine with cargo, which takes minutes at first and a moment when nothing has changed.
    pub async fn build() -> Result<Self, StackError> {
        let messages = build(&RUN).await?;
        let executable = |name: &str| executable(&messages, name).ok_or(StackError::NotBuilt);
        Ok(Self { ingest: executable("ingest-fn")?, extractor: executable("extractor-fn")? })
    }
}

/// Builds `gladly-relay`, the operator's program.
pub async fn build_program() -> Result<PathBuf, StackError> {
    let messages = build(&[&RUN[..], &["--package=cli"]].concat()).await?;
    executable(&messages, "gladly-relay").ok_or(StackError::NotBuilt)
}

/// Builds packages, and returns cargo's messages.
async fn build(packages: &[&str]) -> Result<String, StackError> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--locked", "--message-format=json-render-diagnostics"])
        .args(packages)
        .current_dir(root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(StackError::Cargo)?;
    if !output.status.success() {
        return Err(StackError::NotBuilt);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Finds a binary among cargo's messages: its folder depends on the target and on who runs cargo.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
}

/// What "aws cloudformation package" and "sam deploy" do, without their seconds of start-up. Gives the template's URL.
pub(super) async fn package(
    emulator: &Emulator,
    artifacts: &Artifacts,
    build: &str,
) -> Result<String, StackError> {
    let read = |path: &Path| {
        fs::read(path).map_err(|source| StackError::Read { path: path.to_owned(), source })
    };
    let mut template = String::from_utf8_lossy(&read(&root().join("template.yaml"))?).into_owned();
    for (function, binary) in
        [("ingest-fn", &artifacts.ingest), ("extractor-fn", &artifacts.extractor)]
    {
        let folder = format!("CodeUri: target/lambda/{function}/");
        if template.matches(&folder).count() != 1 {
            return Err(StackError::Template(folder));
        }
        let zip = zipped(&read(binary)?, build).map_err(StackError::Zip)?;
        let key = format!("artifacts/{build}/{function}.zip");
        emulator.put_object(&format!("/{key}"), zip).await?;
        template = template.replace(&folder, &format!("CodeUri: s3://{key}"));
    }
    // A request's body holds no template over 51,200 bytes, there as on AWS.
    let key = format!("/artifacts/{build}/template.yaml");
    emulator.put_object(&key, template.into_bytes()).await?;
    Ok(format!("{}{key}", emulator.endpoint()))
}

/// A Lambda package: one executable, uncompressed because it does not travel, and a file that distinguishes this build from
/// another.
fn zipped(bootstrap: &[u8], build: &str) -> io::Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::with_capacity(bootstrap.len() + 1024)));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .unix_permissions(0o755);
    zip.start_file("bootstrap", options)?;
    zip.write_all(bootstrap)?;
    zip.start_file("build", options)?;
    zip.write_all(build.as_bytes())?;
    Ok(zip.finish()?.into_inner())
}
