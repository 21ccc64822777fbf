#!/usr/bin/env bash
# Runs the Keycloak in $VERIBUS_KEYCLOAK on 127.0.0.1:$1, its data in memory, until standard input ends: so it does not outlive a
# test that is killed. The administrator is `admin`, with the password in $KC_BOOTSTRAP_ADMIN_PASSWORD.
set -euo pipefail

export KC_BOOTSTRAP_ADMIN_USERNAME=admin
"$VERIBUS_KEYCLOAK/bin/kc.sh" start-dev --db=dev-mem --cache=local --log-level=error \
    --http-host=127.0.0.1 --http-port="$1" >&2 &
keycloak=$!
trap 'kill "$keycloak" 2>/dev/null; wait "$keycloak" 2>/dev/null || true' EXIT
cat >/dev/null
