package main

const (
	checkFile  = "limpettest/check.go"
	framesFile = "limpettest/checkframes.go"
	checkTest  = "-run ^TestCheckHasTeeth$ ./limpettest"
	framesTest = "-run ^TestCheckFramesHasTeeth$ ./limpettest"
)

// ofOracle: one blind spot for each invariant that the oracle decides.
var ofOracle = []mutation{
	{
		name:    "oracle: I1, other bytes",
		file:    checkFile,
		search:  "case m.Sum != e.Sum:",
		replace: "case m.Sum != e.Sum && false:",
		test:    checkTest,
		says:    "TestCheckHasTeeth/other_bytes",
	},
	{
		name:    "oracle: I2, order",
		file:    checkFile,
		search:  "c.fail(\"I2\", \"%s: offset %d was delivered after %d\", e.Sub, e.Offset, high)",
		replace: "_ = high",
		test:    checkTest,
		says:    "TestCheckHasTeeth/order",
	},
	{
		name:    "oracle: I3, delivered twice",
		file:    checkFile,
		search:  "case e.ID != uuid.Nil && s.ids[e.ID] && (m == nil || !m.MayRepeat):",
		replace: "case e.ID != uuid.Nil && s.ids[e.ID] && m == nil:",
		test:    checkTest,
		says:    "TestCheckHasTeeth/id_twice",
	},
	{
		name:    "oracle: I3, accepted twice",
		file:    checkFile,
		search:  "at != e.Offset && e.ID != uuid.Nil",
		replace: "at < 0 && e.ID != uuid.Nil",
		test:    checkTest,
		says:    "TestCheckHasTeeth/accepted_twice",
	},
	{
		name:    "oracle: I4, a hole",
		file:    checkFile,
		search:  "case e.Offset <= s.have || end && h.Complete:",
		replace: "case e.Offset <= s.have && false || end && h.Complete && false:",
		test:    checkTest,
		says:    "TestCheckHasTeeth/missing",
	},
	{
		name:    "oracle: I5, acknowledged and not stored",
		file:    checkFile,
		search:  "if len(c.heldSubs) > 0 && !c.heldIDs[m.ID] {",
		replace: "if len(c.heldSubs) < 0 && !c.heldIDs[m.ID] {",
		test:    checkTest,
		says:    "TestCheckHasTeeth/acknowledged_and_not_held",
	},
	{
		name:    "oracle: I6, no outcome",
		file:    checkFile,
		search:  "c.fail(\"I6\", \"%s has no outcome\", name)\n",
		replace: "",
		test:    checkTest,
		says:    "TestCheckHasTeeth/no_outcome",
	},
	{
		name:    "oracle: I9, the commit falls",
		file:    checkFile,
		search:  "if e.Offset < s.committed {",
		replace: "if e.Offset < s.committed && false {",
		test:    checkTest,
		says:    "TestCheckHasTeeth/commit_falls",
	},
	{
		name:    "oracle of frames: I5, ack of nothing sent",
		file:    framesFile,
		search:  "if seq > conn.session.sent {",
		replace: "if seq > conn.session.sent && false {",
		test:    framesTest,
		says:    "TestCheckFramesHasTeeth/ack_of_nothing_sent",
	},
	{
		name:    "oracle of frames: I9, the ack falls",
		file:    framesFile,
		search:  "if a.To < conn.acked {",
		replace: "if a.To < conn.acked && false {",
		test:    framesTest,
		says:    "TestCheckFramesHasTeeth/ack_falls",
	},
	{
		name:    "oracle of frames: I10, not exactly what is missing",
		file:    framesFile,
		search:  "if m.S != want {",
		replace: "if m.S < want {",
		test:    framesTest,
		says:    "TestCheckFramesHasTeeth/one_not_sent_again",
	},
	{
		name:    "oracle of frames: I13, downlink credit",
		file:    framesFile,
		search:  "if ch.n > ch.credit.N {",
		replace: "if ch.n > ch.credit.N && false {",
		test:    framesTest,
		says:    "TestCheckFramesHasTeeth/downlink_count",
	},
}
