//! The documents written by each version of the relay, in `shared/tests/golden`, one folder per version.

use std::{fs, io, path::PathBuf};

/// What one version has written.
#[derive(Debug, Clone)]
pub struct Golden {
    /// The version, as `0.1.0`.
    pub version: String,
    folder: PathBuf,
}

impl Golden {
    /// Every version's, oldest first.
    pub fn all() -> io::Result<Vec<Self>> {
        let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/tests/golden"));
        let mut all = Vec::new();
        for entry in fs::read_dir(root)? {
            let folder = entry?.path();
            let version = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            all.push(Self { version, folder });
        }
        let numbers = |golden: &Self| {
            let numbers = golden.version.split('.').map(str::parse::<u32>);
            numbers.collect::<Result<Vec<_>, _>>().unwrap_or_default()
        };
        all.sort_by_key(numbers);
        Ok(all)
    }

    /// The newest version's, which the current code must write byte for byte.
    pub fn newest() -> io::Result<Self> {
        Self::all()?.pop().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// A document, without the newline at its end.
    pub fn read(&self, name: &str) -> io::Result<String> {
        let text = fs::read_to_string(self.folder.join(name))?;
        Ok(text.strip_suffix('\n').map_or_else(|| text.clone(), str::to_owned))
    }
}
