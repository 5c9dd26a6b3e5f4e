//! After each cycle: what was answered ready is there and right, and nothing else is.

use crate::{
    program::Program,
    world::{Op, Outcome, World, same},
};
use anyhow::{Context, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// How long what runs behind the answers may take.
const SETTLED: Duration = Duration::from_secs(30);

/// How far checkpoints may come: a later word goes back to an earlier one only for damage, and says so.
const WAY: [&str; 3] = ["captured", "durable", "verified"];

impl World {
    /// Removes what was made aside, then looks at everything.
    pub(crate) async fn check(&mut self) -> anyhow::Result<()> {
        for path in std::mem::take(&mut self.litter) {
            let answer = self.send(Method::DELETE, &path, &json!({}), "").await?;
            ensure!(answer.status.is_success() || answer.status == 404, "delete {path}: {answer:?}");
        }
        self.check_checkpoints().await?;
        self.check_sandboxes().await
    }

    async fn check_checkpoints(&mut self) -> anyhow::Result<()> {
        let listed = self.send(Method::GET, "/checkpoints?limit=1000", &Value::Null, "").await?.ok()?;
        let listed = listed["checkpoints"].as_array().cloned().unwrap_or_default();
        let ids: BTreeSet<String> = listed.iter().filter_map(|one| one["id"].as_str()).map(str::to_owned).collect();
        let expected: BTreeSet<String> = self.saved.iter().map(|one| one.id.clone()).collect();
        ensure!(ids == expected, "checkpoints are {ids:?}, but these were answered ready: {expected:?}");
        for row in &listed {
            self.check_row(row)?;
        }
        let all: Vec<(String, String)> = self.saved.iter().map(|one| (one.id.clone(), one.tree.shown())).collect();
        for (id, tree) in all {
            let restore = format!("/sandbox/{}/checkpoints/restore", self.probe.id);
            let answer = self.send(Method::POST, &restore, &json!({ "checkpoint_id": id }), "").await?;
            answer.ok().with_context(|| format!("restore of ready checkpoint {id}"))?;
            same(&self.show(&self.probe.id).await?, &tree, &id)?;
        }
        Ok(())
    }

    /// A row never goes back unless the store gave wrong bytes, and its checksum stays what it was.
    fn check_row(&mut self, row: &Value) -> anyhow::Result<()> {
        let one = self.saved.iter_mut().find(|one| row["id"] == one.id.as_str()).context("no such checkpoint")?;
        ensure!(row["status"] == "ready", "it was answered ready: {row}");
        let (durability, checksum) =
            (row["durability"].as_str().unwrap_or_default(), row["checksum"].as_str().unwrap_or_default());
        let place = |word: &str| WAY.iter().position(|one| *one == word);
        match (place(&one.durability), place(durability)) {
            (before, Some(now)) if before > Some(now) => {
                // Once it is stored again there is nothing to explain.
                let reason = row["durability_reason"].as_str();
                let says_why = durability != "captured" || reason.is_some_and(|reason| reason.contains("damaged"));
                ensure!(one.may_fail && says_why, "it was {} before: {row}", one.durability);
            }
            (_, Some(_)) => {}
            _ if durability == "failed" => ensure!(one.may_fail, "it failed although the store was well: {row}"),
            _ => bail!("durability of {row}"),
        }
        ensure!(one.checksum.is_empty() || one.checksum == checksum, "its checksum was {}: {row}", one.checksum);
        (one.durability, one.checksum) = (durability.to_owned(), checksum.to_owned());
        Ok(())
    }

    async fn check_sandboxes(&self) -> anyhow::Result<()> {
        let listed = self.send(Method::GET, "/sandboxes", &Value::Null, "").await?.ok()?;
        let found: BTreeSet<(String, bool)> = listed["sandboxes"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| (one["id"].as_str().unwrap_or_default().to_owned(), one["state"] == "running"))
            .collect();
        let known = self.sandboxes.iter().chain([&self.probe]);
        let expected: BTreeSet<(String, bool)> = known.map(|one| (one.id.clone(), one.runs)).collect();
        ensure!(found == expected, "sandboxes (and whether they run) are {found:?}, not {expected:?}");
        for one in self.sandboxes.iter().filter(|one| one.runs) {
            same(&self.show(&one.id).await?, &one.tree.shown(), &one.id)?;
        }
        Ok(())
    }

    /// Waits until every checkpoint is verified, or has failed for a reason that is known.
    pub(crate) async fn all_verified(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + SETTLED;
        loop {
            let listed = self.send(Method::GET, "/checkpoints?limit=1000", &Value::Null, "").await?.ok()?;
            for row in listed["checkpoints"].as_array().into_iter().flatten() {
                self.check_row(row)?;
            }
            let waiting = |one: &&crate::world::Saved| !["verified", "failed"].contains(&&*one.durability);
            let Some(one) = self.saved.iter().find(waiting) else { return Ok(()) };
            ensure!(Instant::now() < deadline, "{} is still {}", one.id, one.durability);
            // Whoever waits for it gets it sooner.
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// At the end: deletes all there is, collects, and finds nothing left of it in the store or on the host.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.program.kill()?;
        self.program.launch().await?;
        self.all_verified().await?;
        self.check().await?;
        sound(&self.program).await?;
        for id in self.saved.iter().map(|one| one.id.clone()).collect::<Vec<_>>() {
            let done = self.perform(&Op::DeleteCheckpoint { checkpoint: id }, "", false).await?;
            ensure!(done == Outcome::Done, "a checkpoint could not be deleted");
        }
        for one in self.sandboxes.iter().chain([&self.probe]) {
            self.send(Method::DELETE, &format!("/sandbox/{}", one.id), &json!({}), "").await?.ok()?;
        }
        let deadline = Instant::now() + SETTLED;
        loop {
            let gc = self.program.operator(&["vault", "gc"], None).await?;
            ensure!(gc.status.success(), "vault gc: {}", String::from_utf8_lossy(&gc.stderr));
            // What was found damaged is put aside for people to look at.
            let needed = |key: &String| {
                key == "format" || key.starts_with("quarantine/") || key.starts_with("orgs/") && key.ends_with("/key")
            };
            let left: Vec<String> = self.store.keys()?.into_iter().filter(|key| !needed(key)).collect();
            let doctor = self.program.doctor(&[]).await?;
            let held = |what: &str| doctor["owned"][what].as_u64().unwrap_or(u64::MAX);
            let clean = doctor["orphans"] == json!([]) && held("layers") == 0 && held("cgroups") == 0;
            if left.is_empty() && clean {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "everything is deleted and collected, but in the store are {left:?}, and doctor says {doctor}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        sound(&self.program).await?;
        self.program.kill()?;
        let purged = self.program.doctor(&["--purge"]).await?;
        let owned = purged["owned"].as_object().context("doctor counts what it owns")?;
        ensure!(owned.values().all(|count| count == 0), "left behind after the purge: {purged}");
        Ok(())
    }
}

/// `forkpoint vault check --read-data 100` finds nothing.
async fn sound(program: &Program) -> anyhow::Result<()> {
    let check = program.operator(&["vault", "check", "--read-data", "100"], None).await?;
    let text = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
    ensure!(check.status.success(), "vault check: {text}");
    Ok(())
}
