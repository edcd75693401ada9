package main

const (
	soak        = "-run ^TestSoak$ . -args -seeds=2"
	windowTests = "-run ^Test(RefusalsAreTold|SelectiveAckIsNotSentAgain|LostSessionRenumbers|UplinkCreditHolds)$ ."
)

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
		name:    "policy: a herd comes back at once",
		file:    "reconnect.go",
		search:  "return uniform(max(p.o.First, spread))",
		replace: "return uniform(p.o.First)",
		test:    "-run ^TestHerd$ .",
	},
	{
		name:    "policy: the dial timeout does not grow",
		file:    "reconnect.go",
		search:  "p.dialTimeout*16/10",
		replace: "p.dialTimeout",
		test:    "-run ^TestPolicyDialTimeoutGrowsOnTimeoutsOnly$ .",
	},
	{
		name:    "resume: one message too early",
		file:    "queue.go",
		search:  "return q.last, q.based, q.granted\n",
		replace: "early := q.last\n\tearly.Offset -= min(early.Offset, 1)\n\treturn early, q.based, q.granted\n",
		test:    soak,
		says:    "nothing was lost",
	},
	{
		name:    "resume: as if it were new",
		file:    "subscribe.go",
		search:  "w.From, w.Position = FromResume, last",
		replace: "w.From, w.Position = FromNew, last",
		test:    soak,
		says:    "nothing was lost",
	},
	{
		name:    "fence: an old connection delivers",
		file:    "queue.go",
		search:  "if gen != q.gen || q.finishing {",
		replace: "if q.finishing {",
		test:    "-run ^TestQueueModel$ .",
	},
	{
		name:    "receiver: a repeat is delivered",
		file:    "queue.go",
		search:  "case at.Offset <= q.last.Offset:\n",
		replace: "case at.Offset < q.last.Offset:\n",
		test:    "-run ^TestRepeatsAreDropped$ .",
	},
	{
		name:    "receiver: a hole is let pass",
		file:    "queue.go",
		search:  "case ev.Prev > q.last.Offset && q.holes == wire.HolesFault:\n",
		replace: "case ev.Prev > q.last.Offset+1<<40 && q.holes == wire.HolesFault:\n",
		test:    "-run ^TestViolations$ .",
	},
	{
		name:    "receiver: a gap is not told",
		file:    "queue.go",
		search:  "q.lose(Gap, to, ev.Count, ev.Cause)\n",
		replace: "_ = ev.Cause\n",
		test:    "-run ^TestRetentionShowsAsGap$ .",
	},
	{
		name:    "receiver: a reset is not told",
		file:    "queue.go",
		search:  "q.lose(Reset, ev.Position, 0, ev.Cause)\n",
		replace: "_ = ev.Cause\n",
		test:    "-run ^TestResumeInANewClient$ .",
	},
	{
		name:    "window: the server's credit is not kept",
		file:    "ack.go",
		search:  "if seq > w.credit.N || w.bytes >= w.credit.Bytes && r.size > 0 {",
		replace: "if seq > w.credit.N+1<<40 {",
		test:    windowTests,
		says:    "I13",
	},
	{
		name:    "window: a selective ack is ignored",
		file:    "ack.go",
		search:  "for _, rg := range a.Ranges {\n\t\tfor",
		replace: "for _, rg := range a.Ranges[:0] {\n\t\tfor",
		test:    windowTests,
		says:    "FAIL: TestSelectiveAckIsNotSentAgain",
	},
	{
		name:    "window: a retransmission has no age",
		file:    "ack.go",
		search:  "m.Resent = !r.firstSent.IsZero() && !r.atLeast\n",
		replace: "m.Resent = false\n",
		test:    windowTests,
		says:    "without an age",
	},
	{
		name:    "window: a new session keeps the numbers",
		file:    "ack.go",
		search:  "r.message.Seq = uint64(len(kept))\n",
		replace: "r.message.Seq += 0\n",
		test:    windowTests,
		says:    "FAIL: TestLostSessionRenumbers",
	},
	{
		name:    "window: rejected is acknowledged",
		file:    "ack.go",
		search:  "w.settle(r, Rejected, &Error{Op: \"receipt\", Class: ClassOutcome, Code: int(rej.Code)",
		replace: "w.settle(r, Acked, &Error{Op: \"receipt\", Class: ClassOutcome, Code: int(rej.Code)",
		test:    windowTests,
		says:    "FAIL: TestRefusalsAreTold",
	},
	{
		name:    "close: unknown is called unsent",
		file:    "ack.go",
		search:  "if r.firstSent.IsZero() {\n\t\t\tw.resolve(r, Unsent",
		replace: "if !r.firstSent.IsZero() || r.size >= 0 {\n\t\t\tw.resolve(r, Unsent",
		test:    "-run ^TestCloseGivesEveryMessageItsOutcome$ .",
	},
}
