package main

// ofAnswers: what a feed's server answers, in parts, late, for now, to nothing or not at all.
var ofAnswers = []mutation{
	{
		name:    "feed: the loop spins until the welcome",
		file:    "loop_deadlines.go",
		search:  "\t\tat(k.handshakeBy)\n",
		replace: "\t\tat(k.handshakeBy)\n\t\tat(k.renewAt)\n",
		test:    "-timeout 20s -run ^TestGoAwayBeforeTheWelcome$ ./test",
	},
	{
		name:    "feed: a wrong item is no gap",
		file:    "wire/feed/funcs_codec.go",
		search:  "c.gap(it.Topic, 1, out)",
		replace: "",
		test:    "-run ^TestPartOfAMessageIsRefused$ ./wire/feed",
	},
	{
		name:    "feed: a message that Read refuses leaves no gap",
		file:    "wire/feed/funcs_codec.go",
		search:  "c.gap(topic, lost[topic], out)",
		replace: "_ = topic",
		test:    "-run ^TestPartOfAMessageIsRefused$ ./wire/feed",
	},
	{
		name:    "feed: a welcome that does not count hides the next one",
		file:    "wire/feed/funcs_codec.go",
		search:  "c.welcomed = false",
		replace: "_ = 0",
		test:    "-run ^TestPartOfAMessageIsRefused$ ./wire/feed",
	},
	{
		name:    "feed: an answer counts for topics that it does not name",
		file:    "wire/feed/confirm.go",
		search:  "len(named) > 0 || c.namesNone(message)",
		replace: "len(named) > len(p.topics)",
		test:    "-run ^TestAnswerForAPartOfARequest$ ./wire/feed",
	},
	{
		name:    "feed: the refusal of one topic answers for the others",
		file:    "wire/feed/confirm.go",
		search:  "c.keepOpen(id, p, []string{topic})",
		replace: "_ = id",
		test:    "-run ^TestAnswerForAPartOfARequest$ ./wire/feed",
	},
	{
		name:    "feed: a server that asks for a new connection is not obeyed",
		file:    "loop_events.go",
		search:  "l.planLeaving(k, ev)",
		replace: "",
		test:    "-run ^TestGoAwayMessage$ ./test",
	},
	{
		name:    "feed: a new connection waits for a quiet moment for ever",
		file:    "reconnect.go",
		search:  "l.now.Add(leavePatience), true",
		replace: "l.now.Add(headers.MaxRetryAfter), true",
		test:    "-run ^TestGoAwayMessage$ ./test",
	},
	{
		name:    "feed: a server that asks for new connections is hammered",
		file:    "reconnect.go",
		search:  "\tif k.goAway {\n\t\tl.tryAgain(",
		replace: "\tif k.goAway && false {\n\t\tl.tryAgain(",
		test:    "-run ^TestGoAwayMessage$ ./test",
	},
	{
		name:    "feed: a message that was refused for now is refused for good",
		file:    "wire/feed/funcs_codec.go",
		search:  "Reason: reasonOf(it), Retry: max(0, it.Retry)}",
		replace: "Reason: reasonOf(it)}",
		test:    "-run ^TestRefusedForNow$ ./test",
	},
	{
		name:    "feed: a subscription that was refused for now is refused for good",
		file:    "wire/feed/funcs_codec.go",
		search:  "reasonOf(it), max(0, it.Retry)\n",
		replace: "reasonOf(it), 0\n",
		test:    "-run ^TestRefusedForNow$ ./test",
	},
	{
		name:    "feed: what Read says after it has returned counts",
		file:    "wire/feed/funcs_codec.go",
		search:  "if returned.Load() {",
		replace: "if false {",
		test:    "-run ^TestSayAfterReadHasReturned$ ./test",
	},
}
