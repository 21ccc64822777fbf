//! The example agents' tokens: kept while they are good for half a day more, issued anew otherwise.

use std::{fs, path::Path, time::Duration};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, jwk::JwkSet};

use super::{
    DevError, EXAMPLE_AGENTS, ExampleAgent,
    error::{issuer as issuing, writing},
    files::{private_directory, write_private},
};
use crate::{
    issue::{Claims, IssueError, TokenIssuer},
    model::UnixSeconds,
};

/// As long as the broker accepts by default (`identity.token_lifetime_s_max`).
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
const RENEWED_BEFORE_EXPIRY_S: i64 = 12 * 3600;

/// Sees to it that each example agent has a token in `directory` that is good for half a day more.
pub(super) fn write_tokens(directory: &Path, issuer: &TokenIssuer, now: UnixSeconds) -> Result<(), DevError> {
    private_directory(directory).map_err(writing(directory))?;
    for agent in &EXAMPLE_AGENTS {
        let path = directory.join(format!("{}.jwt", agent.name));
        let current = fs::read_to_string(&path).ok().and_then(|token| claims(token.trim(), issuer));
        if !current.is_some_and(|claims| is_good(&claims, agent, now)) {
            let token = issue(agent, issuer, now).map_err(issuing(&path))?;
            write_private(&path, format!("{token}\n").as_bytes()).map_err(writing(&path))?;
        }
    }
    Ok(())
}

fn issue(agent: &ExampleAgent, issuer: &TokenIssuer, now: UnixSeconds) -> Result<String, IssueError> {
    let claims = issuer.claims(agent.name, now, LIFETIME).role(agent.role);
    issuer.issue(&granted(claims, agent))
}

fn granted(claims: Claims, agent: &ExampleAgent) -> Claims {
    let claims = agent.permissions.iter().fold(claims, |claims, permission| claims.permission(*permission));
    agent.decrypt.iter().fold(claims, |claims, scope| claims.decrypt(*scope))
}

fn is_good(claims: &Claims, agent: &ExampleAgent, UnixSeconds(now): UnixSeconds) -> bool {
    claims.exp > now.saturating_add(RENEWED_BEFORE_EXPIRY_S)
        && claims.exp <= claims.iat.saturating_add_unsigned(LIFETIME.as_secs())
        && claims.roles == [agent.role]
        && claims.permissions == agent.permissions
        && claims.decrypts() == agent.decrypt
}

/// The claims of a token that this issuer signed with its present key; expired ones too.
fn claims(token: &str, issuer: &TokenIssuer) -> Option<Claims> {
    let keys: JwkSet = serde_json::from_str(issuer.jwks()).ok()?;
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&[issuer.audience()]);
    validation.set_issuer(&[issuer.issuer()]);
    validation.validate_exp = false;
    decode(token, &DecodingKey::from_jwk(keys.keys.first()?).ok()?, &validation).ok().map(|data| data.claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issue::KeyKind;

    const HOUR_S: i64 = 3600;

    fn issuer() -> TokenIssuer {
        TokenIssuer::from_pem("veribus-dev", "veribus", &KeyKind::Es256.generate_pem().expect("a key")).expect("issuer")
    }

    fn token(directory: &Path) -> String {
        fs::read_to_string(directory.join("finance-agent.jwt")).expect("a token")
    }

    #[test]
    fn tokens_are_kept_until_half_a_day_before_they_expire() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, issuer, start) = (directory.path(), issuer(), 1_900_000_000);
        write_tokens(path, &issuer, UnixSeconds(start)).expect("written");
        let first = token(path);
        write_tokens(path, &issuer, UnixSeconds(start + 11 * HOUR_S)).expect("kept");
        assert_eq!(token(path), first);
        write_tokens(path, &issuer, UnixSeconds(start + 12 * HOUR_S)).expect("renewed");
        assert_ne!(token(path), first);
        let claims = claims(token(path).trim(), &issuer).expect("claims");
        assert_eq!(claims.exp, start + 36 * HOUR_S);
        assert_eq!(claims.permissions, EXAMPLE_AGENTS[0].permissions);
        assert_eq!(claims.decrypts(), ["finance.>"]);
    }

    #[test]
    fn a_token_of_a_longer_life_than_the_broker_accepts_is_issued_anew() {
        let (issuer, agent) = (issuer(), &EXAMPLE_AGENTS[0]);
        let claims = issuer.claims(agent.name, UnixSeconds(0), LIFETIME + Duration::from_secs(1)).role(agent.role);
        let claims = granted(claims, agent);
        assert!(!is_good(&claims, agent, UnixSeconds(0)));
        assert!(is_good(&Claims { exp: claims.exp - 1, ..claims }, agent, UnixSeconds(0)));
    }

    #[test]
    fn tokens_of_another_key_are_issued_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        write_tokens(directory.path(), &issuer(), UnixSeconds(0)).expect("written");
        let first = token(directory.path());
        let issuer = issuer();
        write_tokens(directory.path(), &issuer, UnixSeconds(0)).expect("written");
        assert_ne!(token(directory.path()), first);
        assert!(claims(token(directory.path()).trim(), &issuer).is_some());
    }
}
