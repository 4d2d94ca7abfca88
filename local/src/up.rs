//! `make up` and `make down`: the whole system in the background, for experiments.

use std::{
    env, fs,
    fs::File,
    io,
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use axum::{Router, http::StatusCode, routing::post};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::mpsc};

use crate::{
    local_stack::LocalStack,
    stack::{Artifacts, EmulatedAws, StackError},
};
use testing::root;

/// The stack's name.
const STACK: &str = "gladly-relay";

/// How long the background process may take; it needs about five seconds once everything is built.
const STARTUP_TIMEOUT: Duration = Duration::from_mins(3);

/// The addresses and the key, as the background process wrote them.
#[derive(Debug, Serialize, Deserialize)]
pub struct Running {
    /// The URL that stops it on a POST. The path holds a random number, so that no web page can guess it.
    stop: String,
    /// The webhook URL.
    pub webhook_url: String,
    /// The webhook key.
    pub webhook_key: String,
    /// The Gladly simulator.
    pub gladly_url: String,
    /// One of its conversations.
    pub conversation: String,
    /// The destination.
    pub destination_url: String,
    /// The emulated AWS.
    pub aws_url: String,
}

impl Running {
    /// The running system, if any.
    pub async fn find() -> Option<Self> {
        let running = read()?;
        let http = reqwest::Client::builder().no_proxy().build().ok()?;
        // Any request but the right POST is refused, which is a response too; a crashed process sends none.
        http.get(&running.stop).send().await.ok()?;
        Some(running)
    }

    /// Stops it.
    pub async fn stop(&self) -> Result<(), UpError> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        http.post(&self.stop).send().await?;
        let started = Instant::now();
        // Removing the file is the last thing it does.
        while state_file().exists() && started.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// Starts [`serve`] in the background and waits until everything is there.
pub async fn up() -> Result<Running, UpError> {
    // Left by a crashed process.
    let _ = fs::remove_file(shell_file());
    let _ = fs::remove_file(state_file());
    fs::create_dir_all(folder()).map_err(UpError::Background)?;
    let log = File::create(log_file()).map_err(UpError::Background)?;
    let mut child = Command::new(env::current_exe().map_err(UpError::Background)?)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(UpError::Background)?)
        .stderr(log)
        // Ctrl-C in this terminal must not stop it.
        .process_group(0)
        .spawn()
        .map_err(UpError::Background)?;
    let started = Instant::now();
    while started.elapsed() < STARTUP_TIMEOUT && matches!(child.try_wait(), Ok(None)) {
        if let Some(running) = read() {
            return Ok(running);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Do not leave it behind. It may have ended already.
    let _ = child.kill();
    Err(UpError::NotUp { log: log_file() })
}

/// Runs everything until it is stopped.
pub async fn serve() -> Result<(), UpError> {
    let LocalStack { gladly, destination, settings } =
        LocalStack::start(12, 1.0).map_err(UpError::Server)?;
    let aws = EmulatedAws::start("up", &Artifacts::build().await?).await?;
    let stack = aws.deploy(STACK, &settings).await?;
    let webhook_key = settings.webhook_keys.concat();
    stack.know_webhook().await?;
    gladly.subscribe(stack.webhook_url(), &[("x-api-key", &webhook_key)]);

    let (stop, mut stopped) = mpsc::channel::<()>(1);
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(UpError::Server)?;
    let address = listener.local_addr().map_err(UpError::Server)?;
    let path = format!("/stop/{:016x}", fastrand::u64(..));
    let running = Running {
        stop: format!("http://{address}{path}"),
        webhook_url: stack.webhook_url().to_owned(),
        webhook_key,
        gladly_url: gladly.url().to_owned(),
        conversation: gladly
            .organization()
            .conversations
            .keys()
            .next()
            .cloned()
            .unwrap_or_default(),
        destination_url: destination.url().to_owned(),
        aws_url: aws.emulator().endpoint(),
    };
    let app = Router::new().route(
        &path,
        post(async move || {
            let _ = stop.send(()).await;
            StatusCode::ACCEPTED
        }),
    );
    let server = tokio::spawn(axum::serve(listener, app).into_future());
    let shell =
        format!("endpoint={}\nstack={STACK}\nwebhook={}\n", running.aws_url, running.webhook_url);
    fs::write(shell_file(), shell).map_err(UpError::Background)?;
    write(&running).map_err(UpError::Background)?;

    stopped.recv().await;
    server.abort();
    drop(aws);
    let _ = fs::remove_file(shell_file());
    let _ = fs::remove_file(state_file());
    Ok(())
}

fn read() -> Option<Running> {
    serde_json::from_slice(&fs::read(state_file()).ok()?).ok()
}

/// Writes the file atomically and readable only by its owner, since it holds a key.
fn write(running: &Running) -> io::Result<()> {
    let draft = folder().join("running.draft");
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    serde_json::to_writer_pretty(file, running)?;
    fs::rename(draft, state_file())
}

fn folder() -> PathBuf {
    root().join(".local/up")
}

fn state_file() -> PathBuf {
    folder().join("running.json")
}

/// For `tools/relay`, which reads no JSON, and `tools/setup`: the AWS endpoint, the stack's name, and the webhook URL,
/// which here differs from the stack's output.
fn shell_file() -> PathBuf {
    folder().join("aws.env")
}

fn log_file() -> PathBuf {
    folder().join("up.log")
}

/// Why it could not be started, called or stopped.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The simulator, the destination or the control could not be started.
    #[error("starting a server on loopback")]
    Server(#[source] io::Error),
    /// The background process or its files.
    #[error("starting the background process")]
    Background(#[source] io::Error),
    /// It ended, or took too long; see its log.
    #[error("the relay did not start: see {}", log.display())]
    NotUp {
        /// Its log.
        log: PathBuf,
    },
    /// The stack could not be deployed.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The background process could not be called.
    #[error("calling the background process")]
    Call(#[from] reqwest::Error),
}
