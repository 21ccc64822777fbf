# The default policy: least privilege by role and topic, and what inspection found.
#
# The broker asks for three values: `deny`, `quarantine` (both: sets of {"rule": NAME}) and `allow`. Any denial counts
# most, then any quarantine, then `allow`; where nothing speaks, the answer is no. Settings are in data.yaml, tests in
# veribus_test.rego: `opa test .` runs them.
package veribus

import rego.v1

default allow := false

allow if {
	input.action == "publish"
	some role in input.agent.roles
	role in settings.publishers
}

allow if {
	input.action == "subscribe"
	count(governing) > 0
	every pattern in governing {
		may_read(pattern)
	}
}

may_read(pattern) if {
	some role in input.agent.roles
	role in data.topics[pattern].subscribers
}

allow if {
	input.action == "audit.read"
	"auditor" in input.agent.roles
}

# Shared state: who may write a scope, and who may read it. The broker has checked permission and `decrypt` claim.
allow if {
	input.action in {"state.put", "state.delete"}
	some role in input.agent.roles
	role in scope.writers
}

allow if {
	input.action in {"state.get", "state.list", "state.watch"}
	some role in input.agent.roles
	role in scope.readers
}

# Operators: who holds the permission may. The broker has checked that it is held.
allow if input.action in {"admin.backup", "admin.keys", "admin.revoke", "admin.sessions"}

# ---- Who may write to whom

deny contains {"rule": "finance-to-compliance-only"} if {
	input.action == "publish"
	input.message.type == "finance.transaction"
	input.message.destination != "role:compliance"
}

deny contains {"rule": "finance-not-to-external"} if {
	input.action == "publish"
	input.topic_levels[0] == "finance"
	external_party
}

deny contains {"rule": "finance-not-to-external"} if {
	input.action == "subscribe"
	"external" in input.agent.roles
	some pattern in governing
	startswith(pattern, "finance.")
}

external_party if "external" in input.agent.roles

external_party if input.message.destination_role == "external"

deny contains {"rule": "tickets-to-billing-only"} if {
	input.action == "publish"
	input.topic_levels[0] == "tickets"
	"support" in input.agent.roles
	input.message.destination != "role:billing"
}

deny contains {"rule": "destination-not-allowed"} if {
	input.action == "publish"
	not destination_allowed
}

destination_allowed if {
	some role in input.agent.roles
	input.message.destination in data.roles[role].destinations
}

# ---- Where

deny contains {"rule": "unknown-topic"} if {
	input.action == "publish"
	not settings
}

deny contains {"rule": "unknown-topic"} if {
	input.action == "subscribe"
	count(governing) == 0
}

deny contains {"rule": "unknown-scope"} if {
	startswith(input.action, "state.")
	not scope
}

# ---- By which token

deny contains {"rule": "token-not-bound"} if {
	scope.require_bound
	not input.agent.token.bound
}

deny contains {"rule": "token-not-bound"} if {
	input.action == "publish"
	settings.require_bound
	not input.agent.token.bound
}

deny contains {"rule": "token-not-bound"} if {
	some pattern in governing
	data.topics[pattern].require_bound
	not input.agent.token.bound
}

# ---- What inspection found

deny contains {"rule": "inspection-failed"} if {
	input.action in {"publish", "state.put"}
	not inspected
}

inspected if is_array(input.findings)

deny contains {"rule": "inspection-failed"} if {
	some finding in input.findings
	finding.kind == "scanner_failure"
}

deny contains {"rule": "injection-blocked"} if {
	some finding in input.findings
	finding.kind == "injection"
	finding.severity == "high"
}

quarantine contains {"rule": "injection-suspected"} if {
	some finding in input.findings
	finding.kind == "injection"
	finding.severity == "medium"
}

quarantine contains {"rule": "malformed-content"} if {
	some finding in input.findings
	finding.kind == "malformed"
}

quarantine contains {"rule": "unexpected-finding"} if {
	some finding in input.findings
	not known_kind(finding)
}

known_kind(finding) if finding.kind in {"injection", "malformed", "scanner_failure"}

# ---- What belongs on a topic

quarantine contains {"rule": "too-large"} if {
	input.action == "publish"
	not within_size
}

quarantine contains {"rule": "too-large"} if {
	input.action == "state.put"
	not value_within_size
}

quarantine contains {"rule": "unexpected-content-type"} if {
	input.action == "state.put"
	not value_content_type_listed
}

quarantine contains {"rule": "unexpected-type"} if {
	input.action == "publish"
	not type_listed
}

quarantine contains {"rule": "unexpected-content-type"} if {
	input.action == "publish"
	not content_type_listed
}

# Said positively, so that a setting that is missing or of a wrong type holds the message instead of letting it pass: every
# number is less than every text.
within_size if {
	is_number(input.message.size_bytes)
	is_number(settings.max_bytes)
	input.message.size_bytes <= settings.max_bytes
}

type_listed if input.message.type in settings.types

content_type_listed if input.message.datacontenttype in settings.content_types

value_within_size if {
	is_number(input.value.size_bytes)
	is_number(scope.max_bytes)
	input.value.size_bytes <= scope.max_bytes
}

value_content_type_listed if input.value.datacontenttype in scope.content_types

# The settings of the scope that an operation is about.
scope := data.scopes[input.state.scope_patterns[0]]

# The settings of the topic that a message is for.
settings := data.topics[input.topic_patterns[0]]

# ---- Settings that are not as they must be: the broker asks for `invalid` when it loads the policy, and takes none that has any

invalid contains {"setting": ["topics", pattern, name], "problem": "unknown, or of a wrong type"} if {
	some pattern, topic in data.topics
	some name, value in topic
	not topic_setting(name, value)
}

invalid contains {"setting": ["scopes", pattern, name], "problem": "unknown, or of a wrong type"} if {
	some pattern, settings_of_scope in data.scopes
	some name, value in settings_of_scope
	not scope_setting(name, value)
}

invalid contains {"setting": ["roles", role, name], "problem": "unknown, or of a wrong type"} if {
	some role, settings_of_role in data.roles
	some name, value in settings_of_role
	not role_setting(name, value)
}

invalid contains {"setting": ["topics"], "problem": "no mapping of mappings"} if {
	topics := data.topics
	not mappings(topics)
}

invalid contains {"setting": ["scopes"], "problem": "no mapping of mappings"} if {
	scopes := data.scopes
	not mappings(scopes)
}

invalid contains {"setting": ["roles"], "problem": "no mapping of mappings"} if {
	roles := data.roles
	not mappings(roles)
}

mappings(all) if {
	is_object(all)
	every member in all {
		is_object(member)
	}
}

topic_setting(name, value) if {
	name in {"publishers", "subscribers", "types", "content_types"}
	texts(value)
}

topic_setting("max_bytes", value) if is_number(value)

topic_setting("require_bound", value) if is_boolean(value)

scope_setting(name, value) if {
	name in {"readers", "writers", "content_types"}
	texts(value)
}

scope_setting("max_bytes", value) if is_number(value)

scope_setting("require_bound", value) if is_boolean(value)

role_setting("destinations", value) if texts(value)

texts(list) if {
	is_array(list)
	every text in list {
		is_string(text)
	}
}

# ---- Which settings govern a subscription: all that could decide about some topic that it names

governing contains key if {
	input.action == "subscribe"
	some pattern in input.patterns
	some key, _ in data.topics
	overlap(split(pattern, "."), split(key, "."))
	not overruled(pattern, key)
}

# A wider key has no say where a more specific one covers the whole pattern.
overruled(pattern, key) if {
	some other, _ in data.topics
	other != key
	covers(split(key, "."), split(other, "."))
	covers(split(other, "."), split(pattern, "."))
}

# Both name at least one topic in common.
overlap(a, b) if {
	lengths_meet(a, b)
	not differ(a, b)
}

lengths_meet(a, b) if count(a) == count(b)

lengths_meet(a, b) if {
	count(a) < count(b)
	a[count(a) - 1] == ">"
}

lengths_meet(a, b) if {
	count(a) > count(b)
	b[count(b) - 1] == ">"
}

differ(a, b) if {
	some i, level in a
	other := b[i]
	level != other
	not level in {"*", ">"}
	not other in {"*", ">"}
}

# Every topic that `narrow` names is named by `wide`.
covers(wide, narrow) if {
	length_covers(wide, narrow)
	every i, level in wide {
		at := i
		level_covers(level, narrow[at])
	}
}

length_covers(wide, narrow) if count(wide) == count(narrow)

length_covers(wide, narrow) if {
	count(wide) < count(narrow)
	wide[count(wide) - 1] == ">"
}

level_covers(wide, _) if wide == ">"

level_covers(wide, narrow) if {
	wide == "*"
	narrow != ">"
}

level_covers(wide, narrow) if wide == narrow
