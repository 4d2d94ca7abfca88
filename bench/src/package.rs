//! The size of a function's package.

use std::{error::Error, fs, io::Write, path::Path};

use flate2::{Compression, write::DeflateEncoder};

/// The bytes of a zip around its one file: the file's header, its entry in the directory, the end.
const ZIP_OVERHEAD: usize = 30 + 46 + 22 + 2 * "bootstrap".len();

/// The size in MiB of a zip that holds this binary as `bootstrap`.
pub(crate) fn size(binary: &Path) -> Result<f64, Box<dyn Error>> {
    let mut deflated = DeflateEncoder::new(Vec::new(), Compression::best());
    deflated.write_all(&fs::read(binary)?)?;
    Ok((deflated.finish()?.len() + ZIP_OVERHEAD) as f64 / f64::from(1 << 20))
}
