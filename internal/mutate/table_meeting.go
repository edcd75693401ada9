package main

// ofMeeting: rotation where it meets credentials, probes, redirects and Shutdown.
var ofMeeting = []mutation{
	{
		name:    "meeting: a refresh and an attempt do not wait for each other",
		file:    "internal/guard/asker.go",
		search:  "earlier != nil && !earlier.inTime(ctx)",
		replace: "earlier != nil",
		test:    "-run ^TestRotationAndRefreshShareAuth$ ./test",
	},
	{
		name:    "meeting: a credential from before a refusal counts as the second one",
		file:    "loop_connection.go",
		search:  "if k == nil || !l.hasNext() {",
		replace: "if true {",
		test:    "-run ^TestCredentialRefusedDuringRotation$ ./test",
	},
	{
		name:    "meeting: after a failed probe the loss of the next connection is answered at once",
		file:    "rotation.go",
		search:  "\tl.atOnce = false // there is no wait\n",
		replace: "",
		test:    "-run ^TestProbeFailsDuringRotation$ ./test",
	},
	{
		name:    "meeting: the URL that a server named outlives its connection",
		file:    "loop_connection.go",
		search:  "\tl.endpoints.Moved = nil // the server that was left named it\n",
		replace: "",
		test:    "-run ^TestURLOfAConnectionThatWasLeft$ ./test",
	},
	{
		name:    "meeting: a connection is left for one that speaks nothing",
		file:    "rotation.go",
		search:  "if f := e.conn.speaksNothing(); f != nil {",
		replace: "if f := e.conn.speaksNothing(); false {",
		test:    "-run ^TestNextConnectionSpeaksNothing$ ./test",
	},
	{
		name:    "meeting: the credential of the connection in use is forgotten",
		file:    "internal/secrets/secrets.go",
		search:  "if inUse == 0 {",
		replace: "if true {",
		test:    "-run ^TestCredentialIsSecretDuringRotation$ ./test",
	},
	{
		name:    "meeting: Shutdown keeps the next connection",
		file:    "loop_events.go",
		search:  "\tl.abandonNext()\n",
		replace: "",
		test:    "-run ^TestShutdownWhileTheNextConnectionWaits$ ./test",
	},
	{
		name:    "meeting: Drain sends a URL that no client can read",
		file:    "server/drain.go",
		search:  "if len(o.URL) > maxMoveURL || !utf8.ValidString(o.URL) {",
		replace: "if false && !utf8.ValidString(o.URL) {",
		test:    "-run ^TestDrainWithAUselessURL$ ./test",
	},
	{
		name:    "meeting: a permanent failure of the next connection ends the client",
		file:    "rotation.go",
		search:  "if d.Action == wire.ActionStop || d.Action == wire.ActionRefresh {",
		replace: "if d.Action == wire.ActionStop {\n\t\tl.end(f.Err)\n\t}\n\tif d.Action == wire.ActionRefresh {",
		test:    "-run ^TestPermanentDuringRotation$ ./test",
	},
}
