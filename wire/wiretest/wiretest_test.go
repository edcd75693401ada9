package wiretest

import (
	"strings"
	"testing"
)

// TestToy: a dialect that keeps its promises passes, with and without a broker.
func TestToy(t *testing.T) {
	t.Run("log", func(t *testing.T) { Run(t, toySubject(toy{})) })
	t.Run("broker", func(t *testing.T) { Run(t, toySubject(toy{broker: true})) })
}

// TestBrokenDialects: each fault of a dialect is found by the check that is meant for it,
// and the finding says what is wrong.
func TestBrokenDialects(t *testing.T) {
	for _, tc := range []struct {
		broken string
		check  string // that must find it
		says   string // part of the finding
		broker bool
	}{
		{"a name that is no word", "dialect", "want a short lower-case word", false},
		{"traits that change", "dialect", "Traits change", false},
		{"an error that repeats a long topic", "dialect", "cut the topic", false},
		{"a verdict that panics", "dialect", "panics: no verdict", false},
		{"traits that contradict each other", "messages", "limpet.New refuses the dialect", false},
		{"an attempt that never dials", "memory", "neither Dial nor Request", false},
		{"no greeting", "memory", "the peer has found no Hello", false},
		{"an unreadable ping", "memory", "the peer cannot read", false},
		{"credit without sequence numbers", "memory", "counts only with the trait Sessions", false},
		{"an event with the memory of its frame", "memory", "keeps the memory of its frame", false},
		{"a frame with the memory of the payload", "memory", "", false},
		{"a text that is not UTF-8", "memory", "not UTF-8 into a text frame", false},
		{"a panic on an empty frame", "hostile input", "panics", false},
		{"an event without a name", "hostile input", "has no Name", false},
		{"events without bound", "hostile input", "events of a frame", false},
		{"memory without bound", "hostile input", "allocates", false},
		{"many allocations", "allocations", "allocations, more than", false},
		{"a message that is lost", "messages", "arrived", false},
		{"a message that comes twice", "messages", "arrived", false},
		{"a message of the wrong topic", "messages", "arrived", false},
		{"a payload that is changed", "messages", "not what the server sent", false},
		{"a confirmation that is lost", "messages", "does not become live", false},
		{"a loss that is hidden", "lost connections", "missing, and the server resumes", false},
		{"a subscription that is not restored", "lost connections", "", false},
		{"a resume that is no resume", "lost connections", "", false},
		{"a subscription that is not restored", "silent connection", "", false},
		{"an unreadable ping", "idle connection", "not of the protocol", false},
		{"a ping that is not answered", "pings of the server", "got 0 answers", false},
		{"numbers that are ignored", "numbers", "want 1000 1001", false},
		{"a refusal that confirms", "refused subscription", "want limpet.ErrRejected", false},
		{"an end that is not sent", "end of a subscription", "read 0 OpUnsubscribe", false},
		{"a publish that is sent twice", "publishes", "took it 2 times", false},
		{"an acknowledgement of its own making", "publishes without an answer", "has the outcome acked", false},
		{"a rejection that acknowledges", "rejected publish", "want rejected", false},
		{"a publish that is sent twice", "publishes over lost connections", "has not allowed that", false},
		{"a processed message that is not acknowledged", "processed messages", "is acknowledged 0 times, want 1", true},
		{"a release that acknowledges", "processed messages", "", true},
		{"a redelivery that is not marked", "processed messages over lost connections", "not marked as Redelivered", true},
		{"a processed message that is not acknowledged", "processed messages over lost connections", "is acknowledged 0 times", true},
		{"a refusal that counts as a greeting", "refused credential", "has not ended", false},
		{"a refusal without a verdict", "refused credential", "", false},
	} {
		t.Run(tc.broken+"/"+tc.check, func(t *testing.T) {
			for _, c := range checks {
				if c.name != tc.check {
					continue
				}
				found := strings.Join(toySubject(toy{broken: tc.broken, broker: tc.broker}).run(t, c), "\n")
				if found == "" || !strings.Contains(found, tc.says) {
					t.Errorf("found %q, want one that says %q", found, tc.says)
				}
				return
			}
			t.Fatal("no such check")
		})
	}
}
