# Payment orders: who may send them, from where, up to which amount, to which account.
#
# An example of a policy in several files, with data in folders: lib/amounts.rego, blocklists/data.yaml, limits/data.yaml.
package veribus

import rego.v1

import data.veribus.amounts.has_limit
import data.veribus.amounts.stated
import data.veribus.amounts.within_limit

default allow := false

allow if {
	input.action == "publish"
	startswith(input.topic, "payments.")
	"payments" in input.agent.roles
	from_own_network
}

allow if {
	input.action == "subscribe"
	"treasury" in input.agent.roles
	every pattern in input.patterns {
		startswith(pattern, "payments.")
	}
}

from_own_network if net.cidr_contains("10.0.0.0/8", input.peer.address)

from_own_network if net.cidr_contains("127.0.0.0/8", input.peer.address)

deny contains {"rule": "blocked-agent"} if input.agent.id in data.blocklists.agents

deny contains {"rule": "token-not-bound"} if {
	input.action == "publish"
	not input.agent.token.bound
}

deny contains {"rule": "no-amount"} if {
	input.action == "publish"
	not stated
}

deny contains {"rule": "no-account"} if {
	input.action == "publish"
	not account_stated
}

account_stated if {
	is_string(input.message.body.account)
	regex.match(`^[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}$`, input.message.body.account)
}

quarantine contains {"rule": "above-limit"} if {
	input.action == "publish"
	not within_limit
}

# What was found by inspection, whatever it is, is looked at by somebody.
quarantine contains {"rule": kind} if {
	some finding in input.findings
	kind := finding.kind
	is_string(kind)
}

quarantine contains {"rule": "not-inspected"} if {
	input.action == "publish"
	not inspected
}

inspected if is_array(input.findings)

# Evaluated when the policy is loaded: a limit that is no number would hold every payment.
invalid contains {"currency": currency, "problem": "the limit is no number"} if {
	some currency, _ in data.limits
	not has_limit(currency)
}
