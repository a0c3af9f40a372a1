//! May programs be put on the entries of kvm's functions, as the kernel's own calls (fentry, Linux 5.17)? Found out by
//! trying.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use super::bpf::{self, Function, On};

/// kvm's functions as the kernel numbers them.
#[derive(Debug)]
pub struct Fentry {
    /// kvm's types, where it is a module.
    module: Option<OwnedFd>,
    ids: HashMap<String, u32>,
}

/// Asks for an argument, as our programs do, and does nothing with it.
const TRIAL: [u64; 7] = [
    0x0000_0000_fff8_0a7a, // *(u64 *)(r10 - 8) = 0
    0x0000_0000_0000_02b7, // r2 = 0
    0x0000_0000_0000_a3bf, // r3 = r10
    0xffff_fff8_0000_0307, // r3 += -8
    0x0000_00b7_0000_0085, // bpf_get_func_arg(ctx, r2, r3)
    0x0000_0000_0000_00b7, // r0 = 0
    0x0000_0000_0000_0095, // return
];

impl Fentry {
    /// These functions; whoever is asked for a function's number may take long to find it.
    ///
    /// # Errors
    /// Why there is no such way here.
    pub(super) fn find(
        is_module: bool,
        functions: &[&str],
        number: impl Fn(&str) -> Option<u32>,
    ) -> Result<Self, String> {
        let module = is_module.then(|| bpf::types_of("kvm")).transpose().map_err(|error| no_types(&error))?;
        let mut ids = HashMap::new();
        for name in functions {
            let Some(id) = number(name) else { continue };
            if ids.is_empty() {
                let function = Function { module: module.as_ref().map(OwnedFd::as_fd), id };
                bpf::load(&TRIAL, On::Entry, function, &mut []).map_err(|error| refused(&error))?;
            }
            ids.insert((*name).to_owned(), id);
        }
        Ok(Self { module, ids })
    }

    /// Where this function is.
    pub(crate) fn function(&self, name: &str) -> Option<Function<'_>> {
        let id = *self.ids.get(name)?;
        Some(Function { module: self.module.as_ref().map(OwnedFd::as_fd), id })
    }
}

fn no_types(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "fentry on a module's functions takes CAP_SYS_ADMIN".to_owned(),
        io::ErrorKind::NotFound => "fentry takes types of kvm, and it carries none".to_owned(),
        _ => format!("fentry takes types of kvm, which cannot be found: {error}"),
    }
}

fn refused(error: &io::Error) -> String {
    format!("the kernel refuses programs on fentry: {error}")
}
