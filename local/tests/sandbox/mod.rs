//! A folder with scripts laid out as in the repository, and fake programs that record their calls.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

/// The folder.
pub(crate) struct Sandbox {
    pub(crate) folder: PathBuf,
}

/// How a command ended, and what it showed.
pub(crate) struct Ended {
    pub(crate) succeeded: bool,
    pub(crate) shown: String,
    pub(crate) complaint: String,
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Sandbox {
    /// A folder with only these scripts. Its name is unique to the test.
    pub(crate) fn with(name: &str, scripts: &[&str]) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        for part in ["tools", "bin", "notes", "answers", "temporary"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        for script in scripts {
            fs::copy(root().join(script), folder.join(script)).unwrap();
        }
        Self { folder }
    }

    /// Something that can be run.
    pub(crate) fn program(&self, path: &str, text: &str) {
        let path = self.folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The output of a fake program for a command.
    pub(crate) fn answers(&self, command: &str, text: &str) {
        fs::write(self.folder.join("answers").join(command), text).unwrap();
    }

    /// Runs a script in a process group of its own, as a terminal does.
    pub(crate) fn bash(
        &self,
        arguments: &[impl AsRef<OsStr>],
        environment: &[(&str, &str)],
    ) -> Ended {
        let output = Command::new("bash")
            .args(arguments)
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.folder.join("bin").display()))
            .env("NOTES", self.folder.join("notes"))
            .env("ANSWERS", self.folder.join("answers"))
            .env("TMPDIR", self.folder.join("temporary"))
            .envs(environment.iter().copied())
            .process_group(0)
            .output()
            .unwrap();
        let left = fs::read_dir(self.folder.join("temporary")).unwrap().count();
        assert_eq!(left, 0, "no file is left behind");
        Ended {
            succeeded: output.status.success(),
            shown: String::from_utf8(output.stdout).unwrap(),
            complaint: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
