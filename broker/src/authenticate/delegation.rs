//! Who acts for the agent of a token: the claim `act` (RFC 8693, section 4.1).
//!
//! Only the outermost actor, the current one, is meant for decisions on access; those inside it acted before, and are
//! there to be known. Here the agent of the token (`sub`) is who is allowed or not, and actors are shown to the policy
//! and written into the log.

use serde_json::{Map, Value};

use super::{claims, error::TokenError};
use crate::model::{AgentId, Issuer};

/// How many actors a token may name.
const ACTORS_MAX: usize = 8;

/// A party that acts for somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelegatedActor {
    /// Who names it; the token's own issuer, where the token does not say, since a `sub` is unique for its issuer only
    /// (RFC 7519, section 4.1.2).
    pub issuer: Issuer,
    /// Its id with that issuer; `None` of one that the token does not name. Such a token administers nothing.
    pub agent: Option<AgentId>,
}

/// The actors of a token, the current one first. Members that say more about one are passed over; `exp`, `nbf` and
/// `aud` mean nothing there.
pub(super) fn actors(claims: &Map<String, Value>, own: &Issuer) -> Result<Vec<DelegatedActor>, TokenError> {
    let mut actors = Vec::new();
    let mut next = claims.get("act");
    while let Some(act) = next {
        if actors.len() == ACTORS_MAX {
            return Err(TokenError::TooMany("act"));
        }
        let act = act.as_object().ok_or(TokenError::Claim("act"))?;
        actors.push(actor(act, own).map_err(in_act)?);
        next = act.get("act");
    }
    Ok(actors)
}

fn actor(act: &Map<String, Value>, own: &Issuer) -> Result<DelegatedActor, TokenError> {
    let issuer = if act.contains_key("iss") { claims::issuer(act)? } else { own.clone() };
    // RFC 8693, section 4.1, asks for claims that identify the actor, and not for `sub`.
    let agent = act.contains_key("sub").then(|| claims::agent(act, "sub")).transpose()?;
    Ok(DelegatedActor { issuer, agent })
}

/// What is wrong is wrong within `act`.
fn in_act(error: TokenError) -> TokenError {
    match error {
        TokenError::Identifier { source, .. } => TokenError::Identifier { claim: "act", source },
        _ => TokenError::Claim("act"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(act: Value) -> Result<Vec<String>, TokenError> {
        let own = Issuer::parse("https://own.example").expect("an issuer");
        let actors = actors(json!({ "act": act }).as_object().expect("an object"), &own)?;
        Ok(actors
            .iter()
            .map(|one| format!("{} {}", one.issuer.as_str(), one.agent.as_ref().map_or("", |agent| agent.as_str())))
            .collect())
    }

    fn chain(depth: usize) -> Value {
        (0..depth).fold(json!({ "sub": "first" }), |inner, _| json!({ "sub": "next", "act": inner }))
    }

    #[test]
    fn the_current_actor_comes_first_and_those_before_it_after() {
        let act = json!({"sub": "b", "client_id": "x", "act": {"sub": "a", "iss": "https://other.example"}});
        assert_eq!(read(act), Ok(vec!["https://own.example b".to_owned(), "https://other.example a".to_owned()]));
        let own = Issuer::parse("https://own.example").expect("an issuer");
        assert_eq!(actors(&Map::new(), &own), Ok(Vec::new()));
    }

    #[test]
    fn a_chain_of_any_other_form_is_refused() {
        for act in [
            json!(null),
            json!("b"),
            json!([{ "sub": "b" }]),
            json!({ "sub": null }),
            json!({ "sub": 1 }),
            json!({ "sub": "b", "iss": null }),
            json!({ "sub": "b", "act": null }),
        ] {
            assert_eq!(read(act.clone()), Err(TokenError::Claim("act")), "{act}");
        }
        assert!(matches!(read(json!({"sub": "role:x"})), Err(TokenError::Identifier { claim: "act", .. })));
    }

    #[test]
    fn an_actor_need_not_be_named() {
        let unnamed = "https://own.example ".to_owned();
        assert_eq!(read(json!({ "client_id": "x" })), Ok(vec![unnamed.clone()]));
        assert_eq!(read(json!({ "sub": "b", "act": {} })), Ok(vec!["https://own.example b".to_owned(), unnamed]));
    }

    #[test]
    fn a_chain_is_bounded() {
        assert_eq!(read(chain(ACTORS_MAX - 1)).map(|actors| actors.len()), Ok(ACTORS_MAX));
        assert_eq!(read(chain(ACTORS_MAX)), Err(TokenError::TooMany("act")));
    }
}
