//! `data.quotas`: who may use more or less than the broker's settings give to everybody.
//!
//! ```yaml
//! quotas:
//!   bulk-loader:            # an agent id
//!     messages_per_s_max: 20000
//!     burst_s: 5
//!   role:gateway:           # all agents with a role
//!     subscriptions_max: null   # unlimited
//! ```

use std::{
    collections::BTreeMap,
    num::{NonZeroU32, NonZeroU64},
};

use regorus::Value;
use serde::{Deserialize, Deserializer};

use crate::model::{Ceiling, Destination, QuotaOverrides, QuotaTerms};

/// One entry. What is absent is as elsewhere, `null` is no bound.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default, deserialize_with = "ceiling")]
    messages_per_s_max: Option<Ceiling>,
    #[serde(default, deserialize_with = "ceiling")]
    bytes_per_s_max: Option<Ceiling>,
    burst_s: Option<NonZeroU32>,
    #[serde(default, deserialize_with = "ceiling")]
    streams_max: Option<Ceiling>,
    #[serde(default, deserialize_with = "ceiling")]
    subscriptions_max: Option<Ceiling>,
}

fn ceiling<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ceiling>, D::Error> {
    let max = Option::<NonZeroU64>::deserialize(deserializer)?;
    Ok(Some(max.map_or(Ceiling::Unlimited, Ceiling::Max)))
}

impl From<Entry> for QuotaTerms {
    fn from(entry: Entry) -> Self {
        Self {
            messages_per_s: entry.messages_per_s_max,
            bytes_per_s: entry.bytes_per_s_max,
            burst_s: entry.burst_s,
            streams: entry.streams_max,
            subscriptions: entry.subscriptions_max,
        }
    }
}

/// Reads what stands in the policy's data; nothing if nothing stands there.
///
/// # Errors
/// What is wrong, on one line.
pub(super) fn overrides(data: &Value) -> Result<QuotaOverrides, String> {
    let quotas = &data["quotas"];
    if *quotas == Value::Undefined {
        return Ok(QuotaOverrides::default());
    }
    let text = quotas.to_json_str().map_err(|error| error.to_string())?;
    let entries: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let mut overrides = QuotaOverrides::default();
    for (key, value) in entries {
        let about = |fault: &dyn ToString| format!("`{key}`: {}", fault.to_string());
        let terms = Entry::deserialize(value).map_err(|error| about(&error))?.into();
        // As the destination of a message: an agent, or all with a role.
        match Destination::parse(&key).map_err(|error| about(&error))? {
            Destination::Role(role) => overrides.roles.insert(role, terms),
            Destination::Agent(agent) => overrides.agents.insert(agent, terms),
        };
    }
    Ok(overrides)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::data;
    use crate::model::{AgentId, RoleName};

    fn read(yaml: &str) -> Result<QuotaOverrides, String> {
        overrides(&data::read("data.yaml", yaml).expect("YAML").into_value())
    }

    #[test]
    fn agents_and_roles_have_terms_of_their_own() {
        let read = read(
            "quotas:\n  bulk:\n    messages_per_s_max: 7\n    burst_s: 5\n  role:gateway:\n    subscriptions_max: null\n",
        );
        let seven = NonZeroU64::new(7).map(Ceiling::Max);
        let bulk = QuotaTerms { messages_per_s: seven, burst_s: NonZeroU32::new(5), ..QuotaTerms::default() };
        let gateway = QuotaTerms { subscriptions: Some(Ceiling::Unlimited), ..QuotaTerms::default() };
        let expected = QuotaOverrides {
            agents: [(AgentId::parse("bulk").expect("an agent"), bulk)].into(),
            roles: [(RoleName::parse("gateway").expect("a role"), gateway)].into(),
        };
        assert_eq!(read, Ok(expected));
        assert_eq!(super::overrides(&Value::new_object()), Ok(QuotaOverrides::default()));
    }

    #[test]
    fn what_is_not_of_this_shape_is_refused_and_named() {
        for (wrong, named) in [
            ("quotas: 1", "map"),
            ("quotas:\n  a: 1", "`a`"),
            ("quotas:\n  a:\n    messages: 1", "messages"),
            ("quotas:\n  a:\n    messages_per_s_max: 0", "nonzero"),
            ("quotas:\n  a:\n    messages_per_s_max: -1", "-1"),
            ("quotas:\n  a:\n    streams_max: many", "many"),
            ("quotas:\n  a:\n    burst_s: 1.5", "1.5"),
            ("quotas:\n  \"role:\": {}", "`role:`"),
            ("quotas:\n  \"a b\": {}", "`a b`"),
        ] {
            let error = read(wrong).expect_err(wrong);
            assert!(error.contains(named) && !error.contains('\n'), "{wrong}: {error}");
        }
    }
}
