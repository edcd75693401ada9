package main

// ofCredentials: how a client presents credentials and asks for new ones, and what
// Options.Verdict may decide.
var ofCredentials = []mutation{
	{
		name:    "verdict: the caller overrules an error made with Permanent",
		file:    "failure.go",
		search:  "if l.c.cfg.Verdict == nil || d.fixed {",
		replace: "if l.c.cfg.Verdict == nil {",
		test:    "-run ^TestVerdictOverrules$/^Permanent ./test",
	},
	{
		name:    "verdict: the caller undercuts the slot of the server",
		file:    "failure.go",
		search:  "v.After = max(v.After, would.After) // never before the server's slot",
		replace: "",
		test:    "-run ^TestVerdictIsObeyed$ ./test",
	},
	{
		name:    "verdict: one without an opinion stops the counts of the tables",
		file:    "failure.go",
		search:  "\tif v == would.Verdict {\n\t\treturn d\n\t}\n",
		replace: "",
		test:    "-run ^TestVerdictOverrules$ ./test",
	},
	{
		name:    "verdict: the caller does not learn what has become final",
		file:    "failure.go",
		search:  "\ttrial.weigh(&would, l.now, l.canRefresh(), l.c.cfg.Backoff.KeepTrying)\n",
		replace: "",
		test:    "-run ^TestVerdictLearnsWhatTheClientWouldDo$ ./test",
	},
	{
		name:    "verdict: an action of the caller waits as the client would have",
		file:    "failure.go",
		search:  "would.atCap, would.minFailures = false, 0",
		replace: "",
		test:    "-run ^TestVerdictIsObeyed$ ./test",
	},
	{
		name:    "verdict: a refused credential is forgotten when the caller waits",
		file:    "loop_connection.go",
		search:  "refused = refused || d.Action == wire.ActionRefresh",
		replace: "refused = d.Action == wire.ActionRefresh",
		test:    "-run ^TestVerdictKeepsTheRefusalInMind$ ./test",
	},
	{
		name:    "verdict: a call that hangs stops the client",
		file:    "dialect.go",
		search:  "context.WithTimeout(l.c.closing, maxCall)",
		replace: "context.WithTimeout(l.c.closing, 1000*maxCall)",
		test:    "-run ^TestVerdictThatFails$ ./test",
	},
	{
		name:    "verdict: Close waits for a call that hangs",
		file:    "dialect.go",
		search:  "context.WithTimeout(l.c.closing, maxCall)",
		replace: "context.WithTimeout(context.Background(), maxCall)",
		test:    "-run ^TestVerdictThatHangsDoesNotHoldUpClose$ ./test",
	},
	{
		name:    "verdict: an action that does not exist is taken",
		file:    "dialect.go",
		search:  "case v.Action > wire.ActionStop:",
		replace: "case v.Action > 100:",
		test:    "-run ^TestVerdictThatFails$ ./test",
	},
	{
		name:    "verdict: the caller gets cookies",
		file:    "internal/secrets/secrets.go",
		search:  "h.Del(\"Set-Cookie\")",
		replace: "",
		test:    "-run ^TestVerdictGetsNoSecret$ ./test",
	},
	{
		name:    "verdict: the caller gets secrets in headers",
		file:    "internal/secrets/secrets.go",
		search:  "values[i] = s.Hide(v)",
		replace: "values[i] = v",
		test:    "-run ^TestVerdictGetsNoSecret$ ./test",
	},
}
