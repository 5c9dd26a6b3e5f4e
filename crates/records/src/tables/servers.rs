//! Servers on one database, and who of them does which job.

use crate::{row::Row, sql, statement::Statement};
use forkpoint_domain::server::{Server, ServerId};
use forkpoint_engine::ports::records::RecordsError;
use jiff::Timestamp;

/// Notes what a server says of itself.
pub(crate) fn see(server: Server) -> Statement {
    let Server { id, host, address, alive_until } = server;
    Statement::new(sql::SEE_SERVER, vec![id.to_string().into(), host.into(), address.into(), alive_until.into()])
}

/// One server.
pub(crate) fn by_id(id: ServerId) -> Statement {
    Statement::new(sql::SERVER, vec![id.to_string().into()])
}

/// Gives rows that are nobody's to a server.
pub(crate) fn adopt(server: ServerId) -> [Statement; 2] {
    [sql::ADOPT_SANDBOXES, sql::ADOPT_CHECKPOINTS].map(|sql| Statement::new(sql, vec![server.to_string().into()]))
}

/// Claims a job.
pub(crate) fn take(job: String, holder: ServerId, now: Timestamp, until: Timestamp) -> Statement {
    Statement::new(sql::TAKE_LEASE, vec![job.into(), holder.to_string().into(), now.into(), until.into()])
        .unless_missing("another server does this")
}

/// Gives a claim back.
pub(crate) fn end(job: String, holder: ServerId) -> Statement {
    Statement::new(sql::END_LEASE, vec![job.into(), holder.to_string().into()])
        .unless_missing("another server has taken this over")
}

/// Removes claims that ran out before.
pub(crate) fn prune(before: Timestamp) -> Statement {
    Statement::new(sql::PRUNE_LEASES, vec![before.into()])
}

/// Reads a server back.
pub(crate) fn read(row: &Row<'_>) -> Result<Server, RecordsError> {
    Ok(Server {
        id: row.word("id")?,
        host: row.text("host")?,
        address: row.text("address")?,
        alive_until: row.time("alive_until")?,
    })
}
