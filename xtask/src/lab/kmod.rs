//! kvm's modules in a kernel's tree. What they need, and in which order they load, they say themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _};

use crate::{
    arch::Arch,
    process::{run, which},
};

/// What the lab loads: the processor that it emulates is an AMD, or an ARM, whose kvm has one part only.
pub(super) const fn kvm(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "kvm_amd",
        Arch::Aarch64 => "kvm",
    }
}

/// The modules of a kernel.
pub(super) struct Modules {
    /// By name, with underscores; more than one of a name is nobody's guess.
    files: BTreeMap<String, Vec<PathBuf>>,
    /// Names of what the image holds; None where nothing tells.
    built_in: Option<BTreeSet<String>>,
}

impl Modules {
    /// Those that are somewhere below a folder.
    pub(super) fn below(folder: &Path) -> Result<Self> {
        let mut modules = Self { files: BTreeMap::new(), built_in: None };
        modules.look(folder)?;
        Ok(modules)
    }

    fn look(&mut self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                self.look(&path)?;
                continue;
            }
            let name = entry.file_name().into_string().unwrap_or_default();
            if name == "modules.builtin" {
                let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
                self.built_in.get_or_insert_default().extend(text.lines().filter_map(module_name));
            } else if let Some(name) = module_name(&name) {
                self.files.entry(name).or_default().push(path);
            }
        }
        Ok(())
    }

    /// A module and all that it needs, unpacked into a folder; in load order. What is not there and is not known to be a
    /// module is taken for built in.
    pub(super) fn unpack(&self, name: &str, into: &Path) -> Result<Vec<PathBuf>> {
        let mut order = Vec::new();
        self.add(name, into, &mut order)?;
        Ok(order)
    }

    fn add(&self, name: &str, into: &Path, order: &mut Vec<PathBuf>) -> Result<()> {
        let Some(packed) = self.files.get(name) else {
            return match &self.built_in {
                Some(names) if !names.contains(name) => {
                    bail!("no module {name}, and the image does not hold it; add the package that has it")
                }
                _ => Ok(()),
            };
        };
        let packed = match &packed[..] {
            [one, other, ..] => bail!("two modules {name}: {} and {}", one.display(), other.display()),
            packed => packed.first().context("a module without a file")?,
        };
        let to = into.join(format!("{}.ko", stem(packed)));
        if to.exists() {
            return Ok(()); // met before
        }
        unpack(packed, &to)?;
        let needs = Needs::of(&to)?;
        for name in &needs.symbols {
            self.add(name, into, order)?;
        }
        for name in needs.soft.iter().filter(|name| self.files.contains_key(*name)) {
            self.add(name, into, order)?;
        }
        order.push(to);
        Ok(())
    }

    /// Is it there, in a file or in the image? None where nothing tells.
    pub(super) fn has(&self, name: &str) -> Option<bool> {
        let is_file = self.files.contains_key(name).then_some(true);
        is_file.or_else(|| self.built_in.as_ref().map(|names| names.contains(name)))
    }
}

/// `kvm-amd` of `kvm-amd.ko.xz`
fn stem(file: &Path) -> &str {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split_once(".ko").map_or(name, |(stem, _)| stem)
}

/// `kvm_amd` of `kernel/arch/x86/kvm/kvm-amd.ko.xz`
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (stem, rest) = file.split_once(".ko")?;
    ["", ".xz", ".gz", ".zst"].contains(&rest).then(|| stem.replace('-', "_"))
}

/// What a module says of others in its `.modinfo`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    /// `depends=`: it does not load without them.
    symbols: Vec<String>,
    /// `softdep=pre:`: it wants them first.
    soft: Vec<String>,
}

impl Needs {
    fn of(module: &Path) -> Result<Self> {
        let not_one = || format!("{} is no kernel module", module.display());
        let bytes = fs::read(module).with_context(|| format!("read {}", module.display()))?;
        let elf = object::File::parse(&*bytes).with_context(not_one)?;
        let section = elf.section_by_name(".modinfo").with_context(not_one)?;
        Ok(Self::read(section.data().with_context(not_one)?))
    }

    fn read(modinfo: &[u8]) -> Self {
        let mut needs = Self::default();
        for field in modinfo.split(|byte| *byte == 0).map(String::from_utf8_lossy) {
            let name = |name: &str| name.replace('-', "_");
            match field.split_once('=') {
                Some(("depends", names)) => {
                    needs.symbols.extend(names.split(',').filter(|text| !text.is_empty()).map(name));
                }
                Some(("softdep", text)) => needs.soft.extend(first(text).map(name)),
                _ => {}
            }
        }
        needs
    }
}

/// `a`, `b` of `pre: a b post: c`
fn first(softdep: &str) -> impl Iterator<Item = &str> {
    let words = softdep.split_ascii_whitespace().skip_while(|word| *word != "pre:").skip(1);
    words.take_while(|word| *word != "post:")
}

fn unpack(module: &Path, to: &Path) -> Result<()> {
    let program = match module.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => {
            return fs::copy(module, to).map(drop).with_context(|| format!("copy {}", module.display()));
        }
        Some("xz") => "xz",
        Some("gz") => "gzip",
        Some("zst") => "zstd",
        _ => bail!("{} is compressed in a way we do not know", module.display()),
    };
    if which(program).is_none() {
        bail!("{program} is missing; {} is compressed with it", module.display());
    }
    run(Command::new(program).arg("-dc").arg(module).stdout(fs::File::create(to)?))
}

#[cfg(test)]
mod tests {
    use super::{Needs, module_name};

    #[test]
    fn a_module_has_one_name_however_its_file_is_called() {
        assert_eq!(module_name("kernel/arch/x86/kvm/kvm-amd.ko.zst").as_deref(), Some("kvm_amd"));
        assert_eq!(module_name("rng-core.ko").as_deref(), Some("rng_core"));
        assert_eq!(module_name("vmlinuz"), None);
        assert_eq!([module_name("a.kobold"), module_name("kvm.ko.debug")], [None, None]);
    }

    #[test]
    fn a_module_says_what_it_needs() {
        let modinfo = b"license=GPL\0depends=kvm,rng-core\0softdep=pre: aes-x86 sha post: late\0depends=\0";
        let needs = Needs::read(modinfo);
        assert_eq!(needs.symbols, ["kvm", "rng_core"]);
        assert_eq!(needs.soft, ["aes_x86", "sha"]);
    }
}
