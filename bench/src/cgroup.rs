//! A share of a processor, as Lambda gives it to a function by its memory.

use std::{error::Error, fs, path::PathBuf, process};

use crate::process::Function;

/// Memory in MB at which a function has one whole processor
/// (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html>).
const ONE_PROCESSOR: u32 = 1769;
/// Longer periods make two results of one: a start that fits into the first period, and one that does not.
const PERIOD_US: u32 = 20_000;
/// Enters the group that it gets, then becomes the command after it.
const ENTER: &str = r#"echo $$ >"$0/cgroup.procs" && exec "$@""#;

/// A control group, version 1 or 2, for one process. It is removed when this is dropped, after the process has ended.
pub(crate) struct Group(PathBuf);

impl Group {
    /// A group with the share of a function with this much memory, in MB. Only root can make one.
    pub(crate) fn new(memory: u32) -> Result<Self, Box<dyn Error>> {
        let quota = PERIOD_US * memory / ONE_PROCESSOR;
        let name = format!("gladly-relay-bench-{}", process::id());
        let version_1 = PathBuf::from("/sys/fs/cgroup/cpu");
        let version_2 = PathBuf::from("/sys/fs/cgroup");
        let (root, limits) = if version_1.is_dir() {
            let period = ("cpu.cfs_period_us", PERIOD_US.to_string());
            (version_1, vec![period, ("cpu.cfs_quota_us", quota.to_string())])
        } else {
            fs::write(version_2.join("cgroup.subtree_control"), "+cpu")?;
            (version_2, vec![("cpu.max", format!("{quota} {PERIOD_US}"))])
        };
        let group = Self(root.join(name));
        fs::create_dir_all(&group.0)?;
        for (file, limit) in limits {
            fs::write(group.0.join(file), limit)?;
        }
        Ok(group)
    }

    /// The function, started in this group.
    pub(crate) fn around(&self, function: &Function) -> Function {
        function.under(&["sh", "-c", ENTER, &self.0.display().to_string()])
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The next group has the same name, so one that is left over does no harm.
        let _ = fs::remove_dir(&self.0);
    }
}
