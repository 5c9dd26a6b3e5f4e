"""Registration, keys, and what one organisation sees of another."""

from __future__ import annotations

import re
from datetime import timedelta

from stateset_sandbox import CreateApiKeyOptions, CreateCheckpointOptions, RegistrationRequest, register

from support import World, case, equal, holds, refused


@case
def registration_gives_an_organisation_a_user_and_a_key(world: World) -> None:
    name = "Acme Corp of the Client Tests"
    first, second = world.register(name), world.register(name)
    equal("organisation", (first.organization.name, first.organization.plan), (name, "hobby"))
    equal("slug", first.organization.slug, "acme-corp-of-the-client-tests")
    holds("another of that name has another", second.organization.slug != first.organization.slug, second)
    equal("user", (first.user.email, first.user.role), ("dev@company.com", "owner"))
    equal("name of the key", first.api_key.name, "Default API Key")
    holds("form of the key", re.fullmatch(r"sk-sandbox-[\w-]+\.[\w-]+\.[\w-]+", first.api_key.key), first.api_key)
    equal("prefix", first.api_key.key_prefix, first.api_key.key[: len("sk-sandbox-") + 4])


@case
def registration_without_a_needed_field_names_it(world: World) -> None:
    for field, values in {
        "email": {"email": "", "organization_name": "Acme"},
        "organization_name": {"email": "dev@company.com", "organization_name": ""},
    }.items():
        error = refused(400, "invalid_request", lambda: register(world.base_url, RegistrationRequest(**values)))
        equal("field", error.details["field"], field)


@case
def a_key_works_with_and_without_the_organisation_id(world: World) -> None:
    account = world.register()
    bare = world.client(account.api_key.key)
    named = world.client(account.api_key.key, account.organization.id)
    with world.sandbox(named) as sandbox:
        equal("organisation", named.get(sandbox).org_id, account.organization.id)
        equal("both see it", [item.sandbox_id for item in bare.list() + named.list()], [sandbox, sandbox])


@case
def a_plain_key_nobody_has_is_refused(world: World) -> None:
    # Sent as ApiKey with an organisation's id, and in the form of a token as Bearer.
    org_id = world.register().organization.id
    refused(401, "unauthorized", world.client("sk_live_your_api_key", org_id).list)
    refused(401, "unauthorized", world.client("sk-sandbox-aaaa.bbbb.cccc").list)


@case
def keys_are_made_listed_and_revoked(world: World) -> None:
    client = world.client()
    made = client.create_api_key(CreateApiKeyOptions(name="ci", expires_in_days=7, scopes=["read"]))
    equal("name and scopes", (made.api_key.name, made.api_key.scopes), ("ci", ["read"]))
    equal("expiry", made.api_key.expires_at - made.api_key.created_at, timedelta(days=7))
    equal("listed", sorted(key.name for key in client.list_api_keys()), ["Default API Key", "ci"])
    reader = world.client(made.key)
    equal("it reads", reader.list(), [])
    refused(403, "forbidden", reader.create)
    equal("revoke", client.revoke_api_key(made.api_key.id), True)
    refused(401, "unauthorized", reader.list)
    equal("no longer listed", [key.name for key in client.list_api_keys()], ["Default API Key"])
    refused(404, "not_found", lambda: client.revoke_api_key(made.api_key.id))


@case
def an_organisation_neither_sees_nor_changes_what_is_anothers(world: World) -> None:
    owner, stranger = world.client(), world.client()
    with world.sandbox(owner) as sandbox, world.sandbox(stranger) as own:
        checkpoint = owner.create_checkpoint(sandbox, CreateCheckpointOptions(name="mine")).id
        for call in (
            lambda: stranger.get(sandbox),
            lambda: stranger.get_status(sandbox),
            lambda: stranger.execute(sandbox, "true"),
            lambda: stranger.read_file(sandbox, "/etc/passwd"),
            lambda: stranger.write_file(sandbox, "/workspace/x", ""),
            lambda: stranger.list_files(sandbox),
            lambda: stranger.extend(sandbox, 60),
            lambda: stranger.fork(sandbox),
            lambda: stranger.stop(sandbox),
            lambda: stranger.delete(sandbox),
            lambda: stranger.create_checkpoint(sandbox, CreateCheckpointOptions(name="theirs")),
            lambda: stranger.get_checkpoint(checkpoint),
            lambda: stranger.restore_checkpoint(own, checkpoint),
            lambda: stranger.restore_checkpoint(sandbox, checkpoint),
            lambda: stranger.clone_checkpoint(checkpoint, "theirs"),
            lambda: stranger.compare_checkpoints(checkpoint, checkpoint),
            lambda: stranger.delete_checkpoint(checkpoint),
            lambda: stranger.revoke_api_key(owner.list_api_keys()[0].id),
        ):
            refused(404, "not_found", call)
        equal("its lists", ([item.sandbox_id for item in stranger.list()], stranger.list_checkpoints()), ([own], []))
        equal("and all is there", (owner.get(sandbox).status.value, owner.get_checkpoint(checkpoint).name), ("running", "mine"))
