//! Organisations and their users.

use crate::{row::Row, sql, statement::Statement};
use forkpoint_domain::{
    ids::OrgId,
    organization::{Organization, User},
};
use forkpoint_engine::ports::records::RecordsError;

/// Adds an organisation.
pub(crate) fn insert(organization: Organization) -> Statement {
    let Organization { id, name, slug, plan, created_at } = organization;
    Statement::new(
        sql::INSERT_ORGANIZATION,
        vec![id.uuid().into(), name.into(), slug.into(), plan.into(), created_at.into()],
    )
    .unless_taken("an organisation of this name exists already")
}

/// Adds a user.
pub(crate) fn insert_user(user: User) -> Statement {
    let User { id, org_id, email, role, first_name, last_name, created_at } = user;
    Statement::new(
        sql::INSERT_USER,
        vec![
            id.uuid().into(),
            org_id.uuid().into(),
            email.into(),
            role.into(),
            first_name.into(),
            last_name.into(),
            created_at.into(),
        ],
    )
    .unless_taken("the user exists already")
}

/// One organisation.
pub(crate) fn by_id(id: OrgId) -> Statement {
    Statement::new(sql::ORGANIZATION, vec![id.uuid().into()])
}

/// Reads an organisation back.
pub(crate) fn read(row: &Row<'_>) -> Result<Organization, RecordsError> {
    Ok(Organization {
        id: row.id("id", OrgId::from_uuid)?,
        name: row.text("name")?,
        slug: row.text("slug")?,
        plan: row.text("plan")?,
        created_at: row.time("created_at")?,
    })
}
