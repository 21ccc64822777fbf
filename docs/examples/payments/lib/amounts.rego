package veribus.amounts

import rego.v1

stated if is_number(input.message.body.amount)

within_limit if {
	stated
	currency := input.message.body.currency
	has_limit(currency)
	input.message.body.amount > 0
	input.message.body.amount <= data.limits[currency].amount_max
}

has_limit(currency) if is_number(data.limits[currency].amount_max)
