//! What every implementation of the Records port keeps: one suite, run on SQLite and on PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod cases {
    pub(crate) mod accounts;
    pub(crate) mod checkpoints;
    pub(crate) mod log;
    pub(crate) mod sandboxes;
    pub(crate) mod servers;
    pub(crate) mod together;
}
mod support {
    #[allow(dead_code, reason = "shared by several test programs, each uses a part")]
    pub(crate) mod postgres;
    pub(crate) mod samples;
}

use forkpoint_records::Database;
use support::postgres::PostgresServer;

/// Makes a test of each case on SQLite, and one test that runs them all on one PostgreSQL server.
macro_rules! contract {
    ($($file:ident { $($case:ident),+ $(,)? })+) => {
        mod sqlite {
            $($(
                #[tokio::test]
                async fn $case() {
                    let directory = tempfile::tempdir().unwrap();
                    let path = directory.path().join("forkpoint.db");
                    let database = crate::Database::open(path.to_str().unwrap()).await.unwrap();
                    crate::cases::$file::$case(&database).await;
                    database.close().await;
                }
            )+)+
        }

        #[tokio::test]
        async fn postgres_keeps_the_same_contract() {
            let server = PostgresServer::start();
            $($(
                // Shown only if the case fails.
                println!("case {}", stringify!($case));
                let database = Database::open(&server.new_schema(stringify!($case))).await.unwrap();
                cases::$file::$case(&database).await;
                database.close().await;
            )+)+
        }
    };
}

contract! {
    accounts {
        organizations_read_back,
        a_taken_slug_is_a_conflict,
        what_belongs_to_no_organization_is_a_conflict,
        keys_are_found_by_their_hash_whatever_their_condition,
        revoked_keys_leave_the_list_and_are_revoked_once,
        another_organizations_key_cannot_be_revoked,
        a_keys_last_use_never_goes_back,
    }
    sandboxes {
        sandboxes_read_back_with_every_field,
        a_sandbox_is_updated_only_from_the_named_state,
        an_update_cannot_move_a_sandbox_to_another_organization,
        environments_are_replaced_and_leave_with_the_sandbox,
        deleted_sandboxes_leave_every_answer_and_keep_their_id,
        sandboxes_are_listed_newest_first_with_a_stable_order,
        sandboxes_are_filtered,
        a_restarted_sandbox_does_not_count_as_stopped,
    }
    checkpoints {
        checkpoints_read_back_with_every_field,
        checkpoints_are_updated_and_deleted_once,
        durability_and_retention_are_set_by_themselves,
        checkpoints_are_filtered,
        names_are_found_in_any_case_and_script_and_literally,
        exact_names_come_first_then_the_newest,
        layers_in_use_are_those_of_what_is_not_deleted,
        deleted_checkpoints_are_remembered_until_they_are_pruned,
        a_number_no_column_holds_is_refused_and_changes_nothing,
    }
    log {
        events_are_listed_newest_first_and_limited,
        idempotency_keys_are_known_once_until_forgotten,
        pruning_forgets_what_is_older_and_nothing_else,
    }
    servers {
        what_is_on_a_server_is_changed_in_its_name_only,
        rows_that_are_nobodys_go_to_the_first_server,
        servers_tell_where_they_are_and_until_when_they_live,
        a_job_is_one_servers_until_its_lease_runs_out,
        a_result_is_recorded_only_by_who_still_has_the_job,
        of_many_who_claim_a_job_at_once_one_gets_it,
    }
    together {
        a_list_whose_last_change_conflicts_leaves_nothing,
        no_changes_are_no_transaction,
        fifty_commits_at_once_all_happen,
        a_conflict_among_many_fails_alone,
        of_two_updates_from_one_state_exactly_one_wins,
        every_statement_fits_the_schema,
    }
}
