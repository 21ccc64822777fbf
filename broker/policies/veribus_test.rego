package veribus_test

import rego.v1

import data.veribus

agent(role) := {
	"id": sprintf("%s-agent", [role]),
	"issuer": "veribus-dev",
	"roles": [role],
	"permissions": [],
	"token": {"age_s": 10, "expires_in_s": 3600, "bound": false},
}

transaction := {
	"action": "publish",
	"agent": agent("finance"),
	"topic": "finance.transactions",
	"topic_levels": ["finance", "transactions"],
	"topic_patterns": ["finance.transactions", "finance.>"],
	"message": {
		"id": "1",
		"type": "finance.transaction",
		"datacontenttype": "application/json",
		"size_bytes": 64,
		"destination": "role:compliance",
		"destination_role": "compliance",
		"subject": "",
		"reply_to": "",
		"attributes": {},
		"body": {"amount": 100},
	},
	"findings": [],
	"peer": {"address": "127.0.0.1:1"},
	"time": {"unix_s": 1900000000},
}

ticket := object.union(transaction, {
	"agent": agent("support"),
	"topic": "tickets.new",
	"topic_levels": ["tickets", "new"],
	"topic_patterns": ["tickets.>"],
	"message": {
		"type": "ticket.created",
		"datacontenttype": "text/plain",
		"destination": "role:billing",
		"destination_role": "billing",
	},
})

document := object.union(transaction, {
	"agent": agent("documents"),
	"topic": "documents.incoming",
	"topic_levels": ["documents", "incoming"],
	"topic_patterns": ["documents.>"],
	"message": {
		"type": "document.text",
		"datacontenttype": "text/plain",
		"destination": "",
		"destination_role": "",
	},
})

subscription(role, patterns) := {
	"action": "subscribe",
	"agent": agent(role),
	"patterns": patterns,
	"peer": {"address": "127.0.0.1:1"},
	"time": {"unix_s": 1900000000},
}

finding(kind, severity) := {"kind": kind, "rule": "a-rule", "severity": severity, "location": "data"}

to(message, destination, role) := object.union(
	message,
	{"message": {"destination": destination, "destination_role": role}},
)

with_findings(message, findings) := object.union(message, {"findings": findings})

with_message(message, fields) := object.union(message, {"message": fields})

clean_allow if {
	veribus.allow
	count(veribus.deny) == 0
	count(veribus.quarantine) == 0
}

denied_by(rule) if {"rule": rule} in veribus.deny

held_by(rule) if {
	{"rule": rule} in veribus.quarantine
	count(veribus.deny) == 0
}

# ---- Finance

test_finance_may_send_a_transaction_to_compliance if {
	clean_allow with input as transaction
}

test_a_transaction_goes_to_no_other_role if {
	denied_by("finance-to-compliance-only") with input as to(transaction, "role:finance", "finance")
	denied_by("finance-to-compliance-only") with input as to(transaction, "role:external", "external")
}

test_a_transaction_goes_to_no_single_agent if {
	denied_by("finance-to-compliance-only") with input as to(transaction, "external-agent", "")
	denied_by("finance-to-compliance-only") with input as to(transaction, "compliance-agent", "")
}

test_a_transaction_is_not_for_everyone if {
	denied_by("finance-to-compliance-only") with input as to(transaction, "", "")
}

test_a_transaction_on_another_topic_is_bound_alike if {
	denied_by("finance-to-compliance-only") with input as object.union(
		to(transaction, "role:external", "external"),
		{"topic": "external.x", "topic_levels": ["external", "x"], "topic_patterns": ["external.>"]},
	)
}

report := object.union(transaction, {
	"topic": "finance.reports",
	"topic_levels": ["finance", "reports"],
	"topic_patterns": ["finance.>"],
	"message": {"type": "finance.report"},
})

test_a_report_may_go_to_all_readers_of_finance if {
	clean_allow with input as to(report, "", "")
}

test_nothing_of_finance_goes_to_external_agents if {
	denied_by("finance-not-to-external") with input as to(report, "role:external", "external")
}

test_external_agents_do_not_write_to_finance if {
	denied_by("finance-not-to-external") with input as object.union(report, {"agent": agent("external")})
}

test_external_agents_do_not_read_finance if {
	denied_by("finance-not-to-external") with input as subscription("external", ["finance.>"])
	denied_by("finance-not-to-external") with input as subscription("external", ["external.>", "*.transactions"])
	denied_by("finance-not-to-external") with input as subscription("external", [">"])
}

# ---- Tickets

test_support_may_send_a_ticket_to_billing if {
	clean_allow with input as ticket
}

test_a_ticket_of_support_goes_nowhere_else if {
	denied_by("tickets-to-billing-only") with input as to(ticket, "role:external", "external")
	denied_by("tickets-to-billing-only") with input as to(ticket, "", "")
	denied_by("tickets-to-billing-only") with input as to(ticket, "billing-agent", "")
}

test_billing_may_answer_a_ticket if {
	clean_allow with input as object.union(to(ticket, "role:support", "support"), {"agent": agent("billing")})
}

# ---- Roles

test_a_role_writes_only_to_its_destinations if {
	denied_by("destination-not-allowed") with input as to(document, "role:finance", "finance")
	denied_by("destination-not-allowed") with input as to(document, "somebody", "")
}

test_a_role_without_settings_writes_to_nobody if {
	denied_by("destination-not-allowed") with input as object.union(document, {"agent": agent("stranger")})
}

test_a_role_that_is_no_publisher_is_not_allowed if {
	not veribus.allow with input as object.union(transaction, {"agent": agent("support")})
	not veribus.allow with input as object.union(document, {"agent": agent("finance")})
}

test_an_agent_without_roles_may_nothing if {
	nobody := object.union(agent("x"), {"roles": []})
	not veribus.allow with input as object.union(transaction, {"agent": nobody})
	not veribus.allow with input as object.union(subscription("x", ["finance.>"]), {"agent": nobody})
	not veribus.allow with input as {"action": "audit.read", "agent": nobody}
}

# ---- Topics

test_a_topic_without_settings_is_closed if {
	elsewhere := {"topic": "other.x", "topic_levels": ["other", "x"], "topic_patterns": []}
	denied_by("unknown-topic") with input as object.union(report, elsewhere)
	denied_by("unknown-topic") with input as subscription("finance", ["other.>"])
}

test_the_most_specific_settings_count if {
	held_by("unexpected-type") with input as with_message(transaction, {"type": "finance.report"})
	held_by("too-large") with input as with_message(transaction, {"size_bytes": 65537})
	clean_allow with input as with_message(report, {"size_bytes": 65537})
}

test_a_message_at_the_size_limit_passes if {
	clean_allow with input as with_message(transaction, {"size_bytes": 65536})
}

test_an_unlisted_type_is_held if {
	held_by("unexpected-type") with input as with_message(ticket, {"type": "ticket.unheard"})
	held_by("unexpected-type") with input as with_message(ticket, {"type": ""})
}

test_an_unlisted_content_type_is_held if {
	held_by("unexpected-content-type") with input as with_message(transaction, {"datacontenttype": "text/plain"})
}

test_settings_with_gaps_hold_messages if {
	gaps := {"finance.transactions": {"publishers": ["finance"]}}
	held_by("too-large") with input as transaction with data.topics as gaps
	held_by("unexpected-type") with input as transaction with data.topics as gaps
	held_by("unexpected-content-type") with input as transaction with data.topics as gaps
}

# ---- Binding

sensitive_topics := {
	"finance.>": {"publishers": ["finance"], "subscribers": ["finance"], "types": ["finance.report"],
		"content_types": ["application/json"], "max_bytes": 262144, "require_bound": true},
	"finance.public.>": {"subscribers": ["finance"], "require_bound": false},
}

bound_agent := object.union(agent("finance"), {"token": {"bound": true}})

test_a_topic_may_ask_for_bound_tokens if {
	published := to(report, "role:compliance", "compliance")
	input_topic := object.union(published, {"topic_patterns": ["finance.>"]})
	denied_by("token-not-bound") with input as input_topic with data.topics as sensitive_topics
	clean_allow with input as object.union(input_topic, {"agent": bound_agent}) with data.topics as sensitive_topics
}

test_reading_such_a_topic_asks_for_one_too if {
	reading := subscription("finance", ["finance.reports"])
	denied_by("token-not-bound") with input as reading with data.topics as sensitive_topics
	denied_by("token-not-bound") with input as subscription("finance", ["finance.>"]) with data.topics as sensitive_topics
	clean_allow with input as object.union(reading, {"agent": bound_agent}) with data.topics as sensitive_topics
	clean_allow with input as subscription("finance", ["finance.public.x"]) with data.topics as sensitive_topics
}

# ---- Findings

test_a_clean_document_passes if {
	clean_allow with input as document
}

test_a_sure_injection_is_denied if {
	denied_by("injection-blocked") with input as with_findings(document, [finding("injection", "high")])
}

test_a_suspected_injection_is_held if {
	held_by("injection-suspected") with input as with_findings(document, [finding("injection", "medium")])
}

test_one_sure_injection_among_others_is_denied if {
	findings := [finding("injection", "low"), finding("injection", "medium"), finding("injection", "high")]
	denied_by("injection-blocked") with input as with_findings(document, findings)
}

test_a_faint_injection_passes if {
	clean_allow with input as with_findings(document, [finding("injection", "low")])
}

test_content_that_is_not_what_it_says_is_held if {
	held_by("malformed-content") with input as with_findings(transaction, [finding("malformed", "medium")])
}

test_a_failed_inspection_is_not_clean if {
	denied_by("inspection-failed") with input as with_findings(document, [finding("scanner_failure", "high")])
	denied_by("inspection-failed") with input as object.remove(document, ["findings"])
}

test_a_finding_of_an_unheard_kind_is_held if {
	held_by("unexpected-finding") with input as with_findings(document, [finding("unheard", "low")])
}

# ---- Subscriptions

test_readers_of_a_topic_may_subscribe if {
	clean_allow with input as subscription("compliance", ["finance.>"])
	clean_allow with input as subscription("compliance", ["finance.transactions"])
	clean_allow with input as subscription("compliance", ["finance.*", "documents.incoming"])
	clean_allow with input as subscription("support", ["tickets.>"])
	clean_allow with input as subscription("external", ["external.>"])
}

test_others_may_not_subscribe if {
	not veribus.allow with input as subscription("support", ["finance.>"])
	not veribus.allow with input as subscription("external", ["tickets.>"])
	not veribus.allow with input as subscription("documents", ["tickets.new"])
}

test_every_pattern_of_a_subscription_must_be_allowed if {
	not veribus.allow with input as subscription("support", ["tickets.>", "finance.>"])
}

test_a_wide_pattern_needs_every_topic_in_it if {
	not veribus.allow with input as subscription("compliance", [">"])
	not veribus.allow with input as subscription("compliance", ["*.incoming"])
}

secret_topic := {
	"finance.>": {"subscribers": ["finance"]},
	"finance.payroll": {"subscribers": ["personnel"]},
}

test_a_specific_topic_overrules_the_wider_one if {
	veribus.allow with input as subscription("personnel", ["finance.payroll"]) with data.topics as secret_topic
	not veribus.allow with input as subscription("finance", ["finance.payroll"]) with data.topics as secret_topic
	not veribus.allow with input as subscription("finance", ["finance.>"]) with data.topics as secret_topic
	not veribus.allow with input as subscription("finance", ["finance.*"]) with data.topics as secret_topic
	veribus.allow with input as subscription("finance", ["finance.reports"]) with data.topics as secret_topic
}

# ---- The audit log

test_auditors_may_read_the_log if {
	clean_allow with input as {"action": "audit.read", "agent": agent("auditor")}
}

test_others_may_not_read_the_log if {
	not veribus.allow with input as {"action": "audit.read", "agent": agent("finance")}
}

test_an_unknown_action_is_not_allowed if {
	not veribus.allow with input as object.union(transaction, {"action": "other"})
}

# ---- Operators

test_an_operator_may_do_what_the_broker_found_its_permission_for if {
	every action in ["admin.backup", "admin.keys", "admin.revoke", "admin.sessions"] {
		veribus.allow with input as {"action": action, "agent": agent("operator")}
	}
}

test_no_other_action_is_allowed_to_an_operator if {
	not veribus.allow with input as {"action": "admin", "agent": agent("operator")}
	not veribus.allow with input as {"action": "audit.read", "agent": agent("operator")}
}

# ---- Shared state

state(role, action, scope, patterns) := {
	"action": action,
	"agent": agent(role),
	"state": {"scope": scope, "scope_patterns": patterns, "name": "4711"},
	"value": {"datacontenttype": "application/json", "size_bytes": 100},
	"findings": [],
}

test_the_hand_over_is_allowed if {
	clean_allow with input as state("support", "state.put", "tickets", ["tickets"])
	clean_allow with input as state("billing", "state.get", "tickets", ["tickets"])
	clean_allow with input as state("billing", "state.watch", "tickets", ["tickets"])
}

test_a_reader_may_not_write if {
	every action in ["state.put", "state.delete"] {
		not veribus.allow with input as state("billing", action, "tickets", ["tickets"])
	}
}

test_others_may_not_read if {
	every action in ["state.get", "state.list", "state.watch"] {
		not veribus.allow with input as state("support", action, "finance.reports", ["finance.>"])
	}
}

test_a_scope_without_settings_is_closed if {
	denied_by("unknown-scope") with input as state("support", "state.put", "unknown", [])
	denied_by("unknown-scope") with input as state("support", "state.get", "unknown", [])
}

test_what_does_not_belong_into_a_scope_is_withheld if {
	put := state("support", "state.put", "tickets", ["tickets"])
	held_by("too-large") with input as object.union(put, {"value": {"size_bytes": 70000}})
	held_by("unexpected-content-type") with input as object.union(put, {"value": {"datacontenttype": "text/html"}})
}

test_what_inspection_found_counts_for_values_too if {
	put := state("support", "state.put", "tickets", ["tickets"])
	injection := {"kind": "injection", "rule": "x", "severity": "high", "location": "data"}
	denied_by("injection-blocked") with input as object.union(put, {"findings": [injection]})
	denied_by("inspection-failed") with input as object.remove(put, ["findings"])
}

test_a_scope_may_ask_for_bound_tokens if {
	bound := {"tickets": {"readers": ["billing"], "require_bound": true}}
	read := state("billing", "state.get", "tickets", ["tickets"])
	denied_by("token-not-bound") with input as read with data.scopes as bound
}

# ---- Settings

test_the_settings_as_delivered_are_valid if {
	count(veribus.invalid) == 0
}

invalid(setting) if {
	some entry in veribus.invalid
	entry.setting == setting
}

test_a_setting_of_a_wrong_type_is_invalid if {
	invalid(["topics", "a", "max_bytes"]) with data.topics as {"a": {"max_bytes": "65536"}}
	invalid(["topics", "a", "require_bound"]) with data.topics as {"a": {"require_bound": "true"}}
	invalid(["topics", "a", "types"]) with data.topics as {"a": {"types": "a.b"}}
	invalid(["scopes", "a", "max_bytes"]) with data.scopes as {"a": {"max_bytes": null}}
	invalid(["scopes", "a", "readers"]) with data.scopes as {"a": {"readers": [1]}}
	invalid(["roles", "a", "destinations"]) with data.roles as {"a": {"destinations": ""}}
}

test_a_setting_that_is_misspelt_is_invalid if {
	invalid(["topics", "a", "requre_bound"]) with data.topics as {"a": {"requre_bound": true}}
	invalid(["scopes", "a", "publishers"]) with data.scopes as {"a": {"publishers": []}}
	invalid(["roles", "a", "destination"]) with data.roles as {"a": {"destination": []}}
}

test_settings_that_are_no_mapping_are_invalid if {
	invalid(["topics"]) with data.topics as {"a": []}
	invalid(["topics"]) with data.topics as [[]]
	invalid(["scopes"]) with data.scopes as {"a": []}
	invalid(["roles"]) with data.roles as []
}

test_a_limit_that_is_no_number_holds_messages if {
	text := {"finance.transactions": {"publishers": ["finance"], "max_bytes": "65536"}}
	held_by("too-large") with input as transaction with data.topics as text
	put := state("support", "state.put", "tickets", ["tickets"])
	held_by("too-large") with input as put with data.scopes as {"tickets": {"writers": ["support"], "max_bytes": "1"}}
}
