package veribus_test

import rego.v1

import data.veribus

payment := {
	"action": "publish",
	"topic": "payments.orders",
	"agent": {"id": "payer", "roles": ["payments"], "token": {"bound": true}},
	"message": {"body": {"amount": 100, "currency": "EUR", "account": "DE89370400440532013000"}},
	"findings": [],
	"peer": {"address": "10.1.2.3"},
}

with_body(fields) := object.union(payment, {"message": {"body": fields}})

passes if {
	veribus.allow
	count(veribus.deny) == 0
	count(veribus.quarantine) == 0
}

test_a_payment_within_the_limit_passes if {
	passes with input as payment
	passes with input as with_body({"amount": 10000})
}

test_a_payment_above_the_limit_is_held if {
	{"rule": "above-limit"} in veribus.quarantine with input as with_body({"amount": 10000.01})
	{"rule": "above-limit"} in veribus.quarantine with input as with_body({"currency": "XXX"})
	{"rule": "above-limit"} in veribus.quarantine with input as with_body({"currency": null})
	{"rule": "above-limit"} in veribus.quarantine with input as with_body({"amount": -1})
}

test_an_amount_is_a_number if {
	{"rule": "no-amount"} in veribus.deny with input as with_body({"amount": "100"})
}

test_an_account_is_well_formed if {
	{"rule": "no-account"} in veribus.deny with input as with_body({"account": "DE89 3704"})
	{"rule": "no-account"} in veribus.deny with input as with_body({"account": 7})
}

test_a_payment_comes_from_the_own_network if {
	not veribus.allow with input as object.union(payment, {"peer": {"address": "192.0.2.1"}})
}

test_a_blocked_agent_is_denied if {
	{"rule": "blocked-agent"} in veribus.deny with input as object.union(payment, {"agent": {"id": "retired-agent"}})
}

test_whatever_was_found_is_held if {
	found := [{"kind": "injection", "severity": "low"}]
	{"rule": "injection"} in veribus.quarantine with input as object.union(payment, {"findings": found})
	{"rule": "not-inspected"} in veribus.quarantine with input as object.remove(payment, ["findings"])
}

test_the_treasury_reads if {
	reading := {"action": "subscribe", "patterns": ["payments.>"], "agent": {"id": "t", "roles": ["treasury"]}}
	veribus.allow with input as reading
	not veribus.allow with input as object.union(reading, {"patterns": ["payments.>", "finance.>"]})
}

test_limits_are_numbers if {
	count(veribus.invalid) == 0
	count(veribus.invalid) == 1 with data.limits as {"EUR": {"amount_max": "10000"}, "JPY": {"amount_max": 1}}
}
