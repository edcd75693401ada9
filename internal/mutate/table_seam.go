package main

// ofSeam: what a dialect owes the client, and what the client does with one that owes
// little or misbehaves.
var ofSeam = []mutation{
	{
		name:    "seam: a restart is a repeat",
		file:    "internal/sequence/receiver.go",
		search:  "r.last.Offset-number <= r.lookBack",
		replace: "r.last.Offset-number <= r.lookBack+1<<40",
		test:    "-run ^TestNumbersThatGoBack$ ./test",
	},
	{
		name:    "seam: a Prev that was left out hides a gap",
		file:    "internal/sequence/receiver.go",
		search:  "if r.holes == wire.HolesLoss && (ev.Prev == 0 || ev.Prev >= ev.Position.Offset) {",
		replace: "if false {",
		test:    "-run ^TestNumbersThatGoBack$ ./test",
	},
	{
		name:    "seam: a confirmed position allows no repeats",
		file:    "internal/sequence/receiver.go",
		search:  "return r.repeats && number > r.repeatFrom",
		replace: "return false",
		test:    "-run ^TestConfirmedPositionAllowsRepeats$ ./test",
	},
	{
		name:    "seam: repeats have no end",
		file:    "internal/sequence/receiver.go",
		search:  "if ev.Numbered && ev.Position.Offset > r.last.Offset {\n\t\tr.repeats = false",
		replace: "if false {\n\t\tr.repeats = false",
		test:    "-run ^TestConfirmedPositionAllowsRepeats$ ./test",
	},
	{
		name:    "seam: contradictory traits are accepted",
		file:    "config.go",
		search:  "\t\tif both.refused {\n",
		replace: "\t\tif false {\n",
		test:    "-run ^TestContradictoryTraits$ ./test",
	},
	{
		name:    "seam: a Decode that hangs keeps the client",
		file:    "reader.go",
		search:  "\t\tr.inbox.post(dialectHangs{newHangError(\"Decode\"",
		replace: "\t\t_ = (dialectHangs{newHangError(\"Decode\"",
		test:    "-timeout=20s -run ^TestDialectThatHangs$/^Decode ./test",
	},
	{
		name:    "seam: Done waits for a Decode that hangs",
		file:    "reader.go",
		search:  "(\"Decode\", \"limpet.(*reader).decode(\")})\n\t\tr.goroutines.release()",
		replace: "(\"Decode\", \"limpet.(*reader).decode(\")})",
		test:    "-timeout=20s -run ^TestDialectThatHangs$/^Decode ./test",
	},
	{
		name:    "seam: a call counts from the one before",
		file:    "dialect.go",
		search:  "if rest := maxCall - time.Since(w.began); rest > 0 {",
		replace: "if rest := time.Duration(0); rest > 0 {",
		test:    "-timeout=20s -run ^TestDialectThatHangs$/^Decode ./test",
	},
	{
		name:    "seam: an Attempt that hangs keeps the client",
		file:    "dialer.go",
		search:  "\t\td.inbox.post(dialectHangs{newHangError(\"Attempt\"",
		replace: "\t\t_ = (dialectHangs{newHangError(\"Attempt\"",
		test:    "-timeout=20s -run ^TestDialectThatHangs$/^Attempt ./test",
	},
	{
		name:    "seam: a refused step has no status",
		file:    "dialer.go",
		search:  "\t\tif errors.As(err, &refused) {",
		replace: "\t\tif errors.As(err, &refused) && false {",
		test:    "-run ^TestRefusedStep$ ./test",
	},
	{
		name:    "seam: the state of an attempt is lost",
		file:    "dialer.go",
		search:  "token: w.Token, state: w.State}",
		replace: "token: w.Token}",
		test:    "-run ^TestRefusedStep$ ./test",
	},
}
