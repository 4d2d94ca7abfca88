//! Fault injection: failing calls, and killed processes of the functions.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use fastrand::Rng;
use testing::{
    fault::Fault,
    server::{Traffic, lock},
};
use tokio::time::{sleep, sleep_until};

use super::{
    Soak, SoakError,
    plan::{FaultTarget, Method, Upstream},
    process::{self, Exits},
};
use crate::stack::Function;

/// Nanoseconds of computing between two samples, above which a process counts as busy.
const BUSY_NANOSECONDS: u64 = 500_000;
/// How long to wait for faults that have hit no call by the end.
const LAST_FAULTS_TIMEOUT: Duration = Duration::from_secs(30);

impl Soak<'_> {
    pub(super) fn traffic(&self, target: &FaultTarget) -> &Traffic {
        match target.upstream {
            Upstream::Aws => self.proxy.traffic(),
            Upstream::Gladly => self.gladly.traffic(),
            Upstream::Destination => self.destination.traffic(),
        }
    }

    /// Kills busy processes of a function, the busiest first, until a kill interrupts an invocation.
    pub(super) async fn kill(&self, function: Function, began: Instant) -> Result<(), SoakError> {
        let mut exits = Exits::new(self.aws.emulator(), self.stack, function);
        for at in self.plan.kills(function) {
            sleep_until((began + at).into()).await;
            let mut struck = false;
            while !struck && began.elapsed() < self.plan.length {
                if function == Function::Ingest {
                    // Otherwise its requests end before it can be measured which process is busy.
                    let slow = Fault::slow(800).on("POST /sqs/SendMessage");
                    self.proxy.traffic().fault(slow.times(10));
                }
                let Some(busiest) = self.busiest(function).await else {
                    continue;
                };
                let exited = exits.count()?;
                if !process::end(busiest)? {
                    continue;
                }
                // The emulator checks every 50 ms.
                sleep(Duration::from_millis(400)).await;
                struck = exits.count()? > exited;
                let number = usize::from(function == Function::Extractor);
                let kills = &mut lock(&self.report).kills[number];
                kills.0 += 1;
                kills.1 += usize::from(struck);
            }
        }
        Ok(())
    }

    /// The process of a function that used the most CPU just now, if any used enough.
    pub(super) async fn busiest(&self, function: Function) -> Option<u32> {
        let spare = self.spares.load(Ordering::Relaxed);
        let before = lock(&self.processes).busy(function, spare);
        sleep(Duration::from_millis(300)).await;
        let after = lock(&self.processes).busy(function, spare);
        let worked = after.iter().filter_map(|(pid, spent)| Some((spent - before.get(pid)?, *pid)));
        worked.max().filter(|(worked, _)| *worked > BUSY_NANOSECONDS).map(|(_, pid)| pid)
    }

    /// Applies unused faults once, ends all faults, and records how often each has hit.
    pub(super) async fn complete(&self, targets: &[FaultTarget]) -> Result<(), SoakError> {
        let unused_faults = || -> Vec<(&FaultTarget, &Fault)> {
            let hits = targets.iter().map(|target| self.traffic(target).fault_hits());
            let unused_faults = targets.iter().zip(hits).flat_map(|(target, hits)| {
                let hit = move |fault: &Fault| {
                    hits.contains_key(&(target.on.to_owned(), fault.to_string()))
                };
                target
                    .faults
                    .iter()
                    .filter(move |fault| !hit(fault))
                    .map(move |fault| (target, fault))
            });
            unused_faults.filter(|(target, _)| target.required).collect()
        };
        for target in targets {
            self.traffic(target).clear_faults();
        }
        // Not in a row: that would exhaust the attempts of a call.
        for (number, (target, fault)) in (0..).zip(unused_faults()) {
            self.traffic(target)
                .fault(fault.clone().on(target.on).after(3 * (number % 10)).times(1));
        }
        // While paused, no call could be hit.
        self.resume(Method::Parameter).await?;
        let began = Instant::now();
        while !unused_faults().is_empty() && began.elapsed() < LAST_FAULTS_TIMEOUT {
            sleep(Duration::from_millis(200)).await;
        }
        let mut report = lock(&self.report);
        report.unused_faults = unused_faults()
            .iter()
            .map(|(target, fault)| format!("{}: {fault}", target.name))
            .collect();
        for target in targets {
            let hits = self.traffic(target).fault_hits();
            for fault in &target.faults {
                let kind = fault.to_string();
                let times = hits.get(&(target.on.to_owned(), kind.clone())).copied();
                report.faults.push((target.name.to_owned(), kind, times.unwrap_or_default()));
            }
            self.traffic(target).clear_faults();
        }
        Ok(())
    }
}

/// Makes calls to one target fail, each kind of fault in turn, in a random order per round, until it is dropped.
pub(super) async fn disturb(target: &FaultTarget, traffic: &Traffic, mut rng: Rng) {
    loop {
        let mut faults = target.faults.clone();
        rng.shuffle(&mut faults);
        for fault in faults {
            // Three in a row exhaust the attempts of one call. A hang costs seconds, and two in a row the grace
            // period of a pause.
            let times =
                if fault.hang { 1 } else { target.bursts[rng.usize(..target.bursts.len())] };
            let fault = Fault { after: rng.u32(..=2 * target.every), ..fault };
            traffic.fault(fault.on(target.on).times(times));
            while traffic.faults().iter().any(|waiting| waiting.on == target.on) {
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
