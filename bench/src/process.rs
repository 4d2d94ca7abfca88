//! A function's process, and its use of resources by the kernel's count.

use std::{
    collections::VecDeque,
    error::Error,
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use crate::host::{ARN, Addresses};

/// The kernel counts CPU time in hundredths of a second, on every architecture.
const TICK: Duration = Duration::from_millis(10);
const LINES_KEPT: usize = 20;

/// A function as Lambda would start it.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) directory: PathBuf,
    /// Its settings.
    pub(crate) settings: Vec<(&'static str, String)>,
}

/// One running environment of a function. It ends when this is dropped.
pub(crate) struct Process {
    child: Child,
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Process {
    pub(crate) fn start(
        function: &Function,
        addresses: &Addresses,
    ) -> Result<Self, Box<dyn Error>> {
        let queue = |name| format!("{}/123456789012/{name}", addresses.aws);
        let mut child = Command::new(&function.program)
            .args(&function.args)
            .current_dir(&function.directory)
            .env_clear()
            .envs([
                ("AWS_LAMBDA_RUNTIME_API", addresses.runtime.to_string()),
                ("AWS_ENDPOINT_URL", addresses.aws.clone()),
                ("EVENTS_QUEUE_URL", queue("events")),
                ("QUARANTINE_QUEUE_URL", queue("quarantine")),
            ])
            .envs(function.settings.iter().cloned())
            .envs([
                ("AWS_LAMBDA_FUNCTION_NAME", ARN.rsplit(':').next().unwrap_or_default()),
                ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
                ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
                ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/bench"),
                ("AWS_LAMBDA_LOG_STREAM_NAME", "bench"),
                ("AWS_REGION", "eu-west-1"),
                ("AWS_DEFAULT_REGION", "eu-west-1"),
                ("AWS_ACCESS_KEY_ID", "bench"),
                ("AWS_SECRET_ACCESS_KEY", "bench"),
                ("AWS_SESSION_TOKEN", "bench"),
                ("LANG", "C.UTF-8"),
                ("TZ", ":UTC"),
                // Lambda keeps an image's byte code; a read-only package has none to write.
                ("PYTHONDONTWRITEBYTECODE", "1"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|err| format!("could not start {}: {err}", function.name))?;
        let lines = Arc::default();
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            keep(out, &lines);
            keep(err, &lines);
        }
        Ok(Self { child, lines })
    }

    /// Its last lines, for an error.
    pub(crate) fn last_lines(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().rev().flat_map(|line| ["\n    ", line]).collect()
    }

    /// CPU time so far, of all its threads and children.
    pub(crate) fn cpu(&self) -> Duration {
        let ticks: u32 = self.family().iter().filter_map(|pid| ticks(*pid)).sum();
        TICK * ticks
    }

    /// Its peak memory, in MiB, its children included.
    pub(crate) fn memory(&self) -> f64 {
        let peak = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().trim_end_matches(" kB").parse::<f64>().ok()
        };
        self.family().iter().filter_map(peak).sum::<f64>() / 1024.0
    }

    /// The process and all that descend from it.
    fn family(&self) -> Vec<u32> {
        let mut family = vec![self.child.id()];
        let mut next = 0;
        while let Some(pid) = family.get(next) {
            let tasks = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"));
            for task in tasks.into_iter().flatten().flatten() {
                let children = fs::read_to_string(task.path().join("children"));
                let children = children.unwrap_or_default();
                family
                    .extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
            next += 1;
        }
        family
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time, those of children that have ended included.
fn ticks(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    let fields = after_name.split(' ').skip(11).take(4);
    fields.map(|field| field.parse::<u32>().ok()).sum()
}

fn keep(from: impl Read + Send + 'static, lines: &Arc<Mutex<VecDeque<String>>>) {
    let lines = Arc::clone(lines);
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.truncate(LINES_KEPT - 1);
            lines.push_front(line);
        }
    });
}
