//! Playing scenarios in as many boots as it takes: a kernel that panics or hangs fails the one it was in, and is booted again
//! for the rest.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{row::Pass, watch::Outcome};
use crate::{ledger, process::say};

/// Exit code of `stealtrace verify` where something is not as expected.
const FOUND: u8 = 1;

/// One boot: what it printed and how it ended.
pub(super) struct Booted {
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) outcome: Outcome,
}

/// The wanted scenarios, all if none are named, in as many boots as it takes.
pub(super) fn play(
    mut wanted: Vec<String>,
    boot: &mut dyn FnMut(&[String]) -> Result<Booted>,
) -> Result<Pass> {
    let mut pass = Pass::default();
    let (mut may_retry, mut crashed) = (true, false);
    loop {
        let Booted { stdout, stderr, outcome } = boot(&wanted)?;
        let mut told = Printed::read(&stdout);
        pass.verdicts.append(&mut told.verdicts);
        pass.said += &stderr;
        let how = match outcome {
            Outcome::Exited(code) => {
                pass.summary = told.summary.filter(|_| !crashed);
                pass.code = if crashed { FOUND } else { code };
                return Ok(pass);
            }
            Outcome::Refused(why) => bail!("{why}"),
            Outcome::Hung(how) | Outcome::Died(how) => how,
        };
        if !told.planned && may_retry {
            ledger::retry(&format!("the kernel {how} before its first scenario"));
            may_retry = false;
            continue;
        }
        let mut unfinished = told.unfinished.into_iter();
        let Some(culprit) = unfinished.next() else { bail!("the kernel {how} outside of any scenario") };
        say(&format!("the kernel {how} in {culprit}; going on behind it"));
        crashed = true;
        pass.verdicts.push(json!({
            "type": "verdict", "scenario": culprit, "observed": "crash", "status": "failed",
            "why": format!("the kernel {how}"),
        }));
        wanted = unfinished.collect();
        if wanted.is_empty() {
            pass.code = FOUND;
            return Ok(pass);
        }
    }
}

/// What `stealtrace verify --format json` told before it ended, one way or another.
#[derive(Default)]
struct Printed {
    planned: bool,
    unfinished: Vec<String>,
    verdicts: Vec<Value>,
    summary: Option<Value>,
}

impl Printed {
    fn read(text: &str) -> Self {
        let mut told = Self::default();
        for object in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            match object["type"].as_str() {
                Some("plan") => {
                    let ids = object["scenarios"].as_array().into_iter().flatten();
                    told.unfinished = ids.filter_map(|id| id.as_str().map(str::to_owned)).collect();
                    told.planned = true;
                }
                Some("verdict") => {
                    told.unfinished.retain(|id| object["scenario"] != *id);
                    told.verdicts.push(object);
                }
                Some("summary") => told.summary = Some(object),
                _ => {}
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;

    use super::{Booted, Outcome, Pass, play};

    const PLAN: &str = r#"{"type":"plan","scenarios":["a","b","c"]}"#;

    fn verdict(id: &str) -> String {
        format!("\n{{\"type\":\"verdict\",\"scenario\":\"{id}\",\"status\":\"passed\"}}")
    }

    fn booted(stdout: String, outcome: Outcome) -> Result<Booted> {
        Ok(Booted { stdout, stderr: String::new(), outcome })
    }

    fn told(pass: &Pass) -> Vec<(&str, &str)> {
        let text = |value: &'_ serde_json::Value| -> &'static str {
            match value.as_str() {
                Some("passed") => "passed",
                Some("failed") => "failed",
                _ => "?",
            }
        };
        pass.verdicts.iter().map(|v| (v["scenario"].as_str().unwrap_or("?"), text(&v["status"]))).collect()
    }

    #[test]
    fn a_panic_fails_its_scenario_and_the_rest_still_runs() {
        let mut asked = Vec::new();
        let pass = play(Vec::new(), &mut |wanted| {
            asked.push(wanted.to_vec());
            match asked.len() {
                1 => booted(PLAN.to_owned() + &verdict("a"), Outcome::Died("panicked".to_owned())),
                _ => booted(
                    r#"{"type":"plan","scenarios":["c"]}"#.to_owned() + &verdict("c"),
                    Outcome::Exited(0),
                ),
            }
        })
        .unwrap();
        assert_eq!(told(&pass), [("a", "passed"), ("b", "failed"), ("c", "passed")]);
        assert_eq!(asked, [vec![], vec!["c".to_owned()]]);
        assert_eq!((pass.code, pass.class()), (1, None));
    }

    #[test]
    fn a_panic_in_the_last_scenario_ends_it() {
        let pass = play(Vec::new(), &mut |_| {
            booted(PLAN.to_owned() + &verdict("a") + &verdict("b"), Outcome::Hung("hung".to_owned()))
        })
        .unwrap();
        assert_eq!(told(&pass), [("a", "passed"), ("b", "passed"), ("c", "failed")]);
    }

    #[test]
    fn a_kernel_that_does_not_boot_is_tried_once_more_and_then_the_labs_failure() {
        let mut boots = 0;
        let played = play(Vec::new(), &mut |_| {
            boots += 1;
            booted(String::new(), Outcome::Hung("did not boot".to_owned()))
        });
        assert_eq!(boots, 2);
        assert!(played.is_err());
    }

    #[test]
    fn what_could_not_run_keeps_its_exit_code() {
        let pass = play(Vec::new(), &mut |_| booted(String::new(), Outcome::Exited(2))).unwrap();
        assert_eq!((pass.code, pass.verdicts.len()), (2, 0));
    }
}
