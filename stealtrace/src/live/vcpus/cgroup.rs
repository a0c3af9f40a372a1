//! How often a quota of CPU time made a VM wait: to its guest that is steal, and no neighbour took it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::names::Groups;
use crate::model::Throttled;

/// Where control groups are mounted, usually.
const ROOT: &str = "/sys/fs/cgroup";

/// The groups that hold a thread, and those that hold these.
pub(super) fn groups(tid: u32) -> Groups {
    let text = fs::read_to_string(format!("/proc/{tid}/cgroup")).unwrap_or_default();
    groups_in(&text).into()
}

/// By the quotas of these groups; None where there are none.
pub(super) fn throttled(groups: &BTreeSet<PathBuf>) -> Option<Throttled> {
    let stats = groups.iter().filter_map(|group| fs::read_to_string(group.join("cpu.stat")).ok());
    stats.filter_map(|stat| throttled_in(&stat)).reduce(Throttled::and)
}

/// `0::/machine.slice/web1.scope`, or before version 2 `4:cpu,cpuacct:/machine/web1`; each with all that hold it.
fn groups_in(text: &str) -> Vec<PathBuf> {
    let group = text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, group) = rest.split_once(':')?;
        let root = match controllers {
            "" => Path::new(ROOT).to_owned(),
            _ if controllers.split(',').any(|name| name == "cpu") => Path::new(ROOT).join(controllers),
            _ => return None,
        };
        Some((root, group.trim_start_matches('/').to_owned()))
    });
    let Some((root, group)) = group else { return Vec::new() };
    let holders = Path::new(&group).ancestors().filter(|path| !path.as_os_str().is_empty());
    holders.map(|path| root.join(path)).collect()
}

/// `throttled_usec` of version 2, `throttled_time` in ns before.
fn throttled_in(stat: &str) -> Option<Throttled> {
    let number = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse::<u64>().ok()
    };
    let time_ns = number("throttled_usec").map(|us| us.saturating_mul(1000));
    Some(Throttled { times: number("nr_throttled")?, time_ns: time_ns.or_else(|| number("throttled_time"))? })
}

#[cfg(test)]
mod tests {
    use super::{Throttled, groups_in, throttled_in};

    fn names(text: &str) -> Vec<String> {
        groups_in(text).into_iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn a_group_and_those_that_hold_it() {
        let expected = ["/sys/fs/cgroup/machine.slice/web1.scope", "/sys/fs/cgroup/machine.slice"];
        assert_eq!(names("0::/machine.slice/web1.scope\n"), expected);
        let expected = ["/sys/fs/cgroup/cpu,cpuacct/machine"];
        assert_eq!(names("9:memory:/x\n4:cpu,cpuacct:/machine\n1:name=systemd:/y\n"), expected);
        assert!(names("0::/\n").is_empty(), "the root has no quota");
        assert!(names("nonsense").is_empty());
    }

    #[test]
    fn both_versions_are_read() {
        let expected = Some(Throttled { times: 3, time_ns: 5000 });
        assert_eq!(throttled_in("usage_usec 9\nnr_throttled 3\nthrottled_usec 5\n"), expected);
        assert_eq!(throttled_in("nr_periods 9\nnr_throttled 3\nthrottled_time 5000\n"), expected);
        assert_eq!(throttled_in("usage_usec 9\n"), None);
    }
}
