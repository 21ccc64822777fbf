//! The claims of a token, read one by one: what is there must have its right type, or the token is refused.

use serde_json::{Map, Value};

use super::{
    error::TokenError,
    permission::{Permission, Permissions},
};
use crate::model::{AgentId, Issuer, TokenId, TopicPattern, UnixSeconds};

pub(super) fn issuer(claims: &Map<String, Value>) -> Result<Issuer, TokenError> {
    let text = string(claims, "iss")?;
    Issuer::parse(text).map_err(|source| TokenError::Identifier { claim: "iss", source })
}

/// The agent id, at `path`; `sub` must be there whatever the path (RFC 9068, section 2.2).
pub(super) fn agent(claims: &Map<String, Value>, path: &str) -> Result<AgentId, TokenError> {
    string(claims, "sub")?;
    let text = at(claims, path).and_then(Value::as_str).ok_or(TokenError::Claim("agent"))?;
    AgentId::parse(text).map_err(|source| TokenError::Identifier { claim: "agent", source })
}

pub(super) fn token_id(claims: &Map<String, Value>, path: &str) -> Result<TokenId, TokenError> {
    let text = at(claims, path).and_then(Value::as_str).ok_or(TokenError::Claim("token id"))?;
    TokenId::parse(text).map_err(|source| TokenError::Identifier { claim: "token id", source })
}

/// A token that its issuer made for another purpose, where its `typ` does not say that it is an access token: an ID token
/// (OpenID Connect Core 1.0, sections 2 and 3.3.2.11) is about a user and for a client, a logout token (Back-Channel
/// Logout 1.0, section 2.4) is about a session. Keycloak tells them apart by a claim `typ`. `client_id` names the client
/// where it is there; section 4 of RFC 9068 does not ask the receiver to demand it.
pub(super) fn check_purpose(
    claims: &Map<String, Value>,
    is_at_jwt: bool,
    bearer_typ_outweighs_nonce: bool,
) -> Result<(), TokenError> {
    const ELSEWHERE: [&str; 5] = ["nonce", "at_hash", "c_hash", "s_hash", "events"];
    let may_have_nonce = bearer_typ_outweighs_nonce && claims.get("typ").is_some_and(|typ| typ == "Bearer");
    let is_foreign = |name: &&str| claims.contains_key(*name) && !(may_have_nonce && *name == "nonce");
    if let Some(name) = ELSEWHERE.into_iter().find(|name| !is_at_jwt && is_foreign(name)) {
        return Err(TokenError::OtherKind(name));
    }
    if claims.get("typ").is_some_and(|typ| typ != "Bearer" && typ != "DPoP") {
        return Err(TokenError::OtherKind("typ"));
    }
    let names_client = claims.get("client_id").is_none_or(|id| id.as_str().is_some_and(|id| !id.is_empty()));
    if names_client { Ok(()) } else { Err(TokenError::Claim("client_id")) }
}

/// A token of Keycloak is that of the client itself, and not of a user who came through it, where the user is the client's service
/// account. User names are kept in lower case there, client ids are not.
pub(super) fn check_service_account(claims: &Map<String, Value>) -> Result<(), TokenError> {
    let (client, user) = (string(claims, "client_id")?, string(claims, "preferred_username")?);
    let is_own = user.strip_prefix("service-account-").is_some_and(|name| name.eq_ignore_ascii_case(client));
    if is_own { Ok(()) } else { Err(TokenError::Claim("preferred_username")) }
}

/// One of ours must be named. `aud` is one string or a list of strings (RFC 7519, section 4.1.3).
pub(super) fn check_audience(claims: &Map<String, Value>, ours: &[String]) -> Result<(), TokenError> {
    let is_ours = |name: &str| ours.iter().any(|one| one == name);
    let named = match claims.get("aud") {
        Some(Value::String(one)) => is_ours(one),
        Some(Value::Array(several)) if several.iter().all(Value::is_string) => {
            several.iter().any(|one| one.as_str().is_some_and(is_ours))
        }
        _ => return Err(TokenError::Claim("aud")),
    };
    if named { Ok(()) } else { Err(TokenError::Audience) }
}

/// A `NumericDate` (RFC 7519, section 2), rounded down to the second.
pub(super) fn date(claims: &Map<String, Value>, name: &'static str) -> Result<UnixSeconds, TokenError> {
    optional_date(claims, name)?.ok_or(TokenError::Claim(name))
}

pub(super) fn optional_date(
    claims: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<UnixSeconds>, TokenError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    if let Some(seconds) = value.as_i64() {
        return Ok(Some(UnixSeconds(seconds)));
    }
    // Beyond 2^53 a fraction cannot be told from a whole number, and no date lies there.
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked first")]
    match value.as_f64() {
        Some(seconds) if seconds.abs() < 9_007_199_254_740_992.0 => Ok(Some(UnixSeconds(seconds.floor() as i64))),
        _ => Err(TokenError::Claim(name)),
    }
}

/// The roles, as they are: a policy may deny by any of them. What reads as a permission is no role: some providers have but
/// one list for both.
pub(super) fn roles(claims: &Map<String, Value>, path: &str) -> Result<Vec<String>, TokenError> {
    let mut texts = list_at(claims, path, "roles")?;
    texts.retain(|text| Permission::parse(text).is_none());
    Ok(texts)
}

/// The permissions; texts that are none of ours, such as OAuth's `openid`, grant nothing.
pub(super) fn permissions(claims: &Map<String, Value>, paths: &[String]) -> Result<Permissions, TokenError> {
    let mut permissions = Vec::new();
    for path in paths {
        let texts = list_at(claims, path, "permissions")?;
        permissions.extend(texts.iter().filter_map(|text| Permission::parse(text)));
    }
    Ok(Permissions::new(permissions))
}

/// The message types that the token may send; all if the claim is absent.
pub(super) fn types(claims: &Map<String, Value>, path: &str) -> Result<Option<Vec<String>>, TokenError> {
    at(claims, path).map(|_| list_at(claims, path, "types")).transpose()
}

/// The scopes of shared state whose values may be read; none if the claim is absent. What is no pattern is refused: it was
/// meant to open something.
pub(super) fn decrypt(claims: &Map<String, Value>, path: &str) -> Result<Vec<TopicPattern>, TokenError> {
    let texts = list_at(claims, path, "decrypt")?;
    texts.iter().map(|text| TopicPattern::parse(text).map_err(|_| TokenError::Claim("decrypt"))).collect()
}

fn string<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, TokenError> {
    claims.get(name).and_then(Value::as_str).ok_or(TokenError::Claim(name))
}

/// A list of strings, or one string of words, at a dotted path; empty if absent. The token's size bounds how many.
fn list_at(claims: &Map<String, Value>, path: &str, name: &'static str) -> Result<Vec<String>, TokenError> {
    let Some(value) = at(claims, path) else { return Ok(Vec::new()) };
    let texts: Option<Vec<String>> = match value {
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        Value::String(words) => Some(words.split_ascii_whitespace().map(str::to_owned).collect()),
        _ => None,
    };
    texts.ok_or(TokenError::Claim(name))
}

/// A claim whose whole name is `path` (such as a URL), else the one that the dots lead to.
fn at<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let (first, rest) = path.split_once('.')?;
    rest.split('.').try_fold(claims.get(first)?, |value, name| value.get(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().expect("an object")
    }

    #[test]
    fn the_audience_is_one_name_or_a_list_of_names() {
        let ours = ["veribus", "api://veribus"].map(str::to_owned);
        for (aud, expected) in [
            (json!("veribus"), Ok(())),
            (json!("api://veribus"), Ok(())),
            (json!(["x", "veribus"]), Ok(())),
            (json!("veribus api://veribus"), Err(TokenError::Audience)),
            (json!("other"), Err(TokenError::Audience)),
            (json!([]), Err(TokenError::Audience)),
            (json!(["veribus", 1]), Err(TokenError::Claim("aud"))),
            (json!({"veribus": true}), Err(TokenError::Claim("aud"))),
            (json!(null), Err(TokenError::Claim("aud"))),
        ] {
            assert_eq!(check_audience(&claims(&json!({ "aud": aud })), &ours), expected, "{aud}");
        }
        assert_eq!(check_audience(&claims(&json!({})), &ours), Err(TokenError::Claim("aud")));
    }

    #[test]
    fn dates_are_numbers_and_nothing_else() {
        for (value, expected) in [
            (json!(10), Ok(UnixSeconds(10))),
            (json!(10.9), Ok(UnixSeconds(10))),
            (json!("10"), Err(TokenError::Claim("exp"))),
            (json!(u64::MAX), Err(TokenError::Claim("exp"))),
            (json!(1e300), Err(TokenError::Claim("exp"))),
            (json!(null), Err(TokenError::Claim("exp"))),
        ] {
            assert_eq!(date(&claims(&json!({ "exp": value })), "exp"), expected, "{value}");
        }
    }

    #[test]
    fn lists_stand_at_a_path_as_a_list_or_as_words() {
        let keycloak = claims(&json!({"realm_access": {"roles": ["finance", "ops"]}, "scope": "openid audit.read"}));
        let roles = roles(&keycloak, "realm_access.roles").expect("roles");
        assert_eq!(roles, ["finance", "ops"]);
        assert_eq!(permissions(&keycloak, &["scope".to_owned()]), Ok(Permissions::new(vec![Permission::AuditRead])));
        assert_eq!(list_at(&claims(&json!({"roles": 1})), "roles", "roles"), Err(TokenError::Claim("roles")));
    }

    /// A rule of the policy may go by any of them.
    #[test]
    fn roles_are_kept_as_they_are_however_they_are_spelled_and_however_many() {
        let spelled = ["Risk Managers", "Prüfer", "", "role:x", "line\nbreak"];
        let listed = claims(&json!({ "roles": spelled }));
        assert_eq!(roles(&listed, "roles").expect("roles"), spelled);
        let many = claims(&json!({ "roles": (0..500).map(|number| format!("r{number}")).collect::<Vec<_>>() }));
        assert_eq!(roles(&many, "roles").expect("roles").len(), 500);
    }

    #[test]
    fn a_client_of_keycloak_is_its_service_account_and_nobody_else() {
        let check = |user: Value| {
            check_service_account(&claims(&json!({ "client_id": "Agent-1", "preferred_username": user })))
        };
        assert_eq!(check(json!("service-account-agent-1")), Ok(()));
        for other in [json!("alice"), json!("service-account-agent-2"), json!("agent-1"), json!(null), json!(["x"])] {
            assert_eq!(check(other.clone()), Err(TokenError::Claim("preferred_username")), "{other}");
        }
        let nameless = claims(&json!({ "preferred_username": "service-account-" }));
        assert_eq!(check_service_account(&nameless), Err(TokenError::Claim("client_id")));
    }

    #[test]
    fn types_and_scopes_stand_where_the_settings_say() {
        let elsewhere = claims(&json!({"acme": {"types": ["a"], "open": "notes.> tickets"}, "types": ["b"]}));
        assert_eq!(types(&elsewhere, "acme.types"), Ok(Some(vec!["a".to_owned()])));
        assert_eq!(types(&elsewhere, "acme.none"), Ok(None));
        assert_eq!(decrypt(&elsewhere, "acme.open").map(|patterns| patterns.len()), Ok(2));
    }
}
