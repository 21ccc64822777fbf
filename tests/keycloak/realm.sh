#!/usr/bin/env bash
# Realms for the tests, by the very commands that `docs/identity.md` shows. Needs KEYCLOAK, its URL; ADMIN_PASSWORD;
# AGENT_SECRET, which every client gets; and REALM.
#
#   realm.sh documented           what the documentation makes; prints the token response that it ends with
#   realm.sh more                 what else the tests ask for, in the realm that is there
#   realm.sh key NAME PROVIDER ALGORITHM [CONFIG]   a key, as JSON members, that outranks those before it
#   realm.sh set-key NAME active|passive|disabled
#   realm.sh disable-client CLIENT
set -euo pipefail

blocks() { # FROM TO: these blocks of shell of the documentation
    awk -v from="$1" -v to="$2" '
        /^## / { here = $0 == "## Keycloak in ten minutes" }
        !here { next }
        /^```$/ { inside = 0 }
        inside && number >= from && number <= to
        /^```sh$/ { inside = 1; number++ }
    ' "$(dirname "${BASH_SOURCE[0]}")/../../docs/identity.md"
}

update() { # PATH JSON
    admin "$1" -X PUT -H 'Content-Type: application/json' -d "$2"
}

id_of() { # PATH: of the first of a list
    admin "$1" | sed 's/^\[{"id":"\([^"]*\)".*/\1/'
}

key() { # NAME PROVIDER ALGORITHM [CONFIG]
    create "/$REALM/components" '{"name": "'"$1"'", "providerId": "'"$2"'", "providerType": "org.keycloak.keys.KeyProvider",
        "config": {"priority": ["200"], "algorithm": ["'"$3"'"]'"${4:+, $4}"'}}'
}

set_key() { # NAME STATE
    local id active=false enabled=true
    [[ $2 == active ]] && active=true
    [[ $2 == disabled ]] && enabled=false
    id=$(id_of "/$REALM/components?name=$1&type=org.keycloak.keys.KeyProvider")
    update "/$REALM/components/$id" '{"id": "'"$id"'", "name": "'"$1"'", "providerId": "rsa-generated",
        "providerType": "org.keycloak.keys.KeyProvider", "config": {"active": ["'$active'"], "enabled": ["'$enabled'"]}}'
}

client() { # CLIENT ATTRIBUTES [MEMBERS [SCOPES]]
    create "/$REALM/clients" '{"clientId": "'"$1"'", "secret": "'"$AGENT_SECRET"'", "serviceAccountsEnabled": true,
        "standardFlowEnabled": false, "attributes": {'"$2"'},
        "defaultClientScopes": ["basic", "roles", '"${4:-\"profile\", \"veribus\", \"publish:finance.>\"}"']'"${3:+, $3}"'}'
}

more() {
    local algorithm id
    key es256 ecdsa-generated ES256 '"ecdsaEllipticCurveKey": ["P-256"]'
    key es512 ecdsa-generated ES512 '"ecdsaEllipticCurveKey": ["P-521"]'
    key eddsa eddsa-generated EdDSA '"eddsaEllipticCurveKey": ["Ed25519"]'
    key ps256 rsa-generated PS256
    key rs512 rsa-generated RS512
    for algorithm in RS256 ES256 EdDSA PS256 RS512 ES512; do
        client "signed-$algorithm" '"access.token.signed.response.alg": "'$algorithm'"'
    done
    client typed '"access.token.header.type.rfc9068": "true"'
    client holder '"dpop.bound.access.tokens": "true"'
    client lightweight '"client.use.lightweight.access.token.enabled": "true"'
    client no-profile '' '' '"veribus"'
    client no-audience '' '' '"profile"'
    # The subject's token must name who exchanges it, and the exchanged one names the broker. Keycloak writes no `act` by itself.
    client gateway '"standard.token.exchange.enabled": "true"'
    client acting-gateway '"standard.token.exchange.enabled": "true"' '"protocolMappers": [{"name": "act",
        "protocol": "openid-connect", "protocolMapper": "oidc-hardcoded-claim-mapper", "config": {"claim.name": "act",
        "claim.value": "{\"sub\": \"acting-gateway\"}", "jsonType.label": "JSON", "access.token.claim": "true"}}]'
    client delegating '' '"protocolMappers": [
        {"name": "to-gateway", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
            "config": {"included.custom.audience": "gateway", "access.token.claim": "true"}},
        {"name": "to-acting-gateway", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
            "config": {"included.custom.audience": "acting-gateway", "access.token.claim": "true"}}]'
    client people '' '"publicClient": true, "serviceAccountsEnabled": false, "directAccessGrantsEnabled": true'
    client people-named '' '"publicClient": true, "serviceAccountsEnabled": false, "directAccessGrantsEnabled": true,
        "protocolMappers": [{"name": "client_id", "protocol": "openid-connect",
            "protocolMapper": "oidc-hardcoded-claim-mapper", "config": {"claim.name": "client_id",
            "claim.value": "people-named", "jsonType.label": "String", "access.token.claim": "true"}}]'
    create "/$REALM/users" '{"username": "ada", "enabled": true, "email": "ada@example.com", "emailVerified": true,
        "firstName": "Ada", "lastName": "L", "credentials": [{"type": "password", "value": "'"$AGENT_SECRET"'"}]}'
}

if [[ $1 == documented ]]; then
    source <(blocks 1 99)
    exit
fi
source <(blocks 1 1)
case $1 in
    more) more ;;
    key) key "${@:2}" ;;
    set-key) set_key "$2" "$3" ;;
    disable-client)
        update "/$REALM/clients/$(id_of "/$REALM/clients?clientId=$2")" '{"clientId": "'"$2"'", "enabled": false}' ;;
esac
