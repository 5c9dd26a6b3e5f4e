//! Objects that rot in the store: a check names them, and what they hold is never served wrongly.

use crate::world::{Op, Outcome, World, same};
use anyhow::{Context, ensure};
use rand::{Rng, rngs::StdRng};
use reqwest::Method;
use serde_json::json;

impl World {
    /// Damages an object, looks whether that is noticed, and puts it back as it was. Gives the damaged key.
    pub(crate) async fn rot(&mut self, random: &mut StdRng) -> anyhow::Result<Option<String>> {
        self.all_verified().await?;
        self.shaken();
        let parts = ["/packs/", "/packs/", "/checkpoints/", "/key"];
        let part = parts[random.random_range(0..parts.len())];
        let keys: Vec<String> =
            self.store.keys()?.into_iter().filter(|key| key.starts_with("orgs/") && key.contains(part)).collect();
        if keys.is_empty() {
            return Ok(None);
        }
        let key = keys[random.random_range(0..keys.len())].clone();
        let good = self.store.read(&key)?;
        let (bad, how) = damaged(&good, random);
        self.store.replace(&key, Some(bad))?;
        let noticed = self.noticed(&key, random).await;
        self.store.replace(&key, Some(good))?;
        noticed.with_context(|| format!("{key} was {how}"))?;
        Ok(Some(format!("{key} {how}")))
    }

    async fn noticed(&mut self, key: &str, random: &mut StdRng) -> anyhow::Result<()> {
        let check = self.program.operator(&["vault", "check", "--read-data", "100"], None).await?;
        let report = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
        ensure!(!check.status.success(), "vault check saw nothing wrong: {report}");
        ensure!(report.contains(key), "vault check does not name it: {report}");
        // What is not on this machine any more comes from the vault whole, or not at all.
        let before = self.show(&self.probe.id).await?;
        let verified: Vec<_> = self.saved.iter().filter(|one| one.durability == "verified").collect();
        let chosen: Vec<(String, String)> = verified
            .iter()
            .filter(|_| random.random_range(0..2) == 0)
            .map(|one| (one.id.clone(), one.tree.shown()))
            .collect();
        let mut shown = before;
        for (id, tree) in chosen {
            let evicted = self.perform(&Op::Evict { checkpoint: id.clone() }, "", false).await?;
            let told = self.send(Method::GET, &format!("/checkpoints/{id}"), &json!({}), "").await?.ok()?;
            ensure!(evicted != Outcome::Done || told["vault"]["local"] == false, "it was evicted: {told}");
            let restore = format!("/sandbox/{}/checkpoints/restore", self.probe.id);
            let answer = self.send(Method::POST, &restore, &json!({ "checkpoint_id": id }), "").await?;
            if answer.status.is_success() {
                shown = tree;
            } else {
                ensure!(told["vault"]["local"] == false, "its layer was there: {answer:?}");
                ensure!(answer.status == 503, "refused in another way: {answer:?}");
            }
            same(&self.show(&self.probe.id).await?, &shown, &id)?;
        }
        Ok(())
    }
}

/// Another form of these bytes, and what was done to them.
fn damaged(good: &[u8], random: &mut StdRng) -> (Vec<u8>, String) {
    let mut bad = good.to_vec();
    let at = random.random_range(0..bad.len().max(1));
    if random.random_range(0..4) == 0 {
        bad.truncate(at);
        return (bad, format!("cut to {at} of {} bytes", good.len()));
    }
    let bit = random.random_range(0..8);
    if let Some(byte) = bad.get_mut(at) {
        *byte ^= 1 << bit;
    }
    (bad, format!("flipped at bit {bit} of byte {at} of {}", good.len()))
}
