#!/usr/bin/env bash
# The checkpoint guide's and the production guide's own curl lines against a running server, each answer checked.
#
#   tests/clients/curl.sh http://127.0.0.1:PORT
#
# Only the origin, the key and the ids of objects are put in the place of the guides' own. Prints `ok NAME` or
# `FAILED NAME` for each check and exits with 1 if one failed.
#
# The lines stand as the guides show them, unquoted words included; what is quoted once expands in the sandbox.
# shellcheck disable=SC2086,SC2016
set -uo pipefail
ORIGIN=${1:?usage: tests/clients/curl.sh http://127.0.0.1:PORT}
here=$(dirname "$0")
failed=0

passed() { echo "ok $1"; }
failed() {
    failed=1
    echo "FAILED $1"
    printf '    %s\n' "${@:2}"
}
# check NAME ANSWER JQ-CONDITION: passes if the answer meets the condition.
check() {
    if jq --exit-status "$3" <<<"$2" >/dev/null 2>&1; then
        passed "$1"
    else
        failed "$1" "wanted: $3" "answer: ${2:0:2000}"
    fi
}
# same NAME GOT WANTED
same() { if [ "$2" = "$3" ]; then passed "$1"; else failed "$1" "wanted: $3" "got: ${2:0:2000}"; fi; }
# Runs a shell command in a sandbox; gives its standard output.
in_sandbox() {
    jq -n --arg command "$2" '{command: $command}' |
        curl -s "$ORIGIN/api/v1/sandbox/$1/execute" -H "Authorization: ApiKey $API_KEY" -H 'Content-Type: application/json' -d @- |
        jq -r .stdout
}
put_files() {
    in_sandbox "$1" 'mkdir -p src config data node_modules/x .cache && echo app > src/app.py && echo config > config/c.json && echo data > data/d && echo m > node_modules/x/m && echo c > .cache/c' >/dev/null
}

# --- registration (production guide)
REGISTERED=$(curl -s -X POST $ORIGIN/api/v1/register \
    -H "Content-Type: application/json" \
    -d '{
"first_name": "Ada",
"last_name": "Lovelace",
"email": "dev@company.com",
"organization_name": "Acme Corp",
"use_case": "CI automation"
}')
check 'register: organisation, user and key' "$REGISTERED" '
    (.organization | (.id | startswith("org_")) and .name == "Acme Corp" and (.slug | startswith("acme-corp")) and .plan == "hobby")
    and (.user | (.id | startswith("user_")) and .email == "dev@company.com" and .role == "owner")
    and (.api_key | (.key | test("^sk-sandbox-[A-Za-z0-9._-]{20,}$")) and .name == "Default API Key")
    and (.api_key.key_prefix == .api_key.key[0:15])'
API_KEY=$(jq -r .api_key.key <<<"$REGISTERED")
ORG_ID=$(jq -r .organization.id <<<"$REGISTERED")

# --- authentication (production guide): every form of sending the key
for header in "Authorization: ApiKey $API_KEY" "Authorization: Bearer $API_KEY" "x-api-key: $API_KEY"; do
    check "authentication: ${header%%"$API_KEY"}" "$(curl -s $ORIGIN/api/v1/sandboxes -H "$header")" '.sandboxes == []'
done
same 'authentication: none is 401' "$(curl -s -o /dev/null -w '%{http_code}' $ORIGIN/api/v1/sandboxes)" 401
same 'authentication: another is 401' \
    "$(curl -s -o /dev/null -w '%{http_code}' $ORIGIN/api/v1/sandboxes -H 'Authorization: ApiKey sk_live_your_api_key')" 401

# --- the quick start tutorial, all seven steps
if answer=$(STATESET_API_URL=$ORIGIN/api/v1 STATESET_API_KEY=$API_KEY "$here/../../scripts/tutorial" 2>&1); then
    passed 'tutorial: seven steps'
else
    failed 'tutorial: seven steps' "${answer: -2000}"
fi

# --- creating a checkpoint
SANDBOX_ID=$(curl -s -X POST $ORIGIN/api/v1/sandbox/create -H "Authorization: ApiKey $API_KEY" -H "Content-Type: application/json" \
    -d '{"env": {"API_KEY": "...", "DEBUG": "true"}}' | jq -r .sandbox_id)
put_files $SANDBOX_ID
BASIC=$(curl -s -X POST $ORIGIN/api/v1/sandbox/$SANDBOX_ID/checkpoints \
    -H "Authorization: ApiKey $API_KEY" \
    -H "Content-Type: application/json" \
    -d '{
"name": "Initial setup complete",
"description": "Dependencies installed and config set"
}')
check 'basic checkpoint: every field of the example' "$BASIC" "
    (.id | startswith(\"cp-\")) and .sandbox_id == \"$SANDBOX_ID\" and .org_id == \"$ORG_ID\" and .name == \"Initial setup complete\"
    and .description == \"Dependencies installed and config set\" and .size_bytes == 20 and .size == .size_bytes and .file_count == 5
    and (.created_at | test(\"^20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:]{8}[.][0-9]{3}Z\$\")) and .metadata == {} and .checksum == \"\""
CP=$(jq -r .id <<<"$BASIC")
FILTERED=$(curl -s -X POST $ORIGIN/api/v1/sandbox/$SANDBOX_ID/checkpoints \
    -H "Authorization: ApiKey $API_KEY" \
    -H "Content-Type: application/json" \
    -d '{
"name": "Source code only",
"include_paths": ["/workspace/src", "/workspace/config"],
"exclude_paths": ["/workspace/node_modules", "/workspace/.cache"],
"include_env": true,
"metadata": {
"version": "1.2.0",
"commit": "abc123"
}
}')
check 'checkpoint with path filters: the set and the metadata' "$FILTERED" \
    '.file_count == 2 and .size_bytes == 11 and .metadata == {"version": "1.2.0", "commit": "abc123"}'
TRAINED=$(curl -s -X POST $ORIGIN/api/v1/sandbox/$SANDBOX_ID/checkpoints -H "Authorization: ApiKey $API_KEY" -H "Content-Type: application/json" \
    -d '{"name": "Training complete", "metadata": {"accuracy": 0.95, "epochs": 100, "model": "resnet50", "commit": "abc123"}}')
check 'checkpoint: metadata keeps its types' "$TRAINED" '.metadata == {"accuracy": 0.95, "epochs": 100, "model": "resnet50", "commit": "abc123"}'

# --- restoring
in_sandbox $SANDBOX_ID 'echo BROKEN > src/app.py; rm -r config; echo more > data/more' >/dev/null
RESTORED=$(curl -s -X POST $ORIGIN/api/v1/sandbox/$SANDBOX_ID/checkpoints/restore \
    -H "Authorization: ApiKey $API_KEY" \
    -H "Content-Type: application/json" \
    -d '{
"checkpoint_id": "'$CP'",
"restore_files": true,
"restore_env": true,
"overwrite": true
}')
check 'restore to the same sandbox' "$RESTORED" '.success == true'
same 'restore to the same sandbox: exactly as it was' "$(in_sandbox $SANDBOX_ID 'cat src/app.py config/c.json; ls data')" $'app\nconfig\nd'
# Create new sandbox
NEW_SANDBOX=$(curl -s -X POST $ORIGIN/api/v1/sandbox \
    -H "Authorization: ApiKey $API_KEY" \
    -H "Content-Type: application/json" \
    -d '{}' | jq -r '.sandbox_id')
# Restore checkpoint
RESTORED=$(curl -s -X POST $ORIGIN/api/v1/sandbox/$NEW_SANDBOX/checkpoints/restore \
    -H "Authorization: ApiKey $API_KEY" \
    -H "Content-Type: application/json" \
    -d '{
"checkpoint_id": "'$CP'"
}')
check 'restore to a different sandbox, all defaults' "$RESTORED" '.success == true'
same 'restore to a different sandbox: files and environment' \
    "$(in_sandbox $NEW_SANDBOX 'cat src/app.py node_modules/x/m; echo $DEBUG')" $'app\nm\ntrue'

# --- listing
in_sandbox $NEW_SANDBOX 'echo csv > data/dataset.csv; echo changed > config/c.json; rm data/d' >/dev/null
AFTER=$(curl -s -X POST $ORIGIN/api/v1/sandbox/$NEW_SANDBOX/checkpoints -H "Authorization: ApiKey $API_KEY" -H "Content-Type: application/json" \
    -d '{"name": "After data import"}')
CP2=$(jq -r .id <<<"$AFTER")
ALL=$(curl -s $ORIGIN/api/v1/checkpoints \
    -H "Authorization: ApiKey $API_KEY")
check 'list all: newest first, with every field of the example' "$ALL" '
    [.checkpoints[].name][0:4] == ["After data import", "Training complete", "Source code only", "Initial setup complete"]
    and all(.checkpoints[]; has("id") and has("sandbox_id") and has("name") and has("size_bytes") and has("file_count") and has("created_at"))'
check 'list by sandbox' "$(curl -s "$ORIGIN/api/v1/checkpoints?sandbox_id=$NEW_SANDBOX" \
    -H "Authorization: ApiKey $API_KEY")" '[.checkpoints[].name] == ["After data import"]'
check 'search by name' "$(curl -s "$ORIGIN/api/v1/checkpoints?name=setup" \
    -H "Authorization: ApiKey $API_KEY")" '[.checkpoints[].name] == ["Initial setup complete", "initial-setup"]'

# --- cloning
CLONE=$(curl -s -X POST $ORIGIN/api/v1/checkpoints/$CP/clone \
    -H "Authorization: ApiKey $API_KEY" \
    -H "Content-Type: application/json" \
    -d '{
"name": "Initial setup - backup"
}')
check 'clone' "$CLONE" "
    .id != \"$CP\" and .sandbox_id == \"$SANDBOX_ID\" and .name == \"Initial setup - backup\" and .size_bytes == 20 and .file_count == 5
    and .created_at > \"$(jq -r .created_at <<<"$BASIC")\" and .expires_at > \"$(jq -r .expires_at <<<"$BASIC")\""

# --- comparing
DIFF=$(curl -s -X POST $ORIGIN/api/v1/checkpoints/compare \
    -H "Authorization: ApiKey $API_KEY" \
    -H "Content-Type: application/json" \
    -d '{
"checkpoint_id_1": "'$CP'",
"checkpoint_id_2": "'$CP2'"
}')
check 'compare: both checkpoints' "$DIFF" "
    .checkpoint_1 == {id: \"$CP\", name: \"Initial setup complete\"} and .checkpoint_2 == {id: \"$CP2\", name: \"After data import\"}"
check 'compare: the differences' "$DIFF" '.diff | .files_added == ["/workspace/data/dataset.csv"] and .files_removed == ["/workspace/data/d"]
    and .files_modified == ["/workspace/config/c.json"] and .modified == .files_modified
    and .env_added == {} and .env_removed == {} and .env_modified == {} and .size_change_bytes == 0'
check 'compare: a checkpoint and its clone are alike' "$(curl -s -X POST $ORIGIN/api/v1/checkpoints/compare -H "Authorization: ApiKey $API_KEY" \
    -H "Content-Type: application/json" -d "{\"checkpoint_id_1\": \"$CP\", \"checkpoint_id_2\": \"$(jq -r .id <<<"$CLONE")\"}")" \
    '[.diff | .files_added, .files_removed, .files_modified, .env_added, .env_removed, .env_modified | length] | add == 0'

# --- the reference section's paths, which have no version
check 'without version: list' "$(curl -s "$ORIGIN/api/checkpoints?name=backup" -H "Authorization: ApiKey $API_KEY")" '.checkpoints | length == 1'
check 'without version: get' "$(curl -s $ORIGIN/api/checkpoints/$CP -H "Authorization: ApiKey $API_KEY")" ".id == \"$CP\""
check 'without version: create' "$(curl -s -X POST $ORIGIN/api/sandbox/$SANDBOX_ID/checkpoints -H "Authorization: ApiKey $API_KEY" \
    -H "Content-Type: application/json" -d '{"name": "unversioned"}')" '.file_count == 5'
check 'without version: restore' "$(curl -s -X POST $ORIGIN/api/sandbox/$SANDBOX_ID/checkpoints/restore -H "Authorization: ApiKey $API_KEY" \
    -H "Content-Type: application/json" -d "{\"checkpoint_id\": \"$CP\"}")" '.success == true'

check 'without version: compare' "$(curl -s -X POST $ORIGIN/api/checkpoints/compare -H "Authorization: ApiKey $API_KEY" \
    -H "Content-Type: application/json" -d "{\"checkpoint_id_1\": \"$CP\", \"checkpoint_id_2\": \"$CP2\"}")" '.diff.files_added | length == 1'
SPARE=$(curl -s -X POST $ORIGIN/api/checkpoints/$CP/clone -H "Authorization: ApiKey $API_KEY" -H "Content-Type: application/json" \
    -d '{"name": "spare"}')
check 'without version: clone' "$SPARE" '.name == "spare"'
check 'without version: delete' "$(curl -s -X DELETE "$ORIGIN/api/checkpoints/$(jq -r .id <<<"$SPARE")" -H "Authorization: ApiKey $API_KEY")" \
    '.success == true'

# --- deleting
check 'delete' "$(curl -s -X DELETE $ORIGIN/api/v1/checkpoints/$CP \
    -H "Authorization: ApiKey $API_KEY")" '.success == true'
check 'delete: gone, with an error in JSON' "$(curl -s $ORIGIN/api/v1/checkpoints/$CP -H "Authorization: ApiKey $API_KEY")" \
    '.error | .code == "not_found" and (.message | length > 0) and (.request_id | length > 0)'
check 'delete: the clone still restores' "$(curl -s -X POST $ORIGIN/api/v1/sandbox/$NEW_SANDBOX/checkpoints/restore -H "Authorization: ApiKey $API_KEY" \
    -H "Content-Type: application/json" -d "{\"checkpoint_id\": \"$(jq -r .id <<<"$CLONE")\"}")" '.success == true'
same 'delete: and has the data' "$(in_sandbox $NEW_SANDBOX 'cat data/d config/c.json; ls data')" $'data\nconfig\nd'

# --- the end-to-end demo: many files, corruption, directories gone, all verified, cloned, listed
DEMO=$(curl -s -X POST $ORIGIN/api/v1/sandbox/create -H "Authorization: ApiKey $API_KEY" -H "Content-Type: application/json" -d '{}' | jq -r .id)
sums='find . -type f -exec sha256sum {} + | sort'
in_sandbox $DEMO 'mkdir -p src/lib tests docs && for i in $(seq 200); do echo "line $i" > src/lib/f$i.py; done; head -c 300000 /dev/urandom > data.bin; echo t > tests/t.py; echo d > docs/d.md; chmod +x tests/t.py' >/dev/null
before=$(in_sandbox $DEMO "$sums; stat -c '%n %a' tests/t.py")
CHECKPOINT_ID=$(curl -s -X POST $ORIGIN/api/v1/sandbox/$DEMO/checkpoints -H "Authorization: ApiKey $API_KEY" -H "Content-Type: application/json" \
    -d '{"name": "e2e demo"}' | jq -r .id)
in_sandbox $DEMO 'for f in src/lib/f1*.py; do echo CORRUPTED > $f; done; rm -rf tests docs; truncate -s 5 data.bin; echo stray > stray' >/dev/null
curl -s -o /dev/null -X POST $ORIGIN/api/v1/sandbox/$DEMO/checkpoints/restore -H "Authorization: ApiKey $API_KEY" -H "Content-Type: application/json" \
    -d "{\"checkpoint_id\": \"$CHECKPOINT_ID\"}"
same 'demo: 203 files are back by content, and the mode' "$(in_sandbox $DEMO "$sums; stat -c '%n %a' tests/t.py")" "$before"
same 'demo: that were 203' "$(wc -l <<<"$before")" 204
check 'demo: clone' "$(curl -s -X POST $ORIGIN/api/v1/checkpoints/$CHECKPOINT_ID/clone -H "Authorization: ApiKey $API_KEY" \
    -H "Content-Type: application/json" -d '{"name": "e2e demo clone"}')" '.file_count == 203'
check 'demo: list' "$(curl -s "$ORIGIN/api/v1/checkpoints?sandbox_id=$DEMO" -H "Authorization: ApiKey $API_KEY")" \
    '[.checkpoints[].name] == ["e2e demo clone", "e2e demo"]'

# --- the production guide's table of endpoints, as far as they are sandboxes and files
check 'sandbox: details' "$(curl -s $ORIGIN/api/v1/sandbox/$DEMO -H "Authorization: ApiKey $API_KEY")" ".id == \"$DEMO\" and .sandbox_id == .id"
check 'sandbox: status' "$(curl -s $ORIGIN/api/v1/sandbox/$DEMO/status -H "Authorization: ApiKey $API_KEY")" '.status == "running" and .state == "running"'
check 'files: write' "$(curl -s -X POST $ORIGIN/api/v1/sandbox/$DEMO/files -H "Authorization: ApiKey $API_KEY" -H "Content-Type: application/json" \
    -d "{\"files\": [{\"path\": \"/workspace/app.js\", \"content\": \"$(printf 'console.log("app");' | base64)\"}]}")" '.success == true'
check 'files: read' "$(curl -s "$ORIGIN/api/v1/sandbox/$DEMO/files?path=/workspace/app.js" -H "Authorization: ApiKey $API_KEY")" \
    '.content | @base64d == "console.log(\"app\");"'
check 'execute: an array' "$(curl -s -X POST $ORIGIN/api/v1/sandbox/$DEMO/execute -H "Authorization: ApiKey $API_KEY" -H "Content-Type: application/json" \
    -d '{"command": ["node", "-e", "console.log(\"Hello from sandbox!\")"]}')" '.stdout == "Hello from sandbox!\n" and .exit_code == 0'
check 'sandbox: stop' "$(curl -s -X POST $ORIGIN/api/v1/sandbox/$DEMO/stop -H "Authorization: ApiKey $API_KEY")" '.success == true'
check 'sandbox: stopped' "$(curl -s $ORIGIN/api/v1/sandbox/$DEMO -H "Authorization: ApiKey $API_KEY")" '.status == "terminated" and .state == "stopped"'
check 'sandbox: start again' "$(curl -s -X POST $ORIGIN/api/v1/sandbox/$DEMO/start -H "Authorization: ApiKey $API_KEY")" '.status == "running"'
same 'sandbox: with its files' "$(in_sandbox $DEMO 'cat app.js')" 'console.log("app");'
for sandbox in $SANDBOX_ID $NEW_SANDBOX $DEMO; do
    check 'sandbox: delete' "$(curl -s -X DELETE $ORIGIN/api/v1/sandbox/$sandbox -H "Authorization: ApiKey $API_KEY")" '.success == true'
    same 'sandbox: deleted is 404' "$(curl -s -o /dev/null -w '%{http_code}' $ORIGIN/api/v1/sandbox/$sandbox -H "Authorization: ApiKey $API_KEY")" 404
done
check 'sandboxes: none is left' "$(curl -s $ORIGIN/api/v1/sandboxes -H "Authorization: ApiKey $API_KEY")" '.sandboxes == []'

exit $failed
