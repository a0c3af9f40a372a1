//! The fleet's page: its queries, asked of two hundred hosts by the real DuckDB.

use std::{fs, path::Path, process::Command};

use serde_json::Value;
use stealtrace_tests::{
    monitoring::{Folder, peer},
    run, stealtrace,
};

const HOSTS: usize = 200;

/// What a recording says, as the page has it said.
fn lines(recording: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings").join(recording);
    let said = run(stealtrace().args(["analyze", "--findings-only", "--utc", "--format", "json"]).arg(file));
    assert_eq!(said.code, 1, "{}", said.stderr);
    said.stdout
}

/// Every other host has an affected kernel; each has threads of its own names.
fn simulate(folder: &Folder) {
    let findings = folder.make("findings");
    let recordings = ["stock-6.1.stealtrace", "unfixed-6.1.stealtrace"].map(lines);
    for host in 0..HOSTS {
        let text = recordings[host % 2].replace("vcpu0", &format!("CPU {host}/KVM"));
        fs::write(findings.join(format!("host{host:03}.jsonl")), text).expect("written");
    }
}

/// Rows of each query of the page, in its order; the first is the view.
fn asked(folder: &Folder) -> Vec<Vec<Vec<Value>>> {
    const ASK: &str = "
import duckdb, json, sys
for query in json.load(sys.stdin):
    rows = duckdb.execute(query).fetchall()
    print(json.dumps(rows, default=str))
";
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../stealtrace/docs/FLEET.md");
    let page = fs::read_to_string(page).expect("readable");
    let queries: Vec<_> =
        page.split("```sql\n").skip(1).filter_map(|block| block.split("```").next()).collect();
    let file = folder.make("queries").join("queries.json");
    fs::write(&file, serde_json::to_string(&queries).expect("JSON")).expect("written");
    let mut ask = Command::new(peer("duckdb"));
    ask.args(["-c", ASK]).current_dir(folder.make("")).stdin(fs::File::open(file).expect("there"));
    let answered = run(&mut ask);
    assert_eq!(answered.code, 0, "{}", answered.stderr);
    answered.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn the_pages_queries_answer_what_they_are_for() {
    let folder = Folder::new("fleet");
    simulate(&folder);
    let answers = asked(&folder);
    let [_, affected, handed_over, worst, since] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(affected, &[vec![Value::from("6.1.0-56-amd64"), Value::from(HOSTS / 2)]]);
    let to = |host: usize| Value::from(format!("CPU {host}/KVM-new"));
    assert!(handed_over.iter().any(|row| row[0] == "host042" && row[4] == to(42)), "{handed_over:?}");
    assert!(handed_over.iter().all(|row| row[3] != row[4]), "from one thread to another");
    assert_eq!((worst.len(), &worst[0][4]), (20, &Value::from(-0.817_447_236)), "{worst:?}");
    let underflow = since.iter().find(|row| row[0] == "steal-underflow").expect("seen");
    assert_eq!(underflow[3], HOSTS);
    assert!(underflow[1].as_str().is_some_and(|first| first.starts_with("2026-11-22 21:23:13")), "{since:?}");
}
