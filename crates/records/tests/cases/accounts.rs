//! Organisations, users and keys.

use crate::support::samples::{api_key, at, insert, new_org, organization, running_sandbox, user};
use forkpoint_domain::{ids::OrgId, organization::ApiKey};
use forkpoint_engine::ports::records::{Change, Records, RecordsError};
use uuid::Uuid;

pub(crate) async fn organizations_read_back(records: &dyn Records) {
    let acme = organization("acme");
    records.commit(vec![Change::InsertOrganization(acme.clone()), Change::InsertUser(user(acme.id))]).await.unwrap();
    assert_eq!(records.organization(acme.id).await.unwrap(), Some(acme));
    assert_eq!(records.organization(OrgId::from_uuid(Uuid::now_v7())).await.unwrap(), None);
    records.ping().await.unwrap();
}

pub(crate) async fn a_taken_slug_is_a_conflict(records: &dyn Records) {
    records.commit(vec![Change::InsertOrganization(organization("acme"))]).await.unwrap();
    let second = organization("acme");
    let refusal = records.commit(vec![Change::InsertOrganization(second.clone())]).await.unwrap_err();
    assert!(matches!(refusal, RecordsError::Conflict(_)), "{refusal}");
    assert_eq!(records.organization(second.id).await.unwrap(), None);
}

pub(crate) async fn what_belongs_to_no_organization_is_a_conflict(records: &dyn Records) {
    let nobody = OrgId::from_uuid(Uuid::now_v7());
    let sandbox = running_sandbox(nobody, at(0));
    for change in [Change::InsertUser(user(nobody)), Change::InsertApiKey(api_key(nobody, at(0))), insert(&sandbox)] {
        let refusal = records.commit(vec![change]).await.unwrap_err();
        assert!(matches!(refusal, RecordsError::Conflict(_)), "{refusal}");
    }
    assert_eq!(records.sandbox(sandbox.id).await.unwrap(), None);
}

pub(crate) async fn keys_are_found_by_their_hash_whatever_their_condition(records: &dyn Records) {
    let org = new_org(records).await;
    let revoked = ApiKey { revoked_at: Some(at(5)), scopes: vec![], ..api_key(org, at(1)) };
    let expired = ApiKey { expires_at: Some(at(-100)), last_used_at: Some(at(-200)), ..api_key(org, at(0)) };
    for key in [&revoked, &expired] {
        records.commit(vec![Change::InsertApiKey(key.clone())]).await.unwrap();
        assert_eq!(records.api_key_by_hash(&key.hash).await.unwrap().as_ref(), Some(key));
    }
    assert_eq!(records.api_key_by_hash(&[9; 32]).await.unwrap(), None);
    let copy = ApiKey { hash: revoked.hash, ..api_key(org, at(2)) };
    assert!(matches!(records.commit(vec![Change::InsertApiKey(copy)]).await, Err(RecordsError::Conflict(_))));
}

pub(crate) async fn revoked_keys_leave_the_list_and_are_revoked_once(records: &dyn Records) {
    let org = new_org(records).await;
    let keys = [api_key(org, at(3)), api_key(org, at(1)), api_key(org, at(2))];
    records.commit(keys.iter().cloned().map(Change::InsertApiKey).collect()).await.unwrap();
    let names = |keys: &[ApiKey]| keys.iter().map(|key| key.id).collect::<Vec<_>>();
    let listed = records.api_keys(org).await.unwrap();
    assert_eq!(names(&listed), [keys[1].id, keys[2].id, keys[0].id], "oldest first");

    let revoke = Change::RevokeApiKey { org, id: keys[2].id, at: at(10) };
    records.commit(vec![revoke.clone()]).await.unwrap();
    assert_eq!(names(&records.api_keys(org).await.unwrap()), [keys[1].id, keys[0].id]);
    let found = records.api_key_by_hash(&keys[2].hash).await.unwrap().unwrap();
    assert_eq!(found.revoked_at, Some(at(10)));
    assert!(matches!(records.commit(vec![revoke]).await, Err(RecordsError::Conflict(_))));
}

pub(crate) async fn another_organizations_key_cannot_be_revoked(records: &dyn Records) {
    let (org, other) = (new_org(records).await, new_org(records).await);
    let key = api_key(org, at(0));
    records.commit(vec![Change::InsertApiKey(key.clone())]).await.unwrap();
    let refusal = records.commit(vec![Change::RevokeApiKey { org: other, id: key.id, at: at(1) }]).await.unwrap_err();
    assert!(matches!(refusal, RecordsError::Conflict(_)), "{refusal}");
    assert_eq!(records.api_key_by_hash(&key.hash).await.unwrap(), Some(key));
    assert_eq!(records.api_keys(other).await.unwrap(), []);
}

pub(crate) async fn a_keys_last_use_never_goes_back(records: &dyn Records) {
    let key = api_key(new_org(records).await, at(0));
    let touch = |seconds| Change::TouchApiKey { id: key.id, at: at(seconds) };
    records.commit(vec![touch(1)]).await.unwrap();
    records.commit(vec![Change::InsertApiKey(key.clone()), touch(5), touch(3)]).await.unwrap();
    assert_eq!(records.api_key_by_hash(&key.hash).await.unwrap().unwrap().last_used_at, Some(at(5)));
}
