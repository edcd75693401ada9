package main

// ofBounds: what must not grow with the number of subscriptions, and what must not
// depend on the speed of the link.
var ofBounds = []mutation{
	{
		name:    "registry: a removal moves all others",
		file:    "registry.go",
		search:  "if r.removed <= len(r.subs)/2 {",
		replace: "if r.removed == 0 {",
		test:    "-run ^TestRegistryMovesFew$ .",
	},
	{
		name:    "registry: what is due has no order",
		file:    "registry.go",
		search:  "slices.SortFunc(taken, func(a, b *Subscription) int { return a.place - b.place })",
		replace: "slices.SortFunc(taken, func(a, b *Subscription) int { return b.place - a.place })",
		test:    "-run ^TestDueInOrderOfRegistration$ .",
	},
	{
		name:    "server: the first subscription takes every turn",
		file:    "server/write.go",
		search:  "\t\tw.due.Drop(1)\n\t\ts.due = false\n\t\tif more {\n",
		replace: "\t\tif more {\n\t\t\tbreak\n\t\t}\n\t\tw.due.Drop(1)\n\t\ts.due = false\n\t\tif more {\n",
		test:    "-run ^TestTurns$ ./server",
	},
	{
		name:    "slow link: bytes that move are no life",
		file:    "loop_deadlines.go",
		search:  "\t\tk.moved = at\n",
		replace: "",
		test:    "-run ^TestSlowUplinkIsNoLoss$ ./test",
	},
	{
		name:    "slow link: writes are as long as ever",
		file:    "loop_events.go",
		search:  "\tl.followLink(k, e.bytes)\n",
		replace: "",
		test:    "-run ^TestControlFramesBeforeABacklog$ ./test",
	},
	{
		name:    "slow link: a large message joins a batch",
		file:    "window.go",
		search:  "if count > 0 && size+len(r.payload)+64 > maxBytes {",
		replace: "if count > 0 && size > maxBytes {",
		test:    "-run ^TestBatchFitsTheLink$ .",
	},
	{
		name:    "slow link: HELLO does not say the interval",
		file:    "wire/native/codec_client.go",
		search:  "\t\tHB:  ticks(r.Heartbeat, time.Millisecond),\n",
		replace: "",
		test:    "-run ^TestSlowUplinkIsNoLoss$ ./test",
	},
	{
		name:    "slow link: a step hides that a message grows",
		file:    "internal/socket/stream.go",
		search:  "grew && s.lastGrowth.Load() != 0",
		replace: "grew && s.lastGrowth.Load() == 1",
		test:    "-run ^TestSlowDownlinkIsNoLoss$ ./test",
	},
	{
		name:    "slow link: every connection waits equally long",
		file:    "loop_deadlines.go",
		search:  "\t\tl.silences++\n",
		replace: "",
		test:    "-run ^TestPatienceWithSilenceGrows$ ./test",
	},
	{
		name:    "slow link: patience is never forgotten",
		file:    "loop_deadlines.go",
		search:  "\t\tl.silences = 0\n",
		replace: "",
		test:    "-run ^TestPatienceIsForgotten$ .",
	},
	{
		name:    "slow link: pings pile up",
		file:    "loop_deadlines.go",
		search:  "if !k.pingQueued {",
		replace: "if true {",
		test:    "-run ^TestOnePingWaits$ .",
	},
	{
		name:    "server: the client's interval does not count",
		file:    "server/options.go",
		search:  "return max(milliseconds(h.HB), min(minBeat, o.Heartbeat))",
		replace: "return o.Heartbeat",
		test:    "-run ^TestHeartbeatOfTheClient$ ./server",
	},
	{
		name:    "server: any interval of the client",
		file:    "server/options.go",
		search:  "return max(milliseconds(h.HB), min(minBeat, o.Heartbeat))",
		replace: "return milliseconds(h.HB)",
		test:    "-run ^TestHeartbeatOfTheClient$ ./server",
	},
	{
		name:    "server: batches are as long as ever",
		file:    "server/write.go",
		search:  "case took > writeTime:",
		replace: "case took > time.Hour:",
		test:    "-run ^TestControlFramesBeforeABacklog$ ./test",
	},
}
