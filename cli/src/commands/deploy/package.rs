//! What "make package" built: a folder with one executable for each function.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Cursor, Read as _, Write as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::error::{Error, Result};

/// The largest package that Lambda accepts with a call.
/// <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
const MAX_ZIP: usize = 50 << 20;

/// A processor that Lambda runs functions on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    Arm64,
    X86,
}

impl Architecture {
    /// That of an executable, by its ELF header; `None` if it is none for Lambda.
    fn of(header: &[u8]) -> Option<Self> {
        // EI_DATA: little endian. The machine is the half word at 18, after e_type.
        let is_elf = header.starts_with(b"\x7fELF") && header.get(5) == Some(&1);
        let machine = u16::from_le_bytes(header.get(18..20)?.try_into().ok()?);
        match machine {
            0xb7 if is_elf => Some(Self::Arm64),
            0x3e if is_elf => Some(Self::X86),
            _ => None,
        }
    }
}

/// As the template's parameter `Architecture`, Lambda and the variable `ARCH` of "make package" name it.
impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Arm64 => "arm64",
            Self::X86 => "x86_64",
        })
    }
}

impl FromStr for Architecture {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "arm64" => Ok(Self::Arm64),
            "x86_64" => Ok(Self::X86),
            _ => Err(Error::usage(format!(
                "expected the Architecture arm64 or x86_64, got {text:?}; correct it in the configuration of sam."
            ))),
        }
    }
}

/// The package of one function.
#[derive(Debug)]
pub(super) struct Package {
    pub(super) function: &'static str,
    bootstrap: PathBuf,
    pub(super) architecture: Architecture,
}

impl Package {
    /// Both functions' packages, for the same architecture.
    pub(super) fn both(folder: &Path) -> Result<[Self; 2]> {
        let both = [Self::find(folder, "ingest-fn")?, Self::find(folder, "extractor-fn")?];
        let [ingest, extractor] = &both;
        if ingest.architecture != extractor.architecture {
            return Err(Error::failed(format!(
                "ingest-fn is built for {} and extractor-fn for {}; run \"make package\" again.",
                ingest.architecture, extractor.architecture
            )));
        }
        Ok(both)
    }

    fn find(folder: &Path, function: &'static str) -> Result<Self> {
        let folder = folder.join(function);
        let bootstrap = folder.join("bootstrap");
        let header = read_header(&bootstrap).map_err(|err| {
            Error::failed(match err.kind() {
                io::ErrorKind::NotFound => format!(
                    "there is no {}: the functions are not built; run \"make package\" first.",
                    bootstrap.display()
                ),
                _ => format!("could not read {}: {err}.", bootstrap.display()),
            })
        })?;
        // sam packages the whole folder; "cargo lambda deploy" leaves a zip of the function in it.
        let mut others = fs::read_dir(&folder).into_iter().flatten().flatten();
        if let Some(other) = others.find(|entry| entry.file_name() != "bootstrap") {
            return Err(Error::failed(format!(
                "{} would be deployed beside bootstrap; remove it, and try again.",
                other.path().display()
            )));
        }
        let architecture = Architecture::of(&header).ok_or_else(|| {
            Error::failed(format!(
                "{} is no executable for Lambda; run \"make package\" again.",
                bootstrap.display()
            ))
        })?;
        Ok(Self { function, bootstrap, architecture })
    }

    /// Refuses code that deploys without an error and never starts.
    pub(super) fn check(&self, deployed: Architecture, where_to_change: &str) -> Result<()> {
        if self.architecture == deployed {
            return Ok(());
        }
        Err(Error::failed(format!(
            "{} is built for {}, and the stack is for {deployed}, where it would never start; run \"make package \
             ARCH={deployed}\"{where_to_change}.",
            self.bootstrap.display(),
            self.architecture,
        )))
    }

    /// The package as Lambda takes it. The same code makes the same bytes.
    pub(super) fn zip(&self) -> Result<Vec<u8>> {
        let failed =
            |err: String| Error::failed(format!("could not package {}: {err}.", self.function));
        let code = fs::read(&self.bootstrap).map_err(|err| failed(err.to_string()))?;
        let zip = zipped(&code).map_err(|err| failed(err.to_string()))?;
        if zip.len() > MAX_ZIP {
            return Err(failed("it exceeds 50 MB, which Lambda does not accept".into()));
        }
        Ok(zip)
    }
}

fn read_header(path: &Path) -> io::Result<Vec<u8>> {
    let mut header = Vec::new();
    File::open(path)?.take(20).read_to_end(&mut header)?;
    Ok(header)
}

fn zipped(code: &[u8]) -> io::Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::with_capacity(code.len() + 1024)));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .unix_permissions(0o755);
    zip.start_file("bootstrap", options)?;
    zip.write_all(code)?;
    Ok(zip.finish()?.into_inner())
}

/// A package's hash as Lambda gives it in `CodeSha256`.
pub(super) fn code_sha256(zip: &[u8]) -> String {
    BASE64_STANDARD.encode(Sha256::digest(zip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_of_an_executable_is_in_its_header() {
        let mut header = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\xb7\0";
        assert_eq!(Architecture::of(&header), Some(Architecture::Arm64));
        header[18] = 0x3e;
        assert_eq!(Architecture::of(&header), Some(Architecture::X86));
        header[18] = 0x28;
        assert_eq!(Architecture::of(&header), None, "32 bits");
        header[18] = 0x3e;
        header[5] = 2;
        assert_eq!(Architecture::of(&header), None, "big endian");
        assert_eq!(Architecture::of(b"#!/bin/bash\necho not a bootstrap"), None);
        assert_eq!(Architecture::of(b"\x7fELF"), None);
    }

    #[test]
    fn the_same_code_makes_the_same_package() {
        let zip = zipped(b"code").unwrap();
        assert_eq!(code_sha256(&zip), code_sha256(&zipped(b"code").unwrap()));
        assert_ne!(code_sha256(&zip), code_sha256(&zipped(b"other").unwrap()));
    }
}
