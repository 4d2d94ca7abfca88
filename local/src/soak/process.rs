//! The functions' processes: listing them, sampling their memory, and killing them.

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
/// Memory counts as growing if the last median exceeds the first by more than this share and by [`SLACK_MIB`].
const GROWTH: f64 = 0.1;
/// The allocator takes memory in pieces of up to a few MiB.
const SLACK_MIB: f64 = 2.0;
/// Memory is judged once a process has run this long; the first fifth is its warm-up.
const MIN_AGE: Duration = Duration::from_mins(1);

/// The function processes of one stack, watched.
pub(super) struct Processes {
    emulator: u32,
    /// By the name that the function was deployed under.
    functions: [(String, Function); 2],
    histories: BTreeMap<u32, ProcessHistory>,
}

/// One process as long as it was seen.
struct ProcessHistory {
    function: Function,
    born: Instant,
    gone: bool,
    /// Resident memory in MiB, one sample per second.
    samples: Vec<f64>,
    /// The most the kernel has seen, in MiB.
    peak: f64,
    /// Nanoseconds of computing.
    worked: u64,
}

/// The memory of one function's processes.
#[derive(Debug, Clone)]
pub struct Memory {
    /// How many processes there were.
    pub processes: usize,
    /// The peak of any of them, in MiB.
    pub peak: f64,
    /// The age of the busiest process.
    pub age: Duration,
    /// The median of the first third of its steady state, in MiB.
    pub first: f64,
    /// The median of the last third, in MiB.
    pub last: f64,
}

impl Memory {
    /// Whether the busiest process kept growing. Short runs are not judged.
    #[must_use]
    pub fn grows(&self) -> bool {
        self.last - self.first > SLACK_MIB.max(self.first * GROWTH)
    }

    /// Whether any process ran long enough to be judged.
    #[must_use]
    pub fn is_judged(&self) -> bool {
        self.age >= MIN_AGE
    }
}

impl Processes {
    pub(super) fn new(emulator: &Emulator, stack: &Stack<'_>) -> Self {
        let functions = [Function::Ingest, Function::Extractor]
            .map(|function| (stack.function_name(function).to_owned(), function));
        Self { emulator: emulator.process(), functions, histories: BTreeMap::new() }
    }

    /// Samples the memory of every process. To be called once a second.
    pub(super) fn sample(&mut self) {
        self.meet();
        for (pid, process) in self.histories.iter_mut().filter(|(_, process)| !process.gone) {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let mebibytes = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name))?;
                Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
            };
            process.samples.extend(mebibytes("VmRSS:"));
            process.peak = process.peak.max(mebibytes("VmHWM:").unwrap_or_default());
            process.worked = worked(*pid).unwrap_or(process.worked);
        }
    }

    /// Updates the list of processes.
    fn meet(&mut self) {
        let found = self.found();
        for (pid, process) in &mut self.histories {
            process.gone |= !found.contains_key(pid);
        }
        for (pid, function) in found {
            let born = Instant::now();
            let process = ProcessHistory {
                function,
                born,
                gone: false,
                samples: Vec::new(),
                peak: 0.0,
                worked: 0,
            };
            self.histories.entry(pid).or_insert(process);
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
        let mut alive: Vec<_> = self
            .histories
            .iter()
            .filter(|(_, process)| !process.gone && process.function == function)
            .collect();
        alive.sort_by_key(|(_, process)| process.born);
        let alive = alive.iter().skip(spare.into());
        alive.filter_map(|(pid, _)| Some((**pid, worked(**pid)?))).collect()
    }

    /// The memory of a function's processes.
    pub(super) fn memory(&self, function: Function) -> Memory {
        let histories = self.histories.values().filter(|process| process.function == function);
        // Sampled once a second, so the number of samples is the age in seconds. Some processes are old but idle:
        // the emulator forgets processes that are at work while a stack is updated.
        let long = MIN_AGE.as_secs();
        let most = histories
            .clone()
            .max_by_key(|process| (process.samples.len() as u64 >= long, process.worked));
        let samples = most.map(|process| process.samples.as_slice()).unwrap_or_default();
        let steady = &samples[samples.len() / 5..];
        let third = steady.len() / 3;
        Memory {
            processes: histories.clone().count(),
            peak: histories.map(|process| process.peak).fold(0.0, f64::max),
            age: Duration::from_secs(samples.len() as u64),
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
