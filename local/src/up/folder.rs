//! The folder of `make up`, and its lock.

use std::{
    env,
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{self, PathBuf},
};

use testing::root;

use crate::up::Running;

/// The folder that holds what is known of the running system, its logs and the emulator's files: `.local/up`, or the
/// one in `GLADLY_RELAY_UP_FOLDER`.
///
/// Its lock is held by the one process that starts or is the relay. `make up` takes it and hands it on to the background
/// process, so there is no moment in which a second relay could start. The lock ends with its holder, however that ends.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// The folder in the environment.
    pub(super) fn from_env() -> io::Result<Self> {
        let named = env::var_os("GLADLY_RELAY_UP_FOLDER").filter(|folder| !folder.is_empty());
        // The emulator runs elsewhere.
        Ok(Self(path::absolute(named.map_or_else(|| root().join(".local/up"), PathBuf::from))?))
    }

    pub(super) fn path(&self) -> &PathBuf {
        &self.0
    }

    pub(super) fn log(&self) -> PathBuf {
        self.0.join("up.log")
    }

    fn state(&self) -> PathBuf {
        self.0.join("running.json")
    }

    fn lock_file(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Takes the lock; `None` if it is taken.
    pub(super) fn try_lock(&self) -> io::Result<Option<File>> {
        fs::create_dir_all(&self.0)?;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.lock_file())?;
        match file.try_lock() {
            Ok(()) => {
                // The last holder's.
                file.set_len(0)?;
                Ok(Some(file))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Whether a relay starts or runs.
    pub(super) fn is_locked(&self) -> bool {
        // Shared, so that several processes can ask at once.
        File::open(self.lock_file())
            .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Notes the background process that holds the lock.
    pub(super) fn write_process(&self, process: u32) -> io::Result<()> {
        fs::write(self.lock_file(), process.to_string())
    }

    /// The background process that holds the lock.
    pub(super) fn process(&self) -> Option<u32> {
        fs::read_to_string(self.lock_file()).ok()?.parse().ok()
    }

    pub(super) fn read_state(&self) -> Option<Running> {
        serde_json::from_slice(&fs::read(self.state()).ok()?).ok()
    }

    /// Writes what is known of the running system, atomically and readable only by its owner, since it holds a key.
    pub(super) fn write_state(&self, running: &Running) -> io::Result<()> {
        let draft = self.0.join("running.draft");
        // Permissions are those of a new file.
        let _ = fs::remove_file(&draft);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(running)?)?;
        fs::rename(draft, self.state())
    }

    /// Removes what [`Folder::write_state`] wrote, if anything.
    pub(super) fn remove_state(&self) {
        let _ = fs::remove_file(self.state());
    }
}
