//! The functions' processes: which there are, what memory they hold, and how to kill one.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    emulator::Emulator,
    stack::{Function, Stack},
};

/// What the emulator writes when a process ends while an invocation waits for its answer.
const EXITED: &str = "Runtime exited before returning a response";
/// How much later than the first the last median may be before memory counts as growing: this share …
const GROWTH: f64 = 0.1;
/// … and this many MiB, since the allocator takes memory in pieces.
const SLACK: f64 = 2.0;
/// Memory is judged once a process has lived this long; a fifth of its life is warming up.
const LIFE: Duration = Duration::from_mins(1);

/// The function processes of one stack, watched.
pub(super) struct Processes {
    emulator: u32,
    /// By the name that the function was deployed under.
    functions: [(String, Function); 2],
    lives: BTreeMap<u32, Life>,
}

/// One process as long as it was seen.
struct Life {
    function: Function,
    born: Instant,
    gone: bool,
    /// Resident memory in MiB, a sample each time it was looked at.
    samples: Vec<f64>,
    /// The most the kernel has seen, in MiB.
    peak: f64,
    /// Nanoseconds of computing.
    worked: u64,
}

/// What one function's processes held.
#[derive(Debug, Clone)]
pub struct Memory {
    /// How many processes there were.
    pub processes: usize,
    /// The most that one of them ever held, in MiB.
    pub peak: f64,
    /// How long the process lived that worked most, in which …
    pub life: Duration,
    /// … this was the median of the first third of its steady state, in MiB …
    pub first: f64,
    /// … and this that of the last.
    pub last: f64,
}

impl Memory {
    /// Whether the process that worked most went on growing. Short lives are not judged.
    #[must_use]
    pub fn grows(&self) -> bool {
        self.last - self.first > SLACK.max(self.first * GROWTH)
    }

    /// Whether any process lived long enough to be judged.
    #[must_use]
    pub fn is_judged(&self) -> bool {
        self.life >= LIFE
    }
}

impl Processes {
    pub(super) fn new(emulator: &Emulator, stack: &Stack<'_>) -> Self {
        let functions = [Function::Ingest, Function::Extractor]
            .map(|function| (stack.function_name(function).to_owned(), function));
        Self { emulator: emulator.process(), functions, lives: BTreeMap::new() }
    }

    /// Notes what memory every process holds. To be called once a second.
    pub(super) fn look(&mut self) {
        self.meet();
        for (pid, life) in self.lives.iter_mut().filter(|(_, life)| !life.gone) {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let mebibytes = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name))?;
                Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
            };
            life.samples.extend(mebibytes("VmRSS:"));
            life.peak = life.peak.max(mebibytes("VmHWM:").unwrap_or_default());
            life.worked = worked(*pid).unwrap_or(life.worked);
        }
    }

    /// Notes which processes have come and gone.
    fn meet(&mut self) {
        let found = self.found();
        for (pid, life) in &mut self.lives {
            life.gone |= !found.contains_key(pid);
        }
        for (pid, function) in found {
            let born = Instant::now();
            let life =
                Life { function, born, gone: false, samples: Vec::new(), peak: 0.0, worked: 0 };
            self.lives.entry(pid).or_insert(life);
        }
    }

    /// The processes that run now.
    fn found(&self) -> BTreeMap<u32, Function> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.emulator));
        let tasks = tasks.into_iter().flatten().flatten();
        let children = tasks
            .map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default())
            .collect::<String>();
        let function = |pid: u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let name = environment
                .split(|byte| *byte == 0)
                .find_map(|entry| entry.strip_prefix(b"AWS_LAMBDA_FUNCTION_NAME="))?;
            let named = |(of, _): &&(String, Function)| of.as_bytes() == name;
            Some((pid, self.functions.iter().find(named)?.1))
        };
        children.split_whitespace().filter_map(|pid| function(pid.parse().ok()?)).collect()
    }

    /// How long each of a function's processes has been computing, the oldest process excepted if it is to be spared.
    pub(super) fn busy(&mut self, function: Function, spare: bool) -> BTreeMap<u32, u64> {
        self.meet();
        let mut alive: Vec<_> =
            self.lives.iter().filter(|(_, life)| !life.gone && life.function == function).collect();
        alive.sort_by_key(|(_, life)| life.born);
        let alive = alive.iter().skip(spare.into());
        alive.filter_map(|(pid, _)| Some((**pid, worked(**pid)?))).collect()
    }

    /// What a function's processes held.
    pub(super) fn memory(&self, function: Function) -> Memory {
        let lives = self.lives.values().filter(|life| life.function == function);
        // Looked at once a second, so the number of samples is the length of the life. Some live long and do nothing:
        // the emulator forgets processes that are at work while a stack is updated.
        let long = LIFE.as_secs();
        let most =
            lives.clone().max_by_key(|life| (life.samples.len() as u64 >= long, life.worked));
        let samples = most.map(|life| life.samples.as_slice()).unwrap_or_default();
        let steady = &samples[samples.len() / 5..];
        let third = steady.len() / 3;
        Memory {
            processes: lives.clone().count(),
            peak: lives.map(|life| life.peak).fold(0.0, f64::max),
            life: Duration::from_secs(samples.len() as u64),
            first: median(&steady[..third]),
            last: median(&steady[steady.len() - third..]),
        }
    }
}

/// Nanoseconds for which a process has been computing.
fn worked(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    stat.split(' ').next()?.parse().ok()
}

/// Kills a process. False if there is none of that number any more.
pub(super) fn end(pid: u32) -> io::Result<bool> {
    let Ok(pid) = i32::try_from(pid) else {
        return Ok(false);
    };
    match kill(Pid::from_raw(pid), Signal::SIGKILL) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Reads what the emulator writes, and counts the invocations of a function that ended with their process.
pub(super) struct Exits {
    log: PathBuf,
    read: u64,
    line: String,
    count: usize,
}

impl Exits {
    pub(super) fn new(emulator: &Emulator, stack: &Stack<'_>, function: Function) -> Self {
        let line = format!("Lambda {}: {EXITED}", stack.function_name(function));
        Self { log: emulator.log().to_owned(), read: 0, line, count: 0 }
    }

    /// How many there have been.
    pub(super) fn count(&mut self) -> io::Result<usize> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // Up to the last whole line.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        self.count += String::from_utf8_lossy(&bytes[..whole]).matches(self.line.as_str()).count();
        Ok(self.count)
    }
}
