//! `make up` and `make down`: the whole system in the background, for experiments.

mod folder;
mod ports;
mod running;

use std::{
    env,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant},
};

use axum::{Router, http::StatusCode, routing::post};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::sleep,
};

use self::{folder::Folder, ports::Ports};
pub use self::{ports::PortError, running::Running};
use crate::{
    embedded_metrics::MetricsPublisher,
    emulator,
    local_stack::LocalStack,
    page::{Page, Sources},
    stack::{Artifacts, EmulatedAws, StackError},
};

/// The stack's name.
const STACK: &str = "gladly-relay";

/// Where the emulated AWS has it.
const REGION: &str = "us-east-1";

/// How many conversations the Gladly simulator starts with.
const CONVERSATION_COUNT: usize = 12;

/// How long the start may take; it needs about five seconds once everything is built.
const STARTUP_TIMEOUT: Duration = Duration::from_mins(3);

/// How long the background process may take to end by itself; it needs less than a second.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// How long `make up` may hold the lock before it has started the background process.
const STARTUP_GRACE: Duration = Duration::from_millis(500);

/// How often a file or a process is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Starts [`serve`] in the background and waits until everything is there, or finds it running.
pub async fn up() -> Result<Running, UpError> {
    let ports = Ports::from_env()?;
    let folder = Folder::from_env().map_err(UpError::Folder)?;
    let lock = select! {
        found = find_or_lock(&folder) => match found? {
            Found::Running(running) => {
                ports.check_used_by(&running)?;
                return Ok(*running);
            }
            Found::Lock(lock) => lock,
        },
        code = interruption() => return Err(UpError::WaitInterrupted { code: code? }),
    };
    ports.check_free()?;
    print_line("Starting an emulated AWS, a Gladly simulator and a destination…");
    // Left by a crashed process.
    folder.remove_state();
    let mut background = Background::start(&folder, lock)?;
    let failure = select! {
        ready = background.ready() => match ready {
            Ok(running) => return Ok(running),
            Err(error) => error,
        },
        code = interruption() => UpError::Interrupted { code: code? },
    };
    background.stop().await;
    Err(failure)
}

enum Found {
    /// It has been started.
    Running(Box<Running>),
    /// It can be started.
    Lock(File),
}

/// Waits until there is a running system or the lock.
async fn find_or_lock(folder: &Folder) -> Result<Found, UpError> {
    let started = Instant::now();
    let mut announced = false;
    while started.elapsed() < STARTUP_TIMEOUT {
        if let Some(lock) = folder.try_lock().map_err(UpError::Folder)? {
            return Ok(Found::Lock(lock));
        }
        if let Some(running) = Running::find_in(folder).await {
            return Ok(Found::Running(Box::new(running)));
        }
        if !announced {
            print_line("Waiting for another \"make up\" or \"make down\"…");
            announced = true;
        }
        sleep(POLL_INTERVAL).await;
    }
    Err(UpError::Unresponsive)
}

/// Waits for Ctrl-C or SIGTERM, and returns the exit code that a shell gives to such an end.
async fn interruption() -> Result<u8, UpError> {
    let listen = |kind| signal(kind).map_err(UpError::Background);
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    select! {
        _ = interrupt.recv() => Ok(130),
        _ = terminate.recv() => Ok(143),
    }
}

/// The background process while it starts.
struct Background<'a> {
    folder: &'a Folder,
    process: Child,
}

impl<'a> Background<'a> {
    fn start(folder: &'a Folder, lock: File) -> Result<Self, UpError> {
        let log = File::create(folder.log()).map_err(UpError::Folder)?;
        let process = Command::new(env::current_exe().map_err(UpError::Background)?)
            .arg("serve")
            // What holds the lock from now on.
            .stdin(lock)
            .stdout(log.try_clone().map_err(UpError::Folder)?)
            .stderr(log)
            // Ctrl-C in this terminal must not stop it later.
            .process_group(0)
            .spawn()
            .map_err(UpError::Background)?;
        folder.write_process(process.id()).map_err(UpError::Folder)?;
        Ok(Self { folder, process })
    }

    /// Waits until everything is there.
    async fn ready(&mut self) -> Result<Running, UpError> {
        let started = Instant::now();
        while started.elapsed() < STARTUP_TIMEOUT && matches!(self.process.try_wait(), Ok(None)) {
            if let Some(running) = self.folder.read_state() {
                return Ok(running);
            }
            sleep(POLL_INTERVAL).await;
        }
        let log = self.folder.log();
        let text = fs::read_to_string(&log).unwrap_or_default();
        let reason = match self.process.try_wait() {
            Ok(None) => "timed out",
            _ => text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it was stopped"),
        };
        Err(UpError::NotUp { reason: reason.to_owned(), log })
    }

    /// Ends it with everything that it started.
    async fn stop(&mut self) {
        signal_group(self.process.id(), Signal::SIGTERM);
        let asked = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) {
            if asked.elapsed() > SHUTDOWN_TIMEOUT {
                signal_group(self.process.id(), Signal::SIGKILL);
            }
            sleep(POLL_INTERVAL).await;
        }
        self.folder.remove_state();
    }
}

/// Signals a process group that may have ended already.
fn signal_group(process: u32, signal: Signal) {
    if let Ok(process) = i32::try_from(process) {
        let _ = killpg(Pid::from_raw(process), signal);
    }
}

/// Stops what runs or starts, and waits until it has ended. False if there is nothing.
pub async fn down() -> Result<bool, UpError> {
    let folder = Folder::from_env().map_err(UpError::Folder)?;
    if !folder.is_locked() {
        // Left by a crashed process.
        folder.remove_state();
        return Ok(false);
    }
    let mut limit = STARTUP_GRACE;
    if let Some(running) = Running::find_in(&folder).await {
        running.request_stop().await;
        limit = SHUTDOWN_TIMEOUT;
    }
    // One that starts, or does not answer.
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        if unlocked_within(&folder, limit).await {
            break;
        }
        if let Some(process) = folder.process() {
            signal_group(process, signal);
        }
        limit = SHUTDOWN_TIMEOUT;
    }
    if !unlocked_within(&folder, SHUTDOWN_TIMEOUT).await {
        return Err(UpError::NotStopped);
    }
    folder.remove_state();
    Ok(true)
}

async fn unlocked_within(folder: &Folder, limit: Duration) -> bool {
    let started = Instant::now();
    while folder.is_locked() {
        if started.elapsed() >= limit {
            return false;
        }
        sleep(POLL_INTERVAL).await;
    }
    true
}

/// Runs everything until it is stopped. Its standard input is the lock.
pub async fn serve() -> Result<(), UpError> {
    let folder = Folder::from_env().map_err(UpError::Folder)?;
    // Whichever ends, everything is dropped here, and with it the emulator.
    let served = select! {
        served = serve_until_stopped(&folder) => served,
        _ = interruption() => Err(UpError::Terminated),
    };
    folder.remove_state();
    served
}

async fn serve_until_stopped(folder: &Folder) -> Result<(), UpError> {
    let ports = Ports::from_env()?;
    let LocalStack { gladly, destination, settings } =
        LocalStack::start_on(CONVERSATION_COUNT, 1.0, ports.gladly, ports.destination)
            .map_err(UpError::Server)?;
    let options = emulator::Options { folder: folder.path().clone(), port: ports.aws, proxy: None };
    let aws = EmulatedAws::start_with(&options, &Artifacts::build().await?).await?;
    let stack = aws.deploy(STACK, &settings).await?;
    let webhook_key = settings.webhook_keys.concat();
    stack.know_webhook().await?;
    gladly.subscribe(stack.webhook_url(), &[("x-api-key", &webhook_key)]);

    let (stop, mut stopped) = mpsc::channel::<()>(1);
    let page = Page::bind(ports.page).await.map_err(UpError::Server)?;
    let path = format!("/stop/{:016x}", fastrand::u64(..));
    let conversation = gladly.organization().conversations.keys().next().cloned();
    let running = Running {
        stop: format!("{}{path}", page.url()),
        webhook_url: stack.webhook_url().to_owned(),
        webhook_key,
        gladly_url: gladly.url().to_owned(),
        conversation: conversation.unwrap_or_default(),
        destination_url: destination.url().to_owned(),
        page_url: page.url(),
        aws_url: aws.emulator().endpoint(),
        stack: STACK.to_owned(),
        region: REGION.to_owned(),
    };
    let stopping = Router::new().route(
        &path,
        post(async move || {
            let _ = stop.send(()).await;
            StatusCode::ACCEPTED
        }),
    );
    let commands = [
        running.emit_command(),
        "make pause REASON='trying it out'".to_owned(),
        "make resume".to_owned(),
    ];
    let sources =
        Sources { gladly: &gladly, destination: &destination, stack: &stack, commands: &commands };
    folder.write_state(&running).map_err(UpError::Folder)?;
    select! {
        ended = page.serve(sources, stopping) => ended.map_err(UpError::Server),
        _ = stopped.recv() => Ok(()),
        () = lost(folder, &running) => Err(UpError::Lost),
        never = MetricsPublisher::new(&stack).run() => match never {},
    }
}

/// Waits until `running.json` is no longer this process's: no command could find it any more.
async fn lost(folder: &Folder, running: &Running) {
    while folder.read_state().is_some_and(|state| state.stop == running.stop) {
        sleep(Duration::from_secs(1)).await;
    }
}

/// Prints a line, unless standard output is closed.
fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Why it could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// A port in the environment.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The simulator, the destination or the control could not be started.
    #[error("could not start a server on loopback")]
    Server(#[source] io::Error),
    /// The files in the folder.
    #[error("could not read or write the files of the relay")]
    Folder(#[source] io::Error),
    /// The background process.
    #[error("could not start the background process")]
    Background(#[source] io::Error),
    /// It ended, or took too long; see its log.
    #[error("the relay did not start: {reason} (log: {})", log.display())]
    NotUp {
        /// The last line of its log, which is its error.
        reason: String,
        /// Its log.
        log: PathBuf,
    },
    /// Another process has the lock and does not finish.
    #[error("the relay is starting or running, but does not answer: end it with \"make down\"")]
    Unresponsive,
    /// Not even SIGKILL ended it.
    #[error("could not stop the relay: its process does not end")]
    NotStopped,
    /// Ctrl-C while it started.
    #[error("interrupted: everything that was started has been stopped")]
    Interrupted {
        /// The exit code.
        code: u8,
    },
    /// Ctrl-C while another process starts or stops it.
    #[error("interrupted while waiting for another \"make up\" or \"make down\"")]
    WaitInterrupted {
        /// The exit code.
        code: u8,
    },
    /// The background process got a signal.
    #[error("stopped by a signal")]
    Terminated,
    /// The background process's files are gone.
    #[error("stopped because running.json was removed or replaced")]
    Lost,
    /// The stack could not be deployed.
    #[error(transparent)]
    Stack(#[from] StackError),
}

impl UpError {
    /// The exit code of a program that ends with this.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted { code } | Self::WaitInterrupted { code } => *code,
            _ => 1,
        }
    }
}
