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
	{
		name:    "feed: a confirmation without a name says nothing",
		file:    "wire/feed/confirm.go",
		search:  "if !named && c.dialect.confirm.namesTopics() && !c.namesNone(message) {",
		replace: "if !named && false {",
		test:    "-run ^TestConfirmWithoutAName$ ./wire/feed",
	},
	{
		name:    "feed: several channels need no name in a confirmation",
		file:    "wire/feed/check.go",
		search:  "case c.Channel == \"\" && t.onlyChannel() == nil:",
		replace: "case c.Channel == \"\" && t.Name == \"\":",
		test:    "-run ^TestOneChannelHasNoName$ ./wire/feed",
	},
	{
		name:    "feed: answers to other requests delay the rest of a refused one",
		file:    "loop_requests.go",
		search:  "return later(a.answerBy, k.namedTopics.partly[a.write].Add(partlyTimeout))",
		replace: "return later(a.answerBy, k.answeredAt.Add(partlyTimeout))",
		test:    "-run ^TestManySubscriptionsAreBackInTime$ ./test",
	},
	{
		name:    "feed: answers to the rest of a refused request do not count",
		file:    "loop_requests.go",
		search:  "\t\tn.partly[s.askWrite] = now\n\t}\n}\n",
		replace: "\t}\n}\n",
		test:    "-run ^TestSlowAnswersAfterARefusalByName$ ./test",
	},
}
