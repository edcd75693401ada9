package main

// ofExpiry: messages that expire before they were sent leave the window.
var ofExpiry = []mutation{
	{
		name:    "expiry: a message that has expired keeps its place",
		file:    "window.go",
		search:  "\tw.admission.Release(len(rs), freed)\n",
		replace: "\tw.admission.Release(0, freed)\n",
		test:    "-run ^TestBatchExpiresInPart$ ./test",
		says:    "window of unacknowledged messages is full",
	},
	{
		name:    "expiry: a message that was sent gives up its number",
		file:    "window.go",
		search:  "\t\tcase r.firstSent != 0:\n",
		replace: "",
		test:    "-run ^TestExpiringWindowModel$ .",
	},
	{
		name:    "expiry: a message that was not taken gives up its number",
		file:    "window.go",
		search:  "case r.details.refused",
		replace: "case r.details.refused && false",
		test:    "-run ^TestExpiredAfterARefusalKeepsItsNumber$ ./test",
	},
	{
		name:    "expiry: a message that has left is sent",
		file:    "window.go",
		search:  "if w.left > 0 && r.hasLeft() {",
		replace: "if false {",
		test:    "-run ^TestExpiringWindowModel$ .",
		says:    "has expired and is sent",
	},
	{
		name:    "expiry: the handshake counts messages that have left",
		file:    "window.go",
		search:  "\tw.compact()\n\treturn wire.Uplink{",
		replace: "\treturn wire.Uplink{",
		test:    "-run ^TestExpiringWindowModel$ .",
		says:    "in the handshake",
	},
	{
		name:    "expiry: what waits for a message does not move with it",
		file:    "window.go",
		search:  "first+uint64(i-dropped))",
		replace: "w.firstSeq+uint64(i))",
		test:    "-run ^TestFlushModel$ .",
	},
	{
		name:    "expiry: a stream waits for messages that have expired",
		file:    "internal/flush/flush.go",
		search:  "\tcase <-p.completed:\n\t\treturn true\n",
		replace: "",
		test:    "-timeout=30s -run ^TestStreamBehindMessagesThatExpire$ ./test",
	},
	{
		name:    "expiry: each message that expires costs a search of the window",
		file:    "window.go",
		search:  "2*w.left > w.slots.Len() {",
		replace: "w.left > 0 {",
		test:    "-run ^TestExpiryIsLinear$ .",
		says:    "steps for",
	},
	{
		name:    "expiry: messages of one time end in any order",
		file:    "window.go",
		search:  "\tslices.SortFunc(due, ",
		replace: "\t_ = (",
		test:    "-run ^TestExpiryInOrder$ ./test",
	},
}
