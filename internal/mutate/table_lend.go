package main

// ofLend breaks the memory of lent payloads.
var ofLend = []mutation{
	{
		name:    "lend: a block is used again while messages wait in it",
		file:    "internal/lend/memory.go",
		search:  "\tif b.waiting > 0 || b.taken > 0 {\n",
		replace: "\tif b.taken > 0 {\n",
		test:    lendTests,
	},
	{
		name:    "lend: a block is used again while a batch holds it",
		file:    "internal/lend/memory.go",
		search:  "\tif b.waiting > 0 || b.taken > 0 {\n",
		replace: "\tif b.waiting > 0 {\n",
		test:    lendTests,
	},
	{
		name:    "lend: append reaches the next payload",
		file:    "internal/lend/memory.go",
		search:  "[b.used : b.used+len(payload) : b.used+len(payload)]",
		replace: "[b.used : b.used+len(payload)]",
		test:    lendTests,
	},
	{
		name:    "lend: the ends of blocks are not foreseen",
		file:    "internal/lend/memory.go",
		search:  "more := 2 * int64(size)",
		replace: "more := int64(size)",
		test:    lendTests,
	},
	{
		name:    "lend: blocks are never used again",
		file:    "internal/lend/memory.go",
		search:  "\tpools[b.size].Put(b)\n",
		replace: "",
		test:    lendTests,
	},
	{
		name:    "lend: a payload that is given back is not overwritten",
		file:    "internal/lend/memory.go",
		search:  "\tfor _, p := range batch.payloads {\n\t\tpoison(p)\n\t}\n",
		replace: "",
		test:    "-tags limpetdebug " + lendTests,
	},
	{
		name:    "lend: a batch keeps what it has taken",
		file:    "queue_take.go",
		search:  "\t\tif batch != nil {\n\t\t\tq.lent.Return(batch)\n\t\t}\n",
		replace: "",
		test:    "-tags limpetdebug -run ^TestLentPayloads$ ./test",
	},
	{
		name:    "lend: Messages hands over what it gives back",
		file:    "internal/lend/memory.go",
		search:  "\t\town = bytes.Clone(payload)\n",
		replace: "",
		test:    "-tags limpetdebug -run ^TestLentPayloadsThatAreCopies$ ./test",
	},
	{
		name:    "lend: a payload stays in its frame",
		file:    "queue_offer.go",
		search:  "\t\t\tevents[i].OwnPayload()\n",
		replace: "\t\t\t_ = i\n",
		test:    "-run ^TestPayloadsOfFramesThatFollowQuickly$ ./test",
	},
	{
		name:    "lend: blocks do not count for Options.Memory",
		file:    "queue_memory.go",
		search:  "\t\treturn n + q.lent.Held()\n",
		replace: "\t\treturn n\n",
		test:    "-run ^TestMemoryAtRandom$ ./test",
	},
	{
		name:    "lend: an ended queue keeps its blocks",
		file:    "queue.go",
		search:  "\t\tq.lent.Reset()\n",
		replace: "",
		test:    "-run ^TestDeliveryAllocates$ .",
	},
	{
		name:    "lend: dropped messages keep their blocks",
		file:    "queue_memory.go",
		search:  "\t\tq.lent.Drop(m.number, len(m.Payload))\n",
		replace: "",
		test:    "-run ^TestDroppedMessagesAreNotLent$ ./test",
	},
	{
		name:    "lend: Latest keeps blocks for one message",
		file:    "config.go",
		search:  "\tcase s.Lend && s.Delivery.Overflow == Latest:\n",
		replace: "\tcase false:\n",
		test:    "-run ^TestCarelessInputs$ ./test",
	},
	{
		name:    "lend: a large payload is copied twice",
		file:    "internal/lend/memory.go",
		search:  "\tif Fits(len(payload)) {\n\t\town =",
		replace: "\tif len(payload) > 0 {\n\t\town =",
		test:    "-run ^TestReleaseCopiesOnlyWhatIsInABlock$ ./internal/lend",
	},
	{
		name:    "lend: a large payload stays in its frame",
		file:    "queue_memory.go",
		search:  "\t\tev.OwnPayload()\n",
		replace: "",
		test:    "-run ^TestLentPayloadsOfAllSizes$ ./test",
	},
	{
		name:    "lend: others give way to a large payload as if it took blocks",
		file:    "queue_memory.go",
		search:  "n += int64(sum.size-sum.inBlocks) + q.lent.MostFor(sum.inBlocks)",
		replace: "n += q.lent.MostFor(sum.size)",
		test:    "-run ^TestALargePayloadThatIsLentFits$ ./test",
	},
	{
		name:    "lend: the next block does not count before a message is accepted",
		file:    "queue_memory.go",
		search:  "\t\treturn n + q.lent.CostOf(len(m.Payload))\n",
		replace: "\t\treturn n + int64(len(m.Payload))\n",
		test:    leftMemoryTest,
	},
	{
		name:    "wiretest: a borrowed payload may lie anywhere",
		file:    "wire/wiretest/talk.go",
		search:  "\t\tif len(bytes.Trim(payload, \"X\")) > 0 {\n",
		replace: "\t\tif false {\n",
		test:    "-run ^TestBrokenDialects$ ./wire/wiretest",
	},
}

const (
	leftMemoryTest = "-run ^TestMemoryThatIsLeftIsNotExceeded$ ./test"
	lendTests      = "-run ^TestMemory ./internal/lend"
)
