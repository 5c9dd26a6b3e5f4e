//! `bench vault`: what it tells, and that it leaves nothing behind.

use serde_json::Value;
use std::{fs, process::Command};

#[test]
fn the_vault_is_measured_beside_restic_where_that_is_and_nothing_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (within, json) = (folder.path().join("in"), folder.path().join("figures.json"));
    fs::create_dir(&within).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkpoint"));
    command.args(["bench", "vault", "--runs", "1", "--bytes", "210M", "--files", "500", "--in"]).arg(&within);
    command.args(["--only", "unchanged", "--only", "related", "--json"]).arg(&json);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("REACHED") && text.contains("stored size of ten related layers"), "{text}");
    let report: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let names: Vec<&str> = report["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["many-unchanged", "many-unchanged-bytes", "related-bytes"]);
    let bytes = &report["rows"][1];
    assert_eq!((&bytes["ours"]["p50"], &bytes["reached"]), (&0.0.into(), &true.into()), "nothing is sent: {report}");
    assert_eq!(report["rows"][2]["restic"].is_null(), report["restic"].is_null());
    assert_eq!(fs::read_dir(&within).unwrap().count(), 0);
}
