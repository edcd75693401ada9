package main

// ofReconnect: the rows of the tables in docs/reconnect.md, sections 2 and 3, and how soon many subscriptions are back.
var ofReconnect = []mutation{
	{
		name:    "rows: 425 ends a client",
		file:    "internal/verdict/table.go",
		search:  "s == http.StatusTooEarly, ",
		replace: "",
		test:    "-run ^TestReconnectTables$ ./test",
		says:    "425",
	},
	{
		name:    "rows: 1013 counts as one failure",
		file:    "internal/verdict/table.go",
		search:  "d.MinFailures = 3",
		replace: "d.MinFailures = 1",
		test:    "-run ^TestReconnectTables$ ./test",
		says:    "1013",
	},
	{
		name:    "rows: an expired certificate ends a client",
		file:    "internal/verdict/table.go",
		search:  "case errors.As(err, &invalid) && invalid.Reason == x509.Expired:",
		replace: "case errors.As(err, &invalid) && invalid.Reason == x509.Expired && false:",
		test:    "-run ^TestReconnectTables$ ./test",
		says:    "TLS:_expired",
	},
	{
		name:    "rows: 1010 ends no client",
		file:    "internal/verdict/table.go",
		search:  "case c == 1003, c == 1010:",
		replace: "case c == 1003:",
		test:    "-run ^TestReconnectTables$ ./test",
		says:    "1010",
	},
	{
		name:    "rows: requests use three fifths of what a server allows",
		file:    "internal/pace/limit.go",
		search:  "rate, most := 0.8*float64(messages)",
		replace: "rate, most := 0.6*float64(messages)",
		test:    "-run ^TestManySubscriptionsAreBackInTime$ ./test",
	},
}
