//! One line of strace's, taken apart.

use memchr::{memchr, memrchr};

use super::request::Request;

/// A line apart: who, when, what.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) tid: u32,
    pub(super) time_ns: u64,
    pub(super) call: &'a str,
}

/// `ioctl(20<anon_inode:kvm-vcpu:0>, KVM_RUN, 0) = 0`
pub(super) struct Ioctl<'a> {
    pub(super) fd: u32,
    pub(super) shown: Option<&'a str>,
    pub(super) request: Request,
    pub(super) argument: &'a str,
    /// None as long as it is not known.
    pub(super) result: Option<&'a str>,
}

/// How calls begin.
pub(super) const IOCTL: &str = "ioctl(";

impl<'a> Ioctl<'a> {
    pub(super) fn parse(call: &'a str) -> Option<Self> {
        let inside = call.strip_prefix(IOCTL)?;
        let (inside, result) = match unfinished(inside) {
            Some(inside) => (inside, None),
            None => {
                let (inside, result) = parted(inside, memrchr(b'=', inside.as_bytes()))?;
                (inside.trim_ascii_end().strip_suffix(')')?, Some(result.trim_ascii_start()))
            }
        };
        let (fd, rest) = at_first(inside, b',')?;
        let (fd, shown) = match at_first(fd, b'<') {
            Some((fd, shown)) => (fd, Some(shown.strip_suffix('>')?)),
            None => (fd, None),
        };
        let (request, argument) = Request::parse(rest.trim_ascii_start())?;
        let fd = fd.strip_prefix("0x").map_or_else(|| fd.parse(), |hex| u32::from_str_radix(hex, 16)).ok()?;
        Some(Self { fd, shown, request, argument, result })
    }

    /// Would no other descriptor take it? A refusal shows that this is another.
    pub(super) fn is_only_a_vcpus(&self) -> bool {
        self.request.is_only_a_vcpus()
            && !self.result.is_some_and(|result| REFUSALS.iter().any(|refusal| result.starts_with(refusal)))
    }
}

/// By what is no vCPU's descriptor.
const REFUSALS: [&str; 2] = ["-1 ENOTTY", "-1 EBADF"];

/// The first half of a call that was not over yet when the next line was written, or when strace let go.
fn unfinished(call: &str) -> Option<&str> {
    let call = call.strip_suffix('>')?;
    let half = call.strip_suffix("<unfinished ...").or_else(|| call.strip_suffix("<detached ..."))?;
    Some(half.trim_ascii_end())
}

/// Any system call, signal or end that strace tells, and what it says between: nothing we need, but nothing strange.
pub(super) fn is_known(call: &str) -> bool {
    const OTHERS: [&str; 7] = ["+++ ", "--- ", "<... ", "strace: ", "Process ", "[ Process ", "> "];
    let word = call.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(call.len());
    (word > 0 && call[word..].starts_with('('))
        || OTHERS.iter().any(|other| call.starts_with(other))
        || is_vcpu_dump(call)
}

/// `VCPU:0> {request_interrupt_window=0, ...}`, from `-e kvm=vcpu+`.
fn is_vcpu_dump(call: &str) -> bool {
    call.strip_prefix("VCPU").is_some_and(|rest| {
        rest.trim_start_matches(|c: char| c == ':' || c.is_ascii_digit()).starts_with(['<', '>', '+'])
    })
}

/// What stands before and behind the first of an ASCII character; `str::split_once` takes twice as long for that.
fn at_first(text: &str, ascii: u8) -> Option<(&str, &str)> {
    parted(text, memchr(ascii, text.as_bytes()))
}

/// What stands before and behind an ASCII character.
pub(super) fn parted(text: &str, at: Option<usize>) -> Option<(&str, &str)> {
    let at = at?;
    Some((&text[..at], &text[at + 1..]))
}

/// `[pid 1859] `, `1859 `, and a time stand before the call, each or none.
pub(super) fn split(line: &str) -> Parts<'_> {
    let mut rest = line.trim(); // logs pasted into a web page begin with other spaces
    let mut tid = 0;
    if let Some((pid, after)) = rest.strip_prefix("[pid").and_then(|rest| at_first(rest, b']')) {
        if let Ok(pid) = pid.trim_ascii().parse() {
            (tid, rest) = (pid, after.trim_ascii_start());
        }
    } else if let Some((pid, after)) = at_first(rest, b' ')
        && let Ok(pid) = pid.parse()
    {
        (tid, rest) = (pid, after.trim_ascii_start());
    }
    let time_ns = match at_first(rest, b' ') {
        Some((word, after)) => match time(word) {
            Some(time_ns) => {
                rest = after.trim_ascii_start();
                time_ns
            }
            None => 0,
        },
        None => 0,
    };
    Parts { tid, time_ns, call: rest }
}

/// `12:34:56`, `12:34:56.789012` or `1431642967.123456`, in ns.
pub(super) fn time(word: &str) -> Option<u64> {
    if !word.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (whole, fraction) = at_first(word, b'.').unwrap_or((word, ""));
    let seconds = match at_first(whole, b':') {
        None if fraction.is_empty() => return None, // a bare number is no time
        None => whole.parse::<u64>().ok()?,
        Some((hours, rest)) => {
            let (minutes, seconds) = at_first(rest, b':')?;
            let minutes = hours.parse::<u64>().ok()?.checked_mul(60)?.checked_add(minutes.parse().ok()?)?;
            minutes.checked_mul(60)?.checked_add(seconds.parse().ok()?)?
        }
    };
    seconds.checked_mul(1_000_000_000)?.checked_add(fraction_ns(fraction)?)
}

fn fraction_ns(digits: &str) -> Option<u64> {
    if digits.is_empty() {
        return Some(0);
    }
    let power = 9_u32.checked_sub(u32::try_from(digits.len()).ok()?)?;
    digits.parse::<u64>().ok()?.checked_mul(10_u64.pow(power))
}

/// The decimal or 0x number that a text begins with.
pub(super) fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    u32::from_str_radix(&digits[..end], radix).ok()
}
