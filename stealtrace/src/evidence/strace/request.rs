//! An ioctl's request, as strace prints it: a name, several names that share a number, `-X raw` and `-X verbose`, or
//! `_IOC(...)` where strace knows no name.

use memchr::memchr;

use crate::ioctl;

/// Which ioctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// This one.
    Exactly(u32),
    /// This one, or one of another descriptor that has the same number or nearly so.
    OneOf(u32),
    /// One that vCPUs do not have.
    OfOthers,
    /// KVM's, but by a name that we do not know.
    NotKnown,
}

/// What descriptors of VMs, of devices or of /dev/kvm take as well.
const SHARED: [u32; 10] = [
    0xc008_ae88, // KVM_GET_MSRS
    0xaea2,      // KVM_SET_TSC_KHZ
    0xaea3,      // KVM_GET_TSC_KHZ
    0x4068_aea3, // KVM_ENABLE_CAP
    0xc008_aeba, // KVM_MEMORY_ENCRYPT_OP
    0xc008_aec1, // KVM_GET_SUPPORTED_HV_CPUID
    0xaece,      // KVM_GET_STATS_FD
    0x4018_aee1, // KVM_SET_DEVICE_ATTR
    0x4018_aee2, // KVM_GET_DEVICE_ATTR
    0x4018_aee3, // KVM_HAS_DEVICE_ATTR
];

impl Request {
    /// The request that a text begins with, and the argument behind it.
    pub(super) fn parse(text: &str) -> Option<(Self, &str)> {
        let after = if text.starts_with("_IOC(") { memchr(b')', text.as_bytes())? } else { 0 };
        let end = memchr(b',', &text.as_bytes()[after..]).map_or(text.len(), |at| after + at);
        let argument = text[end..].strip_prefix(',').unwrap_or_default().trim_ascii_start();
        Some((Self::of(text[..end].trim_ascii())?, argument))
    }

    fn of(text: &str) -> Option<Self> {
        if let Some(number) = ioctl::number(text) {
            return Some(Self::Exactly(number));
        }
        if let Some(hex) = text.strip_prefix("0x") {
            let digits = hex.split(' ').next()?; // `0xae80 /* KVM_RUN */`
            return u32::from_str_radix(digits, 16).ok().map(Self::Exactly);
        }
        if let Some(parts) = text.strip_prefix("_IOC(") {
            return encoded(parts.strip_suffix(')')?).map(Self::Exactly);
        }
        let known = text.split(" or ").find_map(ioctl::number);
        Some(match known {
            Some(number) => Self::OneOf(number),
            None if text.starts_with("KVM_") => Self::NotKnown,
            None => Self::OfOthers,
        })
    }

    /// Its number, if that is known.
    pub(super) const fn number(self) -> Option<u32> {
        match self {
            Self::Exactly(number) | Self::OneOf(number) => Some(number),
            Self::OfOthers | Self::NotKnown => None,
        }
    }

    /// Would no other descriptor take it?
    pub(super) fn is_only_a_vcpus(self) -> bool {
        match self {
            Self::Exactly(number) => ioctl::is_known(number) && !SHARED.contains(&number),
            Self::OneOf(_) | Self::OfOthers | Self::NotKnown => false,
        }
    }
}

/// `_IOC_READ|_IOC_WRITE, 0xae, 0x88, 0x8`, as x86 encodes it.
fn encoded(parts: &str) -> Option<u32> {
    let mut parts = parts.split(',').map(str::trim_ascii);
    let directions = parts.next()?.split('|').map(direction).sum::<Option<u32>>()?;
    let mut number = || u32::from_str_radix(parts.next()?.trim_start_matches("0x"), 16).ok();
    let (kind, nr, size) = (number()?, number()?, number()?);
    (kind <= 0xff && nr <= 0xff && size < 1 << 14).then_some(directions << 30 | size << 16 | kind << 8 | nr)
}

fn direction(word: &str) -> Option<u32> {
    match word.trim_ascii() {
        "_IOC_NONE" | "0" => Some(0),
        "_IOC_WRITE" | "0x1" => Some(1),
        "_IOC_READ" | "0x2" => Some(2),
        "0x3" => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Request;

    #[test]
    fn every_way_to_print_a_request_is_read() {
        for (text, request, argument) in [
            ("KVM_RUN, 0", Request::Exactly(0xae80), "0"),
            ("KVM_RUN", Request::Exactly(0xae80), ""),
            ("0xae80, 0", Request::Exactly(0xae80), "0"),
            ("0x4090ae82 /* KVM_SET_REGS */, {rax=0}", Request::Exactly(0x4090_ae82), "{rax=0}"),
            ("_IOC(_IOC_READ|_IOC_WRITE, 0xae, 0x88, 0x8), 0x7f", Request::Exactly(0xc008_ae88), "0x7f"),
            ("_IOC(_IOC_NONE, 0xae, 0x80, 0), 0", Request::Exactly(0xae80), "0"),
            ("KVM_SET_XSAVE or KVM_SIGNAL_MSI, 0x1", Request::OneOf(0x5000_aea5), "0x1"),
            ("KVM_CREATE_VM, 0", Request::NotKnown, "0"),
            ("TCGETS, {B38400}", Request::OfOthers, "{B38400}"),
        ] {
            assert_eq!(Request::parse(text), Some((request, argument)), "{text}");
        }
        for damaged in ["0xzz, 0", "_IOC(_IOC_READ, 0xae", "_IOC(_IOC_READ, 0xae, 0x1ff, 0x8), 0"] {
            assert_eq!(Request::parse(damaged), None, "{damaged}");
        }
    }
}
