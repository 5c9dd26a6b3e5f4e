//! Registration, API keys, and who a credential proves to be.

use crate::{
    Caller, Error, Platform, Result,
    platform::new_uuid,
    ports::records::{Change, RecordsError},
};
use forkpoint_domain::{
    Invalid,
    ids::{ApiKeyId, OrgId, UserId},
    organization::{
        ApiKey, KEY_RANDOM_BYTES, KeyScope, Organization, User, check_display_name, check_email, check_scopes,
        key_text, slug,
    },
};
use jiff::SignedDuration;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Who registers.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Name of the new organisation.
    pub organization_name: String,
    /// E-mail address of its owner.
    pub email: String,
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
}

/// What a registration made.
#[derive(Debug)]
pub struct Registered {
    /// The organisation.
    pub organization: Organization,
    /// Its owner.
    pub user: User,
    /// Its first key.
    pub key: NewKey,
}

/// A new key and its text, which is shown this once.
pub struct NewKey {
    /// The key as recorded.
    pub key: ApiKey,
    /// Its text.
    pub text: Zeroizing<String>,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey").field("id", &self.key.id).finish_non_exhaustive()
    }
}

impl Platform {
    /// Makes an organisation, its owner and a first key.
    pub async fn register(&self, registration: Registration) -> Result<Registered> {
        check_email(&registration.email)?;
        check_display_name("organization_name", &registration.organization_name)?;
        for (field, name) in [("first_name", &registration.first_name), ("last_name", &registration.last_name)] {
            if let Some(name) = name.as_deref().filter(|name| !name.is_empty()) {
                check_display_name(field, name)?;
            }
        }
        let now = self.inner.clock.now();
        let plain = slug(&registration.organization_name);
        let mut organization = Organization {
            id: OrgId::from_uuid(new_uuid()),
            name: registration.organization_name.trim().to_owned(),
            slug: plain.clone(),
            plan: "hobby".into(),
            created_at: now,
        };
        let user = User {
            id: UserId::from_uuid(new_uuid()),
            org_id: organization.id,
            email: registration.email,
            role: "owner".into(),
            first_name: registration.first_name,
            last_name: registration.last_name,
            created_at: now,
        };
        let key = mint(organization.id, "Default API Key".into(), Vec::new(), now, None);
        for attempt in 0..8 {
            if attempt > 0 {
                let tail = organization.id.uuid().simple().to_string();
                organization.slug = format!("{plain}-{}", &tail[tail.len() - 4 - attempt..]);
            }
            let changes = vec![
                Change::InsertOrganization(organization.clone()),
                Change::InsertUser(user.clone()),
                Change::InsertApiKey(key.key.clone()),
            ];
            match self.inner.records.commit(changes).await {
                Ok(()) => return Ok(Registered { organization, user, key }),
                Err(RecordsError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::conflict("organization_exists", "no free short name was found for this organisation; try again"))
    }

    /// Who presents this key text. Any text is looked up whole; its prefix proves nothing.
    pub async fn authenticate(&self, presented: &str) -> Result<Caller> {
        const REFUSED: Error = Error::Unauthenticated("the API key is unknown, revoked or expired");
        if presented.is_empty() || presented.len() > 512 {
            return Err(REFUSED);
        }
        let hash: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        let now = self.inner.clock.now();
        let key = match self.inner.keys.get(&hash, now) {
            Some(key) => key,
            None => {
                let key = self.inner.records.api_key_by_hash(&hash).await?.ok_or(REFUSED)?;
                self.inner.keys.put(key.clone(), now);
                key
            }
        };
        if !key.is_valid(now) {
            return Err(REFUSED);
        }
        if self.inner.keys.should_touch(&hash, now) {
            let (records, id) = (self.inner.records.clone(), key.id);
            self.behind(async move {
                if let Err(error) = records.commit(vec![Change::TouchApiKey { id, at: now }]).await {
                    tracing::warn!(%error, "could not note the use of a key");
                }
            });
        }
        Ok(Caller { org_id: key.org_id, key_id: key.id, scopes: key.scopes })
    }

    /// Makes another key for the caller's organisation. It can do no more than the caller's own.
    pub async fn create_api_key(
        &self,
        caller: &Caller,
        name: String,
        scopes: Vec<String>,
        expires_in_days: Option<i64>,
    ) -> Result<NewKey> {
        caller.require(KeyScope::Admin)?;
        check_display_name("name", &name)?;
        check_scopes(&scopes)?;
        if let Some(days) = expires_in_days
            && !(1..=3650).contains(&days)
        {
            return Err(Invalid::new("expires_in_days", "must be between 1 and 3650").into());
        }
        let wider = |scope: &String| !caller.scopes.contains(scope) && !caller.scopes.iter().any(|held| held == "*");
        if !caller.scopes.is_empty() && (scopes.is_empty() || scopes.iter().any(wider)) {
            return Err(Error::Forbidden("*"));
        }
        let now = self.inner.clock.now();
        let expires_at = expires_in_days.map(|days| now + SignedDuration::from_hours(24 * days));
        let key = mint(caller.org_id, name, scopes, now, expires_at);
        self.inner.records.commit(vec![Change::InsertApiKey(key.key.clone())]).await?;
        Ok(key)
    }

    /// The organisation's keys that are not revoked.
    pub async fn api_keys(&self, caller: &Caller) -> Result<Vec<ApiKey>> {
        caller.require(KeyScope::Admin)?;
        Ok(self.inner.records.api_keys(caller.org_id).await?)
    }

    /// Revokes a key; the next call with it is refused.
    pub async fn revoke_api_key(&self, caller: &Caller, id: ApiKeyId) -> Result<()> {
        caller.require(KeyScope::Admin)?;
        let at = self.inner.clock.now();
        let outcome = self.inner.records.commit(vec![Change::RevokeApiKey { org: caller.org_id, id, at }]).await;
        self.inner.keys.forget(id);
        match outcome {
            Err(RecordsError::Conflict(_)) => Err(Error::not_found("API key", id)),
            other => Ok(other?),
        }
    }
}

pub(crate) fn mint(
    org_id: OrgId,
    name: String,
    scopes: Vec<String>,
    now: jiff::Timestamp,
    expires_at: Option<jiff::Timestamp>,
) -> NewKey {
    let mut random = Zeroizing::new([0_u8; KEY_RANDOM_BYTES]);
    for chunk in random.chunks_mut(16) {
        // 122 of each 128 bits are random; the reading of a letter from a byte uses under 6 of 8.
        chunk.copy_from_slice(&uuid::Uuid::new_v4().into_bytes()[..chunk.len()]);
    }
    let (text, prefix) = key_text(&random);
    let text = Zeroizing::new(text);
    let key = ApiKey {
        id: ApiKeyId::from_uuid(new_uuid()),
        org_id,
        name,
        prefix,
        hash: Sha256::digest(text.as_bytes()).into(),
        scopes,
        created_at: now,
        last_used_at: None,
        expires_at,
        revoked_at: None,
    };
    NewKey { key, text }
}
