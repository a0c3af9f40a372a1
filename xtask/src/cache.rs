//! Where things that are slow to make are kept between clones: the user's cache folder.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

/// A folder in the cache, made if need be.
pub(crate) fn folder(name: &str) -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    let folder = base.join("stealtrace").join(name);
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

/// A folder in the cache that is either whole or not there: filled by `make` under another name, then renamed. Whoever
/// else wants the same meanwhile waits for it.
pub(crate) fn made(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let whole = folder("")?.join(name);
    if whole.exists() {
        return Ok(whole);
    }
    let lock = folder("locks")?.join(name.replace('/', "-"));
    let lock = fs::File::create(&lock).with_context(|| format!("create {}", lock.display()))?;
    lock.lock().context("wait for who else makes it")?;
    if whole.exists() {
        return Ok(whole);
    }
    let parts = folder("tmp")?.join(format!("{}-{}", name.replace('/', "-"), std::process::id()));
    let _absent = fs::remove_dir_all(&parts);
    fs::create_dir_all(&parts).with_context(|| format!("create {}", parts.display()))?;
    let result = make(&parts);
    if result.is_ok() {
        if let Some(parent) = whole.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::rename(&parts, &whole).with_context(|| format!("move {} into the cache", parts.display()))?;
    }
    let _gone = fs::remove_dir_all(&parts);
    result.map(|()| whole)
}

/// Was it written less than so long ago?
pub(crate) fn is_younger(file: &Path, age: Duration) -> bool {
    let written = fs::metadata(file).and_then(|metadata| metadata.modified());
    written.is_ok_and(|time| time.elapsed().is_ok_and(|since| since < age))
}

/// A program that a shell runs.
pub(crate) fn script(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text)
        .and_then(|()| fs::set_permissions(file, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("write {}", file.display()))
}

/// The repository's top.
pub(crate) fn root() -> Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).context("xtask has no parent folder")
}

/// The build folder.
pub(crate) fn target() -> Result<PathBuf> {
    let folder = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Ok(root()?.join("target")), |folder| anyhow::Ok(folder.into()))?;
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}
