package main

// ofWire: what a decoder must refuse, and what a topic may not be.
var ofWire = []mutation{
	{
		name:    "native: a field given twice",
		file:    "wire/native/reader.go",
		search:  "if o.seen&(1<<num) != 0 {",
		replace: "if o.seen&(1<<num) != 0 && num < 0 {",
		test:    "-run ^TestRefused ./wire/native",
		says:    "want code 4001",
	},
	{
		name:    "native: frames of a batch without bound",
		file:    "wire/native/decode.go",
		search:  "if n > r.lim.Frames {",
		replace: "if n > r.lim.Frames && n < 0 {",
		test:    "-run ^TestRefused ./wire/native",
		says:    "4097 frames",
	},
	{
		name:    "native: a required field is missing",
		file:    "wire/native/reader.go",
		search:  "if r.code == 0 && o.seen&need != need {",
		replace: "if r.code == 0 && o.seen&need != need && need == 0 {",
		test:    "-run ^TestRefused ./wire/native",
		says:    "want code 4001",
	},
	{
		name:    "native: publishing to a wildcard",
		file:    "wire/native/topic.go",
		search:  "case use == wire.UsePublish:",
		replace: "case use == wire.UsePublish && level == \"\":",
		test:    "-run ^TestTopics$ ./wire/native",
	},
}
