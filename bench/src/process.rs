//! A function's process, and its use of resources by the kernel's count.

use std::{
    collections::VecDeque,
    env,
    error::Error,
    fs,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        signal::{Signal, kill},
        time::{TimeVal, TimeValLike as _},
    },
    time::clock_getcpuclockid,
    unistd::Pid,
};

use crate::host::{ARN, Addresses};

const LINES_KEPT: usize = 20;

/// A function as Lambda would start it.
#[derive(Clone)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) directory: PathBuf,
    /// Its settings.
    pub(crate) settings: Vec<(&'static str, String)>,
}

impl Function {
    /// The same, started by another command, of which its own is the last part.
    pub(crate) fn under(&self, command: &[&str]) -> Self {
        let own = [self.program.display().to_string()];
        let words = command.iter().map(ToString::to_string).chain(own).chain(self.args.clone());
        let mut args: Vec<_> = words.collect();
        Self { program: args.remove(0).into(), args, ..self.clone() }
    }
}

/// One running environment of a function. It ends when this is dropped.
pub(crate) struct Process {
    child: Child,
    pid: Pid,
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
                ("PATH", env::var("PATH").unwrap_or_default()),
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
        let pid = Pid::from_raw(child.id().try_into()?);
        Ok(Self { child, pid, lines })
    }

    /// Its last lines, for an error.
    pub(crate) fn last_lines(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().rev().flat_map(|line| ["\n    ", line]).collect()
    }

    /// CPU time so far, of all its threads.
    pub(crate) fn cpu(&self) -> Result<Duration, Box<dyn Error>> {
        Ok(clock_getcpuclockid(self.pid)?.now()?.into())
    }

    /// Its peak memory, in MiB.
    pub(crate) fn memory(&self) -> Result<f64, Box<dyn Error>> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.ok_or("the kernel reports no peak memory")?;
        Ok(peak.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }

    /// Ends it, and returns the CPU time of its whole life, user and system, as the kernel reports it of a child that was
    /// waited for. Only one process may be ended at a time.
    pub(crate) fn end(mut self) -> Result<Duration, Box<dyn Error>> {
        let before = cpu_of_children()?;
        // Asked, not killed: callgrind writes its count at the end.
        kill(self.pid, Signal::SIGTERM)?;
        self.child.wait()?;
        let used = (cpu_of_children()? - before).num_microseconds();
        Ok(Duration::from_micros(used.try_into()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cpu_of_children() -> nix::Result<TimeVal> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok(usage.user_time() + usage.system_time())
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
