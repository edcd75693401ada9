package main

// ofLoop: statements that keep state, in the client and the server, and broke unnoticed once.
var ofLoop = []mutation{
	{
		name:    "loop: pings of the wire protocol are not answered",
		file:    "loop_events.go",
		search:  "k.ops = append(k.ops, wire.Op{Kind: wire.OpPong, N: ev.N})",
		replace: "_ = ev.N",
		test:    "-run ^TestPongsOwedAreBounded$ ./test",
		says:    "for 50 pings",
	},
	{
		name:    "loop: pongs without bound",
		file:    "loop_events.go",
		search:  "if len(k.ops) < maxReplies {",
		replace: "if true {",
		test:    "-run ^TestPongsOwedAreBounded$ ./test",
		says:    "for 5000 pings",
	},
	{
		name:    "loop: a subscription is taken up twice",
		file:    "loop_deadlines.go",
		search:  "\t\t\ts.askAgainAt = time.Time{}\n\t\t\tif l.askedOnLink(s) {",
		replace: "\t\t\tif l.askedOnLink(s) {",
		test:    "-run ^TestAskAgainTakesUpOnce$ .",
	},
	{
		name:    "queue: a closed one accepts",
		file:    "queue.go",
		search:  "func (q *queue) discard(err error) {\n\tq.mu.Lock()\n\tif !q.finishing {\n\t\tq.finishing, q.endErr = true, err",
		replace: "func (q *queue) discard(err error) {\n\tq.mu.Lock()\n\tif !q.finishing {\n\t\tq.finishing, q.endErr = false, err",
		test:    "-run ^TestClosedQueueAcceptsNothing$ .",
	},
	{
		name:    "loop: patience with the handshake only grows",
		file:    "loop_connection.go",
		search:  "\tl.policy.handshakeTimeout = handshakeTimeout\n",
		replace: "",
		test:    "-run ^TestPatienceWithTheHandshakeStartsAgain$ ./test",
	},
	{
		name:    "loop: goroutines start after Done",
		file:    "loop.go",
		search:  "\tl.c.goroutines.close()\n",
		replace: "",
		test:    "-run ^TestNothingStartsAfterTheEnd$ .",
	},
	{
		name:    "loop: a bye for a dialect that has none",
		file:    "loop_write.go",
		search:  "\t\t\t\tl.end(nil)\n\t\t\t\treturn\n",
		replace: "\t\t\t\tl.end(nil)\n",
		test:    "-run ^TestByeNeedsTheTrait$ ./test",
	},
	{
		name:    "loop: Subscribe waits for the end of Shutdown",
		file:    "loop_events.go",
		search:  "\t\te.reply <- &Error{Op: \"Subscribe\", Class: ClassClosed, Err: ErrClosed}\n",
		replace: "",
		test:    "-run ^TestCallsDuringShutdown$ ./test",
	},
	{
		name:    "server: a refused id keeps the next one waiting",
		file:    "server/ids.go",
		search:  "\ts.known[k].settle()\n",
		replace: "",
		test:    "-run ^TestSameIDAfterTheLogRefused$ ./server",
	},
	{
		name:    "server: Shutdown breaks what is being upgraded",
		file:    "server/server.go",
		search:  "for _, p := range s.shut(false) {",
		replace: "for _, p := range s.shut(true) {",
		test:    "-run ^TestEndDuringUpgrade$ ./server",
	},
	{
		name:    "server: giving up one message forgets those behind it",
		file:    "server/record.go",
		search:  "if r.ack < lo-1 {",
		replace: "if r.ack < lo {",
		test:    "-run ^TestGivenUpKeepsWhatIsBehind$ ./server",
	},
}
