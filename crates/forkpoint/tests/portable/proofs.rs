//! Verifying checkpoints: over a server, from the store alone, and one file with nothing but a proof.

use crate::{
    kit::{done, fails},
    support::Server,
};
use serde_json::{Value, json};

#[tokio::test]
async fn a_checkpoint_is_verified_with_and_without_a_server_and_damage_is_found() {
    let mut server = Server::start().await;
    let sandbox = server.sandbox().await;
    server.sh(&sandbox, "mkdir src; echo hello > src/a; head -c 3000000 /dev/urandom > data; ln src/a again").await;
    let id = server.checkpoint(&sandbox, json!({ "name": "it", "wait": "verified" })).await;
    let checksum = server.get(&format!("/checkpoints/{id}")).await.ok()["checksum"].as_str().unwrap().to_owned();
    let data_dir = server.data_dir();
    let (data, vault, key) =
        (data_dir.to_str().unwrap(), data_dir.join("vault"), data_dir.join("keys").join("master.key"));
    let vault = vault.to_str().unwrap().to_owned();
    let by_store = ["--vault", &vault, "--master-key", key.to_str().unwrap()];
    let folder = tempfile::tempdir().unwrap();
    let proof_file = folder.path().join("proof.json");
    let proof_path = proof_file.to_str().unwrap();

    let online: Value = serde_json::from_str(&done(&server, &["checkpoint", "verify", &id, "--json"])).unwrap();
    assert_eq!((&online["checksum"], &online["durability"]), (&json!(checksum), &json!("verified")));
    assert_eq!(online["files"], 2);
    let proof = done(&server, &["checkpoint", "verify", &id, "--file", "/workspace/src/a"]);
    assert!(fails(&server, &["checkpoint", "verify", &id, "--file", "/etc/passwd"]).contains("does not exist"));
    assert!(
        fails(&server, &["checkpoint", "verify", &id, "--checksum", &format!("b3:{}", "0".repeat(64))])
            .contains("not b3:")
    );
    let captured = server.checkpoint(&sandbox, json!({ "name": "on its way" })).await;
    let early = server.post(&format!("/checkpoints/{captured}/verify"), json!({})).await;
    if early.status != 200 {
        early.refused(409, "checkpoint_not_durable");
    }
    let other = server.register("Other").await;
    for (method, path) in
        [("POST", format!("/checkpoints/{id}/verify")), ("GET", format!("/checkpoints/{id}/proof?path=/x"))]
    {
        server.call_as(&other, method.parse().unwrap(), &path, None).await.refused(404, "not_found");
    }
    server.get(&format!("/checkpoints/{id}/proof?path=relative")).await.refused(400, "invalid_request");
    server.delete(&format!("/checkpoints/{captured}")).await.ok();

    // Nobody runs any more: the store and the key are enough, each way to name them.
    server.delete(&format!("/sandbox/{sandbox}")).await.ok();
    server.stop();
    for place in [vec!["--data-dir", data], by_store.to_vec()] {
        let said = done(&server, &[&["checkpoint", "verify", &id][..], &place].concat());
        assert!(said.starts_with(&checksum), "{said}");
        let same = done(&server, &[&["checkpoint", "verify", &id, "--file", "/workspace/src/a"][..], &place].concat());
        assert_eq!(same, proof);
        let unknown = format!("cp-{}", uuid::Uuid::new_v4());
        assert!(
            fails(&server, &[&["checkpoint", "verify", &unknown][..], &place].concat()).contains("holds no checkpoint")
        );
    }
    let nowhere = folder.path().join("nowhere");
    let no_vault =
        ["checkpoint", "verify", &id, "--vault", nowhere.to_str().unwrap(), "--master-key", key.to_str().unwrap()];
    assert!(fails(&server, &no_vault).contains("no vault"));
    assert!(!nowhere.exists());

    // One file, with neither.
    std::fs::write(&proof_file, &proof).unwrap();
    let check = ["checkpoint", "verify", "--proof", proof_path, "--checksum", &checksum];
    let proven: Value = serde_json::from_str(&done(&server, &[&check[..], &["--json"]].concat())).unwrap();
    assert_eq!((&proven["path"], &proven["size"]), (&json!("/workspace/src/a"), &json!(6)));
    let content = folder.path().join("a");
    std::fs::write(&content, "hello\n").unwrap();
    done(&server, &[&check[..], &["--content", content.to_str().unwrap()]].concat());
    std::fs::write(&content, "hellp\n").unwrap();
    assert!(
        fails(&server, &[&check[..], &["--content", content.to_str().unwrap()]].concat())
            .contains("not what was proven")
    );
    let wrong = format!("b3:{}", "1".repeat(64));
    fails(&server, &["checkpoint", "verify", "--proof", proof_path, "--checksum", &wrong]);
    let mut forged: Value = serde_json::from_str(&proof).unwrap();
    forged["steps"][0]["entry"] = json!("00");
    std::fs::write(&proof_file, forged.to_string()).unwrap();
    fails(&server, &check);
    fails(&server, &["checkpoint", "verify", "--proof", proof_path]);

    // A single changed byte is found, without a server and with one.
    let packs = std::fs::read_dir(data_dir.join("vault").join("orgs")).unwrap();
    for org in packs {
        for pack in std::fs::read_dir(org.unwrap().path().join("packs")).into_iter().flatten() {
            let path = pack.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[100] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    assert!(fails(&server, &["checkpoint", "verify", &id, "--data-dir", data]).contains("damaged"));
    server.launch().await;
    server.post(&format!("/checkpoints/{id}/verify"), json!({})).await.refused(409, "checkpoint_damaged");
}
