package wiretest

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
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
		{"no codec", "memory", "neither a codec nor an error", false},
		{"an event with the memory of its frame", "memory", "keeps the memory of its frame", false},
		{"a payload that is borrowed from elsewhere", "memory", "lies outside its frame", false},
		{"an answer with the memory of its frame", "memory", "keeps the memory of its frame", false},
		{"a frame with the memory of the payload", "memory", "", false},
		{"a text that is not UTF-8", "memory", "not UTF-8 into a text frame", false},
		{"frames in another order", "frames", "the peer reads [23 22 21]", false},
		{"an op that is left out of a batch", "frames", "the peer reads [21]", false},
		{"an index of another op", "frames", "OpError.Index is 0", false},
		{"frames from a refused op on", "frames", "want [24]", false},
		{"a ping that is one variable", "frames", "append a copy", false},
		{"frames that are not counted", "frames", "return at least that number", false},
		{"frames that are counted in another way each time", "frames", "it must change nothing", false},
		{"a number that is a float", "values", "reports number 9007199254740992", false},
		{"a number of its own", "values", "without a number, and Decode reports number 0", false},
		{"a beginning that is ignored", "beginnings", "makes a frame in which the peer reads From", false},
		{"an error for a line that is not known", "hostile input", "which ends the connection", false},
		{"a payload that is cut", "values", "of 70015 bytes, and Decode reports none", false},
		{"a payload that is read as JSON", "values", "Decode reports none with it", false},
		{"a publish that is cut", "values", "the peer reads none with it", false},
		{"a payload that Encode changes", "values", "Encode changes the message", false},
		{"memory that grows with each message", "growth", "keeps", false},
		{"a topic that all connections share", "two clients", "two clients with one dialect received 20 messages, want 40", false},
		{"an error that repeats the line", "hostile input", "repeats what the peer sent", false},
		{"an answer to another ping", "pings of the server", "the answer to ping 8", false},
		{"an acknowledgement with a message", "publishes without an answer", "has the outcome acked", false},
		{"a panic on an empty frame", "hostile input", "panics", false},
		{"a reason that repeats the line", "hostile input", "different reasons", false},
		{"an event without a name", "hostile input", "has no Name", false},
		{"events without bound", "hostile input", "events of a frame", false},
		{"memory without bound", "hostile input", "allocates", false},
		{"many allocations", "allocations", "allocations, more than", false},
		{"a new credential that is not sent", "new credential", "makes no frame of an OpAuth", false},
		{"another credential", "new credential", "reads it 0 times", false},
		{"an error that repeats the credential", "new credential", "repeats the credential", false},
		{"a wish that is ignored", "new credential", "reports no such event", false},
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
		{"a stream in an envelope", "publishes", "SendStream, which the trait Streams promises", false},
		{"an acknowledgement of its own making", "publishes without an answer", "has the outcome acked", false},
		{"a rejection that acknowledges", "rejected publish", "want rejected", false},
		{"a publish that is sent twice", "publishes over lost connections", "has not allowed that", false},
		{"a processed message that is not acknowledged", "processed messages", "is acknowledged 0 times, want 1", true},
		{"a release that acknowledges", "processed messages", "", true},
		{"a redelivery that is not marked", "processed messages over lost connections", "not marked as Redelivered", true},
		{"a processed message that is not acknowledged", "processed messages over lost connections", "is acknowledged 0 times", true},
		{"an end by the server that is ignored", "subscription ended by the server", "has ended the subscription to", false},
		{"a token that is not sent", "credential", "gets none", false},
		{"a refusal that counts as a greeting", "refused credential", "has not ended", false},
		{"a refusal without a verdict", "refused credential", "", false},
	} {
		t.Run(tc.broken+"/"+tc.check, func(t *testing.T) {
			for _, c := range checks {
				if c.name != tc.check {
					continue
				}
				found := strings.Join(toySubject(toy{broken: tc.broken, broker: tc.broker}).run(t, c, patience).found(), "\n")
				if found == "" || !strings.Contains(found, tc.says) {
					t.Errorf("found %q, want one that says %q", found, tc.says)
				}
				return
			}
			t.Fatal("no such check")
		})
	}
}

// toyCheck runs one check of s.
func toyCheck(t *testing.T, s Subject, name string, patience time.Duration) *report {
	for _, c := range checks {
		if c.name == name {
			return s.run(t, c, patience)
		}
	}
	t.Fatal("no such check")
	return nil
}

// TestWaitingDialect: a dialect that waits is a finding, in real time and in a bubble.
func TestWaitingDialect(t *testing.T) {
	for name, check := range map[string]string{"a ping that waits": "memory", "an end that waits": "end of a subscription"} {
		t.Run(name, func(t *testing.T) {
			d := toy{broken: name, lock: new(sync.Mutex)}
			d.lock.Lock() // for good: what is abandoned stays so
			r := toyCheck(t, toySubject(d), check, 200*time.Millisecond)
			if found := strings.Join(r.found(), "\n"); !r.hangs || !strings.Contains(found, "has not ended after 200ms") {
				t.Errorf("hangs %t, found %q", r.hangs, found)
			}
		})
	}
}

// panicPeer panics in the method that it names.
type panicPeer struct {
	Peer
	in string
}

func (p panicPeer) Open() []wire.Frame {
	if p.in == "Open" {
		panic("in Open")
	}
	return p.Peer.Open()
}

func (p panicPeer) Decode(f wire.Frame) ([]Request, error) {
	if p.in == "Decode" {
		panic("in Decode")
	}
	return p.Peer.Decode(f)
}

func (p panicPeer) Encode(e wire.Event) []wire.Frame {
	if p.in == "Encode" {
		panic("in Encode")
	}
	return p.Peer.Encode(e)
}

// TestBrokenPeers: a fault of the Peer or the Subject is a finding that names it.
func TestBrokenPeers(t *testing.T) {
	for _, in := range []string{"Open", "Decode", "Encode"} {
		for _, check := range []string{"memory", "frames", "hostile input", "allocations", "messages"} {
			s := toySubject(toy{})
			s.Peer = func(*http.Request) Peer { return panicPeer{toyPeer{}, in} }
			found := strings.Join(toyCheck(t, s, check, patience).found(), "\n")
			if !strings.Contains(found, "the peer panics: in "+in) || strings.Contains(found, "the dialect panics") {
				t.Errorf("a panic in %s, check %q found %q", in, check, found)
			}
		}
	}
	s := toySubject(toy{})
	s.Peer = func(*http.Request) Peer { return nil }
	if found := toyCheck(t, s, "memory", patience).found(); len(found) == 0 || !strings.Contains(found[0], "Subject.Peer returned nil") {
		t.Errorf("found %q", found)
	}
	s = toySubject(toy{})
	s.Pushes = true
	if found := toyCheck(t, s, "messages", patience).found(); len(found) == 0 || !strings.Contains(found[0], "leave Pushes false") {
		t.Errorf("found %q", found)
	}
}

// TestIncompleteSubject: Run names the field that is missing.
func TestIncompleteSubject(t *testing.T) {
	for field, change := range map[string]func(*Subject){
		"":                  func(*Subject) {},
		"Subject.Dialect":   func(s *Subject) { s.Dialect = nil },
		"Subject.Peer":      func(s *Subject) { s.Peer = nil },
		"Subject.Topics[0]": func(s *Subject) { s.Topics = [2]string{} },
		"Subject.Topics ":   func(s *Subject) { s.Topics[1] = s.Topics[0] },
	} {
		s := toySubject(toy{})
		change(&s)
		if got := s.problem(); !strings.HasPrefix(got, field) || (got == "") != (field == "") {
			t.Errorf("%q, want a problem with %s", got, field)
		}
	}
}
