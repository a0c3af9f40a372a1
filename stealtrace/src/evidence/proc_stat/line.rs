//! Lines of /proc/stat and /proc/uptime.

use super::Cpu;

/// Does it look like a CPU's line or the total's, readable or not?
pub(super) fn is_cpu_line(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    let id = words.next().and_then(|word| word.strip_prefix("cpu"));
    let is_number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    id.is_some_and(|id| id.bytes().all(|byte| byte.is_ascii_digit()))
        && words.take(4).filter(|word| is_number(word)).count() == 4
}

/// `cpu3 332 0 235 163573105 318069 0 1 1223752959076 0 0`; None as id for the total.
pub(super) fn cpu_line(line: &str) -> Option<(Option<u32>, Cpu)> {
    let mut words = line.split_ascii_whitespace();
    let id = match words.next()?.strip_prefix("cpu")? {
        "" => None,
        id => Some(id.parse().ok()?),
    };
    let mut columns = [0_u64; 8];
    for column in &mut columns {
        *column = words.next()?.parse().ok()?;
    }
    let [user, nice, system, idle, iowait, irq, softirq, steal] = columns;
    let sum = |columns: &[u64]| columns.iter().try_fold(0_u64, |sum, ticks| sum.checked_add(*ticks));
    let busy = sum(&[user, nice, system, irq, softirq])?;
    Some((id, Cpu { steal, others: sum(&[busy, idle, iowait])?, busy }))
}

/// /proc/uptime, in ticks: seconds since the boot and seconds that CPUs idled, `350735.47 234388.90`.
pub(super) fn uptime_line(line: &str) -> Option<u64> {
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    let [uptime, idle] = words[..] else { return None };
    let seconds =
        |word: &str| word.contains('.').then(|| word.parse::<f64>().ok())?.filter(|s| s.is_finite());
    seconds(idle)?;
    Some((seconds(uptime)? * 100.0) as u64)
}
