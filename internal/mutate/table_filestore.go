package main

// ofFileStore breaks the store of a server in files.
var ofFileStore = []mutation{
	{
		name:    "server/file: what is not durable is visible",
		file:    "server/file/store.go",
		search:  "offset <= s.visible && n < len(dst)",
		replace: "offset <= s.state.head && n < len(dst)",
		test:    "-run ^TestFailedSync$ ./server/file",
	},
	{
		name:    "server/file: a Commit does not wait for the disk",
		file:    "server/file/store.go",
		search:  "\tif failed := s.settle(ctx, b); failed != nil {\n",
		replace: "\tif failed := s.settle(ctx, nil); b == nil && failed != nil {\n",
		test:    "-run ^TestFailedSync$ ./server/file",
	},
	{
		name:    "server/file: a store writes after a sync that failed",
		file:    "server/file/write.go",
		search:  "\t\ts.refused = err\n",
		replace: "",
		test:    "-run ^TestFailedSync$ ./server/file",
	},
	{
		name:    "server/file: a batch without room is lost",
		file:    "server/file/write.go",
		search:  "\t\ts.retain(b)\n",
		replace: "",
		test:    "-run ^TestFullDisk$ ./server/file",
	},
	{
		name:    "server/file: a removed directory takes messages",
		file:    "server/file/write.go",
		search:  "\tif !s.files.Present(segment.Name(s.current.Number), s.file) {\n",
		replace: "\tif false {\n",
		test:    "-run ^TestSegmentsThatDoNotFit$ ./server/file",
	},
	{
		name:    "server/file: the last file may be missing",
		file:    "server/file/write.go",
		search:  "\tif c.first <= s.current.Number {\n",
		replace: "\tif false {\n",
		test:    "-run ^TestSegmentsThatDoNotFit$ ./server/file",
	},
	{
		name:    "server/file: no mark after the last record",
		file:    "server/file/store.go",
		search:  "\t\terr = s.mark()\n",
		replace: "",
		test:    "-run ^TestFlippedBits$ ./server/file",
	},
	{
		name:    "server/file: files are kept for ever",
		file:    "server/file/write.go",
		search:  " > 2*all+4*s.files.SegmentSize) {\n",
		replace: " > 2000*all+4000*s.files.SegmentSize) {\n",
		test:    "-run ^TestWhatIsCarried$ ./server/file",
	},
	{
		name:    "server/file: records go with their file",
		file:    "server/file/write.go",
		search:  "\t\tif r.segment < c.first {\n",
		replace: "\t\tif false {\n",
		test:    "-run ^TestWhatIsCarried$ ./server/file",
	},
	{
		name:    "server/file: ids go with their file",
		file:    "server/file/write.go",
		search:  "\t\tif k.segment < c.first {\n",
		replace: "\t\tif false {\n",
		test:    "-run ^TestWhatIsCarried$ ./server/file",
	},
	{
		name:    "server/file: a record that was not durable is built on",
		file:    "server/file/recover.go",
		search:  "\tif err := s.files.Confirm(f, s.end, r.lastRecord, r.closed); err != nil {\n",
		replace: "\tif err := error(nil); err != nil {\n",
		test:    "-run ^TestCrashesAtRandom$ ./server/file",
	},
}
