package main

// ofClient: the envelope of reconnection (docs/reconnect.md, section 1) and the promises that
// depend on one statement.
var ofClient = []mutation{
	{
		name:    "policy: gives up",
		file:    "reconnect.go",
		search:  "backoff.WithMaxElapsedTime(0),",
		replace: "backoff.WithMaxElapsedTime(1),",
		test:    "-run ^TestPolicyNeverGivesUp$ .",
	},
	{
		name:    "policy: attempts earlier than the envelope",
		file:    "reconnect.go",
		search:  "backoff.WithRandomizationFactor(1.0/3),",
		replace: "backoff.WithRandomizationFactor(1),",
		test:    "-run ^TestPolicyNeverGivesUp$ .",
		says:    "want \\[",
	},
	{
		name:    "policy: a slot of the server is undercut",
		file:    "reconnect.go",
		search:  "return d.After + uniform(max(d.After/10, d.window))",
		replace: "return uniform(d.After)",
		test:    "-run ^TestPolicySlotReplacesTheDraw$ .",
	},
	{
		name:    "policy: no spread window",
		file:    "reconnect.go",
		search:  "case v < spread:",
		replace: "case v < spread && false:",
		test:    "-run ^TestPolicySpread$ .",
	},
	{
		name:    "policy: the dial timeout does not grow",
		file:    "reconnect.go",
		search:  "p.dialTimeout*16/10",
		replace: "p.dialTimeout",
		test:    "-run ^TestPolicyDialTimeoutGrowsOnTimeoutsOnly$ .",
	},
}
