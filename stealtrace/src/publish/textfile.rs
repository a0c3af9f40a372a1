//! A file for node_exporter's textfile collector: whole at every moment, gone when we end.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// What node_exporter reads: `*.prom`.
const NAME: &str = "stealtrace.prom";
/// What it does not.
const UNFINISHED: &str = "stealtrace.prom.new";

/// The file.
pub(crate) struct Textfile {
    whole: PathBuf,
    unfinished: PathBuf,
}

impl Textfile {
    /// In this folder.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let file = Self { whole: folder.join(NAME), unfinished: folder.join(UNFINISHED) };
        let tried = fs::write(&file.unfinished, "").and_then(|()| fs::remove_file(&file.unfinished));
        tried.with_context(|| format!("write to {}", folder.display()))?;
        Ok(file)
    }

    /// What it says now.
    ///
    /// # Errors
    /// When it cannot be written; what it said stays.
    pub(crate) fn write(&self, text: &str) -> io::Result<()> {
        fs::write(&self.unfinished, text)?;
        fs::rename(&self.unfinished, &self.whole)
    }
}

impl Drop for Textfile {
    fn drop(&mut self) {
        for file in [&self.unfinished, &self.whole] {
            let _absent = fs::remove_file(file);
        }
    }
}
